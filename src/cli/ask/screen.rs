//! How text is laid out for a terminal: colours that go when nobody sees them, tables whose columns line up, bars, sparklines, and times as
//! people say them. Everything is a pure function of its arguments.

use jiff::Timestamp;

/// What a piece of text means, from which its colour follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    Plain,
    Good,
    Warning,
    Bad,
    Faint,
    Strong,
}

/// Whether and how to paint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    pub colour: bool,
}

impl Style {
    /// No colours: files, pipes, tests.
    #[cfg(test)]
    pub const PLAIN: Self = Self { colour: false };

    /// Colours where standard output is a terminal and `NO_COLOR` is not set (<https://no-color.org>).
    pub fn of_output() -> Self {
        use std::io::IsTerminal;
        let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|value| value == "dumb");
        Self {
            colour: std::io::stdout().is_terminal() && !unwanted && !dumb,
        }
    }

    pub fn paint(self, tone: Tone, text: &str) -> String {
        let code = match tone {
            Tone::Plain => return text.to_owned(),
            Tone::Good => "32",
            Tone::Warning => "33",
            Tone::Bad => "31",
            Tone::Faint => "2",
            Tone::Strong => "1",
        };
        if self.colour && !text.is_empty() {
            format!("\u{1b}[{code}m{text}\u{1b}[0m")
        } else {
            text.to_owned()
        }
    }
}

/// A cell of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cell {
    pub text: String,
    pub tone: Tone,
}

impl Cell {
    pub fn new(tone: Tone, text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            tone,
        }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::new(Tone::Plain, text)
    }
}

/// Rows with columns that line up, three blanks between them; no blanks at the ends of lines.
pub fn table(rows: &[Vec<Cell>], indent: usize, style: Style) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns)
        .map(|column| {
            rows.iter()
                .filter_map(|row| row.get(column))
                .map(|cell| cell.text.chars().count())
                .max()
                .unwrap_or(0)
        })
        .collect();
    let mut text = String::new();
    for row in rows {
        let last = row.iter().rposition(|cell| !cell.text.is_empty());
        let mut line = " ".repeat(indent);
        for (column, cell) in row.iter().enumerate().take(last.map_or(0, |last| last + 1)) {
            line.push_str(&style.paint(cell.tone, &cell.text));
            if Some(column) != last {
                let blanks = widths[column] - cell.text.chars().count() + 3;
                line.push_str(&" ".repeat(blanks));
            }
        }
        text.push_str(line.trim_end_matches(' '));
        text.push('\n');
    }
    text
}

/// A share from 0 to 100 as ten cells.
pub fn bar(percent: i64) -> String {
    let full = usize::try_from((percent.clamp(0, 100) + 5) / 10).unwrap_or(0);
    format!("{}{}", "█".repeat(full), "░".repeat(10 - full))
}

/// Values as a row of columns between the least and the greatest of them; what is no number is left out.
pub fn sparkline(values: &[String]) -> String {
    const COLUMNS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let numbers: Vec<f64> = values.iter().filter_map(|value| number(value)).collect();
    let least = numbers.iter().copied().fold(f64::INFINITY, f64::min);
    let greatest = numbers.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let span = greatest - least;
    numbers
        .iter()
        .map(|number| {
            if span <= f64::EPSILON {
                return COLUMNS[3];
            }
            let share = (number - least) / span;
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // 0 to 7
            let column = (share * 7.0).round() as usize;
            COLUMNS[column.min(7)]
        })
        .collect()
}

/// The number at the start of `99.50%` or `12 ms`.
fn number(text: &str) -> Option<f64> {
    let end = text
        .find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '-' | '+' | 'e' | 'E')))
        .unwrap_or(text.len());
    text[..end].parse().ok()
}

/// A time span as kubectl tells ages: the greatest unit, and the next one while the first is small.
pub fn span(seconds: i64) -> String {
    let seconds = seconds.max(0);
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..600 if seconds % 60 != 0 => format!("{minutes}m{}s", seconds % 60),
        120..7200 => format!("{minutes}m"),
        7200..86_400 if minutes % 60 != 0 && hours < 10 => format!("{hours}h{}m", minutes % 60),
        7200..172_800 => format!("{hours}h"),
        _ => format!("{days}d"),
    }
}

/// How long ago something was.
pub fn ago(then: Option<Timestamp>, now: Timestamp) -> String {
    then.map_or_else(
        || "-".to_owned(),
        |then| span(now.duration_since(then).as_secs()),
    )
}

/// A point in time of today as a time of day, any other with its date; UTC, whole seconds.
pub fn clock(at: Timestamp, now: Timestamp) -> String {
    let text = at.strftime("%Y-%m-%d %H:%M:%S").to_string();
    let today = now.strftime("%Y-%m-%d ").to_string();
    text.strip_prefix(&today).unwrap_or(&text).to_owned()
}

/// A point in time to come, with how far it is away; one that is past is due.
pub fn moment(at: Timestamp, now: Timestamp) -> String {
    let seconds = at.duration_since(now).as_secs();
    if seconds <= 0 {
        format!("{} (now)", clock(at, now))
    } else {
        format!("{} (in {})", clock(at, now), span(seconds))
    }
}

/// A hash for eyes: its scheme and first eight digits.
pub fn short(revision: &str) -> String {
    match revision.split_once(':') {
        Some((scheme, digits)) => format!("{scheme}:{}", digits.get(..8).unwrap_or(digits)),
        None => revision.chars().take(11).collect(),
    }
}

/// A sentence cut to a width, with a sign that it was.
pub fn cut(text: &str, width: usize) -> String {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if text.chars().count() <= width {
        return text;
    }
    text.chars()
        .take(width.saturating_sub(1))
        .chain(['…'])
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_whatever_the_colours() {
        let rows = vec![
            vec![Cell::from("a"), Cell::new(Tone::Good, "long"), "x".into()],
            vec!["bcd".into(), "".into(), "y".into()],
            vec!["e".into(), "f".into(), "".into()],
        ];
        assert_eq!(
            table(&rows, 0, Style::PLAIN),
            "a     long   x\nbcd          y\ne     f\n"
        );
        let painted = table(&rows, 0, Style { colour: true });
        assert!(
            painted.starts_with("a     \u{1b}[32mlong\u{1b}[0m   x\n"),
            "{painted:?}"
        );
    }

    #[test]
    fn spans_are_told_as_kubectl_tells_ages() {
        for (seconds, text) in [
            (-3, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (121, "2m1s"),
            (599, "9m59s"),
            (3600, "60m"),
            (7260, "2h1m"),
            (90_000, "25h"),
            (200_000, "2d"),
        ] {
            assert_eq!(span(seconds), text, "{seconds}");
        }
    }

    #[test]
    fn bars_and_sparklines_show_shares_and_courses() {
        assert_eq!(bar(0), "░░░░░░░░░░");
        assert_eq!(bar(20), "██░░░░░░░░");
        assert_eq!(bar(170), "██████████");
        let values = ["1%", "2.5 ms", "no", "8"].map(str::to_owned);
        assert_eq!(sparkline(&values), "▁▃█");
        assert_eq!(sparkline(&["5".to_owned(), "5".to_owned()]), "▄▄");
        assert_eq!(sparkline(&[]), "");
    }

    #[test]
    fn times_of_other_days_carry_their_date() {
        let now: Timestamp = "2026-05-04T08:00:00Z".parse().unwrap();
        let table = [
            ("2026-05-04T07:59:58.9Z", "07:59:58", "07:59:58 (now)"),
            ("2026-05-04T08:00:05Z", "08:00:05", "08:00:05 (in 5s)"),
            (
                "2026-05-05T08:00:00Z",
                "2026-05-05 08:00:00",
                "2026-05-05 08:00:00 (in 24h)",
            ),
        ];
        for (at, told, ahead) in table {
            let at: Timestamp = at.parse().unwrap();
            assert_eq!(clock(at, now), told);
            assert_eq!(moment(at, now), ahead);
        }
    }
}
