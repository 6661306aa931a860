//! The CRDs, checked from outside: `crds/` is what the types say, every field is explained, everything that Flagger's
//! CRDs accept is accepted and kept by ours, and whatever is accepted survives a trip through our types.
//!
//! `SERIN_UPDATE=1 cargo test --test crds` writes `crds/` anew.

#![allow(clippy::unwrap_used, clippy::doc_markdown)]

mod acceptance;
mod drawing;
mod generated;
mod round_trip;
mod structural;

use serde_json::Value;
use std::path::PathBuf;
use std::sync::LazyLock;

/// A path inside the repository.
fn in_repository(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Flagger's CRDs, in the order Canary, MetricTemplate, AlertProvider.
fn flagger() -> &'static [Value] {
    static DEFINITIONS: LazyLock<Vec<Value>> = LazyLock::new(|| {
        let text =
            std::fs::read_to_string(in_repository("tests/fixtures/flagger-crds.yaml")).unwrap();
        text.split("\n---\n")
            .map(|document| serde_saphyr::from_str(document).unwrap())
            .collect()
    });
    assert_eq!(DEFINITIONS.len(), 3);
    &DEFINITIONS
}

/// Our CRDs in the same order.
fn ours() -> &'static [Value] {
    static DEFINITIONS: LazyLock<Vec<Value>> = LazyLock::new(|| {
        serin::api::crd::all()
            .into_iter()
            .map(|(_, definition)| definition)
            .collect()
    });
    &DEFINITIONS
}

/// The schema of the only version of a CRD.
fn schema(definition: &Value) -> &Value {
    &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
}
