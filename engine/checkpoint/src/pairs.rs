//! A JSON map with all its pairs.

use std::fmt;

use mixdown_diagnostics::{Source, Span};
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// The pairs of a JSON map in their order, duplicates too, which a map would lose in silence.
/// The values are parts of the text, so their addresses are their places.
pub(crate) struct Pairs<'a>(pub Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Pairs<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct All;
        impl<'de> Visitor<'de> for All {
            type Value = Vec<(String, &'de RawValue)>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(pairs)
            }
        }
        deserializer.deserialize_map(All).map(Pairs)
    }
}

/// Byte of `text` at which a part of it starts.
pub(crate) fn place_in(text: &str, part: &RawValue) -> usize {
    (part.get().as_ptr() as usize).saturating_sub(text.as_ptr() as usize).min(text.len())
}

/// The place of a value that starts at byte `at`.
pub(crate) fn span(source: &Source, at: usize, value: &str) -> Span {
    let before = &source.text()[..at];
    let line_start = before.rfind('\n').map_or(0, |position| position + 1);
    Span {
        line: before.matches('\n').count() as u32 + 1,
        column: before[line_start..].chars().count() as u32 + 1,
        length: value.lines().next().unwrap_or_default().chars().count() as u32,
    }
}
