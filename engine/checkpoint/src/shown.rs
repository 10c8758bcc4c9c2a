//! How names, paths, counts and system errors that come from outside are shown in messages.

use std::borrow::Cow;
use std::fmt::Write;
use std::io;
use std::path::Path;

use mixdown_diagnostics::is_dangerous;

/// Longest name that is shown whole, in characters. Real tensor names stay below 200.
const LONGEST: usize = 240;

/// A name from a file, safe to print: control and direction characters are escaped, and a name
/// longer than any real one is cut.
pub fn shown(name: &str) -> Cow<'_, str> {
    if name.len() <= LONGEST && !name.chars().any(is_dangerous) {
        return Cow::Borrowed(name);
    }
    let mut text = String::new();
    for (position, letter) in name.chars().enumerate() {
        if position == LONGEST {
            text.push('…');
            break;
        }
        if is_dangerous(letter) {
            text.extend(letter.escape_default());
        } else {
            text.push(letter);
        }
    }
    Cow::Owned(text)
}

/// A path, safe to print.
pub fn shown_path(path: &Path) -> String {
    shown(&path.to_string_lossy()).into_owned()
}

/// A count of bytes with its digits in groups: `4 961 861 632 bytes`.
pub fn bytes_text(count: u64) -> String {
    format!("{} {}", grouped(count), if count == 1 { "byte" } else { "bytes" })
}

/// A number with its digits in groups of three.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// The first few names of a list, each in backticks, and how many more there are.
pub fn some_of(names: &[&str]) -> String {
    const FEW: usize = 3;
    let mut text = String::new();
    for (position, name) in names.iter().take(FEW).enumerate() {
        let comma = if position > 0 { ", " } else { "" };
        // Writing to a string does not fail.
        let _ = write!(text, "{comma}`{}`", shown(name));
    }
    if names.len() > FEW {
        let _ = write!(text, " and {} more", grouped((names.len() - FEW) as u64));
    }
    text
}

/// What the system said, in lower case and without its number.
pub(crate) fn io_text(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut letters = text.chars();
    match letters.next() {
        // An acronym at the start keeps its capitals.
        Some(first) if !letters.clone().next().is_some_and(char::is_uppercase) => {
            first.to_lowercase().chain(letters).collect()
        }
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A name must not be able to clear a screen, forge a line or reverse what is read.
    #[test]
    fn names_cannot_act_on_a_terminal() {
        let cases = [
            ("model.norm.weight", "model.norm.weight"),
            ("вес.权重", "вес.权重"),
            ("a\x1b[2Jb", "a\\u{1b}[2Jb"),
            ("a\nerror: b", "a\\nerror: b"),
            ("a\u{202e}b", "a\\u{202e}b"),
            ("a\u{85}b", "a\\u{85}b"),
            ("", ""),
        ];
        for (name, wanted) in cases {
            assert_eq!(shown(name), wanted);
        }
    }

    #[test]
    fn a_name_of_megabytes_is_cut() {
        let name = "ж".repeat(1_000_000);
        assert_eq!(shown(&name).chars().count(), LONGEST + 1);
    }

    #[test]
    fn counts_are_grouped() {
        let cases = [(0, "0"), (999, "999"), (1000, "1 000"), (4_961_861_632, "4 961 861 632")];
        for (number, wanted) in cases {
            assert_eq!(grouped(number), wanted);
        }
        assert_eq!(bytes_text(1), "1 byte");
    }

    #[test]
    fn system_errors_read_as_part_of_a_sentence() {
        assert_eq!(io_text(&io::Error::from_raw_os_error(13)), "permission denied");
        assert_eq!(io_text(&io::Error::other("EOF there")), "EOF there");
    }

    #[test]
    fn lists_are_short() {
        assert_eq!(some_of(&["a", "b"]), "`a`, `b`");
        assert_eq!(some_of(&["a", "b", "c", "d", "e"]), "`a`, `b`, `c` and 2 more");
    }
}
