//! Small JSON files beside the weights, read whole.

use std::io::{self, Read};
use std::path::Path;

use mixdown_diagnostics::{Code, Diagnostic, Source, Span, codes};
use serde_json::Value;

use crate::shown::{bytes_text, io_text, shown};
use crate::source::open_regular;

/// Longest text that is read whole. An index of 100 000 tensors has about 10 MB.
const LONGEST: u64 = 256 << 20;

/// The checkpoint's `config.json`, if there is one.
pub(super) fn config(root: &Path, shown_root: &str) -> Result<Option<Value>, Box<Diagnostic>> {
    map(root, shown_root, "config.json")
}

/// What ModelOpt, GPTQ or AWQ tell of what they quantized in a file of its own, if there is one.
pub(super) fn quantization(
    root: &Path,
    shown_root: &str,
) -> Result<Option<Value>, Box<Diagnostic>> {
    for file in ["hf_quant_config.json", "quantize_config.json", "quant_config.json"] {
        if let Some(found) = map(root, shown_root, file)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// A file of a model's folder that holds a JSON map.
fn map(root: &Path, shown_root: &str, file: &str) -> Result<Option<Value>, Box<Diagnostic>> {
    let path = root.join(file);
    let name = format!("{shown_root}/{file}");
    // Only what is not there is no configuration; one that cannot be looked at is told by the reading.
    if let Err(error) = std::fs::symlink_metadata(&path)
        && error.kind() == io::ErrorKind::NotFound
    {
        return Ok(None);
    }
    let source = text(&path, &name)?;
    let value: Value = serde_json::from_str(source.text())
        .map_err(|error| Box::new(not_json(codes::CONFIG_BROKEN, &source, &error)))?;
    if !value.is_object() {
        let headline = "a configuration is not a JSON map";
        return Err(Box::new(Diagnostic::error(codes::CONFIG_BROKEN, headline).in_file(name)));
    }
    Ok(Some(value))
}

/// Reads a text file of bounded size.
pub(crate) fn text(path: &Path, name: &str) -> Result<Source, Box<Diagnostic>> {
    let unreadable = |error: io::Error| {
        let headline = format!("a file cannot be read: {}", io_text(&error));
        Box::new(Diagnostic::error(codes::UNREADABLE, headline).in_file(name))
    };
    let (file, metadata) = open_regular(path).map_err(unreadable)?;
    if metadata.len() > LONGEST {
        return Err(Box::new(
            Diagnostic::error(codes::UNREADABLE, "a JSON file is too large")
                .in_file(name)
                .fact("file", bytes_text(metadata.len()))
                .fact("limit", bytes_text(LONGEST)),
        ));
    }
    let mut bytes = Vec::new();
    // The limit holds for what is read, too: the file may grow meanwhile.
    file.take(LONGEST).read_to_end(&mut bytes).map_err(unreadable)?;
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Source::new(name, text)),
        Err(error) => Err(Box::new(
            Diagnostic::error(codes::UNREADABLE, "a JSON file is not UTF-8")
                .at_byte(name, error.utf8_error().valid_up_to() as u64),
        )),
    }
}

/// Says where a text stops being JSON, or has another form than it should.
pub(crate) fn not_json(code: Code, source: &Source, error: &serde_json::Error) -> Diagnostic {
    let says = error.to_string();
    let says = says.split(" at line ").next().unwrap_or_default();
    let headline = match error.classify() {
        serde_json::error::Category::Data => "a JSON file does not have the form it should",
        _ => "a file is not JSON",
    };
    let before = source.line(error.line() as u32).unwrap_or_default();
    // serde_json counts bytes; a place counts characters.
    let column = before.bytes().take(error.column()).filter(|byte| byte & 0xc0 != 0x80).count();
    let span = Span { line: error.line() as u32, column: column.max(1) as u32, length: 1 };
    let fault = Diagnostic::error(code, headline).at(source, span).note(shown(says));
    // Python's writer puts them there all the same.
    match ["Infinity", "NaN"].iter().find(|word| before.contains(**word)) {
        Some(word) => fault.help(format!("write a number for `{word}`, which JSON does not have")),
        None => fault,
    }
}
