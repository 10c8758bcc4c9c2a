//! Messages about values: NaN and infinity in the inputs, copies that differ, results out of range.

use mixdown_checkpoint::shown::shown;
use mixdown_diagnostics::{Diagnostic, codes};
use mixdown_ops::backend::Improbable;
use mixdown_plan::{Product, TensorRef};
use mixdown_tensor::convert::{bf16_to_f32, f16_to_f32};
use mixdown_tensor::{DType, Shape};

use crate::read::Inputs;
use crate::report::Overflow;
use crate::scheduler::Failure;

/// Output tensors named in one warning.
const MOST_NAMED: usize = 5;

/// NaN or infinity in a stored element of an input.
pub(crate) fn nonfinite(inputs: &Inputs<'_>, tensor: TensorRef, element: u64) -> Failure {
    let entry = inputs.entry(tensor);
    let width = entry.dtype.bytes();
    let mut bytes = [0; 8];
    let bytes = &mut bytes[..width];
    if let Err(failure) = inputs.read(tensor, element, bytes) {
        return failure;
    }
    let told = Diagnostic::error(
        codes::NONFINITE,
        format!("`{}` holds a weight that is {}", shown(&entry.name), kind(bytes, entry.dtype)),
    )
    .fact("model", shown(inputs.model(tensor)))
    .fact("element", place(element, &entry.shape))
    .help("to merge it all the same, add `--allow-nonfinite`");
    let file = inputs.file(tensor);
    Failure::Input(Box::new(match &entry.encoding {
        Some(encoding) => told.in_file(file).fact("stored as", encoding.scheme()),
        None => told.at_byte(file, entry.offset + element * width as u64),
    }))
}

/// The product of an adapter's factors is infinite.
pub(crate) fn overflown_update(inputs: &Inputs<'_>, product: &Product, element: u64) -> Failure {
    let name = shown(&inputs.entry(product.right).name);
    let headline = format!("the update of the adapter at {name} is infinite");
    let diagnostic = Diagnostic::error(codes::NONFINITE, headline)
        .fact("adapter", shown(inputs.model(product.right)))
        .fact("element", element.to_string())
        .help("the product of its factors is beyond what f32 can hold; use `dtype: float64`");
    Failure::Input(Box::new(diagnostic))
}

/// What was to be a probability is none.
pub(crate) fn improbable(tensor: &str, found: Improbable) -> Failure {
    let headline = format!("a probability lies between 0 and 1, found {}", found.found);
    let diagnostic = Diagnostic::error(codes::OUT_OF_RANGE, headline)
        .fact("tensor", shown(tensor))
        .fact("element", found.element.to_string())
        .note("a formula of the method gives it to `keep_random`")
        .help("bound it there, with `clamp(…, 0, 1)`");
    Failure::Input(Box::new(diagnostic))
}

/// Tensors that share a threshold over the whole model found different counts for it.
pub(crate) fn differing_counts(is_count: bool, one: f64, other: f64) -> Box<Diagnostic> {
    let what = if is_count { "count" } else { "share" };
    let headline = format!("a {what} of the whole model cannot differ from tensor to tensor");
    let help = format!(
        "make it from parameters and facts with `scope=\"model\"` alone, or use a {what} of each tensor"
    );
    Box::new(
        Diagnostic::error(codes::OUT_OF_RANGE, headline)
            .fact("found", one.to_string())
            .fact("and", other.to_string())
            .help(help),
    )
}

/// The first element in which two copies differ.
pub(crate) fn copies_differ(
    inputs: &Inputs<'_>,
    [one, other]: [TensorRef; 2],
    element: u64,
    [left, right]: [&[u8]; 2],
    within: Option<f64>,
) -> Failure {
    let entry = inputs.entry(one);
    let side = |tensor: TensorRef, bytes| {
        let label = shown(inputs.model(tensor)).into_owned();
        let other_name = &inputs.entry(tensor).name;
        let name = match *other_name == entry.name {
            true => String::new(),
            false => format!(", `{}`", shown(other_name)),
        };
        (
            label,
            format!("{}{name}, {}", value(bytes, inputs.entry(tensor).dtype), inputs.file(tensor)),
        )
    };
    let ((one_label, one_text), (other_label, other_text)) = (side(one, left), side(other, right));
    let diagnostic = Diagnostic::error(
        codes::COPIES_DIFFER,
        format!("`{}` is to be copied, but the models do not agree on it", shown(&entry.name)),
    )
    .fact("first difference", format!("element {}", place(element, &entry.shape)))
    .fact(one_label, one_text)
    .fact(other_label, other_text);
    let diagnostic = match within {
        None => diagnostic.help("say which one to keep with a rule: `keep: MODEL`"),
        Some(within) => {
            let far = match within > 0.0 {
                true => diagnostic.fact("tolerance", within.to_string()),
                false => diagnostic,
            };
            far.help("merge it too, with a pattern under `include`; write `rest: mean`; or say how far bodies may be from the base: `tolerance: …`")
        }
    };
    Failure::Input(Box::new(diagnostic))
}

/// The warning for results that are NaN or infinite though the inputs are not.
pub fn overflow(found: &[Overflow]) -> Option<Diagnostic> {
    let (first, total) = (found.first()?, found.iter().map(|one| one.elements).sum::<u64>());
    let headline = match found {
        [_] => format!("`{}` holds results that are NaN or infinite", shown(&first.tensor)),
        _ => format!("{} output tensors hold results that are NaN or infinite", found.len()),
    };
    let mut diagnostic = Diagnostic::warning(codes::OVERFLOW, headline);
    for one in found.iter().take(MOST_NAMED) {
        let text = format!("{} elements, {}", one.elements, one.dtype);
        diagnostic = diagnostic.fact(shown(&one.tensor), text);
    }
    if found.len() > MOST_NAMED {
        diagnostic = diagnostic.fact("in all", format!("{total} elements"));
    }
    Some(
        diagnostic
            .note("the inputs hold neither NaN nor infinity")
            .help("choose smaller weights, or a wider `out_dtype`"),
    )
}

/// `5, at [1, 2]`; the flat position alone where there is one dimension or none.
pub(crate) fn place(element: u64, shape: &Shape) -> String {
    let dimensions = shape.dimensions();
    if dimensions.len() < 2 {
        return element.to_string();
    }
    let mut rest = element;
    let mut position: Vec<u64> = dimensions
        .iter()
        .rev()
        .map(|&size| {
            let here = rest % size.max(1);
            rest /= size.max(1);
            here
        })
        .collect();
    position.reverse();
    format!("{element}, at {position:?}")
}

fn kind(bytes: &[u8], dtype: DType) -> &'static str {
    match float(bytes, dtype) {
        Some(value) if value.is_infinite() => "infinite",
        _ => "NaN",
    }
}

fn float(bytes: &[u8], dtype: DType) -> Option<f64> {
    Some(match dtype {
        DType::F64 => f64::from_le_bytes(bytes.try_into().ok()?),
        DType::F32 => f32::from_le_bytes(bytes.try_into().ok()?).into(),
        DType::F16 => f16_to_f32(u16::from_le_bytes(bytes.try_into().ok()?)).into(),
        DType::Bf16 => bf16_to_f32(u16::from_le_bytes(bytes.try_into().ok()?)).into(),
        // The upper half of an f16.
        DType::F8E5M2 => f16_to_f32(u16::from(*bytes.first()?) << 8).into(),
        _ => return None,
    })
}

/// An element for people: numbers in decimal, what has no short form as its bytes.
fn value(bytes: &[u8], dtype: DType) -> String {
    let wide = |sign: u8| {
        let mut wide = [sign; 16];
        wide[..bytes.len()].copy_from_slice(bytes);
        i128::from_le_bytes(wide)
    };
    match dtype {
        DType::F64 | DType::F32 | DType::F16 | DType::Bf16 | DType::F8E5M2 => {
            float(bytes, dtype).map_or_else(String::new, |value| value.to_string())
        }
        DType::I64 | DType::I32 | DType::I16 | DType::I8 => {
            let negative = bytes.last().is_some_and(|&byte| byte >= 0x80);
            wide(if negative { 0xff } else { 0 }).to_string()
        }
        DType::U64 | DType::U32 | DType::U16 | DType::U8 => wide(0).to_string(),
        DType::Bool => if bytes == [0] { "false" } else { "true" }.to_owned(),
        DType::F8E4M3 | DType::F8E8M0 | DType::C64 => {
            let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("bytes {digits}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        let shape = |dimensions: &[u64]| Shape::new(dimensions.to_vec()).unwrap();
        assert_eq!(place(5, &shape(&[2, 3])), "5, at [1, 2]");
        assert_eq!(place(23, &shape(&[2, 3, 4])), "23, at [1, 2, 3]");
        assert_eq!(place(5, &shape(&[7])), "5");
        assert_eq!(place(0, &shape(&[])), "0");
    }

    #[test]
    fn values_of_each_kind() {
        let check = |dtype, bytes: &[u8], expected: &str| assert_eq!(value(bytes, dtype), expected);
        check(DType::F32, &0.1_f32.to_le_bytes(), "0.10000000149011612");
        check(DType::Bf16, &[0xc0, 0x3f], "1.5");
        check(DType::I16, &(-2_i16).to_le_bytes(), "-2");
        check(DType::U64, &u64::MAX.to_le_bytes(), "18446744073709551615");
        check(DType::Bool, &[1], "true");
        check(DType::F8E4M3, &[0x3a], "bytes 3a");
        assert_eq!(kind(&[0x80, 0xff], DType::Bf16), "infinite");
        assert_eq!(kind(&[0x81, 0xff], DType::Bf16), "NaN");
    }
}
