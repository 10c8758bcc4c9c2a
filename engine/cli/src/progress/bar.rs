//! Progress as a bar on a terminal.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use mixdown_session::progress::Count;

use super::Display;

/// A bar below what was said so far; it disappears when the work ends.
pub struct Bar(ProgressBar);

impl Bar {
    /// A bar that shows itself with the first count.
    pub fn new() -> Self {
        let bar = ProgressBar::with_draw_target(Some(1), ProgressDrawTarget::stderr_with_hz(10));
        let style = ProgressStyle::with_template("{prefix}{wide_bar} {msg}");
        bar.set_style(style.expect("the template is well-formed").progress_chars("=> "));
        Self(bar)
    }
}

impl Display for Bar {
    fn show(&mut self, count: &Count) {
        self.0.set_length(count.bytes.max(1));
        self.0.set_position(count.bytes_done.min(count.bytes));
        let prefix = match count.stage.as_str() {
            "" => String::new(),
            stage => format!("{stage} "),
        };
        self.0.set_prefix(prefix);
        self.0.set_message(super::text(count));
    }

    fn end(&mut self, _: &Count) {
        self.0.finish_and_clear();
    }
}
