//! The custom resources on a real API server: nothing that Flagger's users write is refused or pruned, `kubectl` explains and lists it, and
//! an object that means nothing disturbs no other.
//!
//! What would be acted on by a controller on the same bed is created as a dry run: the server decodes, defaults, prunes and validates as
//! ever, and stores nothing.
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use tokio::process::Command;

use super::shop::{self, PATIENCE};
use crate::bed::{Bed, Namespace};
use crate::tools::project_root;

const GROUP: &str = "flagger.app/v1beta1";

pub async fn run(bed: &Bed) -> Result<()> {
    let place = bed.scenario_namespace("custom-resources").await?;
    fixtures_come_back_whole(bed, &place).await?;
    a_fraction_is_accepted(bed, &place).await?;
    the_status_comes_back_whole(bed, &place).await?;
    kubectl_explains(bed).await?;
    an_odd_canary_disturbs_no_other(bed, &place).await?;
    kubectl_lists(bed, &place).await?;
    what_is_made_is_put_over_nothing(bed, &place).await
}

/// How Serin makes objects: an apply with version 1, which no object has, creates where there is none and is a conflict otherwise.
async fn what_is_made_is_put_over_nothing(bed: &Bed, place: &Namespace<'_>) -> Result<()> {
    let maps: kube::Api<k8s_openapi::api::core::v1::ConfigMap> =
        kube::Api::namespaced(bed.client(), place.name());
    let made = |value: &str| {
        Patch::Apply(json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "made-once", "resourceVersion": "1"},
            "data": {"by": value},
        }))
    };
    let parameters = PatchParams::apply("serin").force();
    maps.patch("made-once", &parameters, &made("one")).await?;
    match maps.patch("made-once", &parameters, &made("another")).await {
        Err(kube::Error::Api(status)) if status.code == 409 => {}
        other => bail!("expected a conflict with what is there, found {other:?}"),
    }
    let kept = maps.get("made-once").await?.data.unwrap_or_default();
    ensure!(
        kept.get("by").is_some_and(|by| by == "one"),
        "expected what was made first, found {kept:?}"
    );
    Ok(())
}

fn yaml_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "yaml")
        {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Every form of a Canary that is kept as a fixture is accepted, and no field of it is lost.
async fn fixtures_come_back_whole(bed: &Bed, place: &Namespace<'_>) -> Result<()> {
    let files = yaml_files(&project_root()?.join("tests/fixtures/canaries"))?;
    ensure!(!files.is_empty(), "expected fixtures, found none");
    let mut wrong = Vec::new();
    for file in &files {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let text = std::fs::read_to_string(file)?;
        let documents: Vec<Value> = serde_saphyr::from_multiple(&text)?;
        for document in documents {
            match create_dry(bed, place, document.clone()).await {
                Err(error) => wrong.push(format!("{name} is refused: {error:#}")),
                Ok(back) => wrong.extend(
                    lost(&document["spec"], &back["spec"], "spec")
                        .into_iter()
                        .map(|path| format!("{name} loses {path}")),
                ),
            }
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    println!("        {} fixtures come back whole", files.len());
    Ok(())
}

/// The object as the API server would store it in the scenario's namespace.
async fn create_dry(bed: &Bed, place: &Namespace<'_>, mut document: Value) -> Result<Value> {
    document["metadata"]["namespace"] = json!(place.name());
    let kind = document["kind"].as_str().context("no kind")?.to_owned();
    let version = document["apiVersion"]
        .as_str()
        .context("no apiVersion")?
        .to_owned();
    let params = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    let api = bed.api_of(&version, &kind, place.name()).await?;
    let created = api
        .create(&params, &serde_json::from_value(document)?)
        .await?;
    Ok(serde_json::to_value(created)?)
}

/// The paths of what was sent and did not come back as it was; what the server adds is no loss.
fn lost(sent: &Value, back: &Value, path: &str) -> Vec<String> {
    match (sent, back) {
        (Value::Object(sent), Value::Object(back)) => sent
            .iter()
            .flat_map(|(key, value)| {
                lost(
                    value,
                    back.get(key).unwrap_or(&Value::Null),
                    &format!("{path}.{key}"),
                )
            })
            .collect(),
        (Value::Array(sent), Value::Array(back)) if sent.len() == back.len() => sent
            .iter()
            .zip(back)
            .enumerate()
            .flat_map(|(at, (sent, back))| lost(sent, back, &format!("{path}[{at}]")))
            .collect(),
        _ if sent == back
            || sent
                .as_f64()
                .is_some_and(|sent| back.as_f64() == Some(sent)) =>
        {
            Vec::new()
        }
        _ => vec![format!("{path}: sent {sent}, came back {back}")],
    }
}

fn canary(name: &str, analysis: &Value) -> Value {
    json!({
        "apiVersion": GROUP, "kind": "Canary", "metadata": {"name": name},
        "spec": {
            "provider": "kubernetes",
            "targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
            "service": {"port": 80, "targetPort": 8080},
            "analysis": analysis,
        },
    })
}

/// Flagger's schema takes any number there, so ours must, or objects that are stored already could not be written any more.
async fn a_fraction_is_accepted(bed: &Bed, place: &Namespace<'_>) -> Result<()> {
    let fraction = canary(
        "fraction",
        &json!({"interval": "5s", "threshold": 3, "stepWeight": 2.5}),
    );
    let back = create_dry(bed, place, fraction).await?;
    ensure!(
        back["spec"]["analysis"]["stepWeight"] == 2.5,
        "expected stepWeight 2.5, found {}",
        back["spec"]["analysis"]
    );
    Ok(())
}

/// A status with every field that Serin writes goes through the status subresource and comes back as it was.
async fn the_status_comes_back_whole(bed: &Bed, place: &Namespace<'_>) -> Result<()> {
    let mut object = canary(
        "status",
        &json!({"interval": "5s", "threshold": 3, "iterations": 2}),
    );
    object["spec"]["suspend"] = json!(true);
    place.apply(&object.to_string()).await?;
    let status: Value = serde_json::from_str(include_str!("full_status.json"))?;
    no_field_is_forgotten(&status)?;
    let api = bed.api_of(GROUP, "Canary", place.name()).await?;
    let params = PatchParams {
        dry_run: true,
        ..PatchParams::default()
    };
    let patch = Patch::Merge(json!({"status": status}));
    let back = api.patch_status("status", &params, &patch).await?;
    let wrong = lost(&status, &back.data["status"], "status");
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    api.delete("status", &kube::api::DeleteParams::default())
        .await?;
    Ok(())
}

/// The status that is tried has each field of the schema; a new field must be added to it.
fn no_field_is_forgotten(status: &Value) -> Result<()> {
    fn missing(schema: &Value, value: &Value, path: &str) -> Vec<String> {
        if let Some(properties) = schema["properties"].as_object() {
            return properties
                .iter()
                .flat_map(|(key, schema)| missing(schema, &value[key], &format!("{path}.{key}")))
                .collect();
        }
        if schema["items"].is_object() {
            return missing(&schema["items"], &value[0], &format!("{path}[0]"));
        }
        if value.is_null() {
            vec![path.to_owned()]
        } else {
            Vec::new()
        }
    }
    let schema = canary_schema()?;
    let missing = missing(&schema["properties"]["status"], status, "status");
    ensure!(
        missing.is_empty(),
        "full_status.json should have these fields of crds/canary.yaml too: {}",
        missing.join(", ")
    );
    Ok(())
}

fn canary_schema() -> Result<Value> {
    let text = std::fs::read_to_string(project_root()?.join("crds/canary.yaml"))?;
    let options = serde_saphyr::options! { budget: None };
    let definition: Value = serde_saphyr::from_str_with_options(&text, options)?;
    Ok(definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone())
}

async fn kubectl(bed: &Bed, arguments: &[&str]) -> Result<String> {
    let output = Command::new(&bed.tools().kubectl)
        .args(arguments)
        .env("KUBECONFIG", bed.kubeconfig("admin"))
        .output()
        .await?;
    if !output.status.success() {
        bail!(
            "kubectl {} failed with {}: {}",
            arguments.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// One space where there is white space.
fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// `kubectl explain` says what `crds/` says.
async fn kubectl_explains(bed: &Bed) -> Result<()> {
    let schema = canary_schema()?;
    let analysis = &schema["properties"]["spec"]["properties"]["analysis"];
    for (path, schema) in [
        ("canary.spec.analysis", analysis),
        (
            "canary.spec.analysis.interval",
            &analysis["properties"]["interval"],
        ),
    ] {
        let description = words(schema["description"].as_str().unwrap_or_default());
        ensure!(
            !description.is_empty(),
            "crds/canary.yaml should describe {path}"
        );
        // The server learns of a new kind's schema a moment after the kind itself.
        bed.wait(
            &format!("kubectl explain {path} to say {description:?}"),
            Duration::from_secs(30),
            async || {
                let said = words(&kubectl(bed, &["explain", path]).await?);
                Ok(said.contains(&description).then_some(()))
            },
        )
        .await?;
    }
    Ok(())
}

/// An object that means nothing says so, and its neighbour is served as ever.
async fn an_odd_canary_disturbs_no_other(bed: &Bed, place: &Namespace<'_>) -> Result<()> {
    shop::serin(bed).await?;
    let odd = canary(
        "odd",
        &json!({"interval": "5s", "threshold": 3, "stepWeight": 2.5}),
    );
    place.apply(&odd.to_string()).await?;
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "sound"},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": {"app": "sound"}},
            "template": {
                "metadata": {"labels": {"app": "sound"}},
                "spec": {"containers": [{"name": "app", "image": "nothing-runs:1.0.0", "ports": [{"containerPort": 8080}]}]},
            },
        },
    });
    let sound = canary(
        "sound",
        &json!({"interval": "5s", "threshold": 3, "iterations": 2}),
    );
    place.apply(&format!("{deployment}\n---\n{sound}")).await?;
    place.wait_phase("sound", "Initialized", PATIENCE).await?;
    bed.wait("the odd Canary to be refused", PATIENCE, async || {
        let odd = place.canary("odd").await?;
        let conditions = odd.data["status"]["conditions"].as_array().cloned();
        Ok(conditions
            .unwrap_or_default()
            .iter()
            .any(|condition| condition["type"] == "Accepted" && condition["status"] == "False")
            .then_some(()))
    })
    .await
}

/// The columns that Flagger's users know.
async fn kubectl_lists(bed: &Bed, place: &Namespace<'_>) -> Result<()> {
    let arguments = ["get", "canary", "sound", "-o", "wide", "-n", place.name()];
    let table = kubectl(bed, &arguments).await?;
    let mut lines = table.lines();
    let heading: Vec<&str> = lines
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    let row: Vec<&str> = lines
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    ensure!(
        heading.starts_with(&[
            "NAME",
            "STATUS",
            "WEIGHT",
            "SUSPENDED",
            "FAILEDCHECKS",
            "INTERVAL"
        ]) && row.starts_with(&["sound", "Initialized", "0"])
            && row.contains(&"5s"),
        "expected name, phase, weight and interval, found:\n{table}"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_is_told_by_its_path_and_an_addition_is_none() {
        let sent = json!({"a": [{"b": 1, "c": "x"}], "d": 2});
        let back = json!({"a": [{"b": 1.0}], "d": 2, "e": 3});
        assert_eq!(
            lost(&sent, &back, "spec"),
            ["spec.a[0].c: sent \"x\", came back null"]
        );
    }
}
