//! The names that peft gives to the tensors of an adapter, and the names under which a base may
//! store what they mean.

use super::kinds::{Kind, TOKENS};
use crate::index::Index;
use crate::known;

/// What peft puts in front of every name.
pub(super) const PREFIX: &str = "base_model.model.";

/// Parts of names that `torch.compile`, FSDP and activation checkpointing put around what they wrap.
pub(crate) const WRAPPERS: [&str; 3] =
    ["_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"];

/// A side of a product, or of the product of an embedding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Side {
    /// `lora_A`: applied first.
    A,
    /// `lora_B`: applied second.
    B,
}

/// What a tensor of an adapter is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Role<'a> {
    /// A factor of the update of `module`.
    Factor { module: String, side: Side, embedding: bool, adapter: Option<&'a str> },
    /// A factor of the update of a parameter of `module`, which lies so deep in it.
    Parameter { module: String, depth: usize, side: Side, adapter: Option<&'a str> },
    /// Magnitudes of DoRA.
    Magnitude { module: String, adapter: Option<&'a str> },
    /// The bias of a second factor.
    Bias { module: String, adapter: Option<&'a str> },
    /// A tensor of another kind of adapter, by the end of its name.
    OfKind { module: String, end: &'static str, adapter: Option<&'a str> },
    /// Rows of an embedding.
    Tokens { module: String, end: &'static str, adapter: Option<&'a str> },
    /// What all modules of another kind share.
    Shared(&'static str),
    /// A tensor that stands in for the base's of this name.
    Replacement {
        name: String,
        /// Whether it is what an update wraps: peft stores embeddings so beside their updates, trained or not.
        is_wrapped: bool,
    },
    /// The base's own of a module that was trained whole, which peft stores with all biases.
    Original,
    /// Something that no update has.
    Unsupported(&'static str),
}

/// Reads a name of a LoRA.
pub(super) fn role(name: &str) -> Role<'_> {
    role_of(name, None)
}

/// Reads a name of an adapter of another kind, or of a LoRA.
pub(super) fn role_of<'a>(name: &'a str, kind: Option<&'static Kind>) -> Role<'a> {
    let parts: Vec<&str> = name.split('.').filter(|part| !WRAPPERS.contains(part)).collect();
    if let (Some(kind), ["base_model", own] | ["base_model", own, _]) = (kind, parts.as_slice())
        && let Some(shared) = kind.shared.iter().find(|shared| *shared == own)
    {
        return Role::Shared(shared);
    }
    // In front of peft's prefix stands what wrapped the whole.
    let parts = match parts.as_slice() {
        ["module", "base_model", "model", rest @ ..] | ["base_model", "model", rest @ ..] => {
            rest.to_vec()
        }
        _ => parts,
    };
    if let Some((at, end)) = end_of(&parts, &TOKENS) {
        let module: Vec<&str> =
            parts[..at].iter().copied().filter(|part| *part != "token_adapter").collect();
        let (module, adapter) = (module.join("."), adapter_after(&parts[at + 1..]));
        return Role::Tokens { module, end, adapter };
    }
    if let Some(kind) = kind {
        if let Some((at, end)) = end_of(&parts, kind) {
            let (module, adapter) = (parts[..at].join("."), adapter_after(&parts[at + 1..]));
            return Role::OfKind { module, end, adapter };
        }
    } else if let Some(at) = parts.iter().rposition(|part| part.starts_with("lora_")) {
        return factor(&parts, at);
    }
    let mut parts = parts;
    if parts.contains(&"original_module") {
        return Role::Original;
    }
    parts.retain(|part| !["ln_tuning_layers", "token_adapter"].contains(part));
    if let Some(at) = parts.iter().position(|part| *part == "modules_to_save") {
        // The name of the adapter follows, except in what peft itself saved.
        let named = parts.len() - at > 2;
        parts.drain(at..=at + usize::from(named));
    }
    // The wrapped module's own tensor: an embedding beside its update, or a bias.
    let wrapped = parts.iter().position(|part| *part == "base_layer");
    wrapped.map(|at| parts.remove(at));
    Role::Replacement { name: parts.join("."), is_wrapped: wrapped.is_some() }
}

fn factor<'a>(parts: &[&'a str], at: usize) -> Role<'a> {
    let (module, rest) = (&parts[..at], &parts[at + 1..]);
    let (side, embedding) = match parts[at] {
        "lora_A" => (Side::A, false),
        "lora_B" => (Side::B, false),
        "lora_embedding_A" => (Side::A, true),
        "lora_embedding_B" => (Side::B, true),
        "lora_magnitude_vector" => {
            let (module, adapter) = (module.join("."), adapter_after(rest));
            return Role::Magnitude { module, adapter };
        }
        _ => return Role::Unsupported("tensors of an unknown variant of LoRA"),
    };
    let depth = module.iter().filter(|part| **part == "base_layer").count();
    let adapter = match (embedding, rest) {
        (false, ["weight"]) | (true, []) => None,
        (false, [name, "weight"]) | (true, [name]) => Some(*name),
        (false, ["bias"] | [_, "bias"]) if side == Side::B => {
            let adapter = if rest.len() > 1 { Some(rest[0]) } else { None };
            return Role::Bias { module: module.join("."), adapter };
        }
        _ => return Role::Unsupported("tensors of an unknown variant of LoRA"),
    };
    if module.is_empty() {
        return Role::Unsupported("updates that belong to no module");
    }
    if depth > 0 {
        let module = module.iter().copied().filter(|part| *part != "base_layer");
        let module = module.collect::<Vec<&str>>().join(".");
        return Role::Parameter { module, depth, side, adapter };
    }
    Role::Factor { module: module.join("."), side, embedding, adapter }
}

/// The place of the part of a name by which a kind knows it.
fn end_of(parts: &[&str], kind: &'static Kind) -> Option<(usize, &'static str)> {
    parts.iter().enumerate().rev().find_map(|(at, part)| {
        let end = kind.tensors.iter().find(|end| *end == part)?;
        // Before it stands a module, and after it at most the adapter's name and `weight`.
        (at > 0 && parts.len() - at <= 3).then_some((at, *end))
    })
}

/// The name of the adapter in what follows the end of a name.
fn adapter_after<'a>(rest: &[&'a str]) -> Option<&'a str> {
    rest.first().copied().filter(|name| *name != "weight")
}

/// The names that a tensor may have in a base, the given one first.
pub(super) fn aliases(name: &str) -> Vec<String> {
    let mut all = vec![name.to_owned()];
    let add = |all: &mut Vec<String>, alias: String| {
        if !all.contains(&alias) {
            all.push(alias);
        }
    };
    let known = known::names();
    for rest in known.bodies.iter().filter_map(|body| name.strip_prefix(body.as_str())) {
        for body in &known.bodies {
            add(&mut all, format!("{body}{rest}"));
        }
    }
    for position in 0..all.len() {
        for tower in &known.towers {
            let Some((before, after)) = all[position].split_once(tower.as_str()) else { continue };
            let level = known.tower_level.as_str();
            let alias = match after.strip_prefix(level) {
                Some(after) => format!("{before}{tower}{after}"),
                None => format!("{before}{tower}{level}{after}"),
            };
            add(&mut all, alias);
        }
    }
    all
}

/// The names that versions of transformers give to a tensor, the given one first.
pub fn names_of(name: &str) -> Vec<String> {
    aliases(name)
}

/// The name that `base` has for what another model calls `name`: the same, or the only one that
/// transformers gave to the same part of a model; none if there is none, or several.
pub fn name_in(base: &Index, name: &str) -> Option<String> {
    let mut names = aliases(name).into_iter();
    if let Some(own) = names.next().filter(|own| base.position(own).is_some()) {
        return Some(own);
    }
    let mut found = names.filter(|alias| base.position(alias).is_some());
    found.next().filter(|_| found.next().is_none())
}

/// A name with the numbers in it left open, under which layers are listed together.
pub(super) fn without_numbers(name: &str) -> String {
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let parts = name.split('.').map(|part| if is_number(part) { "*" } else { part });
    parts.collect::<Vec<&str>>().join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(name: &str, is_wrapped: bool) -> Role<'static> {
        Role::Replacement { name: name.into(), is_wrapped }
    }

    fn factor(
        module: &str,
        side: Side,
        embedding: bool,
        adapter: Option<&'static str>,
    ) -> Role<'static> {
        Role::Factor { module: module.to_owned(), side, embedding, adapter }
    }

    #[test]
    fn names_of_peft() {
        let cases = [
            ("base_model.model.model.q.lora_A.weight", factor("model.q", Side::A, false, None)),
            ("model.q.lora_B.default.weight", factor("model.q", Side::B, false, Some("default"))),
            ("base_model.model.e.lora_embedding_A", factor("e", Side::A, true, None)),
            ("base_model.model.e.lora_embedding_B.x", factor("e", Side::B, true, Some("x"))),
            ("base_model.model.lm_head.weight", whole("lm_head.weight", false)),
            ("base_model.model.h.modules_to_save.default.dense.bias", whole("h.dense.bias", false)),
            ("base_model.model.h.modules_to_save.weight", whole("h.weight", false)),
            ("base_model.model.h.original_module.bias", Role::Original),
            ("base_model.model.h.token_adapter.base_layer.weight", whole("h.weight", true)),
            ("base_model.model.q.base_layer.bias", whole("q.bias", true)),
            (
                "base_model.model.q.lora_magnitude_vector",
                Role::Magnitude { module: "q".into(), adapter: None },
            ),
            ("base_model.model.q.lora_B.bias", Role::Bias { module: "q".into(), adapter: None }),
            (
                "base_model.model.e.base_layer.lora_A.weight",
                Role::Parameter { module: "e".into(), depth: 1, side: Side::A, adapter: None },
            ),
        ];
        for (name, wanted) in cases {
            assert_eq!(role(name), wanted, "{name}");
        }
        for name in ["lora_A.weight", "q.lora_A", "q.lora_diag.default", "modules_to_save", ""] {
            // Whatever it is, it is told and not trusted.
            let _ = role(name);
        }
        assert!(matches!(role("lora_A.weight"), Role::Unsupported(_)));
    }

    #[test]
    fn a_body_has_many_names() {
        let check = |name: &str, other: &str| {
            assert!(aliases(name).iter().any(|alias| alias == other), "{name} as {other}");
            assert!(aliases(other).iter().any(|alias| alias == name), "{other} as {name}");
            assert_eq!(aliases(name)[0], name);
        };
        check("model.layers.0.q", "model.language_model.layers.0.q");
        check("model.layers.0.q", "language_model.model.layers.0.q");
        check("model.language_model.layers.0.q", "language_model.model.layers.0.q");
        check("model.visual.blocks.0.q", "visual.blocks.0.q");
        check("transformer.h.0.attn.c_attn", "h.0.attn.c_attn");
        check("lm_head", "language_model.lm_head");
        check("model.vision_tower.encoder.q", "vision_tower.vision_model.encoder.q");
        assert!(!aliases("vision_tower.layers.0.q").contains(&"model.layers.0.q".to_owned()));
    }

    #[test]
    fn numbers_are_left_open() {
        assert_eq!(without_numbers("model.layers.12.mlp.w1"), "model.layers.*.mlp.w1");
    }
}
