//! What one request does to the store: reading, listing, creating, replacing, patching, deleting, and the parts of objects that are resources
//! of their own.

use super::Target;
use super::answer::Failure;
use super::kinds::NAMESPACE;
use super::select::Selector;
use super::table::{self, Form};
use crate::api::Canary;
use crate::demo::cluster::Cluster;
use crate::object::{Expect, Kind, Object, ObjectRef, kinds};
use crate::sim::merge;
use crate::sim::store::{Hand, Refusal, Store};
use axum::body::Bytes;
use axum::http::{Method, StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};
use std::collections::HashMap;

/// Fields of `metadata` that belong to the server.
const SERVERS_OWN: [&str; 8] = [
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "managedFields",
    "name",
    "namespace",
];

/// A request beside its path.
pub struct Asked {
    pub method: Method,
    pub query: HashMap<String, String>,
    pub accept: Form,
    pub content_type: String,
    pub agent: String,
    pub body: Bytes,
}

impl Asked {
    /// The body as JSON; a server-side apply may be YAML.
    fn json(&self) -> Result<Value, Failure> {
        let kind = self.content_type.split(';').next().unwrap_or_default();
        match kind {
            "application/vnd.kubernetes.protobuf" | "application/apply-patch+cbor" => {
                Err(Failure::unsupported_media(kind))
            }
            "application/apply-patch+yaml" | "application/yaml" => {
                let text = std::str::from_utf8(&self.body)
                    .map_err(|error| Failure::bad_request(format!("the body: {error}")))?;
                serde_saphyr::from_str(text)
                    .map_err(|error| Failure::bad_request(format!("the body: {error}")))
            }
            _ => serde_json::from_slice(&self.body)
                .map_err(|error| Failure::bad_request(format!("the body is not JSON: {error}"))),
        }
    }

    fn dry_run(&self) -> bool {
        self.query.contains_key("dryRun")
    }

    fn hand(&self, cluster: &Cluster) -> Hand {
        let named = self.query.get("fieldManager").map(String::as_str);
        let agent = self.agent.split('/').next().filter(|name| !name.is_empty());
        cluster.hand(
            named
                .filter(|name| !name.is_empty())
                .or(agent)
                .unwrap_or("unknown"),
        )
    }
}

/// The selectors of a list or a watch.
pub fn selector(request: &Asked) -> Result<Selector, Failure> {
    let of = |key: &str| request.query.get(key).map_or("", String::as_str);
    Selector::parse(of("labelSelector"), of("fieldSelector")).map_err(Failure::bad_request)
}

/// An object in the version in which it is asked for.
pub fn presented(kind: &Kind, object: &Object) -> Value {
    let mut value = object.value().clone();
    value["apiVersion"] = json!(kind.api_version());
    value["kind"] = json!(kind.kind);
    // The store knows what each hand owns in a form of its own; clients insist on there being something here.
    for entry in value["metadata"]["managedFields"]
        .as_array_mut()
        .into_iter()
        .flatten()
    {
        entry["apiVersion"] = json!(kind.api_version());
        entry["fieldsType"] = json!("FieldsV1");
        entry["fieldsV1"] = json!({});
    }
    value
}

/// The objects that are meant, and the version as of which they are.
pub fn listed(cluster: &Cluster, target: &Target, selector: &Selector) -> (Vec<Value>, u64) {
    cluster.with(|store| {
        let objects = store
            .of_kind(&target.resource.stored)
            .filter(|(name, ..)| target.namespace.is_empty() || name.namespace == target.namespace)
            .filter(|(_, _, object)| selector.matches(object.value()))
            .map(|(_, _, object)| presented(&target.resource.kind, object))
            .collect();
        (objects, store.revision())
    })
}

/// Answers about who asks and what they may do: there is one user, who may do everything.
pub fn review(group: &str, rest: &[&str], request: &Asked) -> Result<Option<Value>, Failure> {
    let status = match (group, rest) {
        ("authentication.k8s.io", ["selfsubjectreviews"]) => {
            json!({"userInfo": {"username": "demo", "groups": ["system:authenticated"]}})
        }
        ("authorization.k8s.io", ["selfsubjectaccessreviews"]) => json!({"allowed": true}),
        _ => return Ok(None),
    };
    if request.method != Method::POST {
        return Err(Failure::not_allowed("a review can only be created"));
    }
    let mut review = request.json()?;
    review["status"] = status;
    Ok(Some(review))
}

/// Carries out everything but a watch.
pub fn carry_out(
    cluster: &Cluster,
    target: &Target,
    request: &Asked,
) -> Result<(StatusCode, Value), Failure> {
    let kind = &target.resource.kind;
    let object = if target.name.is_empty() {
        match request.method {
            Method::GET => return list(cluster, target, request),
            Method::POST => return create(cluster, target, request),
            Method::DELETE => return delete_all(cluster, target, request),
            _ => {
                return Err(Failure::not_allowed(format!(
                    "{} is not possible on a collection",
                    request.method
                )));
            }
        }
    } else {
        match request.method {
            Method::GET => read(cluster, target)?,
            Method::PUT | Method::PATCH => {
                let (status, object) = change(cluster, target, request)?;
                if target.part == "scale" {
                    return Ok((status, scale_of(&object)));
                }
                return Ok((status, presented(kind, &object)));
            }
            Method::DELETE if target.part.is_empty() => {
                return delete(cluster, target, request, &target.name)
                    .map(|value| (StatusCode::OK, value));
            }
            _ => {
                return Err(Failure::not_allowed(format!(
                    "{} is not possible on an object",
                    request.method
                )));
            }
        }
    };
    if target.part == "scale" {
        return Ok((StatusCode::OK, scale_of(&object)));
    }
    let value = presented(kind, &object);
    let value = match request.accept {
        Form::Whole => value,
        Form::Metadata => table::metadata_of(&value),
        Form::Table => {
            let version = json!({"resourceVersion": value["metadata"]["resourceVersion"]});
            table::table(kind, &[value], &version)
        }
    };
    Ok((StatusCode::OK, value))
}

fn reference(target: &Target, name: &str) -> ObjectRef {
    target.resource.stored.named(&target.namespace, name)
}

fn read(cluster: &Cluster, target: &Target) -> Result<Object, Failure> {
    let name = reference(target, &target.name);
    cluster
        .with(|store| store.get(&name).map(|object| Object::clone(object)))
        .ok_or_else(|| Failure::not_found(target, &target.name))
}

fn list(
    cluster: &Cluster,
    target: &Target,
    request: &Asked,
) -> Result<(StatusCode, Value), Failure> {
    let (objects, revision) = listed(cluster, target, &selector(request)?);
    let kind = &target.resource.kind;
    let metadata = json!({"resourceVersion": revision.to_string()});
    let value = match request.accept {
        Form::Whole => {
            json!({"kind": format!("{}List", kind.kind), "apiVersion": kind.api_version(), "metadata": metadata, "items": objects})
        }
        Form::Metadata => {
            let items: Vec<Value> = objects.iter().map(table::metadata_of).collect();
            json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": metadata, "items": items})
        }
        Form::Table => table::table(kind, &objects, &metadata),
    };
    Ok((StatusCode::OK, value))
}

/// The replicas of a workload as an object of their own.
fn scale_of(object: &Object) -> Value {
    let selector: Vec<String> = object
        .string_map("/spec/selector/matchLabels")
        .into_iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1",
        "metadata": {
            "name": object.name(), "namespace": object.namespace(), "uid": object.uid(),
            "resourceVersion": object.resource_version(), "creationTimestamp": object.at("/metadata/creationTimestamp"),
        },
        "spec": {"replicas": object.number("/spec/replicas").unwrap_or(1)},
        "status": {"replicas": object.number("/status/replicas").unwrap_or(0), "selector": selector.join(",")},
    })
}

/// Whether the body is about an object of this kind in this place, and gives it its name.
fn placed(target: &Target, value: &mut Value, name: Option<&str>) -> Result<(), Failure> {
    let kind = &target.resource.kind;
    if !value.is_object() {
        return Err(Failure::bad_request("expected an object"));
    }
    for (field, wanted) in [
        ("apiVersion", kind.api_version()),
        ("kind", kind.kind.to_string()),
    ] {
        match value[field].as_str() {
            Some(found) if found != wanted => {
                return Err(Failure::bad_request(format!(
                    "{field}: found {found:?}, expected {wanted:?} by the path"
                )));
            }
            _ => {}
        }
    }
    value["apiVersion"] = json!(target.resource.stored.api_version());
    value["kind"] = json!(kind.kind);
    if !value["metadata"].is_object() {
        value["metadata"] = json!({});
    }
    let metadata = &mut value["metadata"];
    for (field, wanted) in [
        (
            "namespace",
            (!target.namespace.is_empty()).then_some(target.namespace.as_str()),
        ),
        ("name", name),
    ] {
        let Some(wanted) = wanted else { continue };
        match metadata[field].as_str() {
            Some(found) if !found.is_empty() && found != wanted => {
                return Err(Failure::bad_request(format!(
                    "metadata.{field}: found {found:?}, expected {wanted:?} by the path"
                )));
            }
            _ => metadata[field] = json!(wanted),
        }
    }
    Ok(())
}

/// What would make the simulated world meaningless.
fn checked(target: &Target, value: &Value) -> Result<(), Failure> {
    let stored = &target.resource.stored;
    if *stored == kinds::CANARY {
        Canary::decode(value)
            .map_err(|error| Failure::invalid(format!("the Canary can't be read: {error}")))?;
    }
    if *stored == kinds::DEPLOYMENT || *stored == kinds::DAEMON_SET {
        let selector = &value["spec"]["selector"]["matchLabels"];
        let labels = &value["spec"]["template"]["metadata"]["labels"];
        let selected = selector.as_object().is_some_and(|selector| {
            !selector.is_empty() && selector.iter().all(|(key, wanted)| labels[key] == *wanted)
        });
        if !selected {
            return Err(Failure::invalid(format!(
                "spec.selector.matchLabels: found {selector}, expected labels that the pods of spec.template have: {labels}"
            )));
        }
        let containers = &value["spec"]["template"]["spec"]["containers"];
        if containers.as_array().is_none_or(Vec::is_empty) {
            return Err(Failure::invalid(
                "spec.template.spec.containers: expected one at least",
            ));
        }
    }
    Ok(())
}

fn create(
    cluster: &Cluster,
    target: &Target,
    request: &Asked,
) -> Result<(StatusCode, Value), Failure> {
    let mut value = request.json()?;
    placed(target, &mut value, None)?;
    let metadata = &mut value["metadata"];
    if metadata["name"].as_str().unwrap_or_default().is_empty() {
        let prefix = metadata["generateName"].as_str().unwrap_or_default();
        if prefix.is_empty() {
            return Err(Failure::invalid("metadata.name: expected a name"));
        }
        metadata["name"] = json!(format!("{prefix}{:05x}", rand::random_range(0..0x10_0000)));
    }
    let name = metadata["name"].as_str().unwrap_or_default().to_owned();
    if let Some(metadata) = metadata.as_object_mut() {
        metadata.remove("uid");
        metadata.remove("resourceVersion");
        metadata.remove("managedFields");
    }
    in_a_namespace(cluster, target)?;
    checked(target, &value)?;
    if request.dry_run() {
        return Ok((StatusCode::CREATED, value));
    }
    let reference = reference(target, &name);
    let hand = request.hand(cluster);
    let created = cluster.with(|store| store.create(&reference, value, hand, Timestamp::now()));
    match created {
        Ok(object) => Ok((
            StatusCode::CREATED,
            presented(&target.resource.kind, &object),
        )),
        Err(Refusal::Conflict(_)) => Err(Failure::exists(target, &name)),
        Err(refusal) => Err(Failure::of(refusal, target, &name)),
    }
}

fn in_a_namespace(cluster: &Cluster, target: &Target) -> Result<(), Failure> {
    if !target.resource.kind.namespaced {
        return Ok(());
    }
    if target.namespace.is_empty() {
        return Err(Failure::bad_request("expected a namespace in the path"));
    }
    if cluster.has_namespace(&target.namespace) {
        return Ok(());
    }
    let namespaces = Target {
        resource: super::kinds::find("", "v1", "namespaces").ok_or_else(Failure::no_resource)?,
        namespace: String::new(),
        name: target.namespace.clone(),
        part: String::new(),
    };
    Err(Failure::not_found(&namespaces, &target.namespace))
}

/// Checks `metadata.uid` and `metadata.resourceVersion` of a body against what is there.
fn guarded(live: &Object, metadata: &Value) -> Result<(), Failure> {
    let differs = |field: &str, found: &str| {
        metadata[field]
            .as_str()
            .is_some_and(|wanted| !wanted.is_empty() && wanted != found)
    };
    if differs("uid", live.uid()) {
        return Err(Failure::conflict(format!(
            "Precondition failed: UID in precondition: {}, UID in object meta: {}",
            metadata["uid"],
            live.uid()
        )));
    }
    if differs("resourceVersion", live.resource_version()) {
        return Err(Failure::conflict(format!(
            "{} has version {}, not {}: the object has been modified; please apply your changes to the latest version",
            live.name(),
            live.resource_version(),
            metadata["resourceVersion"]
        )));
    }
    Ok(())
}

/// How a body changes an object.
enum Means {
    Replace,
    Apply,
    Merge,
    Strategic,
    Json,
}

impl Means {
    fn of(request: &Asked) -> Result<Self, Failure> {
        if request.method == Method::PUT {
            return Ok(Self::Replace);
        }
        match request.content_type.split(';').next().unwrap_or_default() {
            "application/apply-patch+yaml" => Ok(Self::Apply),
            "application/merge-patch+json" => Ok(Self::Merge),
            "application/strategic-merge-patch+json" => Ok(Self::Strategic),
            "application/json-patch+json" => Ok(Self::Json),
            other => Err(Failure::unsupported_media(other)),
        }
    }

    /// Makes the new value of the old one.
    fn change(&self, value: &mut Value, body: &Value) -> Result<(), Refusal> {
        match self {
            Self::Replace | Self::Apply => *value = body.clone(),
            Self::Merge => merge::merge_patch(value, body),
            Self::Strategic => merge::strategic_patch(value, body),
            Self::Json => {
                let operations = body
                    .as_array()
                    .ok_or_else(|| Refusal::Invalid("a JSON patch is a list".to_owned()))?;
                merge::json_patch(value, operations).map_err(Refusal::Conflict)?;
            }
        }
        Ok(())
    }
}

fn change(
    cluster: &Cluster,
    target: &Target,
    request: &Asked,
) -> Result<(StatusCode, Object), Failure> {
    let means = Means::of(request)?;
    let mut body = request.json()?;
    let whole = target.part.is_empty();
    if whole && matches!(means, Means::Replace | Means::Apply) {
        placed(target, &mut body, Some(&target.name))?;
    }
    let hand = request.hand(cluster);
    let name = reference(target, &target.name);
    if whole && matches!(means, Means::Apply) {
        in_a_namespace(cluster, target)?;
    }
    let dry = request.dry_run();
    cluster.with(|store| {
        let live = store.get(&name).map(|live| Object::clone(live));
        // A trial runs on a copy that nobody sees.
        let mut trial = dry.then(|| store.clone());
        let store = trial.as_mut().unwrap_or(store);
        match live {
            Some(live) => {
                if !matches!(means, Means::Json) {
                    guarded(&live, &body["metadata"])?;
                }
                let changed = change_live(store, target, &name, &means, &live, &body, hand)?;
                Ok((StatusCode::OK, changed))
            }
            None if whole && matches!(means, Means::Apply) => {
                // An apply that expects a certain object never creates; a version alone is compared with what is there only.
                if body["metadata"]["uid"].is_string() {
                    return Err(Failure::conflict(format!("{name} is gone")));
                }
                checked(target, &body)?;
                let object = store
                    .apply(
                        &name,
                        &Object::new(body),
                        &Expect::Any,
                        hand,
                        Timestamp::now(),
                    )
                    .map_err(|refusal| Failure::of(refusal, target, &target.name))?;
                Ok((StatusCode::CREATED, Object::clone(&object)))
            }
            None => Err(Failure::not_found(target, &target.name)),
        }
    })
}

fn change_live(
    store: &mut Store,
    target: &Target,
    name: &ObjectRef,
    means: &Means,
    live: &Object,
    body: &Value,
    hand: Hand,
) -> Result<Object, Failure> {
    let now = Timestamp::now();
    let failed = |refusal| Failure::of(refusal, target, &target.name);
    // What comes out is looked at before it is kept.
    let mut after = match target.part.as_str() {
        "scale" => scale_of(live),
        _ => live.value().clone(),
    };
    match means {
        Means::Apply => {
            after = body.clone();
        }
        _ => means.change(&mut after, body).map_err(failed)?,
    }
    let object = match target.part.as_str() {
        "status" => {
            let status = after["status"].take();
            store.change_status(name, &Expect::Any, hand, |live| {
                *live = if status.is_object() {
                    status
                } else {
                    json!({})
                };
            })
        }
        "scale" => {
            let replicas = after["spec"]["replicas"]
                .as_i64()
                .filter(|replicas| (0..=20).contains(replicas))
                .ok_or_else(|| {
                    Failure::invalid(format!(
                        "spec.replicas: found {}, expected 0 to 20 here",
                        after["spec"]["replicas"]
                    ))
                })?;
            store.change(name, &Expect::Any, hand, now, |value| {
                value["spec"]["replicas"] = json!(replicas);
                Ok(())
            })
        }
        _ if matches!(means, Means::Apply) => {
            let applied = Object::new(after);
            let mut merged = store.clone();
            let trial = merged
                .apply(name, &applied, &Expect::Any, hand, now)
                .map_err(failed)?;
            checked(target, trial.value())?;
            store.apply(name, &applied, &Expect::Any, hand, now)
        }
        _ => {
            keep_servers_own(&mut after, live);
            checked(target, &after)?;
            store.change(name, &Expect::Any, hand, now, |value| {
                *value = after;
                Ok(())
            })
        }
    };
    object.map(|object| Object::clone(&object)).map_err(failed)
}

/// Puts back what no client may change.
fn keep_servers_own(value: &mut Value, live: &Object) {
    for field in ["apiVersion", "kind"] {
        value[field] = live.value()[field].clone();
    }
    if !value["metadata"].is_object() {
        value["metadata"] = json!({});
    }
    let Some(metadata) = value["metadata"].as_object_mut() else {
        return;
    };
    for field in SERVERS_OWN {
        match live.value()["metadata"].get(field) {
            Some(own) => metadata.insert(field.to_owned(), own.clone()),
            None => metadata.remove(field),
        };
    }
}

fn delete(
    cluster: &Cluster,
    target: &Target,
    request: &Asked,
    name: &str,
) -> Result<Value, Failure> {
    if target.resource.kind == NAMESPACE {
        return Err(Failure::not_allowed("the demo's namespaces stay"));
    }
    let options = if request.body.is_empty() {
        Value::Null
    } else {
        request.json()?
    };
    let reference = reference(target, name);
    let hand = request.hand(cluster);
    let dry = request.dry_run();
    cluster.with(|store| {
        let live = store
            .get(&reference)
            .map(|live| Object::clone(live))
            .ok_or_else(|| Failure::not_found(target, name))?;
        guarded(&live, &options["preconditions"])?;
        if !dry {
            store
                .delete(&reference, &Expect::Any, hand, Timestamp::now())
                .map_err(|refusal| Failure::of(refusal, target, name))?;
        }
        Ok(match store.get(&reference) {
            // Finalizers hold it.
            Some(object) => presented(&target.resource.kind, object),
            None => json!({
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
                "details": {"name": name, "kind": target.resource.kind.plural, "uid": live.uid()},
            }),
        })
    })
}

fn delete_all(
    cluster: &Cluster,
    target: &Target,
    request: &Asked,
) -> Result<(StatusCode, Value), Failure> {
    let (objects, _) = listed(cluster, target, &selector(request)?);
    for object in &objects {
        let here = Target {
            resource: target.resource.clone(),
            namespace: object["metadata"]["namespace"]
                .as_str()
                .unwrap_or_default()
                .to_owned(),
            name: String::new(),
            part: String::new(),
        };
        delete(
            cluster,
            &here,
            request,
            object["metadata"]["name"].as_str().unwrap_or_default(),
        )?;
    }
    let kind = &target.resource.kind;
    Ok((
        StatusCode::OK,
        json!({"kind": format!("{}List", kind.kind), "apiVersion": kind.api_version(), "metadata": {}, "items": objects}),
    ))
}
