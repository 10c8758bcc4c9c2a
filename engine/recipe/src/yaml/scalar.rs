//! What a plain scalar is taken for: YAML 1.1 as Python programs read it, and the core schema of YAML 1.2.

use crate::tree::{Dialect, ScalarValue};

/// Longest text that may be a number. Aliases can repeat a long text many times, at a look each.
const LONGEST: usize = 512;

/// Types a plain scalar.
pub(crate) fn resolve(text: &str, dialect: Dialect) -> ScalarValue {
    if text.len() > LONGEST {
        return ScalarValue::Text;
    }
    if matches!(text, "" | "~" | "null" | "Null" | "NULL") {
        return ScalarValue::Null;
    }
    if let Some(value) = boolean(text, dialect) {
        return ScalarValue::Boolean(value);
    }
    if let Some(value) = special_float(text) {
        return ScalarValue::Float(value);
    }
    match dialect {
        Dialect::Yaml11 => number_1_1(text),
        Dialect::Yaml12 => number_1_2(text),
    }
    .unwrap_or(ScalarValue::Text)
}

fn boolean(text: &str, dialect: Dialect) -> Option<bool> {
    match text {
        "true" | "True" | "TRUE" => Some(true),
        "false" | "False" | "FALSE" => Some(false),
        "yes" | "Yes" | "YES" | "on" | "On" | "ON" if dialect == Dialect::Yaml11 => Some(true),
        "no" | "No" | "NO" | "off" | "Off" | "OFF" if dialect == Dialect::Yaml11 => Some(false),
        _ => None,
    }
}

fn special_float(text: &str) -> Option<f64> {
    match text {
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => Some(f64::INFINITY),
        "-.inf" | "-.Inf" | "-.INF" => Some(f64::NEG_INFINITY),
        ".nan" | ".NaN" | ".NAN" => Some(f64::NAN),
        _ => None,
    }
}

fn split_sign(text: &str) -> (bool, &str) {
    match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    }
}

fn all_of(text: &str, allowed: impl Fn(u8) -> bool) -> bool {
    !text.is_empty() && text.bytes().all(allowed)
}

fn digits(text: &str) -> bool {
    all_of(text, |b| b.is_ascii_digit())
}

fn digits_or_underscores(text: &str) -> bool {
    text.as_bytes().first().is_some_and(u8::is_ascii_digit)
        && all_of(text, |b| b.is_ascii_digit() || b == b'_')
}

/// An integer in the given base; numbers beyond 127 bits become floats, as they lose nothing that counts.
fn integer(negative: bool, digits: &str, radix: u32) -> Option<ScalarValue> {
    let digits = digits.replace('_', "");
    if digits.is_empty() {
        return None;
    }
    match i128::from_str_radix(&digits, radix) {
        Ok(value) => Some(ScalarValue::Integer(if negative { -value } else { value })),
        Err(_) if radix == 10 => float(negative, &digits),
        Err(_) => None,
    }
}

fn float(negative: bool, text: &str) -> Option<ScalarValue> {
    let value: f64 = text.replace('_', "").parse().ok()?;
    Some(ScalarValue::Float(if negative { -value } else { value }))
}

fn number_1_1(text: &str) -> Option<ScalarValue> {
    let (negative, body) = split_sign(text);
    if let Some(rest) = body.strip_prefix("0b") {
        return all_of(rest, |b| matches!(b, b'0' | b'1' | b'_'))
            .then(|| integer(negative, rest, 2))?;
    }
    if let Some(rest) = body.strip_prefix("0x") {
        return all_of(rest, |b| b.is_ascii_hexdigit() || b == b'_')
            .then(|| integer(negative, rest, 16))?;
    }
    if body.contains(':') {
        return sexagesimal(negative, body);
    }
    if body.len() > 1 && body.starts_with('0') && all_of(body, |b| matches!(b, b'0'..=b'7' | b'_'))
    {
        return integer(negative, &body[1..], 8).or(Some(ScalarValue::Integer(0)));
    }
    if digits_or_underscores(body) {
        // `08` is neither octal nor decimal.
        return if body.starts_with('0') && body != "0" {
            None
        } else {
            integer(negative, body, 10)
        };
    }
    float_1_1(text, negative, body)
}

/// A float has a point, and the sign of its exponent is written: `1.5e+3`; `1e3` and `1.5e3` are text.
fn float_1_1(text: &str, negative: bool, body: &str) -> Option<ScalarValue> {
    let (mantissa, exponent) = match body.find(['e', 'E']) {
        Some(at) => (&body[..at], Some(&body[at + 1..])),
        None => (body, None),
    };
    if let Some(exponent) = exponent {
        let unsigned = exponent.strip_prefix(['+', '-'])?;
        if !digits(unsigned) {
            return None;
        }
    }
    let (whole, fraction) = mantissa.split_once('.')?;
    let fraction_is_sound = fraction.bytes().all(|b| b.is_ascii_digit() || b == b'_');
    let sound = if whole.is_empty() {
        text.starts_with('.') && digits_or_underscores(fraction)
    } else {
        digits_or_underscores(whole) && fraction_is_sound
    };
    sound.then(|| float(negative, body))?
}

/// `1:30` is ninety.
fn sexagesimal(negative: bool, body: &str) -> Option<ScalarValue> {
    let (body, fraction) = match body.split_once('.') {
        Some((body, fraction)) => (body, Some(fraction)),
        None => (body, None),
    };
    let mut parts = body.split(':');
    let first = parts.next()?;
    if !digits_or_underscores(first) || (fraction.is_none() && first.starts_with('0')) {
        return None;
    }
    let mut total: i128 = first.replace('_', "").parse().ok()?;
    for part in parts {
        let value: i128 = part.parse().ok()?;
        if !digits(part) || part.len() > 2 || value > 59 {
            return None;
        }
        total = total.checked_mul(60)?.checked_add(value)?;
    }
    match fraction {
        None => Some(ScalarValue::Integer(if negative { -total } else { total })),
        Some(fraction) if fraction.bytes().all(|b| b.is_ascii_digit() || b == b'_') => {
            let fraction: f64 = format!("0.{}", fraction.replace('_', "")).parse().ok()?;
            let value = total as f64 + fraction;
            Some(ScalarValue::Float(if negative { -value } else { value }))
        }
        Some(_) => None,
    }
}

fn number_1_2(text: &str) -> Option<ScalarValue> {
    if let Some(rest) = text.strip_prefix("0o") {
        return all_of(rest, |b| matches!(b, b'0'..=b'7')).then(|| integer(false, rest, 8))?;
    }
    if let Some(rest) = text.strip_prefix("0x") {
        return all_of(rest, |b| b.is_ascii_hexdigit()).then(|| integer(false, rest, 16))?;
    }
    let (negative, body) = split_sign(text);
    if digits(body) {
        return integer(negative, body, 10);
    }
    let (mantissa, exponent) = match body.find(['e', 'E']) {
        Some(at) => (&body[..at], Some(&body[at + 1..])),
        None => (body, None),
    };
    if exponent.is_some_and(|e| !digits(e.strip_prefix(['+', '-']).unwrap_or(e))) {
        return None;
    }
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let sound = if whole.is_empty() {
        digits(fraction)
    } else {
        digits(whole) && (fraction.is_empty() || digits(fraction))
    };
    sound.then(|| float(negative, body))?
}

#[cfg(test)]
mod tests {
    use super::*;
    use ScalarValue::{Boolean, Float, Integer, Null, Text};

    #[track_caller]
    fn check(text: &str, in_1_1: ScalarValue, in_1_2: ScalarValue) {
        assert_eq!(resolve(text, Dialect::Yaml11), in_1_1, "{text} in 1.1");
        assert_eq!(resolve(text, Dialect::Yaml12), in_1_2, "{text} in 1.2");
    }

    #[test]
    fn words() {
        check("", Null, Null);
        check("~", Null, Null);
        check("true", Boolean(true), Boolean(true));
        check("yes", Boolean(true), Text);
        check("Off", Boolean(false), Text);
        check("yEs", Text, Text);
        check("y", Text, Text);
    }

    #[test]
    fn whole_numbers() {
        check("0", Integer(0), Integer(0));
        check("-12", Integer(-12), Integer(-12));
        check("010", Integer(8), Integer(10));
        check("007", Integer(7), Integer(7));
        check("08", Text, Integer(8));
        check("0_", Integer(0), Text);
        check("1_000", Integer(1000), Text);
        check("0x10", Integer(16), Integer(16));
        check("-0x10", Integer(-16), Text);
        check("0b101", Integer(5), Text);
        check("0b", Text, Text);
        check("0o17", Text, Integer(15));
        check("1:30", Integer(90), Text);
        check("1:60", Text, Text);
        check("190:20:30", Integer(685_230), Text);
        check("190:20:30.5", Float(685_230.5), Text);
        check("_1", Text, Text);
        check("-", Text, Text);
        check(&"9".repeat(60), Float(1e60), Float(1e60));
        check(&format!("{}:00", "9".repeat(38)), Text, Text);
    }

    #[test]
    fn other_numbers() {
        check("0.5", Float(0.5), Float(0.5));
        check("1.", Float(1.0), Float(1.0));
        check(".5", Float(0.5), Float(0.5));
        check("-.5", Text, Float(-0.5));
        check("1e-5", Text, Float(1e-5));
        check("1E3", Text, Float(1e3));
        check("1.0e5", Text, Float(1e5));
        check("1.0e+5", Float(1e5), Float(1e5));
        check("1_0.2_5", Float(10.25), Text);
        check("-.inf", Float(f64::NEG_INFINITY), Float(f64::NEG_INFINITY));
        check(".", Text, Text);
        check("1e", Text, Text);
        check("e5", Text, Text);
        check("1.2.3", Text, Text);
        check("inf", Text, Text);
        assert!(matches!(resolve(".nan", Dialect::Yaml12), Float(value) if value.is_nan()));
    }
}
