//! S3 and what speaks its protocol: addresses, and requests signed by Signature Version 4.

use sha2::{Digest, Sha256};

use super::time::Moment;
use super::{Located, Signed, Signer, Unsigned, hex, hmac, query_text};

/// Where buckets are, and who asks.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct Place {
    /// The address of another server than Amazon's, without a slash at the end.
    pub endpoint: Option<String>,
    pub keys: Option<Keys>,
    pub region: String,
}

/// Who asks.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Keys {
    pub id: String,
    pub secret: String,
    /// Goes with keys that are valid for some hours.
    pub session: Option<String>,
    pub region: String,
}

impl Place {
    pub fn located(&self, bucket: &str, key: &str) -> Located {
        let region = &self.region;
        let address = match &self.endpoint {
            Some(endpoint) => format!("{endpoint}/{bucket}/{key}"),
            // A certificate for `*.s3…` does not cover names with dots.
            None if bucket.contains('.') => {
                format!("https://s3.{region}.amazonaws.com/{bucket}/{key}")
            }
            None => format!("https://{bucket}.s3.{region}.amazonaws.com/{key}"),
        };
        Located { address, signer: self.keys.clone().map(Signer::S3) }
    }
}

impl Keys {
    /// What is added to a request. The digest of its body is signed too, so that a store takes no other.
    pub(super) fn sign(&self, request: Unsigned<'_>, now: Moment) -> Signed {
        let moment = now.basic();
        let Unsigned { method, host, path, query, body, .. } = request;
        let content = hex(&Sha256::digest(body));
        let mut headers = vec![
            ("host", host.to_owned()),
            ("x-amz-content-sha256", content.clone()),
            ("x-amz-date", moment.clone()),
        ];
        if let Some(session) = &self.session {
            headers.push(("x-amz-security-token", session.clone()));
        }
        let named: Vec<&str> = headers.iter().map(|(name, _)| *name).collect();
        let named = named.join(";");
        let lines: String =
            headers.iter().map(|(name, value)| format!("{name}:{}\n", value.trim())).collect();
        let canonical =
            format!("{method}\n{path}\n{}\n{lines}\n{named}\n{content}", query_text(query));
        let day = &moment[..8];
        let scope = format!("{day}/{}/s3/aws4_request", self.region);
        let digest = hex(&Sha256::digest(canonical.as_bytes()));
        let to_sign = format!("AWS4-HMAC-SHA256\n{moment}\n{scope}\n{digest}");
        let mut key = hmac(format!("AWS4{}", self.secret).as_bytes(), day.as_bytes());
        for part in [self.region.as_str(), "s3", "aws4_request"] {
            key = hmac(&key, part.as_bytes());
        }
        let signature = hex(&hmac(&key, to_sign.as_bytes()));
        let authorization = format!(
            "AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={named}, Signature={signature}",
            self.id
        );
        // The client writes the host itself.
        headers.remove(0);
        headers.push(("authorization", authorization));
        Signed { headers, query: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The keys of Amazon's documentation; the signature was computed with botocore's `S3SigV4Auth`.
    #[test]
    fn requests_are_signed_as_botocore_does() {
        let keys = Keys {
            id: "AKIAIOSFODNN7EXAMPLE".to_owned(),
            secret: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".to_owned(),
            session: None,
            region: "us-east-1".to_owned(),
        };
        let now = Moment(1_369_353_600);
        let signed = keys
            .sign(Unsigned::get("examplebucket.s3.amazonaws.com", "/a%20b/test.txt", None), now);
        let (_, authorization) = signed.headers.last().unwrap();
        assert!(
            authorization.ends_with(
                "Signature=e902087373bf209498bce25ba47521df1eb845e7615d3b9216d7d839cf881d05"
            ),
            "{authorization}"
        );
        let keys = Keys { session: Some("token".to_owned()), ..keys };
        let signed = keys.sign(Unsigned::get("127.0.0.1:5000", "/models/a", None), now);
        let (_, authorization) = signed.headers.last().unwrap();
        assert!(
            authorization.ends_with(
                "Signature=99e5d63f4c92719d9ee274df27156bcb890629e5849498b29d64f4f19d9c3bf9"
            ),
            "{authorization}"
        );
    }
}
