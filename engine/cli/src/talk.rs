//! Where words go: data to stdout, talk to stderr. A reader that has gone away is no error.

use std::borrow::Cow;
use std::io::{self, IsTerminal, Write};

use clap::ValueEnum;
use mixdown_diagnostics::render::{self, Color};
use mixdown_diagnostics::{Diagnostic, is_dangerous, sort};

/// When text is colored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ColorChoice {
    /// On a terminal, unless NO_COLOR is set
    #[default]
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

/// How the program speaks.
#[derive(Clone, Copy, Debug)]
pub struct Talk {
    /// Whether what goes to stderr is colored.
    pub color: Color,
    /// Whether only errors are said.
    pub quiet: bool,
}

impl Talk {
    /// Speaks as asked for, or as the terminal allows.
    pub fn new(choice: ColorChoice, quiet: bool) -> Self {
        let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let colored = match choice {
            ColorChoice::Always => true,
            ColorChoice::Never => false,
            ColorChoice::Auto => io::stderr().is_terminal() && !set("NO_COLOR") && !dumb,
        };
        Self { color: if colored { Color::Ansi } else { Color::Plain }, quiet }
    }

    /// Says a line to the person.
    pub fn say(&self, text: &str) {
        if !self.quiet {
            self.insist(text);
        }
    }

    /// Says a line even when told to be quiet.
    pub fn insist(&self, text: &str) {
        // When nobody listens, there is nobody to tell.
        let _ = writeln!(io::stderr().lock(), "{}", harmless(text));
    }

    /// Shows diagnostics in the order of their places: all of them, or only errors when quiet.
    pub fn show(&self, diagnostics: &[Diagnostic]) {
        let mut shown: Vec<Diagnostic> = diagnostics
            .iter()
            .filter(|diagnostic| diagnostic.is_error() || !self.quiet)
            .cloned()
            .collect();
        if shown.is_empty() {
            return;
        }
        sort(&mut shown);
        let mut text = render::render_all(&shown, self.color);
        if shown.len() > 1
            && let Some(summary) = render::summary(&shown)
        {
            text.push_str(&format!("\n{summary}\n"));
        }
        let _ = io::stderr().lock().write_all(text.as_bytes());
    }
}

/// Prints data. When the reader of a pipe has seen enough, the program ends in silence.
pub fn data(text: &str) {
    let mut out = io::stdout().lock();
    let result = out.write_all(harmless(text).as_bytes()).and_then(|()| out.flush());
    match result {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => {
            let _ = writeln!(io::stderr().lock(), "error: stdout cannot be written: {error}");
            std::process::exit(1);
        }
    }
}

/// Prints a line of an event stream. The work goes on when nobody reads it any more.
pub fn event(value: &serde_json::Value) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{}", harmless(&value.to_string())).and_then(|()| out.flush());
}

/// Lines of text without what would act on a terminal. Names come from files that anybody may have made,
/// so the last step before a terminal looks at all of them. In JSON the text means the same as before.
fn harmless(text: &str) -> Cow<'_, str> {
    let acts = |c: char| is_dangerous(c) && !matches!(c, '\n' | '\t');
    if !text.contains(acts) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if acts(c) {
            let units = &mut [0; 2];
            out.extend(c.encode_utf16(units).iter().map(|unit| format!("\\u{unit:04x}")));
        } else {
            out.push(c);
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_acts_on_a_terminal() {
        assert_eq!(harmless("a\tb\n模型\n"), "a\tb\n模型\n");
        let evil = "\u{1b}[31m\u{9b}\u{202e}\r\u{e0041}\u{7f}";
        assert_eq!(harmless(evil), r"\u001b[31m\u009b\u202e\u000d\udb40\udc41\u007f");
        let value = serde_json::json!({ "name": evil });
        let read: serde_json::Value = serde_json::from_str(&harmless(&value.to_string())).unwrap();
        assert_eq!(read, value);
    }
}
