//! Azure Blob Storage: requests with a shared key, a shared access signature, or a token.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::time::Moment;
use super::{Signed, Unsigned, hmac};

/// The version of the protocol.
const VERSION: &str = "2021-12-02";

/// Who asks.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Access {
    /// The account and its key, decoded.
    Key { account: String, key: Vec<u8> },
    /// What is put behind addresses, without a question mark.
    Signature(String),
    /// A token of Entra ID.
    Bearer(String),
}

impl Access {
    /// What is added to a request.
    pub(super) fn sign(&self, request: Unsigned<'_>, now: Moment) -> Signed {
        let Unsigned { method, path, query, range, headers: own, body, .. } = request;
        let mut headers = vec![("x-ms-date", now.of_web()), ("x-ms-version", VERSION.to_owned())];
        match self {
            Self::Key { account, key } => {
                let of_store = headers.iter().map(|(name, value)| (*name, value.as_str()));
                let mut lines: Vec<String> = own
                    .iter()
                    .copied()
                    .chain(of_store)
                    .filter(|(name, _)| name.starts_with("x-ms-"))
                    .map(|(name, value)| format!("{name}:{value}\n"))
                    .collect();
                lines.sort();
                let content_type = own.iter().find(|(name, _)| *name == "content-type");
                let content_type = content_type.map_or("", |(_, value)| value);
                let length = if body.is_empty() { String::new() } else { body.len().to_string() };
                let query: String =
                    query.iter().map(|(name, value)| format!("\n{name}:{value}")).collect();
                // Method, two headers that are never there, length, a digest that is not there, type, five
                // headers that are not there, the range, headers of the store, the object.
                let to_sign = format!(
                    "{method}\n\n\n{length}\n\n{content_type}\n\n\n\n\n\n{}\n{}/{account}{path}{query}",
                    range.unwrap_or_default(),
                    lines.concat()
                );
                let signature = STANDARD.encode(hmac(key, to_sign.as_bytes()));
                headers.push(("authorization", format!("SharedKey {account}:{signature}")));
                Signed { headers, query: None }
            }
            Self::Signature(query) => Signed { headers, query: Some(query.clone()) },
            Self::Bearer(token) => {
                headers.push(("authorization", format!("Bearer {token}")));
                Signed { headers, query: None }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Without a range as the signing of `azure-storage-blob` computes it. With one by the rule of the
    /// protocol, where it stands in the line before the store's headers: that client puts ranges elsewhere.
    #[test]
    fn requests_are_signed_as_azure_s_own_client_does() {
        let key = STANDARD.decode("Zm9vYmFyZm9vYmFyZm9vYmFy").unwrap();
        let access = Access::Key { account: "mine".to_owned(), key };
        let check = |range, expected: &str| {
            let signed =
                access.sign(Unsigned::get("localhost", "/models/a", range), Moment(1_369_353_600));
            let (_, authorization) = signed.headers.last().unwrap();
            assert_eq!(authorization, expected);
        };
        check(None, "SharedKey mine:fQ1qj+H6h1iTXRX7esLLi0U8zwZtag+DWwI+x7NGmOM=");
        check(Some("bytes=0-9"), "SharedKey mine:ywy+D0efILHakqNa6JukwveYigS4Ydi52actsptMEsc=");
        let check = |request: Unsigned<'_>, expected: &str| {
            let signed = access.sign(request, Moment(1_369_353_600));
            assert_eq!(signed.headers.last().unwrap().1, format!("SharedKey mine:{expected}"));
        };
        let of_bytes = [("content-type", "application/octet-stream")];
        let plain = Unsigned::get("localhost", "/models/a", None);
        let put = Unsigned { method: "PUT", body: b"hello", headers: &of_bytes, ..plain };
        let query = [("blockid", "AA=="), ("comp", "block")];
        let block = Unsigned { query: &query, ..put };
        check(block, "a8FOQiACVG0gAcfCMTyqMDGGRe2yjrRIgA+5XUf4sHo=");
        let of_blob = [of_bytes[0], ("x-ms-blob-type", "BlockBlob")];
        check(
            Unsigned { headers: &of_blob, ..put },
            "rwSydY0gAvJ6fOEMH/jsg2fE4SYwExBZKydna3wkdtE=",
        );
        let query =
            [("comp", "list"), ("maxresults", "1"), ("prefix", "a/"), ("restype", "container")];
        let list = Unsigned { path: "/models", query: &query, ..plain };
        check(list, "jNBH+Z8WeKh/iaQlLFcBlh8s5V7eop3uJlZbiyOVsnE=");
    }
}
