//! Where models come from, and where results are kept from one merge to the next.

use std::ffi::OsString;
use std::path::PathBuf;

use mixdown_checkpoint::digest::Digests;
use mixdown_checkpoint::hub::HubOptions;

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
    /// As variables of the environment say, which `read` gives: `MIXDOWN_CACHE` or the user's folder of
    /// caches, `MIXDOWN_REMOTE`, and those that
    /// the hub's own clients know.
    pub fn from_env(read: &dyn Fn(&str) -> Option<OsString>) -> Self {
        let path = |name| read(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let cache = path("MIXDOWN_CACHE").unwrap_or_else(|| {
            let caches = path("XDG_CACHE_HOME").filter(|path| path.is_absolute());
            let caches = caches.or_else(|| path("HOME").map(|home| home.join(".cache")));
            let caches = caches.or_else(|| path("TMPDIR")).or_else(|| path("TEMP"));
            caches.unwrap_or_else(|| PathBuf::from("/tmp")).join("mixdown")
        });
        let searched = read("PATH").unwrap_or_default();
        let programs = std::env::split_paths(&searched).collect();
        let remote = read("MIXDOWN_REMOTE").is_some_and(|value| is_yes(&value.to_string_lossy()));
        Self { cache, hub: HubOptions::from_env(read), remote, programs }
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
    }
}
