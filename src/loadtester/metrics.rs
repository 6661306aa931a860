//! What the load tester counts. A canary's series carry its name and namespace as its hooks give them, and no more than
//! [`MOST_CANARIES`] of them, since anybody who can reach the port can make names up.

use super::generator::{Code, Observer};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

type Labels = Vec<(&'static str, String)>;
type Histograms = Family<Labels, Histogram, fn() -> Histogram>;

/// Canaries with series of their own; what is counted of others is under the name `other`.
const MOST_CANARIES: usize = 1000;

fn histogram() -> Histogram {
    Histogram::new([
        0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
    ])
}

/// All series.
pub struct Telemetry {
    registry: Registry,
    known: Mutex<HashSet<(String, String)>>,
    tasks: Family<Labels, Counter>,
    running: Gauge,
    requests: Family<Labels, Counter>,
    latencies: Histograms,
    answers: Family<Labels, Counter>,
}

impl Default for Telemetry {
    fn default() -> Self {
        Self::new()
    }
}

impl Telemetry {
    /// All series, with the version set.
    #[must_use]
    pub fn new() -> Self {
        let mut registry = Registry::default();
        let info = Family::<Labels, Gauge>::default();
        let tasks = Family::default();
        let running = Gauge::default();
        let requests = Family::default();
        let latencies = Histograms::new_with_constructor(histogram);
        let answers = Family::default();
        registry.register(
            "serin_loadtester_info",
            "Version of the load tester",
            info.clone(),
        );
        registry.register(
            "serin_loadtester_tasks",
            "Tasks that ended, by type and result: passed, failed, stopped or refused",
            tasks.clone(),
        );
        registry.register(
            "serin_loadtester_tasks_running",
            "Tasks that run now",
            running.clone(),
        );
        registry.register(
            "serin_loadtester_requests",
            "Requests of the generator for a canary, by the status of the answer, none without one",
            requests.clone(),
        );
        registry.register(
            "serin_loadtester_request_seconds",
            "Time from sending a request to the end of its answer",
            latencies.clone(),
        );
        registry.register(
            "serin_loadtester_answers",
            "Answers of the load tester itself, by path and status",
            answers.clone(),
        );
        info.get_or_create(&vec![("version", env!("CARGO_PKG_VERSION").to_owned())])
            .set(1);
        Self {
            registry,
            known: Mutex::default(),
            tasks,
            running,
            requests,
            latencies,
            answers,
        }
    }

    /// The exposition text.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = String::new();
        // Writing to a string can't fail.
        let _ = encode(&mut text, &self.registry);
        text
    }

    /// A task began.
    pub fn began(&self) {
        self.running.inc();
    }

    /// A task that had begun is over.
    pub fn over(&self) {
        self.running.dec();
    }

    /// A task came to this result.
    pub fn ended(&self, kind: &'static str, result: &'static str) {
        let labels = vec![("type", kind.to_owned()), ("result", result.to_owned())];
        self.tasks.get_or_create(&labels).inc();
    }

    /// A request of somebody was answered.
    pub fn answered(&self, path: &'static str, status: u16) {
        let labels = vec![("path", path.to_owned()), ("code", status.to_string())];
        self.answers.get_or_create(&labels).inc();
    }

    /// What the generator tells of each of its requests for this canary.
    pub fn observer(&self, namespace: &str, name: &str) -> Observer {
        let mut of = (namespace.to_owned(), name.to_owned());
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MOST_CANARIES && !known.contains(&of) {
            of = (String::new(), "other".to_owned());
        } else {
            known.insert(of.clone());
        }
        drop(known);
        let labels: Labels = vec![("namespace", of.0), ("name", of.1)];
        let (requests, latencies) = (self.requests.clone(), self.latencies.clone());
        Box::new(move |code: Option<Code>, latency| {
            let mut counted = labels.clone();
            let code = code.map_or_else(|| "none".to_owned(), |code| code.to_string());
            counted.push(("code", code));
            requests.get_or_create(&counted).inc();
            latencies
                .get_or_create(&labels)
                .observe(latency.as_secs_f64());
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn names_that_are_made_up_don_t_fill_the_memory() {
        let telemetry = Telemetry::new();
        for number in 0..2 * MOST_CANARIES {
            let observer = telemetry.observer("test", &format!("canary-{number}"));
            observer(Some(Code::Http(200)), Duration::from_millis(2));
        }
        let text = telemetry.render();
        let series = text
            .lines()
            .filter(|line| line.starts_with("serin_loadtester_requests_total{"))
            .count();
        assert_eq!(series, MOST_CANARIES + 1);
        assert!(text.contains("name=\"other\",code=\"200\"} 1000"), "{text}");
    }

    #[test]
    fn the_page_names_every_series() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        let page = std::fs::read_to_string(root.join("docs/loadtester.md")).unwrap();
        let telemetry = Telemetry::new();
        telemetry.ended("cmd", "passed");
        telemetry.answered("/", 202);
        telemetry.observer("test", "app")(None, Duration::from_millis(1));
        let text = telemetry.render();
        let mut found = 0;
        for line in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
            let (name, kind) = line.split_once(' ').unwrap();
            let name = match kind {
                "counter" => format!("`{name}_total`"),
                _ => format!("`{name}`"),
            };
            assert!(
                page.contains(&name),
                "docs/loadtester.md does not name {name}"
            );
            found += 1;
        }
        assert_eq!(found, 6);
    }
}
