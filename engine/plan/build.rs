//! Lists the built-in methods, maps and architectures, so that one is added by adding a file.

use std::fmt::Write as _;
use std::path::Path;

fn main() {
    list("recipes/methods", "methods.rs");
    list("recipes/maps", "maps.rs");
    list("schemas/architectures", "architectures.rs");
}

/// Writes name and text of each YAML file in a folder as an array.
fn list(folder: &str, output: &str) {
    let crate_folder = std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets it");
    let folder = Path::new(&crate_folder).join("../..").join(folder);
    println!("cargo::rerun-if-changed={}", folder.display());
    let mut names: Vec<String> = std::fs::read_dir(&folder)
        .expect("the folder is part of the repository")
        .map(|entry| {
            entry.expect("its entries can be read").file_name().to_string_lossy().into_owned()
        })
        .filter(|name| name.ends_with(".yaml"))
        .collect();
    names.sort();
    let mut list = String::from("&[\n");
    for name in names {
        let path = folder.join(&name);
        println!("cargo::rerun-if-changed={}", path.display());
        writeln!(list, "    ({name:?}, include_str!({path:?})),").expect("text grows");
    }
    list.push(']');
    let out = std::env::var("OUT_DIR").expect("cargo sets it");
    std::fs::write(Path::new(&out).join(output), list)
        .expect("the folder of the build is writable");
}
