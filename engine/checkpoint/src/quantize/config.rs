//! What config.json says of weights in fewer bits, so that other programs find them.

use std::collections::BTreeMap;

use mixdown_tensor::DType;
use serde_json::{Map, Value, json};

use super::form::{Code, Form, Scaled, Spread};

/// A module with a weight, as config.json must know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The module's name: that of its weight without `.weight`.
    pub module: String,
    /// How its weight is written; none where it stays as it is.
    pub form: Option<Form>,
}

/// The key and value that describe the quantization of modules; none where no module is quantized.
///
/// Modules that stay as they are must be listed, or programs would look for their codes.
/// `dtype` is the type that the model calculates in.
pub fn config(modules: &[Written], dtype: Option<DType>) -> Option<(&'static str, Value)> {
    let first = modules.iter().find_map(|module| module.form.as_ref())?;
    let wide: Vec<&str> = modules
        .iter()
        .filter(|module| module.form.is_none())
        .map(|module| module.module.as_str())
        .collect();
    Some(match first {
        Form::Scaled(_) | Form::Mxfp4 | Form::Nvfp4 => {
            ("quantization_config", compressed_tensors(modules, &wide))
        }
        Form::Nf4 | Form::LlmInt8 => {
            let dtype = dtype.map_or("bfloat16", DType::torch_name);
            ("quantization_config", bitsandbytes(modules, &wide, dtype))
        }
        // The file itself says how.
        Form::Gguf(_) => return None,
        Form::Mlx { .. } => ("quantization", mlx(modules)),
        Form::BlockFp8 { rows, columns } => (
            "quantization_config",
            json!({
                "quant_method": "fp8",
                "fmt": "e4m3",
                "activation_scheme": "dynamic",
                "weight_block_size": [rows, columns],
                "modules_to_not_convert": wide,
            }),
        ),
    })
}

/// As transformers writes it for weights of 8 bits, or of 4 without a second quantization of magnitudes.
fn bitsandbytes(modules: &[Written], wide: &[&str], dtype: &str) -> Value {
    let is_four = modules.iter().any(|module| module.form == Some(Form::Nf4));
    json!({
        "_load_in_4bit": is_four,
        "_load_in_8bit": !is_four,
        "bnb_4bit_compute_dtype": dtype,
        "bnb_4bit_quant_storage": "uint8",
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": false,
        "llm_int8_enable_fp32_cpu_offload": false,
        "llm_int8_has_fp16_weight": false,
        "llm_int8_skip_modules": wide,
        "llm_int8_threshold": 6.0,
        "load_in_4bit": is_four,
        "load_in_8bit": !is_four,
        "quant_method": "bitsandbytes",
    })
}

/// The form that most modules have, and those of the others by their names.
fn mlx(modules: &[Written]) -> Value {
    let of = |module: &Written| match module.form {
        Some(Form::Mlx { bits, group }) => Some((bits, group)),
        _ => None,
    };
    let mut counts: BTreeMap<(u8, u64), usize> = BTreeMap::new();
    modules.iter().filter_map(of).for_each(|form| *counts.entry(form).or_default() += 1);
    let usual = counts.iter().max_by_key(|(form, count)| (**count, **form)).map(|(form, _)| *form);
    let settings =
        |(bits, group): (u8, u64)| json!({"group_size": group, "bits": bits, "mode": "affine"});
    let mut told = usual.map_or(Value::Null, settings);
    for module in modules {
        if let Some(form) = of(module).filter(|form| Some(*form) != usual) {
            told[&module.module] = settings(form);
        }
    }
    told
}

fn compressed_tensors(modules: &[Written], wide: &[&str]) -> Value {
    // In the order of their texts, so that it does not depend on which module came first.
    let mut forms: BTreeMap<String, (&Form, Vec<&str>)> = BTreeMap::new();
    for module in modules {
        if let Some(form) = &module.form {
            let (_, names) = forms.entry(form.to_string()).or_insert((form, Vec::new()));
            names.push(&module.module);
        }
    }
    let is_one = forms.len() == 1;
    let mut groups = Map::new();
    let mut formats: Vec<&str> = Vec::new();
    for (number, (form, names)) in forms.values().enumerate() {
        let format = format_of(form);
        if !formats.contains(&format) {
            formats.push(format);
        }
        let targets = if is_one { json!(["Linear"]) } else { json!(names) };
        groups.insert(
            format!("group_{number}"),
            json!({
                "format": format,
                "input_activations": activations(form),
                "output_activations": null,
                "targets": targets,
                "weights": weights(form),
            }),
        );
    }
    let format = if let [one] = formats[..] { one } else { "mixed-precision" };
    json!({
        "config_groups": groups,
        "format": format,
        "ignore": wide,
        "kv_cache_scheme": null,
        "quant_method": "compressed-tensors",
        "quantization_status": "compressed",
        // The oldest version that reads all of this.
        "version": "0.20.1",
    })
}

fn format_of(form: &Form) -> &'static str {
    match form {
        Form::Scaled(Scaled { code: Code::E4M3, .. }) => "float-quantized",
        Form::Scaled(Scaled { code: Code::I8, .. }) => "int-quantized",
        Form::Scaled(Scaled { code: Code::Packed(_), .. }) => "pack-quantized",
        Form::Mxfp4 => "mxfp4-pack-quantized",
        Form::Nvfp4 => "nvfp4-pack-quantized",
        // A folder has the forms of one library.
        Form::BlockFp8 { .. } | Form::Nf4 | Form::LlmInt8 | Form::Mlx { .. } | Form::Gguf(_) => {
            "dense"
        }
    }
}

fn weights(form: &Form) -> Value {
    let mut weights =
        json!({"dynamic": false, "group_size": null, "symmetric": true, "type": "float"});
    let mut set = |key: &str, value: Value| weights[key] = value;
    match form {
        Form::Scaled(Scaled { code, spread, symmetric, .. }) => {
            set("num_bits", code.bits().into());
            set("symmetric", (*symmetric).into());
            if *code != Code::E4M3 {
                set("type", "int".into());
            }
            match spread {
                Spread::Tensor => set("strategy", "tensor".into()),
                Spread::Channel => set("strategy", "channel".into()),
                Spread::Group(group) => {
                    set("strategy", "group".into());
                    set("group_size", (*group).into());
                }
                Spread::Block(rows, columns) => {
                    set("strategy", "block".into());
                    set("block_structure", json!([rows, columns]));
                }
            }
        }
        Form::Mxfp4 => {
            set("num_bits", 4.into());
            set("strategy", "group".into());
            set("group_size", 32.into());
            set("scale_dtype", "torch.uint8".into());
        }
        Form::Nvfp4 => {
            set("num_bits", 4.into());
            set("strategy", "tensor_group".into());
            set("group_size", 16.into());
            set("scale_dtype", "torch.float8_e4m3fn".into());
        }
        Form::BlockFp8 { .. } | Form::Nf4 | Form::LlmInt8 | Form::Mlx { .. } | Form::Gguf(_) => {}
    }
    weights
}

/// Weights of 8 bits are multiplied with activations of 8 bits, which programs round as they come.
fn activations(form: &Form) -> Value {
    let Form::Scaled(Scaled { code, spread, .. }) = form else { return Value::Null };
    let kind = match code {
        Code::E4M3 => "float",
        Code::I8 => "int",
        Code::Packed(_) => return Value::Null,
    };
    let mut found = json!({"dynamic": true, "group_size": null, "num_bits": 8, "strategy": "token", "symmetric": true, "type": kind});
    if let Spread::Block(_, columns) = spread {
        found["strategy"] = "group".into();
        found["group_size"] = (*columns).into();
    }
    found
}
