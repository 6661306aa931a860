//! Schema fragments that the types refer to where serde's view and the CRD's differ: Flagger says `number` where a whole
//! number is meant, checks some strings by pattern, and excludes some fields against each other.

use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::{Value, json};

/// A whole number that Flagger's CRD declares as `number`; the schema accepts what Flagger's does, decoding does not.
pub(crate) fn number(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "number" })
}

/// A list of [`number`].
pub(crate) fn numbers(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "array", "items": { "type": "number" } })
}

/// A period as Flagger's CRD checks it: begins with a number of minutes or seconds, the end is not looked at.
pub(crate) fn period(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "pattern": "^[0-9]+(m|s)" })
}

/// A Go duration in a field of our own, checked to the end.
pub(crate) fn duration(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "pattern": r"^([0-9]+(\.[0-9]+)?(ms|s|m|h))+$" })
}

/// A point in time, RFC 3339.
pub(crate) fn time(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "format": "date-time" })
}

/// A number or a name, as in the port of a Service.
pub(crate) fn int_or_string(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "x-kubernetes-int-or-string": true })
}

/// Exactly one of `fields`, for `oneOf`.
pub(crate) fn exactly_one(fields: &[&str]) -> Value {
    fields
        .iter()
        .map(|field| json!({ "required": [field] }))
        .collect()
}

/// None or exactly one of `fields`, for `oneOf`.
pub(crate) fn at_most_one(fields: &[&str]) -> Value {
    let each: Vec<Value> = fields
        .iter()
        .map(|field| json!({ "required": [field] }))
        .collect();
    let mut branches = vec![json!({ "not": { "anyOf": each } })];
    branches.extend(each);
    Value::Array(branches)
}
