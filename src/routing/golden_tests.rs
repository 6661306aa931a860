//! Golden cases of all routers, folders below `tests/fixtures/`: each has `canary.yaml`, `request.yaml` (`weight`, `mirrored`, `cookies`, and
//! what else its router needs to know) and the objects that must be written, one document for each. `UPDATE_GOLDEN=1` rewrites those; read
//! the difference before it is committed.

use super::*;
use crate::object::{APPLIED_ANNOTATION, canonical_json};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

/// One case.
pub struct Case {
    pub name: String,
    folder: PathBuf,
    pub canary: Canary,
    /// `request.yaml`.
    pub wish: Value,
}

pub fn yaml(text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap()
}

/// What a controller without any flags has.
pub static SETTINGS: LazyLock<RoutingSettings> = LazyLock::new(RoutingSettings::default);

/// A canary, as it stands in a file.
pub fn canary(text: &str) -> Canary {
    Canary::decode(&yaml(text)).unwrap()
}

/// Asks for a split, with nothing beside it.
pub fn request(canary: &Canary, split: Split) -> RouteRequest<'_> {
    RouteRequest {
        canary,
        settings: &SETTINGS,
        split,
        revisions: Revisions::default(),
        cookies: Cookies::default(),
        selector_label: Some("app"),
    }
}

fn folder_of(kind: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(kind)
}

/// All cases of a kind, of which there are so many at least.
pub fn cases(kind: &str, least: usize) -> Vec<Case> {
    let mut names: Vec<String> = std::fs::read_dir(folder_of(kind))
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert!(names.len() >= least, "cases of {kind} are missing");
    names.iter().map(|name| Case::of(kind, name)).collect()
}

impl Case {
    pub fn of(kind: &str, name: &str) -> Self {
        let folder = folder_of(kind).join(name);
        let text = |file: &str| std::fs::read_to_string(folder.join(file)).unwrap();
        Self {
            name: name.to_owned(),
            canary: Canary::decode(&yaml(&text("canary.yaml"))).unwrap(),
            wish: yaml(&text("request.yaml")),
            folder,
        }
    }

    /// A further file of the case, where it has it.
    pub fn beside(&self, file: &str) -> Option<Value> {
        let text = std::fs::read_to_string(self.folder.join(file)).ok()?;
        Some(yaml(&text))
    }

    pub fn split(&self) -> Split {
        Split {
            canary: Weight::clamped(self.wish["weight"].as_i64().unwrap()),
            mirrored: self.wish["mirrored"].as_bool().unwrap_or(false),
        }
    }

    pub fn request<'a>(&'a self, settings: &'a RoutingSettings) -> RouteRequest<'a> {
        let cookie = |key: &str| self.wish["cookies"][key].as_str().map(str::to_owned);
        RouteRequest {
            canary: &self.canary,
            settings,
            split: self.split(),
            revisions: Revisions::default(),
            cookies: Cookies {
                canary: cookie("canary"),
                primary: cookie("primary"),
                previous: cookie("previous"),
            },
            selector_label: Some("app"),
        }
    }

    /// What is written, in place of what `file` has; `None` where it is the same. The seal is left out: it follows from the rest.
    pub fn difference(&self, file: &str, writes: &[Write]) -> Option<String> {
        let found: Vec<Value> = writes
            .iter()
            .map(|write| {
                let Write::Apply { object, .. } = write else {
                    panic!("{}: {write:?}", self.name);
                };
                let mut object = object.value().clone();
                let annotations = object["metadata"]["annotations"].as_object_mut();
                annotations.unwrap().remove(APPLIED_ANNOTATION);
                object
            })
            .collect();
        let documents = found
            .iter()
            .map(|one| serde_saphyr::to_string(one).unwrap());
        let text = documents.collect::<Vec<_>>().join("---\n");
        let path = self.folder.join(file);
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&path, &text).unwrap();
        }
        let expected: Vec<Value> = std::fs::read_to_string(&path)
            .unwrap()
            .split("---\n")
            .filter(|document| !document.trim().is_empty())
            .map(yaml)
            .collect();
        (canonical_json(&json!(expected)) != canonical_json(&json!(found)))
            .then(|| format!("{}:\n{text}", path.display()))
    }
}
