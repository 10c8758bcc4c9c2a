//! Weights of eight bits under their own name with scales beside them: fp8 of DeepSeek and Qwen
//! (`weight_scale_inv`, which multiplies in spite of its name), of compressed-tensors, ModelOpt and
//! FBGEMM, and int8 of the first two.

use std::sync::Arc;

use mixdown_tensor::DType;

use super::affine::{Affine, Shift, Sign};
use super::claims::{Family, Fault, Found, Stored, expect_dtype, expect_shape};
use super::groups::Grid;
use super::promises::Kind;
use super::unpack::Stream;
use super::values::{Number, Values};
use super::{Codec, Reader};
use crate::index::TensorEntry;
use crate::shown::shown;
use crate::source::ReadError;

pub(super) const FAMILY: Family =
    Family { methods: &["fp8", "fbgemm_fp8", "compressed-tensors", "modelopt"], find };

fn find<'a>(stored: &Stored<'a>, tensor: &'a TensorEntry) -> Option<Result<Found<'a>, Fault>> {
    let inverse = tensor.name.strip_suffix("_scale_inv");
    let name = inverse.or_else(|| tensor.name.strip_suffix("_scale"))?;
    let codes = match stored.get(name) {
        Some(codes) => codes,
        None if inverse.is_some() => {
            return Some(Err(Fault::new(format!("`{}` is missing", shown(name)))));
        }
        None => return None,
    };
    let values = match codes.dtype {
        DType::F8E4M3 => Values::E4M3,
        DType::F8E5M2 => Values::E5M2,
        DType::I8 => Values::Signed(8),
        _ => return None,
    };
    Some(scaled(stored, [codes, tensor], name, values))
}

/// Where the scale of each element stands.
struct Tiles {
    grid: Grid,
    /// Columns that share a scale.
    group: u64,
    text: String,
}

fn scaled<'a>(
    stored: &Stored<'a>,
    [codes, scales]: [&'a TensorEntry; 2],
    name: &str,
    values: Values,
) -> Result<Found<'a>, Fault> {
    let number = Number::of_scale(scales.dtype);
    let Some(number) = number else {
        expect_dtype(scales, &[DType::F32, DType::Bf16, DType::F16, DType::F8E8M0, DType::U8])?;
        return Err(Fault::new("its scales have no type"));
    };
    let tiles = tiles(stored, codes, scales, number)?;
    let [rows, width] = match codes.shape.dimensions() {
        [.., rows, columns] => [*rows, *columns],
        [columns] => [1, *columns],
        [] => [1, 1],
    };
    let matrices = codes.shape.elements() / rows.max(1) / width.max(1);
    let promised =
        stored.settings.promised_scales(scales.shape.elements(), matrices, [rows, width]);
    if let Err(promised) = promised {
        return Err(wrong_scales(codes, scales).fact("scales, by the configuration", promised));
    }
    let (kind, methods): (_, Option<&'static [&'static str]>) = match (values, number) {
        (Values::Signed(_), _) => {
            let formats = &["int-quantized", "naive-quantized"];
            (Kind::whole(8).called(formats), Some(&["compressed-tensors", "modelopt"]))
        }
        (_, Number::E8M0) => {
            (Kind::floats(8).called(&["mxfp8-quantized", "float-quantized"]), None)
        }
        _ => (Kind::floats(8).called(&["float-quantized", "naive-quantized"]), None),
    };
    // Only the fine-grained form has its scales under this name.
    let methods = if scales.name.ends_with("_inv") { Some(&["fp8"][..]) } else { methods };
    let mut parts = vec![codes, scales];
    let columns = codes.shape.dimensions().last().copied().unwrap_or(1);
    let mut shift = Shift::Nothing;
    if let Some(zeros) = stored.get(&format!("{name}_zero_point")) {
        expect_shape(zeros, scales.shape.dimensions())?;
        let Some(number) = Number::of_zero(zeros.dtype) else {
            expect_dtype(zeros, &[DType::I8])?;
            return Err(Fault::new("its zero points have no type"));
        };
        shift = Shift::Zeros(Box::new(Grid { part: parts.len(), number, ..tiles.grid }));
        parts.push(zeros);
    } else if values == Values::Signed(8) && stored.settings.promises_zero_points() {
        return Err(Fault::new(format!("`{}_zero_point` is missing", shown(name)))
            .fact("configuration", "`symmetric: false`"));
    }
    let module = name.strip_suffix("weight").unwrap_or("");
    let of_columns = of_columns(stored, module, columns, &mut parts)?;
    let element = match values {
        Values::E4M3 => "fp8 e4m3",
        Values::E5M2 => "fp8 e5m2",
        _ => "int8",
    };
    let codec = Affine {
        columns,
        codes: Box::new(Stream { part: 0, bits: 8, row_bytes: columns, columns: None, values }),
        group: tiles.group,
        index: None,
        scales: Box::new(tiles.grid),
        sign: Sign::Positive,
        shift,
        of_columns,
        factor: None,
    };
    Ok(Found {
        kind,
        methods,
        name: name.to_owned(),
        shape: codes.shape.dimensions().to_vec(),
        scheme: format!("{element}, {}", tiles.text),
        parts,
        beside: Vec::new(),
        codec: Arc::new(codec),
    })
}

/// What ModelOpt multiplies inputs by before they meet a weight, which is therefore its columns' as well.
pub(super) fn of_columns<'a>(
    stored: &Stored<'a>,
    module: &str,
    columns: u64,
    parts: &mut Vec<&'a TensorEntry>,
) -> Result<Option<Box<dyn super::groups::Groups>>, Fault> {
    if module.is_empty() {
        return Ok(None);
    }
    let Some(factors) = stored.get(&format!("{module}pre_quant_scale")) else { return Ok(None) };
    expect_shape(factors, &[columns])?;
    expect_dtype(factors, &[DType::F32, DType::Bf16, DType::F16])?;
    let number = Number::of_scale(factors.dtype).unwrap_or(Number::F32);
    parts.push(factors);
    let part = parts.len() - 1;
    Ok(Some(Box::new(Grid { part, number, plane: [1, 1], rows: 1, columns, whole: None })))
}

fn tiles(
    stored: &Stored<'_>,
    codes: &TensorEntry,
    scales: &TensorEntry,
    number: Number,
) -> Result<Tiles, Fault> {
    let shape = codes.shape.dimensions();
    let columns = shape.last().copied().unwrap_or(1);
    let rows = match shape {
        [.., rows, _] => *rows,
        _ => 1,
    };
    let all_rows: u64 = shape.iter().rev().skip(1).product();
    let grid = |plane: [u64; 2], rows: u64, columns: u64| {
        let (plane, rows) = ([plane[0].max(1), plane[1]], rows.max(1));
        Grid { part: 1, number, plane, rows, columns, whole: None }
    };
    let tiles =
        |grid: Grid, group: u64, text: String| Ok(Tiles { grid, group: group.max(1), text });
    if scales.shape.elements() == 1 {
        return tiles(grid([all_rows, 1], all_rows, 1), columns, "one scale".into());
    }
    let found = scales.shape.dimensions();
    let stack = &shape[..shape.len().saturating_sub(2)];
    // Powers of two are for blocks alone.
    let is_of_rows = (number != Number::E8M0 || columns <= 32)
        && scales.shape.elements() == all_rows
        && (found == &shape[..shape.len() - 1]
            || found == [&shape[..shape.len() - 1], &[1]].concat());
    if is_of_rows {
        return tiles(grid([all_rows, all_rows], 1, 1), columns, "a scale per row".into());
    }
    let matrices: u64 = stack.iter().product();
    let is_of_matrices = shape.len() > 2
        && scales.shape.elements() == matrices
        && found.iter().filter(|&&size| size != 1).eq(stack.iter().filter(|&&size| size != 1));
    if is_of_matrices {
        return tiles(grid([rows, 1], rows, 1), columns, "a scale per matrix".into());
    }
    if let Some((leading, [down, across])) = found.split_last_chunk::<2>()
        && leading == stack
    {
        let (down, across) = (*down, *across);
        if number == Number::E8M0
            && down == rows
            && columns.is_multiple_of(32)
            && across == columns / 32
        {
            return tiles(grid([rows, rows], 1, across), 32, "mx blocks of 32".into());
        }
        let said = stored.settings.block();
        let [high, wide] = said.unwrap_or([128, 128]);
        if down == rows.div_ceil(high) && across == columns.div_ceil(wide) {
            let text = format!("blocks of {high} x {wide}");
            return tiles(grid([rows, down], high, across), wide, text);
        }
        let group = stored.settings.group();
        if let Some(group) =
            group.filter(|&group| down == rows && across == columns.div_ceil(group))
        {
            let text = format!("groups of {group}");
            return tiles(grid([rows, rows], 1, across), group, text);
        }
        let expected = match said {
            Some([high, wide]) => format!("{high} x {wide}, by the configuration"),
            None => "128 x 128, as the configuration says nothing".to_owned(),
        };
        return Err(wrong_scales(codes, scales).fact("blocks", expected));
    }
    Err(wrong_scales(codes, scales))
}

fn wrong_scales(codes: &TensorEntry, scales: &TensorEntry) -> Fault {
    Fault::new(format!("`{}` has a shape that does not go with its codes", shown(&scales.name)))
        .fact("codes", codes.shape.to_string())
        .fact("scales", scales.shape.to_string())
}

/// 8-bit floats that nothing scales: weights that were cast, as those of diffusion models often are.
pub(super) const BARE: Family = Family { methods: &[], find: bare };

fn bare<'a>(stored: &Stored<'a>, tensor: &'a TensorEntry) -> Option<Result<Found<'a>, Fault>> {
    let (values, element) = match tensor.dtype {
        DType::F8E4M3 => (Values::E4M3, "fp8 e4m3"),
        DType::F8E5M2 => (Values::E5M2, "fp8 e5m2"),
        _ => return None,
    };
    // Where others have scales, that of this one is missing.
    if stored.settings.is_there() || stored.has_scales || has_scale(stored, &tensor.name) {
        return None;
    }
    Some(Ok(Found {
        kind: Kind::floats(8),
        methods: None,
        name: tensor.name.clone(),
        shape: tensor.shape.dimensions().to_vec(),
        scheme: format!("{element}, without scales"),
        parts: vec![tensor],
        beside: Vec::new(),
        codec: Arc::new(Bare(values)),
    }))
}

/// Whether a tensor beside this one, or this one itself, looks like its scale, whatever tool called it so.
fn has_scale(stored: &Stored<'_>, name: &str) -> bool {
    const BESIDE: [&str; 8] = [
        "scale",
        "scales",
        "scale_weight",
        "scaling_factor",
        "weight_scale",
        "weight_scales",
        "weight_scale_inv",
        "weight_scale_2",
    ];
    let (module, leaf) = name.rsplit_once('.').unwrap_or(("", name));
    let ends = ["_scale", "_scale_inv", "_scales", ".scale"];
    leaf.contains("scale")
        || stored.get("scaled_fp8").is_some()
        || BESIDE.iter().any(|leaf| stored.get(&format!("{module}.{leaf}")).is_some())
        || ends.iter().any(|end| stored.get(&format!("{name}{end}")).is_some())
}

/// Codes that are numbers themselves.
#[derive(Debug)]
struct Bare(Values);

impl Codec for Bare {
    fn decode(&self, reader: &Reader<'_>, first: u64, out: &mut [f32]) -> Result<(), ReadError> {
        let mut codes = vec![0; out.len()];
        reader.bytes(0, first, &mut codes)?;
        self.0.of(&codes, out);
        Ok(())
    }
}
