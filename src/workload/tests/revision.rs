//! Kept revisions: written once, read back only if they are what they say, and not kept for ever.

use super::*;
use crate::workload::revision::{self, KeptRevision, RevisionError};
use crate::workload::revision_hash;
use serde_json::json;
use std::collections::BTreeSet;

fn kept() -> KeptRevision {
    let mut template = deployment().at("/spec/template").clone();
    template["metadata"]
        .as_object_mut()
        .unwrap()
        .remove("creationTimestamp");
    KeptRevision {
        hash: revision_hash(&template),
        template,
        number: 3,
        configs: BTreeMap::from([(
            "configmap/settings".to_owned(),
            "0011223344556677".to_owned(),
        )]),
    }
}

fn stored() -> Object {
    let write = revision::keep(&canary(), &kept(), &Reading::Absent)
        .unwrap()
        .unwrap();
    carried_out(&write, &Reading::Absent)
}

#[test]
fn a_kept_revision_reads_back_as_it_was() {
    let stored = stored();
    assert_eq!(stored.name(), format!("podinfo-{}", &kept().hash[3..13]));
    assert_eq!(
        stored.at("/metadata/labels"),
        &json!({"app.kubernetes.io/managed-by": "serin", "serin.dev/canary": "podinfo"})
    );
    assert_eq!(stored.controller_owner().unwrap().uid, "canary-uid");
    assert_eq!(revision::decode(&stored).unwrap(), kept());
}

#[test]
fn a_revision_is_written_once_and_later_only_its_number_and_configs_change() {
    let stored = stored();
    assert_eq!(
        revision::keep(&canary(), &kept(), &present(&stored)).unwrap(),
        None
    );
    // The same template in another spelling: the data, which can't be changed, stays.
    let mut respelled = KeptRevision {
        number: 4,
        ..kept()
    };
    respelled.template["spec"]["hostAliases"] = json!([]);
    let write = revision::keep(&canary(), &respelled, &present(&stored))
        .unwrap()
        .unwrap();
    let Write::Apply { object, .. } = write else {
        panic!("an apply is expected")
    };
    assert_eq!(object.at("/revision"), 4);
    assert_eq!(object.at("/data"), stored.at("/data"));
}

#[test]
fn a_changed_template_is_refused() {
    let mut stored = stored();
    stored.value_mut()["data"]["template"]["spec"]["containers"][0]["image"] = json!("evil:1");
    let error = revision::decode(&stored).unwrap_err();
    assert!(matches!(error, RevisionError::Tampered { .. }));
    assert!(
        error
            .to_string()
            .contains("was changed after it was judged and is refused"),
        "{error}"
    );
    stored.value_mut()["data"] = json!({"revision": "s1:1"});
    assert!(
        revision::decode(&stored)
            .unwrap_err()
            .to_string()
            .contains("data.template is missing")
    );
}

#[test]
fn long_names_stay_valid() {
    let mut canary = canary();
    canary.metadata.name = "x".repeat(253);
    assert!(revision::object_ref(&canary, &kept().hash).name.len() <= 253);
    let label = revision::labels(&canary)[revision::CANARY_LABEL].clone();
    assert!(label.len() <= 63 && label.starts_with('x'), "{label}");
}

#[test]
fn only_the_newest_and_those_in_use_stay() {
    let revisions: Vec<Object> = (1..=5)
        .map(|number| {
            object(&format!(
                "{{kind: ControllerRevision, metadata: {{name: r{number}, namespace: shop}}, revision: {number}}}"
            ))
        })
        .collect();
    let in_use = BTreeSet::from(["r1".to_owned()]);
    let names: Vec<String> = revision::expired(&revisions, &in_use, 2)
        .into_iter()
        .map(|object| object.name().to_owned())
        .collect();
    assert_eq!(names, ["r3", "r2"]);
}
