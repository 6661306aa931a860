//! Which labels and annotations travel from the target to what is made from it.

use crate::workload::WorkloadSettings;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Keys that Flux's controllers write: an object that carries them would be taken for theirs and pruned.
const TOOLKIT: &str = "toolkit.fluxcd.io";

/// Keys that belong to the one object they stand on. Copying them would say something false about the copy, or start a quarrel
/// with the controller that writes them (`deployment.kubernetes.io/revision`).
const NEVER_COPIED: [&str; 5] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    "deployment.kubernetes.io/",
    "deprecated.daemonset.template.generation",
    "autoscaling.keda.sh/paused-replicas",
    "serin.dev/",
];

/// The annotations that keep Flux from undoing what the controller does to a Service.
pub(super) const RECONCILE_DISABLED: [(&str, &str); 2] = [
    ("kustomize.toolkit.fluxcd.io/reconcile", "disabled"),
    ("helm.toolkit.fluxcd.io/driftDetection", "disabled"),
];

/// Whether a label or annotation of an object may stand on a copy of it.
pub(super) fn may_travel(key: &str) -> bool {
    !key.contains(TOOLKIT) && !NEVER_COPIED.iter().any(|stay| key.starts_with(stay))
}

/// The entries that `-include-label-prefix` selects (`*` selects all), without those that must not be copied.
pub(super) fn included(
    entries: &BTreeMap<String, String>,
    settings: &WorkloadSettings,
) -> Map<String, Value> {
    travelling(entries, |key| {
        settings
            .include_label_prefix
            .iter()
            .any(|prefix| prefix == "*" || (!prefix.is_empty() && key.starts_with(prefix.as_str())))
    })
}

/// All entries but those that must not be copied.
pub(super) fn all_that_travel(entries: &BTreeMap<String, String>) -> Map<String, Value> {
    travelling(entries, |_| true)
}

fn travelling(
    entries: &BTreeMap<String, String>,
    wanted: impl Fn(&str) -> bool,
) -> Map<String, Value> {
    entries
        .iter()
        .filter(|(key, _)| wanted(key) && may_travel(key))
        .map(|(key, value)| (key.clone(), Value::String(value.clone())))
        .collect()
}

/// Removes what Flux wrote into the metadata of a pod template.
pub(super) fn drop_toolkit_keys(entries: &mut Value) {
    if let Some(map) = entries.as_object_mut() {
        map.retain(|key, _| !key.contains(TOOLKIT));
    }
}
