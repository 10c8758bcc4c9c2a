//! Progress as plain lines, for logs.

use std::io::Write;
use std::time::Duration;

use mixdown_session::progress::Count;

use super::Display;

/// Time between two lines. Short merges say nothing but their result.
const PERIOD: Duration = Duration::from_secs(5);

/// A line to stderr every few seconds.
#[derive(Default)]
pub struct Lines {
    last: Duration,
}

impl Lines {
    fn line(&mut self, count: &Count) -> Option<String> {
        if count.elapsed.saturating_sub(self.last) < PERIOD {
            return None;
        }
        self.last = count.elapsed;
        let stage = if count.stage.is_empty() { "working" } else { &count.stage };
        Some(format!("{stage}: {}", super::text(count)))
    }
}

impl Display for Lines {
    fn show(&mut self, count: &Count) {
        if let Some(line) = self.line(count) {
            let _ = writeln!(std::io::stderr().lock(), "{line}");
        }
    }

    fn end(&mut self, _: &Count) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_every_few_seconds() {
        let mut lines = Lines::default();
        let mut said = Vec::new();
        for tenth in 0..120 {
            let elapsed = Duration::from_millis(100 * tenth);
            let count = Count { stage: "merging".into(), elapsed, ..Count::default() };
            said.extend(lines.line(&count));
        }
        assert_eq!(said, ["merging: 0 B", "merging: 0 B"]);
    }
}
