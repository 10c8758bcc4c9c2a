//! torchao as transformers saves it: the parts of `X.weight` are `X._weight_qdata` and others, and the
//! file's own texts say of which class the tensor was.

use std::sync::Arc;

use mixdown_tensor::DType;
use serde_json::Value;

use super::affine::{Affine, Shift, Sign};
use super::claims::{Family, Fault, Found, Stored, expect_dtype, expect_shape};
use super::groups::{Grid, Groups, Within};
use super::promises::Kind;
use super::unpack::Stream;
use super::values::{Number, Values};
use crate::index::TensorEntry;
use crate::shown::shown;

pub(super) const FAMILY: Family = Family { methods: &["torchao"], find };

fn find<'a>(stored: &Stored<'a>, tensor: &'a TensorEntry) -> Option<Result<Found<'a>, Fault>> {
    let start = tensor.name.strip_suffix("_qdata")?;
    let (module, leaf) = start.rsplit_once('.').unwrap_or(("", start));
    let leaf = leaf.strip_prefix('_')?;
    let name = match module {
        "" => leaf.to_owned(),
        _ => format!("{module}.{leaf}"),
    };
    Some(subclass(stored, tensor, start, name))
}

fn subclass<'a>(
    stored: &Stored<'a>,
    codes: &'a TensorEntry,
    start: &str,
    name: String,
) -> Result<Found<'a>, Fault> {
    let text = stored.metadata.get(&name).and_then(|text| serde_json::from_str::<Value>(text).ok());
    let class = text.as_ref().and_then(|value| value.get("_type")?.as_str());
    const READ: [&str; 3] = ["Int8Tensor", "Float8Tensor", "IntxUnpackedToInt8Tensor"];
    if let Some(class) = class.filter(|class| !READ.contains(class)) {
        return Err(Fault::unread(format!("torchao's `{}`", shown(class))));
    }
    let values = match codes.dtype {
        DType::I8 => Values::Signed(8),
        DType::F8E4M3 => Values::E4M3,
        DType::F8E5M2 => Values::E5M2,
        _ => return Err(Fault::unread("torchao in a form whose class is not told")),
    };
    let scales = stored.need(&format!("{start}_scale"))?;
    let zeros = stored.get(&format!("{start}_zero_point"));
    let (&[rows, columns], &[down, across]) = (codes.shape.dimensions(), scales.shape.dimensions())
    else {
        return Err(Fault::new(format!("`{}` is no matrix", shown(&codes.name)))
            .fact("codes", codes.shape.to_string())
            .fact("scales", scales.shape.to_string()));
    };
    let said = text.as_ref().and_then(|value| value.get("_data")?.get("block_size")?.as_array());
    let said: Option<Vec<u64>> = said.and_then(|all| all.iter().map(Value::as_u64).collect());
    let divides =
        |size: u64, count: u64| (count > 0 && size.is_multiple_of(count)).then(|| size / count);
    let found = divides(rows, down).zip(divides(columns, across));
    let Some((high, wide)) = found.filter(|&(high, wide)| {
        said.as_deref().is_none_or(|said| matches!(said, &[h, w] if h == high && w == wide))
    }) else {
        let fault = Fault::new(format!(
            "`{}` has a shape that does not go with its codes",
            shown(&scales.name)
        ))
        .fact("codes", codes.shape.to_string())
        .fact("scales", scales.shape.to_string());
        return Err(match said {
            Some(said) => fault.fact("block, by the file", format!("{said:?}")),
            None => fault,
        });
    };
    expect_dtype(scales, &[DType::F32, DType::Bf16, DType::F16])?;
    let number = Number::of_scale(scales.dtype).unwrap_or(Number::F32);
    let plane = [rows.max(1), down];
    let rows_each = high.max(1);
    let grid =
        |part, number| Grid { part, number, plane, rows: rows_each, columns: across, whole: None };
    let mut parts = vec![codes, scales];
    let mut shift = Shift::Nothing;
    let has = |name: &str| {
        let names = text.as_ref().and_then(|value| value.get("_tensor_data_names")?.as_array());
        names.is_some_and(|names| names.iter().any(|one| one.as_str() == Some(name)))
    };
    if zeros.is_none() && has("zero_point") {
        stored.need(&format!("{start}_zero_point"))?;
    }
    // Codes may be of fewer bits than they take.
    let width = text.as_ref().and_then(|value| {
        let target = value.get("_data")?.get("target_dtype")?.get("_data")?.as_str()?;
        target.strip_prefix("int")?.parse::<u32>().ok().filter(|bits| (1..=8).contains(bits))
    });
    if let Some(zeros) = zeros {
        expect_shape(zeros, &[down, across])?;
        let Some(number) = Number::of_zero(zeros.dtype).filter(|number| *number != Number::E8M0)
        else {
            expect_dtype(zeros, &[DType::I8])?;
            return Err(Fault::new("its zero points have no type"));
        };
        let plain: Box<dyn Groups> = Box::new(grid(2, number));
        shift = Shift::Zeros(match number {
            Number::I8 => Box::new(Within { inner: plain, bits: width.unwrap_or(8) }),
            _ => plain,
        });
        parts.push(zeros);
    }
    let codec = Affine {
        columns,
        codes: Box::new(Stream { part: 0, bits: 8, row_bytes: columns, columns: None, values }),
        group: wide.max(1),
        index: None,
        scales: Box::new(grid(1, number)),
        sign: Sign::Positive,
        shift,
        of_columns: None,
        factor: None,
    };
    let element = if values == Values::Signed(8) { "int8" } else { "fp8" };
    Ok(Found {
        kind: if values == Values::Signed(8) { Kind::whole(8) } else { Kind::floats(8) },
        methods: None,
        name,
        shape: vec![rows, columns],
        scheme: format!("torchao {element}, blocks of {high} x {wide}"),
        parts,
        beside: Vec::new(),
        codec: Arc::new(codec),
    })
}
