//! What the controller counts. Flagger's series keep their names, labels and values, since dashboards and alerts are built on them; new
//! ones begin with `serin_`. Series of a canary go when the canary goes.

use super::queue::CanaryKey;
use crate::object::Kind;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

type Labels = Vec<(&'static str, String)>;
type Gauges = Family<Labels, Gauge<f64, AtomicU64>>;
type Counters = Family<Labels, Counter>;
type Histograms = Family<Labels, Histogram, fn() -> Histogram>;

/// The default buckets of Prometheus' Go client, which Flagger's histogram has.
const BUCKETS: [f64; 11] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

fn histogram() -> Histogram {
    Histogram::new(BUCKETS)
}

/// What is shown of one canary.
#[derive(Clone, Debug, PartialEq)]
pub struct CanaryView {
    /// Name of the target, by which Flagger's series are told apart.
    pub target: String,
    /// The phase.
    pub phase: String,
    /// Weights of primary and canary in percent.
    pub weights: (f64, f64),
    /// `canary`, `blue_green` or `ab_testing`, as Flagger labels it.
    pub strategy: &'static str,
}

#[derive(Default)]
struct Known {
    canaries: HashMap<CanaryKey, (CanaryView, BTreeSet<Labels>)>,
}

/// All series.
pub struct Telemetry {
    registry: Registry,
    known: Mutex<Known>,
    total: Gauges,
    status: Gauges,
    phase: Gauges,
    weight: Gauges,
    analysis: Gauges,
    duration: Histograms,
    successes: Counters,
    failures: Counters,
    passes: Counters,
    pass_seconds: Histograms,
    writes: Counters,
    watch_failures: Counters,
    cache_objects: Gauges,
    events_dropped: Counters,
    alerts: Counters,
}

impl Telemetry {
    /// All series, with `flagger_info` set.
    #[must_use]
    #[allow(clippy::too_many_lines, reason = "a table")]
    pub fn new(mesh_provider: &str) -> Self {
        let mut registry = Registry::default();
        let info = Gauges::default();
        let total = Gauges::default();
        let status = Gauges::default();
        let phase = Gauges::default();
        let weight = Gauges::default();
        let analysis = Gauges::default();
        let duration = Histograms::new_with_constructor(histogram);
        let successes = Counters::default();
        let failures = Counters::default();
        let passes = Counters::default();
        let pass_seconds = Histograms::new_with_constructor(histogram);
        let writes = Counters::default();
        let watch_failures = Counters::default();
        let cache_objects = Gauges::default();
        let events_dropped = Counters::default();
        let alerts = Counters::default();
        registry.register(
            "flagger_info",
            "Version and mesh provider of the controller",
            info.clone(),
        );
        registry.register(
            "flagger_canary_total",
            "Canaries by namespace",
            total.clone(),
        );
        registry.register(
            "flagger_canary_status",
            "Last canary analysis result: 0 running, 1 successful, 2 failed",
            status.clone(),
        );
        registry.register(
            "serin_canary_phase",
            "Phase that a canary is in, which flagger_canary_status tells of in part: always 1, the phase is a label",
            phase.clone(),
        );
        registry.register(
            "flagger_canary_weight",
            "Traffic weight of primary and canary in percent",
            weight.clone(),
        );
        registry.register(
            "flagger_canary_metric_analysis",
            "Last value of a metric",
            analysis.clone(),
        );
        registry.register(
            "flagger_canary_duration_seconds",
            "Seconds spent on one round of canary analysis",
            duration.clone(),
        );
        registry.register(
            "flagger_canary_successes",
            "Canary runs that ended well",
            successes.clone(),
        );
        registry.register(
            "flagger_canary_failures",
            "Canary runs that failed",
            failures.clone(),
        );
        registry.register(
            "serin_passes",
            "Passes over a canary by result",
            passes.clone(),
        );
        registry.register(
            "serin_pass_seconds",
            "Duration of a pass in seconds",
            pass_seconds.clone(),
        );
        registry.register(
            "serin_api_writes",
            "Writes to the API server by verb, kind and result",
            writes.clone(),
        );
        registry.register(
            "serin_watch_failures",
            "Failures of a watch by kind",
            watch_failures.clone(),
        );
        registry.register(
            "serin_cache_objects",
            "Objects held in the caches by kind",
            cache_objects.clone(),
        );
        registry.register(
            "serin_notices_dropped",
            "Events and webhooks dropped because too many were waiting",
            events_dropped.clone(),
        );
        registry.register(
            "serin_alerts",
            "Alerts by result: sent, or failed for good",
            alerts.clone(),
        );
        info.get_or_create(&vec![
            ("version", env!("CARGO_PKG_VERSION").to_owned()),
            ("mesh_provider", mesh_provider.to_owned()),
        ])
        .set(1.0);
        Self {
            registry,
            known: Mutex::default(),
            total,
            status,
            phase,
            weight,
            analysis,
            duration,
            successes,
            failures,
            passes,
            pass_seconds,
            writes,
            watch_failures,
            cache_objects,
            events_dropped,
            alerts,
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

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows a canary as it is now.
    pub fn show(&self, key: &CanaryKey, view: CanaryView) {
        let mut known = self.known();
        if known
            .canaries
            .get(key)
            .is_some_and(|(shown, _)| *shown == view)
        {
            return;
        }
        if known
            .canaries
            .get(key)
            .is_some_and(|(shown, _)| shown.target != view.target)
        {
            self.remove(&mut known, key);
        }
        let namespace = key.namespace.to_string();
        if let Some((shown, _)) = known.canaries.get(key)
            && shown.phase != view.phase
        {
            self.phase.remove(&in_phase(key, &shown.phase));
        }
        self.phase
            .get_or_create(&in_phase(key, &view.phase))
            .set(1.0);
        let value = match view.phase.as_str() {
            "Progressing" => 0.0,
            "Failed" => 2.0,
            _ => 1.0,
        };
        self.status
            .get_or_create(&named(&view.target, &namespace))
            .set(value);
        self.weight
            .get_or_create(&workload(format!("{}-primary", view.target), &namespace))
            .set(view.weights.0);
        self.weight
            .get_or_create(&workload(view.target.clone(), &namespace))
            .set(view.weights.1);
        let series = known
            .canaries
            .remove(key)
            .map(|(_, series)| series)
            .unwrap_or_default();
        known.canaries.insert(key.clone(), (view, series));
        self.count(&known, &namespace);
    }

    /// Takes a canary's series away.
    pub fn forget(&self, key: &CanaryKey) {
        let mut known = self.known();
        self.remove(&mut known, key);
        self.count(&known, &key.namespace);
    }

    fn remove(&self, known: &mut Known, key: &CanaryKey) {
        let Some((view, series)) = known.canaries.remove(key) else {
            return;
        };
        self.phase.remove(&in_phase(key, &view.phase));
        let twin = known.canaries.iter().any(|(other, (shown, _))| {
            other.namespace == key.namespace && shown.target == view.target
        });
        if twin {
            return;
        }
        let namespace = key.namespace.to_string();
        self.status.remove(&named(&view.target, &namespace));
        self.duration.remove(&named(&view.target, &namespace));
        self.weight
            .remove(&workload(format!("{}-primary", view.target), &namespace));
        self.weight.remove(&workload(view.target, &namespace));
        for labels in series {
            self.analysis.remove(&labels);
            self.successes.remove(&labels);
            self.failures.remove(&labels);
        }
    }

    fn count(&self, known: &Known, namespace: &str) {
        let labels = vec![("namespace", namespace.to_owned())];
        let count = known
            .canaries
            .keys()
            .filter(|key| &*key.namespace == namespace)
            .count();
        if count == 0 {
            self.total.remove(&labels);
        } else {
            self.total.get_or_create(&labels).set(count as f64);
        }
    }

    fn with_view(
        &self,
        key: &CanaryKey,
        labels: impl FnOnce(&CanaryView) -> Labels,
    ) -> Option<Labels> {
        let mut known = self.known();
        let (view, series) = known.canaries.get_mut(key)?;
        let labels = labels(view);
        series.insert(labels.clone());
        Some(labels)
    }

    /// A metric of a canary was measured.
    pub fn measured(&self, key: &CanaryKey, metric: &str, value: f64) {
        let labels = self.with_view(key, |view| {
            let mut labels = named(&view.target, &key.namespace);
            labels.push(("metric", metric.to_owned()));
            labels
        });
        if let Some(labels) = labels {
            self.analysis.get_or_create(&labels).set(value);
        }
    }

    /// A run ended well.
    pub fn succeeded(&self, key: &CanaryKey, skipped: bool) {
        let status = if skipped { "skipped" } else { "completed" };
        if let Some(labels) = self.with_view(key, |view| ended(view, &key.namespace, status)) {
            self.successes.get_or_create(&labels).inc();
        }
    }

    /// A run failed.
    pub fn failed(&self, key: &CanaryKey) {
        if let Some(labels) = self.with_view(key, |view| ended(view, &key.namespace, "completed")) {
            self.failures.get_or_create(&labels).inc();
        }
    }

    /// A round of analysis took this long.
    pub fn analysed(&self, key: &CanaryKey, took: Duration) {
        let target = self
            .known()
            .canaries
            .get(key)
            .map(|(view, _)| view.target.clone());
        if let Some(target) = target {
            self.duration
                .get_or_create(&named(&target, &key.namespace))
                .observe(took.as_secs_f64());
        }
    }

    /// A pass ended.
    pub fn passed(&self, result: &'static str, took: Duration) {
        self.passes
            .get_or_create(&vec![("result", result.to_owned())])
            .inc();
        self.pass_seconds
            .get_or_create(&Vec::new())
            .observe(took.as_secs_f64());
    }

    /// A write was answered.
    pub fn wrote(&self, verb: &'static str, kind: &Kind, result: &'static str) {
        self.writes
            .get_or_create(&vec![
                ("verb", verb.to_owned()),
                ("kind", kind.kind.to_string()),
                ("result", result.to_owned()),
            ])
            .inc();
    }

    /// A watch failed.
    pub fn watch_failed(&self, kind: &Kind) {
        self.watch_failures
            .get_or_create(&vec![("kind", kind.kind.to_string())])
            .inc();
    }

    /// A cache holds this many objects.
    pub fn cached(&self, kind: &Kind, objects: usize) {
        self.cache_objects
            .get_or_create(&vec![("kind", kind.kind.to_string())])
            .set(objects as f64);
    }

    /// Somebody was told by an alert, or was not.
    pub fn alerted(&self, result: &'static str) {
        self.alerts
            .get_or_create(&vec![("result", result.to_owned())])
            .inc();
    }

    /// Something that people should be told was dropped.
    pub fn dropped(&self, what: &'static str) {
        self.events_dropped
            .get_or_create(&vec![("what", what.to_owned())])
            .inc();
    }
}

fn named(target: &str, namespace: &str) -> Labels {
    vec![
        ("name", target.to_owned()),
        ("namespace", namespace.to_owned()),
    ]
}

fn in_phase(key: &CanaryKey, phase: &str) -> Labels {
    vec![
        ("canary", key.name.to_string()),
        ("namespace", key.namespace.to_string()),
        ("phase", phase.to_owned()),
    ]
}

fn workload(workload: String, namespace: &str) -> Labels {
    vec![("workload", workload), ("namespace", namespace.to_owned())]
}

fn ended(view: &CanaryView, namespace: &str, status: &str) -> Labels {
    let mut labels = named(&view.target, namespace);
    labels.push(("deployment_strategy", view.strategy.to_owned()));
    labels.push(("analysis_status", status.to_owned()));
    labels
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn view(phase: &str, canary: f64) -> CanaryView {
        CanaryView {
            target: "podinfo".into(),
            phase: phase.into(),
            weights: (100.0 - canary, canary),
            strategy: "canary",
        }
    }

    #[test]
    fn flaggers_series_keep_their_names_and_values() {
        let telemetry = Telemetry::new("istio");
        let key = CanaryKey::new("test", "web");
        telemetry.show(&key, view("Progressing", 10.0));
        telemetry.measured(&key, "request-success-rate", 99.5);
        telemetry.succeeded(&key, true);
        telemetry.failed(&key);
        telemetry.analysed(&key, Duration::from_millis(20));
        let text = telemetry.render();
        for line in [
            r#"mesh_provider="istio"} 1.0"#,
            r#"flagger_canary_total{namespace="test"} 1.0"#,
            r#"flagger_canary_status{name="podinfo",namespace="test"} 0.0"#,
            r#"flagger_canary_weight{workload="podinfo-primary",namespace="test"} 90.0"#,
            r#"flagger_canary_weight{workload="podinfo",namespace="test"} 10.0"#,
            r#"flagger_canary_metric_analysis{name="podinfo",namespace="test",metric="request-success-rate"} 99.5"#,
            r#"flagger_canary_successes_total{name="podinfo",namespace="test",deployment_strategy="canary",analysis_status="skipped"} 1"#,
            r#"flagger_canary_failures_total{name="podinfo",namespace="test",deployment_strategy="canary",analysis_status="completed"} 1"#,
            r#"flagger_canary_duration_seconds_bucket{le="0.025",name="podinfo",namespace="test"} 1"#,
            "# TYPE flagger_canary_total gauge",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
    }

    /// In Flagger `flagger_canary_status` says "successful" of a canary that waits or is being promoted (9.2 E).
    #[test]
    fn a_canary_is_in_one_phase_at_a_time() {
        let telemetry = Telemetry::new("istio");
        let key = CanaryKey::new("test", "web");
        for phase in ["Progressing", "WaitingPromotion", "Promoting"] {
            telemetry.show(&key, view(phase, 10.0));
            let text = telemetry.render();
            let series: Vec<&str> = text
                .lines()
                .filter(|line| line.starts_with("serin_canary_phase{"))
                .collect();
            let expected = format!(
                r#"serin_canary_phase{{canary="web",namespace="test",phase="{phase}"}} 1.0"#
            );
            assert_eq!(series, [expected]);
        }
        telemetry.forget(&key);
        assert!(!telemetry.render().contains("serin_canary_phase{"));
    }

    #[test]
    fn the_series_of_a_deleted_canary_go() {
        let telemetry = Telemetry::new("istio");
        let key = CanaryKey::new("test", "web");
        telemetry.show(&key, view("Failed", 0.0));
        telemetry.measured(&key, "latency", 1.0);
        telemetry.forget(&key);
        assert!(!telemetry.render().contains("podinfo"));
        assert!(!telemetry.render().contains("flagger_canary_total{"));
    }
}
