//! The method files that ship with mixdown are read without a word.

use std::path::Path;

use mixdown_diagnostics::Source;
use mixdown_diagnostics::render::{Color, render_all};

#[test]
fn every_shipped_method_is_read_and_named_like_its_file() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes/methods");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        let name = path.file_stem().unwrap().to_str().unwrap();
        let source = Source::new(format!("{name}.yaml"), std::fs::read_to_string(&path).unwrap());
        match mixdown_recipe::read_method(&source) {
            Ok(method) => assert_eq!(method.name.value, name),
            Err(errors) => panic!("{}", render_all(&errors, Color::Plain)),
        }
        count += 1;
    }
    assert!(count > 0, "no method file was found");
}
