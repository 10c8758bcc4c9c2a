//! Counts of bytes as people type them: `2GB`, `512MiB`, `5B`.

/// A count of bytes.
///
/// Suffixes count in thousands, with `i` in 1024s; `B` right after the number means billions, as in
/// mergekit's `--out-shard-size 5B`. A number without suffix is a count of bytes.
pub fn parse(text: &str) -> Result<u64, String> {
    const EXAMPLES: &str = "write for instance 2GB, 512MiB or 5000000000";
    let bad = || format!("`{text}` is not a size; {EXAMPLES}");
    let text = text.trim();
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(split);
    let factor = factor(suffix.trim_start()).ok_or_else(bad)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || (number.contains('.') && fraction.is_empty()) || fraction.contains('.') {
        return Err(bad());
    }
    let too_large = || format!("`{text}` is more than can be counted; {EXAMPLES}");
    let whole: u64 = whole.parse().map_err(|_| too_large())?;
    let bytes = whole.checked_mul(factor).ok_or_else(too_large)?;
    if fraction.is_empty() {
        return Ok(bytes);
    }
    // Nine digits are finer than a byte for every suffix that anybody needs a fraction of.
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let billionths: u128 = digits.parse().map_err(|_| bad())?;
    let rest = (billionths * u128::from(factor) / 1_000_000_000) as u64;
    bytes.checked_add(rest).ok_or_else(too_large)
}

fn factor(suffix: &str) -> Option<u64> {
    let suffix = suffix.to_ascii_lowercase();
    let (letter, kilo) = match suffix.as_str() {
        "" => return Some(1),
        "byte" | "bytes" => return Some(1),
        "b" => return Some(1_000_000_000),
        _ => match (suffix.strip_suffix("ib"), suffix.strip_suffix('i')) {
            (Some(letter), _) | (_, Some(letter)) => (letter, 1024_u64),
            _ => (suffix.strip_suffix('b').unwrap_or(&suffix), 1000),
        },
    };
    let power = match letter {
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        _ => return None,
    };
    Some(kilo.pow(power))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read() {
        for (text, expected) in [
            ("0", 0),
            ("5000", 5000),
            ("7 bytes", 7),
            ("2GB", 2_000_000_000),
            ("2 gb", 2_000_000_000),
            ("2G", 2_000_000_000),
            ("2GiB", 2 << 30),
            ("2Gi", 2 << 30),
            ("512MiB", 512 << 20),
            ("500M", 500_000_000),
            ("64k", 64_000),
            ("1.5kB", 1500),
            ("0.1GiB", 107_374_182),
            ("5B", 5_000_000_000),
            ("5b", 5_000_000_000),
            ("1T", 1_000_000_000_000),
            ("1TiB", 1 << 40),
        ] {
            assert_eq!(parse(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn other_texts_are_refused_with_an_example() {
        for text in ["", "GB", "-1", "2 XB", "2 GBs", "1.", ".5G", "1.2.3M", "1e9", "2iB", "NaN"] {
            let message = parse(text).unwrap_err();
            assert!(message.contains("512MiB"), "{text}: {message}");
        }
    }

    #[test]
    fn sizes_past_64_bits_are_refused() {
        for text in ["99999999999999999999", "99999999T", "18446744073709551616"] {
            assert!(parse(text).unwrap_err().contains("more than can be counted"), "{text}");
        }
        assert_eq!(parse("18446744073709551615"), Ok(u64::MAX));
    }
}
