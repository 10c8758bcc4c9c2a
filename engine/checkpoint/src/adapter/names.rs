//! The names that peft gives to the tensors of an adapter, and the names under which a base may
//! store what they mean.

use crate::index::Index;

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
    /// A tensor that stands in for the base's of this name.
    Replacement(String),
    /// Something that no update has.
    Unsupported(&'static str),
}

/// Reads a name.
pub(super) fn role(name: &str) -> Role<'_> {
    let parts: Vec<&str> = name.split('.').filter(|part| !WRAPPERS.contains(part)).collect();
    // In front of peft's prefix stands what wrapped the whole.
    let parts = match parts.as_slice() {
        ["module", "base_model", "model", rest @ ..] | ["base_model", "model", rest @ ..] => {
            rest.to_vec()
        }
        _ => parts,
    };
    if parts.contains(&"trainable_tokens_delta") {
        return Role::Unsupported("rows of an embedding that were trained one by one");
    }
    if let Some(at) = parts.iter().rposition(|part| part.starts_with("lora_")) {
        return factor(&parts, at);
    }
    let mut parts = parts;
    if let Some(at) = parts.iter().position(|part| *part == "modules_to_save") {
        // The name of the adapter follows, except in what peft itself saved.
        let named = parts.len() - at > 2;
        parts.drain(at..=at + usize::from(named));
    }
    if let Some(at) = parts.iter().position(|part| *part == "base_layer") {
        // The wrapped module's own tensor: an embedding beside its update, or a bias.
        parts.remove(at);
    }
    Role::Replacement(parts.join("."))
}

fn factor<'a>(parts: &[&'a str], at: usize) -> Role<'a> {
    let (module, rest) = (&parts[..at], &parts[at + 1..]);
    let (side, embedding) = match parts[at] {
        "lora_A" => (Side::A, false),
        "lora_B" => (Side::B, false),
        "lora_embedding_A" => (Side::A, true),
        "lora_embedding_B" => (Side::B, true),
        "lora_magnitude_vector" => return Role::Unsupported("magnitudes of DoRA"),
        _ => return Role::Unsupported("tensors of an unknown variant of LoRA"),
    };
    if module.contains(&"base_layer") {
        return Role::Unsupported("updates of parameters outside linear layers");
    }
    let adapter = match (embedding, rest) {
        (false, ["weight"]) | (true, []) => None,
        (false, [name, "weight"]) | (true, [name]) => Some(*name),
        (false, ["bias"] | [_, "bias"]) => return Role::Unsupported("biases of `lora_B`"),
        _ => return Role::Unsupported("tensors of an unknown variant of LoRA"),
    };
    if module.is_empty() {
        return Role::Unsupported("updates that belong to no module");
    }
    Role::Factor { module: module.join("."), side, embedding, adapter }
}

/// Where the language model of a checkpoint may begin: published files, files saved by
/// transformers since 4.52, files of the language model alone, GPT-2 with and without.
const BODIES: [&str; 6] = [
    "model.language_model.",
    "language_model.model.",
    "language_model.",
    "model.",
    "transformer.",
    "",
];

/// Towers whose tensors are stored with and without the level of the model class.
const TOWERS: [&str; 3] = ["vision_tower.", "image_tower.", "video_tower."];

/// The names that a tensor may have in a base, the given one first.
pub(super) fn aliases(name: &str) -> Vec<String> {
    let mut all = vec![name.to_owned()];
    let add = |all: &mut Vec<String>, alias: String| {
        if !all.contains(&alias) {
            all.push(alias);
        }
    };
    for rest in BODIES.iter().filter_map(|body| name.strip_prefix(body)) {
        for body in BODIES {
            add(&mut all, format!("{body}{rest}"));
        }
    }
    for position in 0..all.len() {
        for tower in TOWERS {
            let Some((before, after)) = all[position].split_once(tower) else { continue };
            let alias = match after.strip_prefix("vision_model.") {
                Some(after) => format!("{before}{tower}{after}"),
                None => format!("{before}{tower}vision_model.{after}"),
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
            ("base_model.model.lm_head.weight", Role::Replacement("lm_head.weight".into())),
            (
                "base_model.model.h.modules_to_save.default.dense.bias",
                Role::Replacement("h.dense.bias".into()),
            ),
            ("base_model.model.h.modules_to_save.weight", Role::Replacement("h.weight".into())),
            ("base_model.model.q.base_layer.bias", Role::Replacement("q.bias".into())),
            ("base_model.model.q.lora_magnitude_vector", Role::Unsupported("magnitudes of DoRA")),
            ("base_model.model.q.lora_B.bias", Role::Unsupported("biases of `lora_B`")),
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
