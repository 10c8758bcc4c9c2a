//! Rows of embeddings that were trained one by one and take the place of the base's.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Fault, Kind, Module};
use crate::adapter::computed::{ByRows, Effect, Part};
use crate::encoding::{Held, Reader};
use crate::source::ReadError;

pub(super) const KIND: Kind = Kind {
    peft_type: "TRAINABLE_TOKENS",
    tensors: &["trainable_tokens_delta", "trainable_tokens_original"],
    shared: &[],
    make,
};

fn make(module: &Module<'_>) -> Result<Vec<(u32, Effect)>, Fault> {
    let (rows, columns) = module.matrix()?;
    let indices = indices(module)?;
    let count = indices.len() as u64;
    let at = module.shaped("trainable_tokens_delta", &[count, columns])?;
    let mut places = BTreeMap::new();
    for (&index, row) in indices.iter().zip(0..) {
        if index >= rows {
            return Err(Fault::new("a token that was trained has no row in `{}`")
                .fact("token", index.to_string())
                .fact("base", module.target.shape.to_string()));
        }
        places.insert(index, row);
    }
    let parts = vec![Part::Adapter(at), module.base_part()?];
    let compute = Tokens { places, columns };
    let scheme = format!("{count} rows trained");
    Ok(module.becomes(scheme, parts, compute))
}

/// The tokens of a module, in the order of the rows that are stored.
fn indices(module: &Module<'_>) -> Result<Vec<u64>, Fault> {
    let settings = module.settings();
    let unknown = || Fault::new("the configuration does not say which rows of `{}` were trained");
    let of = match module.config.is_kind("TRAINABLE_TOKENS") {
        true => settings.value("token_indices"),
        false => settings.value("trainable_token_indices"),
    };
    let list = match of {
        // One list is for the embedding, and many have a name of their module each.
        Some(Value::Array(list)) => list,
        Some(Value::Object(named)) => {
            let is_own =
                |name: &str| module.name == name || module.name.ends_with(&format!(".{name}"));
            let found = named.iter().find(|(name, _)| is_own(name));
            found.and_then(|(_, list)| list.as_array()).ok_or_else(unknown)?
        }
        _ => return Err(unknown()),
    };
    list.iter().map(|index| index.as_u64().ok_or_else(unknown)).collect()
}

#[derive(Debug)]
struct Tokens {
    /// The stored row of each token that was trained.
    places: BTreeMap<u64, u64>,
    columns: u64,
}

impl ByRows for Tokens {
    fn columns(&self) -> u64 {
        self.columns
    }

    fn row(
        &self,
        _: &Held,
        parts: &Reader<'_>,
        [row, column]: [u64; 2],
        own: &mut [f32],
    ) -> Result<(), ReadError> {
        match self.places.get(&row) {
            Some(stored) => parts.floats(0, stored * self.columns + column, own)?,
            None => parts.floats(1, row * self.columns + column, own)?,
        }
        Ok(())
    }
}
