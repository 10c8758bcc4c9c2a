//! The header of a GGUF file: what config.json, the tokenizer and the chat template say, by GGUF's keys.

use mixdown_checkpoint::gguf_file::{GgufFile, GgufValue};
use mixdown_checkpoint::layout::Layout;
use mixdown_checkpoint::quantize::{GgufNames, Norm, Positions};
use mixdown_diagnostics::{Diagnostic, codes};
use mixdown_plan::GgufOutput;
use serde_json::Value;

use super::gguf_tokenizer::Beside;
use super::{MergeRequest, gguf_tokenizer};
use crate::planning::Planned;

/// A header's values, tensors of constants, and what the user should know.
#[derive(Debug, Default)]
pub struct Head {
    pub metadata: Vec<(String, GgufValue)>,
    pub known: Vec<(String, Vec<f32>)>,
    pub warnings: Vec<Diagnostic>,
}

/// The file of a model as GGUF.
const NAME: &str = "model.gguf";

/// The key of how many tokens a model was trained for.
const CONTEXT: &str = "context_length";

/// Where each tensor of a GGUF file will lie.
///
/// **Errors.** Parts of a file, whose header is all of it; those of a layout.
pub fn layout(
    request: &MergeRequest,
    planned: &Planned,
    head: &Head,
) -> Result<Layout, Box<Diagnostic>> {
    if request.part.is_some() {
        refuse_parts(planned)?;
    }
    let jobs = planned.plan.jobs.iter();
    let tensors: Vec<_> = jobs.filter_map(|job| job.quantized.as_ref()?.in_gguf()).collect();
    let file = GgufFile::new(&head.metadata, &head.known, &tensors);
    Layout::in_gguf_file(planned.plan.stored().collect(), &file, NAME)
}

/// Refuses to make a GGUF file in parts.
pub fn refuse_parts(planned: &Planned) -> Result<(), Box<Diagnostic>> {
    if planned.plan.output.gguf.is_none() {
        return Ok(());
    }
    let headline = "a GGUF file is not made in parts";
    let error = Diagnostic::error(codes::UNSUPPORTED, headline);
    Err(Box::new(error.help("make safetensors in parts, and convert what they are joined to")))
}

/// A size of a config, by the name that most families have for it, or those that others do.
fn size(config: &Value, key: &str) -> Option<u64> {
    const OTHERS: [(&str, &[&str]); 5] = [
        ("num_attention_heads", &["n_head"]),
        ("hidden_size", &["n_embd"]),
        ("num_hidden_layers", &["n_layer"]),
        ("max_position_embeddings", &["n_positions", "n_ctx"]),
        ("intermediate_size", &["n_inner"]),
    ];
    let number = |key: &str| mixdown_plan::knowledge::number(config, key);
    let others = || {
        let (_, names) = OTHERS.iter().find(|(known, _)| *known == key)?;
        names.iter().find_map(|name| number(name))
    };
    // GPT-2's layers are four times as wide inside where its config says nothing.
    let usual = || match key {
        "intermediate_size" => Some(4 * number("n_embd")?),
        _ => None,
    };
    number(key).or_else(others).or_else(usual)
}

/// The part of a config about positions: of layers that see everything, where others see a window.
fn positions(config: &Value) -> Option<&Value> {
    let said = config.get("rope_parameters").or_else(|| config.get("rope_scaling"))?;
    Some(said.get("full_attention").unwrap_or(said))
}

/// A number of a config, or of its part about positions.
fn float(config: &Value, key: &str) -> Option<f64> {
    config.get(key).and_then(Value::as_f64).or_else(|| positions(config)?.get(key)?.as_f64())
}

/// The base of frequencies in layers that see a window, where it is another.
fn base_of_windows(config: &Value) -> Option<f64> {
    let own =
        || config.get("rope_parameters")?.get("sliding_attention")?.get("rope_theta")?.as_f64();
    config.get("rope_local_base_freq").and_then(Value::as_f64).or_else(own)
}

/// The header of a model with this config.json. `beside` is what lies beside the
/// weights.
///
/// **Errors.** Positions that llama.cpp computes in another way, and sizes that the config lacks.
pub fn head(
    wanted: &GgufOutput,
    title: &str,
    config: &Value,
    beside: &Beside,
) -> Result<Head, Box<Diagnostic>> {
    let architecture = &wanted.architecture;
    let mut head = Head::default();
    let mut put = |key: &str, value: GgufValue| head.metadata.push((key.to_owned(), value));
    let of = |key: &str| size(config, key);
    let need = |key: &str| {
        of(key).and_then(|value| u32::try_from(value).ok()).ok_or_else(|| {
            let headline = format!("config.json has no `{key}`, which a GGUF file must say");
            Box::new(Diagnostic::error(codes::CONFIG_BROKEN, headline))
        })
    };
    put("general.architecture", GgufValue::Text(architecture.clone()));
    put("general.name", GgufValue::Text(title.to_owned()));
    put("general.file_type", GgufValue::U32(wanted.file_type));
    put("general.quantization_version", GgufValue::U32(2));
    let mut own = |key: &str, value: GgufValue| put(&format!("{architecture}.{key}"), value);
    let (heads, hidden) = (need("num_attention_heads")?, need("hidden_size")?);
    let head_size = of("head_dim").map_or(hidden / heads.max(1), |size| size as u32);
    own("block_count", GgufValue::U32(need("num_hidden_layers")?));
    let model_type = config.get("model_type").and_then(Value::as_str).unwrap_or_default();
    let names = GgufNames::of(model_type);
    // Of some families the window that a model was trained for has another key than its positions.
    let windows = names.and_then(|names| names.counts().find(|(key, _)| *key == CONTEXT));
    let window = windows.and_then(|(_, keys)| keys.iter().find_map(|key| of(key)));
    let window = match window.and_then(|window| u32::try_from(window).ok()) {
        Some(window) => window,
        None => need("max_position_embeddings")?,
    };
    own(CONTEXT, GgufValue::U32(window));
    own("embedding_length", GgufValue::U32(hidden));
    own("feed_forward_length", GgufValue::U32(need("intermediate_size")?));
    own("attention.head_count", GgufValue::U32(heads));
    let shared = of("num_key_value_heads").map_or(heads, |count| count as u32);
    own("attention.head_count_kv", GgufValue::U32(shared));
    own("attention.key_length", GgufValue::U32(head_size));
    own("attention.value_length", GgufValue::U32(head_size));
    if names.is_some_and(|names| names.norm() == Norm::Layer) {
        let epsilon = ["layer_norm_eps", "layer_norm_epsilon", "norm_epsilon"];
        let epsilon = epsilon.iter().find_map(|key| float(config, key)).unwrap_or(1e-5);
        own("attention.layer_norm_epsilon", GgufValue::F32(epsilon as f32));
    } else {
        let epsilon = float(config, "rms_norm_eps").unwrap_or(1e-6);
        own("attention.layer_norm_rms_epsilon", GgufValue::F32(epsilon as f32));
    }
    let is_rotary = names.is_none_or(|names| names.positions() == Positions::Rotary);
    let base = float(config, "rope_theta").unwrap_or(10_000.0);
    if is_rotary {
        own("rope.freq_base", GgufValue::F32(base as f32));
        // A head may be turned in its first part alone.
        let turned = float(config, "partial_rotary_factor").unwrap_or(1.0);
        let turned_size = (f64::from(head_size) * turned) as u32;
        own("rope.dimension_count", GgufValue::U32(turned_size));
    }
    if let Some(base) = base_of_windows(config).filter(|_| is_rotary) {
        own("rope.freq_base_swa", GgufValue::F32(base as f32));
    }
    if let Some(names) = names {
        for (key, from) in names.counts().filter(|(key, _)| *key != CONTEXT) {
            let found = from.iter().find_map(|name| u32::try_from(of(name)?).ok());
            found.into_iter().for_each(|count| own(key, GgufValue::U32(count)));
        }
        for (key, from) in names.numbers() {
            let found = from.iter().find_map(|name| config.get(name)?.as_f64());
            found.into_iter().for_each(|number| own(key, GgufValue::F32(number as f32)));
        }
    }
    own("vocab_size", GgufValue::U32(need("vocab_size")?));
    let positions = positions(config);
    let kind = positions
        .and_then(|positions| positions.get("rope_type").or_else(|| positions.get("type")))
        .and_then(Value::as_str)
        .unwrap_or("default");
    match kind {
        "default" => {}
        "linear" | "yarn" => {
            let factor = float(config, "factor").unwrap_or(1.0);
            own("rope.scaling.type", GgufValue::Text(kind.to_owned()));
            own("rope.scaling.factor", GgufValue::F32(factor as f32));
            let original = positions
                .and_then(|positions| positions.get("original_max_position_embeddings"))
                .and_then(Value::as_u64);
            if let Some(original) = original {
                own("rope.scaling.original_context_length", GgufValue::U32(original as u32));
            }
        }
        "llama3" => {
            let values = llama3(config, base, head_size);
            head.known.push(("rope_freqs.weight".to_owned(), values));
        }
        other => {
            let headline = format!("positions of the kind `{other}` are not written to GGUF files");
            let error = Diagnostic::error(codes::UNSUPPORTED, headline)
                .fact("written", "default, linear, yarn, llama3");
            return Err(Box::new(error));
        }
    }
    let vocabulary = need("vocab_size")? as usize;
    match gguf_tokenizer::values(architecture, config, vocabulary, beside) {
        Ok((values, warning)) => {
            head.metadata.extend(values);
            head.warnings.extend(warning);
        }
        Err(why) => {
            let headline = "the GGUF file has no tokenizer";
            let warning = Diagnostic::warning(codes::NOT_COPIED, headline).note(why);
            head.warnings
                .push(warning.note(
                    "llama.cpp does not load it; other programs may bring a tokenizer along",
                ));
        }
    }
    Ok(head)
}

/// What frequencies of positions are divided by in Llama 3.1 and its successors: nothing where a wave is
/// short, the factor where it is long, and what lies between in between.
fn llama3(config: &Value, base: f64, head_size: u32) -> Vec<f32> {
    let of = |key: &str, usual: f64| float(config, key).unwrap_or(usual);
    let (factor, low, high) =
        (of("factor", 8.0), of("low_freq_factor", 1.0), of("high_freq_factor", 4.0));
    let original = of("original_max_position_embeddings", 8192.0);
    let values = (0..head_size / 2).map(|at| {
        let frequency = base.powf(-2.0 * f64::from(at) / f64::from(head_size));
        let wave = 2.0 * std::f64::consts::PI / frequency;
        if wave < original / high {
            1.0
        } else if wave > original / low {
            factor
        } else {
            let smooth = (original / wave - low) / (high - low);
            1.0 / ((1.0 - smooth) / factor + smooth)
        }
    });
    values.map(|value| value as f32).collect()
}
