//! The record of what of an output a store has, by which an interrupted run goes on. A line is believed only
//! when it fits the key of this user's runs.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use crate::journal::OwnerKey;
use crate::stored;

/// Something that happened, one line each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// The object of a shard was begun under this name.
    Begun { shard: usize, upload: String },
    /// The store has a part, counted from 0, and calls its content so.
    Part { shard: usize, part: usize, etag: String },
    /// Objects appear from here on; others that were there are replaced if so.
    Joining { replaces: bool },
    /// The object of a shard is there.
    Joined { shard: usize },
}

/// The open record.
#[derive(Debug)]
pub(super) struct Record {
    file: File,
    key: OwnerKey,
    identity: String,
}

/// What a record says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Known {
    /// Of what output it is; empty if there is none.
    pub identity: String,
    pub events: Vec<Event>,
    /// The names of its objects.
    names: Vec<String>,
}

impl Known {
    /// Uploads that were begun and never joined, as far as this record knows.
    pub fn begun(&self) -> impl Iterator<Item = (&str, &str)> {
        self.events.iter().filter_map(|event| match event {
            Event::Begun { shard, upload } => {
                Some((self.names.get(*shard)?.as_str(), upload.as_str()))
            }
            _ => None,
        })
    }
}

impl Record {
    /// Reads a record; what does not fit the key is nothing.
    pub fn read(path: &Path, key: &OwnerKey) -> Known {
        let text = fs::read_to_string(path).unwrap_or_default();
        let mut known = Known::default();
        for line in text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
            let Some((sum, body)) = line.split_once(' ') else { continue };
            if known.identity.is_empty() {
                if let Some(identity) = body.strip_prefix("of ")
                    && sum == key.seal(body)
                {
                    identity.clone_into(&mut known.identity);
                }
            } else if sum == key.seal(&format!("{}\n{body}", known.identity)) {
                match body.strip_prefix("name ") {
                    Some(name) => known.names.push(name.to_owned()),
                    None => known.events.extend(parse(body)),
                }
            }
        }
        known
    }

    /// Writes a record anew, and opens it for more. `names` are those of the shards' objects, in order.
    pub fn write(
        path: &Path,
        key: OwnerKey,
        identity: String,
        names: &[&str],
        events: &[Event],
    ) -> io::Result<Self> {
        let title = format!("of {identity}");
        let mut text = format!("{} {title}\n", key.seal(&title));
        for name in names {
            text.push_str(&line(&key, &identity, &format!("name {name}")));
        }
        for event in events {
            text.push_str(&line(&key, &identity, &event.text()));
        }
        stored::write_file(path, text.as_bytes())?;
        let file = File::options().append(true).open(path)?;
        Ok(Self { file, key, identity })
    }

    pub fn add(&mut self, event: &Event) -> io::Result<()> {
        self.file.write_all(line(&self.key, &self.identity, &event.text()).as_bytes())
    }
}

fn line(key: &OwnerKey, identity: &str, body: &str) -> String {
    format!("{} {body}\n", key.seal(&format!("{identity}\n{body}")))
}

impl Event {
    fn text(&self) -> String {
        match self {
            Self::Begun { shard, upload } => format!("begun {shard} {upload}"),
            Self::Part { shard, part, etag } => format!("part {shard} {part} {etag}"),
            Self::Joining { replaces } => format!("joining {replaces}"),
            Self::Joined { shard } => format!("joined {shard}"),
        }
    }
}

fn parse(body: &str) -> Option<Event> {
    let words: Vec<&str> = body.split(' ').collect();
    Some(match words.as_slice() {
        ["begun", shard, upload] => {
            Event::Begun { shard: shard.parse().ok()?, upload: (*upload).to_owned() }
        }
        ["part", shard, part, etag] => Event::Part {
            shard: shard.parse().ok()?,
            part: part.parse().ok()?,
            etag: (*etag).to_owned(),
        },
        ["joining", replaces] => Event::Joining { replaces: replaces.parse().ok()? },
        ["joined", shard] => Event::Joined { shard: shard.parse().ok()? },
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events() -> Vec<Event> {
        vec![
            Event::Begun { shard: 0, upload: "u-1".to_owned() },
            Event::Part { shard: 0, part: 3, etag: "abc".to_owned() },
            Event::Joining { replaces: true },
            Event::Joined { shard: 0 },
        ]
    }

    #[test]
    fn what_was_noted_is_read_back_by_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sent");
        let key = OwnerKey::new([7; 32]);
        let mut record =
            Record::write(&path, key, "it".to_owned(), &["a b"], &events()[..1]).unwrap();
        events()[1..].iter().for_each(|event| record.add(event).unwrap());
        let known = Record::read(&path, &key);
        assert_eq!((known.identity.as_str(), &known.events), ("it", &events()));
        assert_eq!(known.begun().collect::<Vec<_>>(), [("a b", "u-1")]);
        assert_eq!(Record::read(&path, &OwnerKey::new([8; 32])), Known::default());
        assert_eq!(Record::read(&folder.path().join("none"), &key), Known::default());
    }

    #[test]
    fn a_damaged_line_is_no_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sent");
        let key = OwnerKey::new([7; 32]);
        drop(Record::write(&path, key, "it".to_owned(), &[], &events()).unwrap());
        let text = fs::read(&path).unwrap();
        for at in 0..text.len() {
            let mut bytes = text.clone();
            bytes[at] ^= 1;
            fs::write(&path, &bytes).unwrap();
            let known = Record::read(&path, &key);
            assert!(known.events.iter().all(|event| events().contains(event)), "byte {at}");
            fs::write(&path, &text[..at]).unwrap();
            let known = Record::read(&path, &key);
            assert_eq!(known.events, events()[..known.events.len()], "cut at {at}");
        }
    }
}
