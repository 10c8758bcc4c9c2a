//! Where models come from, and where results are kept from one merge to the next.

use std::ffi::OsString;
use std::path::PathBuf;

use mixdown_checkpoint::digest::Digests;
use mixdown_checkpoint::hub::HubOptions;
use mixdown_checkpoint::shown_path;
use mixdown_diagnostics::{Diagnostic, codes};
use mixdown_files::{NotOwn, check_own};
use rustix::process::geteuid;

/// Folders, and how the hub is reached.
#[derive(Clone, Debug)]
pub struct Places {
    /// The folder of what mixdown remembers from one run to the next.
    pub cache: PathBuf,
    /// The hub's cache, address and token.
    pub hub: HubOptions,
    /// Whether models of the hub that are not in its cache are read where they lie, as `hf://` says of one.
    pub remote: bool,
    /// Folders in which mixdown's other programs are looked for.
    pub programs: Vec<PathBuf>,
}

impl Places {
    /// As variables of the environment say, which `read` gives: `MIXDOWN_CACHE`, the user's folder of
    /// caches, or one of the user's own among temporary files; `MIXDOWN_REMOTE`; and those that the hub's own
    /// clients know.
    pub fn from_env(read: &dyn Fn(&str) -> Option<OsString>) -> Self {
        let path = |name| read(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let cache = path("MIXDOWN_CACHE").unwrap_or_else(|| {
            let caches = path("XDG_CACHE_HOME").filter(|path| path.is_absolute());
            let caches = caches.or_else(|| path("HOME").map(|home| home.join(".cache")));
            let of_temporary = || {
                // Others may make folders there, too, so that each user has one of a name.
                let folder = path("TMPDIR").unwrap_or_else(|| PathBuf::from("/tmp"));
                folder.join(format!("mixdown-{}", geteuid().as_raw()))
            };
            caches.map_or_else(of_temporary, |caches| caches.join("mixdown"))
        });
        let searched = read("PATH").unwrap_or_default();
        let programs = std::env::split_paths(&searched).collect();
        let remote = read("MIXDOWN_REMOTE").is_some_and(|value| is_yes(&value.to_string_lossy()));
        Self { cache, hub: HubOptions::from_env(read), remote, programs }
    }

    /// Refuses a cache that holds what somebody else may have put there: results that enter merges, digests that
    /// manifests state, keys of unfinished outputs.
    ///
    /// **Errors.** `CACHE_NOT_OWN`; what the system says of the folder.
    pub fn check(&self) -> Result<(), Box<Diagnostic>> {
        let folder = shown_path(&self.cache);
        let why = match check_own(&self.cache) {
            Ok(None) => return Ok(()),
            Ok(Some(why)) => why,
            // Nothing is kept where a file stands in the way, and whoever wants to keep something says so.
            Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => return Ok(()),
            Err(error) => {
                let headline = format!("the folder of the cache cannot be looked at: {error}");
                let fault = Diagnostic::error(codes::CACHE_NOT_OWN, headline).in_file(folder);
                return Err(Box::new(fault.help("name another folder in MIXDOWN_CACHE")));
            }
        };
        let headline = "the folder of the cache is not yours alone";
        let fault = Diagnostic::error(codes::CACHE_NOT_OWN, headline)
            .in_file(&folder)
            .fact("found", why.to_string())
            .note("results and digests that are kept there enter merges and manifests");
        Err(Box::new(fault.help(match why {
            NotOwn::Writable(_) => format!(
                "take these rights away with `chmod go-w {folder}` if nobody else put anything there, or name another folder in MIXDOWN_CACHE"
            ),
            NotOwn::Of(_) => "name a folder of your own in MIXDOWN_CACHE".to_owned(),
        })))
    }

    /// What is known of the content of files.
    pub fn digests(&self) -> Digests {
        Digests::new(self.cache.clone()).with_hub(&self.hub.cache)
    }

    /// The folder of results that are kept from one merge to the next.
    pub fn store(&self) -> PathBuf {
        self.cache.join("store")
    }
}

/// Whether a variable's value asks for what it names.
fn is_yes(value: &str) -> bool {
    !["", "0", "n", "no", "f", "false", "off"].contains(&value.trim().to_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_is_where_the_variables_say() {
        let check = |variables: &[(&str, &str)], expected: &str| {
            let places = Places::from_env(&|name| {
                let found = variables.iter().find(|(known, _)| *known == name);
                found.map(|(_, value)| OsString::from(value))
            });
            assert_eq!(places.cache, PathBuf::from(expected), "{variables:?}");
            assert_eq!(places.store(), PathBuf::from(expected).join("store"));
        };
        check(&[("HOME", "/u")], "/u/.cache/mixdown");
        check(&[("HOME", "/u"), ("XDG_CACHE_HOME", "/x")], "/x/mixdown");
        check(&[("HOME", "/u"), ("XDG_CACHE_HOME", "x")], "/u/.cache/mixdown");
        check(&[("HOME", "/u"), ("MIXDOWN_CACHE", "/m")], "/m");
        check(&[("HOME", "/u"), ("MIXDOWN_CACHE", "")], "/u/.cache/mixdown");
        // Not one folder for whoever comes first.
        let own = format!("/tmp/mixdown-{}", geteuid().as_raw());
        check(&[], &own);
        check(&[("HOME", "")], &own);
    }
}
