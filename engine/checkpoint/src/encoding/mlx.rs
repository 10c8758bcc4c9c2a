//! MLX: 32-bit words of codes under the weight's own name, in its affine form and in small floats.

use std::sync::Arc;

use mixdown_tensor::DType;

use super::affine::{Affine, Shift, Sign};
use super::claims::{Family, Fault, Found, Stored, expect_dtype, expect_shape};
use super::groups::Grid;
use super::promises::Kind;
use super::unpack::Stream;
use super::values::{Number, Values};
use crate::index::TensorEntry;
use crate::shown::shown;

pub(super) const FAMILY: Family = Family { methods: &[], find };

fn find<'a>(stored: &Stored<'a>, tensor: &'a TensorEntry) -> Option<Result<Found<'a>, Fault>> {
    let module = tensor.name.strip_suffix("weight")?;
    if tensor.dtype != DType::U32 || !(module.is_empty() || module.ends_with('.')) {
        return None;
    }
    match stored.get(&format!("{module}scales")) {
        Some(scales) => Some(words(stored, [tensor, scales], module)),
        // A configuration of MLX promises them.
        None if stored.settings.count("bits").is_some() => {
            Some(Err(Fault::new(format!("`{}scales` is missing", shown(module)))))
        }
        None => None,
    }
}

fn words<'a>(
    stored: &Stored<'a>,
    [codes, scales]: [&'a TensorEntry; 2],
    module: &str,
) -> Result<Found<'a>, Fault> {
    let own = stored.settings.get(module.trim_end_matches('.')).filter(|own| own.is_object());
    let count = |key: &str| match own {
        Some(own) => own.get(key).and_then(|value| value.as_u64()),
        None => stored.settings.count(key),
    };
    let mode = match own {
        Some(own) => own.get("mode").and_then(|mode| mode.as_str()),
        None => stored.settings.text("mode"),
    };
    let (Some(bits), Some(group)) = (count("bits"), count("group_size")) else {
        let what = format!("nothing says how many bits the codes of `{}` have", shown(&codes.name));
        return Err(Fault::new(what).fact("expected", "`bits` and `group_size` in config.json"));
    };
    let mode = mode.unwrap_or("affine");
    let (values, number, widths): (_, _, &[u64]) = match mode {
        "affine" => (Values::Minus(0), Number::of_scale(scales.dtype), &[2, 3, 4, 5, 6, 8]),
        "mxfp4" => (Values::E2M1, Some(Number::E8M0), &[4]),
        "nvfp4" => (Values::E2M1, Some(Number::E4M3), &[4]),
        "mxfp8" => (Values::E4M3, Some(Number::E8M0), &[8]),
        _ => return Err(Fault::unread(format!("MLX in the mode `{}`", shown(mode)))),
    };
    let wrong = |what: &str| {
        Fault::new(format!("`{}` {what}", shown(&codes.name)))
            .fact("configuration", format!("{bits} bits, groups of {group}, {mode}"))
            .fact("codes", codes.shape.to_string())
            .fact("scales", scales.shape.to_string())
    };
    if !widths.contains(&bits) || group == 0 {
        return Err(wrong("has settings that its mode does not have"));
    }
    let (leading, words) = match codes.shape.dimensions() {
        [leading @ .., words] if !leading.is_empty() => (leading, *words),
        _ => return Err(wrong("is no matrix")),
    };
    let columns = words.saturating_mul(32) / bits;
    if columns.checked_mul(bits) != words.checked_mul(32) || !columns.is_multiple_of(group) {
        return Err(wrong("does not hold whole groups"));
    }
    let groups = columns / group;
    let shape = [leading, &[groups]].concat();
    if scales.shape.dimensions() != shape {
        return Err(wrong("does not have as many groups as scales"));
    }
    let rows: u64 = leading.iter().product();
    let plane = [rows.max(1), rows];
    let grid = |part, number| Grid { part, number, plane, rows: 1, columns: groups, whole: None };
    let mut parts = vec![codes, scales];
    let (shift, number) = match mode {
        "affine" => {
            let floats = [DType::F32, DType::F16, DType::Bf16];
            expect_dtype(scales, &floats)?;
            let biases = stored.need(&format!("{module}biases"))?;
            expect_dtype(biases, &[scales.dtype])?;
            expect_shape(biases, &shape)?;
            parts.push(biases);
            let number = number.unwrap_or(Number::F32);
            (Shift::Offsets(Box::new(grid(2, number))), number)
        }
        _ => {
            expect_dtype(scales, &[DType::U8])?;
            (Shift::Nothing, number.unwrap_or(Number::E8M0))
        }
    };
    let codec = Affine {
        columns,
        codes: Box::new(Stream {
            part: 0,
            bits: bits as u32,
            row_bytes: words * 4,
            columns: None,
            values,
        }),
        group,
        index: None,
        scales: Box::new(grid(1, number)),
        // Affine scales are below zero where the largest magnitude is.
        sign: if mode == "affine" { Sign::NotZero } else { Sign::Magnitude },
        shift,
        of_columns: None,
        factor: None,
    };
    Ok(Found {
        kind: if mode == "affine" { Kind::whole(bits) } else { Kind::floats(bits) },
        methods: None,
        name: codes.name.clone(),
        shape: [leading, &[columns]].concat(),
        scheme: format!("MLX {mode}, {bits} bits, groups of {group}"),
        parts,
        beside: Vec::new(),
        codec: Arc::new(codec),
    })
}
