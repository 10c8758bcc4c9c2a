//! A line of source as a terminal shows it: tabs, wide, invisible and overlong text accounted for.

use unicode_width::UnicodeWidthChar;

/// Tab stops of the shown line, in terminal columns.
const TAB: usize = 4;
/// Longest piece of a line that is shown, in terminal columns; minified files have lines of megabytes.
const WINDOW: usize = 120;

/// A line ready to print, and where its mark goes, in terminal columns from 0.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Line {
    pub text: String,
    pub mark_start: usize,
    pub mark_width: usize,
}

impl Line {
    /// Lays out `text`, of which `length` characters from `column` (from 1) are marked.
    pub fn new(text: &str, column: u32, length: u32) -> Self {
        let start = (column as usize).saturating_sub(1).min(text.chars().count());
        let end = start.saturating_add((length as usize).max(1));
        // Characters before the window are skipped when the mark lies far to the right.
        let first = if start > WINDOW * 3 / 4 { start - WINDOW / 4 } else { 0 };
        let mut line = Self { text: String::new(), mark_start: 0, mark_width: 0 };
        let mut width = 0;
        if first > 0 {
            line.text.push('…');
            width = 1;
        }
        for (i, c) in text.chars().enumerate().skip(first) {
            if width >= WINDOW {
                line.text.push('…');
                break;
            }
            if i == start {
                line.mark_start = width;
            }
            let (shown, columns) = show(c, width);
            line.text.push_str(&shown);
            width += columns;
            if i >= start && i < end {
                line.mark_width += columns;
            }
        }
        if line.mark_width == 0 {
            // The mark lies behind the end, where something is missing.
            line.mark_start = if start == 0 { 0 } else { width };
            line.mark_width = 1;
        }
        line.text.truncate(line.text.trim_end().len());
        line
    }
}

/// A character as it is printed at this terminal column, and how many columns it takes.
fn show(c: char, at: usize) -> (String, usize) {
    if c == '\t' {
        let columns = TAB - at % TAB;
        return (" ".repeat(columns), columns);
    }
    if is_dangerous(c) {
        let text = c.escape_unicode().to_string();
        let columns = text.len();
        return (text, columns);
    }
    (c.to_string(), c.width().unwrap_or(0))
}

/// Whether a character acts on a terminal, or makes text look different from what it is: control
/// characters, marks of direction, what has no width, and tags.
pub fn is_dangerous(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// A name or other text of one line with what acts on a terminal, or misleads the eye, written out.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            _ if is_dangerous(c) => out.extend(c.escape_unicode()),
            _ => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, column: u32, length: u32, expected: &str, mark: (usize, usize)) {
        let line = Line::new(text, column, length);
        assert_eq!(
            line,
            Line { text: expected.to_owned(), mark_start: mark.0, mark_width: mark.1 }
        );
    }

    #[test]
    fn marks_stand_under_what_they_mark() {
        check("a: 20", 4, 2, "a: 20", (3, 2));
        check("\ta: 20", 5, 2, "    a: 20", (7, 2));
        check("模型: 20", 5, 2, "模型: 20", (6, 2));
        check("a: 模型", 4, 2, "a: 模型", (3, 4));
        check("\u{1b}[31mx", 6, 1, "\\u{1b}[31mx", (10, 1));
    }

    #[test]
    fn something_missing_is_marked_behind_the_end() {
        check("a:", 3, 0, "a:", (2, 1));
        check("a:", 99, 5, "a:", (2, 1));
        check("", 1, 3, "", (0, 1));
    }

    #[test]
    fn a_long_line_is_shown_around_its_mark() {
        let text = format!("{}X{}", "a".repeat(100_000), "b".repeat(100_000));
        let line = Line::new(&text, 100_001, 1);
        assert_eq!(line.text.chars().nth(line.mark_start), Some('X'));
        assert!(line.text.chars().count() <= WINDOW + 2);
    }

    #[test]
    fn extreme_places_do_not_overflow() {
        let line = Line::new("abc", u32::MAX, u32::MAX);
        assert_eq!(line.mark_width, 1);
    }
}
