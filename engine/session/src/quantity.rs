//! Bytes, rates, times and counts as people read them.

use std::time::Duration;

/// `512 B`, `1.34 GB`: three digits, in thousands.
pub fn bytes(count: u64) -> String {
    scaled(count as f64, &["B", "kB", "MB", "GB", "TB", "PB", "EB"])
}

/// `1.3 GB/s`.
pub fn rate(count: u64, time: Duration) -> String {
    // A time too short to measure would give a rate that means nothing.
    let seconds = time.as_secs_f64().max(1e-3);
    format!("{}/s", bytes((count as f64 / seconds) as u64))
}

/// `494 M`, `7.62 B`: counts of parameters.
pub fn parameters(count: u64) -> String {
    if count < 1000 {
        return count.to_string();
    }
    scaled(count as f64, &["", "K", "M", "B", "T"])
}

/// `0.42 s`, `12.3 s`, `4 min 05 s`, `2 h 07 min`.
pub fn time(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    // Rounded first, so that 59.96 s does not become `60.0 s`.
    let whole = (seconds + 0.5) as u64;
    match () {
        () if seconds < 9.995 => format!("{seconds:.2} s"),
        () if seconds < 59.95 => format!("{seconds:.1} s"),
        () if whole < 3600 => format!("{} min {:02} s", whole / 60, whole % 60),
        () => {
            let minutes = (whole + 30) / 60;
            format!("{} h {:02} min", minutes / 60, minutes % 60)
        }
    }
}

/// `1 tensor`, `291 tensors`.
pub fn count(number: usize, word: &str) -> String {
    match number {
        1 => format!("1 {word}"),
        _ => format!("{number} {word}s"),
    }
}

fn scaled(value: f64, units: &[&str]) -> String {
    let mut value = value;
    let mut unit = 0;
    // What would be shown as 1000 belongs to the next unit.
    while value >= 999.5 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    let digits = match value {
        _ if unit == 0 || value >= 99.95 => 0,
        _ if value >= 9.995 => 1,
        _ => 2,
    };
    format!("{value:.digits$} {}", units[unit]).trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_digits_and_a_unit() {
        for (count, expected) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.00 kB"),
            (1234, "1.23 kB"),
            (12_345, "12.3 kB"),
            (123_456, "123 kB"),
            (999_499, "999 kB"),
            (999_999, "1.00 MB"),
            (9_999_999, "10.0 MB"),
            (5_000_000_000, "5.00 GB"),
        ] {
            assert_eq!(bytes(count), expected, "{count}");
        }
        assert_eq!(parameters(494_032_768), "494 M");
        assert_eq!(parameters(999), "999");
        assert_eq!(bytes(u64::MAX), "18.4 EB");
    }

    #[test]
    fn times_carry_over() {
        for (seconds, expected) in [
            (0.0, "0.00 s"),
            (0.423, "0.42 s"),
            (9.996, "10.0 s"),
            (59.96, "1 min 00 s"),
            (245.0, "4 min 05 s"),
            (3599.7, "1 h 00 min"),
            (7620.0, "2 h 07 min"),
        ] {
            assert_eq!(time(Duration::from_secs_f64(seconds)), expected, "{seconds}");
        }
    }

    #[test]
    fn a_rate_of_no_time_is_finite() {
        assert_eq!(rate(1000, Duration::ZERO), "1.00 MB/s");
        assert_eq!(rate(3_000_000_000, Duration::from_secs(2)), "1.50 GB/s");
    }
}
