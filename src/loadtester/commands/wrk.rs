//! `wrk`: HTTP load over so many connections, as fast as answers come; with `-R`, as `wrk2` has it, at a rate.

use super::options::{Known, Meaning, Style, count, header, rate, read as read_options, seconds};
use super::{Action, USER_AGENT, default_header, headers, only, url};
use crate::loadtester::generator::{HttpPlan, HttpVersion, Pace, Plan};
use ::http::Method;
use std::time::Duration;

struct Draft {
    connections: usize,
    time: Duration,
    timeout: Duration,
    rate: Option<f64>,
    headers: Vec<(String, String)>,
}

const OPTIONS: &[Known<Draft>] = &[
    Known(
        &["c", "connections"],
        Meaning::Value(|draft, text| {
            draft.connections = count(text)?;
            Ok(())
        }),
    ),
    Known(
        &["d", "duration"],
        Meaning::Value(|draft, text| {
            draft.time = seconds(text)?;
            Ok(())
        }),
    ),
    Known(&["t", "threads"], Meaning::IdleValue),
    Known(
        &["H", "header"],
        Meaning::Value(|draft, text| {
            draft.headers.push(header(text)?);
            Ok(())
        }),
    ),
    Known(
        &["timeout"],
        Meaning::Value(|draft, text| {
            draft.timeout = seconds(text)?;
            Ok(())
        }),
    ),
    Known(
        &["R", "rate"],
        Meaning::Value(|draft, text| {
            draft.rate = rate(text)?;
            Ok(())
        }),
    ),
    Known(&["L", "latency", "U", "u_latency"], Meaning::IdleSwitch),
    Known(&["s", "script"], Meaning::Refused("there is no Lua")),
];

#[cfg(test)]
pub(super) fn known() -> Vec<(String, bool)> {
    super::options::names(OPTIONS)
}

pub(super) fn read(words: &[String]) -> Result<Action, String> {
    let mut draft = Draft {
        connections: 10,
        time: Duration::from_secs(10),
        timeout: Duration::from_secs(2),
        rate: None,
        headers: Vec::new(),
    };
    let rest = read_options(OPTIONS, Style::Joined, words, &mut draft)?;
    let url = url(&only(rest, "URL")?)?;
    default_header(&mut draft.headers, "user-agent", USER_AGENT);
    let (headers, host) = headers(draft.headers)?;
    Ok(Action::Load {
        plan: Plan::Http(HttpPlan {
            url,
            method: Method::GET,
            headers,
            host,
            body: hyper::body::Bytes::new(),
            version: HttpVersion::One,
            keep_alive: true,
            redirects: 0,
            verify: false,
        }),
        pace: Pace {
            workers: draft.connections,
            rate: draft.rate,
            requests: None,
            time: Some(draft.time),
            timeout: (!draft.timeout.is_zero()).then_some(draft.timeout),
        },
    })
}
