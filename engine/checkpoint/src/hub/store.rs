//! Models in object stores: their addresses, and how a request says who asks. S3 and what speaks its protocol,
//! Google Cloud Storage, Azure Blob Storage.
//!
//! Keys are read from the variables and files that the stores' own tools read; they are never shown, and a
//! signature is made for the store's host alone.

mod azure;
mod environment;
mod multipart;
mod objects;
mod s3;
mod sending;
mod sent;
mod time;
mod xml;

use std::fmt;

use mixdown_diagnostics::Diagnostic;

use super::HubOptions;
use super::trouble::Trouble;
use crate::shown::shown;

pub use environment::StoreOptions;
pub(crate) use sending::begin as begin_sending;

/// Which store an address names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    S3,
    Google,
    Azure,
}

const SCHEMES: [(&str, Kind); 3] =
    [("s3://", Kind::S3), ("gs://", Kind::Google), ("az://", Kind::Azure)];

/// A request before it says who asks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unsigned<'a> {
    pub method: &'static str,
    /// Host and port.
    pub host: &'a str,
    /// The path, escaped.
    pub path: &'a str,
    /// What stands behind the question mark, sorted and not yet escaped.
    pub query: &'a [(&'a str, &'a str)],
    /// The stretch of a file that is asked for.
    pub range: Option<&'a str>,
    /// Headers that the store's own protocol asks for, by name.
    pub headers: &'a [(&'static str, &'a str)],
    /// What is sent.
    pub body: &'a [u8],
}

impl<'a> Unsigned<'a> {
    /// A request for a file of a store's host, or a stretch of it.
    pub fn get(host: &'a str, path: &'a str, range: Option<&'a str>) -> Self {
        Self { method: "GET", host, path, query: &[], range, headers: &[], body: &[] }
    }
}

/// What stands behind the question mark of an address, as stores escape it.
pub(super) fn query_text(query: &[(&str, &str)]) -> String {
    let pairs = query.iter().map(|(name, value)| format!("{name}={}", escaped_all(value)));
    pairs.collect::<Vec<_>>().join("&")
}

/// Where a model in a store is asked for.
#[derive(Clone, Debug)]
pub(super) struct Located {
    /// Its web address.
    pub address: String,
    /// Who asks.
    pub signer: Option<Signer>,
}

/// Says who asks, with each request.
#[derive(Clone)]
pub(super) enum Signer {
    S3(s3::Keys),
    Bearer(String),
    Azure(azure::Access),
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// What is added to a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Signed {
    /// Headers, by name.
    pub headers: Vec<(&'static str, String)>,
    /// What is put behind the address.
    pub query: Option<String>,
}

impl Signer {
    /// What is added to a request to the store's host.
    pub fn sign(&self, request: Unsigned<'_>) -> Signed {
        let now = time::Moment::now();
        match self {
            Self::S3(keys) => keys.sign(request, now),
            Self::Bearer(token) => {
                Signed { headers: vec![("authorization", format!("Bearer {token}"))], query: None }
            }
            Self::Azure(access) => access.sign(request, now),
        }
    }
}

/// The web address of `s3://bucket/key`, `gs://bucket/key` or `az://container/key`, and who asks.
pub(super) fn located(address: &str, options: &StoreOptions) -> Result<Located, Trouble> {
    let confused = |what: String| Trouble::Confused(what);
    let (scheme, kind) = SCHEMES
        .iter()
        .find(|(scheme, _)| address.starts_with(scheme))
        .ok_or_else(|| confused(format!("`{}` names no store", shown(address))))?;
    let rest = &address[scheme.len()..];
    let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '$');
    if bucket.is_empty() || !bucket.chars().all(is_name) {
        return Err(confused(format!("`{}` names no bucket", shown(address))));
    }
    let key = escaped(key.trim_end_matches('/'));
    Ok(match kind {
        Kind::S3 => options.s3.located(bucket, &key),
        Kind::Google => options.google(bucket, &key),
        Kind::Azure => options.azure(bucket, &key).map_err(confused)?,
    })
}

/// The names of the objects right below an address; none where whoever asks may read them and not list them.
pub(super) fn names_below(
    address: &str,
    options: &HubOptions,
) -> Result<Option<Vec<String>>, Box<Diagnostic>> {
    let objects = match objects::Objects::new(address, options) {
        Ok(objects) => objects,
        // Models lie in buckets themselves, too.
        Err(_) => return Ok(None),
    };
    match objects.list(false) {
        Ok(names) => Ok(Some(names)),
        Err(Trouble::Refused { status: 401 | 403 | 405 | 501, .. }) => Ok(None),
        Err(trouble) => Err(objects.diagnostic(&trouble)),
    }
}

/// The path of an object in an address: every byte but letters, digits, `-._~` and slashes as `%XX`.
pub(super) fn escaped(key: &str) -> String {
    let mut text = String::with_capacity(key.len());
    for byte in key.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                text.push(byte as char);
            }
            byte => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}

/// A value behind the question mark: as a path, and slashes too.
fn escaped_all(value: &str) -> String {
    escaped(value).replace('/', "%2F")
}

/// HMAC-SHA256, RFC 2104.
fn hmac(key: &[u8], message: &[u8]) -> [u8; 32] {
    use sha2::{Digest, Sha256};
    let mut block = [0u8; 64];
    if key.len() > block.len() {
        block[..32].copy_from_slice(&Sha256::digest(key));
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    let padded = |with: u8| block.map(|byte| byte ^ with);
    let inner = Sha256::new().chain_update(padded(0x36)).chain_update(message).finalize();
    Sha256::new().chain_update(padded(0x5c)).chain_update(inner).finalize().into()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 4231, cases 2 and 6.
    #[test]
    fn the_hmac_is_that_of_the_standard() {
        let check = |key: &[u8], message: &[u8], expected: &str| {
            assert_eq!(hex(&hmac(key, message)), expected);
        };
        check(
            b"Jefe",
            b"what do ya want for nothing?",
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
        );
        check(
            &[0xaa; 131],
            b"Test Using Larger Than Block-Size Key - Hash Key First",
            "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
        );
    }

    #[test]
    fn keys_are_escaped_as_stores_do() {
        assert_eq!(escaped("a b/ü+1~.x"), "a%20b/%C3%BC%2B1~.x");
    }

    #[test]
    fn addresses_are_those_of_the_stores() {
        let options = |variables: &'static [(&'static str, &'static str)]| {
            StoreOptions::from_env(&|name| {
                let found = variables.iter().find(|(known, _)| *known == name);
                found.map(|(_, value)| value.into())
            })
        };
        let check =
            |variables: &'static [(&'static str, &'static str)], address: &str, expected: &str| {
                let found = located(address, &options(variables)).unwrap();
                assert_eq!(found.address, expected, "{address}");
            };
        check(&[], "s3://models/a/b", "https://models.s3.us-east-1.amazonaws.com/a/b");
        check(
            &[("AWS_REGION", "eu-west-1")],
            "s3://my.models/a/",
            "https://s3.eu-west-1.amazonaws.com/my.models/a",
        );
        check(
            &[("AWS_ENDPOINT_URL", "http://127.0.0.1:5000/")],
            "s3://models/a",
            "http://127.0.0.1:5000/models/a",
        );
        check(&[], "gs://models/a", "https://storage.googleapis.com/models/a");
        check(
            &[("AZURE_STORAGE_ACCOUNT_NAME", "mine")],
            "az://models/a",
            "https://mine.blob.core.windows.net/models/a",
        );
        for wrong in ["s3://", "s3:///key", "gs://a b/c", "s3://host:80/x", "s3://me@bucket/x"] {
            assert!(located(wrong, &options(&[])).is_err(), "{wrong}");
        }
        assert!(located("az://models/a", &options(&[])).is_err(), "no account");
    }
}
