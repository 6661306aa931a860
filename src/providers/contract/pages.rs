//! The pages of `docs/providers/`, tried as somebody does who has just read them: the template as it stands there, a Secret with the keys that
//! the page names and no others, a Canary that refers to the template, and a server that answers as the vendor's documentation shows.
//! Each row of "what goes wrong" is brought about, and must be told in the words that the page quotes.

use super::backends::BACKENDS;
use super::server::{Behaviour, Reply, Server};
use super::{Backend, Case, Cell, Expect, NOW, http, now, providers};
use crate::analysis::{Measurement, MetricFlags, interval_problem, provider_problems, queries};
use crate::api::{Canary, MetricProviderType as Kind, MetricTemplate};
use crate::object::{Object, ObjectRef, Reading};
use crate::providers::{
    ApiServer, ClusterError, Credentials, Providers, QueryRequest, Surroundings,
};
use futures::future::BoxFuture;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

/// One page.
struct Page {
    kind: Kind,
    /// What Serin's own kinds are on it.
    templates: Vec<Value>,
    /// What stands in the first column below "Secret key".
    keys: Vec<String>,
    /// What is quoted in the first column below "what goes wrong".
    troubles: Vec<String>,
}

fn quoted(cell: &str) -> Vec<String> {
    cell.split('`')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect()
}

/// The first cells of the rows below a heading.
fn first_cells(text: &str, heading: &str) -> Vec<String> {
    text.lines()
        .skip_while(|line| !line.starts_with(&format!("| {heading} |")))
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .map(|line| {
            let line = line.trim_start_matches('|');
            line.split(" | ").next().unwrap().trim().to_owned()
        })
        .collect()
}

impl Page {
    fn of(kind: Kind) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("docs/providers")
            .join(format!("{kind}.md"));
        let text = std::fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let templates = text
            .split("```yaml\n")
            .skip(1)
            .map(|rest| rest.split("```").next().unwrap())
            .map(|block| serde_saphyr::from_str::<Value>(block).unwrap())
            .filter(|block| block["kind"] == "MetricTemplate")
            .collect();
        Self {
            kind,
            templates,
            keys: first_cells(&text, "Secret key")
                .iter()
                .flat_map(|cell| quoted(cell))
                .collect(),
            troubles: first_cells(&text, "what goes wrong")
                .iter()
                .map(|cell| quoted(cell).remove(0))
                .collect(),
        }
    }

    /// The question that the controller asks for a Canary that refers to a template of the page, with the server's address where the
    /// template names one.
    fn request(&self, template: &Value, backend: &Backend, address: &str) -> QueryRequest {
        let found = MetricTemplate::decode(template).unwrap();
        assert_eq!(found.spec.provider.provider_type, self.kind);
        assert_eq!(provider_problems(&found.spec.provider), []);
        let canary = canary(&template["metadata"]);
        let metric = &canary.spec.analysis.metrics[0];
        assert!(interval_problem(metric, self.kind, "").is_none());
        let object = Arc::new(Object::new(template.clone()));
        let lookup = |name: &ObjectRef| {
            if name.name == object.name() {
                Reading::Present(Arc::clone(&object))
            } else {
                Reading::Absent
            }
        };
        let flags = MetricFlags {
            mesh_provider: "gatewayapi:v1",
            metrics_server: "http://127.0.0.1:9",
            ..MetricFlags::default()
        };
        let mut asked = queries(&canary, flags, &lookup);
        let mut asked = asked
            .remove(0)
            .unwrap_or_else(|problem| panic!("{}: {problem:?}", self.kind));
        // What the template leaves to the cluster stays with the cluster.
        if asked.provider.address.is_some() {
            asked.provider.address = Some(address.to_owned());
        }
        let credentials = asked.provider.secret.is_some().then(|| {
            let good = (backend.request)(address).credentials.unwrap_or_default();
            let entries = self.keys.iter().map(|key| {
                let value = good.get(key).unwrap_or("s3cret").to_owned();
                (key.clone(), value)
            });
            Credentials::from_entries(entries)
        });
        QueryRequest {
            config: asked.provider,
            credentials,
            query: asked.query,
            interval: asked.interval,
            now: now(),
        }
    }
}

/// As `docs/metrics.md` shows it.
fn canary(template: &Value) -> Canary {
    Canary::decode(&json!({
        "apiVersion": "flagger.app/v1beta1", "kind": "Canary", "metadata": {"name": "podinfo", "namespace": "shop"},
        "spec": {
            "targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "podinfo"},
            "service": {"port": 80},
            "analysis": {"interval": "1m", "threshold": 3, "stepWeight": 10, "metrics": [{
                "name": template["name"], "interval": "1m", "thresholdRange": {"max": 1},
                "templateRef": {"name": template["name"], "namespace": template["namespace"]},
            }]},
        },
    }))
    .unwrap()
}

fn backend(kind: Kind) -> &'static Backend {
    BACKENDS.iter().find(|row| row.kind == kind).unwrap()
}

/// What a template of a page must come to, and what is answered.
fn good(backend: &Backend, query: &str) -> (Reply, Expect) {
    if query.starts_with("analysis/") {
        let passed = json!({"status": {"state": "Completed", "pass": true}});
        return (Reply::json(&passed.to_string()), Expect::Value(1.0));
    }
    let Cell::Says(reply, expected) = (backend.cell)(Case::Value) else {
        panic!("{} has no value", backend.kind)
    };
    (reply, expected)
}

#[tokio::test]
async fn the_template_of_each_page_gives_a_number() {
    for backend in &BACKENDS {
        let page = Page::of(backend.kind);
        assert!(!page.templates.is_empty(), "{} has none", page.kind);
        for template in &page.templates {
            let query = template["spec"]["query"].as_str().unwrap();
            let (reply, expected) = good(backend, query);
            let server = Server::start(Behaviour::Always(reply), backend.beside).await;
            let request = page.request(template, backend, &server.address());
            let found = providers(&server.address()).ask(&request).await;
            let seen = server.seen().join("\n");
            assert!(
                expected.check(&found),
                "{}: expected {expected:?}, found {found:?}. Asked: {seen}",
                page.kind
            );
            // A name of the canary is in the question as it was sent; those of Keptn's objects come by a name.
            let named = if query.contains("{{ target }}") && !query.starts_with("analysis") {
                "podinfo"
            } else {
                ""
            };
            assert!(seen.contains(named), "{}: {seen}", page.kind);
        }
    }
}

#[test]
fn each_page_names_the_keys_that_are_read_and_no_others() {
    for backend in &BACKENDS {
        let page = Page::of(backend.kind);
        let named: BTreeSet<&str> = page.keys.iter().map(String::as_str).collect();
        let request = (backend.request)("http://127.0.0.1:9");
        let read = request.credentials.unwrap_or_default();
        for key in read.keys() {
            assert!(named.contains(key), "{} does not name {key}", page.kind);
        }
        // What only this file knows how to read, such as a password beside a token, is in the source of the backend.
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/providers");
        let own = std::fs::read_to_string(source.join(format!("{}.rs", backend.kind))).unwrap();
        let shared = std::fs::read_to_string(source.join("exchange.rs")).unwrap();
        for key in named {
            let literal = format!("\"{key}\"");
            assert!(
                own.contains(&literal) || shared.contains(&literal) && own.contains("basic("),
                "{} names {key}, which is not read",
                page.kind
            );
        }
    }
}

// ---- what goes wrong

/// How a row is brought about.
enum Trouble {
    /// A case of the contract.
    Case(Case),
    /// The server answers this.
    Says(Reply),
    /// The question is another one.
    Asks(&'static str),
    /// The Secret has another text under a key.
    Has(&'static str, &'static str),
    /// The API server of the cluster says this of every object.
    Cluster(ClusterError),
    /// The controller runs among these variables; the server's address is `ADDRESS`, a file with a token `TOKEN`.
    Among(&'static [(&'static str, &'static str)], Reply),
    /// What is begun never comes to its end.
    Never,
}

const OLD: &str = "the newest value is … old";

/// Rows that are cases of the contract.
const CASES: [(Kind, &str, Case); 12] = [
    (Kind::Cloudwatch, "AccessDenied …", Case::WrongCredentials),
    (Kind::Cloudwatch, OLD, Case::Stale),
    (
        Kind::Datadog,
        "status 403 … Forbidden",
        Case::WrongCredentials,
    ),
    (Kind::Datadog, OLD, Case::Stale),
    (
        Kind::Dynatrace,
        "status 401 … Token Authentication failed",
        Case::WrongCredentials,
    ),
    (Kind::Graphite, OLD, Case::Stale),
    (Kind::Influxdb, OLD, Case::Stale),
    (
        Kind::Influxdb,
        "status 401 … unauthorized access",
        Case::WrongCredentials,
    ),
    (Kind::Keptn, "no values found in the status", Case::None),
    (Kind::Newrelic, "the query selects 2 values", Case::Several),
    (Kind::Splunk, "status 401", Case::WrongCredentials),
    (
        Kind::Stackdriver,
        "status 403 … Permission monitoring.timeSeries.list denied",
        Case::WrongCredentials,
    ),
];

fn json_reply(body: &Value) -> Reply {
    Reply::json(&body.to_string())
}

/// Rows that are an answer of the vendor's.
fn answers() -> Vec<(Kind, &'static str, Reply)> {
    let series: Vec<Value> = (0..3)
        .map(|number| json!({"tsId": number.to_string(), "value": 1}))
        .collect();
    let stream = format!(
        "event: data\ndata: {}\n\n",
        json!({"data": series, "logicalTimestampMs": NOW * 1000})
    );
    let text = "#datatype,string,long,dateTime:RFC3339,string\r\n#group,false,false,false,false\r\n#default,_result,,,\r\n,result,table,_time,_value\r\n,,0,2025-11-29T11:59:30Z,many\r\n\r\n";
    let vector = |data: Value| json_reply(&json!({"status": "success", "data": data}));
    let scope = json!({"error": {"code": 403, "message": "Token is missing required scope. Use one of: metrics.read"}});
    let point = json!({
        "values": [{"distributionValue": {"count": "3"}}], "timeInterval": {"endTime": "2025-11-29T11:59:30Z"},
    });
    vec![
        (
            Kind::Datadog,
            "status 429",
            Reply::json(r#"{"errors": ["Rate limit"]}"#).status(429),
        ),
        (
            Kind::Dynatrace,
            "status 403",
            json_reply(&scope).status(403),
        ),
        (
            Kind::Influxdb,
            "_value is of type string",
            Reply::json(text).typed("text/csv"),
        ),
        (
            Kind::Newrelic,
            "a value for each facet",
            json_reply(&json!({"facets": [{"name": "a", "results": [{"count": 1}]}]})),
        ),
        (
            Kind::Newrelic,
            "the result has percentiles",
            json_reply(&json!({"results": [{"percentiles": {"95": 0.25}}]})),
        ),
        (
            Kind::Prometheus,
            "status 404 … /api/v1/query is appended to it",
            Reply::json("404 page not found").status(404),
        ),
        (
            Kind::Prometheus,
            "multiple values over time (a matrix)",
            vector(
                json!({"resultType": "matrix", "result": [{"metric": {}, "values": [[NOW, "1"]]}]}),
            ),
        ),
        (
            Kind::Prometheus,
            "the newest value is 12m0s old",
            vector(
                json!({"resultType": "vector", "result": [{"metric": {}, "value": [NOW - 720, "1"]}]}),
            ),
        ),
        (
            Kind::Splunk,
            "the program publishes 3 time series",
            Reply::json(&stream).typed("text/event-stream"),
        ),
        (
            Kind::Splunk,
            "not a stream of SignalFlow",
            Reply::json("<html>Welcome</html>").typed("text/html"),
        ),
        (
            Kind::Stackdriver,
            "the newest point is a distributionValue",
            json_reply(&json!({"timeSeriesData": [{"pointData": [point]}]})),
        ),
    ]
}

/// Rows that are brought about in other ways.
fn others() -> Vec<(Kind, &'static str, Trouble)> {
    let unserved = || Trouble::Cluster(ClusterError::Unserved("404 page not found".to_owned()));
    let forbidden = || Trouble::Cluster(ClusterError::Forbidden("no".to_owned()));
    let refused = r"<ErrorResponse><Error><Code>InvalidIdentityToken</Code><Message>No OpenIDConnect provider found</Message></Error></ErrorResponse>";
    vec![
        (
            Kind::Cloudwatch,
            "the controller has no AWS identity",
            Trouble::Among(
                &[("AWS_EC2_METADATA_SERVICE_ENDPOINT", "ADDRESS")],
                Reply::json("{}").status(404),
            ),
        ),
        (
            Kind::Cloudwatch,
            "InvalidIdentityToken",
            Trouble::Among(
                &[
                    ("AWS_WEB_IDENTITY_TOKEN_FILE", "TOKEN"),
                    ("AWS_ROLE_ARN", "arn:aws:iam::1:role/serin"),
                    ("AWS_ENDPOINT_URL_STS", "ADDRESS"),
                ],
                Reply::json(refused).typed("text/xml").status(400),
            ),
        ),
        (
            Kind::ExternalMetrics,
            "is an adapter for external metrics installed",
            unserved(),
        ),
        (
            Kind::ExternalMetrics,
            "can't be had (grant it with …)",
            forbidden(),
        ),
        (
            Kind::Graphite,
            "the query names no target",
            Trouble::Asks("asPercent(a,b)"),
        ),
        (
            Kind::Keptn,
            "can't be had (is Keptn installed?)",
            unserved(),
        ),
        (Kind::Keptn, "can't be had (grant it with …)", forbidden()),
        (Kind::Keptn, "was not done within 10s", Trouble::Never),
        (
            Kind::Stackdriver,
            "has a private_key that can't be used",
            Trouble::Has(
                "serviceAccountKey",
                r#"{"type": "service_account", "client_email": "a@b", "private_key": "-----BEGIN PRIVATE KEY-----MIIE-----END PRIVATE KEY-----"}"#,
            ),
        ),
    ]
}

/// Every row of every page.
fn troubles() -> Vec<(Kind, &'static str, Trouble)> {
    let cases = CASES.map(|(kind, row, case)| (kind, row, Trouble::Case(case)));
    let answers = answers();
    let answers = answers
        .into_iter()
        .map(|(kind, row, reply)| (kind, row, Trouble::Says(reply)));
    cases.into_iter().chain(answers).chain(others()).collect()
}

/// Whether a message says what is quoted; `…` stands for anything.
fn says(message: &str, quoted: &str) -> bool {
    let mut rest = message;
    for part in quoted.split('…').map(|part| part.trim_matches([' ', ')'])) {
        let Some(at) = rest.find(part) else {
            return false;
        };
        rest = &rest[at + part.len()..];
    }
    true
}

/// An API server that says the same of everything.
struct Says(Result<Value, ClusterError>);

impl ApiServer for Says {
    fn get<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Value, ClusterError>> {
        Box::pin(async { self.0.clone() })
    }

    fn create<'a>(
        &'a self,
        _: &'a str,
        _: &'a Value,
    ) -> BoxFuture<'a, Result<Value, ClusterError>> {
        Box::pin(async { self.0.clone() })
    }

    fn delete<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<(), ClusterError>> {
        Box::pin(async { Ok(()) })
    }
}

fn among(variables: BTreeMap<String, String>) -> Providers {
    Providers::over(http(), Surroundings::of_variables(variables))
}

fn in_cluster(said: Result<Value, ClusterError>) -> Providers {
    let cluster: Arc<dyn ApiServer> = Arc::new(Says(said));
    Providers::over(
        http(),
        Surroundings::of_variables(BTreeMap::new()).in_cluster(cluster),
    )
}

/// What is said when it goes wrong in this way.
async fn bring_about(kind: Kind, trouble: Trouble) -> Measurement {
    let (backend, page) = (backend(kind), Page::of(kind));
    let reply = match &trouble {
        Trouble::Says(reply) | Trouble::Among(_, reply) => reply.clone(),
        Trouble::Case(case) => match (backend.cell)(*case) {
            Cell::Says(reply, _) => reply,
            _ => panic!("{kind}: {case:?} says nothing of its own"),
        },
        _ => Reply::json("{}"),
    };
    let server = Server::start(Behaviour::Always(reply), backend.beside).await;
    let address = server.address();
    let of_analysis = matches!(trouble, Trouble::Never);
    let template = page.templates.iter().find(|template| {
        let query = template["spec"]["query"].as_str().unwrap();
        query.starts_with("analysis/") == of_analysis
    });
    let mut request = page.request(template.unwrap(), backend, &address);
    let folder = tempfile::tempdir().unwrap();
    match trouble {
        Trouble::Asks(query) => query.clone_into(&mut request.query),
        Trouble::Has(key, text) => {
            let keys = request.credentials.take().unwrap_or_default();
            let mut entries: BTreeMap<String, String> = keys
                .entries()
                .map(|(key, text)| (key.to_owned(), text.to_owned()))
                .collect();
            entries.insert(key.to_owned(), text.to_owned());
            request.credentials = Some(Credentials::from_entries(entries));
        }
        Trouble::Cluster(error) => return in_cluster(Err(error)).ask(&request).await,
        Trouble::Never => {
            let providers = in_cluster(Ok(json!({})));
            tokio::time::pause();
            let found = providers.ask(&request).await;
            tokio::time::resume();
            return found;
        }
        Trouble::Among(variables, _) => {
            let token = folder.path().join("token");
            std::fs::write(&token, "s3cret-web-token").unwrap();
            let variables = variables
                .iter()
                .map(|(name, value)| {
                    let value = match *value {
                        "ADDRESS" => address.clone(),
                        "TOKEN" => token.display().to_string(),
                        other => other.to_owned(),
                    };
                    ((*name).to_owned(), value)
                })
                .collect();
            return among(variables).ask(&request).await;
        }
        Trouble::Says(_) | Trouble::Case(_) => {}
    }
    providers(&address).ask(&request).await
}

#[tokio::test]
async fn what_goes_wrong_is_told_in_the_words_of_the_page() {
    let mut told = BTreeSet::new();
    let mut wrong = Vec::new();
    for (kind, row, trouble) in troubles() {
        let found = bring_about(kind, trouble).await;
        match &found {
            Measurement::Error(message) | Measurement::NoData(message) if says(message, row) => {}
            other => wrong.push(format!("{kind}: the page says {row:?}, found {other:?}")),
        }
        told.insert((kind.to_string(), row.to_owned()));
    }
    let rows: BTreeSet<(String, String)> = BACKENDS
        .iter()
        .map(|backend| Page::of(backend.kind))
        .flat_map(|page| {
            let kind = page.kind.to_string();
            page.troubles
                .into_iter()
                .map(move |row| (kind.clone(), row))
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(
        told, rows,
        "left is what is brought about here, right what the pages have"
    );
}

#[test]
fn every_type_has_a_page_and_every_page_a_type() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/providers");
    let pages: BTreeSet<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| path.file_stem().unwrap().to_string_lossy().into_owned())
        .filter(|name| name != "README")
        .collect();
    let kinds: BTreeSet<String> = Kind::ALL.iter().map(ToString::to_string).collect();
    assert_eq!(pages, kinds);
}
