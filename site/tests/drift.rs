//! What is checked in is what would be made now.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use mixdown_site::{closeness, draw, methods, pages, picture_path, values_in};

const AGAIN: &str = "run `cargo run -p mixdown-site`";

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs")
}

fn read(path: &Path) -> String {
    fs::read_to_string(docs().join(path))
        .unwrap_or_else(|error| panic!("{}: {error}; {AGAIN}", path.display()))
}

#[test]
fn pages_are_as_made() {
    let stale: Vec<PathBuf> = pages()
        .into_iter()
        .filter(|(path, text)| read(path) != *text)
        .map(|(path, _)| path)
        .collect();
    assert!(stale.is_empty(), "{stale:?} are not what is made now; {AGAIN}");
}

/// Numbers may differ between machines by roundings, so they are compared as numbers.
#[test]
fn pictures_show_what_methods_do() {
    for method in methods() {
        let path = picture_path(&method);
        let shown =
            values_in(&read(&path)).unwrap_or_else(|| panic!("{}; {AGAIN}", path.display()));
        let drawn = draw(&method).unwrap_or_else(|error| panic!("{error}"));
        let apart = closeness(&shown, &drawn.values);
        assert!(apart <= 0.01, "{} is off by {apart}; {AGAIN}", path.display());
    }
}

#[test]
fn no_page_of_a_method_that_is_gone() {
    let mut expected: BTreeSet<PathBuf> = pages().into_iter().map(|(path, _)| path).collect();
    expected.extend(methods().iter().map(picture_path));
    for folder in ["methods", "methods/pictures"] {
        for entry in fs::read_dir(docs().join(folder)).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_file() {
                let path = Path::new(folder).join(entry.file_name());
                assert!(expected.contains(&path), "{} is made by nothing", path.display());
            }
        }
    }
}
