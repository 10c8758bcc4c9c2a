//! Where words go: data to stdout, talk to stderr. A reader that has gone away is no error.

use std::io::{self, IsTerminal, Write};

use clap::ValueEnum;
use mixdown_diagnostics::render::{self, Color};
use mixdown_diagnostics::{Diagnostic, sort};

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
        let _ = writeln!(io::stderr().lock(), "{text}");
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
    let result = out.write_all(text.as_bytes()).and_then(|()| out.flush());
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
    let _ = writeln!(out, "{value}").and_then(|()| out.flush());
}
