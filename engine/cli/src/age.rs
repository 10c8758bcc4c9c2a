//! Ages as people type them, `30d`, `12h`, and as they are shown.

use std::time::Duration;

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// An age: a whole number of seconds, minutes, hours, days or weeks.
pub fn parse(text: &str) -> Result<Duration, String> {
    const EXAMPLES: &str = "write for instance 30d, 12h or 2w";
    let text = text.trim();
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let seconds = match unit.trim_start() {
        "s" => 1,
        "min" => MINUTE,
        "h" => HOUR,
        "d" => DAY,
        "w" => 7 * DAY,
        "m" => return Err(format!("`{text}` could be minutes or months; write `min`, or days")),
        "" if !number.is_empty() => return Err(format!("`{text}` has no unit; {EXAMPLES}")),
        _ => return Err(format!("`{text}` is not an age; {EXAMPLES}")),
    };
    if number.is_empty() {
        return Err(format!("`{text}` is not an age; {EXAMPLES}"));
    }
    let count: Option<u64> = number.parse().ok();
    let seconds = count.and_then(|count| count.checked_mul(seconds));
    let too_large = || format!("`{text}` is more than can be counted; {EXAMPLES}");
    seconds.map(Duration::from_secs).ok_or_else(too_large)
}

/// `now`, `5 min`, `3 h`, `40 d`: one unit, rounded down.
pub fn text(age: Duration) -> String {
    match age.as_secs() {
        seconds if seconds < MINUTE => "now".to_owned(),
        seconds if seconds < HOUR => format!("{} min", seconds / MINUTE),
        seconds if seconds < 2 * DAY => format!("{} h", seconds / HOUR),
        seconds => format!("{} d", seconds / DAY),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_read() {
        for (text, seconds) in
            [("0s", 0), ("90 min", 5400), ("12h", 43_200), ("30d", 2_592_000), ("2w", 1_209_600)]
        {
            assert_eq!(parse(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
    }

    #[test]
    fn other_texts_are_refused_with_what_to_write() {
        for (text, words) in [
            ("", "30d"),
            ("d", "30d"),
            ("-1d", "30d"),
            ("1.5d", "30d"),
            ("3 months", "30d"),
            ("30", "no unit"),
            ("5m", "months"),
            ("99999999999999999999d", "can be counted"),
            ("18446744073709551615w", "can be counted"),
        ] {
            let message = parse(text).unwrap_err();
            assert!(message.contains(words), "{text}: {message}");
        }
    }

    #[test]
    fn ages_are_shown_in_one_unit() {
        for (seconds, expected) in
            [(59, "now"), (60, "1 min"), (7199, "1 h"), (2 * DAY - 1, "47 h"), (40 * DAY, "40 d")]
        {
            assert_eq!(super::text(Duration::from_secs(seconds)), expected);
        }
    }
}
