//! Durations as Go writes them (`1m30s`, `500ms`, `1.5h`), since every duration in Flagger's manifests is one.
//!
//! Grammar and printed form follow Go's `time.ParseDuration` and `Duration.String`; negative durations are refused,
//! no field of ours can mean one.

use std::fmt;
use std::time::Duration;

use thiserror::Error;

/// Why a text is no duration.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DurationError {
    /// Nothing to parse.
    #[error("expected a duration such as \"30s\", \"1m30s\" or \"500ms\", found an empty text")]
    Empty,
    /// Durations here are waits and periods.
    #[error("expected a duration of zero or more, found \"{0}\"")]
    Negative(String),
    /// A number without its unit.
    #[error("\"{0}\" has a number without a unit; write for example \"30s\" or \"1m30s\"")]
    MissingUnit(String),
    /// A unit that Go does not know, such as `d` or `minutes`.
    #[error("\"{text}\" has the unit \"{unit}\"; the units are ns, us, ms, s, m and h")]
    UnknownUnit {
        /// The whole text.
        text: String,
        /// The unit in it.
        unit: String,
    },
    /// Anything else.
    #[error("\"{0}\" is not a duration; write for example \"30s\", \"1m30s\" or \"500ms\"")]
    Malformed(String),
    /// Longer than Go's 64 bits of nanoseconds (about 292 years).
    #[error("\"{0}\" is longer than a duration can be (about 292 years)")]
    TooLong(String),
}

const UNITS: &[(&str, u128)] = &[
    ("ns", 1),
    ("us", 1_000),
    ("\u{b5}s", 1_000),
    ("\u{3bc}s", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// Reads a Go duration.
///
/// ```
/// # use std::time::Duration;
/// # use serin::api::parse_go_duration;
/// assert_eq!(parse_go_duration("1m30s"), Ok(Duration::from_secs(90)));
/// assert_eq!(parse_go_duration("1.5h"), Ok(Duration::from_secs(5400)));
/// assert!(parse_go_duration("5minutes").is_err());
/// ```
pub fn parse_go_duration(text: &str) -> Result<Duration, DurationError> {
    if text.is_empty() {
        return Err(DurationError::Empty);
    }
    let (negative, unsigned) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if unsigned == "0" {
        return Ok(Duration::ZERO);
    }
    if unsigned.is_empty() {
        return Err(DurationError::Malformed(text.to_owned()));
    }
    let mut total: u128 = 0;
    let mut rest = unsigned;
    while !rest.is_empty() {
        let (nanos, after) = parse_one(text, rest)?;
        total = total
            .checked_add(nanos)
            .filter(|sum| *sum <= i64::MAX as u128)
            .ok_or_else(|| DurationError::TooLong(text.to_owned()))?;
        rest = after;
    }
    if negative && total > 0 {
        return Err(DurationError::Negative(text.to_owned()));
    }
    u64::try_from(total)
        .map(Duration::from_nanos)
        .map_err(|_| DurationError::TooLong(text.to_owned()))
}

/// Reads one number with its unit from the front of `rest`; gives nanoseconds and what follows.
fn parse_one<'a>(text: &str, rest: &'a str) -> Result<(u128, &'a str), DurationError> {
    let malformed = || DurationError::Malformed(text.to_owned());
    let too_long = || DurationError::TooLong(text.to_owned());

    let (whole, after) = split_while(rest, |c| c.is_ascii_digit());
    let (fraction, after) = match after.strip_prefix('.') {
        Some(after_dot) => split_while(after_dot, |c| c.is_ascii_digit()),
        None => ("", after),
    };
    if whole.is_empty() && fraction.is_empty() {
        return Err(malformed());
    }
    let (unit, after) = split_while(after, |c| c != '.' && !c.is_ascii_digit());
    if unit.is_empty() {
        return Err(DurationError::MissingUnit(text.to_owned()));
    }
    let (_, scale) = UNITS
        .iter()
        .find(|(name, _)| *name == unit)
        .ok_or_else(|| DurationError::UnknownUnit {
            text: text.to_owned(),
            unit: unit.to_owned(),
        })?;

    let whole: u128 = if whole.is_empty() {
        0
    } else {
        whole.parse().map_err(|_| too_long())?
    };
    let mut nanos = whole.checked_mul(*scale).ok_or_else(too_long)?;
    // Digits beyond 18 are below a nanosecond for every unit.
    let fraction = fraction.get(..18).unwrap_or(fraction);
    if !fraction.is_empty() {
        let digits: u128 = fraction.parse().map_err(|_| malformed())?;
        let power = u32::try_from(fraction.len()).map_err(|_| malformed())?;
        nanos = nanos
            .checked_add(digits * scale / 10u128.pow(power))
            .ok_or_else(too_long)?;
    }
    Ok((nanos, after))
}

fn split_while(text: &str, belongs: impl Fn(char) -> bool) -> (&str, &str) {
    let end = text.find(|c| !belongs(c)).unwrap_or(text.len());
    text.split_at(end)
}

/// A duration that prints as Go prints it: `1m30s`, `500ms`, `1h0m0s`, `0s`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct GoDuration(pub Duration);

impl fmt::Display for GoDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.0.as_nanos();
        if nanos == 0 {
            return f.write_str("0s");
        }
        if nanos < 1_000_000_000 {
            let (scale, unit) = match nanos {
                0..1_000 => (1, "ns"),
                1_000..1_000_000 => (1_000, "\u{b5}s"),
                _ => (1_000_000, "ms"),
            };
            return write!(f, "{}{unit}", decimal(nanos, scale));
        }
        let minutes = nanos / 60_000_000_000;
        let seconds = decimal(nanos % 60_000_000_000, 1_000_000_000);
        match (minutes / 60, minutes % 60) {
            (0, 0) => write!(f, "{seconds}s"),
            (0, minutes) => write!(f, "{minutes}m{seconds}s"),
            (hours, minutes) => write!(f, "{hours}h{minutes}m{seconds}s"),
        }
    }
}

/// `value / scale` in decimal without trailing zeros; `scale` is a power of ten.
fn decimal(value: u128, scale: u128) -> String {
    let (whole, fraction) = (value / scale, value % scale);
    if fraction == 0 {
        return whole.to_string();
    }
    let width = scale.ilog10() as usize;
    let digits = format!("{fraction:0width$}");
    format!("{whole}.{}", digits.trim_end_matches('0'))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn go_durations_are_read() {
        let table: &[(&str, u64)] = &[
            ("0", 0),
            ("0s", 0),
            ("-0s", 0),
            ("+5s", 5_000),
            ("1s", 1_000),
            ("1m30s", 90_000),
            ("500ms", 500),
            ("1.5h", 5_400_000),
            (".5s", 500),
            ("1.s", 1_000),
            ("2h45m", 9_900_000),
            ("1000000us", 1_000),
            ("1000000\u{b5}s", 1_000),
        ];
        for (text, millis) in table {
            assert_eq!(
                parse_go_duration(text),
                Ok(Duration::from_millis(*millis)),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_no_duration_is_refused_with_what_would_be_right() {
        let table: &[(&str, &str)] = &[
            ("", "found an empty text"),
            ("30", "without a unit"),
            ("5minutes", "unit \"minutes\""),
            ("1d", "the units are ns, us, ms, s, m and h"),
            ("-5s", "zero or more"),
            ("s", "is not a duration"),
            (".", "is not a duration"),
            ("+", "is not a duration"),
            (" 5s", "is not a duration"),
            ("9223372037s", "longer than"),
            ("99999999999999999999999999999999999999999s", "longer than"),
        ];
        for (text, part) in table {
            let message = parse_go_duration(text).unwrap_err().to_string();
            assert!(message.contains(part), "{text}: {message}");
        }
    }

    #[test]
    fn durations_print_as_go_prints_them() {
        let table: &[(Duration, &str)] = &[
            (Duration::ZERO, "0s"),
            (Duration::from_nanos(7), "7ns"),
            (Duration::from_nanos(1_500), "1.5\u{b5}s"),
            (Duration::from_millis(500), "500ms"),
            (Duration::from_mins(1), "1m0s"),
            (Duration::from_millis(90_500), "1m30.5s"),
            (Duration::from_hours(1), "1h0m0s"),
            (Duration::from_millis(10_050), "10.05s"),
        ];
        for (duration, text) in table {
            assert_eq!(GoDuration(*duration).to_string(), *text);
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_reads_back_the_same(nanos in 0..i64::MAX.unsigned_abs()) {
            let duration = Duration::from_nanos(nanos);
            prop_assert_eq!(parse_go_duration(&GoDuration(duration).to_string()), Ok(duration));
        }

        #[test]
        fn no_text_crashes_the_parser(text in ".{0,40}") {
            let _ = parse_go_duration(&text);
        }
    }
}
