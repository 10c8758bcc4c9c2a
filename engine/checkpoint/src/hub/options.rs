//! Where the hub and its cache are, as the environment says.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use mixdown_files::read_given;

use crate::shown::shown;

/// Longest file of a token. One has about 40 bytes.
const LONGEST_TOKEN: u64 = 64 << 10;

/// Where the hub and its cache are.
#[derive(Clone, PartialEq, Eq)]
pub struct HubOptions {
    /// The folder of the cache, which holds `models--ORGANIZATION--NAME` folders.
    pub cache: PathBuf,
    /// Address of the hub, without a slash at the end.
    pub endpoint: String,
    /// Says who asks.
    pub token: Option<String>,
    /// Whether the network must not be used.
    pub offline: bool,
    /// Whether headers are enough: of models that are not here, weights are not fetched. No variable says so;
    /// who only plans does.
    pub headers_only: bool,
    /// How long to wait for an answer or for more of a file.
    pub patience: Duration,
    /// How long to wait before a failed transfer is taken up again; doubled each time.
    pub retry_after: Duration,
    /// Bytes of remote files that are kept for later runs at most; none are at 0.
    pub kept_bytes: u64,
    /// Where object stores are, and who asks them.
    #[cfg(feature = "hub")]
    pub stores: super::store::StoreOptions,
}

impl HubOptions {
    /// Reads `HF_HUB_CACHE`, `HF_HOME`, `HF_ENDPOINT`, `HF_TOKEN`, `HF_TOKEN_PATH`,
    /// `HF_HUB_OFFLINE`, and what they default to, from an environment; the token's file; and who asks
    /// object stores.
    pub fn from_env(read: &dyn Fn(&str) -> Option<OsString>) -> Self {
        #[cfg(feature = "hub")]
        let stores = super::store::StoreOptions::from_env(read);
        let read = |name| read(name).filter(|value| !value.is_empty());
        let user = read("HOME").or_else(|| read("USERPROFILE")).map(PathBuf::from);
        let path = |name| {
            read(name).map(PathBuf::from).map(|path| match (path.strip_prefix("~"), &user) {
                (Ok(rest), Some(user)) => user.join(rest),
                _ => path,
            })
        };
        let home = path("HF_HOME").unwrap_or_else(|| {
            let caches = path("XDG_CACHE_HOME")
                .unwrap_or_else(|| user.clone().unwrap_or_default().join(".cache"));
            caches.join("huggingface")
        });
        let text = |name| {
            let text = read(name).and_then(|value| value.into_string().ok())?;
            Some(text.trim().to_owned()).filter(|text| !text.is_empty())
        };
        let token = text("HF_TOKEN").or_else(|| text("HUGGING_FACE_HUB_TOKEN")).or_else(|| {
            let file = path("HF_TOKEN_PATH").unwrap_or_else(|| home.join("token"));
            let text = String::from_utf8(read_given(&file, LONGEST_TOKEN).ok()?).ok()?;
            Some(text.trim().to_owned()).filter(|text| !text.is_empty())
        });
        let is_true = |name| {
            text(name).is_some_and(|value| {
                ["1", "on", "yes", "true"].contains(&value.to_lowercase().as_str())
            })
        };
        let endpoint = text("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".to_owned());
        Self {
            cache: path("HF_HUB_CACHE")
                .or_else(|| path("HUGGINGFACE_HUB_CACHE"))
                .unwrap_or_else(|| home.join("hub")),
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            token,
            offline: is_true("HF_HUB_OFFLINE") || is_true("TRANSFORMERS_OFFLINE"),
            headers_only: false,
            patience: Duration::from_secs(60),
            retry_after: Duration::from_secs(1),
            kept_bytes: 0,
            #[cfg(feature = "hub")]
            stores,
        }
    }
}

impl HubOptions {
    /// The address of the hub without a name and password that it may hold.
    pub fn shown_endpoint(&self) -> String {
        without_credentials(&self.endpoint)
    }
}

/// Text without what stands before the `@` of the addresses in it: names and passwords.
pub(super) fn without_credentials(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        out.push_str(before);
        let is_space = |c: char| matches!(c, '`' | '"') || c.is_whitespace();
        let is_end = |c: char| matches!(c, '/' | '?' | '#') || is_space(c);
        let word = &after[..after.find(is_space).unwrap_or(after.len())];
        let end = after.find(is_end).unwrap_or(after.len());
        // What follows the `:` and is no port is a password, which may hold what ends others.
        let port = after[..end].rsplit_once(':').map(|(_, port)| port);
        let is_password = port.is_some_and(|port| !port.bytes().all(|byte| byte.is_ascii_digit()));
        let end = word
            .rfind('@')
            .filter(|_| is_password)
            .map_or(end, |at| at + word[at..].find(is_end).unwrap_or(word.len() - at));
        let authority = &after[..end];
        out.push_str(authority.rsplit_once('@').map_or(authority, |(_, host)| host));
        rest = &after[end..];
    }
    out.push_str(rest);
    shown(&out).into_owned()
}

/// Shows whether there is a token, but not which.
impl fmt::Debug for HubOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HubOptions")
            .field("cache", &self.cache)
            .field("endpoint", &self.shown_endpoint())
            .field("token", &self.token.as_ref().map(|_| "…"))
            .field("offline", &self.offline)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(variables: &[(&str, &str)]) -> HubOptions {
        HubOptions::from_env(&|name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| OsString::from(value))
        })
    }

    /// The hub's own order of precedence, so that one cache serves all programs.
    #[test]
    fn the_cache_is_where_the_hub_s_own_clients_look() {
        let cases: [(&[(&str, &str)], &str); 7] = [
            (&[("HOME", "/u")], "/u/.cache/huggingface/hub"),
            (&[("HOME", "/u"), ("XDG_CACHE_HOME", "/x")], "/x/huggingface/hub"),
            (&[("HOME", "/u"), ("HF_HOME", "/h"), ("XDG_CACHE_HOME", "/x")], "/h/hub"),
            (&[("HOME", "/u"), ("HF_HOME", "~/h")], "/u/h/hub"),
            (&[("HF_HOME", "/h"), ("HF_HUB_CACHE", "/c")], "/c"),
            (&[("HF_HOME", "/h"), ("HUGGINGFACE_HUB_CACHE", "/c")], "/c"),
            (&[("HOME", "/u"), ("HF_HOME", "")], "/u/.cache/huggingface/hub"),
        ];
        for (variables, wanted) in cases {
            assert_eq!(options(variables).cache, PathBuf::from(wanted), "{variables:?}");
        }
    }

    #[test]
    fn offline_is_read_as_the_hub_s_own_clients_do() {
        for yes in ["1", "TRUE", "true", "yes", "On"] {
            assert!(options(&[("HF_HUB_OFFLINE", yes)]).offline, "{yes}");
        }
        for no in ["", "0", "no", "false", "off"] {
            assert!(!options(&[("HF_HUB_OFFLINE", no)]).offline, "{no}");
        }
    }

    #[test]
    fn the_token_comes_from_the_environment_or_its_file_and_is_never_shown() {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("token"), "hf_file\n").unwrap();
        let home = home.path().to_str().unwrap();
        assert_eq!(options(&[("HF_HOME", home)]).token.as_deref(), Some("hf_file"));
        let both = options(&[("HF_HOME", home), ("HF_TOKEN", " hf_env ")]);
        assert_eq!(both.token.as_deref(), Some("hf_env"));
        assert!(!format!("{both:?}").contains("hf_env"));
        assert_eq!(options(&[("HF_HOME", "/nowhere")]).token, None);
    }

    #[test]
    fn the_endpoint_may_end_with_a_slash() {
        assert_eq!(options(&[("HF_ENDPOINT", "http://mirror/hf/")]).endpoint, "http://mirror/hf");
        assert_eq!(options(&[]).endpoint, "https://huggingface.co");
    }

    #[test]
    fn credentials_are_left_out_of_what_is_shown() {
        let check = |text: &str, expected: &str| assert_eq!(without_credentials(text), expected);
        check("https://me:pass@hub.org/x", "https://hub.org/x");
        check("to `http://a:p@ss@b` and https://c", "to `http://b` and https://c");
        check("https://hub.org/x@y", "https://hub.org/x@y");
        check("https://hub.org:80/x@y", "https://hub.org:80/x@y");
        check("https://me:se#c/r?t@hub.org/x and y", "https://hub.org/x and y");
        check("no address: me@hub", "no address: me@hub");
    }
}
