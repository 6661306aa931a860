//! A Knative Service, whose Revisions are the two sides. Nobody runs Knative here: a stand-in makes Revisions and reports as Knative's
//! controller does, at the real API server.
use std::convert::Infallible;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use serde_json::json;

use super::PATIENCE;
use crate::bed::{Bed, Namespace};

/// The version of Knative's Services.
pub const SERVING: &str = "serving.knative.dev/v1";
const NAME: &str = "knative";
const PRIMARY: &str = "flagger.app/primary-revision";

const OBJECTS: &str = r#"
apiVersion: flagger.app/v1beta1
kind: MetricTemplate
metadata: {name: one}
spec:
  provider: {type: prometheus, address: "http://127.0.0.1:9090"}
  query: vector(1)
---
apiVersion: serving.knative.dev/v1
kind: Service
metadata: {name: knative}
spec:
  template: {spec: {containers: [{image: "serin-demo-app:1.0.0"}], theirs: {kept: [1, 2]}}}
  traffic: [{latestRevision: true, percent: 100}, {latestRevision: true, tag: next, theirs: 1}]
---
apiVersion: flagger.app/v1beta1
kind: Canary
metadata: {name: knative}
spec:
  provider: knative
  targetRef: {apiVersion: serving.knative.dev/v1, kind: Service, name: knative}
  progressDeadlineSeconds: 60
  analysis:
    interval: 2s
    threshold: 2
    stepWeight: 30
    maxWeight: 60
    metrics: [{name: one, templateRef: {name: one}, thresholdRange: {min: 1}}]
"#;

/// The release that comes good, the edit that is put back, and the release that does not.
pub async fn run(bed: &Bed, place: &Namespace<'_>) -> Result<()> {
    place.apply(OBJECTS).await?;
    let knative = StandIn::of(bed, place, NAME).await?;
    let story = Story {
        bed,
        place,
        services: knative.services.clone(),
    };
    tokio::select! {
        stopped = knative.run() => match stopped? {},
        told = story.run() => told,
    }
}

/// What Knative's controller does for one Service, as far as it shows in objects.
pub struct StandIn {
    name: String,
    services: Api<DynamicObject>,
    revisions: Api<DynamicObject>,
}

impl StandIn {
    /// For the Service of this name, which may come later.
    pub async fn of(bed: &Bed, place: &Namespace<'_>, name: &str) -> Result<Self> {
        Ok(Self {
            name: name.to_owned(),
            services: bed.api_of(SERVING, "Service", place.name()).await?,
            revisions: bed.api_of(SERVING, "Revision", place.name()).await?,
        })
    }

    /// Does it until it is dropped.
    pub async fn run(&self) -> Result<Infallible> {
        let mut ticks = tokio::time::interval(Duration::from_millis(100));
        loop {
            ticks.tick().await;
            if let Some(service) = self.services.get_opt(&self.name).await? {
                self.report(&service).await?;
            }
        }
    }

    async fn report(&self, service: &DynamicObject) -> Result<()> {
        let before = &service.data["status"];
        let generation = service.metadata.generation;
        if before["observedGeneration"] == json!(generation) {
            return Ok(());
        }
        let template = &service.data["spec"]["template"];
        let mut latest = before["latestCreatedRevisionName"]
            .as_str()
            .map_or_else(|| self.revision(0), str::to_owned);
        let known = self.revisions.get_opt(&latest).await?;
        if known.is_none_or(|known| known.data["spec"] != template["spec"]) {
            let number: u32 = latest
                .rsplit('-')
                .next()
                .unwrap_or_default()
                .parse()
                .context("the number of a revision")?;
            latest = self.revision(number + 1);
            let revision = json!({
                "apiVersion": SERVING, "kind": "Revision", "metadata": {"name": latest}, "spec": template["spec"],
            });
            self.revisions
                .patch(&latest, &manager(), &Patch::Apply(&revision))
                .await?;
            let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
            self.revisions
                .patch_status(&latest, &PatchParams::default(), &Patch::Merge(&ready))
                .await?;
        }
        let status = json!({"status": {
            "observedGeneration": generation,
            "latestCreatedRevisionName": latest,
            "latestReadyRevisionName": latest,
            "conditions": [{"type": "RoutesReady", "status": "True"}],
        }});
        self.services
            .patch_status(&self.name, &PatchParams::default(), &Patch::Merge(&status))
            .await?;
        Ok(())
    }

    fn revision(&self, number: u32) -> String {
        format!("{}-{number:05}", self.name)
    }
}

fn manager() -> PatchParams {
    PatchParams::apply("knative")
}

struct Story<'a> {
    bed: &'a Bed,
    place: &'a Namespace<'a>,
    services: Api<DynamicObject>,
}

impl Story<'_> {
    async fn run(&self) -> Result<()> {
        self.place.wait_phase(NAME, "Initialized", PATIENCE).await?;
        ensure!(self.shares().await? == [("knative-00001".to_owned(), 100)]);
        self.release("2.0.0").await?;
        let seen = self.shares_until("Succeeded").await?;
        let expected = [
            vec![("knative-00001".to_owned(), 100)],
            two(70, 30),
            two(40, 60),
            vec![("knative-00002".to_owned(), 100)],
        ];
        ensure!(seen == expected, "expected {expected:?}, saw {seen:?}");
        self.edit_is_put_back().await?;
        self.nothing_else_was_made_or_lost().await?;

        let bad = json!({"spec": {"analysis": {"metrics": [
            {"name": "one", "templateRef": {"name": "one"}, "thresholdRange": {"min": 2}},
        ]}}});
        self.place
            .patch("flagger.app/v1beta1", "Canary", NAME, &bad)
            .await?;
        self.release("3.0.0").await?;
        let seen = self.shares_until("Failed").await?;
        ensure!(
            seen.last() == Some(&vec![("knative-00002".to_owned(), 100)])
                && seen.iter().any(|shares| shares.len() == 2),
            "a bad revision should have had traffic and lost it: {seen:?}"
        );
        Ok(())
    }

    /// Who gets how much; entries with a tag get nothing.
    async fn shares(&self) -> Result<Vec<(String, i64)>> {
        let service = self.services.get(NAME).await?;
        let entries = service.data["spec"]["traffic"]
            .as_array()
            .with_context(|| format!("no traffic list: {}", service.data))?;
        let mut shares = Vec::new();
        for entry in entries {
            let percent = entry["percent"].as_i64().unwrap_or(0);
            if percent > 0 {
                let name = entry["revisionName"].as_str().unwrap_or("latest");
                shares.push((name.to_owned(), percent));
            }
        }
        let sum: i64 = shares.iter().map(|(_, percent)| percent).sum();
        ensure!(sum == 100, "{shares:?} is not whole");
        Ok(shares)
    }

    async fn release(&self, version: &str) -> Result<()> {
        let image = format!("serin-demo-app:{version}");
        let patch = json!({"spec": {"template": {"spec": {"containers": [{"image": image}]}}}});
        self.place.patch(SERVING, "Service", NAME, &patch).await?;
        Ok(())
    }

    /// Every list that there was until the phase was reached and one revision has all, without repetitions.
    async fn shares_until(&self, phase: &str) -> Result<Vec<Vec<(String, i64)>>> {
        let mut seen = vec![self.shares().await?];
        self.bed
            .wait(
                &format!("the release of {NAME} to be {phase}"),
                PATIENCE,
                async || {
                    let canary = self.place.canary(NAME).await?;
                    let shares = self.shares().await?;
                    if seen.last() != Some(&shares) {
                        seen.push(shares.clone());
                    }
                    let status = &canary.data["status"];
                    let done = status["phase"] == phase && shares.len() == 1 && seen.len() > 1;
                    Ok(done.then_some(()))
                },
            )
            .await?;
        Ok(seen)
    }

    async fn edit_is_put_back(&self) -> Result<()> {
        let patch = json!({"spec": {"traffic": [{"latestRevision": true, "percent": 50}, {"revisionName": "knative-00001", "percent": 50}]}});
        let params = PatchParams {
            field_manager: Some("somebody".to_owned()),
            ..PatchParams::default()
        };
        self.services
            .patch(NAME, &params, &Patch::Merge(&patch))
            .await?;
        self.bed
            .wait(
                "the edit of the traffic list to be put back",
                Duration::from_secs(10),
                async || {
                    let shares = self.shares().await?;
                    Ok((shares == [("knative-00002".to_owned(), 100)]).then_some(()))
                },
            )
            .await
    }

    async fn nothing_else_was_made_or_lost(&self) -> Result<()> {
        let service = self.services.get(NAME).await?;
        let template = &service.data["spec"]["template"]["spec"];
        ensure!(
            template["theirs"] == json!({"kept": [1, 2]}),
            "a field of the template is gone: {template}"
        );
        let named = service.metadata.annotations.unwrap_or_default();
        ensure!(
            named
                .get(PRIMARY)
                .is_some_and(|name| name == "knative-00002"),
            "{PRIMARY} should name what was promoted: {named:?}"
        );
        for (version, kind, name) in [
            ("apps/v1", "Deployment", "knative-primary"),
            ("v1", "Service", "knative-primary"),
            ("v1", "Service", "knative-canary"),
            ("v1", "Service", NAME),
        ] {
            let api = self.bed.api_of(version, kind, self.place.name()).await?;
            ensure!(
                api.get_opt(name).await?.is_none(),
                "{kind} {name} was made, and nobody needs it"
            );
        }
        Ok(())
    }
}

fn two(primary: i64, canary: i64) -> Vec<(String, i64)> {
    vec![
        ("knative-00001".to_owned(), primary),
        ("knative-00002".to_owned(), canary),
    ]
}
