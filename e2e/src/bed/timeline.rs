//! What happened on a bed and when: events, the steps of each canary, the weights of each route. Shown when a scenario fails.
use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};

use futures::StreamExt;
use jiff::Timestamp;
use kube::api::{ApiResource, DynamicObject};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use serde_json::Value;
use tokio::task::JoinHandle;

/// One thing that happened.
#[derive(Debug, Clone)]
pub struct Happening {
    pub at: Timestamp,
    pub namespace: String,
    /// One line for people.
    pub what: String,
}

/// Records in the background until dropped.
#[derive(Debug)]
pub struct Timeline {
    happenings: Arc<Mutex<Vec<Happening>>>,
    tasks: Vec<JoinHandle<()>>,
}

/// What is watched: group, version, kind, plural, and how a line is made of an object.
type Describe = fn(&DynamicObject) -> Option<String>;
const WATCHED: [(&str, &str, &str, &str, Describe); 5] = [
    ("", "v1", "Event", "events", describe_event),
    (
        "flagger.app",
        "v1beta1",
        "Canary",
        "canaries",
        describe_canary,
    ),
    (
        "gateway.networking.k8s.io",
        "v1",
        "HTTPRoute",
        "httproutes",
        describe_route,
    ),
    (
        "gateway.networking.k8s.io",
        "v1",
        "GRPCRoute",
        "grpcroutes",
        describe_route,
    ),
    (
        "discovery.k8s.io",
        "v1",
        "EndpointSlice",
        "endpointslices",
        describe_endpoints,
    ),
];

impl Timeline {
    /// Begins to record. A kind that the API server does not know yet is recorded from when it does.
    #[must_use]
    pub fn start(client: &Client) -> Self {
        let happenings = Arc::new(Mutex::new(Vec::new()));
        let tasks = WATCHED
            .iter()
            .map(|(group, version, kind, plural, describe)| {
                let resource = ApiResource::from_gvk_with_plural(
                    &kube::api::GroupVersionKind::gvk(group, version, kind),
                    plural,
                );
                let api = Api::<DynamicObject>::all_with(client.clone(), &resource);
                tokio::spawn(record(api, *describe, Arc::clone(&happenings)))
            })
            .collect();
        Self { happenings, tasks }
    }

    /// Adds a line of one's own, such as "killed the leader".
    pub fn note(&self, namespace: &str, what: impl Into<String>) {
        push(&self.happenings, namespace, what.into());
    }

    /// What happened in a namespace so far.
    #[must_use]
    pub fn of(&self, namespace: &str) -> Vec<Happening> {
        let happenings = self
            .happenings
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        happenings
            .iter()
            .filter(|happening| happening.namespace == namespace)
            .cloned()
            .collect()
    }

    /// Everything, with the time of day, to be laid beside the logs of the parts.
    #[must_use]
    pub fn of_all(&self) -> String {
        let happenings = self
            .happenings
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        happenings
            .iter()
            .fold(String::new(), |mut text, happening| {
                let _ = writeln!(
                    text,
                    "{:.3} {:<20} {}",
                    happening.at, happening.namespace, happening.what
                );
                text
            })
    }

    /// The lines of the namespaces that fit, with seconds since the first.
    pub fn text(&self, fits: impl Fn(&str) -> bool) -> String {
        let happenings = self
            .happenings
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let shown: Vec<&Happening> = happenings
            .iter()
            .filter(|happening| fits(&happening.namespace))
            .collect();
        let first = shown
            .first()
            .map_or(Timestamp::UNIX_EPOCH, |happening| happening.at);
        shown.iter().fold(String::new(), |mut text, happening| {
            let _ = writeln!(
                text,
                "  {:>8.2} s  {:<20} {}",
                happening.at.duration_since(first).as_secs_f64(),
                happening.namespace,
                happening.what
            );
            text
        })
    }
}

impl Drop for Timeline {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

fn push(happenings: &Mutex<Vec<Happening>>, namespace: &str, what: String) {
    let happening = Happening {
        at: Timestamp::now(),
        namespace: namespace.to_owned(),
        what,
    };
    happenings
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(happening);
}

async fn record(
    api: Api<DynamicObject>,
    describe: Describe,
    happenings: Arc<Mutex<Vec<Happening>>>,
) {
    let mut last: HashMap<String, String> = HashMap::new();
    let mut events = watcher(api, watcher::Config::default())
        .default_backoff()
        .boxed();
    while let Some(event) = events.next().await {
        let (object, gone) = match event {
            Ok(watcher::Event::Apply(object) | watcher::Event::InitApply(object)) => {
                (object, false)
            }
            Ok(watcher::Event::Delete(object)) => (object, true),
            _ => continue,
        };
        let Some(line) = describe(&object) else {
            continue;
        };
        let namespace = object.namespace().unwrap_or_default();
        let key = format!("{namespace}/{}", object.name_any());
        if gone {
            // That an event expires is nothing that happened.
            if last.remove(&key).is_some()
                && object
                    .types
                    .as_ref()
                    .is_none_or(|types| types.kind != "Event")
            {
                push(&happenings, &namespace, format!("deleted: {line}"));
            }
        } else if last.get(&key) != Some(&line) {
            last.insert(key, line.clone());
            push(&happenings, &namespace, line);
        }
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn describe_event(event: &DynamicObject) -> Option<String> {
    let data = &event.data;
    // The comings and goings of pods are noise here.
    if ["SuccessfulCreate", "SuccessfulDelete", "ScalingReplicaSet"]
        .contains(&text(&data["reason"]))
    {
        return None;
    }
    let object = &data["involvedObject"];
    Some(format!(
        "event {} {} {}/{}: {}",
        text(&data["type"]),
        text(&data["reason"]),
        text(&object["kind"]),
        text(&object["name"]),
        text(&data["message"])
    ))
}

// An `Option` as the others of its kind give.
#[allow(clippy::unnecessary_wraps)]
fn describe_canary(canary: &DynamicObject) -> Option<String> {
    let status = &canary.data["status"];
    let mut line = format!(
        "canary {} {}",
        canary.name_any(),
        status["phase"].as_str().unwrap_or("(no phase)")
    );
    for field in ["canaryWeight", "iterations", "failedChecks"] {
        if let Some(number) = status[field].as_i64() {
            let _ = write!(line, " {field}={number}");
        }
    }
    for condition in status["conditions"].as_array().into_iter().flatten() {
        let _ = write!(
            line,
            " {}={}({})",
            text(&condition["type"]),
            text(&condition["status"]),
            text(&condition["reason"])
        );
    }
    Some(line)
}

/// Which pods a Service leads to: the ready ones, and in brackets those that are about to go.
fn describe_endpoints(slice: &DynamicObject) -> Option<String> {
    let service = slice.labels().get("kubernetes.io/service-name")?;
    let mut pods: Vec<String> = slice.data["endpoints"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|endpoint| {
            let address = text(&endpoint["addresses"][0]);
            let is = |condition: &str| endpoint["conditions"][condition] == true;
            match (is("ready"), is("serving")) {
                (true, _) => Some(address.to_owned()),
                (false, true) => Some(format!("({address})")),
                _ => None,
            }
        })
        .collect();
    pods.sort();
    Some(format!("endpoints {service} {}", pods.join(" ")))
}

fn describe_route(route: &DynamicObject) -> Option<String> {
    let mut line = format!("route {}", route.name_any());
    for rule in route.data["spec"]["rules"].as_array()? {
        let backends: Vec<String> = rule["backendRefs"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|backend| {
                format!(
                    "{}={}",
                    text(&backend["name"]),
                    backend["weight"].as_i64().unwrap_or(1)
                )
            })
            .collect();
        let matched = if rule["matches"]
            .as_array()
            .is_some_and(|matches| matches.iter().any(|one| one.get("headers").is_some()))
        {
            "match "
        } else {
            ""
        };
        let _ = write!(line, " [{matched}{}]", backends.join(" "));
    }
    Some(line)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn object(yaml: &str) -> DynamicObject {
        serde_saphyr::from_str(yaml).unwrap()
    }

    #[test]
    fn a_route_is_told_by_its_weights() {
        let route = object(
            "{apiVersion: g/v1, kind: HTTPRoute, metadata: {name: app}, spec: {rules: [{backendRefs: [{name: app-primary, weight: 90}, {name: app-canary, weight: 10}]}]}}",
        );
        assert_eq!(
            describe_route(&route).unwrap(),
            "route app [app-primary=90 app-canary=10]"
        );
    }

    #[test]
    fn a_service_is_told_by_the_pods_that_it_leads_to() {
        let slice = object(
            "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: app-x2x4z, labels: {kubernetes.io/service-name: app}}, endpoints: [{addresses: [10.244.0.2], conditions: {ready: false, serving: true, terminating: true}}, {addresses: [10.244.0.1], conditions: {ready: true, serving: true}}, {addresses: [10.244.0.3], conditions: {ready: false, serving: false}}]}",
        );
        assert_eq!(
            describe_endpoints(&slice).unwrap(),
            "endpoints app (10.244.0.2) 10.244.0.1"
        );
    }

    #[test]
    fn a_canary_is_told_by_phase_and_numbers() {
        let canary = object(
            "{apiVersion: flagger.app/v1beta1, kind: Canary, metadata: {name: app}, status: {phase: Progressing, canaryWeight: 20}}",
        );
        assert_eq!(
            describe_canary(&canary).unwrap(),
            "canary app Progressing canaryWeight=20"
        );
    }
}
