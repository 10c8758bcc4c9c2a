//! The pages of the documentation that are made from the code: one for each method, with its formula and a
//! picture of what it does, and the reference of recipes, functions, commands and messages.
//!
//! They lie in `docs` beside those that people write, so that they can be read without being built; a test
//! holds them equal to what is made here.

mod mathml;
mod method;
mod picture;
mod reference;

use std::fs;
use std::path::{Path, PathBuf};

use mixdown_plan::Library;
use mixdown_recipe::Method;

pub use picture::{Drawn, closeness, draw, values_in};

/// A page: its place in `docs`, and its text.
pub type Page = (PathBuf, String);

/// All methods, by name.
///
/// **Panics.** When a built-in method has mistakes, which a test of theirs excludes.
pub fn methods() -> Vec<Method> {
    Library::built_in().expect("built-in methods are checked").iter().cloned().collect()
}

/// All pages but the pictures, whose numbers depend on the machine in their last digits.
pub fn pages() -> Vec<Page> {
    let methods = methods();
    let mut pages = vec![("methods/index.md".into(), method::index(&methods))];
    pages.extend(
        methods
            .iter()
            .map(|one| (format!("methods/{}.md", one.name.value).into(), method::page(one))),
    );
    pages.extend(reference::pages());
    pages
}

/// Where the picture of a method lies.
pub fn picture_path(method: &Method) -> PathBuf {
    format!("methods/pictures/{}.svg", method.name.value).into()
}

/// Writes all of them into the folder of the documentation, and gives their count.
///
/// **Errors.** What cannot be written, and a method that cannot be drawn.
pub fn write(docs: &Path) -> Result<usize, String> {
    let mut files = pages();
    for method in methods() {
        let path = picture_path(&method);
        let drawn = draw(&method)?;
        // Numbers that moved by a rounding alone move no file.
        let before = fs::read_to_string(docs.join(&path)).ok().and_then(|text| values_in(&text));
        let kept = before.filter(|before| closeness(before, &drawn.values) <= picture::TOLERANCE);
        files.push((path, picture::svg(&method, kept.as_ref().unwrap_or(&drawn.values))));
    }
    for (path, text) in &files {
        let path = docs.join(path);
        let folder = path.parent().expect("pages have a folder");
        let written = fs::create_dir_all(folder).and_then(|()| fs::write(&path, text));
        written.map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(files.len())
}
