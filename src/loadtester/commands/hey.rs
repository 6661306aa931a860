//! `hey`: HTTP load by workers, each of which may have a rate.

use super::options::{
    Known, Meaning, Style, count, duration, header, rate, read as read_options, seconds,
};
use super::{Action, USER_AGENT, basic_authentication, default_header, headers, only, url};
use crate::loadtester::generator::{HttpPlan, HttpVersion, Pace, Plan};
use ::http::Method;
use std::time::Duration;

struct Draft {
    requests: u64,
    workers: usize,
    rate_of_one: Option<f64>,
    time: Option<Duration>,
    timeout: Duration,
    method: String,
    headers: Vec<(String, String)>,
    body: String,
    content_type: String,
    host: Option<String>,
    version: HttpVersion,
    keep_alive: bool,
    redirects: bool,
}

const OPTIONS: &[Known<Draft>] = &[
    Known(
        &["z"],
        Meaning::Value(|draft, text| {
            draft.time = Some(duration(text)?);
            Ok(())
        }),
    ),
    Known(
        &["n"],
        Meaning::Value(|draft, text| {
            draft.requests = count(text)?;
            Ok(())
        }),
    ),
    Known(
        &["c"],
        Meaning::Value(|draft, text| {
            draft.workers = count(text)?;
            Ok(())
        }),
    ),
    Known(
        &["q"],
        Meaning::Value(|draft, text| {
            draft.rate_of_one = rate(text)?;
            Ok(())
        }),
    ),
    Known(
        &["t"],
        Meaning::Value(|draft, text| {
            draft.timeout = seconds(text)?;
            Ok(())
        }),
    ),
    Known(
        &["m"],
        Meaning::Value(|draft, text| {
            text.clone_into(&mut draft.method);
            Ok(())
        }),
    ),
    Known(
        &["H", "h"],
        Meaning::Value(|draft, text| {
            draft.headers.push(header(text)?);
            Ok(())
        }),
    ),
    Known(
        &["d"],
        Meaning::Value(|draft, text| {
            text.clone_into(&mut draft.body);
            Ok(())
        }),
    ),
    Known(
        &["T"],
        Meaning::Value(|draft, text| {
            text.clone_into(&mut draft.content_type);
            Ok(())
        }),
    ),
    Known(
        &["A"],
        Meaning::Value(|draft, text| {
            draft.headers.push(("accept".to_owned(), text.to_owned()));
            Ok(())
        }),
    ),
    Known(
        &["U"],
        Meaning::Value(|draft, text| {
            draft
                .headers
                .push(("user-agent".to_owned(), text.to_owned()));
            Ok(())
        }),
    ),
    Known(
        &["a"],
        Meaning::Value(|draft, text| {
            draft.headers.push(basic_authentication(text));
            Ok(())
        }),
    ),
    Known(
        &["host"],
        Meaning::Value(|draft, text| {
            draft.host = Some(text.to_owned());
            Ok(())
        }),
    ),
    Known(
        &["h2"],
        Meaning::Switch(|draft| draft.version = HttpVersion::Negotiated),
    ),
    // Ours: hey speaks HTTP/2 over TLS alone.
    Known(
        &["h2c"],
        Meaning::Switch(|draft| draft.version = HttpVersion::Two),
    ),
    Known(
        &["disable-keepalive"],
        Meaning::Switch(|draft| draft.keep_alive = false),
    ),
    Known(
        &["disable-redirects"],
        Meaning::Switch(|draft| draft.redirects = false),
    ),
    Known(&["disable-compression"], Meaning::IdleSwitch),
    Known(&["cpus"], Meaning::IdleValue),
    Known(
        &["D"],
        Meaning::Refused("no files are read; give the body with -d"),
    ),
    Known(
        &["x"],
        Meaning::Refused("requests are sent without a proxy"),
    ),
    Known(&["o"], Meaning::Refused("the summary is the only output")),
];

#[cfg(test)]
pub(super) fn known() -> Vec<(String, bool)> {
    super::options::names(OPTIONS)
}

pub(super) fn read(words: &[String]) -> Result<Action, String> {
    let mut draft = Draft {
        requests: 200,
        workers: 50,
        rate_of_one: None,
        time: None,
        timeout: Duration::from_secs(20),
        method: "GET".to_owned(),
        headers: Vec::new(),
        body: String::new(),
        content_type: "text/html".to_owned(),
        host: None,
        version: HttpVersion::One,
        keep_alive: true,
        redirects: true,
    };
    let rest = read_options(OPTIONS, Style::Go, words, &mut draft)?;
    let url = url(&only(rest, "URL")?)?;
    if !draft.body.is_empty() {
        default_header(&mut draft.headers, "content-type", &draft.content_type);
    }
    default_header(&mut draft.headers, "user-agent", USER_AGENT);
    draft
        .headers
        .extend(draft.host.map(|host| ("host".to_owned(), host)));
    let (headers, host) = headers(draft.headers)?;
    let method = Method::from_bytes(draft.method.to_ascii_uppercase().as_bytes())
        .map_err(|_| format!("{:?} is not a method", draft.method))?;
    Ok(Action::Load {
        plan: Plan::Http(HttpPlan {
            url,
            method,
            headers,
            host,
            body: draft.body.into(),
            version: draft.version,
            keep_alive: draft.keep_alive,
            redirects: if draft.redirects { 10 } else { 0 },
            verify: false,
        }),
        pace: Pace {
            workers: draft.workers,
            rate: draft.rate_of_one.map(|rate| rate * draft.workers as f64),
            requests: draft.time.is_none().then_some(draft.requests),
            time: draft.time,
            timeout: (!draft.timeout.is_zero()).then_some(draft.timeout),
        },
    })
}
