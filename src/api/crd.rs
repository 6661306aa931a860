//! The three CustomResourceDefinitions, made from the types.
//!
//! Group, names, categories, printed columns and what the schemas accept follow Flagger's CRDs, so ours can be applied
//! over them in a running cluster: every stored object stays valid and keeps every field. Types, descriptions and rules
//! come from the structs of this room; this file turns them into the structural form that Kubernetes asks for and puts
//! the frame around. `crds/` holds the output; `tests/crds.rs` keeps it up to date and proves the comparison.

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::{
    AlertProvider, AlertProviderSpec, Canary, CanarySpec, CanaryStatus, GROUP, MetricTemplate,
    MetricTemplateSpec, VERSION,
};

/// One printed column: name, type, path, and whether it shows only in wide output.
type Column = (&'static str, &'static str, &'static str, bool);

const CANARY_COLUMNS: &[Column] = &[
    ("Status", "string", ".status.phase", false),
    ("Weight", "string", ".status.canaryWeight", false),
    ("Suspended", "boolean", ".spec.suspend", true),
    ("FailedChecks", "string", ".status.failedChecks", true),
    ("Interval", "string", ".spec.analysis.interval", true),
    ("Mirror", "boolean", ".spec.analysis.mirror", true),
    ("StepWeight", "string", ".spec.analysis.stepWeight", true),
    ("StepWeights", "string", ".spec.analysis.stepWeights", true),
    ("MaxWeight", "string", ".spec.analysis.maxWeight", true),
    (
        "LastTransitionTime",
        "string",
        ".status.lastTransitionTime",
        false,
    ),
];

/// The CRD of Canary.
#[must_use]
pub fn canary() -> Value {
    let description = "A Canary takes a workload under control: each new revision of it is judged on a growing share of \
        traffic before the primary, which serves everyone, takes it over.";
    definition(
        (Canary::KIND, Canary::PLURAL),
        CANARY_COLUMNS,
        description,
        &[
            ("spec", structural_of::<CanarySpec>()),
            ("status", structural_of::<CanaryStatus>()),
        ],
    )
}

/// The CRD of MetricTemplate.
#[must_use]
pub fn metric_template() -> Value {
    let description = "A MetricTemplate names a metrics backend and a query for it, which canaries refer to in \
        spec.analysis.metrics.";
    definition(
        (MetricTemplate::KIND, MetricTemplate::PLURAL),
        &[("Provider", "string", ".spec.provider.type", false)],
        description,
        &[("spec", structural_of::<MetricTemplateSpec>())],
    )
}

/// The CRD of AlertProvider.
#[must_use]
pub fn alert_provider() -> Value {
    let description = "An AlertProvider names a chat service that is told about runs, which canaries refer to in \
        spec.analysis.alerts.";
    definition(
        (AlertProvider::KIND, AlertProvider::PLURAL),
        &[("Type", "string", ".spec.type", false)],
        description,
        &[("spec", structural_of::<AlertProviderSpec>())],
    )
}

/// The three CRDs with the names of their files in `crds/`.
#[must_use]
pub fn all() -> Vec<(&'static str, Value)> {
    vec![
        ("canary.yaml", canary()),
        ("metrictemplate.yaml", metric_template()),
        ("alertprovider.yaml", alert_provider()),
    ]
}

/// One CRD as a YAML document, without the leading `---`.
#[must_use]
pub fn as_yaml(definition: &Value) -> String {
    let mut text = String::new();
    yaml(definition, 0, &mut text);
    text
}

/// The three CRDs as one YAML stream, what `serin crd` prints.
#[must_use]
pub fn all_as_yaml() -> String {
    all()
        .iter()
        .fold(String::new(), |mut text, (_, definition)| {
            text.push_str(
                "---
",
            );
            text.push_str(&as_yaml(definition));
            text
        })
}

/// The frame that all three share.
fn definition(
    (kind, plural): (&str, &str),
    columns: &[Column],
    description: &str,
    parts: &[(&str, Value)],
) -> Value {
    let singular = kind.to_lowercase();
    let columns: Vec<Value> = columns
        .iter()
        .map(|(name, column_type, path, wide)| {
            let mut column = json!({ "name": name, "type": column_type, "jsonPath": path });
            if *wide {
                column["priority"] = json!(1);
            }
            column
        })
        .collect();
    let mut properties = json!({
        "apiVersion": {
            "type": "string",
            "description": format!("Group and version of this object's form, {GROUP}/{VERSION}."),
        },
        "kind": { "type": "string", "description": format!("Kind of this object, {kind}.") },
        "metadata": { "type": "object" },
    });
    for (name, schema) in parts {
        properties[name] = schema.clone();
    }
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": format!("{plural}.{GROUP}"),
            "annotations": { "helm.sh/resource-policy": "keep" },
        },
        "spec": {
            "group": GROUP,
            "names": {
                "kind": kind,
                "listKind": format!("{kind}List"),
                "plural": plural,
                "singular": singular,
                "categories": ["all"],
            },
            "scope": "Namespaced",
            "versions": [{
                "name": VERSION,
                "served": true,
                "storage": true,
                "subresources": { "status": {} },
                "additionalPrinterColumns": columns,
                "schema": {
                    "openAPIV3Schema": {
                        "description": description,
                        "type": "object",
                        "properties": properties,
                    },
                },
            }],
        },
    })
}

/// The schema of a type, in structural form.
fn structural_of<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::draft07().with(|settings| {
        settings.inline_subschemas = true;
        settings.meta_schema = None;
    });
    structural(
        settings
            .into_generator()
            .into_root_schema_for::<T>()
            .to_value(),
    )
}

/// Turns what schemars derives into what a CRD may say: no titles, no null types, no references, defaults only where
/// the API server is to fill them in (`x-default`), formats only where Flagger has them.
fn structural(schema: Value) -> Value {
    let Value::Object(fields) = schema else {
        return schema;
    };
    let mut result = Map::new();
    for (key, value) in fields {
        match key.as_str() {
            "title" | "$schema" | "default" => {}
            "x-default" => {
                result.insert("default".to_owned(), value);
            }
            "format" if !matches!(value.as_str(), Some("int32" | "date-time")) => {}
            "type" => {
                result.insert(key, without_null_type(value));
            }
            "enum" => {
                let values = value
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter(|value| !value.is_null());
                result.insert(key, values.cloned().collect());
            }
            "description" => {
                result.insert(key, one_line(&value));
            }
            "properties" => {
                let properties = value.as_object().cloned().unwrap_or_default();
                let properties: Map<_, _> = properties
                    .into_iter()
                    .map(|(name, schema)| (name, structural(schema)))
                    .collect();
                result.insert(key, Value::Object(properties));
            }
            "items" | "additionalProperties" => {
                result.insert(key, structural(value));
            }
            "anyOf" => {
                // An optional part is "it or null"; what the field itself says goes before what the part says.
                let branches = value.as_array().cloned().unwrap_or_default();
                let parts = branches
                    .into_iter()
                    .filter(|branch| branch["type"] != "null");
                for (key, value) in parts
                    .filter_map(|part| structural(part).as_object().cloned())
                    .flatten()
                {
                    result.entry(key).or_insert(value);
                }
            }
            _ => {
                result.insert(key, value);
            }
        }
    }
    Value::Object(result)
}

/// `["string", "null"]` becomes `"string"`: absent is absent, Kubernetes has no null here.
fn without_null_type(value: Value) -> Value {
    match value {
        Value::Array(types) => types
            .into_iter()
            .find(|name| name != "null")
            .unwrap_or_default(),
        single => single,
    }
}

/// Doc comments are wrapped for the source's sake; a description is not.
fn one_line(value: &Value) -> Value {
    let words: Vec<&str> = value
        .as_str()
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    json!(words.join(" ").replace('`', ""))
}

/// Width that folded texts keep to.
const WIDTH: usize = 100;

/// Writes block YAML: keys sorted, long texts folded, so that the files read well and change line by line.
fn yaml(value: &Value, indent: usize, out: &mut String) {
    let pad = " ".repeat(indent);
    match value {
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_by_key(|(key, _)| key.as_str());
            for (key, value) in fields {
                out.push_str(&pad);
                out.push_str(&plain_or_quoted(key));
                out.push(':');
                yaml_after_colon(value, indent, out);
            }
        }
        Value::Array(items) => {
            for item in items {
                let mut block = String::new();
                yaml(item, indent + 2, &mut block);
                out.push_str(&pad);
                out.push_str("- ");
                if item.is_object() && item != &json!({}) {
                    out.push_str(block.trim_start());
                } else {
                    out.push_str(&scalar(item));
                    out.push('\n');
                }
            }
        }
        other => {
            out.push_str(&scalar(other));
            out.push('\n');
        }
    }
}

fn yaml_after_colon(value: &Value, indent: usize, out: &mut String) {
    match value {
        Value::Object(fields) if fields.is_empty() => out.push_str(" {}\n"),
        Value::Array(items) if items.is_empty() => out.push_str(" []\n"),
        Value::Object(_) => {
            out.push('\n');
            yaml(value, indent + 2, out);
        }
        Value::Array(_) => {
            out.push('\n');
            yaml(value, indent, out);
        }
        Value::String(text) if text.len() > 60 && text.contains(' ') => {
            out.push_str(" >-\n");
            let pad = " ".repeat(indent + 2);
            let mut line = String::new();
            for word in text.split(' ') {
                if !line.is_empty() && indent + 3 + line.len() + word.len() > WIDTH {
                    out.extend([&pad, line.as_str(), "\n"]);
                    line.clear();
                }
                if !line.is_empty() {
                    line.push(' ');
                }
                line.push_str(word);
            }
            out.extend([&pad, line.as_str(), "\n"]);
        }
        scalar_value => {
            out.push(' ');
            out.push_str(&scalar(scalar_value));
            out.push('\n');
        }
    }
}

fn scalar(value: &Value) -> String {
    match value {
        Value::String(text) => plain_or_quoted(text),
        Value::Object(_) => "{}".to_owned(),
        other => other.to_string(),
    }
}

/// A text that YAML could take for something else is written as JSON writes it, which is YAML too.
fn plain_or_quoted(text: &str) -> String {
    let starts_plain = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '.' || c == '$');
    let stays_plain = text
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || " ./-_,()$;".contains(c));
    let taken = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    if starts_plain
        && stays_plain
        && !text.ends_with(' ')
        && !taken.contains(&text.to_lowercase().as_str())
    {
        text.to_owned()
    } else {
        Value::from(text).to_string()
    }
}
