//! Which of a pickle's dictionaries holds the weights, and what beside them is left out.

use std::collections::HashSet;

use mixdown_diagnostics::{Diagnostic, codes};

use super::machine::Pickle;
use super::values::{Heap, Value};
use super::{Fault, broken, unread};
use crate::shown::{shown, some_of};

/// The weights of a file: names and numbers of tensors, in the pickle's order.
pub(super) struct Chosen {
    pub tensors: Vec<(String, u32)>,
    pub warnings: Vec<Diagnostic>,
}

/// Takes the dictionary that holds tensors: the outermost, or one that it holds, as trainers save
/// `{"state_dict": …, "epoch": …}`.
pub(super) fn choose(pickle: &Pickle, file: &str, at: u64) -> Result<Chosen, Fault> {
    let heap = &pickle.heap;
    let Value::Dict(top) = pickle.top else {
        let found = match pickle.top {
            Value::Tensor(_) => "a tensor without a name",
            Value::List(_) | Value::Tuple(_) => "a list",
            _ => "something else",
        };
        return Err(Box::new(
            unread("the file does not hold a dictionary of tensors")
                .at_byte(file, at)
                .fact("found", found)
                .help("save the model's `state_dict()`"),
        ));
    };
    let chosen = only_place(heap, top, file, at)?;
    let tensors = named(heap, &heap.dicts[chosen as usize], file, at)?;
    let mut left = Vec::new();
    for dict in if chosen == top { vec![top] } else { vec![top, chosen] } {
        for (key, value) in &heap.dicts[dict as usize] {
            if !matches!(value, Value::Tensor(_)) && *value != Value::Dict(chosen) {
                left.push(key_text(heap, *key));
            }
        }
    }
    let mut warnings = Vec::new();
    if !left.is_empty() {
        let headline = "what a file holds beside its tensors is not read";
        let warning = Diagnostic::warning(codes::NOT_READ, headline).in_file(file);
        warnings.push(warning.fact("not read", some_of(&left)));
    }
    Ok(Chosen { tensors, warnings })
}

/// The dictionary that holds tensors, if there is one and no other.
fn only_place(heap: &Heap, top: u32, file: &str, at: u64) -> Result<u32, Fault> {
    let pairs = &heap.dicts[top as usize];
    let mut places = Vec::new();
    if holds_tensors(pairs) {
        places.push(("the outermost", top));
    }
    for (key, value) in pairs {
        if let Value::Dict(inner) = *value
            && holds_tensors(&heap.dicts[inner as usize])
        {
            places.push((key_text(heap, *key), inner));
        }
    }
    match places.as_slice() {
        [(_, chosen)] => Ok(*chosen),
        [] if pairs.is_empty() => Ok(top),
        [] => {
            let keys: Vec<&str> = pairs.iter().map(|(key, _)| key_text(heap, *key)).collect();
            let headline = "the file holds no tensors by name";
            let fault = Diagnostic::error(codes::NO_WEIGHTS, headline).at_byte(file, at);
            Err(Box::new(
                fault.fact("keys", some_of(&keys)).help("save the model's `state_dict()`"),
            ))
        }
        several => {
            let names: Vec<&str> = several.iter().map(|place| place.0).collect();
            Err(Box::new(
                unread("several dictionaries of the file hold tensors")
                    .at_byte(file, at)
                    .fact("found", some_of(&names))
                    .help("load the file with torch and save the one to merge"),
            ))
        }
    }
}

fn key_text(heap: &Heap, key: Value) -> &str {
    heap.text(key).unwrap_or("a key that is not a text")
}

fn holds_tensors(dict: &[(Value, Value)]) -> bool {
    dict.iter().any(|(_, value)| matches!(value, Value::Tensor(_)))
}

fn named(
    heap: &Heap,
    dict: &[(Value, Value)],
    file: &str,
    at: u64,
) -> Result<Vec<(String, u32)>, Fault> {
    let mut tensors = Vec::new();
    let mut known = HashSet::with_capacity(dict.len());
    for (key, value) in dict {
        let name = heap.text(*key);
        if let Some(name) = name
            && !known.insert(name)
        {
            return Err(Box::new(
                broken(format!("`{}` is in the file twice", shown(name)))
                    .at_byte(file, at)
                    .help("write this file again; a reader would take the later of the two"),
            ));
        }
        if let Value::Tensor(tensor) = value {
            let Some(name) = name else {
                return Err(Box::new(
                    unread("the name of a tensor is not a text")
                        .at_byte(file, heap.tensors[*tensor as usize].at)
                        .help("save the model's `state_dict()`"),
                ));
            };
            tensors.push((name.to_owned(), *tensor));
        }
    }
    Ok(tensors)
}
