//! One contract for all metrics backends: a table of backends and cases, each cell asked of a server on this machine that answers in the
//! form that the vendor's documentation shows, or marked as not applicable with the reason. The table stands in `docs/testing.md`.

mod backends;
mod pages;
mod secrecy;
mod server;

use super::http::{Call, Http, MAX_ANSWER, Timing};
use super::{ApiServer, ClusterError, Credentials, Providers, QueryRequest, Surroundings};
use crate::analysis::{Measurement, ProviderConfig};
use crate::api::MetricProviderType;
use backends::BACKENDS;
use futures::future::BoxFuture;
use jiff::Timestamp;
use reqwest::Method;
use reqwest::header::HeaderMap;
use serde_json::Value;
use server::{Reply, Server};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

/// When all of this happens: noon of 29 November 2025.
const NOW: i64 = 1_764_417_600;
/// The metric's interval.
const INTERVAL: Duration = Duration::from_mins(1);

/// The cases, in the order of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Case {
    Value,
    Several,
    None,
    NotANumber,
    Null,
    Stale,
    Short,
    Malformed,
    Refused,
    WrongCredentials,
    RateLimited,
    Slow,
    Redirect,
    Huge,
}

impl Case {
    const ALL: [(Self, &'static str); 14] = [
        (Self::Value, "one value"),
        (Self::Several, "several values"),
        (Self::None, "none"),
        (Self::NotANumber, "NaN"),
        (Self::Null, "null"),
        (Self::Stale, "an old value"),
        (Self::Short, "arrays that are too short"),
        (Self::Malformed, "not what was documented"),
        (Self::Refused, "the query is refused"),
        (Self::WrongCredentials, "wrong credentials"),
        (Self::RateLimited, "429, then a value"),
        (Self::Slow, "slow"),
        (Self::Redirect, "redirect to another host"),
        (Self::Huge, "a huge answer"),
    ];
}

/// What must come of an answer; texts are parts of the message.
#[derive(Clone, Debug)]
enum Expect {
    Value(f64),
    FirstOf(f64, usize),
    LastOf(f64, usize),
    NoData(&'static str),
    Error(&'static str),
}

/// Values pass through no arithmetic, so they arrive to the last bit.
fn same(one: f64, other: f64) -> bool {
    one.to_bits() == other.to_bits()
}

impl Expect {
    fn check(&self, found: &Measurement) -> bool {
        match (self, found) {
            (Self::Value(expected), Measurement::Value(value)) => same(*expected, *value),
            (Self::FirstOf(expected, count), Measurement::FirstOf { value, series })
            | (Self::LastOf(expected, count), Measurement::LastOf { value, series }) => {
                same(*expected, *value) && count == series
            }
            (Self::NoData(part), Measurement::NoData(text))
            | (Self::Error(part), Measurement::Error(text)) => text.contains(part),
            _ => false,
        }
    }

    /// One word for the table.
    fn word(&self) -> &'static str {
        match self {
            Self::Value(_) => "value",
            Self::FirstOf(..) => "first",
            Self::LastOf(..) => "last",
            Self::NoData(_) => "no data",
            Self::Error(_) => "error",
        }
    }
}

/// One cell of the table.
enum Cell {
    /// The backend answers this, and that comes of it.
    Says(Reply, Expect),
    /// As for every backend that speaks HTTP: see [`common`].
    AsAll,
    /// Can't happen, and why.
    No(&'static str),
}

/// One row.
struct Backend {
    kind: MetricProviderType,
    /// The pages with the forms of requests and answers.
    source: &'static str,
    /// A request to this address.
    request: fn(&str) -> QueryRequest,
    /// What else the server answers, by path: tokens and the like.
    beside: fn(&str) -> Option<Reply>,
    cell: fn(Case) -> Cell,
    /// What a probe is answered by a backend that is well.
    probe: fn() -> Reply,
    /// Where the query must arrive: method, path, and pieces of URL, headers or body.
    arrives: &'static [&'static str],
}

fn now() -> Timestamp {
    Timestamp::from_second(NOW).unwrap()
}

fn request(kind: MetricProviderType, address: &str, query: &str) -> QueryRequest {
    QueryRequest {
        config: ProviderConfig {
            provider_type: kind,
            address: Some(address.to_owned()),
            ..ProviderConfig::default()
        },
        credentials: None,
        query: query.to_owned(),
        interval: INTERVAL,
        now: now(),
    }
}

fn with_keys(mut request: QueryRequest, keys: &[(&str, &str)]) -> QueryRequest {
    request.credentials = Some(Credentials::from_entries(keys.iter().copied()));
    request
}

fn within(attempt: Duration) -> Http {
    let timing = Timing {
        attempt,
        overall: attempt * 3,
        first_wait: Duration::from_millis(5),
        retries: 1,
    };
    Http::new(timing).unwrap()
}

/// For servers that answer: a busy machine is none of their faults.
fn http() -> Http {
    // Reading the platform's certificates takes most of the time.
    static HTTP: LazyLock<Http> = LazyLock::new(|| within(Duration::from_secs(30)));
    HTTP.clone()
}

/// For those that don't.
fn hurried() -> Http {
    static HTTP: LazyLock<Http> = LazyLock::new(|| within(Duration::from_secs(2)));
    HTTP.clone()
}

/// The API server at an address, for what is asked of the own cluster.
struct Cluster(String, Http);

impl Cluster {
    async fn call(&self, path: &str) -> Result<Value, ClusterError> {
        let call = Call {
            method: Method::GET,
            url: format!("{}{path}", self.0).parse().unwrap(),
            headers: HeaderMap::new(),
            body: Vec::new(),
            confidential: true,
            insecure_skip_verify: false,
        };
        let answer = self.1.send(&call).await;
        let answer = answer.map_err(|error| ClusterError::Failed(error.to_string()))?;
        let body: Value = serde_json::from_slice(&answer.body).unwrap_or(Value::Null);
        let message = || match body["message"].as_str() {
            Some(message) => message.to_owned(),
            None => String::from_utf8_lossy(&answer.body).into_owned(),
        };
        match answer.status.as_u16() {
            200 => Ok(body),
            404 => Err(ClusterError::Absent(message())),
            403 => Err(ClusterError::Forbidden(message())),
            _ => Err(ClusterError::Failed(message())),
        }
    }
}

impl ApiServer for Cluster {
    fn get<'a>(&'a self, path: &'a str) -> BoxFuture<'a, Result<Value, ClusterError>> {
        Box::pin(self.call(path))
    }

    fn create<'a>(
        &'a self,
        _path: &'a str,
        _body: &'a Value,
    ) -> BoxFuture<'a, Result<Value, ClusterError>> {
        Box::pin(async { Ok(Value::Null) })
    }

    fn delete<'a>(&'a self, _path: &'a str) -> BoxFuture<'a, Result<(), ClusterError>> {
        Box::pin(async { Ok(()) })
    }
}

/// Backends whose own surroundings are the server at this address.
fn providers(address: &str) -> Providers {
    providers_by(address, http())
}

/// The same with a client of its own patience.
fn providers_by(address: &str, http: Http) -> Providers {
    let variables = [
        ("AWS_ENDPOINT_URL_CLOUDWATCH", address),
        ("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE"),
        ("AWS_SECRET_ACCESS_KEY", "s3cret-aws-key"),
        ("AWS_SESSION_TOKEN", "s3cret-session-token"),
        ("CLOUDSDK_API_ENDPOINT_OVERRIDES_MONITORING", address),
    ];
    let variables = variables
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let cluster: Arc<dyn ApiServer> = Arc::new(Cluster(address.to_owned(), http.clone()));
    let surroundings = Surroundings::of_variables(variables).in_cluster(cluster);
    Providers::over(http, surroundings)
}

/// What happens to every backend that speaks HTTP in the same way: the server's behaviour, and what must come of it.
fn common(backend: &Backend, case: Case) -> (server::Behaviour, Expect) {
    let Cell::Says(good, value) = (backend.cell)(Case::Value) else {
        panic!("{} has no value", backend.kind)
    };
    match case {
        Case::Malformed => (
            server::Behaviour::Always(Reply::json("{\"unfinished\": [").typed("text/html")),
            Expect::Error("the answer is not"),
        ),
        Case::RateLimited => (server::Behaviour::LimitedThen(good), value),
        Case::Slow => (
            server::Behaviour::Slow(good),
            Expect::Error("did not answer within"),
        ),
        Case::Redirect => (
            server::Behaviour::Elsewhere,
            Expect::Error("credentials are not sent to another host"),
        ),
        Case::Huge => (
            server::Behaviour::Always(Reply::json(&" ".repeat(MAX_ANSWER + 1))),
            Expect::Error("aggregate in the query"),
        ),
        other => panic!("{}: {other:?} has no common form", backend.kind),
    }
}

/// Asks one cell; `None` where it can't happen. The error says what came of it instead.
async fn run(backend: &Backend, case: Case) -> Option<Result<(), String>> {
    let (behaviour, expected) = match (backend.cell)(case) {
        Cell::No(_) => return None,
        Cell::Says(reply, expected) => (server::Behaviour::Always(reply), expected),
        Cell::AsAll => common(backend, case),
    };
    let elsewhere = Server::start(server::Behaviour::Always(Reply::json("{}")), |_| None).await;
    let server = Server::start(behaviour.towards(&elsewhere.address()), backend.beside).await;
    let begun = std::time::Instant::now();
    let request = (backend.request)(&server.address());
    let patience = if case == Case::Slow {
        hurried()
    } else {
        http()
    };
    let asked = providers_by(&server.address(), patience);
    let found = asked.ask(&request).await;
    let seen = server.seen();
    let mut wrong = String::new();
    if !expected.check(&found) {
        let _ = write!(wrong, "expected {expected:?}, found {found:?}. ");
    }
    let bound = if case == Case::Slow {
        Duration::from_secs(8)
    } else {
        Duration::from_secs(30)
    };
    if begun.elapsed() > bound {
        let _ = write!(wrong, "took {:?}. ", begun.elapsed());
    }
    if case == Case::Redirect && !elsewhere.seen().is_empty() {
        let _ = write!(wrong, "the other host was asked {:?}. ", elsewhere.seen());
    }
    if case == Case::RateLimited && begun.elapsed() < Duration::from_secs(1) {
        wrong.push_str("Retry-After was not waited for. ");
    }
    if case == Case::Value {
        for piece in backend.arrives {
            if !seen.iter().any(|asked| asked.contains(piece)) {
                let _ = write!(wrong, "{piece:?} did not arrive. ");
            }
        }
    }
    Some(if wrong.is_empty() {
        Ok(())
    } else {
        Err(format!(
            "{}, {case:?}: {wrong}Asked: {seen:#?}",
            backend.kind
        ))
    })
}

#[tokio::test]
async fn every_backend_keeps_the_contract_in_every_case() {
    let mut running = tokio::task::JoinSet::new();
    for backend in &BACKENDS {
        for (case, _) in Case::ALL {
            running.spawn(run(backend, case));
        }
    }
    let mut asked = 0;
    let mut wrong = Vec::new();
    while let Some(cell) = running.join_next().await {
        if let Some(answer) = cell.unwrap() {
            asked += 1;
            wrong.extend(answer.err());
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(asked > BACKENDS.len() * 8, "only {asked} cells were asked");
}

#[test]
fn every_backend_has_a_row() {
    // The canary's own pods are no backend with an address; `scrape.rs` has its own tests.
    let backends = |kind: &&MetricProviderType| **kind != MetricProviderType::Scrape;
    for kind in MetricProviderType::ALL.iter().filter(backends) {
        assert!(
            BACKENDS.iter().any(|backend| backend.kind == *kind),
            "{kind} has no row in the contract"
        );
    }
}

#[tokio::test]
async fn every_backend_can_be_probed() {
    for backend in &BACKENDS {
        let good = server::Behaviour::Always((backend.probe)());
        let server = Server::start(good, backend.beside).await;
        let request = (backend.request)(&server.address());
        let there = providers(&server.address()).probe(&request).await;
        let refused = Reply::json(r#"{"message": "who are you?"}"#).status(403);
        let server = Server::start(server::Behaviour::Always(refused), backend.beside).await;
        let request = (backend.request)(&server.address());
        let away = providers(&server.address()).probe(&request).await;
        assert!(
            there.is_ok() && away.is_err(),
            "{}: {there:?}, {away:?}",
            backend.kind
        );
    }
}

/// The table as `docs/testing.md` has it.
fn table() -> String {
    let mut text = String::from("| case |");
    for backend in &BACKENDS {
        let _ = write!(text, " {} |", backend.kind);
    }
    text.push_str("\n|---|");
    text.push_str(&"---|".repeat(BACKENDS.len()));
    text.push('\n');
    let mut notes: BTreeMap<&str, usize> = BTreeMap::new();
    let mut order: Vec<&str> = Vec::new();
    for (case, name) in Case::ALL {
        let _ = write!(text, "| {name} |");
        for backend in &BACKENDS {
            let word = match (backend.cell)(case) {
                Cell::Says(_, expected) => expected.word().to_owned(),
                Cell::AsAll => common(backend, case).1.word().to_owned(),
                Cell::No(why) => {
                    let number = *notes.entry(why).or_insert_with(|| {
                        order.push(why);
                        order.len()
                    });
                    format!("– ({number})")
                }
            };
            let _ = write!(text, " {word} |");
        }
        text.push('\n');
    }
    text.push('\n');
    for (index, why) in order.iter().enumerate() {
        let _ = writeln!(text, "{}. {why}", index + 1);
    }
    text.push_str("\nThe forms of requests and answers are those of these pages:\n\n");
    for backend in &BACKENDS {
        let _ = writeln!(text, "- {}: {}", backend.kind, backend.source);
    }
    text
}

#[test]
fn the_table_in_the_docs_is_this_one() {
    const BEGIN: &str = "<!-- metrics backends: written by `make docs-reference` from src/providers/contract -->\n\n";
    const END: &str = "\n<!-- end of metrics backends -->";
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/testing.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = page.split_once(BEGIN).unwrap();
    let (found, after) = rest.split_once(END).unwrap();
    if std::env::var_os("SERIN_UPDATE").is_some() {
        std::fs::write(&path, format!("{before}{BEGIN}{}{END}{after}", table())).unwrap();
        return;
    }
    assert!(
        found == table(),
        "docs/testing.md is out of date: run make docs-reference"
    );
}
