//! Options of command lines as tables: each program says which it knows, what they mean, which are harmless here and which are refused.

use crate::api::parse_go_duration;
use std::time::Duration;

/// What an option does.
pub(super) enum Meaning<T> {
    /// Is given or not.
    Switch(fn(&mut T)),
    /// Has a value; the error says what was expected.
    Value(fn(&mut T, &str) -> Result<(), String>),
    /// Is accepted and changes nothing here.
    IdleSwitch,
    /// The same with a value.
    IdleValue,
    /// Can't be honoured, and why. What it would change must not be left out silently.
    Refused(&'static str),
}

/// One option and all its names, without dashes.
pub(super) struct Known<T: 'static>(pub &'static [&'static str], pub Meaning<T>);

/// Options whose values may be secrets: no error repeats them.
const UNTOLD: [&str; 17] = [
    "H",
    "h",
    "header",
    "rpc-header",
    "a",
    "u",
    "user",
    "m",
    "metadata",
    "b",
    "cookie",
    "d",
    "data",
    "data-ascii",
    "data-binary",
    "data-raw",
    "json",
];

/// How short options may be written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    /// As Go programs have it: one dash or two before any name, values after a space or `=`.
    Go,
    /// Besides, short ones may be joined, with a value at the end: `-t2`, `-sd TEXT`.
    Joined,
}

/// Reads the options among `words` into `into`. Returns the words that are none.
pub(super) fn read<T>(
    table: &[Known<T>],
    style: Style,
    words: &[String],
    into: &mut T,
) -> Result<Vec<String>, String> {
    let mut rest = Vec::new();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let Some(dashed) = word.strip_prefix('-').filter(|name| !name.is_empty()) else {
            rest.push(word.clone());
            continue;
        };
        if dashed == "-" {
            rest.extend(words.cloned());
            break;
        }
        let bare = dashed.strip_prefix('-').unwrap_or(dashed);
        let (name, value) = match bare.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (bare, None),
        };
        if let Some(meaning) = find(table, name) {
            apply(meaning, name, value, &mut words, into)?;
            continue;
        }
        let joined = style == Style::Joined && bare.len() == dashed.len();
        if !joined {
            return Err(unknown(table, word));
        }
        let mut letters = dashed.char_indices();
        while let Some((at, letter)) = letters.next() {
            let name = &dashed[at..at + letter.len_utf8()];
            let after = letters.as_str();
            // What follows the letter may be a value, and a secret.
            let until = &word[..1 + at + letter.len_utf8()];
            let meaning = find(table, name).ok_or_else(|| unknown(table, until))?;
            if takes_value(meaning) {
                let value = (!after.is_empty()).then_some(after);
                apply(meaning, name, value, &mut words, into)?;
                break;
            }
            apply(meaning, name, None, &mut words, into)?;
        }
    }
    Ok(rest)
}

/// Each name of a table as it is written, and whether it is refused.
#[cfg(test)]
pub(super) fn names<T>(table: &[Known<T>]) -> Vec<(String, bool)> {
    table
        .iter()
        .flat_map(|Known(names, meaning)| {
            let refused = matches!(meaning, Meaning::Refused(_));
            names.iter().map(move |name| (dashed(name), refused))
        })
        .collect()
}

fn find<'a, T>(table: &'a [Known<T>], name: &str) -> Option<&'a Meaning<T>> {
    table
        .iter()
        .find(|Known(names, _)| names.contains(&name))
        .map(|Known(_, meaning)| meaning)
}

fn takes_value<T>(meaning: &Meaning<T>) -> bool {
    matches!(meaning, Meaning::Value(_) | Meaning::IdleValue)
}

fn apply<T>(
    meaning: &Meaning<T>,
    name: &str,
    value: Option<&str>,
    words: &mut std::slice::Iter<'_, String>,
    into: &mut T,
) -> Result<(), String> {
    let shown = dashed(name);
    if let Meaning::Refused(why) = meaning {
        return Err(format!("option {shown} is not possible here: {why}"));
    }
    if !takes_value(meaning) {
        return match (value.unwrap_or("true"), meaning) {
            ("true" | "1", Meaning::Switch(set)) => {
                set(into);
                Ok(())
            }
            ("true" | "1" | "false" | "0", _) => Ok(()),
            (value, _) => Err(format!(
                "option {shown} takes no value, or true or false; found {value:?}"
            )),
        };
    }
    let value = match value {
        Some(value) => value,
        None => words
            .next()
            .ok_or_else(|| format!("option {shown} needs a value"))?,
    };
    let Meaning::Value(set) = meaning else {
        return Ok(());
    };
    set(into, value).map_err(|expected| {
        if UNTOLD.contains(&name) {
            format!("option {shown}: expected {expected}")
        } else {
            format!("option {shown}: expected {expected}, found {value:?}")
        }
    })
}

fn dashed(name: &str) -> String {
    let dashes = if name.len() > 2 { "--" } else { "-" };
    format!("{dashes}{name}")
}

fn unknown<T>(table: &[Known<T>], word: &str) -> String {
    let known: Vec<String> = table
        .iter()
        .filter(|Known(_, meaning)| !matches!(meaning, Meaning::Refused(_)))
        .map(|Known(names, _)| {
            names
                .iter()
                .map(|name| dashed(name))
                .collect::<Vec<_>>()
                .join("|")
        })
        .collect();
    // A value may be a secret.
    let word = word.split('=').next().unwrap_or(word);
    format!("unknown option {word}; known are {}", known.join(", "))
}

/// A whole number of one or more.
pub(super) fn count<N: TryFrom<u64>>(text: &str) -> Result<N, String> {
    text.parse::<u64>()
        .ok()
        .filter(|number| *number > 0)
        .and_then(|number| N::try_from(number).ok())
        .ok_or_else(|| "a whole number above 0".to_owned())
}

/// A number above zero, or zero for none.
pub(super) fn rate(text: &str) -> Result<Option<f64>, String> {
    text.parse::<f64>()
        .ok()
        .filter(|number| number.is_finite() && *number >= 0.0)
        .map(|number| (number > 0.0).then_some(number))
        .ok_or_else(|| "a number of requests per second".to_owned())
}

/// A duration as Go writes it.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    parse_go_duration(text).map_err(|_| "a duration such as 30s or 1m".to_owned())
}

/// A duration as Go writes it, or a number of seconds.
pub(super) fn seconds(text: &str) -> Result<Duration, String> {
    text.parse::<f64>()
        .ok()
        .and_then(|number| Duration::try_from_secs_f64(number).ok())
        .map_or_else(|| duration(text), Ok)
}

/// `Name: value`.
pub(super) fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text
        .split_once(':')
        .ok_or_else(|| "a header such as \"Accept: text/html\"".to_owned())?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[derive(Default, Debug, PartialEq)]
    struct Draft {
        silent: bool,
        data: String,
        time: Duration,
    }

    const TABLE: &[Known<Draft>] = &[
        Known(
            &["s", "silent"],
            Meaning::Switch(|draft| draft.silent = true),
        ),
        Known(
            &["d", "data"],
            Meaning::Value(|draft, text| {
                text.clone_into(&mut draft.data);
                Ok(())
            }),
        ),
        Known(
            &["z"],
            Meaning::Value(|draft, text| {
                draft.time = duration(text)?;
                Ok(())
            }),
        ),
        Known(&["cpus"], Meaning::IdleValue),
        Known(&["x"], Meaning::Refused("there is no proxy")),
    ];

    fn parse(style: Style, line: &[&str]) -> Result<(Draft, Vec<String>), String> {
        let mut draft = Draft::default();
        let words: Vec<String> = line.iter().map(|word| (*word).to_owned()).collect();
        let rest = read(TABLE, style, &words, &mut draft)?;
        Ok((draft, rest))
    }

    #[test]
    fn values_stand_after_a_space_an_equals_sign_or_at_once() {
        let expected = Draft {
            silent: true,
            data: "x".into(),
            time: Duration::ZERO,
        };
        for (style, line) in [
            (Style::Go, &["-s", "-d", "x", "u"][..]),
            (Style::Go, &["--silent", "--data=x", "u"]),
            (Style::Go, &["u", "-silent=true", "-d=x", "-cpus", "4"]),
            (Style::Joined, &["-sd", "x", "u"]),
            (Style::Joined, &["-sdx", "u"]),
            (Style::Joined, &["-s", "-d", "x", "--", "u"]),
        ] {
            let (draft, rest) = parse(style, line).unwrap();
            assert_eq!(
                (&draft, rest.as_slice()),
                (&expected, &["u".to_owned()][..]),
                "{line:?}"
            );
        }
    }

    #[test]
    fn what_is_wrong_is_named_with_what_is_known() {
        for (line, told) in [
            (
                &["--nothing=secret"][..],
                "unknown option --nothing; known are -s|--silent, -d|--data, -z, --cpus",
            ),
            (&["-sd", "x"], "unknown option -sd"),
            (
                &["-z", "5"],
                "option -z: expected a duration such as 30s or 1m, found \"5\"",
            ),
            (&["-z"], "option -z needs a value"),
            (
                &["-x", "a:1"],
                "option -x is not possible here: there is no proxy",
            ),
            (&["-s=maybe"], "option -s takes no value"),
        ] {
            let error = parse(Style::Go, line).unwrap_err();
            assert!(error.starts_with(told), "{line:?}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
