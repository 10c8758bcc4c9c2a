//! The two readers of an account: a digest, and a tree for people.

use mixdown_ops::account::{Account, Told};
use serde_json::{Map, Value};

/// BLAKE3 of an account. Each part is written so that it can be told from any other: its kind, then its value,
/// and no name.
#[derive(Default)]
pub struct Digest(blake3::Hasher);

impl Digest {
    /// The 32 bytes.
    pub fn bytes(&self) -> [u8; 32] {
        *self.0.finalize().as_bytes()
    }

    /// As 64 hexadecimal digits.
    pub fn text(&self) -> String {
        self.0.finalize().to_hex().to_string()
    }
}

impl std::fmt::Debug for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Digest({})", self.text())
    }
}

impl Account for Digest {
    fn open(&mut self, _: &'static str) {
        self.0.update(b"(");
    }

    fn close(&mut self) {
        self.0.update(b")");
    }

    fn tell(&mut self, _: &'static str, value: Told<'_>) {
        match value {
            Told::Word(word) => {
                self.0.update(b"w");
                self.0.update(&(word.len() as u64).to_le_bytes());
                self.0.update(word.as_bytes());
            }
            Told::Count(count) => {
                self.0.update(b"c");
                self.0.update(&count.to_le_bytes());
            }
            Told::Number(number) => {
                self.0.update(b"n");
                self.0.update(&number.to_bits().to_le_bytes());
            }
            Told::Flag(flag) => {
                self.0.update(if flag { b"t" } else { b"f" });
            }
            Told::Nothing => {
                self.0.update(b"-");
            }
        }
    }

    fn is_terse(&self) -> bool {
        true
    }
}

/// An account with its names.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tree {
    /// Parts that are open, the innermost last; the first is the whole.
    open: Vec<Thing>,
    /// Parts of the whole.
    parts: Vec<Part>,
}

/// A thing with its parts.
#[derive(Clone, Debug, Default, PartialEq)]
struct Thing {
    name: &'static str,
    parts: Vec<Part>,
}

/// One part.
#[derive(Clone, Debug, PartialEq)]
enum Part {
    Thing(Thing),
    /// Name, as people read it, as JSON.
    Value(&'static str, String, Value),
}

/// Characters that a thing may have on one line.
const LINE: usize = 100;

impl Tree {
    fn parts(&mut self) -> &mut Vec<Part> {
        match self.open.last_mut() {
            Some(thing) => &mut thing.parts,
            None => &mut self.parts,
        }
    }

    /// As lines, indented by this much.
    pub fn text(&self, indent: usize) -> String {
        let mut text = String::new();
        for part in &self.parts {
            part.write(indent, &mut text);
        }
        text
    }

    /// As JSON: a list of objects with one name each, as names may come more than once.
    pub fn json(&self) -> Value {
        json(&self.parts)
    }
}

fn json(parts: &[Part]) -> Value {
    let named = |name: &str, value: Value| {
        let mut object = Map::new();
        object.insert(name.to_owned(), value);
        Value::Object(object)
    };
    let part = |part: &Part| match part {
        Part::Thing(thing) => named(thing.name, json(&thing.parts)),
        Part::Value("", _, value) => value.clone(),
        Part::Value(name, _, value) => named(name, value.clone()),
    };
    parts.iter().map(part).collect()
}

impl Part {
    /// On one line, where all parts are values.
    fn line(&self) -> Option<String> {
        match self {
            Self::Value("", text, _) => Some(text.clone()),
            Self::Value(name, text, _) => Some(format!("{name} {text}")),
            Self::Thing(Thing { name, parts }) => {
                let values: Option<Vec<String>> = parts.iter().map(Self::line).collect();
                let values = values?.join(", ");
                let is_nested = parts.iter().any(|part| matches!(part, Self::Thing(_)));
                Some(match is_nested {
                    true => format!("{name}: {values}"),
                    false => format!("{name} [{values}]"),
                })
            }
        }
    }

    fn write(&self, indent: usize, text: &mut String) {
        let margin = " ".repeat(indent);
        let line = match self {
            Self::Thing(Thing { name, parts }) if parts.is_empty() => Some(format!("{name}: none")),
            Self::Thing(Thing { name, parts }) => {
                let values: Option<Vec<String>> = parts.iter().map(Self::line).collect();
                values.map(|values| format!("{name}: {}", values.join(", ")))
            }
            Self::Value(..) => self.line(),
        };
        match (self, line) {
            (Self::Value(..), Some(line)) => text.push_str(&format!("{margin}{line}\n")),
            (Self::Thing(_), Some(line)) if line.chars().count() <= LINE => {
                text.push_str(&format!("{margin}{line}\n"));
            }
            (Self::Thing(Thing { name, parts }), _) => {
                text.push_str(&format!("{margin}{name}\n"));
                for part in parts {
                    part.write(indent + 2, text);
                }
            }
            (Self::Value(..), None) => {}
        }
    }
}

impl Account for Tree {
    fn open(&mut self, name: &'static str) {
        self.open.push(Thing { name, parts: Vec::new() });
    }

    fn close(&mut self) {
        if let Some(thing) = self.open.pop() {
            self.parts().push(Part::Thing(thing));
        }
    }

    fn tell(&mut self, name: &'static str, value: Told<'_>) {
        let (text, value) = match value {
            Told::Word(word) => (mixdown_diagnostics::escape(word).to_string(), word.into()),
            Told::Count(count) => (count.to_string(), count.into()),
            // JSON has no numbers that are none.
            Told::Number(number) if !number.is_finite() => {
                (number.to_string(), number.to_string().into())
            }
            Told::Number(number) => (number.to_string(), number.into()),
            Told::Flag(flag) => (flag.to_string(), flag.into()),
            Told::Nothing => ("none".to_owned(), Value::Null),
        };
        self.parts().push(Part::Value(name, text, value));
    }

    fn is_terse(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Telling<'t> = &'t dyn Fn(&mut dyn Account);

    fn told(to: &mut dyn Account, names: [&'static str; 3]) {
        to.word(names[0], "ties");
        to.thing(names[1], |to| {
            to.counts(names[2], [1_u32, 2]);
            to.number("", 0.5);
        });
        to.tell("", Told::Nothing);
        to.flag("", true);
    }

    #[test]
    fn names_are_for_people_alone() {
        let digest = |names| {
            let mut digest = Digest::default();
            told(&mut digest, names);
            digest.text()
        };
        assert_eq!(digest(["op", "of", "shape"]), digest(["verb", "", "size"]));
        let mut tree = Tree::default();
        told(&mut tree, ["op", "of", "shape"]);
        assert_eq!(tree.text(2), "  op ties\n  of: shape [1, 2], 0.5\n  none\n  true\n");
        assert_eq!(
            tree.json().to_string(),
            r#"[{"op":"ties"},{"of":[{"shape":[1,2]},0.5]},null,true]"#
        );
    }

    #[test]
    fn no_part_can_be_taken_for_another() {
        let mut all: Vec<String> = Vec::new();
        let accounts: [Telling<'_>; 9] = [
            &|to| to.word("", "ab"),
            &|to| {
                to.word("", "a");
                to.word("", "b");
            },
            &|to| to.word("", "1"),
            &|to| to.count("", 1_u32),
            &|to| to.number("", 1.0),
            &|to| to.number("", -0.0),
            &|to| to.number("", 0.0),
            &|to| to.counts("", [1_u32]),
            &|to| {
                to.counts("", [0_u32; 0]);
                to.count("", 1_u32);
            },
        ];
        for account in accounts {
            let mut digest = Digest::default();
            account(&mut digest);
            assert!(!all.contains(&digest.text()));
            all.push(digest.text());
        }
    }
}
