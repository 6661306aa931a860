//! What is fuzzed: everything that Serin reads from outside. Each target takes bytes and must neither panic nor take much time or memory.
//! `make fuzz` runs them under libFuzzer; `tests/fuzz_smoke.rs` includes this file and runs them for a moment on the stable toolchain.

pub mod mutate;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use serin::analysis::{Measurement, MetricFlags, queries, template};
use serin::api::{
    AlertProvider, Canary, MetricTemplate, ValidationOptions, parse_go_duration, validate,
};
use serin::object::{Kind, Object, ObjectRef, Patch, Reading, Write, kinds};
use serin::rollout::{
    Finding, HookAnswer, Listing, Request, Settings, Snapshot, Want, decide, ladder,
};
use serin::{hooks, providers};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

/// A function under test.
pub type Target = fn(&[u8]);

/// All of them, by the names of their binaries.
pub const TARGETS: [(&str, Target); 6] = [
    ("canary", canary),
    ("status", status),
    ("template", template),
    ("hook_answer", hook_answer),
    ("prometheus_answer", prometheus_answer),
    ("cluster", cluster),
];

/// A custom resource: decoded, validated, its defaults read, its ladder climbed, its queries made, and written back without loss.
pub fn canary(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = parse_go_duration(text);
    }
    let Ok(value) = serde_json::from_slice::<Value>(data) else {
        return;
    };
    let _ = AlertProvider::decode(&value);
    if let Ok(found) = MetricTemplate::decode(&value) {
        assert_eq!(MetricTemplate::decode(&found.encode()).as_ref(), Ok(&found));
    }
    let Ok(canary) = Canary::decode(&value) else {
        return;
    };
    for no_cross_namespace_refs in [false, true] {
        let options = ValidationOptions {
            no_cross_namespace_refs,
            default_provider: String::new(),
        };
        for problem in validate(&canary, &options) {
            let _ = problem.to_string();
        }
    }
    let steps = ladder(&canary.spec.analysis);
    assert!(steps.len() <= 101, "a ladder of {} steps", steps.len());
    let _ = canary.spec.analysis.interval() + canary.spec.progress_deadline();
    let _ = canary.spec.no_data_deadline() + canary.spec.analysis.drain();
    let flags = MetricFlags {
        mesh_provider: "gatewayapi:v1",
        metrics_server: "http://prometheus:9090",
        no_cross_namespace_refs: false,
    };
    let _ = queries(&canary, flags, &|_| Reading::Absent);
    if let Some(router) = serin::routing::router(canary.spec.provider_or("gatewayapi:v1")) {
        let _ = router.refusals(&canary);
    }
    let again = Canary::decode(&canary.encode());
    assert_eq!(
        again.map(|again| again.spec).as_ref(),
        Ok(&canary.spec),
        "what was written back is not what was read"
    );
}

/// Any status under a sound spec: Flagger's, an older version's, one that somebody edited.
pub fn status(data: &[u8]) {
    let Ok(status) = serde_json::from_slice::<Value>(data) else {
        return;
    };
    let mut objects = standing_cluster();
    objects[0]["status"] = status;
    if let Ok(canary) = Canary::decode(&objects[0]) {
        let written = json!(canary.status_or_default());
        let mut again = objects[0].clone();
        again["status"] = written.clone();
        let again = Canary::decode(&again).map(|again| json!(again.status_or_default()));
        assert_eq!(again, Ok(written));
    }
    run(objects);
}

/// A metric template's text.
pub fn template(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let context = template::TemplateContext {
        name: "podinfo".to_owned(),
        namespace: "test".to_owned(),
        target: "podinfo".to_owned(),
        service: "podinfo".to_owned(),
        ingress: "podinfo".to_owned(),
        route: "podinfo".to_owned(),
        interval: "1m".to_owned(),
        variables: [("team".to_owned(), "shop".to_owned())].into(),
    };
    match template::render(text, &context) {
        Ok(output) => assert!(output.len() <= template::MAX_OUTPUT),
        Err(error) => assert!(
            error.to_string().len() <= 4096,
            "an error of a book's length"
        ),
    }
}

/// The answer of a webhook: two bytes of status, then the body.
pub fn hook_answer(data: &[u8]) {
    let (status, body) = answer(data);
    if let HookAnswer::Refused(text) | HookAnswer::Unreachable(text) =
        hooks::read_answer(status, body)
    {
        assert!(text.len() <= 16 * 1024);
    }
}

/// The answer of a Prometheus API: two bytes of status, then the body.
pub fn prometheus_answer(data: &[u8]) {
    let (status, body) = answer(data);
    match providers::read_prometheus_answer(status, body) {
        Measurement::Value(value)
        | Measurement::LastOf { value, .. }
        | Measurement::FirstOf { value, .. } => assert!(!value.is_nan()),
        Measurement::NoData(why) | Measurement::Error(why) => assert!(why.len() <= 16 * 1024),
    }
}

/// The status and the body; documents without a status in front are taken for the body of a 200.
fn answer(data: &[u8]) -> (u16, &[u8]) {
    match data {
        [first @ (1..=5), second, body @ ..] => {
            (u16::from(*first) * 100 + u16::from(*second), body)
        }
        body => (200, body),
    }
}

/// A list of objects, the Canary first: the cluster in which some passes are made, with what they write.
pub fn cluster(data: &[u8]) {
    if let Ok(Value::Array(objects)) = serde_json::from_slice(data)
        && objects.len() <= 40
    {
        for object in &objects {
            let _ = providers::Credentials::of(&Object::new(object.clone()));
        }
        run(objects);
    }
}

const KINDS: [Kind; 14] = [
    kinds::CANARY,
    kinds::METRIC_TEMPLATE,
    kinds::ALERT_PROVIDER,
    kinds::DEPLOYMENT,
    kinds::DAEMON_SET,
    kinds::CONTROLLER_REVISION,
    kinds::SERVICE,
    kinds::CONFIG_MAP,
    kinds::SECRET,
    kinds::ENDPOINT_SLICE,
    kinds::HORIZONTAL_POD_AUTOSCALER,
    kinds::SCALED_OBJECT,
    kinds::HTTP_ROUTE,
    kinds::HTTP_ROUTE_V1BETA1,
];

/// Passes over the first object among the others, each from what the last one wrote. Workloads are ready at once.
fn run(objects: Vec<Value>) {
    let mut now: Timestamp = Timestamp::from_second(1_780_000_000).unwrap_or_default();
    let mut held: BTreeMap<ObjectRef, Value> = BTreeMap::new();
    let mut canary = objects.first().cloned().unwrap_or_default();
    for value in objects {
        let object = Object::new(value);
        if let Some(kind) = KINDS
            .iter()
            .find(|kind| kind.matches(object.api_version(), object.kind()))
        {
            held.insert(
                kind.named(object.namespace(), object.name()),
                object.into_value(),
            );
        }
    }
    let settings = Arc::new(Settings::default());
    let mut reads: BTreeSet<Want> = BTreeSet::new();
    let mut findings: BTreeMap<String, Finding> = BTreeMap::new();
    for pass in 0..24 {
        let Ok(decoded) = Canary::decode(&canary) else {
            return;
        };
        let mut snapshot = Snapshot::new(now, Arc::new(decoded), Arc::clone(&settings));
        snapshot.entropy = pass;
        for want in &reads {
            read(&mut snapshot, want, &held);
        }
        for (key, finding) in &findings {
            snapshot.add_finding(key.clone(), finding.clone());
        }
        let decision = decide(&snapshot);
        if !decision.wants.is_empty() {
            assert!(decision.wants.len() <= 500, "wants without bound");
            reads.extend(decision.wants);
            continue;
        }
        let asked = !decision.needs.is_empty();
        for need in decision.needs {
            let finding = match need.request {
                Request::Metric(_) | Request::Sources(_) => Finding::Metric {
                    measurement: Measurement::Value(99.5),
                    at: now,
                },
                Request::Hook(_) => Finding::Hook(HookAnswer::Passed),
                Request::Probe(_) => Finding::Probe(Ok(())),
                Request::Pods(_) => Finding::Pods(Ok(Vec::new())),
            };
            findings.insert(need.key, finding);
        }
        let calm = decision.status.is_none() && decision.writes.is_empty();
        if let Some(status) = decision.status {
            canary["status"] = json!(status);
        }
        for write in &decision.writes {
            carry_out(write, &mut held);
        }
        for announcement in decision.announcements {
            assert!(
                announcement.message.len() <= 64 * 1024,
                "an event of a book's length"
            );
        }
        if calm && !asked && decision.wake.is_none() {
            return;
        }
        // Deadlines lie in the future; a day is the longest that is waited for here.
        let day = now
            .checked_add(SignedDuration::from_hours(24))
            .unwrap_or(now);
        now = decision
            .wake
            .map_or(now, |wake| wake.clamp(now, day.max(now)));
    }
}

fn read(snapshot: &mut Snapshot, want: &Want, held: &BTreeMap<ObjectRef, Value>) {
    match want {
        Want::Object(name) => {
            let reading = held.get(name).map_or(Reading::Absent, |value| {
                Reading::Present(Arc::new(Object::new(value.clone())))
            });
            snapshot.add_object(name.clone(), reading);
        }
        Want::List(list) => {
            let mut found: Vec<Arc<Object>> = held
                .iter()
                .filter(|(name, _)| name.kind == list.kind && name.namespace == list.namespace)
                .map(|(_, value)| Arc::new(Object::new(value.clone())))
                .collect();
            if list.kind == kinds::ENDPOINT_SLICE && found.is_empty() {
                found.push(Arc::new(Object::new(json!({"endpoints": [
                    {"addresses": ["10.0.0.1"], "conditions": {"ready": true}},
                ]}))));
            }
            snapshot.add_list(list.clone(), Listing::Known(found));
        }
    }
}

/// What an API server would make of a write, roughly; a workload is ready at once.
fn carry_out(write: &Write, held: &mut BTreeMap<ObjectRef, Value>) {
    let name = write.target();
    match write {
        Write::Together(writes) => {
            for write in writes {
                carry_out(write, held);
            }
        }
        Write::Apply { object, .. } => {
            let live = held.entry(name.clone()).or_insert_with(|| json!({}));
            merge(live, object.value());
        }
        Write::Patch {
            patch: Patch::Merge(change),
            ..
        } => {
            if let Some(live) = held.get_mut(&name) {
                merge(live, change);
            }
        }
        Write::Patch { .. } => {}
        Write::Delete { .. } => {
            held.remove(&name);
        }
    }
    if let Some(Value::Object(live)) = held.get_mut(&name)
        && name.kind == kinds::DEPLOYMENT
    {
        let replicas = live
            .get("spec")
            .and_then(|spec| spec.get("replicas"))
            .cloned()
            .unwrap_or_else(|| json!(1));
        live.insert(
            "status".to_owned(),
            json!({
                "observedGeneration": i64::MAX,
                "replicas": replicas, "updatedReplicas": replicas, "readyReplicas": replicas, "availableReplicas": replicas,
            }),
        );
    }
}

fn merge(live: &mut Value, change: &Value) {
    match (live, change) {
        (Value::Object(live), Value::Object(change)) => {
            for (key, value) in change {
                if value.is_null() {
                    live.remove(key);
                } else {
                    merge(live.entry(key.clone()).or_insert(Value::Null), value);
                }
            }
        }
        (live, change) => *live = change.clone(),
    }
}

/// A cluster in which a rollout can go on: the Canary first.
fn standing_cluster() -> Vec<Value> {
    let template = json!({
        "metadata": {"labels": {"app": "podinfo"}},
        "spec": {
            "containers": [{
                "name": "app", "image": "podinfo:2", "ports": [{"containerPort": 9898, "name": "http"}],
                "envFrom": [{"configMapRef": {"name": "podinfo"}}],
            }],
            "volumes": [{"name": "key", "secret": {"secretName": "podinfo"}}],
        },
    });
    vec![
        json!({
            "apiVersion": "flagger.app/v1beta1", "kind": "Canary",
            "metadata": {"name": "podinfo", "namespace": "test", "uid": "c", "generation": 1},
            "spec": {
                "targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "podinfo"},
                "autoscalerRef": {"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "name": "podinfo"},
                "service": {"port": 9898, "portDiscovery": true, "gatewayRefs": [{"name": "gateway", "namespace": "infra"}]},
                "analysis": {
                    "interval": "10s", "threshold": 2, "stepWeight": 20, "maxWeight": 40,
                    "sessionAffinity": {"cookieName": "side"},
                    "metrics": [{"name": "request-success-rate", "thresholdRange": {"min": 99}}],
                    "webhooks": [{"name": "gate", "type": "confirm-promotion", "url": "http://gate.test"}],
                },
            },
        }),
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "podinfo", "namespace": "test", "uid": "d", "resourceVersion": "7", "generation": 2, "labels": {"app": "podinfo"}},
            "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "podinfo"}}, "template": template},
            "status": {"observedGeneration": 2, "replicas": 2, "updatedReplicas": 2, "readyReplicas": 2, "availableReplicas": 2},
        }),
        json!({
            "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": "podinfo", "namespace": "test", "uid": "h", "resourceVersion": "8"},
            "spec": {"minReplicas": 2, "maxReplicas": 4, "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "podinfo"}},
        }),
        json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "podinfo", "namespace": "test", "uid": "m", "resourceVersion": "9"}, "data": {"a": "b"},
        }),
        json!({
            "apiVersion": "v1", "kind": "Secret",
            "metadata": {"name": "podinfo", "namespace": "test", "uid": "s", "resourceVersion": "10"}, "data": {"token": "dG9rZW4="},
        }),
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "podinfo", "namespace": "test", "uid": "v", "resourceVersion": "11"},
            "spec": {"selector": {"app": "podinfo"}, "ports": [{"name": "http", "port": 9898, "targetPort": 9898}]},
        }),
    ]
}

/// The inputs to begin with, from the manifests and fixtures of the repository at `root`.
#[must_use]
pub fn seeds(root: &Path, target: &str) -> Vec<Vec<u8>> {
    let texts = |texts: &[&str]| texts.iter().map(|text| text.as_bytes().to_vec()).collect();
    match target {
        "canary" => manifests(root)
            .iter()
            .map(|value| value.to_string().into_bytes())
            .collect(),
        "status" => STATUSES
            .iter()
            .filter_map(|text| mutate::from_yaml(text))
            .map(|value| value.to_string().into_bytes())
            .collect(),
        "template" => texts(&TEMPLATES),
        "hook_answer" => texts(&[
            "\u{1}\u{0}",
            "\u{4}\u{3}not yet",
            "\u{5}\u{1}{\"error\": \"no\"}",
            "ok",
        ]),
        "prometheus_answer" => texts(&ANSWERS),
        _ => {
            let standing = standing_cluster();
            let mut seeds: Vec<Value> = vec![Value::Array(standing.clone())];
            for text in &STATUSES {
                let mut with_status = standing.clone();
                with_status[0]["status"] = mutate::from_yaml(text).unwrap_or_default();
                seeds.push(Value::Array(with_status));
            }
            for (place, manifest) in manifests(root).into_iter().enumerate() {
                // Every fifth is enough: most of them differ in routers that are refused.
                if place % 5 == 0 {
                    let mut other = standing.clone();
                    other[0] = manifest;
                    seeds.push(Value::Array(other));
                }
            }
            seeds
                .iter()
                .map(|value| value.to_string().into_bytes())
                .collect()
        }
    }
}

fn manifests(root: &Path) -> Vec<Value> {
    let mut found = Vec::new();
    for folder in ["tests/fixtures/canaries", "examples"] {
        let mut files: Vec<_> = std::fs::read_dir(root.join(folder))
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| {
                path.extension()
                    .is_some_and(|extension| extension == "yaml")
            })
            .collect();
        files.sort();
        for file in files {
            let text = std::fs::read_to_string(file).unwrap_or_default();
            found.extend(text.split("\n---").filter_map(mutate::from_yaml));
        }
    }
    found
}

/// Statuses as Flagger and Serin leave them.
const STATUSES: [&str; 6] = [
    "{phase: Initialized, failedChecks: 0, canaryWeight: 0, iterations: 0, lastAppliedSpec: 5d8f6c7b9, lastPromotedSpec: 5d8f6c7b9,
      lastTransitionTime: '2026-01-01T00:00:00Z', trackedConfigs: {configmap/podinfo: 8fa3b2}, conditions: [{type: Promoted,
      status: 'True', reason: Initialized, message: done, lastUpdateTime: '2026-01-01T00:00:00Z', lastTransitionTime: '2026-01-01T00:00:00Z'}]}",
    "{phase: Progressing, failedChecks: 1, canaryWeight: 20, iterations: 0, lastAppliedSpec: 7c9f, lastPromotedSpec: 5d8f6c7b9}",
    "{phase: Promoting, failedChecks: 0, canaryWeight: 40, iterations: 3, lastAppliedSpec: 7c9f, sessionAffinityCookie: side=abc}",
    "{phase: Failed, canaryWeight: 0.0, failedChecks: 2.0, iterations: 0, lastAppliedSpec: '', previousSessionAffinityCookie: side=x}",
    "{phase: Progressing, canaryWeight: 20, failedChecks: 0, iterations: 0, observedGeneration: 1,
      run: {id: r, number: 2, revision: 's1:2', stage: Analysing, step: 1, weights: {primary: 80, canary: 20},
        startedAt: '2026-05-28T20:00:00Z', stepStartedAt: '2026-05-28T20:26:00.5Z', nextCheckAt: '2026-05-28T20:26:10Z', checks: 3,
        recentChecks: [true, false], noDataSince: '2026-05-28T20:26:00Z'},
      promoted: {revision: 's1:1', template: podinfo-1, promotedAt: '2026-05-27T00:00:00Z', replicas: 2},
      history: [{number: 1, revision: 's1:1', outcome: Promoted, cause: 'all good', startedAt: '2026-05-27T00:00:00Z', endedAt: '2026-05-27T00:01:00Z'}],
      metrics: [{name: request-success-rate, provider: prometheus, value: '99.5', limit: '>= 99', verdict: Passed, recent: ['99', '99.5']}]}",
    "{phase: Waiting, run: {id: r, number: 1, stage: Waiting, waitingFor: gate gate, waitingSince: '2026-05-28T20:00:00Z',
      deadlineAt: '2026-05-29T20:00:00Z'}, deletion: {startedAt: '2026-05-28T20:00:00Z', deadlineAt: '2026-05-28T20:05:00Z', stage: Draining}}",
];

const TEMPLATES: [&str; 10] = [
    "sum(rate(http_requests_total{namespace=\"{{ namespace }}\",pod=~\"{{ target }}-[0-9a-zA-Z]+(-[0-9a-zA-Z]+)\"}[{{ interval }}]))",
    "{{ variables.team }}{{ index variables \"team\" }}",
    "{{ if eq service \"podinfo\" }}a{{ else if ne route ingress }}b{{ else }}c{{ end }}",
    "{{ range $key, $value := variables }}{{ $key }}={{ $value }},{{ else }}none{{ end }}",
    "{{ with $x := name }}{{ printf \"%q %5.2f %v %x %08d\" $x 1.5 true \"é\" 3 }}{{ end }}",
    "{{- /* a comment */ -}} {{ `raw` | len }} {{ 'x' }} {{ 0x1F }} {{ 1e3 }} {{ 1_000 }}",
    "{{ define \"part\" }}{{ . }}{{ end }}{{ template \"part\" name }}{{ block \"other\" 1 }}x{{ end }}",
    "{{ and true (or false \"x\") | not }}{{ lt 1 2 }}{{ slice name 1 3 }}{{ html \"<a>\" }}{{ urlquery \"a b\" }}{{ js \"'\" }}",
    "{{ range $i, $c := slice name 0 2 }}{{ break }}{{ continue }}{{ end }}",
    "{{ (index variables \"team\") }} {{ print 1 2 \"x\" nil }} {{ println }} {{ call name }}",
];

const ANSWERS: [&str; 8] = [
    "{\"status\":\"success\",\"data\":{\"resultType\":\"vector\",\"result\":[{\"metric\":{\"found\":\"name\"},\"value\":[1435781451.781,\"99.5\"]}]}}",
    "{\"status\":\"success\",\"data\":{\"resultType\":\"vector\",\"result\":[]}}",
    "{\"status\":\"success\",\"data\":{\"resultType\":\"scalar\",\"result\":[1,\"NaN\"]}}",
    "{\"status\":\"success\",\"data\":{\"resultType\":\"matrix\",\"result\":[{\"metric\":{},\"values\":[[1,\"+Inf\"]]}]}}",
    "{\"status\":\"success\",\"data\":{\"resultType\":\"vector\",\"result\":[{\"metric\":{},\"histogram\":[1,{}]}]}}",
    "\u{4}\u{16}{\"status\":\"error\",\"errorType\":\"bad_data\",\"error\":\"parse error\"}",
    "\u{5}\u{3}<html>no</html>",
    "{\"status\":\"success\",\"data\":null}",
];
