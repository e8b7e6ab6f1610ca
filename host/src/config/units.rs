//! Durations and sizes, which always carry their unit.

use std::time::Duration;

use bytesize::ByteSize;

/// What is wrong with a text, and what to write instead.
pub(super) type Refused = (String, Option<String>);

/// The longest duration: what is longer is a slip of the keyboard, and sums of it must not overflow.
const DURATION_MAX: Duration = Duration::from_secs(366 * 24 * 3600);

/// A duration such as `200ms` or `1m 30s`, at most a year.
pub(super) fn duration(text: &str) -> Result<Duration, Refused> {
    let expected = "expected a duration with a unit such as 5ms, 30s or 1m";
    let parsed = match humantime::parse_duration(text.trim()) {
        Ok(parsed) => parsed,
        Err(_) if is_number(text) => {
            return Err((format!("has no unit; {expected}"), Some(format!("did you mean `{}ms`?", text.trim()))));
        }
        Err(error) => return Err((format!("{error}; {expected}"), None)),
    };
    if text.trim() == "0" {
        return Err((format!("has no unit; {expected}"), Some("did you mean `0ms`?".to_owned())));
    }
    if parsed > DURATION_MAX {
        return Err(("is longer than a year".to_owned(), None));
    }
    Ok(parsed)
}

/// A number of bytes such as `64MiB`. Units are binary, because memory is: a decimal one is refused, not guessed.
pub(super) fn size(text: &str) -> Result<u64, Refused> {
    let expected = "expected a size with a binary unit such as 512B, 64KiB, 16MiB or 1GiB";
    let text = text.trim();
    let split = text.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(split).unwrap_or((text, ""));
    let unit = unit.trim();
    if number.is_empty() {
        return Err((expected.to_owned(), None));
    }
    if !["B", "KiB", "MiB", "GiB", "TiB"].contains(&unit) {
        let letter = unit.chars().next().map_or('?', |letter| letter.to_ascii_uppercase());
        let meant = match letter {
            'K' | 'M' | 'G' | 'T' => Some(format!("did you mean `{number}{letter}iB`?")),
            '?' => Some(format!("did you mean `{number}B`?")),
            _ => None,
        };
        let what = if unit.is_empty() { "has no unit".to_owned() } else { format!("has the unit `{unit}`") };
        return Err((format!("{what}; {expected}"), meant));
    }
    match format!("{number}{unit}").parse::<ByteSize>() {
        Ok(size) if size.as_u64() < u64::MAX / 4 => Ok(size.as_u64()),
        Ok(_) => Err(("is more than any machine has".to_owned(), None)),
        Err(_) => Err((expected.to_owned(), None)),
    }
}

/// A duration as this file reads it.
pub fn show_duration(duration: Duration) -> String {
    match duration.is_zero() {
        true => "0ms".to_owned(),
        false => humantime::format_duration(duration).to_string(),
    }
}

/// A size as this file reads it: in the largest unit that divides it.
pub fn show_size(bytes: u64) -> String {
    let units = [(1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    let fits = units.into_iter().find(|(unit, _)| bytes > 0 && bytes.is_multiple_of(*unit));
    fits.map_or_else(|| format!("{bytes}B"), |(unit, name)| format!("{}{name}", bytes / unit))
}

fn is_number(text: &str) -> bool {
    text.trim().parse::<f64>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_binary_and_have_units() {
        assert_eq!(size("64MiB"), Ok(64 << 20));
        assert_eq!(size(" 1.5 KiB"), Ok(1536));
        assert_eq!(size("0B"), Ok(0));
        for (text, meant) in [("64", "64B"), ("64MB", "64MiB"), ("64m", "64MiB"), ("1g", "1GiB")] {
            assert_eq!(size(text).unwrap_err().1, Some(format!("did you mean `{meant}`?")), "{text}");
        }
        for text in ["", "MiB", "-1B", "1.2.3B", "1 parsec", "99999999999TiB", "ä"] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("1m 30s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("0ms"), Ok(Duration::ZERO));
        assert_eq!(duration("200").unwrap_err().1.as_deref(), Some("did you mean `200ms`?"));
        for text in ["", "0", "-1s", "5 parsecs", "2years", "99999999999999999999s"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_shown_is_read_again() {
        for bytes in [0, 1, 1023, 1024, 1536, 64 << 20, 3 << 40] {
            assert_eq!(size(&show_size(bytes)), Ok(bytes));
        }
        for millis in [0, 5, 1500, 61_001] {
            let shown = Duration::from_millis(millis);
            assert_eq!(duration(&show_duration(shown)), Ok(shown));
        }
    }
}
