//! Text in aligned columns.

use mixdown_diagnostics::escape;
use unicode_width::UnicodeWidthStr;

/// How a column is aligned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// Names and words.
    Left,
    /// Numbers.
    Right,
}

/// Rows of cells under a header.
#[derive(Clone, Debug)]
pub struct Table {
    align: Vec<Align>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these columns.
    pub fn new(columns: &[(&str, Align)]) -> Self {
        Self {
            align: columns.iter().map(|column| column.1).collect(),
            rows: vec![columns.iter().map(|column| column.0.to_owned()).collect()],
        }
    }

    /// A table without a header.
    pub fn bare(align: &[Align]) -> Self {
        Self { align: align.to_vec(), rows: Vec::new() }
    }

    /// Adds a row; cells beyond the columns are dropped.
    pub fn row<T: Into<String>>(&mut self, cells: impl IntoIterator<Item = T>) {
        // A cell is one line, whatever a name in it says.
        let cells = cells.into_iter().map(|cell| escape(&cell.into()));
        self.rows.push(cells.take(self.align.len()).collect());
    }

    /// The text, each line after `indent`, two spaces between columns and none at a line's end.
    pub fn text(&self, indent: &str) -> String {
        let mut widths = vec![0; self.align.len()];
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.width());
            }
        }
        let mut text = String::new();
        for row in &self.rows {
            let mut line = indent.to_owned();
            for (position, cell) in row.iter().enumerate() {
                let padding = " ".repeat(widths[position] - cell.width());
                if position > 0 {
                    line.push_str("  ");
                }
                match self.align[position] {
                    Align::Left => line.extend([cell.as_str(), &padding]),
                    Align::Right => line.extend([&padding, cell.as_str()]),
                }
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_by_what_is_seen() {
        let mut table = Table::new(&[("name", Align::Left), ("size", Align::Right)]);
        table.row(["a", "1"]);
        table.row(["模型", "1000"]);
        table.row(["long name", ""]);
        let expected = "  name       size\n  a             1\n  模型       1000\n  long name\n";
        assert_eq!(table.text("  "), expected);
    }
}
