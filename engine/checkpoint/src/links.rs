//! Links out of a model's folder. A folder that was cloned or unpacked may hold any: a tokenizer that
//! leads to somebody's keys would be copied into the output, and published with it.

use std::path::{Path, PathBuf};

/// A file of a model that lies elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeadingOut {
    /// The file, as it is named within the model's folder.
    pub file: PathBuf,
    /// Where it lies.
    pub target: PathBuf,
}

/// Which of these files, all of them named within `root`, lie outside of it, in the order given.
///
/// The folder may be a link itself. In a hub's cache the files of `models--…/snapshots/COMMIT` are links
/// into `models--…/blobs` of the same model, which is no other place. What is not there, or leads in a
/// circle, is left to whoever reads it.
pub fn leading_out<'a>(root: &Path, files: impl IntoIterator<Item = &'a Path>) -> Vec<LeadingOut> {
    let Ok(home) = root.canonicalize() else { return Vec::new() };
    let blobs = blobs_of(&home);
    let is_home = |target: &Path| {
        target.starts_with(&home) || blobs.as_deref().is_some_and(|blobs| target.starts_with(blobs))
    };
    files
        .into_iter()
        .filter_map(|file| {
            let target = file.canonicalize().ok()?;
            (!is_home(&target)).then(|| LeadingOut { file: file.to_owned(), target })
        })
        .collect()
}

/// The folder of the same model's blobs, where a folder is a snapshot in a hub's cache.
fn blobs_of(home: &Path) -> Option<PathBuf> {
    let snapshots = home.parent()?;
    let model = snapshots.parent()?;
    let is_model = model.file_name()?.to_str()?.starts_with("models--");
    (is_model && snapshots.ends_with("snapshots")).then(|| model.join("blobs"))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_link_out_of_the_folder_is_found_and_one_within_is_not() {
        let space = tempfile::tempdir().unwrap();
        let space = space.path().canonicalize().unwrap();
        let root = space.join("model");
        fs::create_dir_all(root.join("inner")).unwrap();
        for file in ["secret", "model/own.json", "model/inner/deep.json"] {
            fs::write(space.join(file), "x").unwrap();
        }
        symlink("inner/deep.json", root.join("within.json")).unwrap();
        symlink("../secret", root.join("out.json")).unwrap();
        symlink("../model/own.json", root.join("around.json")).unwrap();
        symlink("out.json", root.join("twice.json")).unwrap();
        symlink("absent", root.join("nowhere.json")).unwrap();
        symlink(&space, root.join("folder")).unwrap();
        let names =
            ["own.json", "within.json", "out.json", "around.json", "twice.json", "nowhere.json"];
        let mut files: Vec<PathBuf> = names.iter().map(|name| root.join(name)).collect();
        files.push(root.join("folder/secret"));
        let found = leading_out(&root, files.iter().map(PathBuf::as_path));
        let target = space.join("secret");
        let out = |name: &str| LeadingOut { file: root.join(name), target: target.clone() };
        assert_eq!(found, [out("out.json"), out("twice.json"), out("folder/secret")]);
        // A link to the folder is the user's own, and everything in it is within.
        symlink(&root, space.join("alias")).unwrap();
        let alias = space.join("alias");
        assert_eq!(leading_out(&alias, [alias.join("within.json").as_path()]), []);
    }

    #[test]
    fn blobs_of_the_same_model_in_a_hub_s_cache_are_no_other_place() {
        let cache = tempfile::tempdir().unwrap();
        let snapshot = cache.path().join("models--a--b/snapshots/0123");
        let others = cache.path().join("models--a--c/blobs");
        fs::create_dir_all(&snapshot).unwrap();
        fs::create_dir_all(&others).unwrap();
        fs::create_dir_all(cache.path().join("models--a--b/blobs")).unwrap();
        fs::write(cache.path().join("models--a--b/blobs/x"), "x").unwrap();
        fs::write(others.join("y"), "y").unwrap();
        symlink("../../blobs/x", snapshot.join("config.json")).unwrap();
        symlink("../../../models--a--c/blobs/y", snapshot.join("vocab.json")).unwrap();
        let files = ["config.json", "vocab.json"].map(|name| snapshot.join(name));
        let found = leading_out(&snapshot, files.iter().map(PathBuf::as_path));
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].file, files[1]);
    }
}
