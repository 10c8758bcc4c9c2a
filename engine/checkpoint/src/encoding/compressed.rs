//! compressed-tensors where codes are packed under a name of their own: whole numbers of one to eight
//! bits, and the small floats of nvfp4, mxfp4 and mxfp6.

use std::sync::Arc;

use mixdown_tensor::DType;

use super::affine::{Affine, Shift, Sign};
use super::claims::{Family, Fault, Found, Stored, expect_dtype, expect_shape};
use super::groups::{Grid, Groups, PackedDown, Whole, Within};
use super::promises::Kind;
use super::unpack::{Codes, Fields, Stream};
use super::values::{Number, Values};
use crate::index::TensorEntry;
use crate::shown::shown;

pub(super) const FAMILY: Family = Family { methods: &["compressed-tensors"], find };

fn find<'a>(stored: &Stored<'a>, tensor: &'a TensorEntry) -> Option<Result<Found<'a>, Fault>> {
    let module = tensor.name.strip_suffix("weight_packed")?;
    if stored.settings.is_rotated() {
        let what = "compressed-tensors with rotated weights (`transform_config`)";
        return Some(Err(Fault::unread(what)));
    }
    Some(match tensor.dtype {
        DType::I32 => integers(stored, tensor, module),
        DType::U8 => floats(stored, tensor, module),
        _ => Err(expect_dtype(tensor, &[DType::I32, DType::U8]).expect_err("it is neither")),
    })
}

/// The last axis and the count of rows before it.
fn matrix(tensor: &TensorEntry) -> Result<(u64, u64), Fault> {
    match tensor.shape.dimensions() {
        [leading @ .., width] if !leading.is_empty() => {
            Ok((leading.iter().fold(1, |all: u64, &size| all.saturating_mul(size)), *width))
        }
        _ => Err(Fault::new(format!("`{}` is no matrix", shown(&tensor.name)))
            .fact("shape", tensor.shape.to_string())),
    }
}

/// nvfp4, mxfp4 and mxfp6: the widths of codes and scales tell which.
fn floats<'a>(
    stored: &Stored<'a>,
    packed: &'a TensorEntry,
    module: &str,
) -> Result<Found<'a>, Fault> {
    let (rows, width) = matrix(packed)?;
    let scales = stored.need(&format!("{module}weight_scale"))?;
    let whole = stored.get(&format!("{module}weight_global_scale"));
    let (_, groups) = matrix(scales)?;
    let columns = groups.saturating_mul(if whole.is_some() { 16 } else { 32 });
    let is_four = width.saturating_mul(8) == columns.saturating_mul(4);
    let (bits, values, scheme, format): (_, _, _, &[&str]) = match whole {
        Some(_) => (4, Values::E2M1, "nvfp4, groups of 16", &["nvfp4-pack-quantized"]),
        None if is_four => (4, Values::E2M1, "mxfp4, groups of 32", &["mxfp4-pack-quantized"]),
        None => (6, Values::E2M3, "mxfp6 e2m3, groups of 32", &["mxfp6-pack-quantized"]),
    };
    let kind = Kind::floats(bits).called(format);
    let leading = &packed.shape.dimensions()[..packed.shape.dimensions().len() - 1];
    if width.saturating_mul(8) != columns.saturating_mul(bits) {
        return Err(Fault::new(format!("`{}` does not go with its codes", shown(&scales.name)))
            .fact("codes", packed.shape.to_string())
            .fact("scales", scales.shape.to_string()));
    }
    expect_shape(scales, &[leading, &[groups]].concat())?;
    let mut parts = vec![packed, scales];
    let number = match whole {
        Some(whole) => {
            expect_dtype(scales, &[DType::F8E4M3])?;
            expect_dtype(whole, &[DType::F32])?;
            if whole.shape.elements() != 1 {
                expect_shape(whole, &[1])?;
            }
            parts.push(whole);
            Number::E4M3
        }
        None => {
            expect_dtype(scales, &[DType::U8, DType::F8E8M0])?;
            Number::E8M0
        }
    };
    let grid = Grid {
        part: 1,
        number,
        plane: [rows.max(1), rows],
        rows: 1,
        columns: groups,
        whole: whole.map(|_| Whole::Over(2)),
    };
    let codec = Affine {
        columns,
        codes: Box::new(Stream {
            part: 0,
            bits: bits as u32,
            row_bytes: width,
            columns: None,
            values,
        }),
        group: columns.checked_div(groups).unwrap_or(1),
        index: None,
        scales: Box::new(grid),
        sign: Sign::Magnitude,
        shift: Shift::Nothing,
        of_columns: None,
        factor: None,
    };
    Ok(Found {
        kind,
        methods: None,
        name: format!("{module}weight"),
        shape: [leading, &[columns]].concat(),
        scheme: scheme.to_owned(),
        parts,
        beside: Vec::new(),
        codec: Arc::new(codec),
    })
}

/// How codes of a width lie in the words of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Packing {
    /// One stream, across words.
    Dense,
    /// As many codes in a word as fit whole: versions up to 0.17.1.
    Whole,
}

impl Packing {
    fn words(self, count: u64, bits: u64) -> u64 {
        match self {
            Self::Dense => (count.saturating_mul(bits)).div_ceil(32),
            Self::Whole => count.div_ceil(32 / bits),
        }
    }
}

/// pack-quantized: whole numbers, with the original shape beside them.
fn integers<'a>(
    stored: &Stored<'a>,
    packed: &'a TensorEntry,
    module: &str,
) -> Result<Found<'a>, Fault> {
    let scales = stored.need(&format!("{module}weight_scale"))?;
    let shape = stored.need(&format!("{module}weight_shape"))?;
    let [rows, columns] = original_shape(stored, shape)?;
    let (bits, packing) = width_of(stored, packed, [rows, columns])?;
    let number = Number::of_scale(scales.dtype).filter(|number| *number != Number::E8M0);
    let Some(number) = number else {
        expect_dtype(scales, &[DType::Bf16, DType::F16, DType::F32])?;
        return Err(Fault::new("its scales have no type"));
    };
    let groups = match scales.shape.dimensions() {
        [1] => 1,
        [_, groups] => *groups,
        _ => 0,
    };
    let is_one = scales.shape.elements() == 1;
    if !is_one {
        expect_shape(scales, &[rows, groups])?;
    }
    if groups == 0 || !columns.is_multiple_of(groups) {
        return Err(Fault::new(format!(
            "the groups of `{}` do not divide its columns",
            shown(&scales.name)
        ))
        .fact("columns", columns.to_string())
        .fact("groups", groups.to_string()));
    }
    if let Err(promised) =
        stored.settings.promised_scales(scales.shape.elements(), 1, [rows, columns])
    {
        let what = format!("`{}` has another count than the configuration", shown(&scales.name));
        return Err(Fault::new(what)
            .fact("found", scales.shape.to_string())
            .fact("weight_shape", format!("[{rows}, {columns}]"))
            .fact("scales, by the configuration", promised));
    }
    let half = 1_u8 << (bits - 1);
    let plane = match is_one {
        true => [rows.max(1), 1],
        false => [rows.max(1), rows],
    };
    let high = if is_one { rows.max(1) } else { 1 };
    let grid =
        |part, number| Grid { part, number, plane, rows: high, columns: groups, whole: None };
    let mut parts = vec![packed, scales];
    let mut shift = Shift::Nothing;
    if let Some(zeros) = stored.get(&format!("{module}weight_zero_point")) {
        let part = parts.len();
        parts.push(zeros);
        let zeros: Box<dyn Groups> = match zeros.dtype {
            DType::I32 => {
                expect_shape(zeros, &[packing.words(rows, u64::from(bits)), groups])?;
                let whole = packing == Packing::Whole;
                Box::new(PackedDown { part, bits, whole, groups, values: Values::Minus(half) })
            }
            _ => {
                expect_dtype(zeros, &[DType::I8])?;
                expect_shape(zeros, scales.shape.dimensions())?;
                let plain = Box::new(grid(part, Number::I8));
                Box::new(Within { inner: plain, bits })
            }
        };
        shift = Shift::Zeros(zeros);
    } else if stored.settings.promises_zero_points() {
        return Err(Fault::new(format!("`{}weight_zero_point` is missing", shown(module)))
            .fact("configuration", "`symmetric: false`"));
    }
    let mut index = None;
    if let Some(order) = stored.get(&format!("{module}weight_g_idx")) {
        expect_dtype(order, &[DType::I32])?;
        expect_shape(order, &[columns])?;
        index = Some((parts.len(), groups));
        parts.push(order);
    }
    parts.push(shape);
    let values = Values::Minus(half);
    let row_words = packing.words(columns, u64::from(bits));
    let codes: Box<dyn Codes> = match packing {
        Packing::Dense => {
            let row_bytes = row_words * 4;
            Box::new(Stream { part: 0, bits, row_bytes, columns: Some(columns), values })
        }
        Packing::Whole => Box::new(Fields { part: 0, bits, row_words, columns, values }),
    };
    let group = (columns / groups).max(1);
    let kind = if matches!(shift, Shift::Nothing) { "" } else { " with zero points" };
    let codec = Affine {
        columns,
        codes,
        group,
        index,
        scales: Box::new(grid(1, number)),
        sign: Sign::Positive,
        shift,
        of_columns: None,
        factor: None,
    };
    Ok(Found {
        kind: Kind::whole(u64::from(bits)).called(&["pack-quantized"]),
        methods: None,
        name: format!("{module}weight"),
        shape: vec![rows, columns],
        scheme: format!("int{bits}{kind}, groups of {group}"),
        parts,
        beside: Vec::new(),
        codec: Arc::new(codec),
    })
}

fn original_shape(stored: &Stored<'_>, shape: &TensorEntry) -> Result<[u64; 2], Fault> {
    expect_shape(shape, &[2])?;
    expect_dtype(shape, &[DType::I64, DType::I32])?;
    let bytes = stored.small(shape)?;
    let sizes: Vec<i64> = match shape.dtype {
        DType::I64 => bytes.as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b)).collect(),
        _ => bytes.as_chunks::<4>().0.iter().map(|b| i64::from(i32::from_le_bytes(*b))).collect(),
    };
    let sizes: Option<Vec<u64>> = sizes.iter().map(|&size| u64::try_from(size).ok()).collect();
    match sizes.as_deref() {
        Some([rows, columns]) => Ok([*rows, *columns]),
        _ => Err(Fault::new(format!("`{}` holds sizes below zero", shown(&shape.name)))),
    }
}

/// The width of the codes: one that the configuration speaks of, if the packed width agrees.
fn width_of(
    stored: &Stored<'_>,
    packed: &TensorEntry,
    [rows, columns]: [u64; 2],
) -> Result<(u32, Packing), Fault> {
    let [found_rows, width] = packed.shape.dimensions() else {
        return Err(Fault::new(format!("`{}` is no matrix", shown(&packed.name)))
            .fact("shape", packed.shape.to_string()));
    };
    let said: Vec<u64> =
        stored.settings.widths().into_iter().filter(|bits| (1..=8).contains(bits)).collect();
    let any: Vec<u64> = (1..=8).collect();
    let tried = if said.is_empty() { &any } else { &said };
    let packings = match stored.settings.packs_whole_codes() {
        true => [Packing::Whole, Packing::Dense],
        false => [Packing::Dense, Packing::Whole],
    };
    let fits =
        |bits: u64, packing: Packing| *found_rows == rows && packing.words(columns, bits) == *width;
    let mut all = tried
        .iter()
        .flat_map(|&bits| packings.map(|packing| (bits, packing)))
        .filter(|&(bits, packing)| fits(bits, packing));
    let Some((bits, packing)) = all.next() else {
        let expected = tried.iter().map(|&bits| {
            format!("[{rows}, {}] of {bits} bits", Packing::Dense.words(columns, bits))
        });
        let what =
            format!("`{}` does not have the shape that `weight_shape` says", shown(&packed.name));
        return Err(Fault::new(what)
            .fact("weight_shape", format!("[{rows}, {columns}]"))
            .fact("expected", expected.collect::<Vec<_>>().join(" or "))
            .fact("found", packed.shape.to_string()));
    };
    // Without a configuration, several widths can give one count of words.
    if all.any(|(other, _)| other != bits) {
        let what =
            format!("nothing says how many bits the codes of `{}` have", shown(&packed.name));
        return Err(Fault::new(what));
    }
    Ok((bits as u32, packing))
}
