//! `print`, `printf` and the escapes, with the output of Go's `fmt` package: padding, precision, and the notes such as
//! `%!d(string=hi)` that it leaves in the text when a verb does not fit its argument.

use super::MAX_OUTPUT;
use super::value::Value;
use std::fmt::Write;

/// Widest field or precision that `printf` accepts.
const MAX_WIDTH: usize = 10_000;

/// How `print` and its relatives join their arguments.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Printed {
    /// `print`: a space only between two arguments that are not strings.
    Plain,
    /// `println`: spaces everywhere and a newline.
    Line,
    /// For the escapes: like `print`, and nothing is `<no value>`.
    Escaped,
}

/// The value as `{{ }}` writes it.
pub(super) fn display(value: &Value) -> String {
    match value {
        Value::Nil => "<nil>".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Int(value) => value.to_string(),
        Value::Byte(value) => value.to_string(),
        Value::Float(value) => float(*value, 'g', None),
        Value::Text(text) => text.to_string(),
        Value::Map(map) => {
            let entries: Vec<String> = map
                .iter()
                .map(|(key, value)| format!("{key}:{value}"))
                .collect();
            format!("map[{}]", entries.join(" "))
        }
    }
}

/// `print`, `println`, and what the escapes escape.
pub(super) fn print(arguments: &[Value], how: Printed) -> String {
    let mut out = String::new();
    let mut previous_was_text = true;
    for (position, argument) in arguments.iter().enumerate() {
        // The escapes turn "nothing" into a text before they join.
        let is_text = matches!(argument, Value::Text(_))
            || (how == Printed::Escaped && *argument == Value::Nil);
        if position > 0 && (how == Printed::Line || !(is_text || previous_was_text)) {
            out.push(' ');
        }
        if how == Printed::Escaped && *argument == Value::Nil {
            out.push_str("<no value>");
        } else {
            out.push_str(&display(argument));
        }
        if out.len() > MAX_OUTPUT {
            return out;
        }
        previous_was_text = is_text;
    }
    if how == Printed::Line {
        out.push('\n');
    }
    out
}

/// `html`.
pub(super) fn html(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\0' => out.push('\u{fffd}'),
            '"' => out.push_str("&#34;"),
            '\'' => out.push_str("&#39;"),
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            c => out.push(c),
        }
    }
    out
}

/// `js`.
pub(super) fn js(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\'' => out.push_str("\\'"),
            '"' => out.push_str("\\\""),
            c if matches!(c, '<' | '>' | '&' | '=') || !printable(c) => {
                let _ = write!(out, "\\u{:04X}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out
}

/// `urlquery`.
pub(super) fn url_query(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                out.push(char::from(byte));
            }
            b' ' => out.push('+'),
            byte => {
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
    out
}

/// Whether Go prints the character as it is inside of quotes.
fn printable(c: char) -> bool {
    matches!(c, '"' | '\'' | '\\') || (c == ' ' || !c.is_whitespace()) && is_graphic(c)
}

fn is_graphic(c: char) -> bool {
    // Marks are printable in Go and escaped by Rust, so only the clear cases count.
    !c.is_control()
        && !matches!(u32::from(c), 0xAD | 0x200B..=0x200F | 0x202A..=0x202E | 0x2060..=0x206F | 0xE000..=0xF8FF | 0xFEFF | 0xFFF0..=0xFFFB | 0xFFFE..=0xFFFF | 0xE0000..)
}

/// The text as a Go string constant.
fn quoted(text: &str, quote: char, ascii: bool) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push(quote);
    for c in text.chars() {
        match c {
            c if c == quote || c == '\\' => {
                out.push('\\');
                out.push(c);
            }
            c if c.is_ascii() && !c.is_ascii_control() => out.push(c),
            c if !c.is_ascii() && !ascii && printable(c) => out.push(c),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            c if u32::from(c) < 0x80 => {
                let _ = write!(out, "\\x{:02x}", u32::from(c));
            }
            c if u32::from(c) < 0x1_0000 => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => {
                let _ = write!(out, "\\U{:08x}", u32::from(c));
            }
        }
    }
    out.push(quote);
    out
}

/// A float without padding; `None` is the shortest text that reads back as the same number.
fn float(value: f64, verb: char, precision: Option<usize>) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    match verb {
        'e' | 'E' => {
            let text = precision.map_or_else(
                || format!("{value:e}"),
                |precision| format!("{value:.precision$e}"),
            );
            let text = exponent(&text);
            if verb == 'E' {
                text.to_uppercase()
            } else {
                text
            }
        }
        'f' | 'F' => precision.map_or_else(
            || format!("{value}"),
            |precision| format!("{value:.precision$}"),
        ),
        verb => {
            let scientific = precision.map_or_else(
                || format!("{value:e}"),
                |precision| format!("{value:.*e}", precision.max(1) - 1),
            );
            let (mantissa, power) = scientific.split_once('e').unwrap_or((&scientific, "0"));
            let power: i32 = power.parse().unwrap_or_default();
            let mantissa = if mantissa.contains('.') {
                mantissa.trim_end_matches('0').trim_end_matches('.')
            } else {
                mantissa
            };
            let digits = mantissa.chars().filter(char::is_ascii_digit).count();
            let point = power + 1;
            let digits_signed = i32::try_from(digits).unwrap_or(i32::MAX);
            // The shortest form switches to an exponent at a million and more, the one with a precision where digits would be made up.
            let limit = precision.map_or(6, |precision| {
                let precision = i32::try_from(precision.max(1)).unwrap_or(i32::MAX);
                if precision > digits_signed && digits_signed >= point {
                    digits_signed
                } else {
                    precision
                }
            });
            if power < -4 || power >= limit {
                let text = exponent(&format!("{mantissa}e{power}"));
                return if verb == 'G' {
                    text.to_uppercase()
                } else {
                    text
                };
            }
            let decimals = usize::try_from(digits_signed - point).unwrap_or(0);
            // Printing the rounded digits again adds no error: they are the nearest to themselves.
            scientific.parse::<f64>().map_or_else(
                |_| scientific.clone(),
                |rounded| format!("{rounded:.decimals$}"),
            )
        }
    }
}

/// Rust writes `1e6`, Go `1e+06`.
fn exponent(text: &str) -> String {
    let Some((mantissa, power)) = text.split_once('e') else {
        return text.to_owned();
    };
    let (sign, digits) = power
        .strip_prefix('-')
        .map_or(('+', power), |digits| ('-', digits));
    format!("{mantissa}e{sign}{digits:0>2}")
}

/// Flags, width and precision of one verb.
#[derive(Clone, Copy, Default)]
#[allow(clippy::struct_excessive_bools, reason = "the five flags of printf")]
struct Spec {
    sharp: bool,
    zero: bool,
    plus: bool,
    minus: bool,
    space: bool,
    width: Option<usize>,
    precision: Option<usize>,
}

impl Spec {
    fn pad(self, text: &str) -> String {
        self.pad_with(text, if self.zero && !self.minus { '0' } else { ' ' })
    }

    fn pad_with(self, text: &str, fill: char) -> String {
        let length = text.chars().count();
        let missing = self.width.unwrap_or(0).saturating_sub(length);
        let padding: String = std::iter::repeat_n(fill, missing).collect();
        if self.minus {
            format!("{text}{padding}")
        } else {
            format!("{padding}{text}")
        }
    }
}

/// `printf`.
pub(super) fn printf(pattern: &str, arguments: &[Value]) -> Result<String, String> {
    let mut out = String::new();
    let mut reader = Reader {
        rest: pattern,
        arguments,
        next: 0,
        reordered: false,
        good: true,
    };
    let mut any_reordered = false;
    while let Some(found) = reader.rest.find('%') {
        out.push_str(&reader.rest[..found]);
        reader.rest = &reader.rest[found + 1..];
        reader.reordered = false;
        reader.good = true;
        reader.verb(&mut out)?;
        any_reordered = reader.reordered;
        if out.len() > MAX_OUTPUT {
            return Err(format!("the text becomes longer than {MAX_OUTPUT} bytes"));
        }
    }
    out.push_str(reader.rest);
    if !any_reordered && reader.next < arguments.len() {
        out.push_str("%!(EXTRA ");
        let extra: Vec<String> = arguments[reader.next..]
            .iter()
            .map(|argument| match argument {
                Value::Nil => "<nil>".to_owned(),
                argument => format!("{}={}", argument.type_name(), display(argument)),
            })
            .collect();
        out.push_str(&extra.join(", "));
        out.push(')');
    }
    Ok(out)
}

struct Reader<'a> {
    rest: &'a str,
    arguments: &'a [Value],
    next: usize,
    reordered: bool,
    good: bool,
}

impl Reader<'_> {
    fn accept(&mut self, c: char) -> bool {
        self.rest.strip_prefix(c).is_some_and(|rest| {
            self.rest = rest;
            true
        })
    }

    fn number(&mut self) -> Result<Option<usize>, String> {
        let length = self
            .rest
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(self.rest.len());
        if length == 0 {
            return Ok(None);
        }
        let (digits, rest) = self.rest.split_at(length);
        self.rest = rest;
        digits
            .parse()
            .ok()
            .filter(|number| *number <= MAX_WIDTH)
            .map(Some)
            .ok_or_else(|| format!("{digits} is wider than {MAX_WIDTH}"))
    }

    /// `[n]` chooses the argument.
    fn chosen(&mut self) -> bool {
        if !self.rest.starts_with('[') {
            return false;
        }
        self.reordered = true;
        let Some(close) = self.rest.find(']') else {
            self.good = false;
            self.rest = &self.rest[1..];
            return false;
        };
        let number: Option<usize> = self.rest[1..close].parse().ok();
        self.rest = &self.rest[close + 1..];
        match number {
            Some(number) if (1..=self.arguments.len()).contains(&number) => {
                self.next = number - 1;
                return true;
            }
            _ => self.good = false,
        }
        true
    }

    /// The width or precision that `*` takes from the arguments.
    fn starred(&mut self) -> Result<Option<i64>, String> {
        let value = self.arguments.get(self.next).and_then(|value| match value {
            Value::Int(value) => Some(*value),
            _ => None,
        });
        if self.next < self.arguments.len() {
            self.next += 1;
        }
        match value {
            Some(value) if value.unsigned_abs() > MAX_WIDTH as u64 => {
                Err(format!("{value} is wider than {MAX_WIDTH}"))
            }
            value => Ok(value),
        }
    }

    fn verb(&mut self, out: &mut String) -> Result<(), String> {
        let mut spec = Spec::default();
        loop {
            match self.rest.chars().next() {
                Some('#') => spec.sharp = true,
                Some('0') => spec.zero = true,
                Some('+') => spec.plus = true,
                Some('-') => spec.minus = true,
                Some(' ') => spec.space = true,
                _ => break,
            }
            self.rest = &self.rest[1..];
        }
        let mut after_index = self.chosen();
        if self.accept('*') {
            match self.starred()? {
                None => out.push_str("%!(BADWIDTH)"),
                Some(width) => {
                    spec.minus |= width < 0;
                    spec.zero &= width >= 0;
                    spec.width = usize::try_from(width.unsigned_abs()).ok();
                }
            }
            after_index = false;
        } else {
            spec.width = self.number()?;
            if after_index && spec.width.is_some() {
                self.good = false;
            }
        }
        if self.accept('.') {
            if after_index {
                self.good = false;
            }
            after_index = self.chosen();
            if self.accept('*') {
                match self.starred()? {
                    Some(precision) if precision >= 0 => {
                        spec.precision = usize::try_from(precision).ok();
                    }
                    Some(_) => {
                        spec.precision = None;
                        out.push_str("%!(BADPREC)");
                    }
                    None => out.push_str("%!(BADPREC)"),
                }
                after_index = false;
            } else {
                spec.precision = Some(self.number()?.unwrap_or(0));
            }
        }
        if !after_index {
            self.chosen();
        }
        let Some(verb) = self.rest.chars().next() else {
            out.push_str("%!(NOVERB)");
            return Ok(());
        };
        self.rest = &self.rest[verb.len_utf8()..];
        // %+v asks for the names of fields, not for a sign.
        spec.plus &= verb != 'v';
        if verb == '%' {
            out.push('%');
        } else if !self.good {
            let _ = write!(out, "%!{verb}(BADINDEX)");
        } else if let Some(argument) = self.arguments.get(self.next) {
            self.next += 1;
            out.push_str(&formatted(argument, verb, spec)?);
        } else {
            let _ = write!(out, "%!{verb}(MISSING)");
        }
        Ok(())
    }
}

/// One argument by one verb.
fn formatted(value: &Value, verb: char, spec: Spec) -> Result<String, String> {
    let unfit = |spec: Spec| -> Result<String, String> {
        Ok(match value {
            Value::Nil => format!("%!{verb}(<nil>)"),
            value => format!(
                "%!{verb}({}={})",
                value.type_name(),
                formatted(value, 'v', spec)?
            ),
        })
    };
    if verb == 'T' {
        let name = if *value == Value::Nil {
            "<nil>"
        } else {
            value.type_name()
        };
        return Ok(text(name, 's', spec));
    }
    match value {
        Value::Nil if verb == 'v' => Ok(spec.pad("<nil>")),
        Value::Bool(value) if matches!(verb, 'v' | 't') => Ok(spec.pad(&value.to_string())),
        Value::Int(number) if "vdboOxXcqU".contains(verb) => Ok(integer(*number, verb, spec)),
        Value::Byte(number) if "vdboOxXcqU".contains(verb) => {
            let verb = if verb == 'v' && spec.sharp { 'x' } else { verb };
            Ok(integer(i64::from(*number), verb, spec))
        }
        Value::Float(number) if "veEfFgG".contains(verb) => {
            if spec.sharp && verb != 'v' {
                return Err(format!("the flag # is not supported with %{verb}"));
            }
            Ok(decimal(*number, verb, spec))
        }
        Value::Float(_) if "bxX".contains(verb) => Err(format!(
            "%{verb} of a floating-point number is not supported; use %f, %e or %g"
        )),
        Value::Text(string) if "vsxXq".contains(verb) => Ok(text(string, verb, spec)),
        Value::Map(_) if verb == 'p' => Err("%p is not supported".to_owned()),
        Value::Map(map) => {
            let mut entries = Vec::new();
            for (key, value) in map.iter() {
                let key = formatted(&Value::text(key), verb, spec)?;
                let value = formatted(&Value::text(value), verb, spec)?;
                entries.push(format!("{key}:{value}"));
            }
            Ok(if verb == 'v' && spec.sharp {
                format!("map[string]string{{{}}}", entries.join(", "))
            } else {
                format!("map[{}]", entries.join(" "))
            })
        }
        _ => unfit(spec),
    }
}

fn text(string: &str, verb: char, spec: Spec) -> String {
    let cut: &str = match spec.precision {
        Some(precision) if !matches!(verb, 'x' | 'X') => string
            .char_indices()
            .nth(precision)
            .map_or(string, |(end, _)| &string[..end]),
        _ => string,
    };
    match verb {
        'v' if spec.sharp => spec.pad(&quoted(string, '"', false)),
        'q' if spec.sharp
            && !cut
                .contains(|c: char| c == '`' || c == '\u{feff}' || c.is_control() && c != '\t') =>
        {
            spec.pad(&format!("`{cut}`"))
        }
        'q' => spec.pad(&quoted(cut, '"', spec.plus)),
        'x' | 'X' => {
            let bytes = string.as_bytes();
            let bytes = &bytes[..spec.precision.unwrap_or(bytes.len()).min(bytes.len())];
            let lower = verb == 'x';
            let prefix = if lower { "0x" } else { "0X" };
            let mut out = String::new();
            for (position, byte) in bytes.iter().enumerate() {
                if spec.space && position > 0 {
                    out.push(' ');
                }
                if spec.sharp && (spec.space || position == 0) {
                    out.push_str(prefix);
                }
                let _ = if lower {
                    write!(out, "{byte:02x}")
                } else {
                    write!(out, "{byte:02X}")
                };
            }
            spec.pad(&out)
        }
        _ => spec.pad(cut),
    }
}

fn integer(number: i64, verb: char, spec: Spec) -> String {
    let character = || {
        u32::try_from(number)
            .ok()
            .and_then(char::from_u32)
            .unwrap_or('\u{fffd}')
    };
    let magnitude = number.unsigned_abs();
    let digits = match verb {
        'b' => format!("{magnitude:b}"),
        'o' | 'O' => format!("{magnitude:o}"),
        'x' => format!("{magnitude:x}"),
        'X' => format!("{magnitude:X}"),
        'c' => return spec.pad(&character().to_string()),
        'q' => return spec.pad(&quoted(&character().to_string(), '\'', spec.plus)),
        'U' => {
            let width = spec.precision.unwrap_or(4).max(4);
            let mut out = format!("U+{number:0width$X}");
            if spec.sharp && printable(character()) {
                let _ = write!(out, " '{}'", character());
            }
            return spec.pad_with(&out, ' ');
        }
        _ => magnitude.to_string(),
    };
    let negative = number < 0;
    let least = match (spec.precision, spec.width) {
        (Some(0), _) if number == 0 => return spec.pad_with("", ' '),
        (Some(precision), _) => precision,
        (None, Some(width)) if spec.zero && !spec.minus => {
            width.saturating_sub(usize::from(negative || spec.plus || spec.space))
        }
        _ => 0,
    };
    let mut body = format!("{digits:0>least$}");
    if spec.sharp {
        match verb {
            'b' => body.insert_str(0, "0b"),
            'o' if !body.starts_with('0') => body.insert(0, '0'),
            'x' => body.insert_str(0, "0x"),
            'X' => body.insert_str(0, "0X"),
            _ => {}
        }
    }
    if verb == 'O' {
        body.insert_str(0, "0o");
    }
    if negative {
        body.insert(0, '-');
    } else if spec.plus {
        body.insert(0, '+');
    } else if spec.space {
        body.insert(0, ' ');
    }
    spec.pad_with(&body, ' ')
}

fn decimal(number: f64, verb: char, spec: Spec) -> String {
    let (verb, default) = match verb {
        'v' => ('g', None),
        'g' | 'G' => (verb, None),
        verb => (verb, Some(6)),
    };
    let body = float(number, verb, spec.precision.or(default));
    let (sign, digits) = match body.as_bytes().first() {
        Some(b'-') => ("-", &body[1..]),
        Some(b'+') => ("+", &body[1..]),
        _ => ("+", body.as_str()),
    };
    let sign = match sign {
        "-" => "-",
        _ if spec.plus => "+",
        _ if spec.space => " ",
        // Infinity always shows its sign.
        _ if number.is_infinite() => "+",
        _ => "",
    };
    let fills = spec.zero && !spec.minus && number.is_finite();
    if fills {
        let width = spec.width.unwrap_or(0).saturating_sub(sign.len());
        return format!("{sign}{digits:0>width$}");
    }
    spec.pad_with(&format!("{sign}{digits}"), ' ')
}
