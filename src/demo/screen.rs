//! Where the demo is shown: redrawn in place on a terminal, line by line in a pipe.
use std::io::{self, IsTerminal, Write};

use super::model::DemoModel;
use super::render::{PlainLog, render};

/// The one output of the demo.
pub enum Screen {
    /// A terminal, and how many lines of it the last frame covers.
    Live {
        drawn: usize,
        colour: bool,
        /// Lines below the frame.
        footer: Vec<String>,
    },
    Plain(PlainLog),
}

impl Screen {
    /// Lines with a time, for a pipe.
    #[must_use]
    pub fn plain() -> Self {
        Self::Plain(PlainLog::default())
    }

    /// Live if stdout is a terminal that understands cursor movement. `NO_COLOR` is respected.
    #[must_use]
    pub fn of_stdout() -> Self {
        let dumb = std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
        if io::stdout().is_terminal() && !dumb {
            let colour = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
            Self::Live {
                drawn: 0,
                colour,
                footer: Vec::new(),
            }
        } else {
            Self::plain()
        }
    }

    /// With these lines below the frame, where it is live.
    #[must_use]
    pub fn with_footer(mut self, lines: Vec<String>) -> Self {
        if let Self::Live { footer, .. } = &mut self {
            *footer = lines;
        }
        self
    }

    /// The lines below the frame.
    #[must_use]
    pub fn footer(&self) -> &[String] {
        match self {
            Self::Live { footer, .. } => footer,
            Self::Plain(_) => &[],
        }
    }

    /// Whether it is redrawn in place.
    #[must_use]
    pub fn is_live(&self) -> bool {
        matches!(self, Self::Live { .. })
    }

    /// Shows the model as it is now.
    pub fn show(&mut self, model: &DemoModel) -> io::Result<()> {
        let mut out = io::stdout().lock();
        match self {
            Self::Live { drawn, colour, .. } => {
                let (width, height) = size();
                // The cursor rests on a line of its own below the frame.
                let frame = render(model, width, height - 1, *colour);
                // Back to the first line of the last frame, then each line over the old one: nothing flickers.
                if *drawn > 0 {
                    write!(out, "\x1b[{drawn}A")?;
                }
                write!(out, "\x1b[?25l\r{}\x1b[J", frame.replace('\n', "\x1b[K\n"))?;
                *drawn = frame.lines().count();
            }
            Self::Plain(log) => {
                for line in log.lines(model) {
                    writeln!(out, "{line}")?;
                }
            }
        }
        out.flush()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if matches!(self, Self::Live { .. }) {
            let mut out = io::stdout().lock();
            write!(out, "\x1b[?25h").and_then(|()| out.flush()).ok();
        }
    }
}

/// Columns and lines to draw in.
fn size() -> (usize, usize) {
    let (columns, lines) = rustix::termios::tcgetwinsize(io::stdout())
        .ok()
        .filter(|size| size.ws_col > 0 && size.ws_row > 0)
        .map_or((80, 24), |size| {
            (usize::from(size.ws_col), usize::from(size.ws_row))
        });
    (columns.min(100), lines.max(1))
}
