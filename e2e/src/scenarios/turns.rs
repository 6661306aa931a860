//! More releases than may run at once: `-max-runs` and `-max-runs-per-namespace` on a live cluster. A watch of the bed's own sees every
//! status that is written, one after the other; so what runs at the same time is known exactly.
use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail, ensure};
use futures::{Stream, StreamExt, future::try_join_all};
use jiff::Timestamp;
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind};
use kube::runtime::{WatchStreamExt, watcher};
use serde_json::{Value, json};

use super::shop::{self, PATIENCE};
use crate::bed::{Bed, Namespace};
use crate::bench::idle_app;

/// How many runs may be under way at once, in all and in one namespace.
const EVERYWHERE: usize = 3;
const IN_NAMESPACE: usize = 2;
/// Canaries of each namespace.
const CANARIES: usize = 4;
/// Stages of a run in which pods of the canary run beside the primary's.
const UNDER_WAY: [&str; 7] = [
    "ScalingUp",
    "Analysing",
    "RollingBack",
    "Cancelling",
    "Promoting",
    "Returning",
    "ScalingDown",
];

/// Namespace and name.
type Key = (String, String);

/// Since when a canary waits, as the order of the queue has it.
type Place = (Timestamp, Key);

/// What the statuses said so far.
#[derive(Default)]
struct Book {
    under_way: BTreeSet<Key>,
    waiting: BTreeMap<Key, Place>,
    /// The most that were ever under way at once, in all and in one namespace.
    most: usize,
    most_inside: usize,
    /// In the order in which their runs began.
    begun: Vec<Key>,
    /// Those that waited, with what their status said.
    waited: BTreeMap<Key, BTreeSet<String>>,
    seen: BTreeSet<Key>,
    done: BTreeSet<Key>,
}

impl Book {
    /// Takes down what a canary's status says now. Nothing may overtake in its own namespace, and no more may run than are allowed.
    fn note(&mut self, canary: &DynamicObject) -> Result<()> {
        let metadata = &canary.metadata;
        let key = (
            metadata.namespace.clone().unwrap_or_default(),
            metadata.name.clone().unwrap_or_default(),
        );
        self.seen.insert(key.clone());
        let status = &canary.data["status"];
        let run = &status["run"];
        let stage = run["stage"].as_str().unwrap_or_default();
        if stage == "Waiting" && run["waitingFor"] == "its turn" {
            let since = run["waitingSince"].as_str().unwrap_or_default();
            let since = since
                .parse()
                .with_context(|| format!("{key:?} waits since {since:?}"))?;
            self.waiting.insert(key.clone(), (since, key.clone()));
            let message = run["message"].as_str().unwrap_or_default();
            self.waited
                .entry(key.clone())
                .or_default()
                .insert(message.to_owned());
        }
        if UNDER_WAY.contains(&stage) {
            if self.under_way.insert(key.clone()) {
                self.begin(&key)?;
            }
        } else {
            self.under_way.remove(&key);
        }
        match status["phase"].as_str() {
            Some("Succeeded") => drop(self.done.insert(key)),
            Some("Failed") => bail!("{key:?} failed: {status}"),
            _ => {}
        }
        let inside = |namespace: &str| {
            let all = self.under_way.iter();
            all.filter(|(place, _)| place == namespace).count()
        };
        let most_inside = self.under_way.iter().map(|(place, _)| inside(place)).max();
        self.most = self.most.max(self.under_way.len());
        self.most_inside = self.most_inside.max(most_inside.unwrap_or(0));
        ensure!(
            self.most <= EVERYWHERE && self.most_inside <= IN_NAMESPACE,
            "more runs at once than are allowed: {:?}",
            self.under_way
        );
        Ok(())
    }

    fn begin(&mut self, key: &Key) -> Result<()> {
        self.begun.push(key.clone());
        let Some(place) = self.waiting.remove(key) else {
            return Ok(());
        };
        let passed = self
            .waiting
            .iter()
            .find(|(other, before)| other.0 == key.0 && **before < place);
        ensure!(
            passed.is_none(),
            "{key:?}, which waited as {place:?}, began before {passed:?}"
        );
        Ok(())
    }
}

pub async fn run(bed: &Bed) -> Result<()> {
    let (everywhere, inside) = (EVERYWHERE.to_string(), IN_NAMESPACE.to_string());
    let limits = [
        "--max-runs",
        &everywhere,
        "--max-runs-per-namespace",
        &inside,
    ];
    let serin = shop::start_serin_with(bed, &limits)?;
    let places = [
        bed.scenario_namespace("max-runs").await?,
        bed.scenario_namespace("max-runs").await?,
    ];
    let all: Vec<(&Namespace<'_>, String)> = places
        .iter()
        .flat_map(|place| (0..CANARIES).map(move |number| (place, format!("app-{number}"))))
        .collect();
    try_join_all(all.iter().map(|(place, name)| async move {
        place.apply(&idle_app(name).to_string()).await?;
        place.apply(&canary(name).to_string()).await?;
        place.wait_phase(name, "Initialized", PATIENCE).await
    }))
    .await?;

    let mut book = Book::default();
    let mut statuses = statuses(bed);
    follow(&mut statuses, &mut book, |book| {
        book.seen.len() == all.len()
    })
    .await?;
    try_join_all(all.iter().map(|(place, name)| place.release(name, "2.0.0"))).await?;
    // Half of them are done, the others run or wait: the queue stands in their statuses, and so outlives the controller.
    follow(&mut statuses, &mut book, |book| {
        book.done.len() >= all.len() / 2
    })
    .await?;
    serin.kill9().await?;
    let serin = shop::start_serin_with(bed, &limits)?;
    follow(&mut statuses, &mut book, |book| {
        book.done.len() == all.len()
    })
    .await?;
    serin.stop().await?;

    ensure!(
        book.most == EVERYWHERE && book.most_inside == IN_NAMESPACE,
        "as many as are allowed run at once, found at most {} and {} in a namespace",
        book.most,
        book.most_inside
    );
    ensure!(
        book.begun.len() == all.len(),
        "each run begins once: {:?}",
        book.begun
    );
    ensure!(
        book.waited.len() > EVERYWHERE,
        "most of them have to wait, but only these did: {:?}",
        book.waited
    );
    let said: BTreeSet<&String> = book.waited.values().flatten().collect();
    ensure!(
        said.iter().all(|text| text.starts_with("Place "))
            && [
                "Place 1 in the queue: at most ",
                "Place 2 in the queue: at most "
            ]
            .iter()
            .all(|place| said.iter().any(|text| text.starts_with(place))),
        "who waits is told the place in the queue, but: {said:?}"
    );
    for (place, name) in &all {
        let primary = place
            .get("apps/v1", "Deployment", &format!("{name}-primary"))
            .await?;
        let image = &primary.data["spec"]["template"]["spec"]["containers"][0]["image"];
        ensure!(image == "serin-bench:2.0.0", "{name}-primary runs {image}");
    }
    queued_once(bed, &places, &book).await?;
    println!(
        "        {} releases, at most {} at once and {} in a namespace; {} waited for their turn",
        all.len(),
        book.most,
        book.most_inside,
        book.waited.len()
    );
    Ok(())
}

/// Who waits is told so by one event, whatever becomes of the controller.
async fn queued_once(bed: &Bed, places: &[Namespace<'_>], book: &Book) -> Result<()> {
    for place in places {
        let events = bed.api_of("v1", "Event", place.name()).await?;
        let events = events.list(&kube::api::ListParams::default()).await?;
        for (namespace, name) in book.waited.keys() {
            if namespace != place.name() {
                continue;
            }
            let told = events.iter().filter(|event| {
                event.data["reason"] == "Queued" && event.data["involvedObject"]["name"] == **name
            });
            let told = told.count();
            ensure!(
                told == 1,
                "{namespace}/{name} was told {told} times that it waits"
            );
        }
    }
    Ok(())
}

/// Every canary as it is now, and then each time that one is written.
fn statuses(bed: &Bed) -> impl Stream<Item = watcher::Result<DynamicObject>> + Unpin + use<> {
    let kind = GroupVersionKind::gvk("flagger.app", "v1beta1", "Canary");
    let resource = ApiResource::from_gvk_with_plural(&kind, "canaries");
    let canaries: Api<DynamicObject> = Api::all_with(bed.client(), &resource);
    watcher(canaries, watcher::Config::default())
        .applied_objects()
        .boxed()
}

/// Takes down what is written until it is enough.
async fn follow(
    statuses: &mut (impl Stream<Item = watcher::Result<DynamicObject>> + Unpin),
    book: &mut Book,
    enough: impl Fn(&Book) -> bool,
) -> Result<()> {
    let following = async {
        while !enough(book) {
            let canary = statuses.next().await.context("the watch ended")??;
            book.note(&canary)?;
        }
        anyhow::Ok(())
    };
    if let Ok(outcome) = tokio::time::timeout(PATIENCE * 2, following).await {
        return outcome;
    }
    bail!(
        "it stands still: promoted {:?}, under way {:?}, waiting {:?}",
        book.done,
        book.under_way,
        book.waiting
    )
}

fn canary(name: &str) -> Value {
    json!({
        "apiVersion": "flagger.app/v1beta1", "kind": "Canary", "metadata": {"name": name},
        "spec": {
            "provider": "kubernetes",
            "targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
            "progressDeadlineSeconds": 60,
            "service": {"port": 80, "targetPort": 8080},
            "analysis": {"interval": "2s", "threshold": 1, "iterations": 2},
        },
    })
}
