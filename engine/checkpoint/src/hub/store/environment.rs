//! Who asks a store, as the variables and files of the stores' own tools say.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mixdown_files::read_given;

use super::azure::Access;
use super::s3::{Keys, Place};
use super::{Located, Signer};

/// Longest file of settings of a store.
const LONGEST: u64 = 1 << 20;

/// Where stores are, and who asks them.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct StoreOptions {
    pub(super) s3: Place,
    google_token: Option<String>,
    google_endpoint: Option<String>,
    azure_account: Option<String>,
    azure_endpoint: Option<String>,
    azure_access: Option<AzureAccess>,
}

/// What the environment gives for Azure; a key may be broken.
#[derive(Clone, PartialEq, Eq)]
enum AzureAccess {
    Key(String),
    Signature(String),
    Bearer(String),
}

impl StoreOptions {
    /// Reads, each before what it defaults to:
    ///
    /// * S3: `AWS_ACCESS_KEY_ID` with `AWS_SECRET_ACCESS_KEY` and `AWS_SESSION_TOKEN`, or the profile
    ///   `AWS_PROFILE` of `~/.aws/credentials`; `AWS_REGION`, `AWS_DEFAULT_REGION` or `~/.aws/config`;
    ///   `AWS_ENDPOINT_URL_S3`, `AWS_ENDPOINT_URL`.
    /// * Google: a token in `GOOGLE_OAUTH_ACCESS_TOKEN` or `CLOUDSDK_AUTH_ACCESS_TOKEN`;
    ///   `STORAGE_EMULATOR_HOST`.
    /// * Azure: `AZURE_STORAGE_ACCOUNT_NAME` or `AZURE_STORAGE_ACCOUNT`; `AZURE_STORAGE_ACCOUNT_KEY` or
    ///   `AZURE_STORAGE_KEY`, `AZURE_STORAGE_SAS_TOKEN`, or a token in `AZURE_STORAGE_TOKEN`;
    ///   `AZURE_STORAGE_ENDPOINT`.
    ///
    /// Without any of these a store is asked as nobody, which suffices for public buckets.
    pub fn from_env(read: &dyn Fn(&str) -> Option<OsString>) -> Self {
        let text = |name: &str| {
            let text = read(name)?.into_string().ok()?;
            Some(text.trim().to_owned()).filter(|text| !text.is_empty())
        };
        let address = |name| text(name).map(|text| text.trim_end_matches('/').to_owned());
        let home = read("HOME").map(PathBuf::from);
        let file = |variable: &str, usual: &str| {
            let path = text(variable).map(PathBuf::from);
            let path = path.or_else(|| Some(home.clone()?.join(".aws").join(usual)))?;
            String::from_utf8(read_given(&path, LONGEST).ok()?).ok()
        };
        let profile = text("AWS_PROFILE").unwrap_or_else(|| "default".to_owned());
        let credentials = file("AWS_SHARED_CREDENTIALS_FILE", "credentials");
        let config = file("AWS_CONFIG_FILE", "config");
        let of_profile = |key: &str| {
            let found = credentials.as_deref().and_then(|text| setting(text, &[&profile], key));
            let named = format!("profile {profile}");
            found.or_else(|| setting(config.as_deref()?, &[&named, &profile], key))
        };
        let region = text("AWS_REGION")
            .or_else(|| text("AWS_DEFAULT_REGION"))
            .or_else(|| of_profile("region"))
            .unwrap_or_else(|| "us-east-1".to_owned());
        let of_variables = text("AWS_ACCESS_KEY_ID").zip(text("AWS_SECRET_ACCESS_KEY"));
        let keys = match of_variables {
            Some((id, secret)) => Some((id, secret, text("AWS_SESSION_TOKEN"))),
            None => of_profile("aws_access_key_id")
                .zip(of_profile("aws_secret_access_key"))
                .map(|(id, secret)| (id, secret, of_profile("aws_session_token"))),
        };
        let keys =
            keys.map(|(id, secret, session)| Keys { id, secret, session, region: region.clone() });
        let endpoint = address("AWS_ENDPOINT_URL_S3").or_else(|| address("AWS_ENDPOINT_URL"));
        let key = text("AZURE_STORAGE_ACCOUNT_KEY").or_else(|| text("AZURE_STORAGE_KEY"));
        let signature = text("AZURE_STORAGE_SAS_TOKEN");
        let signature = signature.map(|text| text.trim_start_matches('?').to_owned());
        Self {
            s3: Place { endpoint, keys, region },
            google_token: text("GOOGLE_OAUTH_ACCESS_TOKEN")
                .or_else(|| text("CLOUDSDK_AUTH_ACCESS_TOKEN")),
            google_endpoint: address("STORAGE_EMULATOR_HOST")
                .map(|host| if host.contains("://") { host } else { format!("http://{host}") }),
            azure_account: text("AZURE_STORAGE_ACCOUNT_NAME")
                .or_else(|| text("AZURE_STORAGE_ACCOUNT")),
            azure_endpoint: address("AZURE_STORAGE_ENDPOINT"),
            azure_access: key
                .map(AzureAccess::Key)
                .or_else(|| signature.map(AzureAccess::Signature))
                .or_else(|| text("AZURE_STORAGE_TOKEN").map(AzureAccess::Bearer)),
        }
    }

    pub(super) fn google(&self, bucket: &str, key: &str) -> Located {
        let endpoint = self.google_endpoint.as_deref().unwrap_or("https://storage.googleapis.com");
        let signer = self.google_token.clone().map(Signer::Bearer);
        Located { address: format!("{endpoint}/{bucket}/{key}"), signer }
    }

    /// **Errors.** In words, what the environment lacks or has wrong.
    pub(super) fn azure(&self, container: &str, key: &str) -> Result<Located, String> {
        let no_account = || "no account: set AZURE_STORAGE_ACCOUNT_NAME".to_owned();
        let account = self.azure_account.clone().ok_or_else(no_account)?;
        let usual = || format!("https://{account}.blob.core.windows.net");
        let endpoint = self.azure_endpoint.clone().unwrap_or_else(usual);
        let signer = match self.azure_access.clone() {
            None => None,
            Some(AzureAccess::Key(text)) => {
                let no_key = || "the account's key is no base64".to_owned();
                let key = STANDARD.decode(text.trim()).map_err(|_| no_key())?;
                Some(Signer::Azure(Access::Key { account: account.clone(), key }))
            }
            Some(AzureAccess::Signature(text)) => Some(Signer::Azure(Access::Signature(text))),
            Some(AzureAccess::Bearer(text)) => Some(Signer::Azure(Access::Bearer(text))),
        };
        Ok(Located { address: format!("{endpoint}/{container}/{key}"), signer })
    }

    /// Who asks this address, in words that tell no secret.
    pub(crate) fn who(&self, address: &str) -> &'static str {
        let (has_any, words) = match address.split("://").next() {
            Some("s3") => (self.s3.keys.is_some(), "the access key of this environment"),
            Some("gs") => (self.google_token.is_some(), "the token of this environment"),
            _ => (self.azure_access.is_some(), "the key, signature or token of this environment"),
        };
        if has_any { words } else { "nobody: there are no credentials" }
    }
}

/// Shows whether there are credentials, but not which.
impl fmt::Debug for StoreOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreOptions")
            .field("s3", &self.s3.keys.as_ref().map(|_| "…"))
            .field("google", &self.google_token.as_ref().map(|_| "…"))
            .field("azure", &self.azure_access.as_ref().map(|_| "…"))
            .finish_non_exhaustive()
    }
}

/// The value of a key in the first of these sections that a file of Amazon's tools has.
fn setting(text: &str, sections: &[&str], key: &str) -> Option<String> {
    let mut is_meant = false;
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            is_meant = sections.contains(&name.trim());
        } else if is_meant
            && let Some((name, value)) = line.split_once('=')
            && name.trim() == key
        {
            return Some(value.trim().to_owned()).filter(|value| !value.is_empty());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_from_variables_or_the_profile_and_are_never_shown() {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir(home.path().join(".aws")).unwrap();
        let file = "[other]\naws_access_key_id = no\n[default]\naws_access_key_id=id-of-file\n\
                    aws_secret_access_key = secret-of-file\n";
        std::fs::write(home.path().join(".aws/credentials"), file).unwrap();
        let config = "[default]\nregion = eu-north-1\n[profile work]\nregion = us-west-2\n";
        std::fs::write(home.path().join(".aws/config"), config).unwrap();
        let options = |more: &[(&str, &str)]| {
            StoreOptions::from_env(&|name| {
                let found = more.iter().find(|(known, _)| *known == name);
                found
                    .map(|(_, value)| OsString::from(value))
                    .or_else(|| (name == "HOME").then(|| home.path().into()))
            })
        };
        let of_file = options(&[]);
        let keys = of_file.s3.keys.clone().unwrap();
        assert_eq!((keys.id.as_str(), keys.region.as_str()), ("id-of-file", "eu-north-1"));
        assert!(!format!("{of_file:?}").contains("secret-of-file"));
        let variables = [
            ("AWS_ACCESS_KEY_ID", "id"),
            ("AWS_SECRET_ACCESS_KEY", "secret"),
            ("AWS_REGION", "here"),
            ("AZURE_STORAGE_SAS_TOKEN", "?sv=1&sig=hidden"),
        ];
        let of_variables = options(&variables);
        let keys = of_variables.s3.keys.clone().unwrap();
        assert_eq!((keys.id.as_str(), keys.region.as_str()), ("id", "here"));
        let shown = format!("{of_variables:?}");
        assert!(!shown.contains("secret") && !shown.contains("hidden"), "{shown}");
        assert_eq!(options(&[("AWS_PROFILE", "work")]).s3.region, "us-west-2");
        assert!(options(&[("AWS_PROFILE", "work")]).s3.keys.is_none());
    }
}
