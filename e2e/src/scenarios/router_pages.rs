//! The pages of `docs/routers/` as a newcomer follows them: what a page's `yaml` blocks hold is applied as it stands, a release is made, and
//! at the weight that the page shows Serin's objects must say what the page says they do.
//!
//! What a block is, is told by rules that every page keeps, so that a new page is followed without a word here:
//!
//! | block | is |
//! |---|---|
//! | of kind Canary | an example: it is followed |
//! | after a paragraph with "At a weight of N" | what an object of the example before it says then |
//! | any other whole object | the user's own, applied before the Canaries below it |
//! | without `apiVersion` and `kind` | a part, to be put into an example; it is not followed |
//!
//! What stands in the namespace `test` belongs to its example, which gets a namespace and host names of its own; whatever else there is
//! belongs to the cluster and is there first. The Deployment is that of `docs/routers/README.md`. Nobody waits for minutes: the interval
//! of an applied Canary is made short. And no mesh counts requests here: a stand-in for Prometheus answers, and holds the run by keeping
//! silent.
mod prometheus;

use std::convert::Infallible;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use futures::{StreamExt, stream};
use serde_json::{Value, json};

use self::prometheus::Prometheus;
use super::pages::{self, blocks, lacking, quoted, rows};
use super::shop::{Gateway, PATIENCE};
use super::{own_route, without_plane};
use crate::bed::process::exit_code;
use crate::bed::{Bed, Namespace};
use crate::tools::project_root;

const FOLDER: &str = "routers";
/// The namespace of all examples on the pages.
const NAMESPACE: &str = "test";
/// Host names on the pages end with this.
const DOMAIN: &str = ".example.com";
/// Examples that are followed at a time.
const AT_ONCE: usize = 5;

/// One example of a page.
#[derive(Debug, Clone)]
struct Story {
    /// `contour.md:30`
    place: String,
    /// Of its namespace.
    name: String,
    /// The user's own objects.
    own: Vec<Value>,
    canary: Value,
    /// What objects say at which weight.
    shown: Vec<(i64, Value)>,
}

/// The weight at which a paragraph says that an object says something.
fn weight_of(lead: &str) -> Result<Option<i64>> {
    let Some((_, rest)) = lead.split_once("At a weight of ") else {
        return Ok(None);
    };
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits
        .parse()
        .map(Some)
        .with_context(|| format!("expected a number in {lead:?}"))
}

fn is_in_examples(object: &Value) -> bool {
    object["metadata"]["namespace"] == NAMESPACE
}

/// The examples of a page, and what it brings to the cluster.
fn stories(page: &str, text: &str) -> Result<(Vec<Story>, Vec<Value>)> {
    let mut stories: Vec<Story> = Vec::new();
    let (mut own, mut cluster) = (Vec::new(), Vec::new());
    for block in blocks(text).with_context(|| format!("{page}.md"))? {
        let place = format!("{page}.md:{}", block.line);
        if !block.is_object() {
            continue;
        }
        if let Some(weight) = weight_of(&block.lead).context(place.clone())? {
            let story = stories.last_mut();
            let story = story.with_context(|| format!("{place}: there is no Canary before it"))?;
            story.shown.push((weight, block.value));
        } else if block.is_kind("Canary") {
            ensure!(
                is_in_examples(&block.value),
                "{place}: expected a Canary of namespace {NAMESPACE}"
            );
            stories.push(Story {
                name: format!("page-{page}-{}", stories.len() + 1),
                place,
                own: own.clone(),
                canary: block.value,
                shown: Vec::new(),
            });
        } else if is_in_examples(&block.value) {
            own.push(block.value);
        } else {
            cluster.push(block.value);
        }
    }
    ensure!(
        !stories.is_empty(),
        "{page}.md has no example: expected a whole Canary in a yaml block"
    );
    for story in &mut stories {
        ensure!(
            !story.shown.is_empty(),
            "{}: expected a block after it with what an object says \"At a weight of N\"",
            story.place
        );
        story.shown.sort_by_key(|(weight, _)| *weight);
    }
    let others = variants(text, &stories[0])?;
    stories.extend(others);
    Ok((stories, cluster))
}

/// The first example with the other providers of the page's table of them: the object's version and the form of its weights differ.
fn variants(text: &str, story: &Story) -> Result<Vec<Story>> {
    let mut variants = Vec::new();
    for row in rows(text, "`spec.provider`") {
        let [providers, version, weight] = row.as_slice() else {
            bail!("{}: expected three cells in {row:?}", story.place)
        };
        let version = *quoted(version).first().context("a version")?;
        let as_text = weight.contains('"');
        for provider in quoted(providers) {
            if story.canary["spec"]["provider"] == provider {
                continue;
            }
            let mut other = story.clone();
            other.name = format!("page-{}", provider.replace(':', "-"));
            other.canary["spec"]["provider"] = json!(provider);
            for (_, shown) in &mut other.shown {
                shown["apiVersion"] = json!(version);
                if !as_text {
                    weights_as_numbers(shown);
                }
            }
            variants.push(other);
        }
    }
    Ok(variants)
}

fn weights_as_numbers(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                let number = value.as_str().and_then(|text| text.parse::<i64>().ok());
                match number.filter(|_| key == "weight") {
                    Some(number) => *value = json!(number),
                    None => weights_as_numbers(value),
                }
            }
        }
        Value::Array(entries) => entries.iter_mut().for_each(weights_as_numbers),
        _ => {}
    }
}

/// A block with another namespace and host names of this namespace.
fn moved(value: &Value, namespace: &str) -> Value {
    match value {
        Value::String(text) => {
            let text = text.replace(DOMAIN, &format!(".{namespace}{DOMAIN}"));
            Value::String(with_word(&text, NAMESPACE, namespace))
        }
        Value::Array(entries) => entries
            .iter()
            .map(|entry| moved(entry, namespace))
            .collect(),
        Value::Object(fields) => fields
            .iter()
            .map(|(key, value)| (key.clone(), moved(value, namespace)))
            .collect(),
        other => other.clone(),
    }
}

/// A text with a word replaced, wherever it stands alone or between other signs than letters.
fn with_word(text: &str, word: &str, by: &str) -> String {
    text.split_inclusive(|sign: char| !sign.is_alphanumeric())
        .map(|part| {
            let bare = part.trim_end_matches(|sign: char| !sign.is_alphanumeric());
            if bare == word {
                format!("{by}{}", &part[bare.len()..])
            } else {
                part.to_owned()
            }
        })
        .collect()
}

/// The examples of all pages, and what belongs to the cluster.
fn all() -> Result<(Vec<Story>, Vec<Value>)> {
    let (mut every, mut cluster) = (Vec::new(), Vec::new());
    for (page, text) in pages::of_folder(FOLDER)? {
        let (stories, more) = stories(&page, &text)?;
        every.extend(stories);
        cluster.extend(more);
    }
    Ok((every, cluster))
}

/// The Deployment of the page that lists the others.
fn app() -> Result<Value> {
    let page = std::fs::read_to_string(project_root()?.join("docs/routers/README.md"))?;
    blocks(&page)?
        .into_iter()
        .find(|block| block.is_kind("Deployment"))
        .map(|block| block.value)
        .context("docs/routers/README.md has no Deployment")
}

/// The same for the target of a Canary, with the program that there is here, at the port that its Service leads to.
fn deployment(app: &Value, canary: &Value) -> Result<Value> {
    let from = app["metadata"]["name"].to_string();
    let name = &canary["spec"]["targetRef"]["name"];
    let mut app: Value = serde_json::from_str(&app.to_string().replace(&from, &name.to_string()))?;
    let container = &mut app["spec"]["template"]["spec"]["containers"][0];
    let service = &canary["spec"]["service"];
    if service["targetPort"].is_null() {
        container["ports"][0]["containerPort"] = service["port"].clone();
    }
    let port = container["ports"][0]["containerPort"].to_string();
    container["image"] = json!("serin-demo-app:1.0.0");
    container["env"] = json!([{"name": "PORT", "value": port}]);
    let container = container.clone();
    ensure!(
        container["ports"][0]["containerPort"].is_u64(),
        "expected a port in {container}"
    );
    Ok(app)
}

pub async fn run(bed: &Bed) -> Result<()> {
    let (stories, cluster) = all()?;
    let app = app()?;
    for gateway in [Gateway::Contour, Gateway::Ingress, Gateway::Istio] {
        gateway.start(bed).await?;
    }
    bed.apply(without_plane::DEFINITIONS).await?;
    bed.apply(own_route::OTHER_KIND).await?;
    for object in &cluster {
        if let Some(namespace) = object["metadata"]["namespace"].as_str() {
            bed.namespace(namespace).await?;
        }
        bed.apply(&object.to_string()).await?;
        if object["kind"] == "ClusterRole" {
            bed.apply(&bound(object).to_string()).await?;
        }
    }
    let prometheus = Prometheus::start(bed).await?;
    let serin = bed.start_serin([
        "--metrics-server",
        prometheus.address(),
        "--log-level",
        "debug",
    ])?;
    let told: Vec<Result<()>> = stream::iter(&stories)
        .map(|story| async {
            let tale = Tale::begin(bed, &prometheus, story).await?;
            let told = tale.tell(&app).await;
            told.with_context(|| format!("{} in {}", story.place, tale.place.name()))
        })
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    let wrong: Vec<String> = told
        .into_iter()
        .filter_map(|told| told.err().map(|error| format!("{error:#}")))
        .collect();
    ensure!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    println!("        {} examples of docs/routers", stories.len());
    let status = serin.stop().await?;
    ensure!(exit_code(status) == 0, "the controller ended with {status}");
    Ok(())
}

/// A role that a page brings, bound to the controller as the page asks.
fn bound(role: &Value) -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": role["metadata"],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role["metadata"]["name"]},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "serin"}],
    })
}

/// One example that is being followed.
struct Tale<'a> {
    bed: &'a Bed,
    prometheus: &'a Prometheus,
    place: Namespace<'a>,
    story: &'a Story,
    canary: String,
    /// `apiVersion`, kind and name of the target.
    target: (String, String, String),
}

impl<'a> Tale<'a> {
    async fn begin(bed: &'a Bed, prometheus: &'a Prometheus, story: &'a Story) -> Result<Self> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let target = &story.canary["spec"]["targetRef"];
        Ok(Self {
            bed,
            prometheus,
            place: bed.scenario_namespace(&story.name).await?,
            story,
            canary: text(&story.canary["metadata"]["name"]),
            target: (
                text(&target["apiVersion"]),
                text(&target["kind"]),
                text(&target["name"]),
            ),
        })
    }

    async fn tell(&self, app: &Value) -> Result<()> {
        let namespace = self.place.name();
        if self.target.1 == "Deployment" {
            let app = moved(&deployment(app, &self.story.canary)?, namespace);
            self.place.apply(&app.to_string()).await?;
        }
        for object in self.story.own.iter().chain([&self.story.canary]) {
            let object = moved(object, namespace);
            self.place.apply(&object.to_string()).await?;
        }
        let followed = async {
            let told = self.follow().await;
            // What the canary says of it may help.
            match (&told, self.place.canary(&self.canary).await) {
                (Err(_), Ok(canary)) => told.context(ready(&canary.data["status"])),
                _ => told,
            }
        };
        tokio::select! {
            stopped = self.stand_in() => match stopped? {},
            told = followed => told,
        }
    }

    /// Whoever does what the mesh would do, where the run can't go on without.
    async fn stand_in(&self) -> Result<Infallible> {
        let (version, kind, name) = &self.target;
        if version == without_plane::knative::SERVING {
            ensure!(
                kind == "Service",
                "expected a Knative Service, found {kind}"
            );
            let knative = without_plane::knative::StandIn::of(self.bed, &self.place, name).await?;
            return knative.run().await;
        }
        std::future::pending().await
    }

    async fn follow(&self) -> Result<()> {
        let hurry = json!({"spec": {"analysis": {"interval": "2s"}}});
        self.place
            .patch("flagger.app/v1beta1", "Canary", &self.canary, &hurry)
            .await?;
        self.place
            .wait_phase(&self.canary, "Initialized", PATIENCE)
            .await?;
        self.visit().await?;
        let mut released = false;
        for (weight, shown) in &self.story.shown {
            self.prometheus
                .hold(self.place.name(), &self.canary, *weight);
            if !released {
                self.release().await?;
                released = true;
            }
            self.reach(*weight).await?;
            self.compare(*weight, shown).await?;
        }
        self.prometheus.let_go(self.place.name());
        self.place
            .wait_phase(&self.canary, "Succeeded", PATIENCE)
            .await
            .map(drop)
    }

    /// Where a gateway is behind the page's objects the app answers by them.
    async fn visit(&self) -> Result<()> {
        let spec = &self.story.canary["spec"];
        let gateway = match spec["provider"].as_str().unwrap_or_default() {
            "gatewayapi:v1" if spec["service"]["routeKind"].is_null() => Gateway::Traefik,
            "traefik" | "nginx" => Gateway::Ingress,
            "contour" => Gateway::Contour,
            _ => return Ok(()),
        };
        let mut objects = self.story.own.iter().chain([&self.story.canary]);
        let Some(host) = objects.find_map(host_in) else {
            return Ok(());
        };
        let host = host.replace(DOMAIN, &format!(".{}{DOMAIN}", self.place.name()));
        let path = &spec["service"]["match"][0]["uri"]["prefix"];
        let url = format!("{}{}", gateway.address(), path.as_str().unwrap_or("/"));
        self.bed
            .wait_served_at(&url, &host, Duration::from_secs(30))
            .await
    }

    async fn release(&self) -> Result<()> {
        let (version, kind, name) = &self.target;
        if kind == "Deployment" {
            return self.place.release(name, "2.0.0").await;
        }
        let object = self.place.get(version, kind, name).await?;
        let mut template = object.data["spec"]["template"].clone();
        let image = &mut template["spec"]["containers"][0]["image"];
        let bare = image.as_str().unwrap_or_default();
        let bare = bare.rsplit_once(':').map_or(bare, |(bare, _)| bare);
        *image = json!(format!("{bare}:2.0.0"));
        let patch = json!({"spec": {"template": template}});
        self.place
            .patch(version, kind, name, &patch)
            .await
            .map(drop)
    }

    async fn reach(&self, weight: i64) -> Result<()> {
        let what = format!("canary {} at a weight of {weight}", self.canary);
        self.bed
            .wait(&what, PATIENCE, async || {
                let canary = self.place.canary(&self.canary).await?;
                let status = &canary.data["status"];
                ensure!(status["phase"] != "Failed", "the run failed");
                Ok((status["canaryWeight"] == weight).then_some(()))
            })
            .await
    }

    /// The status is written before the objects are.
    async fn compare(&self, weight: i64, shown: &Value) -> Result<()> {
        let canary = self.place.canary(&self.canary).await?;
        let mut shown = moved(shown, self.place.name());
        let owners = shown.pointer_mut("/metadata/ownerReferences");
        for owner in owners.and_then(Value::as_array_mut).into_iter().flatten() {
            owner["uid"] = json!(canary.metadata.uid);
        }
        let text = |place: &str| shown.pointer(place).and_then(Value::as_str);
        let version = text("/apiVersion").unwrap_or_default();
        let kind = text("/kind").unwrap_or_default();
        let name = text("/metadata/name").unwrap_or_default();
        let mut missing = Vec::new();
        let waited = self
            .bed
            .wait(
                &format!("{kind} {name} to say what the page shows"),
                Duration::from_secs(10),
                async || {
                    let live = self.place.get(version, kind, name).await?;
                    missing = lacking(&serde_json::to_value(live)?, &shown);
                    Ok(missing.is_empty().then_some(()))
                },
            )
            .await;
        waited.with_context(|| format!("at a weight of {weight}: {}", missing.join("; ")))
    }
}

/// What a status says of whether the canary is ready, and why not.
fn ready(status: &Value) -> String {
    let conditions = status["conditions"].as_array();
    let ready = conditions
        .into_iter()
        .flatten()
        .find(|condition| condition["type"] == "Ready");
    format!(
        "phase {}, weight {}, {}",
        status["phase"],
        status["canaryWeight"],
        ready.map_or(&Value::Null, |ready| &ready["message"])
    )
}

/// The first name of a host in an object.
fn host_in(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => text
            .split(|sign: char| !(sign.is_alphanumeric() || ".-".contains(sign)))
            .find(|word| word.ends_with(DOMAIN))
            .map(str::to_owned),
        Value::Array(entries) => entries.iter().find_map(host_in),
        Value::Object(fields) => fields.values().find_map(host_in),
        _ => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn every_page_has_an_example_and_what_comes_of_it() {
        let (stories, _) = all().unwrap();
        let names: std::collections::BTreeSet<&str> =
            stories.iter().map(|story| story.name.as_str()).collect();
        assert_eq!(names.len(), stories.len(), "{names:?}");
        let app = app().unwrap();
        for story in stories {
            if story.canary["spec"]["targetRef"]["kind"] == "Deployment" {
                deployment(&app, &story.canary).unwrap();
            }
        }
    }

    #[test]
    fn a_page_without_example_or_result_is_told() {
        let canary = "```yaml\n{apiVersion: flagger.app/v1beta1, kind: Canary, metadata: {name: a, namespace: test}}\n```\n";
        assert!(stories("x", "# X\n\nNothing.\n").is_err());
        assert!(stories("x", canary).is_err());
        let shown = "\nAt a weight of 20 it says:\n\n```yaml\n{apiVersion: v1, kind: X}\n```\n";
        let (found, _) = stories("x", &format!("{canary}{shown}")).unwrap();
        assert_eq!(found[0].shown[0].0, 20);
    }

    #[test]
    fn an_example_gets_a_namespace_and_hosts_of_its_own() {
        let moved = moved(
            &json!({"namespace": "test", "name": "test-podinfo.test", "host": "Host(`app.example.com`)", "x": "tester"}),
            "n-1",
        );
        assert_eq!(
            moved,
            json!({"namespace": "n-1", "name": "n-1-podinfo.n-1", "host": "Host(`app.n-1.example.com`)", "x": "tester"})
        );
        assert_eq!(
            host_in(&json!({"a": ["Host(`app.example.com`)"]})).unwrap(),
            "app.example.com"
        );
    }
}
