//! The built-in queries for success rate and duration, one row of a table for each mesh or ingress (Flagger chapter 4.3).
//!
//! Where several rows may have a canary's series, one question finds out which do ([`presence_query`]), and the first of them is taken
//! ([`choose`]): Flagger asks the one row that the provider's name stands for.
//!
//! They are Flagger's, with five corrections. Where every request fails there is no series of good ones, and Flagger's ratio has no
//! value; here it is 0 %, so that the worst canary fails instead of counting as idle. Gloo, Kuma, Traefik and APISIX name their objects after the Service, so the Service's
//! name is asked for, where Flagger asks for the target's and finds nothing when the two differ. A `DaemonSet`'s pods have one part less in
//! their names than a Deployment's; Flagger's pattern finds the primary's pods instead of the canary's. Linkerd names the workload by its kind, and a `DaemonSet` is not a `deployment`. And names are escaped inside
//! of regular expressions, so that the dot of `my.app` is a dot.

use super::{REQUEST_DURATION, REQUEST_SUCCESS_RATE};
use crate::api::{Canary, TargetKind};
use std::collections::BTreeMap;

/// The unit in which a built-in duration query answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DurationUnit {
    /// Milliseconds.
    Milliseconds,
    /// Seconds.
    Seconds,
}

/// How a duration is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Duration {
    /// The 99th percentile of a histogram, given by its `_bucket` series; the last text is appended to the query.
    Percentile(&'static str, &'static str),
    /// Sum over count in milliseconds, given by the name before `_sum` and `_count`.
    Mean(&'static str),
}

/// One row of the table. Selectors use `{N}` namespace, `{T}` target, `{S}` Service, `{INGRESS}`, `{ROUTE}`; with a tilde, as in `{T~}`, the
/// name stands in a regular expression; with an underscore, as in `{N_}`, other characters than letters, digits and _ become _. `{POD}` is what
/// follows the target's name in its pods' names, `{KIND}` the kind of the target in small letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observer {
    /// Name of the row.
    pub name: &'static str,
    /// Counter of requests.
    requests: &'static str,
    /// Selects the requests of the canary.
    selector: &'static str,
    /// Selects those of them that went well.
    success: &'static str,
    duration: Duration,
    /// Selects for the duration what `selector` does not; usually the same.
    duration_selector: Option<&'static str>,
    /// Unit of the duration's answer.
    pub duration_unit: DurationUnit,
}

const ENVOY_REQUESTS: &str = "envoy_cluster_upstream_rq";
const ENVOY_DURATION: Duration = Duration::Percentile("envoy_cluster_upstream_rq_time_bucket", "");
const ENVOY_SUCCESS: &str = r#"envoy_response_code!~"5.*""#;

const TRAEFIK_GATEWAY: &str =
    r#"service=~"(.+-svc-)?{N~}-{S~}-canary-(http-)?[0-9]+@kubernetesgateway""#;

const fn envoy(name: &'static str, selector: &'static str) -> Observer {
    Observer {
        name,
        requests: ENVOY_REQUESTS,
        selector,
        success: ENVOY_SUCCESS,
        duration: ENVOY_DURATION,
        duration_selector: None,
        duration_unit: DurationUnit::Milliseconds,
    }
}

/// The table.
pub const OBSERVERS: [Observer; 15] = [
    Observer {
        name: "istio",
        requests: "istio_requests_total",
        selector: r#"reporter="destination", destination_workload_namespace="{N}", destination_workload=~"{T~}""#,
        success: r#"response_code!~"5.*""#,
        duration: Duration::Percentile("istio_request_duration_milliseconds_bucket", ""),
        duration_selector: None,
        duration_unit: DurationUnit::Milliseconds,
    },
    Observer {
        name: "linkerd",
        requests: "response_total",
        selector: r#"namespace="{N}", {KIND}=~"{T~}", direction="inbound""#,
        success: r#"classification!="failure""#,
        duration: Duration::Percentile("response_latency_ms_bucket", ""),
        duration_selector: None,
        duration_unit: DurationUnit::Milliseconds,
    },
    envoy(
        "appmesh",
        r#"kubernetes_namespace="{N}", kubernetes_pod_name=~"{T~}-{POD}""#,
    ),
    envoy(
        "contour",
        r#"envoy_cluster_name=~"{N~}_{S~}-canary_[0-9a-zA-Z-]+""#,
    ),
    envoy(
        "gloo",
        r#"envoy_cluster_name=~"{N~}-{S~}-canaryupstream-[0-9a-zA-Z-]+_[0-9a-zA-Z-]+""#,
    ),
    envoy("kuma", r#"service=~"{S~}-canary_{N~}_svc_[0-9a-zA-Z-]+""#),
    envoy("knative", r#"envoy_cluster_name=~"{N~}/{ROUTE~}""#),
    Observer {
        name: "nginx",
        requests: "nginx_ingress_controller_requests",
        selector: r#"namespace="{N}", ingress="{INGRESS}", canary!="""#,
        success: r#"status!~"5.*""#,
        duration: Duration::Mean("nginx_ingress_controller_response_duration_seconds"),
        duration_selector: None,
        duration_unit: DurationUnit::Milliseconds,
    },
    Observer {
        name: "skipper",
        requests: "skipper_response_duration_seconds_bucket",
        selector: r#"route=~"kube(ew)?_{N_}__{INGRESS_}_canary__.*__{S_}_canary(_[0-9]+)?", le="+Inf""#,
        success: r#"code!~"5..""#,
        duration: Duration::Mean("skipper_serve_route_duration_seconds"),
        duration_selector: Some(
            r#"route=~"kube(ew)?_{N_}__{INGRESS_}_canary__.*__{S_}_canary(_[0-9]+)?""#,
        ),
        duration_unit: DurationUnit::Milliseconds,
    },
    Observer {
        name: "traefik",
        requests: "traefik_service_request_duration_seconds_bucket",
        selector: r#"service=~"{N~}-{S~}-canary-[0-9a-zA-Z-]+@kubernetescrd", le="+Inf""#,
        success: r#"code!~"5..""#,
        duration: Duration::Percentile(
            "traefik_service_request_duration_seconds_bucket",
            " * 1000",
        ),
        duration_selector: Some(r#"service=~"{N~}-{S~}-canary-[0-9a-zA-Z-]+@kubernetescrd""#),
        duration_unit: DurationUnit::Milliseconds,
    },
    Observer {
        name: "osm",
        requests: "osm_request_total",
        selector: r#"destination_namespace="{N}", destination_kind="{Kind}", destination_name="{T}""#,
        success: r#"response_code!~"5.*""#,
        duration: Duration::Percentile("osm_request_duration_ms_bucket", ""),
        duration_selector: None,
        duration_unit: DurationUnit::Milliseconds,
    },
    Observer {
        name: "apisix",
        requests: "apisix_http_status",
        selector: r#"route=~"{N~}_{ROUTE~}-{S~}-canary_.+""#,
        success: r#"code!~"5..""#,
        duration: Duration::Percentile("apisix_http_latency_bucket", ""),
        duration_selector: Some(r#"type=~"request", route=~"{N~}_{ROUTE~}-{S~}-canary_.+""#),
        duration_unit: DurationUnit::Milliseconds,
    },
    Observer {
        name: "http",
        requests: "http_request_duration_seconds_count",
        selector: r#"kubernetes_namespace="{N}", kubernetes_pod_name=~"{T~}-{POD}""#,
        success: r#"status!~"5.*""#,
        duration: Duration::Percentile("http_request_duration_seconds_bucket", ""),
        duration_selector: None,
        duration_unit: DurationUnit::Seconds,
    },
    // The same by the labels that the Prometheus operator and most others give.
    Observer {
        name: "pods",
        requests: "http_request_duration_seconds_count",
        selector: r#"namespace="{N}", pod=~"{T~}-{POD}""#,
        success: r#"status!~"5.*""#,
        duration: Duration::Percentile("http_request_duration_seconds_bucket", ""),
        duration_selector: None,
        duration_unit: DurationUnit::Seconds,
    },
    // Traefik behind the Gateway API: namespace, Service and port, since 3.6 after the route's name.
    Observer {
        name: "traefik-gateway",
        requests: "traefik_service_request_duration_seconds_count",
        selector: TRAEFIK_GATEWAY,
        success: r#"code!~"5..""#,
        duration: Duration::Percentile(
            "traefik_service_request_duration_seconds_bucket",
            " * 1000",
        ),
        duration_selector: None,
        duration_unit: DurationUnit::Milliseconds,
    },
];

/// Rows that may have the series of a canary whose routes are the Gateway API's or whose provider is `kubernetes`: any mesh or gateway may
/// stand behind these.
const BEHIND_ANY: [&str; 6] = [
    "http",
    "pods",
    "istio",
    "linkerd",
    "contour",
    "traefik-gateway",
];
/// Rows that may have them beside the provider's own.
const BESIDE_OWN: [&str; 2] = ["http", "pods"];

/// Rows that see no more of a call of gRPC than HTTP's status, which is 200 whatever became of the call.
const BLIND_TO_GRPC: [&str; 3] = ["istio", "contour", "traefik-gateway"];

/// Which row a provider name means: by exact name or by prefix. Everything else, all `smi:*` too, has Istio's metrics.
const BY_NAME: [(&str, bool, &str); 15] = [
    ("appmesh", true, "appmesh"),
    ("linkerd", false, "linkerd"),
    ("istio", false, "istio"),
    ("contour", false, "contour"),
    ("gloo", true, "gloo"),
    ("nginx", false, "nginx"),
    ("kubernetes", false, "http"),
    ("gatewayapi", true, "http"),
    ("skipper", false, "skipper"),
    ("traefik", false, "traefik"),
    ("osm", false, "osm"),
    ("kuma", false, "kuma"),
    ("apisix", false, "apisix"),
    ("knative", false, "knative"),
    ("", true, "istio"),
];

/// The provider name by which queries are chosen and which messages show: the canary's own, or the flag's; a controller that runs
/// for Linkerd takes Linkerd's metrics whatever router a canary names.
#[must_use]
pub fn metrics_provider(canary: &Canary, mesh_provider: &str) -> String {
    let own = canary
        .spec
        .provider
        .as_deref()
        .filter(|own| !own.is_empty());
    let name = match own {
        Some(_) if mesh_provider.contains("linkerd") => "linkerd",
        _ if mesh_provider.contains("crossover") => "crossover",
        Some(own) => own,
        None => mesh_provider,
    };
    if canary.spec.target_ref.target_kind() == TargetKind::Service {
        return format!("{name}:service");
    }
    name.to_owned()
}

/// The row for a name that [`metrics_provider`] gave.
#[must_use]
pub fn observer_for(metrics_provider: &str) -> &'static Observer {
    let row = BY_NAME
        .iter()
        .find(|(name, is_prefix, _)| {
            metrics_provider == *name || *is_prefix && metrics_provider.starts_with(name)
        })
        .map_or("istio", |(_, _, row)| row);
    observer_named(row).unwrap_or(&OBSERVERS[0])
}

/// The row of this name.
#[must_use]
pub fn observer_named(name: &str) -> Option<&'static Observer> {
    OBSERVERS.iter().find(|observer| observer.name == name)
}

/// The rows that may have a canary's series, in the order in which they are preferred; the first is the one that is asked where nothing is
/// known.
#[must_use]
pub fn candidates(metrics_provider: &str) -> Vec<&'static Observer> {
    let own = observer_for(metrics_provider);
    let others: &[&str] = if own.name == "http" {
        &BEHIND_ANY
    } else {
        &BESIDE_OWN
    };
    let others = others.iter().filter_map(|name| observer_named(name));
    let mut rows = vec![own];
    rows.extend(others.filter(|other| other.name != own.name));
    rows
}

/// The built-in checks that have a row each, in the order of their bits.
const CHECKS: [&str; 2] = [REQUEST_SUCCESS_RATE, REQUEST_DURATION];

/// One question for which of the rows have series for these checks. The answer is one number, a bit for each check and row.
#[must_use]
pub fn presence_query(checks: &[&str], rows: &[&Observer], names: Names<'_>) -> String {
    let mut parts = Vec::new();
    for (place, row) in rows.iter().enumerate() {
        for check in CHECKS.iter().filter(|check| checks.contains(check)) {
            let bit = bit(check, place, rows.len());
            let series = row.series(check, names);
            parts.push(format!(
                "label_replace(count({series}) * 0 + {bit}, \"source\", \"{bit}\", \"\", \"\")"
            ));
        }
    }
    parts.push("vector(0)".to_owned());
    format!("sum({})", parts.join(" or "))
}

fn bit(check: &str, place: usize, rows: usize) -> u32 {
    let check = CHECKS.iter().position(|known| *known == check).unwrap_or(0);
    1 << (check * rows + place)
}

/// The rows that are asked for these checks, by check, from the answer to [`presence_query`]: for each the row of the run before if it still has
/// series, else the first that has some. A check that no row has series for is left out.
#[must_use]
pub fn choose(
    checks: &[&str],
    rows: &[&Observer],
    answer: f64,
    before: &BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    // Anything that is no such sum of bits says nothing.
    let most = f64::from(1_u32 << (CHECKS.len() * rows.len()).min(31));
    if !(0.0..most).contains(&answer) || answer.fract() != 0.0 {
        return BTreeMap::new();
    }
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "checked above"
    )]
    let bits = answer as u32;
    checks
        .iter()
        .filter_map(|check| {
            let mut present = rows
                .iter()
                .enumerate()
                .filter(|(place, _)| bits & bit(check, *place, rows.len()) != 0)
                .map(|(_, row)| row.name);
            let first = present.clone().next()?;
            let same = before
                .get(*check)
                .and_then(|before| present.find(|row| row == before));
            Some(((*check).to_owned(), same.unwrap_or(first).to_owned()))
        })
        .collect()
}

/// The names that the queries ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Names<'a> {
    /// Namespace of the canary.
    pub namespace: &'a str,
    /// Name of the target.
    pub target: &'a str,
    /// Name of the apex Service.
    pub service: &'a str,
    /// Name of the Ingress.
    pub ingress: &'a str,
    /// Name of the route; for Knative the latest revision.
    pub route: &'a str,
    /// Kind of the target, which says how its pods are named.
    pub kind: TargetKind,
}

impl Names<'_> {
    fn fill(self, selector: &str) -> String {
        let names = [
            ("N", self.namespace),
            ("T", self.target),
            ("S", self.service),
            ("INGRESS", self.ingress),
            ("ROUTE", self.route),
        ];
        let mut out = selector
            .replace("{POD}", pod_suffix(self.kind))
            .replace("{KIND}", kind_label(self.kind))
            .replace("{Kind}", kind(self.kind));
        for (key, name) in names {
            out = out
                .replace(&format!("{{{key}}}"), &quotable(name))
                .replace(&format!("{{{key}~}}"), &quotable(&escaped(name)))
                .replace(&format!("{{{key}_}}"), &words(name));
        }
        out
    }
}

/// What follows the target's name and a dash in the names of its pods. A Deployment's have the hash of the `ReplicaSet` before their
/// own; with a `DaemonSet` that would fit the primary's pods and none of the canary's.
fn pod_suffix(kind: TargetKind) -> &'static str {
    match kind {
        TargetKind::DaemonSet => "[0-9a-zA-Z]+",
        _ => "[0-9a-zA-Z]+(-[0-9a-zA-Z]+)",
    }
}

/// The kind as Kubernetes writes it, and OSM after it.
fn kind(kind: TargetKind) -> &'static str {
    match kind {
        TargetKind::DaemonSet => "DaemonSet",
        _ => "Deployment",
    }
}

/// The label by which Linkerd names a workload of this kind.
fn kind_label(kind: TargetKind) -> &'static str {
    match kind {
        TargetKind::DaemonSet => "daemonset",
        _ => "deployment",
    }
}

/// The name with everything escaped that means something in a regular expression.
fn escaped(name: &str) -> String {
    name.chars().fold(String::new(), |mut out, c| {
        if r"\.+*?()|[]{}^$".contains(c) {
            out.push('\\');
        }
        out.push(c);
        out
    })
}

/// The name inside of a quoted `PromQL` text.
fn quotable(name: &str) -> String {
    name.replace('\\', r"\\").replace('"', "\\\"")
}

fn words(name: &str) -> String {
    name.chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
        .collect()
}

impl Observer {
    /// Whether it can tell a call of gRPC that went wrong from one that went well.
    #[must_use]
    pub fn sees_grpc(&self) -> bool {
        !BLIND_TO_GRPC.contains(&self.name)
    }

    /// The query for `request-success-rate`, in percent.
    #[must_use]
    pub fn success_rate(&self, names: Names<'_>, interval: &str) -> String {
        let metric = self.requests;
        let base = names.fill(self.selector);
        let success = self.success;
        let all = format!("sum(rate({metric}{{{base}}}[{interval}]))");
        format!("(sum(rate({metric}{{{base}, {success}}}[{interval}])) or {all} * 0) / {all} * 100")
    }

    /// The series that a check reads.
    #[must_use]
    pub fn series(&self, check: &str, names: Names<'_>) -> String {
        let base = names.fill(self.selector);
        if check == REQUEST_DURATION {
            let base = self.duration_selector.map_or(base, |own| names.fill(own));
            return match self.duration {
                Duration::Percentile(metric, _) => format!("{metric}{{{base}}}"),
                Duration::Mean(metric) => format!("{metric}_count{{{base}}}"),
            };
        }
        format!("{}{{{base}}}", self.requests)
    }

    /// The query for `request-duration`, in [`Observer::duration_unit`].
    #[must_use]
    pub fn duration(&self, names: Names<'_>, interval: &str) -> String {
        let base = names.fill(self.duration_selector.unwrap_or(self.selector));
        match self.duration {
            Duration::Percentile(metric, scale) => format!(
                "histogram_quantile(0.99, sum(rate({metric}{{{base}}}[{interval}])) by (le)){scale}"
            ),
            Duration::Mean(metric) => format!(
                "sum(rate({metric}_sum{{{base}}}[{interval}])) / sum(rate({metric}_count{{{base}}}[{interval}])) * 1000"
            ),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::api::{CanarySpec, TargetRef};

    const NAMES: Names<'static> = Names {
        namespace: "test",
        target: "podinfo",
        service: "podinfo-svc",
        ingress: "podinfo-ing",
        route: "podinfo-route",
        kind: TargetKind::Deployment,
    };

    fn canary(provider: Option<&str>, target_kind: &str) -> Canary {
        Canary {
            spec: CanarySpec {
                provider: provider.map(str::to_owned),
                target_ref: TargetRef {
                    api_version: String::new(),
                    kind: target_kind.to_owned(),
                    name: "podinfo".to_owned(),
                },
                ..CanarySpec::default()
            },
            ..Canary::default()
        }
    }

    #[test]
    fn the_observer_follows_provider_flag_and_target() {
        // flag, spec.provider, kind of the target, observer
        let cases = [
            ("istio", None, "Deployment", "istio"),
            ("gatewayapi:v1", None, "Deployment", "http"),
            ("istio", Some("gatewayapi:v1beta1"), "Deployment", "http"),
            ("istio", Some("kubernetes"), "Deployment", "http"),
            ("istio", Some("nginx"), "DaemonSet", "nginx"),
            ("istio", Some("smi:v1alpha3"), "Deployment", "istio"),
            ("linkerd", None, "Deployment", "linkerd"),
            ("linkerd", Some("gatewayapi:v1"), "Deployment", "linkerd"),
            ("smi:linkerd", Some("nginx"), "Deployment", "linkerd"),
            ("smi:crossover", None, "Deployment", "istio"),
            ("appmesh:v1beta2", None, "Deployment", "appmesh"),
            ("gloo", None, "Service", "gloo"),
            ("kubernetes", None, "Service", "istio"),
            ("gatewayapi:v1", None, "Service", "http"),
            ("something", None, "Deployment", "istio"),
            ("knative", None, "Deployment", "knative"),
        ];
        for (flag, provider, kind, expected) in cases {
            let name = metrics_provider(&canary(provider, kind), flag);
            assert_eq!(
                observer_for(&name).name,
                expected,
                "{flag} {provider:?} {kind}"
            );
        }
    }

    #[test]
    fn the_queries_are_those_of_the_golden_file() {
        use std::fmt::Write;
        let mut found = String::new();
        for observer in &OBSERVERS {
            let _ = writeln!(
                found,
                "{}\n  {}\n  {}",
                observer.name,
                observer.success_rate(NAMES, "1m"),
                observer.duration(NAMES, "1m")
            );
        }
        assert_eq!(found, include_str!("golden/queries.txt"));
    }

    #[test]
    fn only_the_canary_s_own_pods_are_asked_about() {
        // kind of the target, a pod's name, whether it is one of the canary's
        let cases = [
            (TargetKind::Deployment, "podinfo-6d5f9c-x2x4z", true),
            (
                TargetKind::Deployment,
                "podinfo-primary-6d5f9c-x2x4z",
                false,
            ),
            (
                TargetKind::Deployment,
                "podinfo-backend-6d5f9c-x2x4z",
                false,
            ),
            (TargetKind::DaemonSet, "podinfo-x2x4z", true),
            (TargetKind::DaemonSet, "podinfo-primary-x2x4z", false),
            (TargetKind::DaemonSet, "podinfo-backend-x2x4z", false),
        ];
        for (kind, pod, expected) in cases {
            let query = observer_for("kubernetes").success_rate(Names { kind, ..NAMES }, "1m");
            let pattern = query
                .split_once("kubernetes_pod_name=~\"")
                .and_then(|(_, rest)| rest.split_once('"'))
                .unwrap()
                .0;
            // Prometheus anchors patterns at both ends.
            let found = regex::Regex::new(&format!("^(?:{pattern})$"))
                .unwrap()
                .is_match(pod);
            assert_eq!(found, expected, "{kind:?} {pod} {pattern}");
        }
    }

    #[test]
    fn the_row_that_has_series_is_chosen_the_one_of_the_run_before_if_it_still_has_some() {
        /// Provider, rows with series for the success rate and for the duration, rows of the run before, rows that are chosen.
        type Case<'a> = (&'a str, [&'a [&'a str]; 2], [&'a str; 2], [&'a str; 2]);
        const CASES: [Case<'_>; 14] = [
            (
                "gatewayapi:v1",
                [&["http"], &["http"]],
                ["", ""],
                ["http", "http"],
            ),
            (
                "gatewayapi:v1",
                [&["pods"], &["pods"]],
                ["", ""],
                ["pods", "pods"],
            ),
            (
                "gatewayapi:v1",
                [&["pods", "http"], &["pods", "http"]],
                ["", ""],
                ["http", "http"],
            ),
            (
                "gatewayapi:v1",
                [&["traefik-gateway"], &["traefik-gateway"]],
                ["", ""],
                ["traefik-gateway", "traefik-gateway"],
            ),
            (
                "gatewayapi:v1beta1",
                [&["contour"], &["contour"]],
                ["", ""],
                ["contour", "contour"],
            ),
            (
                "gatewayapi:v1",
                [&["istio", "traefik-gateway"], &["istio"]],
                ["", ""],
                ["istio", "istio"],
            ),
            ("kubernetes", [&["linkerd"], &[]], ["", ""], ["linkerd", ""]),
            // A counter without a histogram: each check has the row that has it.
            (
                "kubernetes",
                [&["http", "contour"], &["contour"]],
                ["", ""],
                ["http", "contour"],
            ),
            // What was chosen before is kept while it is there.
            (
                "gatewayapi:v1",
                [&["http", "istio"], &["http", "istio"]],
                ["istio", "istio"],
                ["istio", "istio"],
            ),
            (
                "gatewayapi:v1",
                [&["http"], &["http"]],
                ["istio", "gone"],
                ["http", "http"],
            ),
            ("gatewayapi:v1", [&[], &[]], ["http", "http"], ["", ""]),
            // The provider's own row comes first, and the app's series are better than none.
            (
                "istio",
                [&["istio", "http"], &["istio", "http"]],
                ["", ""],
                ["istio", "istio"],
            ),
            ("nginx", [&["pods"], &["pods"]], ["", ""], ["pods", "pods"]),
            // No row of another mesh is taken for a provider that has one of its own.
            ("nginx", [&["istio"], &["istio"]], ["", ""], ["", ""]),
        ];
        for (provider, present, before, expected) in CASES {
            let rows = candidates(provider);
            let answer: u32 = CHECKS
                .iter()
                .zip(present)
                .flat_map(|(check, present)| {
                    rows.iter()
                        .enumerate()
                        .filter(move |(_, row)| present.contains(&row.name))
                        .map(move |(place, _)| (check, place))
                })
                .map(|(check, place)| bit(check, place, rows.len()))
                .sum();
            let by_check = |names: [&str; 2]| -> BTreeMap<String, String> {
                CHECKS
                    .iter()
                    .zip(names)
                    .filter(|(_, name)| !name.is_empty())
                    .map(|(check, name)| ((*check).to_owned(), name.to_owned()))
                    .collect()
            };
            assert_eq!(
                choose(&CHECKS, &rows, f64::from(answer), &by_check(before)),
                by_check(expected),
                "{provider} {present:?}"
            );
        }
    }

    #[test]
    fn an_answer_that_is_no_sum_of_bits_chooses_nothing() {
        let rows = candidates("gatewayapi:v1");
        for answer in [-1.0, 0.5, f64::NAN, f64::INFINITY, 4096.0, 1e300] {
            assert!(
                choose(&CHECKS, &rows, answer, &BTreeMap::new()).is_empty(),
                "{answer}"
            );
        }
    }

    #[test]
    fn one_question_asks_for_the_series_of_all_rows_and_checks_that_are_wanted() {
        let rows = candidates("gatewayapi:v1");
        let query = presence_query(&CHECKS, &rows, NAMES);
        assert!(
            query.starts_with(
                r#"sum(label_replace(count(http_request_duration_seconds_count{kubernetes_namespace="test", kubernetes_pod_name=~"podinfo-[0-9a-zA-Z]+(-[0-9a-zA-Z]+)"}) * 0 + 1, "source", "1", "", "") or label_replace(count(http_request_duration_seconds_bucket{"#
            ),
            "{query}"
        );
        assert!(query.ends_with(" or vector(0))"), "{query}");
        assert_eq!(query.matches("count(").count(), 12);
        let half = presence_query(&[REQUEST_DURATION], &rows, NAMES);
        assert_eq!(half.matches("count(").count(), 6);
        assert!(
            !half.contains("http_request_duration_seconds_count"),
            "{half}"
        );
    }

    #[test]
    fn the_series_of_traefik_behind_the_gateway_api_are_the_canary_s_alone() {
        let names = Names {
            service: "app",
            namespace: "shop",
            ..NAMES
        };
        let query = observer_named("traefik-gateway")
            .unwrap()
            .success_rate(names, "1m");
        let pattern = query
            .split_once("service=~\"")
            .and_then(|(_, rest)| rest.split_once('"'))
            .unwrap()
            .0;
        let pattern = regex::Regex::new(&format!("^(?:{pattern})$")).unwrap();
        for (service, expected) in [
            ("shop-app-canary-80@kubernetesgateway", true),
            ("shop-app-canary-http-80@kubernetesgateway", true),
            (
                "httproute-shop-app-gw-gateway-traefik-ep-web-0-1f2e-svc-shop-app-canary-80@kubernetesgateway",
                true,
            ),
            ("shop-app-primary-80@kubernetesgateway", false),
            (
                "httproute-shop-app-gw-gateway-traefik-ep-web-0-1f2e-wrr@kubernetesgateway",
                false,
            ),
            ("shop-app-canary-80@kubernetescrd", false),
        ] {
            assert_eq!(pattern.is_match(service), expected, "{service}");
        }
    }

    #[test]
    fn meshes_name_a_daemon_set_by_its_kind() {
        let names = Names {
            kind: TargetKind::DaemonSet,
            ..NAMES
        };
        for (observer, selector) in [
            ("linkerd", r#"daemonset=~"podinfo", direction="inbound""#),
            (
                "osm",
                r#"destination_kind="DaemonSet", destination_name="podinfo""#,
            ),
        ] {
            let observer = observer_for(observer);
            for query in [
                observer.success_rate(names, "1m"),
                observer.duration(names, "1m"),
            ] {
                assert!(query.contains(selector), "{query}");
            }
        }
    }

    #[test]
    fn a_dot_in_a_name_is_a_dot() {
        let names = Names {
            target: "my.app",
            service: "my.svc",
            ..NAMES
        };
        let http = observer_for("kubernetes").success_rate(names, "1m");
        assert!(
            http.contains(r#"kubernetes_pod_name=~"my\\.app-[0-9a-zA-Z]+"#),
            "{http}"
        );
        let osm = observer_for("osm").success_rate(names, "1m");
        assert!(osm.contains(r#"destination_name="my.app""#), "{osm}");
        let skipper = observer_for("skipper").success_rate(names, "1m");
        assert!(skipper.contains("__my_svc_canary("), "{skipper}");
    }
}
