//! The resources that the demo's API server has, as one table, and what it says about them: discovery documents, and for kubectl's checks of
//! what the server can do a minimal `OpenAPI` document.

use crate::object::{Kind, kinds};
use serde_json::{Value, json};
use std::borrow::Cow;

/// One resource of the API.
#[derive(Clone, Debug)]
pub struct Resource {
    /// As it is asked for.
    pub kind: Kind,
    /// As it is kept; another version than it is asked for in one case.
    pub stored: Kind,
    pub short_names: &'static [&'static str],
    /// Subresources.
    pub parts: &'static [&'static str],
}

const fn cluster_wide(
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    plural: &'static str,
) -> Kind {
    Kind {
        group: Cow::Borrowed(group),
        version: Cow::Borrowed(version),
        kind: Cow::Borrowed(kind),
        plural: Cow::Borrowed(plural),
        namespaced: false,
    }
}

pub const NAMESPACE: Kind = cluster_wide("", "v1", "Namespace", "namespaces");
pub const EVENT: Kind = Kind::namespaced("", "v1", "Event", "events");
pub const GATEWAY: Kind =
    Kind::namespaced("gateway.networking.k8s.io", "v1", "Gateway", "gateways");

const fn plain(kind: Kind, short_names: &'static [&'static str]) -> (Kind, Names, Names) {
    (kind, short_names, &[])
}

type Names = &'static [&'static str];

/// Kind, short names, subresources.
static TABLE: [(Kind, Names, Names); 21] = [
    plain(NAMESPACE, &["ns"]),
    (kinds::POD, &["po"], &["status"]),
    (kinds::SERVICE, &["svc"], &["status"]),
    plain(kinds::CONFIG_MAP, &["cm"]),
    plain(kinds::SECRET, &[]),
    plain(EVENT, &["ev"]),
    (kinds::DEPLOYMENT, &["deploy"], &["status", "scale"]),
    (kinds::DAEMON_SET, &["ds"], &["status"]),
    plain(
        Kind::namespaced("apps", "v1", "ReplicaSet", "replicasets"),
        &["rs"],
    ),
    plain(kinds::CONTROLLER_REVISION, &[]),
    plain(kinds::ENDPOINT_SLICE, &[]),
    (kinds::HORIZONTAL_POD_AUTOSCALER, &["hpa"], &["status"]),
    plain(
        Kind::namespaced("coordination.k8s.io", "v1", "Lease", "leases"),
        &[],
    ),
    (kinds::CANARY, &[], &["status"]),
    plain(kinds::METRIC_TEMPLATE, &[]),
    plain(kinds::ALERT_PROVIDER, &[]),
    (GATEWAY, &["gtw"], &["status"]),
    (kinds::HTTP_ROUTE, &[], &["status"]),
    (kinds::HTTP_ROUTE_V1BETA1, &[], &["status"]),
    (kinds::GRPC_ROUTE, &[], &["status"]),
    plain(kinds::SCALED_OBJECT, &[]),
];

/// All resources.
pub fn resources() -> impl Iterator<Item = Resource> {
    TABLE.iter().map(|(kind, short_names, parts)| Resource {
        kind: kind.clone(),
        stored: if *kind == kinds::HTTP_ROUTE_V1BETA1 {
            kinds::HTTP_ROUTE
        } else {
            kind.clone()
        },
        short_names,
        parts,
    })
}

/// The resource that a path names.
pub fn find(group: &str, version: &str, plural: &str) -> Option<Resource> {
    resources().find(|resource| {
        let kind = &resource.kind;
        kind.group == group && kind.version == version && kind.plural == plural
    })
}

/// Groups with their versions, the preferred first, in the order of the table.
fn groups() -> Vec<(String, Vec<String>)> {
    let mut groups: Vec<(String, Vec<String>)> = Vec::new();
    for resource in resources() {
        let (group, version) = (
            resource.kind.group.to_string(),
            resource.kind.version.to_string(),
        );
        match groups.iter_mut().find(|(known, _)| *known == group) {
            Some((_, versions)) if versions.contains(&version) => {}
            Some((_, versions)) => versions.push(version),
            None => groups.push((group, vec![version])),
        }
    }
    groups
}

/// What `/apis` says.
pub fn group_list() -> Value {
    let groups: Vec<Value> = groups()
        .into_iter()
        .filter(|(group, _)| !group.is_empty())
        .map(|(group, versions)| {
            let versions: Vec<Value> = versions
                .iter()
                .map(|version| json!({"groupVersion": format!("{group}/{version}"), "version": version}))
                .collect();
            json!({"name": group, "preferredVersion": versions[0], "versions": versions})
        })
        .collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// What `/api/v1` and `/apis/GROUP/VERSION` say; nothing for versions that there are not.
pub fn resource_list(group: &str, version: &str) -> Option<Value> {
    let mut listed = Vec::new();
    for resource in resources() {
        let kind = &resource.kind;
        if kind.group != group || kind.version != version {
            continue;
        }
        let mut entry = json!({
            "name": kind.plural, "singularName": kind.kind.to_lowercase(), "namespaced": kind.namespaced, "kind": kind.kind,
            "verbs": ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"],
        });
        if !resource.short_names.is_empty() {
            entry["shortNames"] = json!(resource.short_names);
        }
        listed.push(entry);
        for part in resource.parts {
            let mut entry = json!({
                "name": format!("{}/{part}", kind.plural), "singularName": "", "namespaced": kind.namespaced, "kind": kind.kind,
                "verbs": ["get", "patch", "update"],
            });
            if *part == "scale" {
                entry["kind"] = json!("Scale");
                entry["group"] = json!("autoscaling");
                entry["version"] = json!("v1");
            }
            listed.push(entry);
        }
    }
    if listed.is_empty() {
        return None;
    }
    let group_version = if group.is_empty() {
        version.to_owned()
    } else {
        format!("{group}/{version}")
    };
    Some(
        json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": listed}),
    )
}

fn root_of(group: &str, version: &str) -> String {
    if group.is_empty() {
        format!("api/{version}")
    } else {
        format!("apis/{group}/{version}")
    }
}

/// What `/openapi/v3` says: where the document of each group and version is.
pub fn openapi_index() -> Value {
    let mut paths = serde_json::Map::new();
    for (group, versions) in groups() {
        for version in versions {
            let root = root_of(&group, &version);
            paths.insert(
                root.clone(),
                json!({"serverRelativeURL": format!("/openapi/v3/{root}")}),
            );
        }
    }
    json!({"paths": paths})
}

/// One such document. It has no schemas; it says of each kind that a patch may ask the server for validation, which keeps kubectl from
/// validating by schemas of its own.
pub fn openapi(root: &str) -> Option<Value> {
    let mut paths = serde_json::Map::new();
    for resource in resources() {
        let kind = &resource.kind;
        let here = root_of(&kind.group, &kind.version);
        if here != root {
            continue;
        }
        let path = if kind.namespaced {
            format!("/{here}/namespaces/{{namespace}}/{}/{{name}}", kind.plural)
        } else {
            format!("/{here}/{}/{{name}}", kind.plural)
        };
        paths.insert(
            path,
            json!({"patch": {
                "x-kubernetes-group-version-kind": {"group": kind.group, "version": kind.version, "kind": kind.kind},
                "parameters": [{"name": "fieldValidation", "in": "query"}, {"name": "dryRun", "in": "query"}],
            }}),
        );
    }
    (!paths.is_empty()).then(|| {
        json!({"openapi": "3.0.0", "info": {"title": "Kubernetes (simulated by serin demo)", "version": "v1"}, "paths": paths, "components": {"schemas": {}}})
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::controller::permissions;

    #[test]
    fn whatever_the_controller_may_use_is_served() {
        let grants = permissions::CORE
            .iter()
            .chain(permissions::LEADER_ELECTION)
            .chain(permissions::of_provider("gatewayapi:v1").unwrap());
        for grant in grants {
            let kind = &grant.kind;
            let resource = find(&kind.group, &kind.version, &kind.plural)
                .unwrap_or_else(|| panic!("{} is not served", kind.kind));
            // Finalizers are no part that anybody asks for.
            assert!(
                ["", "finalizers"].contains(&grant.subresource)
                    || resource.parts.contains(&grant.subresource)
            );
        }
    }

    #[test]
    fn discovery_lists_every_version() {
        let groups = group_list();
        let gateway = groups["groups"]
            .as_array()
            .unwrap()
            .iter()
            .find(|group| group["name"] == "gateway.networking.k8s.io")
            .unwrap();
        assert_eq!(
            gateway["preferredVersion"]["groupVersion"],
            "gateway.networking.k8s.io/v1"
        );
        assert_eq!(gateway["versions"].as_array().unwrap().len(), 2);
        assert!(resource_list("apps", "v1").is_some() && resource_list("apps", "v2").is_none());
    }
}
