//! GPTQ: words of codes that run down the input axis, zero points that run along the output axis, in
//! three formats that share names and shapes.

use std::sync::Arc;

use mixdown_tensor::DType;

use super::affine::{Affine, Shift, Sign};
use super::blocks::Lines;
use super::claims::{Family, Fault, Found, Stored, expect_dtype, expect_shape};
use super::groups::{Across, Less, PackedAcross};
use super::promises::Kind;
use super::unpack::{Down, Order};
use super::values::{Number, Values};
use crate::index::TensorEntry;
use crate::shown::shown;

pub(super) const FAMILY: Family = Family { methods: &["gptq"], find };

fn find<'a>(stored: &Stored<'a>, tensor: &'a TensorEntry) -> Option<Result<Found<'a>, Fault>> {
    let module = tensor.name.strip_suffix("qweight")?;
    if tensor.dtype != DType::I32 || stored.settings.method() == Some("awq") {
        return None;
    }
    // AWQ has the same names; its codes are packed along the other axis.
    let width = |tensor: &TensorEntry| tensor.shape.dimensions().get(1).copied();
    let scales = stored.get(&format!("{module}scales"));
    let is_own = scales.is_none_or(|scales| width(scales) == width(tensor));
    (is_own || stored.settings.method() == Some("gptq")).then(|| gptq(stored, tensor, module))
}

fn gptq<'a>(stored: &Stored<'a>, codes: &'a TensorEntry, module: &str) -> Result<Found<'a>, Fault> {
    let scales = stored.need(&format!("{module}scales"))?;
    let zeros = stored.need(&format!("{module}qzeros"))?;
    // Names, types and shapes are the same in all formats, and zero points are not.
    if !stored.settings.is_there() {
        let what = format!("nothing says in which format `{}` is packed", shown(&codes.name));
        return Err(Fault::new(what).fact(
            "expected",
            "`quantization_config` in config.json, or quantize_config.json beside it",
        ));
    }
    let format = stored.settings.text("checkpoint_format").unwrap_or("gptq");
    if !["gptq", "gptq_v2", "gptq_p"].contains(&format) {
        return Err(Fault::unread(format!("GPTQ in the format `{}`", shown(format))));
    }
    let ([lines, outputs], [groups, zero_words]) = (sizes(codes)?, sizes(zeros)?);
    expect_dtype(zeros, &[DType::I32])?;
    expect_dtype(scales, &[DType::F16, DType::Bf16, DType::F32])?;
    expect_shape(scales, &[groups, outputs])?;
    let bits = bits_of(stored, [outputs, zero_words], zeros)?;
    let bits_long = u64::from(bits);
    let inputs = lines.saturating_mul(32) / bits_long;
    if inputs * bits_long != lines.saturating_mul(32) || groups == 0 || inputs == 0 {
        return Err(Fault::new(format!("`{}` does not hold whole codes", shown(&codes.name)))
            .fact("shape", codes.shape.to_string())
            .fact("bits", bits.to_string()));
    }
    let mut parts = vec![codes, scales, zeros];
    let mut index = None;
    let mut group = inputs.div_ceil(groups);
    match stored.get(&format!("{module}g_idx")) {
        Some(order) => {
            expect_dtype(order, &[DType::I32])?;
            expect_shape(order, &[inputs])?;
            index = Some((parts.len(), groups));
            parts.push(order);
        }
        // Columns that were sorted have no other place in the file.
        None if groups > 1 && stored.settings.is_set("desc_act") => {
            return Err(Fault::new(format!("`{}g_idx` is missing", shown(module)))
                .fact("configuration", "`desc_act: true`"));
        }
        None => {
            group = stored.settings.group().unwrap_or(group);
            if inputs.div_ceil(group) != groups {
                return Err(Fault::new(format!(
                    "`{}` has another count of groups",
                    shown(&scales.name)
                ))
                .fact("expected", format!("{} of {group} columns", inputs.div_ceil(group)))
                .fact("found", groups.to_string()));
            }
        }
    }
    let order = match format == "gptq_p" || matches!(bits, 5..=7) {
        true => Order::Planar,
        false => Order::Dense,
    };
    let less = match (format, bits) {
        ("gptq", 2 | 4 | 8) => Less::Word((0..32).step_by(bits as usize).map(|bit| 1 << bit).sum()),
        ("gptq", 3) => Less::Code,
        _ => Less::Nothing,
    };
    let codec = Affine {
        columns: inputs,
        codes: Box::new(Down {
            words: Lines { part: 0, bytes: outputs * 4 },
            bits,
            order,
            values: Values::Minus(0),
        }),
        group,
        index,
        scales: Box::new(Across {
            lines: Lines { part: 1, bytes: outputs * scales.dtype.bytes() as u64 },
            number: Number::of_scale(scales.dtype).unwrap_or(Number::F16),
        }),
        sign: Sign::Any,
        shift: Shift::Zeros(Box::new(PackedAcross {
            words: Lines { part: 2, bytes: zero_words * 4 },
            bits,
            order,
            less,
        })),
        of_columns: None,
        factor: None,
    };
    let version = match format {
        "gptq" => "GPTQ",
        "gptq_v2" => "GPTQ v2",
        _ => "GPTQ in planes",
    };
    Ok(Found {
        kind: Kind::whole(u64::from(bits)),
        methods: None,
        name: format!("{module}weight"),
        shape: vec![outputs, inputs],
        scheme: format!("{version}, {bits} bits, {groups} groups"),
        parts,
        beside: Vec::new(),
        codec: Arc::new(codec),
    })
}

fn sizes(tensor: &TensorEntry) -> Result<[u64; 2], Fault> {
    match tensor.shape.dimensions() {
        [rows, columns] => Ok([*rows, *columns]),
        _ => Err(Fault::new(format!("`{}` is no matrix", shown(&tensor.name)))
            .fact("shape", tensor.shape.to_string())),
    }
}

/// The width of the codes, from the zero points, of which there is one for each output.
fn bits_of(
    stored: &Stored<'_>,
    [outputs, words]: [u64; 2],
    zeros: &TensorEntry,
) -> Result<u32, Fault> {
    let said = stored.settings.count("bits");
    let found = words.saturating_mul(32).checked_div(outputs).unwrap_or(0);
    let is_whole = found * outputs == words.saturating_mul(32);
    if (2..=8).contains(&found) && is_whole && said.is_none_or(|said| said == found) {
        return Ok(found as u32);
    }
    let what = format!("`{}` does not hold one zero point for each output", shown(&zeros.name));
    let fault = Fault::new(what)
        .fact("outputs", outputs.to_string())
        .fact("found", zeros.shape.to_string());
    Err(match said {
        Some(bits) => fault.fact("bits, by the configuration", bits.to_string()),
        None => fault,
    })
}
