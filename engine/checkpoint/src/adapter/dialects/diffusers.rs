//! Files of diffusers (`pytorch_lora_weights.safetensors`): names begin with the part of the pipeline; older
//! ones have the names of attention processors, and newer ones peft's.

use std::collections::BTreeMap;

use mixdown_diagnostics::{Diagnostic, codes};
use serde_json::{Map, Value};

use super::{Dialect, Meaning};
use crate::adapter::config::AdapterConfig;

pub(super) const DIALECT: Dialect = Dialect {
    program: "diffusers",
    separator: '.',
    groups: &[
        "unet.",
        "transformer.",
        "transformer_2.",
        "text_encoder.",
        "text_encoder_2.",
        "text_encoder_3.",
        "prior.",
        "decoder.",
        "diffusion_model.",
    ],
    is_turned: false,
    is_own,
    meaning,
};

/// The entry of a file's metadata in which newer versions say ranks and α.
pub(super) const METADATA: &str = "lora_adapter_metadata";

/// Endings of factors, and what peft calls them.
const FACTORS: [(&str, &str); 8] = [
    (".lora_A.weight", ".lora_A.weight"),
    (".lora_B.weight", ".lora_B.weight"),
    (".lora_linear_layer.down.weight", ".lora_A.weight"),
    (".lora_linear_layer.up.weight", ".lora_B.weight"),
    (".lora.down.weight", ".lora_A.weight"),
    (".lora.up.weight", ".lora_B.weight"),
    ("_lora.down.weight", ".lora_A.weight"),
    ("_lora.up.weight", ".lora_B.weight"),
];

fn is_own(name: &str) -> bool {
    DIALECT.groups.iter().any(|group| name.starts_with(group))
        && FACTORS.iter().any(|(end, _)| name.ends_with(end))
}

fn meaning(name: &str) -> Meaning {
    if !DIALECT.groups.iter().any(|group| name.starts_with(group)) {
        return Meaning::Unknown("tensors of no part of a pipeline");
    }
    if let Some(module) = name.strip_suffix(".alpha") {
        let module = module.strip_suffix(".lora").unwrap_or(module);
        let module = module.strip_suffix(".lora_linear_layer").unwrap_or(module);
        return Meaning::Alpha(of_processor(module.strip_suffix("_lora").unwrap_or(module)));
    }
    let factor =
        FACTORS.iter().find_map(|(end, own)| name.strip_suffix(end).map(|module| (module, own)));
    if let Some((module, own)) = factor {
        return Meaning::Tensor(format!("{}{own}", of_processor(module)));
    }
    let magnitude = [".lora_magnitude_vector.weight", ".lora_magnitude_vector"];
    if let Some(module) = magnitude.iter().find_map(|end| name.strip_suffix(end)) {
        return Meaning::Tensor(format!("{module}.lora_magnitude_vector"));
    }
    match name.ends_with(".lora_B.bias") {
        true => Meaning::Tensor(name.to_owned()),
        false => Meaning::Unknown("tensors of an unknown variant of LoRA"),
    }
}

/// The layer that an attention processor's update is of.
fn of_processor(module: &str) -> String {
    let (before, last) = module.rsplit_once('.').unwrap_or(("", module));
    let is_text = module.starts_with("text_encoder");
    let own = match last {
        "to_q" if is_text => "q_proj",
        "to_k" if is_text => "k_proj",
        "to_v" if is_text => "v_proj",
        "to_out" if is_text => "out_proj",
        "to_out" => "to_out.0",
        _ => last,
    };
    match before {
        "" => own.to_owned(),
        _ => format!("{}.{own}", before.strip_suffix(".processor").unwrap_or(before)),
    }
}

/// What the metadata says of each part of the pipeline.
///
/// **Errors.** Settings that are none, or under which an update is not the product of two factors.
pub(super) fn settings(
    name: &str,
    text: &str,
) -> Result<BTreeMap<String, AdapterConfig>, Vec<Diagnostic>> {
    let broken = |error: serde_json::Error| {
        let headline = format!("`{METADATA}` of a file of factors is no JSON map: {error}");
        vec![Diagnostic::error(codes::ADAPTER_CONFIG, headline).in_file(name)]
    };
    let all: Map<String, Value> = serde_json::from_str(text).map_err(broken)?;
    let mut parts: BTreeMap<String, Map<String, Value>> = BTreeMap::new();
    for (key, value) in all {
        let Some((part, key)) = key.split_once('.') else { continue };
        parts.entry(part.to_owned()).or_default().insert(key.to_owned(), value);
    }
    parts
        .into_iter()
        .map(|(part, mut settings)| {
            settings.entry("peft_type").or_insert_with(|| "LORA".into());
            let text = Value::Object(settings).to_string();
            let config = AdapterConfig::parse(&format!("{name}, {METADATA}, {part}"), &text)?;
            Ok((part, config))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_ages_of_names_are_one() {
        let attention = "down_blocks.0.attentions.0.transformer_blocks.0.attn1";
        let cases = [
            (
                format!("unet.{attention}.processor.to_q_lora.down.weight"),
                format!("unet.{attention}.to_q.lora_A.weight"),
            ),
            (
                format!("unet.{attention}.processor.to_out_lora.up.weight"),
                format!("unet.{attention}.to_out.0.lora_B.weight"),
            ),
            (
                format!("unet.{attention}.to_out.0.lora.up.weight"),
                format!("unet.{attention}.to_out.0.lora_B.weight"),
            ),
            (
                format!("unet.{attention}.to_k.lora_A.weight"),
                format!("unet.{attention}.to_k.lora_A.weight"),
            ),
            (
                "text_encoder.a.self_attn.q_proj.lora_linear_layer.up.weight".into(),
                "text_encoder.a.self_attn.q_proj.lora_B.weight".into(),
            ),
            (
                "text_encoder.a.self_attn.to_q_lora.down.weight".into(),
                "text_encoder.a.self_attn.q_proj.lora_A.weight".into(),
            ),
        ];
        for (name, wanted) in cases {
            match meaning(&name) {
                Meaning::Tensor(found) => assert_eq!(found, wanted),
                Meaning::Alpha(_) | Meaning::Unknown(_) => panic!("{name}"),
            }
            assert!(is_own(&name), "{name}");
        }
        assert!(
            matches!(meaning("unet.a.to_q.alpha"), Meaning::Alpha(module) if module == "unet.a.to_q")
        );
        assert!(!is_own("text_encoder.encoder.layers.0.weight"));
    }
}
