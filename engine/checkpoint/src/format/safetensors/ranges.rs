//! Where the tensors lie: one after another, from the end of the header to the end of the file.

use mixdown_diagnostics::{Diagnostic, codes};

use super::entries::Entry;
use super::{Faults, broken_tensor};
use crate::shown::{bytes_text, shown};

/// Sorts the entries by place and checks that they cover the data exactly once.
pub(super) fn check(
    mut entries: Vec<Entry>,
    data_start: u64,
    data_len: u64,
    faults: &mut Faults<'_>,
) -> Vec<Entry> {
    // Empty tensors share their offset with a neighbor: the end, then the name, settle the order.
    entries.sort_by(|a, b| (a.begin, a.end, &a.name).cmp(&(b.begin, b.end, &b.name)));
    let mut end = 0;
    let mut last: Option<&Entry> = None;
    for entry in &entries {
        if entry.begin < end {
            faults.push(entry.at, || overlap(entry, last));
        } else if entry.begin > end {
            faults.push(entry.at, || hole(entry, end, data_start));
        }
        if last.is_none() || entry.end > end {
            (end, last) = (entry.end, Some(entry));
        }
    }
    // Of a header that contradicts itself, the file's length says nothing more.
    if !faults.is_empty() {
        return entries;
    }
    if end > data_len {
        let inside = entries.iter().find(|entry| entry.end > data_len);
        let headline = match inside {
            Some(entry) => format!("the shard ends inside `{}`", shown(&entry.name)),
            None => "the shard ends inside its last tensor".to_owned(),
        };
        let size = data_start.saturating_add(data_len);
        let wanted = data_start.saturating_add(end);
        let fault = Diagnostic::error(codes::SHARD_TRUNCATED, headline)
            .fact("header", bytes_text(wanted))
            .fact("file", format!("{}, {} short", bytes_text(size), bytes_text(wanted - size)))
            .help("fetch this shard again");
        // The place is the end of the file, not a byte of the header.
        faults.push(size - super::LENGTH_BYTES, || fault);
    } else if end < data_len {
        faults.push(data_start + end - super::LENGTH_BYTES, || {
            let headline = "bytes after the last tensor belong to none";
            Diagnostic::error(codes::HEADER_BROKEN, headline)
                .fact("header", bytes_text(data_start + end))
                .fact("file", bytes_text(data_start + data_len))
                .help("fetch or write this file again")
        });
    }
    entries
}

fn overlap(entry: &Entry, before: Option<&Entry>) -> Diagnostic {
    let mut fault = match before {
        Some(before) => broken_tensor(&entry.name, &format!("overlaps `{}`", shown(&before.name)))
            .fact("before", format!("bytes {} to {}", before.begin, before.end)),
        None => broken_tensor(&entry.name, "overlaps another tensor"),
    };
    fault = fault.fact("this", format!("bytes {} to {}", entry.begin, entry.end));
    fault.note("bytes count from the end of the header")
}

fn hole(entry: &Entry, end: u64, data_start: u64) -> Diagnostic {
    broken_tensor(&entry.name, "begins after a hole that belongs to no tensor")
        .fact("hole", bytes_text(entry.begin - end))
        .fact("from", format!("byte {} of the file", data_start.saturating_add(end)))
}
