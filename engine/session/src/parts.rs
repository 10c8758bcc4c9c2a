//! A merge in parts: each makes whole files of its own in the output's folder, on whatever machine, and
//! `assemble` joins them.
//!
//! ```text
//! DIR/part-00003-of-00016/                     a part that is done: weights, manifest, record
//! DIR/.part-00003-of-00016.mixdown-partial/    one that is under way, with its own journal
//! ```
//!
//! Which tensors are whose follows from the plan alone, so that no part needs to know of another.

pub mod assemble;
mod found;
pub mod partition;
mod record;
mod sink;

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use mixdown_checkpoint::shown::shown;
use mixdown_checkpoint::shown_path;
use mixdown_diagnostics::{Diagnostic, codes};

pub(crate) use found::record;
pub use partition::{Partition, Share};
pub(crate) use record::{Files, PartRecord, RECORD_NAME};
pub(crate) use sink::PartSink;

/// Most parts of a merge: their folders have numbers of five digits.
pub const MOST_PARTS: u32 = 99_999;

/// Which part of how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PartNumber {
    number: u32,
    of: u32,
}

impl PartNumber {
    /// Part `number`, counted from 1, of `of` parts; none if there is no such part.
    pub fn new(number: u32, of: u32) -> Option<Self> {
        ((1..=of).contains(&number) && of <= MOST_PARTS).then_some(Self { number, of })
    }

    /// Counted from 1.
    pub fn number(self) -> u32 {
        self.number
    }

    /// Counted from 0.
    pub fn index(self) -> usize {
        self.number as usize - 1
    }

    /// How many parts there are.
    pub fn of(self) -> u32 {
        self.of
    }

    /// The name of its folder.
    pub fn folder(self) -> String {
        format!("part-{:05}-of-{:05}", self.number, self.of)
    }

    /// The part whose folder has this name.
    pub fn of_folder(name: &str) -> Option<Self> {
        let (number, of) = name.strip_prefix("part-")?.split_once("-of-")?;
        let part = Self::new(number.parse().ok()?, of.parse().ok()?)?;
        // One number has one name.
        (part.folder() == name).then_some(part)
    }
}

impl fmt::Display for PartNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.number, self.of)
    }
}

impl FromStr for PartNumber {
    type Err = String;

    /// Reads `3/16`.
    fn from_str(text: &str) -> Result<Self, String> {
        let form = || "write NUMBER/COUNT, for instance 3/16".to_owned();
        let (number, of) = text.split_once('/').ok_or_else(form)?;
        let read = |text: &str| text.trim().parse::<u32>().map_err(|_| form());
        let (number, of) = (read(number)?, read(of)?);
        Self::new(number, of).ok_or_else(|| match of {
            0 => "there is at least one part".to_owned(),
            of if of > MOST_PARTS => format!("there are at most {MOST_PARTS} parts, found {of}"),
            of => format!("of {of} parts the numbers are 1 to {of}, found {number}"),
        })
    }
}

/// Checks that the output's folder holds nothing but parts of this cut, before one is added.
///
/// **Errors.** `OUTPUT_EXISTS` with what is there; `PARTS_DIFFER` where it holds parts of another count.
pub(crate) fn check_folder(out: &Path, part: PartNumber) -> Result<(), Box<Diagnostic>> {
    let others = strangers(out)?;
    if let Some(first) = others.first() {
        let headline = "the output folder holds something else than parts";
        let mut diagnostic = Diagnostic::error(codes::OUTPUT_EXISTS, headline)
            .in_file(shown_path(out))
            .fact("found", shown(first).into_owned());
        if others.len() > 1 {
            diagnostic = diagnostic.fact("and", format!("{} more", others.len() - 1));
        }
        return Err(Box::new(
            diagnostic
                .help("choose another folder with `--out`; with `--force` all of it is replaced when the parts are assembled"),
        ));
    }
    match found::numbers(out)?.into_iter().find(|found| found.of() != part.of()) {
        None => Ok(()),
        Some(other) => Err(Box::new(
            Diagnostic::error(
                codes::PARTS_DIFFER,
                "the output folder holds parts of a merge in another number of parts",
            )
            .in_file(shown_path(out))
            .fact("there", other.folder())
            .fact("wanted", part.folder())
            .help("remove those that are there, or choose another folder with `--out`"),
        )),
    }
}

/// Names in the output's folder that belong to no part, sorted.
pub(crate) fn strangers(out: &Path) -> Result<Vec<String>, Box<Diagnostic>> {
    let entries = found::entries(out)?.into_iter();
    let mut found: Vec<String> =
        entries.map(|(name, _)| name).filter(|name| !is_of_part(name)).collect();
    found.sort();
    Ok(found)
}

/// Whether something of this name belongs to a part, done or under way.
fn is_of_part(name: &str) -> bool {
    let under_way = |name: &str| {
        let name = name.strip_prefix('.')?.strip_suffix(".mixdown-partial")?;
        PartNumber::of_folder(name)
    };
    PartNumber::of_folder(name).or_else(|| under_way(name)).is_some()
}

/// Where a part goes.
pub(crate) fn folder(out: &Path, part: PartNumber) -> PathBuf {
    out.join(part.folder())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_and_refused() {
        let read = |text: &str| text.parse::<PartNumber>();
        assert_eq!(read("3/16"), Ok(PartNumber { number: 3, of: 16 }));
        assert_eq!(read(" 1 / 1 ").unwrap().to_string(), "1/1");
        assert_eq!(read("0/4").unwrap_err(), "of 4 parts the numbers are 1 to 4, found 0");
        assert_eq!(read("5/4").unwrap_err(), "of 4 parts the numbers are 1 to 4, found 5");
        assert_eq!(read("1/0").unwrap_err(), "there is at least one part");
        assert_eq!(read("1/100000").unwrap_err(), "there are at most 99999 parts, found 100000");
        for wrong in ["3", "3/", "/3", "a/3", "3/-1", "1/2/3", "1/4294967296"] {
            assert_eq!(
                read(wrong).unwrap_err(),
                "write NUMBER/COUNT, for instance 3/16",
                "{wrong}"
            );
        }
    }

    #[test]
    fn folders_have_one_name_each() {
        let part = PartNumber::new(3, 16).unwrap();
        assert_eq!(part.folder(), "part-00003-of-00016");
        assert_eq!(PartNumber::of_folder("part-00003-of-00016"), Some(part));
        for other in
            ["part-3-of-16", "part-00017-of-00016", "part-00000-of-00016", "part-+0003-of-00016"]
        {
            assert_eq!(PartNumber::of_folder(other), None, "{other}");
        }
        assert!(is_of_part(".part-00003-of-00016.mixdown-partial"));
        assert!(!is_of_part(".part-3-of-16.mixdown-partial"));
        assert!(!is_of_part("model.safetensors"));
    }
}
