//! Tensor names: the order people expect, and the parts of a model that names tell of.

use std::cmp::Ordering;
use std::iter::Peekable;
use std::str::Chars;

/// Order of names in which layer 2 comes before layer 10.
pub fn natural(a: &str, b: &str) -> Ordering {
    let (mut left, mut right) = (a.chars().peekable(), b.chars().peekable());
    loop {
        let order = match (left.peek(), right.peek()) {
            // `01` and `1` are equal as numbers and still two names.
            (None, None) => return a.cmp(b),
            (Some(x), Some(y)) if x.is_ascii_digit() && y.is_ascii_digit() => {
                number(&mut left).cmp(&number(&mut right))
            }
            _ => left.next().cmp(&right.next()),
        };
        if order != Ordering::Equal {
            return order;
        }
    }
}

/// A run of digits, so that comparing gives the order of the numbers, however long they are.
fn number(letters: &mut Peekable<Chars<'_>>) -> (usize, String) {
    let mut digits = String::new();
    while let Some(digit) = letters.next_if(char::is_ascii_digit) {
        digits.push(digit);
    }
    let digits = digits.trim_start_matches('0').to_owned();
    (digits.len(), digits)
}

/// Where in a model a tensor belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part<'a> {
    /// The name up to the layer number, or up to the last dot where there is none.
    pub prefix: &'a str,
    /// The number of the layer: the first part of the name that is a number.
    pub layer: Option<u64>,
}

/// Where in a model the tensor of this name belongs.
pub fn part(name: &str) -> Part<'_> {
    let mut start = 0;
    for word in name.split('.') {
        let end = start + word.len();
        let is_number = !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
        if is_number && start > 0 && end < name.len() {
            return Part { prefix: &name[..start - 1], layer: word.parse().ok() };
        }
        start = end + 1;
    }
    Part { prefix: name.rsplit_once('.').map_or(name, |(parent, _)| parent), layer: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_in_order_of_their_numbers() {
        let mut names =
            ["m.10.b", "m.2.b", "m.2.a", "m.norm", "lm_head", "m.02.a", "m.99999999999999999999.a"];
        names.sort_by(|a, b| natural(a, b));
        let expected =
            ["lm_head", "m.02.a", "m.2.a", "m.2.b", "m.10.b", "m.99999999999999999999.a", "m.norm"];
        assert_eq!(names, expected);
        assert_eq!(natural("a", "a"), Ordering::Equal);
    }

    #[test]
    fn names_tell_their_part() {
        let check = |name: &str, prefix: &str, layer: Option<u64>| {
            assert_eq!(part(name), Part { prefix, layer }, "{name}");
        };
        check("model.layers.12.mlp.experts.3.up.weight", "model.layers", Some(12));
        check("model.embed_tokens.weight", "model.embed_tokens", None);
        check("lm_head", "lm_head", None);
        check("0.weight", "0", None);
        check("a.5", "a", None);
        check("", "", None);
        check("a.99999999999999999999.w", "a", None);
    }
}
