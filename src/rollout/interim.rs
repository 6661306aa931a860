//! Stand-ins until the rooms land.
use crate::api::Canary;
use crate::object::{ObjectRef, Reading};
use serde_json::Value;
use std::collections::BTreeMap;
pub enum ConfigError {
    Unknown(String),
    Missing(String),
}
pub fn checksums(
    _c: &Canary,
    _t: &Value,
    _l: &dyn Fn(&ObjectRef) -> Reading,
) -> Result<BTreeMap<String, String>, ConfigError> {
    Ok(BTreeMap::new())
}
pub fn renames(
    _c: &Canary,
    _t: &Value,
    _k: &BTreeMap<String, String>,
) -> BTreeMap<(String, String), String> {
    BTreeMap::new()
}
pub fn source(_c: &Canary) -> Option<ObjectRef> {
    None
}
