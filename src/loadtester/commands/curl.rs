//! `curl`, for tests of a canary before it has visitors: one request, and `grep` over its answer. They are here because tests such as
//! `curl -sd 'test' http://app-canary/token | grep token` are in many canaries, and nothing of them needs a shell.

use super::options::{Known, Meaning, Style, header, read as read_options, seconds};
use super::{Action, USER_AGENT, basic_authentication, default_header, headers, only, url};
use crate::loadtester::generator::{HttpPlan, HttpVersion};
use ::http::Method;
use regex::{Regex, RegexBuilder};
use std::time::Duration;

/// One request and what is looked for in its answer.
#[derive(Clone, Debug)]
pub struct Fetch {
    /// The request.
    pub plan: HttpPlan,
    /// How long it may take.
    pub timeout: Option<Duration>,
    /// Whether a status of 400 and above fails it.
    pub fail: bool,
    /// Whether the body is shown.
    pub shows_body: bool,
    /// Shown after the body; `%{http_code}` stands for the status.
    write_out: String,
    /// What the answer has to pass, one after the other.
    pub filters: Vec<Filter>,
}

impl Fetch {
    /// What `-w` shows after an answer of this status; 0 for none.
    #[must_use]
    pub fn write_out(&self, status: u16) -> String {
        let status = format!("{status:03}");
        self.write_out
            .replace("%{http_code}", &status)
            .replace("%{response_code}", &status)
    }
}

/// `grep`.
#[derive(Clone, Debug)]
pub struct Filter {
    pattern: Regex,
    inverted: bool,
    quiet: bool,
}

impl Filter {
    /// The lines that are kept, and whether there were any.
    #[must_use]
    pub fn apply(&self, text: &str) -> (String, bool) {
        let mut kept = String::new();
        let mut any = false;
        for line in text.lines() {
            if self.pattern.is_match(line) != self.inverted {
                any = true;
                kept.push_str(line);
                kept.push('\n');
            }
        }
        (if self.quiet { String::new() } else { kept }, any)
    }
}

#[derive(Default)]
#[allow(clippy::struct_excessive_bools, reason = "options are what they are")]
struct Draft {
    fail: bool,
    redirects: bool,
    insecure: bool,
    quiet_body: bool,
    head: bool,
    get: bool,
    second: Option<HttpVersion>,
    method: Option<String>,
    data: Vec<String>,
    json: bool,
    headers: Vec<(String, String)>,
    timeout: Option<Duration>,
    write_out: String,
    url: Option<String>,
}

fn data(draft: &mut Draft, text: &str) -> Result<(), String> {
    if text.starts_with('@') {
        return Err("the data itself: no files are read".to_owned());
    }
    draft.data.push(text.to_owned());
    Ok(())
}

const OPTIONS: &[Known<Draft>] = &[
    Known(
        &[
            "s",
            "silent",
            "S",
            "show-error",
            "v",
            "verbose",
            "no-progress-meter",
            "N",
            "no-buffer",
            "g",
            "globoff",
            "compressed",
        ],
        Meaning::IdleSwitch,
    ),
    Known(
        &["f", "fail", "fail-with-body"],
        Meaning::Switch(|draft| draft.fail = true),
    ),
    Known(
        &["L", "location"],
        Meaning::Switch(|draft| draft.redirects = true),
    ),
    Known(
        &["k", "insecure"],
        Meaning::Switch(|draft| draft.insecure = true),
    ),
    Known(&["I", "head"], Meaning::Switch(|draft| draft.head = true)),
    Known(&["G", "get"], Meaning::Switch(|draft| draft.get = true)),
    Known(
        &["http2"],
        Meaning::Switch(|draft| draft.second = Some(HttpVersion::Negotiated)),
    ),
    Known(
        &["http2-prior-knowledge"],
        Meaning::Switch(|draft| draft.second = Some(HttpVersion::Two)),
    ),
    Known(
        &["http1.1"],
        Meaning::Switch(|draft| draft.second = Some(HttpVersion::One)),
    ),
    Known(
        &["d", "data", "data-ascii", "data-binary"],
        Meaning::Value(data),
    ),
    Known(
        &["data-raw"],
        Meaning::Value(|draft, text| {
            draft.data.push(text.to_owned());
            Ok(())
        }),
    ),
    Known(
        &["json"],
        Meaning::Value(|draft, text| {
            draft.json = true;
            data(draft, text)
        }),
    ),
    Known(
        &["H", "header"],
        Meaning::Value(|draft, text| {
            draft.headers.push(header(text)?);
            Ok(())
        }),
    ),
    Known(
        &["A", "user-agent"],
        Meaning::Value(|draft, text| {
            draft
                .headers
                .push(("user-agent".to_owned(), text.to_owned()));
            Ok(())
        }),
    ),
    Known(
        &["b", "cookie"],
        Meaning::Value(|draft, text| {
            draft.headers.push(("cookie".to_owned(), text.to_owned()));
            Ok(())
        }),
    ),
    Known(
        &["u", "user"],
        Meaning::Value(|draft, text| {
            draft.headers.push(basic_authentication(text));
            Ok(())
        }),
    ),
    Known(
        &["X", "request"],
        Meaning::Value(|draft, text| {
            draft.method = Some(text.to_owned());
            Ok(())
        }),
    ),
    Known(
        &["m", "max-time"],
        Meaning::Value(|draft, text| {
            draft.timeout = Some(seconds(text)?);
            Ok(())
        }),
    ),
    Known(&["connect-timeout"], Meaning::IdleValue),
    Known(
        &["o", "output"],
        Meaning::Value(|draft, text| {
            draft.quiet_body = true;
            (text == "/dev/null")
                .then_some(())
                .ok_or_else(|| "/dev/null: no files are written".to_owned())
        }),
    ),
    Known(
        &["w", "write-out"],
        Meaning::Value(|draft, text| {
            draft.write_out = text.replace("\\n", "\n");
            let rest = draft
                .write_out
                .replace("%{http_code}", "")
                .replace("%{response_code}", "");
            (!rest.contains("%{"))
                .then_some(())
                .ok_or_else(|| "no variable but %{http_code}".to_owned())
        }),
    ),
    Known(
        &["url"],
        Meaning::Value(|draft, text| {
            draft.url = Some(text.to_owned());
            Ok(())
        }),
    ),
    Known(
        &[
            "retry",
            "retry-delay",
            "retry-max-time",
            "retry-connrefused",
            "retry-all-errors",
        ],
        Meaning::Refused("the hook's own field retries asks again"),
    ),
    Known(
        &["i", "include", "D", "dump-header"],
        Meaning::Refused("headers of answers are not shown"),
    ),
    Known(
        &["x", "proxy"],
        Meaning::Refused("requests are sent without a proxy"),
    ),
    Known(
        &[
            "cacert",
            "E",
            "cert",
            "key",
            "K",
            "config",
            "T",
            "upload-file",
            "F",
            "form",
            "c",
            "cookie-jar",
            "O",
            "remote-name",
        ],
        Meaning::Refused("no files are read or written"),
    ),
];

#[cfg(test)]
pub(super) fn known() -> Vec<(String, bool)> {
    super::options::names(OPTIONS)
}

pub(super) fn read(words: &[String]) -> Result<Action, String> {
    let mut draft = Draft::default();
    let mut rest = read_options(OPTIONS, Style::Joined, words, &mut draft)?;
    rest.extend(draft.url.take());
    let mut url = url(&only(rest, "URL")?)?;
    let mut body = draft.data.join("&");
    if draft.get && !body.is_empty() {
        let query = match url.query() {
            Some(query) => format!("{query}&{body}"),
            None => body.clone(),
        };
        url.set_query(Some(&query));
        body.clear();
    }
    let method = match &draft.method {
        Some(method) => method.as_str(),
        None if draft.head => "HEAD",
        None if draft.data.is_empty() || draft.get => "GET",
        None => "POST",
    };
    let method =
        Method::from_bytes(method.as_bytes()).map_err(|_| format!("{method:?} is not a method"))?;
    if draft.json {
        default_header(&mut draft.headers, "content-type", "application/json");
        default_header(&mut draft.headers, "accept", "application/json");
    } else if !draft.data.is_empty() && !draft.get {
        let form = "application/x-www-form-urlencoded";
        default_header(&mut draft.headers, "content-type", form);
    }
    default_header(&mut draft.headers, "user-agent", USER_AGENT);
    default_header(&mut draft.headers, "accept", "*/*");
    let (headers, host) = headers(draft.headers)?;
    Ok(Action::Fetch(Box::new(Fetch {
        plan: HttpPlan {
            url,
            method,
            headers,
            host,
            body: body.into(),
            version: draft.second.unwrap_or(HttpVersion::One),
            keep_alive: true,
            redirects: if draft.redirects { 50 } else { 0 },
            verify: !draft.insecure,
        },
        timeout: draft.timeout.filter(|timeout| !timeout.is_zero()),
        fail: draft.fail,
        shows_body: !draft.quiet_body,
        write_out: draft.write_out,
        filters: Vec::new(),
    })))
}

#[derive(Default)]
#[allow(clippy::struct_excessive_bools, reason = "options are what they are")]
struct GrepDraft {
    quiet: bool,
    extended: bool,
    fixed: bool,
    inverted: bool,
    any_case: bool,
    word: bool,
    pattern: Option<String>,
}

const GREP_OPTIONS: &[Known<GrepDraft>] = &[
    Known(
        &["q", "quiet", "silent"],
        Meaning::Switch(|draft| draft.quiet = true),
    ),
    Known(
        &["E", "extended-regexp"],
        Meaning::Switch(|draft| draft.extended = true),
    ),
    Known(
        &["F", "fixed-strings"],
        Meaning::Switch(|draft| draft.fixed = true),
    ),
    Known(
        &["v", "invert-match"],
        Meaning::Switch(|draft| draft.inverted = true),
    ),
    Known(
        &["i", "ignore-case"],
        Meaning::Switch(|draft| draft.any_case = true),
    ),
    Known(
        &["w", "word-regexp"],
        Meaning::Switch(|draft| draft.word = true),
    ),
    Known(
        &["e", "regexp"],
        Meaning::Value(|draft, text| {
            draft.pattern = Some(text.to_owned());
            Ok(())
        }),
    ),
    Known(
        &["s", "no-messages", "G", "basic-regexp", "a", "text"],
        Meaning::IdleSwitch,
    ),
];

#[cfg(test)]
pub(super) fn known_to_grep() -> Vec<(String, bool)> {
    super::options::names(GREP_OPTIONS)
}

/// `grep` after a `|`.
pub(super) fn filter(words: &[String]) -> Result<Filter, String> {
    let mut draft = GrepDraft::default();
    let mut rest = read_options(GREP_OPTIONS, Style::Joined, words, &mut draft)?;
    rest.extend(draft.pattern.take());
    let pattern = only(rest, "pattern")?;
    let mut expression = if draft.fixed {
        regex::escape(&pattern)
    } else if draft.extended {
        pattern
    } else {
        basic(&pattern)
    };
    if draft.word {
        expression = format!(r"\b(?:{expression})\b");
    }
    let pattern = RegexBuilder::new(&expression)
        .case_insensitive(draft.any_case)
        .build()
        .map_err(|_| "the pattern can't be understood".to_owned())?;
    Ok(Filter {
        pattern,
        inverted: draft.inverted,
        quiet: draft.quiet,
    })
}

/// In a basic expression these stand for themselves, and mean something behind a backslash.
fn basic(pattern: &str) -> String {
    let mut expression = String::new();
    let mut characters = pattern.chars();
    let mut bracket = false;
    while let Some(character) = characters.next() {
        match character {
            '[' if !bracket => {
                bracket = true;
                expression.push('[');
            }
            ']' => {
                bracket = false;
                expression.push(']');
            }
            '\\' if !bracket => match characters.next() {
                Some(special @ ('+' | '?' | '|' | '(' | ')' | '{' | '}')) => {
                    expression.push(special);
                }
                Some(other) => expression.extend(['\\', other]),
                None => expression.push_str("\\\\"),
            },
            '+' | '?' | '|' | '(' | ')' | '{' | '}' if !bracket => {
                expression.extend(['\\', character]);
            }
            _ => expression.push(character),
        }
    }
    expression
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn grep_keeps_the_lines_that_it_would() {
        let text = "token: abc\n{\"a+b\": 1}\nOK\n";
        for (line, kept, any) in [
            (&["token"][..], "token: abc\n", true),
            (&["-q", "token"], "", true),
            (&["nothing"], "", false),
            (&["-i", "^ok"], "OK\n", true),
            (&["^ok"], "", false),
            (&["-v", "o"], "{\"a+b\": 1}\nOK\n", true),
            (&["a+b"], "{\"a+b\": 1}\n", true),
            (&["-F", "{\"a+b\""], "{\"a+b\": 1}\n", true),
            (&["-E", "^(OK|token)"], "token: abc\nOK\n", true),
            (&[r"^\(OK\|token\)"], "token: abc\nOK\n", true),
            (&["-qe", "OK"], "", true),
            (&["{\"a+b\": [0-9]}"], "{\"a+b\": 1}\n", true),
        ] {
            let words: Vec<String> = line.iter().map(|word| (*word).to_owned()).collect();
            assert_eq!(
                filter(&words).unwrap().apply(text),
                (kept.to_owned(), any),
                "{line:?}"
            );
        }
        assert!(
            filter(&["-P".into(), "x".into()])
                .unwrap_err()
                .contains("unknown option -P")
        );
    }
}
