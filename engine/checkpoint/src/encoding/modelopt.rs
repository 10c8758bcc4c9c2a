//! ModelOpt where codes of four bits stand under the weight's own name, two in a byte: NVFP4 along the
//! input axis, int4 of AWQ along the output axis. What it stores in eight bits has the form of others.

use std::sync::Arc;

use mixdown_tensor::DType;

use super::Reader;
use super::affine::{Affine, Shift, Sign};
use super::claims::{Family, Fault, Found, Stored, expect_dtype, expect_shape};
use super::groups::{Grid, Whole};
use super::promises::Kind;
use super::scaled::of_columns;
use super::unpack::{Codes, Stream};
use super::values::{Number, Values};
use crate::index::TensorEntry;
use crate::shown::shown;
use crate::source::ReadError;

pub(super) const FAMILY: Family = Family { methods: &["modelopt"], find };

fn find<'a>(stored: &Stored<'a>, tensor: &'a TensorEntry) -> Option<Result<Found<'a>, Fault>> {
    let name = tensor.name.strip_suffix("_scale")?;
    let codes = stored.get(name).filter(|codes| codes.dtype == DType::U8)?;
    let whole = stored.get(&format!("{name}_scale_2"));
    match (whole, tensor.dtype) {
        (Some(whole), _) => Some(nvfp4(stored, [codes, tensor, whole])),
        // Others keep bytes below the same names; of this form are those that have ModelOpt's shapes.
        (None, DType::F32 | DType::Bf16 | DType::F16) => {
            let is_own = stored.settings.method() == Some("modelopt");
            is_own.then(|| int4(stored, [codes, tensor]))
        }
        (None, DType::F8E4M3) => {
            Some(Err(Fault::new(format!("`{}_scale_2` is missing", shown(name)))))
        }
        _ => None,
    }
}

fn module(codes: &TensorEntry) -> &str {
    codes.name.strip_suffix("weight").unwrap_or("")
}

fn nvfp4<'a>(
    stored: &Stored<'a>,
    [codes, scales, whole]: [&'a TensorEntry; 3],
) -> Result<Found<'a>, Fault> {
    let (leading, width) = match codes.shape.dimensions() {
        [leading @ .., width] if !leading.is_empty() => (leading, *width),
        _ => return Err(no_matrix(codes)),
    };
    let columns = width.saturating_mul(2);
    if !columns.is_multiple_of(16) {
        return Err(Fault::new(format!("`{}` does not hold whole groups", shown(&codes.name)))
            .fact("columns", columns.to_string())
            .fact("group", "16"));
    }
    let groups = columns / 16;
    expect_dtype(scales, &[DType::F8E4M3])?;
    expect_shape(scales, &[leading, &[groups]].concat())?;
    expect_dtype(whole, &[DType::F32])?;
    if whole.shape.elements() != 1 {
        expect_shape(whole, &[])?;
    }
    let rows: u64 = leading.iter().product();
    let mut parts = vec![codes, scales, whole];
    let plane = [rows.max(1), rows];
    let whole = Some(Whole::Times(2));
    let codec = Affine {
        columns,
        codes: Box::new(Stream {
            part: 0,
            bits: 4,
            row_bytes: width,
            columns: None,
            values: Values::E2M1,
        }),
        group: 16,
        index: None,
        scales: Box::new(Grid {
            part: 1,
            number: Number::E4M3,
            plane,
            rows: 1,
            columns: groups,
            whole,
        }),
        sign: Sign::Magnitude,
        shift: Shift::Nothing,
        of_columns: of_columns(stored, module(codes), columns, &mut parts)?,
        factor: None,
    };
    Ok(Found {
        kind: Kind::floats(4),
        methods: None,
        name: codes.name.clone(),
        shape: [leading, &[columns]].concat(),
        scheme: "nvfp4, groups of 16".to_owned(),
        parts,
        beside: Vec::new(),
        codec: Arc::new(codec),
    })
}

fn int4<'a>(
    stored: &Stored<'a>,
    [codes, scales]: [&'a TensorEntry; 2],
) -> Result<Found<'a>, Fault> {
    let &[halves, columns] = codes.shape.dimensions() else { return Err(no_matrix(codes)) };
    let rows = halves.saturating_mul(2);
    let groups = scales.shape.dimensions().get(1).copied().unwrap_or(0);
    expect_shape(scales, &[rows, groups])?;
    if groups == 0 || !columns.is_multiple_of(groups) {
        return Err(Fault::new(format!(
            "the groups of `{}` do not divide its columns",
            shown(&scales.name)
        ))
        .fact("columns", columns.to_string())
        .fact("groups", groups.to_string()));
    }
    if let Some(group) = stored.settings.group().filter(|&group| columns.div_ceil(group) != groups)
    {
        return Err(Fault::new(format!("`{}` has another count of groups", shown(&scales.name)))
            .fact("expected", format!("{} of {group} columns", columns.div_ceil(group)))
            .fact("found", groups.to_string()));
    }
    let number = Number::of_scale(scales.dtype).unwrap_or(Number::F32);
    let mut parts = vec![codes, scales];
    let plane = [rows.max(1), rows];
    let codec = Affine {
        columns,
        codes: Box::new(Halves { columns }),
        group: (columns / groups).max(1),
        index: None,
        scales: Box::new(Grid { part: 1, number, plane, rows: 1, columns: groups, whole: None }),
        sign: Sign::Positive,
        shift: Shift::Nothing,
        of_columns: of_columns(stored, module(codes), columns, &mut parts)?,
        factor: None,
    };
    Ok(Found {
        kind: Kind::whole(4),
        methods: None,
        name: codes.name.clone(),
        shape: vec![rows, columns],
        scheme: format!("int4, groups of {}", columns / groups),
        parts,
        beside: Vec::new(),
        codec: Arc::new(codec),
    })
}

fn no_matrix(codes: &TensorEntry) -> Fault {
    Fault::new(format!("`{}` is no matrix", shown(&codes.name)))
        .fact("shape", codes.shape.to_string())
}

/// Two rows in the halves of one row of bytes, the even row in the lower ones.
#[derive(Debug)]
struct Halves {
    columns: u64,
}

impl Codes for Halves {
    fn read(
        &self,
        reader: &Reader<'_>,
        row: u64,
        column: u64,
        out: &mut [f32],
    ) -> Result<(), ReadError> {
        let mut codes = vec![0; out.len()];
        reader.bytes(0, row / 2 * self.columns + column, &mut codes)?;
        codes.iter_mut().for_each(|byte| *byte = *byte >> (row % 2 * 4) & 15);
        Values::Signed(4).of(&codes, out);
        Ok(())
    }
}
