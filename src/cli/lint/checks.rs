//! What `serin lint` looks for. What is wrong with one object by itself is asked of the code that the controller asks too
//! ([`crate::controller::review`]); what only shows between objects is asked here.

use super::source::{Content, Node, Position};
use crate::api::alert_provider::ADDRESS_KEY;
use crate::api::validation::ProblemSeverity;
use crate::api::{
    API_VERSION, AlertProvider, Canary, DecodeError, MetricTemplate, TargetKind, crd,
};
use crate::controller::review::{self, Remark, ReviewSettings};
use crate::object::{Object, ObjectRef, Reading};
use crate::routing::{self, RouteError, Split};
use crate::workload::{self, Sides, WorkloadSettings};
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Error,
    Warning,
    Note,
}

/// One thing that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub file: String,
    pub line: u64,
    pub column: u64,
    pub severity: Severity,
    /// Which check: yaml, schema, spec, router, metric, template, reference.
    pub rule: &'static str,
    /// `Canary shop/podinfo`; empty where no object could be read.
    pub object: String,
    /// Path of the field; empty for the object as a whole.
    pub field: String,
    pub message: String,
}

/// An object of a file.
pub struct Manifest {
    pub file: String,
    /// The file's text, for places within a value.
    pub text: Arc<str>,
    pub node: Node,
    object: Object,
}

impl Manifest {
    pub fn new(file: String, text: Arc<str>, node: Node, namespace: &str) -> Self {
        let mut object = Object::new(node.value());
        if object.namespace().is_empty() && object.at("/metadata").is_object() {
            object.value_mut()["metadata"]["namespace"] = json!(namespace);
        }
        Self {
            file,
            text,
            node,
            object,
        }
    }

    /// Whether it is of this kind; `Gateway.gateway.networking.k8s.io` is one of this group alone, `Service.` one of the core group.
    fn is(&self, kind: &str) -> bool {
        let group = self.object.api_version().split_once('/');
        let group = group.map_or("", |(group, _)| group);
        match kind.split_once('.') {
            Some((kind, wanted)) => self.object.kind() == kind && group == wanted,
            None => self.object.kind() == kind,
        }
    }

    fn name(&self) -> String {
        format!(
            "{} {}/{}",
            self.object.kind(),
            self.object.namespace(),
            self.object.name()
        )
    }

    fn finding(
        &self,
        severity: Severity,
        rule: &'static str,
        field: &str,
        message: impl Into<String>,
    ) -> Finding {
        let at = self.node.locate(field);
        self.finding_at(at, severity, rule, field, message)
    }

    fn finding_at(
        &self,
        at: Position,
        severity: Severity,
        rule: &'static str,
        field: &str,
        message: impl Into<String>,
    ) -> Finding {
        Finding {
            file: self.file.clone(),
            line: at.line,
            column: at.column,
            severity,
            rule,
            object: self.name(),
            field: field.to_owned(),
            message: message.into(),
        }
    }
}

/// Everything that is found, in the order of the files.
pub fn check(manifests: &[Manifest], setting: &ReviewSettings) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut canaries = Vec::new();
    for manifest in manifests {
        if !manifest.object.api_version().starts_with("flagger.app/") {
            continue;
        }
        match manifest.object.kind() {
            "Canary" => {
                if let Some(canary) = decoded(manifest, &crd::canary(), Canary::decode, &mut found) {
                    one_canary(manifest, &canary, manifests, setting, &mut found);
                    canaries.push((manifest, canary));
                }
            }
            "MetricTemplate" => {
                let definition = crd::metric_template();
                if let Some(template) = decoded(manifest, &definition, MetricTemplate::decode, &mut found) {
                    remarks(manifest, review::of_template(&template), &mut found);
                }
            }
            "AlertProvider" => {
                let definition = crd::alert_provider();
                if let Some(provider) = decoded(manifest, &definition, AlertProvider::decode, &mut found) {
                    one_provider(manifest, &provider, manifests, &mut found);
                }
            }
            other => found.push(manifest.finding(
                Severity::Error,
                "schema",
                "kind",
                format!("{other} is no kind of flagger.app; expected Canary, MetricTemplate or AlertProvider"),
            )),
        }
    }
    rivals(&canaries, &mut found);
    found.sort_by(|one, other| {
        (&one.file, one.line, one.column, one.severity).cmp(&(
            &other.file,
            other.line,
            other.column,
            other.severity,
        ))
    });
    found.dedup();
    found
}

// ---- schema

/// The decoded object where its schema holds; otherwise what is wrong with it.
fn decoded<T>(
    manifest: &Manifest,
    definition: &Value,
    decode: impl Fn(&Value) -> Result<T, DecodeError>,
    found: &mut Vec<Finding>,
) -> Option<T> {
    if manifest.object.api_version() != API_VERSION {
        let message = format!(
            "expected {API_VERSION}, found {}",
            manifest.object.api_version()
        );
        found.push(manifest.finding(Severity::Error, "schema", "apiVersion", message));
        return None;
    }
    let before = found.len();
    let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    for part in ["spec", "metadata"] {
        match manifest.node.get(part) {
            None => found.push(manifest.finding(
                Severity::Error,
                "schema",
                part,
                "is required and missing",
            )),
            Some(node) if part == "spec" => {
                walk(manifest, node, &schema["properties"]["spec"], "spec", found);
            }
            Some(_) => {}
        }
    }
    match decode(manifest.object.value()) {
        Ok(object) => Some(object),
        Err(error) => {
            // What the schema said already is not said twice.
            if found.len() == before {
                found.push(manifest.finding(Severity::Error, "schema", &error.path, error.message));
            }
            None
        }
    }
}

/// Unknown fields, wrong types, values that are none of the allowed ones.
fn walk(manifest: &Manifest, node: &Node, schema: &Value, path: &str, found: &mut Vec<Finding>) {
    let wanted = schema["type"].as_str().unwrap_or_default();
    let either = schema["x-kubernetes-int-or-string"] == true;
    match &node.content {
        Content::Map(entries) => {
            if !wanted.is_empty() && wanted != "object" {
                return mistyped(manifest, node, wanted, path, found);
            }
            let open = schema["x-kubernetes-preserve-unknown-fields"] == true;
            for (key, at, value) in entries {
                let below = format!("{path}.{key}");
                let known = &schema["properties"][key];
                let any = &schema["additionalProperties"];
                if known.is_object() {
                    walk(manifest, value, known, &below, found);
                } else if any.is_object() {
                    walk(manifest, value, any, &below, found);
                } else if !open && any != true && schema["properties"].is_object() {
                    let names = schema["properties"]
                        .as_object()
                        .into_iter()
                        .flatten()
                        .map(|(name, _)| name.as_str());
                    let hint = nearest(key, names)
                        .map_or_else(String::new, |name| format!("; did you mean {name}?"));
                    let message = format!("is no field of {path}, the API server drops it{hint}");
                    found.push(manifest.finding_at(
                        *at,
                        Severity::Error,
                        "schema",
                        &below,
                        message,
                    ));
                }
            }
            for required in schema["required"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
            {
                if node.get(required).is_none() {
                    let below = format!("{path}.{required}");
                    found.push(manifest.finding(
                        Severity::Error,
                        "schema",
                        &below,
                        "is required and missing",
                    ));
                }
            }
        }
        Content::List(items) => {
            if !wanted.is_empty() && wanted != "array" {
                return mistyped(manifest, node, wanted, path, found);
            }
            for (index, item) in items.iter().enumerate() {
                walk(
                    manifest,
                    item,
                    &schema["items"],
                    &format!("{path}[{index}]"),
                    found,
                );
            }
        }
        Content::Scalar(Value::Null) => {}
        Content::Scalar(value) => {
            let fits = match wanted {
                "string" => value.is_string(),
                "number" | "integer" => value.is_number(),
                "boolean" => value.is_boolean(),
                "" => true,
                _ => false,
            };
            if !fits && !(either && (value.is_string() || value.is_number())) {
                return mistyped(manifest, node, wanted, path, found);
            }
            allowed(manifest, value, schema, path, found);
        }
    }
}

/// A value that is none of those that the schema lists.
fn allowed(
    manifest: &Manifest,
    value: &Value,
    schema: &Value,
    path: &str,
    found: &mut Vec<Finding>,
) {
    if let Some(allowed) = schema["enum"].as_array()
        && !allowed.contains(value)
    {
        let names: Vec<&str> = allowed
            .iter()
            .filter_map(Value::as_str)
            .filter(|name| !name.is_empty())
            .collect();
        let hint = value
            .as_str()
            .and_then(|value| nearest(value, names.iter().copied()))
            .map_or_else(
                || format!("; expected one of {}", names.join(", ")),
                |name| format!("; did you mean {name}?"),
            );
        found.push(manifest.finding(
            Severity::Error,
            "schema",
            path,
            format!("{value} is not known here{hint}"),
        ));
    }
}

fn mistyped(manifest: &Manifest, node: &Node, wanted: &str, path: &str, found: &mut Vec<Finding>) {
    let expected = match wanted {
        "string" => "a text; put it in quotes",
        "number" | "integer" => "a number",
        "boolean" => "true or false",
        "array" => "a list",
        _ => "an object",
    };
    let shown: String = node.value().to_string().chars().take(60).collect();
    let message = format!("expected {expected}, found {shown}");
    found.push(manifest.finding_at(node.at, Severity::Error, "schema", path, message));
}

/// The name that a slip of the finger is nearest to, if it is near.
fn nearest<'a>(written: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    names
        .map(|name| {
            (
                distance(&written.to_lowercase(), &name.to_lowercase()),
                name,
            )
        })
        .min()
        .filter(|(distance, name)| *distance <= 2.max(name.len() / 4))
        .map(|(_, name)| name)
}

/// Levenshtein's.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.chars().enumerate() {
        let mut corner = row[0];
        row[0] = i + 1;
        for (j, b) in other.iter().enumerate() {
            let substituted = corner + usize::from(a != *b);
            corner = row[j + 1];
            row[j + 1] = substituted.min(corner + 1).min(row[j] + 1);
        }
    }
    row[other.len()]
}

// ---- one object

fn one_canary(
    manifest: &Manifest,
    canary: &Canary,
    manifests: &[Manifest],
    setting: &ReviewSettings,
    found: &mut Vec<Finding>,
) {
    let lookup = |name: &ObjectRef| match read(manifests, name) {
        // What is not in the files may be in the cluster.
        Reading::Absent => Reading::Unknown("not in these files".to_owned()),
        present => present,
    };
    remarks(manifest, review::of_canary(canary, setting, &lookup), found);
    own_routes(manifest, canary, setting, manifests, found);
    let analysis = &canary.spec.analysis;
    for (index, metric) in analysis.metrics.iter().enumerate() {
        if let Some(reference) = &metric.template_ref {
            let namespace = reference.namespace_or(&canary.metadata.namespace);
            let field = format!("spec.analysis.metrics[{index}].templateRef");
            referred(
                manifest,
                manifests,
                "MetricTemplate",
                namespace,
                &reference.name,
                &field,
                found,
            );
        }
    }
    target(manifest, canary, manifests, found);
    for (index, alert) in analysis.alerts.iter().enumerate() {
        let namespace = alert.provider_ref.namespace_or(&canary.metadata.namespace);
        let field = format!("spec.analysis.alerts[{index}].providerRef");
        referred(
            manifest,
            manifests,
            "AlertProvider",
            namespace,
            &alert.provider_ref.name,
            &field,
            found,
        );
    }
}

fn one_provider(
    manifest: &Manifest,
    provider: &AlertProvider,
    manifests: &[Manifest],
    found: &mut Vec<Finding>,
) {
    remarks(manifest, review::of_provider(provider), found);
    let spec = &provider.spec;
    let Some(secret) = spec
        .secret_ref
        .as_ref()
        .filter(|_| spec.address().is_none())
    else {
        return;
    };
    let home = manifest.object.namespace();
    // Secrets are seldom in the same files, so one that is not says nothing.
    let theirs = manifests.iter().find(|one| {
        one.is("Secret") && one.object.name() == secret.name && one.object.namespace() == home
    });
    let lacks = theirs.is_some_and(|one| {
        ["data", "stringData"].iter().all(|part| {
            one.object
                .text(&format!("/{part}/{ADDRESS_KEY}"))
                .is_empty()
        })
    });
    if lacks {
        let message = format!(
            "Secret {home}/{} lacks the key {ADDRESS_KEY}, which says where messages go",
            secret.name
        );
        found.push(manifest.finding(Severity::Error, "reference", "spec.secretRef.name", message));
    }
}

/// An object of these files; absent where there is none.
fn read(manifests: &[Manifest], name: &ObjectRef) -> Reading {
    manifests
        .iter()
        .find(|one| {
            name.kind
                .matches(one.object.api_version(), one.object.kind())
                && one.object.name() == name.name
                && one.object.namespace() == name.namespace
        })
        .map_or(Reading::Absent, |one| {
            Reading::Present(Arc::new(one.object.clone()))
        })
}

/// Routes of the user that stand in the same files: whether they name both sides, and give the canary nothing while nothing runs.
fn own_routes(
    manifest: &Manifest,
    canary: &Canary,
    setting: &ReviewSettings,
    manifests: &[Manifest],
    found: &mut Vec<Finding>,
) {
    if canary.spec.route_ref.is_none() && canary.spec.route_refs.is_empty() {
        return;
    }
    let provider = canary.spec.provider_or(&setting.mesh_provider);
    let Some(router) = routing::router_of(canary, provider) else {
        return;
    };
    let lookup = |name: &ObjectRef| read(manifests, name);
    let field = if canary.spec.route_ref.is_some() {
        "spec.routeRef"
    } else {
        "spec.routeRefs"
    };
    let unfit = router.unfit(canary, &lookup);
    let missing = |error: &&RouteError| matches!(error, RouteError::Missing(_));
    let absent = unfit.iter().filter(missing).count();
    // A route that is not in these files may be anywhere.
    for error in unfit.iter().filter(|error| !missing(error)) {
        found.push(manifest.finding(Severity::Error, "router", field, error.to_string()));
    }
    let settings = routing::RoutingSettings::default();
    let at_rest = router.observed(canary, &settings, &lookup).ok();
    if absent == unfit.len()
        && absent < router.objects(canary).len()
        && at_rest.is_some_and(|at_rest| at_rest.split != Some(Split::PRIMARY))
    {
        let message = format!(
            "the route gives {} a share while nothing is released, when it has no pods; write its weight as 0 and the other side's as 100 (a weight that is left out is no 0)",
            canary.canary_service_name()
        );
        found.push(manifest.finding(Severity::Warning, "router", field, message));
    }
}

/// What the controller's own review says, each at its place.
fn remarks(manifest: &Manifest, remarks: Vec<Remark>, found: &mut Vec<Finding>) {
    for remark in remarks {
        let severity = match remark.severity {
            ProblemSeverity::Error => Severity::Error,
            ProblemSeverity::Warning => Severity::Warning,
        };
        let at = match remark.place {
            None => manifest.node.locate(&remark.field),
            Some((line, column)) => within(manifest, &remark.field, line, column),
        };
        found.push(manifest.finding_at(at, severity, remark.rule, &remark.field, remark.message));
    }
}

/// A place within a text: in a block of its own lines the very place, else where the text begins.
fn within(manifest: &Manifest, field: &str, line: usize, column: usize) -> Position {
    let start = manifest.node.locate(field);
    let lines: Vec<&str> = manifest.text.lines().collect();
    let opening = usize::try_from(start.line).unwrap_or(1);
    // The block begins on the line after its sign, or where the parser says if it points there.
    let is_block = |number: usize| {
        lines.get(number.wrapping_sub(1)).is_some_and(|line| {
            let line = line.trim_end();
            line.ends_with(['|', '>'])
                || line.ends_with("|-")
                || line.ends_with(">-")
                || line.ends_with("|+")
        })
    };
    let first = if is_block(opening) {
        opening + 1
    } else if is_block(opening.wrapping_sub(1)) {
        opening
    } else {
        return start;
    };
    let Some(text) = lines.get(first - 1) else {
        return start;
    };
    let indent = text.len() - text.trim_start().len();
    Position {
        line: u64::try_from(first + line - 1).unwrap_or(start.line),
        column: u64::try_from(indent + column).unwrap_or(start.column),
    }
}

// ---- between objects

/// Whether an object that is referred to is in the files; worth a word only if the files hold some of its kind.
fn referred(
    manifest: &Manifest,
    manifests: &[Manifest],
    kind: &str,
    namespace: &str,
    name: &str,
    field: &str,
    found: &mut Vec<Finding>,
) {
    let mut of_kind = manifests.iter().filter(|one| one.is(kind)).peekable();
    if of_kind.peek().is_none() {
        return;
    }
    let names: Vec<&str> = of_kind.clone().map(|one| one.object.name()).collect();
    if of_kind.any(|one| one.object.name() == name && one.object.namespace() == namespace) {
        return;
    }
    let hint = nearest(name, names.iter().copied())
        .map_or_else(String::new, |name| format!("; did you mean {name}?"));
    let kind = kind.split('.').next().unwrap_or_default();
    let message = format!("{kind} {namespace}/{name} is not in these files{hint}");
    found.push(manifest.finding(Severity::Warning, "reference", field, message));
}

fn target(manifest: &Manifest, canary: &Canary, manifests: &[Manifest], found: &mut Vec<Finding>) {
    let home = &canary.metadata.namespace;
    let reference = &canary.spec.target_ref;
    let here = |kind: &str, name: &str| {
        manifests
            .iter()
            .find(|one| one.is(kind) && one.object.name() == name && one.object.namespace() == home)
    };
    let kind = match reference.target_kind() {
        TargetKind::Deployment => "Deployment",
        TargetKind::DaemonSet => "DaemonSet",
        TargetKind::Service => "Service.",
        TargetKind::Knative => "Service.serving.knative.dev",
    };
    let sides = workload::target_of(canary).sides();
    referred(
        manifest,
        manifests,
        kind,
        home,
        &reference.name,
        "spec.targetRef.name",
        found,
    );
    if let Some(theirs) = here(kind, &canary.primary_name()).filter(|_| sides != Sides::Revisions) {
        let message = format!(
            "is the name of the primary that Serin makes for canary {}; rename this or the target",
            canary.metadata.name
        );
        found.push(theirs.finding(Severity::Error, "reference", "metadata.name", message));
    }
    if let Some(autoscaler) = &canary.spec.autoscaler_ref {
        referred(
            manifest,
            manifests,
            &autoscaler.kind,
            home,
            &autoscaler.name,
            "spec.autoscalerRef.name",
            found,
        );
        if let Some(theirs) = here(&autoscaler.kind, &autoscaler.name) {
            let scaled = theirs.object.text("/spec/scaleTargetRef/name");
            if !scaled.is_empty() && scaled != reference.name {
                let message = format!(
                    "{scaled}: the canary {} takes this for the autoscaler of {}",
                    canary.metadata.name, reference.name
                );
                found.push(theirs.finding(
                    Severity::Error,
                    "reference",
                    "spec.scaleTargetRef.name",
                    message,
                ));
            }
        }
    }
    if let Some(service) = &canary.spec.service {
        for (index, gateway) in service.gateway_refs.iter().enumerate() {
            let namespace = gateway.namespace.as_deref().unwrap_or(home);
            let field = format!("spec.service.gatewayRefs[{index}]");
            referred(
                manifest,
                manifests,
                // Istio has Gateways too.
                "Gateway.gateway.networking.k8s.io",
                namespace,
                &gateway.name,
                &field,
                found,
            );
        }
    }
    if let Some(theirs) = here("Service.", canary.apex_name()).filter(|_| sides == Sides::Pods) {
        let message = format!(
            "Serin takes this Service over for canary {}: it will select the primary's pods",
            canary.metadata.name
        );
        found.push(theirs.finding(Severity::Note, "reference", "metadata.name", message));
    }
    let Some(theirs) = here(kind, &reference.name) else {
        return;
    };
    // What is told apart by other things than labels, or has no containers, has nothing more to be looked at.
    if sides != Sides::Pods {
        return;
    }
    let target_kind = workload::target_of(canary);
    if let Err(error) = target_kind.selector(&theirs.object, &WorkloadSettings::default()) {
        found.push(theirs.finding(
            Severity::Error,
            "reference",
            "spec.selector",
            error.to_string(),
        ));
    }
    named_port(manifest, canary, theirs, found);
}

/// A target port by name must be a port of some container.
fn named_port(manifest: &Manifest, canary: &Canary, target: &Manifest, found: &mut Vec<Finding>) {
    let wanted = manifest.object.text("/spec/service/targetPort");
    if wanted.is_empty() || wanted.parse::<u16>().is_ok() {
        return;
    }
    let names: Vec<&str> = target
        .object
        .at("/spec/template/spec/containers")
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|container| container["ports"].as_array())
        .flatten()
        .filter_map(|port| port["name"].as_str())
        .collect();
    if !names.contains(&wanted) {
        let message = format!(
            "no container of {} has a port named {wanted}; its ports have the names {}",
            canary.target_name(),
            if names.is_empty() {
                "(none)".to_owned()
            } else {
                names.join(", ")
            }
        );
        found.push(manifest.finding(
            Severity::Error,
            "reference",
            "spec.service.targetPort",
            message,
        ));
    }
}

/// Two canaries that claim the same target or the same apex.
fn rivals(canaries: &[(&Manifest, Canary)], found: &mut Vec<Finding>) {
    let mut targets: BTreeMap<String, String> = BTreeMap::new();
    let mut apexes: BTreeMap<String, String> = BTreeMap::new();
    for (manifest, canary) in canaries {
        let home = &canary.metadata.namespace;
        let reference = &canary.spec.target_ref;
        let name = canary.metadata.namespaced_name();
        let claims = [
            (
                &mut targets,
                format!("{home}/{}/{}", reference.kind, reference.name),
                "spec.targetRef",
                "target",
            ),
            (
                &mut apexes,
                format!("{home}/{}", canary.apex_name()),
                "spec.service",
                "apex Service",
            ),
        ];
        for (known, claim, field, what) in claims {
            match known.get(&claim) {
                Some(other) => found.push(manifest.finding(
                    Severity::Error,
                    "reference",
                    field,
                    format!("the {what} {claim} is claimed by canary {other} too; the younger of the two is refused"),
                )),
                None => {
                    known.insert(claim, name.clone());
                }
            }
        }
    }
}
