//! Tables in workbooks (.xlsx), as pandas writes them for VLMEvalKit: two columns of the first sheet.
//!
//! A workbook is a zip archive of XML. What a file says of itself is believed only after its parts were
//! unpacked once with their bytes counted: a few kilobytes can unpack to any size, and the reader holds some
//! parts whole. Cells are then streamed, and of these only the two columns are held.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use calamine::{DataRef, Reader, Xlsx, XlsxError, XlsxFormulaMetadata};
use mixdown_files::open_regular;

/// Longest file. Its table of contents is held, at some hundred bytes for each 46 of the file.
const LONGEST_FILE: u64 = 64 << 20;

/// Most bytes that all parts unpack to, and most text that both columns hold: strings can be shared, so that
/// few bytes of a file may be the text of many cells.
const MOST_BYTES: u64 = 256 << 20;

/// Most bytes of the strings that cells share, which are held.
const MOST_STRINGS: u64 = 64 << 20;

/// Most bytes of any other part that is held: styles, names of sheets, links among parts.
const MOST_OTHERS: u64 = 4 << 20;

/// What a sheet can have.
const SHEET_ROWS: u32 = 1 << 20;
const SHEET_COLUMNS: u32 = 1 << 14;

/// The ids and answers of a workbook's first sheet. Rows without a column `index` are counted from 0.
///
/// **Errors.** What is wrong with the file, in words; a row by its number in the sheet, from 1.
pub(super) fn pairs(path: &Path) -> super::Pairs {
    let (file, _) =
        open_regular(path).map_err(|error| format!("the answers cannot be read: {error}"))?;
    check(&file)?;
    let broken = |error: &XlsxError| format!("the workbook is damaged: {error}");
    let mut book = Xlsx::new(BufReader::new(&file)).map_err(|error| broken(&error))?;
    let names = book.sheet_names();
    let name = names.first().ok_or("the workbook has no sheet")?;
    let mut cells = book.worksheet_cells_reader(name).map_err(|error| broken(&error))?;
    let mut table = Table::default();
    while let Some(cell) =
        cells.next_cell_with_formula_metadata().map_err(|error| broken(&error))?
    {
        // An answer that begins with `=` is stored as a formula that nobody has computed.
        let (row, column) = cell.pos;
        match (&cell.value, &cell.formula) {
            (DataRef::Empty, Some(XlsxFormulaMetadata::Normal { formula })) => {
                table.add(row, column, &DataRef::String(format!("={formula}")))?;
            }
            (value, _) => table.add(row, column, value)?,
        }
    }
    table.finish(name)
}

/// Makes sure that reading the file takes no more memory than its limits.
fn check(file: &File) -> Result<(), String> {
    let unreadable = |error: &io::Error| format!("the workbook cannot be read: {error}");
    let length = file.metadata().map_err(|error| unreadable(&error))?.len();
    let more = |limit: u64| format!("more than {} MiB", limit >> 20);
    if length > LONGEST_FILE {
        return Err(format!("the workbook has {}; save it as CSV", more(LONGEST_FILE)));
    }
    let mut begin = [0; 4];
    let mut from_start = file;
    let count = from_start.read(&mut begin).map_err(|error| unreadable(&error))?;
    match &begin[..count] {
        [b'P', b'K', ..] => {}
        // The container of Office before 2007, in which Office puts what it encrypts, too.
        [0xd0, 0xcf, 0x11, 0xe0] => {
            return Err(
                "the workbook has a password, or is an old .xls: save it as .xlsx".to_owned()
            );
        }
        _ => return Err("the file is no workbook: it does not begin like a zip archive".to_owned()),
    }
    let broken = |error: &dyn std::fmt::Display| format!("the workbook is damaged: {error}");
    let mut archive = zip::ZipArchive::new(BufReader::new(file)).map_err(|error| broken(&error))?;
    let mut left = MOST_BYTES;
    for position in 0..archive.len() {
        let part = archive.by_index(position).map_err(|error| broken(&error))?;
        let name =
            part.name().map_err(|error| broken(&error))?.to_ascii_lowercase().replace('\\', "/");
        let file_name = name.rsplit('/').next().unwrap_or_default().to_owned();
        let is_strings = file_name == "sharedstrings.xml";
        let is_held = name.ends_with(".xml") || name.ends_with(".rels");
        let is_sheet = file_name.starts_with("sheet") || name.contains("/worksheets/");
        let limit = match () {
            () if is_strings => MOST_STRINGS,
            () if file_name == "styles.xml" => MOST_OTHERS,
            () if is_held && !is_sheet => MOST_OTHERS,
            () => MOST_BYTES,
        };
        let limit = limit.min(left);
        let mut text = Vec::new();
        let mut limited = part.take(limit + 1);
        let unpacked = match is_strings {
            true => limited.read_to_end(&mut text).map(|count| count as u64),
            false => io::copy(&mut limited, &mut io::sink()),
        };
        let unpacked = unpacked.map_err(|error| broken(&format!("{name}: {error}")))?;
        if unpacked > limit {
            return Err(format!("`{name}` unpacks to {}; save the table as CSV", more(limit)));
        }
        left -= unpacked;
        // Room is made for as many strings as the part says before one is read.
        if let Some(count) = counts(&text).find(|&count| count > text.len() as u64) {
            let length = text.len();
            return Err(format!(
                "the workbook is damaged: {name}: {count} strings in {length} bytes"
            ));
        }
    }
    Ok(())
}

/// The values of attributes `uniqueCount` of a part.
fn counts(text: &[u8]) -> impl Iterator<Item = u64> + '_ {
    const NAME: &[u8] = b"uniqueCount";
    let after = text.windows(NAME.len()).enumerate().filter(|(_, found)| *found == NAME);
    after.map(|(at, _)| {
        let rest = &text[at + NAME.len()..];
        let digits = rest.iter().skip_while(|byte| b" \t\r\n=\"'".contains(byte));
        let digits = digits.take_while(|byte| byte.is_ascii_digit());
        digits.fold(0_u64, |count, digit| {
            count.saturating_mul(10).saturating_add(u64::from(digit - b'0'))
        })
    })
}

/// Two columns of a sheet, as cells come in.
#[derive(Default)]
struct Table {
    /// The row of the columns' names, once it is known, and the last row so far.
    header: Option<u32>,
    last: u32,
    /// Where the columns are.
    index: Option<u32>,
    prediction: Option<u32>,
    /// Row, id and answer of each row that has a cell in any column.
    rows: Vec<(u32, Option<String>, Option<String>)>,
    /// Bytes of their text.
    bytes: u64,
}

impl Table {
    fn add(&mut self, row: u32, column: u32, value: &DataRef<'_>) -> Result<(), String> {
        let Some(text) = text_of(value) else { return Ok(()) };
        if row >= SHEET_ROWS || column >= SHEET_COLUMNS {
            return Err(
                "the workbook is damaged: a cell stands beyond what a sheet can have".to_owned()
            );
        }
        let header = *self.header.get_or_insert(row);
        if row < self.last {
            return Err(format!("row {} stands below row {}", row + 1, self.last + 1));
        }
        self.last = row;
        if row == header {
            match text.trim() {
                "index" => _ = self.index.get_or_insert(column),
                "prediction" => _ = self.prediction.get_or_insert(column),
                _ => {}
            }
            return Ok(());
        }
        if self.rows.last().is_none_or(|(last, ..)| *last != row) {
            self.rows.push((row, None, None));
        }
        let Some((_, id, answer)) = self.rows.last_mut() else { return Ok(()) };
        let place = match Some(column) {
            column if column == self.index => id,
            column if column == self.prediction => answer,
            _ => return Ok(()),
        };
        self.bytes += text.len() as u64;
        if self.bytes > MOST_BYTES {
            return Err(format!("the answers have more than {} MiB of text", MOST_BYTES >> 20));
        }
        *place = Some(text.into_owned());
        Ok(())
    }

    fn finish(self, sheet: &str) -> super::Pairs {
        if self.prediction.is_none() {
            return Err(format!("the sheet `{sheet}` has no column `prediction`"));
        }
        let has_index = self.index.is_some();
        let pair =
            |(position, (row, id, answer)): (usize, (u32, Option<String>, Option<String>))| {
                let id = match has_index {
                    true => id.ok_or_else(|| format!("row {} has no `index`", row + 1))?,
                    false => position.to_string(),
                };
                // pandas writes no cell for an answer that is empty.
                Ok((id, answer.unwrap_or_default()))
            };
        self.rows.into_iter().enumerate().map(pair).collect()
    }
}

/// What a cell shows, as pandas writes it to CSV; none of a cell that is empty.
fn text_of<'c>(value: &'c DataRef<'_>) -> Option<std::borrow::Cow<'c, str>> {
    let is_whole = |number: f64| number.fract() == 0.0 && number.abs() < 9e15;
    let text = match value {
        DataRef::Empty => return None,
        DataRef::String(text) | DataRef::DateTimeIso(text) | DataRef::DurationIso(text) => {
            return Some(text.into());
        }
        DataRef::SharedString(text) => return Some((*text).into()),
        DataRef::Int(number) => number.to_string(),
        // Numbers have one kind in workbooks: 17 is 17.0.
        DataRef::Float(number) if is_whole(*number) => format!("{number:.0}"),
        DataRef::Float(number) => number.to_string(),
        DataRef::Bool(true) => "True".to_owned(),
        DataRef::Bool(false) => "False".to_owned(),
        DataRef::DateTime(time) => time.as_f64().to_string(),
        DataRef::Error(error) => error.to_string(),
    };
    Some(text.into())
}

#[cfg(test)]
mod tests;
