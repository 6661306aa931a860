//! What this room promises, as tables over real objects.

mod autoscaler;
mod configs;
mod daemon_set;
mod deployment;
mod pods;
mod revision;
mod service_target;
mod services;

use crate::api::Canary;
use crate::object::{Object, Patch, Reading, Write};
use crate::workload::{
    PrimaryRequest, SelectorLabel, Target, WorkloadError, WorkloadSettings, target_kind,
};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

fn value(yaml: &str) -> Value {
    serde_saphyr::from_str(yaml).unwrap()
}

fn object(yaml: &str) -> Object {
    Object::new(value(yaml))
}

fn present(object: &Object) -> Reading {
    Reading::Present(Arc::new(object.clone()))
}

/// A canary of the Deployment `podinfo` with this indented `spec.service`.
fn canary_with(service: &str) -> Canary {
    canary_of("Deployment", service)
}

fn canary_of(kind: &str, service: &str) -> Canary {
    let text = format!(
        "
apiVersion: flagger.app/v1beta1
kind: Canary
metadata: {{name: podinfo, namespace: shop, uid: canary-uid}}
spec:
  targetRef: {{apiVersion: apps/v1, kind: {kind}, name: podinfo}}
  service: {service}
  analysis: {{interval: 1m, threshold: 3, stepWeight: 10}}
"
    );
    Canary::decode(&value(&text)).unwrap()
}

fn canary() -> Canary {
    canary_with("{port: 80}")
}

fn app_podinfo() -> SelectorLabel {
    SelectorLabel {
        key: "app".into(),
        value: "podinfo".into(),
    }
}

/// A live Deployment with the metadata that tools like Flux leave behind.
fn deployment() -> Object {
    object(
        "
apiVersion: apps/v1
kind: Deployment
metadata:
  name: podinfo
  namespace: shop
  uid: target-uid
  resourceVersion: '100'
  generation: 4
  labels: {app: podinfo, team: checkout, app.kubernetes.io/part-of: shop, kustomize.toolkit.fluxcd.io/name: apps}
  annotations: {team.example/pager: '1', deployment.kubernetes.io/revision: '7', kustomize.toolkit.fluxcd.io/checksum: abc}
spec:
  replicas: 2
  paused: false
  minReadySeconds: 5
  revisionHistoryLimit: 5
  progressDeadlineSeconds: 60
  strategy: {type: RollingUpdate, rollingUpdate: {maxUnavailable: 0, maxSurge: 1}}
  selector: {matchLabels: {app: podinfo}}
  template:
    metadata:
      creationTimestamp: null
      labels: {app: podinfo, tier: web, kustomize.toolkit.fluxcd.io/name: apps}
      annotations: {prometheus.io/scrape: 'true', kustomize.toolkit.fluxcd.io/reconcile: disabled}
    spec:
      affinity:
        podAntiAffinity:
          preferredDuringSchedulingIgnoredDuringExecution:
            - weight: 100
              podAffinityTerm:
                topologyKey: kubernetes.io/hostname
                labelSelector: {matchLabels: {app: podinfo, tier: web}}
          requiredDuringSchedulingIgnoredDuringExecution:
            - topologyKey: kubernetes.io/hostname
              labelSelector: {matchExpressions: [{key: app, operator: In, values: [podinfo, cache]}]}
      topologySpreadConstraints:
        - {maxSkew: 1, topologyKey: zone, whenUnsatisfiable: ScheduleAnyway, labelSelector: {matchLabels: {app: podinfo}}}
      containers:
        - name: podinfod
          image: podinfo:6.0.0
          ports: [{name: http, containerPort: 9898, protocol: TCP}, {name: http-metrics, containerPort: 9797}, {containerPort: 8888}]
          env:
            - {name: COLOR, value: blue}
            - {name: USER, valueFrom: {secretKeyRef: {name: login, key: user}}}
            - {name: LEVEL, valueFrom: {configMapKeyRef: {name: settings, key: level}}}
          envFrom: [{configMapRef: {name: settings}}, {secretRef: {name: login}}]
        - name: istio-proxy
          image: proxy
          ports: [{name: http-envoy, containerPort: 15090}]
      initContainers:
        - name: migrate
          image: podinfo:6.0.0
          envFrom: [{secretRef: {name: login, optional: true}}]
      volumes:
        - {name: settings, configMap: {name: settings}}
        - {name: login, secret: {secretName: login}}
        - name: all
          projected: {sources: [{configMap: {name: settings}}, {secret: {name: login}}]}
        - {name: other, configMap: {name: untracked}}
        - {name: scratch, emptyDir: {}}
",
    )
}

fn renames(names: &[(&str, &str)]) -> BTreeMap<(String, String), String> {
    names
        .iter()
        .map(|(kind, name)| {
            (
                ((*kind).to_owned(), (*name).to_owned()),
                format!("{name}-primary"),
            )
        })
        .collect()
}

/// The primary for `target` with its own template.
fn primary_of(
    canary: &Canary,
    target: &Object,
    settings: &WorkloadSettings,
    configs: &BTreeMap<(String, String), String>,
    replicas: Option<i64>,
) -> Result<Object, WorkloadError> {
    let kind = kind_of(target);
    let selector = kind.selector(target, settings)?;
    let template = kind.template(target);
    kind.desired_primary(&PrimaryRequest {
        canary,
        target,
        template: &template,
        replicas,
        renamed_configs: configs,
        flagger_id: "id-1",
        selector: &selector,
        settings,
    })
}

fn kind_of(object: &Object) -> &'static dyn Target {
    target_kind(object.kind()).unwrap()
}

/// What the API server would store for a write, near enough: merges maps, takes lists as they are, counts the version up.
fn carried_out(write: &Write, live: &Reading) -> Object {
    let mut stored = live.object().map_or_else(
        || Value::Object(serde_json::Map::new()),
        |live| live.value().clone(),
    );
    match write {
        Write::Apply { object, .. } => merge(&mut stored, object.value()),
        Write::Patch {
            patch: Patch::Merge(patch),
            ..
        } => merge(&mut stored, patch),
        other => panic!("not expected here: {other:?}"),
    }
    stored["metadata"]["resourceVersion"] = Value::String("next".into());
    Object::new(stored)
}

fn merge(stored: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *stored = patch.clone();
        return;
    };
    if !stored.is_object() {
        *stored = Value::Object(serde_json::Map::new());
    }
    for (key, value) in patch {
        if value.is_null() {
            stored.as_object_mut().unwrap().remove(key);
        } else {
            merge(&mut stored[key.as_str()], value);
        }
    }
}

fn merge_patch(write: Option<Write>) -> Value {
    match write {
        Some(Write::Patch {
            patch: Patch::Merge(patch),
            ..
        }) => patch,
        other => panic!("expected a merge patch, found {other:?}"),
    }
}
