//! Lists as kubectl prints them: the columns of each kind, and the shorter forms of objects that clients may ask for.

use crate::api::crd;
use crate::object::{Kind, kinds};
use jiff::Timestamp;
use serde_json::{Value, json};

/// In which form a client wants objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Whole,
    /// `PartialObjectMetadata`.
    Metadata,
    /// `Table`.
    Table,
}

impl Form {
    /// As the header `Accept` asks for it.
    #[must_use]
    pub fn of(accept: &str) -> Self {
        if accept.contains("as=Table") {
            Self::Table
        } else if accept.contains("as=PartialObjectMetadata") {
            Self::Metadata
        } else {
            Self::Whole
        }
    }
}

/// A column: its name, its type, whether it shows only in wide output, and where its cell comes from.
struct Column {
    name: String,
    of_type: String,
    wide: bool,
    cell: Cell,
}

enum Cell {
    Path(String),
    Made(fn(&Value) -> Value),
}

fn path(name: &str, path: &str) -> Column {
    Column {
        name: name.to_owned(),
        of_type: "string".to_owned(),
        wide: false,
        cell: Cell::Path(path.to_owned()),
    }
}

fn made(name: &str, make: fn(&Value) -> Value) -> Column {
    Column {
        name: name.to_owned(),
        of_type: "string".to_owned(),
        wide: false,
        cell: Cell::Made(make),
    }
}

fn age(object: &Value) -> Value {
    let created = object["metadata"]["creationTimestamp"]
        .as_str()
        .and_then(|text| text.parse::<Timestamp>().ok());
    since(created)
}

fn since(at: Option<Timestamp>) -> Value {
    let Some(at) = at else {
        return json!("<unknown>");
    };
    let seconds = Timestamp::now().duration_since(at).as_secs().max(0);
    json!(match seconds {
        0..120 => format!("{seconds}s"),
        120..7_200 => format!("{}m", seconds / 60),
        7_200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    })
}

fn count(value: &Value) -> i64 {
    value.as_i64().unwrap_or(0)
}

fn columns_of_pods() -> Vec<Column> {
    vec![
        made("Ready", |object| {
            let statuses = object["status"]["containerStatuses"].as_array();
            let all = statuses.map_or(0, Vec::len);
            let ready = statuses
                .into_iter()
                .flatten()
                .filter(|one| one["ready"] == true)
                .count();
            json!(format!("{ready}/{all}"))
        }),
        made("Status", |object| {
            if object["metadata"]["deletionTimestamp"].is_string() {
                return json!("Terminating");
            }
            let waiting = &object["status"]["containerStatuses"][0]["state"]["waiting"]["reason"];
            if waiting.is_string() {
                return waiting.clone();
            }
            object["status"]["phase"].clone()
        }),
        path("IP", ".status.podIP"),
    ]
}

fn columns_of_events() -> Vec<Column> {
    vec![
        made("Last Seen", |object| {
            since(
                object["lastTimestamp"]
                    .as_str()
                    .and_then(|text| text.parse().ok()),
            )
        }),
        path("Type", ".type"),
        path("Reason", ".reason"),
        made("Object", |object| {
            let involved = &object["involvedObject"];
            json!(format!(
                "{}/{}",
                involved["kind"].as_str().unwrap_or_default().to_lowercase(),
                involved["name"].as_str().unwrap_or_default()
            ))
        }),
        path("Message", ".message"),
    ]
}

/// The columns of our own kinds, as their definitions have them.
fn own_columns(kind: &Kind) -> Option<Vec<Column>> {
    let definition = crd::all()
        .into_iter()
        .map(|(_, definition)| definition)
        .find(|definition| {
            kind.group == crate::api::GROUP
                && definition["spec"]["names"]["kind"] == kind.kind.as_ref()
        })?;
    let printed = definition["spec"]["versions"][0]["additionalPrinterColumns"].as_array()?;
    let columns = printed.iter().map(|column| {
        let text = |key: &str| column[key].as_str().unwrap_or_default().to_owned();
        Column {
            name: text("name"),
            of_type: text("type"),
            wide: count(&column["priority"]) > 0,
            cell: Cell::Path(text("jsonPath")),
        }
    });
    Some(columns.collect())
}

/// The columns of a kind after its name.
fn columns(kind: &Kind) -> Vec<Column> {
    let mut columns = if *kind == kinds::DEPLOYMENT {
        vec![
            made("Ready", |object| {
                let status = &object["status"];
                json!(format!(
                    "{}/{}",
                    count(&status["readyReplicas"]),
                    object["spec"]["replicas"].as_i64().unwrap_or(1)
                ))
            }),
            made("Up-to-date", |object| {
                json!(count(&object["status"]["updatedReplicas"]))
            }),
            made("Available", |object| {
                json!(count(&object["status"]["availableReplicas"]))
            }),
        ]
    } else if *kind == kinds::POD {
        columns_of_pods()
    } else if *kind == kinds::SERVICE {
        vec![
            path("Type", ".spec.type"),
            path("Cluster-IP", ".spec.clusterIP"),
            made("Port(s)", |object| {
                let ports: Vec<String> = object["spec"]["ports"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .map(|port| {
                        format!(
                            "{}/{}",
                            port["port"],
                            port["protocol"].as_str().unwrap_or("TCP")
                        )
                    })
                    .collect();
                json!(ports.join(","))
            }),
        ]
    } else if *kind == super::kinds::EVENT {
        return columns_of_events();
    } else if *kind == kinds::HTTP_ROUTE {
        vec![made("Hostnames", |object| {
            json!(object["spec"]["hostnames"].to_string())
        })]
    } else {
        match own_columns(kind) {
            Some(columns) => return columns,
            None => Vec::new(),
        }
    };
    columns.push(made("Age", age));
    columns
}

/// These objects as a table. The objects themselves are in it by their metadata.
#[must_use]
pub fn table(kind: &Kind, objects: &[Value], list_metadata: &Value) -> Value {
    let columns = columns(kind);
    let event = *kind == super::kinds::EVENT;
    let mut definitions = Vec::new();
    if !event {
        definitions.push(json!({"name": "Name", "type": "string", "format": "name", "description": "", "priority": 0}));
    }
    definitions.extend(columns.iter().map(|column| {
        json!({"name": column.name, "type": column.of_type, "format": "", "description": "", "priority": i32::from(column.wide)})
    }));
    let rows: Vec<Value> = objects
        .iter()
        .map(|object| {
            let mut cells = Vec::new();
            if !event {
                cells.push(object["metadata"]["name"].clone());
            }
            cells.extend(columns.iter().map(|column| {
                match &column.cell {
                    Cell::Made(make) => make(object),
                    Cell::Path(path) => path
                        .trim_start_matches('.')
                        .split('.')
                        .fold(object, |value, step| &value[step])
                        .clone(),
                }
            }));
            json!({"cells": cells, "object": metadata_of(object)})
        })
        .collect();
    json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": list_metadata,
        "columnDefinitions": definitions, "rows": rows,
    })
}

/// The object without all but its metadata.
#[must_use]
pub fn metadata_of(object: &Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]})
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_canary_is_printed_with_the_columns_of_its_definition() {
        let canary = json!({"metadata": {"name": "shop"}, "spec": {"analysis": {"interval": "2s"}}, "status": {"phase": "Progressing", "canaryWeight": 20}});
        let table = table(&kinds::CANARY, &[canary], &json!({}));
        let names: Vec<&str> = table["columnDefinitions"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|column| column["priority"] == 0)
            .map(|column| column["name"].as_str().unwrap())
            .collect();
        assert_eq!(names, ["Name", "Status", "Weight", "LastTransitionTime"]);
        assert_eq!(table["rows"][0]["cells"][1], "Progressing");
        assert_eq!(table["rows"][0]["cells"][2], 20);
    }

    #[test]
    fn the_form_follows_the_header() {
        assert_eq!(Form::of("application/json"), Form::Whole);
        assert_eq!(
            Form::of("application/json;as=Table;v=v1;g=meta.k8s.io,application/json"),
            Form::Table
        );
        assert_eq!(
            Form::of("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"),
            Form::Metadata
        );
    }
}
