//! Command lines as people have them in their canaries, understood without the programs that they name: `hey`, `wrk`, `ghz`,
//! `grpc_health_probe`, and `curl` with `grep` behind it. Several may follow each other with `;`, `&&` or a new line. What is not
//! understood is an error that says what is; what needs a shell or another program says so.

mod curl;
mod ghz;
mod hey;
mod options;
mod probe;
mod words;
mod wrk;

pub use curl::{Fetch, Filter};
pub use words::{Token, WordsError, tokens};

use super::generator::{GrpcPlan, Pace, Plan};
use ::http::header::{HeaderName, HeaderValue};
use std::time::Duration;

/// What one command does.
#[derive(Clone, Debug)]
pub enum Action {
    /// Sends load.
    Load {
        /// What, and where to.
        plan: Plan,
        /// How much.
        pace: Pace,
    },
    /// Asks a gRPC service once for its health.
    Health {
        /// The call.
        plan: GrpcPlan,
        /// How long it may take.
        timeout: Duration,
    },
    /// Asks once over HTTP and looks at the answer.
    Fetch(Box<Fetch>),
}

/// One command of a line.
#[derive(Clone, Debug)]
pub struct Step {
    /// The program that it names.
    pub program: &'static str,
    /// What it does.
    pub action: Action,
    /// Whether it is left out when the one before it failed (`&&`).
    pub after_success: bool,
}

impl Step {
    /// What it sends where, without what could be a secret.
    #[must_use]
    pub fn shown(&self) -> String {
        let target = match &self.action {
            Action::Load { plan, .. } => plan.target(),
            Action::Health { plan, .. } => plan.target(),
            Action::Fetch(fetch) => fetch.plan.target(),
        };
        format!("{} {target}", self.program)
    }

    /// The host that is asked.
    #[must_use]
    pub fn host(&self) -> &str {
        match &self.action {
            Action::Load { plan, .. } => plan.host(),
            Action::Health { plan, .. } => &plan.host,
            Action::Fetch(fetch) => fetch.plan.url.host_str().unwrap_or_default(),
        }
    }

    /// How many requests it has under way at most.
    #[must_use]
    pub fn workers(&self) -> usize {
        match &self.action {
            Action::Load { pace, .. } => pace.workers,
            Action::Health { .. } | Action::Fetch(_) => 1,
        }
    }
}

/// Why a line is not one of ours.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// Nothing to run.
    #[error("the command is empty")]
    Empty,
    /// Another program.
    #[error("{0:?} is not built in (hey, wrk, ghz, grpc_health_probe and curl are)")]
    Foreign(String),
    /// Something for a shell.
    #[error(transparent)]
    Shell(#[from] WordsError),
    /// One of ours, but not so.
    #[error("{program}: {message}")]
    Wrong {
        /// The program.
        program: &'static str,
        /// What is wrong.
        message: String,
    },
}

impl CommandError {
    /// Whether a shell and the program could do it.
    #[must_use]
    pub fn needs_shell(&self) -> bool {
        matches!(self, Self::Foreign(_) | Self::Shell(WordsError::Shell(_)))
    }
}

type Reader = fn(&[String]) -> Result<Action, String>;

/// The programs that are built in.
const PROGRAMS: [(&str, Reader); 6] = [
    ("hey", hey::read),
    ("wrk", wrk::read),
    ("wrk2", wrk::read),
    ("ghz", ghz::read),
    ("grpc_health_probe", probe::read),
    ("curl", curl::read),
];

/// Reads a command line.
///
/// # Errors
/// If it is not wholly one of ours.
pub fn parse(line: &str) -> Result<Vec<Step>, CommandError> {
    let mut steps: Vec<Step> = Vec::new();
    let mut pipeline: Vec<Vec<String>> = vec![Vec::new()];
    let mut after_success = false;
    // Every line ends.
    for token in tokens(line)?.into_iter().chain([Token::Then]) {
        match token {
            Token::Word(word) => {
                if let Some(command) = pipeline.last_mut() {
                    command.push(word);
                }
            }
            Token::Pipe => pipeline.push(Vec::new()),
            Token::Then | Token::And => {
                let commands = std::mem::replace(&mut pipeline, vec![Vec::new()]);
                if commands.iter().all(Vec::is_empty) {
                    // `;;`, an empty line, or a line that goes on after `&&`.
                    continue;
                }
                steps.push(step(&commands, after_success)?);
                after_success = token == Token::And;
            }
        }
    }
    if steps.is_empty() {
        return Err(CommandError::Empty);
    }
    Ok(steps)
}

fn step(pipeline: &[Vec<String>], after_success: bool) -> Result<Step, CommandError> {
    let (first, filters) = pipeline.split_first().ok_or(CommandError::Empty)?;
    let (name, words) = first.split_first().ok_or(CommandError::Empty)?;
    // A path to the program means the program.
    let base = name.rsplit('/').next().unwrap_or(name);
    let (program, reader) = PROGRAMS
        .into_iter()
        .find(|(known, _)| *known == base)
        .ok_or_else(|| foreign(name))?;
    let wrong = |message| CommandError::Wrong { program, message };
    let mut action = reader(words).map_err(wrong)?;
    for filter in filters {
        let Some((name, words)) = filter.split_first() else {
            return Err(wrong("nothing follows the |".to_owned()));
        };
        let Action::Fetch(fetch) = &mut action else {
            return Err(foreign(name));
        };
        if name != "grep" {
            return Err(foreign(name));
        }
        let filter = curl::filter(words).map_err(|message| CommandError::Wrong {
            program: "grep",
            message,
        })?;
        fetch.filters.push(filter);
    }
    Ok(Step {
        program,
        action,
        after_success,
    })
}

/// A program that is not ours; of an assignment before it the value is not repeated.
fn foreign(name: &str) -> CommandError {
    CommandError::Foreign(name.split('=').next().unwrap_or(name).to_owned())
}

/// The one word that is to be left when all options are read.
fn only(rest: Vec<String>, what: &str) -> Result<String, String> {
    let found = rest.len();
    let mut rest = rest.into_iter();
    match (rest.next(), found) {
        (Some(one), 1) => Ok(one),
        (None, _) => Err(format!("{what} is missing")),
        _ => Err(format!("expected one {what}, found {found}")),
    }
}

/// A URL for HTTP; a missing scheme means `http`, as it does to these programs.
fn url(text: &str) -> Result<reqwest::Url, String> {
    let whole = if text.contains("://") {
        text.to_owned()
    } else {
        format!("http://{text}")
    };
    let url: reqwest::Url = whole
        .parse()
        .map_err(|error| format!("the URL can't be understood: {error}"))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
        return Err("expected a URL such as http://app.test:8080/".to_owned());
    }
    Ok(url)
}

type Headers = Vec<(HeaderName, HeaderValue)>;

/// Headers as HTTP has them. `Host` is returned apart.
fn headers(pairs: Vec<(String, String)>) -> Result<(Headers, Option<HeaderValue>), String> {
    let mut headers = Vec::new();
    let mut host = None;
    for (name, value) in pairs {
        let header: HeaderName = name
            .parse()
            .map_err(|_| format!("{name:?} is not the name of a header"))?;
        let value = HeaderValue::from_str(&value)
            .map_err(|_| format!("the value of header {name} has characters that can't be sent"))?;
        if header == ::http::header::HOST {
            host = Some(value);
        } else {
            headers.push((header, value));
        }
    }
    Ok((headers, host))
}

/// `user:password` as a header.
fn basic_authentication(credentials: &str) -> (String, String) {
    use base64::Engine as _;
    let encoded = base64::engine::general_purpose::STANDARD.encode(credentials);
    ("authorization".to_owned(), format!("Basic {encoded}"))
}

/// Adds a header unless the user gave it.
fn default_header(headers: &mut Vec<(String, String)>, name: &str, value: &str) {
    if !headers
        .iter()
        .any(|(given, _)| given.eq_ignore_ascii_case(name))
    {
        headers.push((name.to_owned(), value.to_owned()));
    }
}

/// What we call ourselves.
const USER_AGENT: &str = concat!("serin-loadtester/", env!("CARGO_PKG_VERSION"));

#[cfg(test)]
mod tests;
