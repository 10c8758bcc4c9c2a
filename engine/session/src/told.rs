//! What making tensors told, as it is written: in the journal of an unfinished output, for the run that goes on,
//! and in the record of a part. Numbers that must not change by a bit are written as their bits.

use mixdown_exec::{MatrixReport, Overflow, QuantizeLoss, StorageLoss, Told};
use mixdown_ops::matrix::{Noise, Point, Report};
use mixdown_tensor::DType;
use serde_json::{Value, json};

/// For [`read`].
pub fn json(told: &Told) -> Value {
    json!({
        "matrices": told.matrices.iter().map(matrix_json).collect::<Vec<_>>(),
        "losses": told.losses.iter().map(loss_json).collect::<Vec<_>>(),
        "quantized": told.quantized.iter().map(quantized_json).collect::<Vec<_>>(),
        "overflows": told.overflows.iter().map(overflow_json).collect::<Vec<_>>(),
    })
}

/// What [`json`] wrote; none for anything else.
pub fn read(value: &Value) -> Option<Told> {
    fn list<T>(value: &Value, one: impl Fn(&Value) -> Option<T>) -> Option<Vec<T>> {
        value.as_array()?.iter().map(one).collect()
    }
    Some(Told {
        matrices: list(&value["matrices"], read_matrix)?,
        losses: list(&value["losses"], read_loss)?,
        quantized: list(&value["quantized"], read_quantized)?,
        overflows: list(&value["overflows"], read_overflow)?,
    })
}

fn matrix_json(one: &MatrixReport) -> Value {
    let Report { loss, norm, curve, ranks, gap, noise, notes } = &one.report;
    let curve = curve
        .iter()
        .map(|Point { step, loss, norm }| json!([step, loss.to_bits(), norm.to_bits()]));
    let noise = noise.iter().map(|Noise { floor, rank, ratio }| {
        json!({"floor": floor.to_bits(), "rank": rank, "ratio": ratio.map(f64::to_bits)})
    });
    json!({
        "tensor": one.tensor,
        "op": one.op,
        "from_store": one.from_store,
        "loss": loss.map(|(start, end)| [start.to_bits(), end.to_bits()]),
        "norm": norm.map(f64::to_bits),
        "curve": curve.collect::<Vec<_>>(),
        "ranks": ranks,
        "gap": gap.map(f64::to_bits),
        "noise": noise.collect::<Vec<_>>(),
        "notes": notes,
    })
}

fn read_matrix(one: &Value) -> Option<MatrixReport> {
    let noise = |one: &Value| {
        let rank = optional(&one["rank"], size)?;
        Some(Noise { floor: number(&one["floor"])?, rank, ratio: optional(&one["ratio"], number)? })
    };
    let point = |one: &Value| {
        let step = u32::try_from(one[0].as_u64()?).ok()?;
        Some(Point { step, loss: number(&one[1])?, norm: number(&one[2])? })
    };
    let report = Report {
        curve: one["curve"].as_array()?.iter().map(point).collect::<Option<_>>()?,
        loss: optional(&one["loss"], |pair| Some((number(&pair[0])?, number(&pair[1])?)))?,
        norm: optional(&one["norm"], number)?,
        ranks: one["ranks"].as_array()?.iter().map(size).collect::<Option<_>>()?,
        gap: optional(&one["gap"], number)?,
        noise: one["noise"].as_array()?.iter().map(noise).collect::<Option<_>>()?,
        notes: one["notes"].as_array()?.iter().map(text).collect::<Option<_>>()?,
    };
    let (tensor, op) = (text(&one["tensor"])?, text(&one["op"])?.into());
    Some(MatrixReport { tensor, op, report, from_store: one["from_store"].as_bool()? })
}

fn loss_json(one: &StorageLoss) -> Value {
    let numbers = [one.lost, one.update, one.largest].map(f64::to_bits);
    json!({"tensor": one.tensor, "dtype": one.dtype.name(), "numbers": numbers})
}

fn read_loss(one: &Value) -> Option<StorageLoss> {
    let numbers = &one["numbers"];
    Some(StorageLoss {
        tensor: text(&one["tensor"])?,
        dtype: dtype(&one["dtype"])?,
        lost: number(&numbers[0])?,
        update: number(&numbers[1])?,
        largest: number(&numbers[2])?,
    })
}

fn quantized_json(one: &QuantizeLoss) -> Value {
    let numbers = [one.lost, one.exact].map(f64::to_bits);
    let update = one.update.map(f64::to_bits);
    json!({"tensor": one.tensor, "form": one.form, "numbers": numbers, "update": update})
}

fn read_quantized(one: &Value) -> Option<QuantizeLoss> {
    let numbers = &one["numbers"];
    Some(QuantizeLoss {
        tensor: text(&one["tensor"])?,
        form: text(&one["form"])?,
        lost: number(&numbers[0])?,
        exact: number(&numbers[1])?,
        update: optional(&one["update"], number)?,
    })
}

fn overflow_json(one: &Overflow) -> Value {
    json!({"tensor": one.tensor, "dtype": one.dtype.name(), "elements": one.elements})
}

fn read_overflow(one: &Value) -> Option<Overflow> {
    let (tensor, dtype) = (text(&one["tensor"])?, dtype(&one["dtype"])?);
    Some(Overflow { tensor, dtype, elements: one["elements"].as_u64()? })
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

fn dtype(value: &Value) -> Option<DType> {
    value.as_str()?.parse().ok()
}

fn number(bits: &Value) -> Option<f64> {
    bits.as_u64().map(f64::from_bits)
}

fn size(value: &Value) -> Option<usize> {
    usize::try_from(value.as_u64()?).ok()
}

/// None is a fault, and none within is null.
fn optional<T>(value: &Value, read: impl Fn(&Value) -> Option<T>) -> Option<Option<T>> {
    match value {
        Value::Null => Some(None),
        value => read(value).map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_read_as_it_was_written() {
        let report = Report {
            loss: Some((0.1, 1e-300)),
            norm: None,
            curve: vec![Point { step: 300, loss: 0.7, norm: 0.1 }],
            ranks: vec![3, 0],
            gap: Some(f64::MIN_POSITIVE),
            noise: vec![
                Noise { floor: 0.3, rank: Some(8), ratio: None },
                Noise { floor: f64::INFINITY, rank: None, ratio: Some(0.7) },
            ],
            notes: vec!["two\nlines".to_owned()],
        };
        let tensor = "a.weight".to_owned();
        let told = Told {
            matrices: vec![MatrixReport {
                tensor: tensor.clone(),
                op: "isotropic".into(),
                report,
                from_store: true,
            }],
            losses: vec![StorageLoss {
                tensor: tensor.clone(),
                dtype: DType::Bf16,
                lost: 0.1 + 0.2,
                update: 3.0,
                largest: 7e4,
            }],
            quantized: vec![QuantizeLoss {
                tensor: tensor.clone(),
                form: "int4".to_owned(),
                lost: 0.1,
                exact: 9.0,
                update: None,
            }],
            overflows: vec![Overflow { tensor, dtype: DType::F16, elements: 5 }],
        };
        let written = json(&told).to_string();
        assert!(!written.contains('\n'), "{written}");
        assert_eq!(read(&serde_json::from_str(&written).unwrap()), Some(told));
        for foreign in ["null", "{}", r#"{"matrices": [1]}"#] {
            assert_eq!(read(&serde_json::from_str(foreign).unwrap()), None, "{foreign}");
        }
    }
}
