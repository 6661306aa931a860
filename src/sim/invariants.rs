//! The invariants of `docs/architecture.md`, each as one function over the world. Those about writes look at each change in the store, those
//! about time at each moment, the rest at the end, when nobody has acted for long and everything must have come to its end.
//!
//! I8 (no secret leaves) and what a router puts into its objects beside weights are not seen from here; their rooms test them.

use super::random::Random;
use super::scenario::Act;
use super::store::{Change, Hand};
use super::workloads::{CONFIG, Deployment, Nature, image_of};
use super::world::{SERVICES, World, weight_of};
use super::{CANARY, NAMESPACE};
use crate::api::{CanaryStatus, Phase, Run, condition_type};
use crate::object::{APPLIED_ANNOTATION, Object, ObjectRef, kinds};
use crate::rollout::{NextStep, next_step};
use crate::routing::Weight;
use crate::workload::autoscaler::PAUSED_REPLICAS;
use crate::workload::configs::checksum;
use crate::workload::{revision_hash, target_kind};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Annotation of somebody else, that must survive.
pub const FOREIGN: &str = "example.org/note";

/// How long traffic may stay on a side without pods while the other has some, in ms; beside what the gateway takes.
const DARK: i64 = 45_000;

/// What is wrong with a change in the store, if anything is.
type WriteCheck = fn(&World, &Change) -> Option<String>;
/// What is wrong with a status write, given the status before.
type StatusCheck = fn(&mut World, &CanaryStatus) -> Option<String>;
/// What is wrong with the world at the end.
type EndCheck = fn(&World) -> Option<String>;

/// A violated invariant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Its name in `docs/architecture.md`.
    pub invariant: &'static str,
    /// When, in virtual ms.
    pub at: i64,
    /// What was found and what would be right.
    pub text: String,
}

/// What was seen so far, as far as invariants need the past.
#[derive(Debug, Default)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is a thing that was seen or not"
)]
pub struct Witness {
    images: BTreeMap<String, String>,
    hashes: BTreeMap<String, String>,
    /// The replica that writes now.
    pub writer: usize,
    /// When something went wrong last.
    pub last_fault: i64,
    skipped: bool,
    hand_on_services: i64,
    hand_on_scale: bool,
    /// A request that stood still took hold when the canary was being deleted or gone; nobody is there who could put it right.
    late_for_the_gone: bool,
    hand_on_primary: i64,
    suspended_at: i64,
    least_interval: i64,
    /// When the request that arrives now went out, in ms, and the store's revision then; `None` for one that went straight.
    pub late: Option<(i64, u64)>,
    /// The revision of our last write to each object.
    own: BTreeMap<ObjectRef, u64>,
    last_step: BTreeMap<String, (i64, i64)>,
    last_failure: i64,
    told: BTreeMap<(String, &'static str), u32>,
    dark_since: [Option<i64>; 3],
    /// When each Service last had ready endpoints.
    bright_at: [i64; 3],
    /// Since when each Service has had ready endpoints without a break.
    bright_since: [Option<i64>; 3],
    /// When the run last changed.
    run_at: i64,
    /// When the canary was last on its way back: one that was judged bad must not get the share of a primary that is gone for a while.
    condemned_at: i64,
    /// When the target's template last changed.
    target_at: i64,
    /// When the target last had ready pods.
    pub pods_at: i64,
    /// Whether the canary's object had a finalizer when it was deleted.
    finalized: bool,
    hand_on_route: i64,
    /// Served by another side's pods all along.
    acted_at: i64,
}

impl Witness {
    /// The image of a revision that the target once had.
    #[must_use]
    pub fn image_of(&self, hash: &str) -> Option<&str> {
        self.images.get(hash).map(String::as_str)
    }

    /// Notes what people do that excuses something later.
    pub fn acted(&mut self, now: i64, act: Act) {
        self.acted_at = now;
        match act {
            Act::Skip(true) => self.skipped = true,
            Act::DeleteService(_) => self.hand_on_services = now.max(1),
            Act::ScaleTarget(_) | Act::WriteBack => self.hand_on_scale = true,
            Act::EditWeights(_) => self.hand_on_route = now.max(1),
            Act::DeletePrimary => self.hand_on_primary = now.max(1),
            Act::Suspend(_) => self.suspended_at = now.max(1),
            _ => {}
        }
    }
}

fn target(world: &World) -> ObjectRef {
    world.reference(Deployment::Target)
}

fn primary(world: &World) -> ObjectRef {
    world.reference(Deployment::Primary)
}

fn config_copy() -> ObjectRef {
    kinds::CONFIG_MAP.named(NAMESPACE, &format!("{CONFIG}-primary"))
}

/// The key of the config in `trackedConfigs`.
const CONFIG_KEY: &str = "configmap/web-config";

/// The template of a workload as it is judged: without what parks a `DaemonSet`.
fn template_of(world: &World, object: &Object) -> Value {
    let kind = if world.scenario.daemon {
        "DaemonSet"
    } else {
        "Deployment"
    };
    target_kind(kind).map_or(Value::Null, |kind| kind.template(object))
}

fn route() -> ObjectRef {
    kinds::HTTP_ROUTE.named(NAMESPACE, "web")
}

/// I9: a request that stood still while another replica took over changes nothing that the other has written meanwhile.
fn overtaken(world: &World, change: &Change) -> Option<String> {
    let (sent_at, seen) = world.witness.late?;
    // What was made anew where there was none undoes nothing.
    change.before.as_ref()?;
    let former = world.witness.own.get(&change.name)?;
    (*former > seen).then(|| {
        format!(
            "{} was written by a request that was {} ms on its way; another replica had written it meanwhile",
            change.name,
            world.now - sent_at
        )
    })
}

/// Looks at one change in the store.
pub fn after_write(world: &mut World, change: &Change) {
    learn(world, change);
    if change.by != Hand::Serin {
        return;
    }
    if world.witness.late.is_some()
        && change.name == target(world)
        && is_scaled_to_zero(world, change)
    {
        // It came after its writer's time was over, on a target that nobody had touched since: to whoever works now it is a stranger's hand.
        world.witness.hand_on_scale = true;
    }
    if world.witness.late.is_some() && world.truth.deleted_at.is_some() {
        world.witness.late_for_the_gone = true;
    }
    let checks: [(&'static str, WriteCheck); 10] = [
        ("I9 one hand", overtaken),
        ("I1 whole", whole),
        ("I1 whole", matched),
        ("I3 earned", copied),
        ("I2 served", given_back),
        ("I2 served", served),
        ("I3 earned", earned),
        ("I4 safe side", safe_side),
        ("I7 mine", mine),
        ("I7 mine", gentle),
    ];
    for (name, check) in checks {
        if let Some(text) = check(world, change) {
            world.violate(name, text);
        }
    }
    let own = &mut world.witness.own;
    own.insert(change.name.clone(), change.revision);
}

fn learn(world: &mut World, change: &Change) {
    let Some(after) = &change.after else { return };
    if change.name.kind == kinds::CANARY && after.is_deleting() {
        world.witness.finalized = true;
    }
    let template = after.at("/spec/template");
    let known = change
        .before
        .as_ref()
        .is_some_and(|before| before.at("/spec/template") == template);
    if !known && change.name == target(world) {
        let hash = revision_hash(&template_of(world, after));
        let image = image_of(after);
        world.witness.target_at = world.now;
        world.witness.images.insert(hash.clone(), image.clone());
        world.witness.hashes.insert(image, hash);
    }
    if change.name.kind == kinds::CANARY && change.by != Hand::Serin {
        if after.at("/spec/skipAnalysis") == true {
            world.witness.skipped = true;
        }
        let seconds = after
            .text("/spec/analysis/interval")
            .trim_end_matches('s')
            .parse::<i64>()
            .unwrap_or(60);
        let interval = seconds * 1000;
        let least = world.witness.least_interval;
        world.witness.least_interval = if least == 0 {
            interval
        } else {
            least.min(interval)
        };
    }
}

/// I1: weights are in 0..=100, sum to 100 and point at Services that exist.
fn whole(world: &World, change: &Change) -> Option<String> {
    if change.name != route() {
        return None;
    }
    let after = change.after.as_ref()?;
    for rule in after.at("/spec/rules").as_array().into_iter().flatten() {
        let backends = rule["backendRefs"].as_array()?;
        let weights: Vec<i64> = backends
            .iter()
            .map(|backend| backend["weight"].as_i64().unwrap_or(-1))
            .collect();
        if weights.iter().any(|weight| !(0..=100).contains(weight))
            || weights.iter().sum::<i64>() != 100
        {
            return Some(format!(
                "the weights of a rule are {weights:?}; they must be in 0..=100 and sum to 100"
            ));
        }
        for backend in backends {
            let name = backend["name"].as_str().unwrap_or_default();
            let exists = world
                .store
                .get(&kinds::SERVICE.named(NAMESPACE, name))
                .is_some();
            // What a lagging replica writes for a canary that is gone has an owner that is gone, and is collected.
            let excused = world.truth.gone
                || world.witness.hand_on_services > 0
                    && world.now - world.witness.hand_on_services < 60_000;
            if !exists && !excused {
                return Some(format!(
                    "the route sends to Service {name}, which does not exist"
                ));
            }
        }
    }
    None
}

/// I1, A/B: a rule that sends requests to the canary says which.
fn matched(world: &World, change: &Change) -> Option<String> {
    let ab = world.scenario.spec["analysis"]["match"].is_array();
    // While a run stands still, or before it has one side only, all traffic may be moved to a side that answers.
    let whole = world
        .status
        .run
        .as_ref()
        .is_none_or(|run| run.diverted || run.stage != "Analysing");
    if change.name != route() || !ab || whole || world.truth.gone {
        return None;
    }
    let after = change.after.as_ref()?;
    let rules = after.at("/spec/rules").as_array()?;
    let open = rules.iter().find(|rule| {
        let canary = rule["backendRefs"]
            .as_array()
            .into_iter()
            .flatten()
            .any(|backend| backend["name"] == "web-canary" && backend["weight"] != 0);
        let narrow = rule["matches"].as_array().is_some_and(|matches| {
            matches.iter().all(|entry| {
                entry["headers"]
                    .as_array()
                    .is_some_and(|all| !all.is_empty())
            })
        });
        canary && !narrow
    });
    open.map(|rule| {
        format!("a rule without the headers of analysis.match sends to the canary: {rule}")
    })
}

/// I3, configs: the primary's copy is what a judged revision was judged with.
fn copied(world: &World, change: &Change) -> Option<String> {
    if change.name != config_copy() {
        return None;
    }
    let found = checksum(change.after.as_ref()?);
    let status = &world.status;
    let judged = [
        status.run.as_ref().map(|run| &run.tracked_configs),
        status
            .promoted
            .as_ref()
            .map(|promoted| &promoted.tracked_configs),
    ];
    let known = judged
        .into_iter()
        .flatten()
        .any(|configs| configs.get(CONFIG_KEY) == Some(&found));
    // What stood still for a takeover is guarded by the copy alone: one that nobody reads any more may come back.
    let excused = world.witness.late.is_some();
    (!known && !excused).then(|| {
        format!("the primary's config is {found}, which no run was judged with and nothing was promoted with")
    })
}

/// I2, deletion: the canary lets go of its object when the target has pods that answer, or when its time is over.
fn given_back(world: &World, change: &Change) -> Option<String> {
    if change.name.kind != kinds::CANARY || change.after.is_some() {
        return None;
    }
    let asked = world.truth.deleted_at?;
    let deadline = 60_000;
    let staleness = writers_age(world);
    let pods = world.workloads[0].ready_pods().next().is_some()
        || world.witness.late.is_some()
        || world.now - world.witness.pods_at < staleness.max(5_000);
    (world.scenario.spec["revertOnDeletion"] == true && !pods && world.now - asked < deadline).then(
        || {
            format!(
                "the object goes {} s after its deletion while the target has no ready pods (since {} s; the writer's cache is at most {staleness} ms old)",
                (world.now - asked) / 1000,
                (world.now - world.witness.pods_at) / 1000,
            )
        },
    )
}

/// Whether a Service has ready endpoints, or had some so lately that the writer could not know better.
fn has_endpoints(world: &World, service: usize) -> bool {
    if !world.endpoints(service).is_empty() {
        return true;
    }
    let Some(replica) = world.replicas.get(world.witness.writer) else {
        return false;
    };
    world.witness.bright_at[service] > 0
        && world.now - world.witness.bright_at[service] <= replica.staleness(world.now)
}

/// Whether a Service has had ready endpoints for so long that the writer must know.
fn surely_has_endpoints(world: &World, service: usize) -> bool {
    let Some(replica) = world.replicas.get(world.witness.writer) else {
        return false;
    };
    world.witness.bright_since[service]
        .is_some_and(|since| world.now - since > replica.staleness(world.now))
}

/// Whether the target carries what the run is about: its template and its config.
fn carries_the_run(world: &World) -> bool {
    let hash = world.witness.hashes.get(&world.target_image());
    let config = world
        .store
        .get(&kinds::CONFIG_MAP.named(NAMESPACE, CONFIG))
        .map(|config| checksum(config));
    world.status.run.as_ref().is_some_and(|run| {
        // Before its gate opens nobody asked for it.
        run.stage != "Waiting"
            && Some(&run.revision) == hash
            && run.tracked_configs.get(CONFIG_KEY) == config.as_ref()
    })
}

/// I2, writes: no weight is raised on a side without ready endpoints, unless the other side has none either; and pods that carry
/// traffic are not taken away.
fn served(world: &World, change: &Change) -> Option<String> {
    // Without a run the primary is the only side that may have traffic, even against somebody who edits the route.
    if change.name == route() && world.status.run.is_some() {
        let after = weight_of(change.after.as_ref()?)?;
        let before = change
            .before
            .as_ref()
            .and_then(|before| weight_of(before))?;
        let (raised, other) = match after.cmp(&before) {
            std::cmp::Ordering::Greater => (2, 1),
            std::cmp::Ordering::Less => (1, 2),
            std::cmp::Ordering::Equal => return None,
        };
        // A canary whose template is newer than the run's was judged by nobody: the primary is the only side that may have the traffic.
        // What stood still for a takeover is guarded by the route, which nobody had to change meanwhile: it is put right at once.
        let stood_still = world.witness.late.is_some();
        let excused = stood_still || raised == 1 && !carries_the_run(world);
        if !has_endpoints(world, raised) && surely_has_endpoints(world, other) && !excused {
            return Some(format!(
                "the canary's weight goes from {before} to {after}, but {} has no ready endpoints and {} has",
                SERVICES[raised], SERVICES[other]
            ));
        }
    }
    let gone = change.name == target(world) && is_scaled_to_zero(world, change);
    if (gone || is_paused(world, change)) && world.scenario.gateway {
        let stuck = world
            .gateway
            .behind_since
            .is_some_and(|since| world.now - since > 50_000);
        // Somebody's hand on the route that the writer could not have seen yet.
        let staleness = writers_age(world);
        let stuck = stuck
            || (world.witness.hand_on_route > 0
                && world.now - world.witness.hand_on_route < staleness + 4 * world.gateway.lag);
        let carried = world.gateway.canary.unwrap_or(0);
        let stood_still = world.witness.late.is_some();
        if carried > 0 && !stuck && !stood_still && !world.endpoints(1).is_empty() {
            return Some(format!(
                "the target is scaled to zero while the gateway still sends {carried} % of the traffic to it"
            ));
        }
    }
    None
}

/// Whether a change takes the last pods of its workload.
fn is_scaled_to_zero(world: &World, change: &Change) -> bool {
    let replicas =
        |object: &Option<Arc<Object>>| object.as_deref().map(|object| world.scale_of(object));
    replicas(&change.after) == Some(0) && replicas(&change.before).is_some_and(|before| before > 0)
}

/// Whether a change makes KEDA take the last pods of the target.
fn is_paused(world: &World, change: &Change) -> bool {
    let paused = |object: &Option<Arc<Object>>| {
        object
            .as_ref()
            .is_some_and(|object| object.annotation(PAUSED_REPLICAS) == Some("0"))
    };
    let has_pods = world
        .store
        .get(&target(world))
        .is_some_and(|target| world.scale_of(target) > 0);
    change.name.kind == kinds::SCALED_OBJECT
        && change.name.name == "web"
        && has_pods
        && paused(&change.after)
        && !paused(&change.before)
}

/// I3: the primary's template is that of the run that is being promoted, or the promoted one; and no revision gets there that an
/// honest analysis can't pass.
fn earned(world: &World, change: &Change) -> Option<String> {
    if change.name != primary(world) {
        return None;
    }
    let after = change.after.as_ref()?;
    let image = image_of(after);
    if let Some(before) = &change.before
        && image_of(before) == image
    {
        // What Flagger made becomes ours, with its pods, when it is promoted.
        let ours = before.annotation(APPLIED_ANNOTATION).is_some();
        let restarted = before.at("/spec/template") != after.at("/spec/template");
        return (ours && restarted && !world.scenario.config)
            .then(|| format!("the primary's pods are replaced although it runs {image} already"));
    }
    let hash = world
        .witness
        .hashes
        .get(&image)
        .cloned()
        .unwrap_or_default();
    let status = &world.status;
    let promoting = status.run.as_ref().filter(|run| {
        ["Initializing", "Promoting", "Returning", "ScalingDown"].contains(&run.stage.as_str())
    });
    let promised = promoting.is_some_and(|run| run.revision == hash);
    let promoted = status
        .promoted
        .as_ref()
        .is_some_and(|promoted| promoted.revision == hash);
    if !promised && !promoted {
        return Some(format!(
            "the primary gets {image} ({hash}), but the status speaks of {} as the run and {} as promoted",
            promoting.map_or("nothing", |run| &run.revision),
            status
                .promoted
                .as_ref()
                .map_or("nothing", |promoted| &promoted.revision)
        ));
    }
    let first = status.promoted.is_none();
    // Where the watches lag the checks may have been answered by pods of a newer revision that the writer could not know of.
    let staleness = writers_age(world);
    let unseen = world.target_image() != image && world.now - world.witness.target_at <= staleness;
    if Nature::of(&image).is_unfit() && !first && !promoted && !world.witness.skipped && !unseen {
        return Some(format!(
            "{image} was promoted although no honest analysis can pass it"
        ));
    }
    None
}

/// I4: the only healthy copy is never scaled down, and the primary never to zero.
fn safe_side(world: &World, change: &Change) -> Option<String> {
    let gone = change.name == target(world) && is_scaled_to_zero(world, change);
    // A request that stood still is guarded by the object that it writes, which nobody has touched meanwhile; it can't know of another's
    // pods. Whoever took over scales the target up again.
    let stood_still = world.witness.late.is_some();
    // A canary that is deleted without `revertOnDeletion` takes the primary along, and leaves the target as it is at that moment.
    let unseen_end = world.truth.gone
        && world
            .truth
            .deleted_at
            .is_some_and(|at| world.now - at <= writers_age(world));
    let excused = stood_still || unseen_end;
    if (gone || is_paused(world, change)) && !has_endpoints(world, 1) && !excused {
        return Some(
            "the target is scaled to zero while the primary has no ready endpoints".to_owned(),
        );
    }
    if change.name == primary(world) && is_scaled_to_zero(world, change) {
        return Some("the primary is scaled to zero".to_owned());
    }
    if change.name == primary(world) && change.after.is_none() {
        return Some("the primary is deleted".to_owned());
    }
    None
}

/// I7: what others wrote stays.
fn mine(_: &World, change: &Change) -> Option<String> {
    let (before, after) = (change.before.as_ref()?, change.after.as_ref()?);
    let note = before.annotation(FOREIGN);
    (note.is_some() && after.annotation(FOREIGN) != note).then(|| {
        format!(
            "the annotation {FOREIGN} of {} was {note:?} and is {:?}",
            change.name,
            after.annotation(FOREIGN)
        )
    })
}

/// I7: of the target only the scale is written.
fn gentle(world: &World, change: &Change) -> Option<String> {
    if change.name != target(world) {
        return None;
    }
    let Some(after) = &change.after else {
        return Some("the target is deleted".to_owned());
    };
    let before = change.before.as_ref()?;
    let rest = |object: &Object| -> Value {
        let mut value = object.value().clone();
        value["spec"]["replicas"] = Value::Null;
        if world.scenario.daemon {
            value["spec"]["template"] = template_of(world, object);
        }
        for field in ["resourceVersion", "generation", "managedFields"] {
            value["metadata"][field] = Value::Null;
        }
        value
    };
    (rest(before) != rest(after))
        .then(|| "more than the scale of the target was written".to_owned())
}

/// Looks at a status write of the controller.
pub fn after_status(world: &mut World, change: &Change, before: &CanaryStatus) {
    if change.by != Hand::Serin {
        return;
    }
    if world.status.run.as_ref().map(|run| &run.id) != before.run.as_ref().map(|run| &run.id) {
        world.witness.run_at = world.now;
    }
    if world.truth.deleted_at.is_some() {
        return;
    }
    let checks: [(&'static str, StatusCheck); 6] = [
        ("I5 once", once),
        ("I5 once", rung),
        ("I6 told", told_why),
        ("I10 true", truthful),
        ("I10 true", whole_status),
        ("I3 earned", judged),
    ];
    for (name, check) in checks {
        if let Some(text) = check(world, before) {
            world.violate(name, text);
        }
    }
}

/// I5: one step and one failed check in each interval.
fn once(world: &mut World, before: &CanaryStatus) -> Option<String> {
    // A step is counted from its decision: a request that stood still on its way has used up that much of it.
    let now = world.witness.late.map_or(world.now, |(sent_at, _)| sent_at);
    let least = world.witness.least_interval - 60;
    let after = world.status.clone();
    if after.failed_checks > before.failed_checks && before.phase == after.phase {
        let former = std::mem::replace(&mut world.witness.last_failure, now);
        let windowed = world.scenario.spec["analysis"]["failureMode"] == "window";
        if after.failed_checks > before.failed_checks + 1 {
            return Some(format!(
                "failed checks went from {} to {} at once",
                before.failed_checks, after.failed_checks
            ));
        }
        let same_run =
            before.run.as_ref().map(|run| &run.id) == after.run.as_ref().map(|run| &run.id);
        if same_run && !windowed && former > 0 && now - former < least && before.failed_checks > 0 {
            return Some(format!(
                "two failed checks within {} ms; the interval is at least {least} ms",
                now - former
            ));
        }
    }
    let (old, new) = (before.run.as_ref()?, after.run.as_ref()?);
    if old.id != new.id || new.step <= old.step {
        return None;
    }
    if new.step > old.step + 1 {
        return Some(format!(
            "the step went from {} to {} at once",
            old.step, new.step
        ));
    }
    match world
        .witness
        .last_step
        .insert(new.id.clone(), (new.step, now))
    {
        Some((_, at)) if now - at < least => Some(format!(
            "step {} came {} ms after the one before; the interval is at least {least} ms",
            new.step,
            now - at
        )),
        _ => None,
    }
}

/// I5: a step of growing weights leads to the next rung of the ladder, and none leads down.
fn rung(world: &mut World, before: &CanaryStatus) -> Option<String> {
    let after = &world.status;
    let (old, new) = (before.run.as_ref()?, after.run.as_ref()?);
    let analysis = &world.analysis;
    let current = after.observed_generation == Some(world.generation);
    let weighted =
        world.scenario.gateway && analysis.iterations() == 0 && analysis.matches.is_empty();
    let analysing = old.stage == "Analysing" && new.stage == "Analysing";
    if !current || !weighted || !analysing || old.id != new.id || new.diverted || old.diverted {
        return None;
    }
    let (from, to) = (old.weights?.canary, new.weights?.canary);
    if to < from {
        return Some(format!(
            "the canary's share went down from {from} to {to} within a run"
        ));
    }
    let next = next_step(analysis, Weight::clamped(i64::from(from)));
    let expected = match next {
        NextStep::Raise(weight) => u32::from(weight.percent()),
        // A primary that is without pods while it takes the template over must be without traffic then; of one that somebody has
        // deleted, and that the writer has not seen come back, it can't be told.
        NextStep::Top if to == 100 && (rolls_dark(world) || is_gone(world)) => 100,
        NextStep::Top => from,
    };
    (to > from && to != expected)
        .then(|| format!("the canary's share went from {from} to {to}; the ladder says {expected}"))
}

fn is_gone(world: &World) -> bool {
    let deleted = world.witness.hand_on_primary;
    world.store.get(&primary(world)).is_none()
        || deleted > 0 && world.now - deleted <= writers_age(world)
}

/// How far what the last writer knows may be behind, in ms.
fn writers_age(world: &World) -> i64 {
    world
        .replicas
        .get(world.witness.writer)
        .map_or(0, |replica| replica.staleness(world.now))
}

/// Whether the primary loses all of its pods at once when it gets another template.
fn rolls_dark(world: &World) -> bool {
    let live = |name: &ObjectRef| world.store.get(name).cloned();
    let kind = target_kind(&target(world).kind.kind);
    match (kind, live(&target(world)), live(&primary(world))) {
        (Some(kind), Some(target), Some(primary)) => kind.rolls_dark(&target, &primary),
        _ => false,
    }
}

/// Counts what people are told; some things may be told once for each run.
pub fn told(world: &mut World, run: &str, reason: &'static str) {
    const SINGLE: [&str; 7] = [
        "NewRevision",
        "AnalysisStarted",
        "Promoting",
        "PromotionFailed",
        "RolledBack",
        "Succeeded",
        "Initialized",
    ];
    if !SINGLE.contains(&reason) {
        return;
    }
    let count = world
        .witness
        .told
        .entry((run.to_owned(), reason))
        .or_default();
    *count += 1;
    let count = *count;
    if count > 1 {
        world.violate(
            "I5 once",
            format!("{reason} was told {count} times of run {run}"),
        );
    }
}

/// I6: whoever reads the object learns why it is as it is.
fn told_why(world: &mut World, before: &CanaryStatus) -> Option<String> {
    let status = &world.status;
    for kind in [condition_type::PROMOTED, condition_type::READY] {
        let Some(condition) = status.condition(kind) else {
            return Some(format!("condition {kind} is missing"));
        };
        if condition.reason.is_empty()
            || condition.message.as_deref().unwrap_or_default().is_empty()
        {
            return Some(format!("condition {kind} gives no reason"));
        }
    }
    if let Some(run) = &status.run
        && run.waiting_for.is_some()
        && run.waiting_since.is_none()
    {
        return Some(format!(
            "the run waits for {:?} and does not say since when",
            run.waiting_for
        ));
    }
    let ended = before.phase != status.phase
        && matches!(status.phase, Phase::Succeeded | Phase::Failed)
        && before.promoted.is_some();
    if ended
        && status
            .history
            .last()
            .is_none_or(|last| last.cause.is_empty())
    {
        return Some(format!(
            "the run ended as {} without a cause in history",
            status.phase.as_str()
        ));
    }
    None
}

/// I10: a phase that claims something is only written when it is so.
fn truthful(world: &mut World, before: &CanaryStatus) -> Option<String> {
    let status = &world.status;
    let arrived = before.phase != status.phase
        && matches!(status.phase, Phase::Initialized | Phase::Succeeded);
    let promoted = status.promoted.as_ref();
    if let Some(run) = &before.run
        && before.phase == Phase::Finalising
        && status.phase == Phase::Succeeded
        && promoted.map(|promoted| &promoted.revision) != Some(&run.revision)
    {
        return Some(format!(
            "the run of {} succeeded, and {:?} is said to be promoted",
            run.revision,
            promoted.map(|promoted| &promoted.revision)
        ));
    }
    if !arrived || promoted == before.promoted.as_ref() {
        return None;
    }
    let hash = &promoted?.revision;
    let image = world.witness.image_of(hash).unwrap_or_default().to_owned();
    let excused =
        world.witness.hand_on_primary > 0 && world.now - world.witness.hand_on_primary < 60_000;
    match world.store.get(&primary(world)) {
        Some(live) if image_of(live) != image => Some(format!(
            "{} is said to be promoted, but the primary runs {}",
            image,
            image_of(live)
        )),
        None if !excused => {
            Some("a revision is said to be promoted, but there is no primary".to_owned())
        }
        _ => None,
    }
}

/// I10: the parts of the status agree with each other.
fn whole_status(world: &mut World, _: &CanaryStatus) -> Option<String> {
    let status = &world.status;
    if let Some(promoted) = &status.promoted
        && status.last_promoted_spec.as_ref() != Some(&promoted.revision)
    {
        return Some(format!(
            "lastPromotedSpec is {:?}, promoted is {}",
            status.last_promoted_spec, promoted.revision
        ));
    }
    if !(0..=100).contains(&status.canary_weight) {
        return Some(format!("canaryWeight is {}", status.canary_weight));
    }
    let weights = status
        .run
        .as_ref()
        .and_then(|run| run.weights.map(|weights| (weights, run.diverted)));
    match weights {
        Some((weights, _)) if weights.primary + weights.canary != 100 => Some(format!(
            "the weights of the run are {} and {}",
            weights.primary, weights.canary
        )),
        Some((weights, false)) if i64::from(weights.canary) != status.canary_weight => {
            Some(format!(
                "canaryWeight is {}, the run's weight {}",
                status.canary_weight, weights.canary
            ))
        }
        _ => None,
    }
}

/// I3: a run is not promoted before it was judged.
fn judged(world: &mut World, before: &CanaryStatus) -> Option<String> {
    let status = &world.status;
    let run = status.run.as_ref()?;
    let taken_over = world.scenario.flagger.is_some() && before.run.is_none();
    if status.phase != Phase::Promoting
        || before.phase == Phase::Promoting
        || world.witness.skipped
        || taken_over
    {
        return None;
    }
    let same = before
        .run
        .as_ref()
        .is_some_and(|old| old.revision == run.revision && old.id == run.id);
    if !same {
        return Some(format!(
            "run {} is promoted, but the run before it was {:?}",
            run.id,
            before.run.as_ref().map(|run: &Run| &run.id)
        ));
    }
    (run.checks < 1).then(|| "a run is promoted without a single check".to_owned())
}

/// Longer than any pause before a request is tried again, a time-out included, in ms.
const RETRIED: i64 = 40_000;

/// Looks at the world at one moment.
pub fn moment(world: &mut World) {
    let since = world
        .replicas
        .iter()
        .filter(|replica| replica.alive)
        .filter_map(|replica| replica.failed_at)
        .min();
    if let Some(since) = since
        && world.now - since > RETRIED
    {
        let text = format!(
            "a request failed {} s ago, and nothing was decided since",
            (world.now - since) / 1000
        );
        world.violate("I11 ends", text);
    }
    if world.workloads[0].ready_pods().next().is_some() {
        world.witness.pods_at = world.now;
    }
    if world.truth.deleted_at.is_some() {
        // What holds while a canary is given back is looked at when it goes, and at the end.
        return;
    }
    for service in 0..SERVICES.len() {
        if world.endpoints(service).is_empty() {
            world.witness.bright_since[service] = None;
        } else {
            world.witness.bright_at[service] = world.now;
            world.witness.bright_since[service].get_or_insert(world.now);
        }
    }
    let on_its_way_back = |run: &Run| ["RollingBack", "Cancelling"].contains(&run.stage.as_str());
    if world.status.run.as_ref().is_some_and(on_its_way_back) {
        world.witness.condemned_at = world.now;
    }
    for service in 0..SERVICES.len() {
        let weight = world.share(service);
        let dark = weight > 0 && !world.answers(service);
        let other = 3 - service.max(1);
        let rescue = service > 0 && dark && world.answers(other);
        let slot = &mut world.witness.dark_since[service];
        if rescue {
            slot.get_or_insert(world.now);
        } else {
            *slot = None;
        }
    }
    if let Some(text) = at_once(world) {
        world.violate("I2 served", text);
        world.witness.dark_since = [None; 3];
    }
}

/// I2, time: when a side with weight has no pods and the other has some, traffic moves.
fn at_once(world: &World) -> Option<String> {
    let witness = &world.witness;
    for (service, since) in witness.dark_since.iter().enumerate() {
        let Some(since) = since else { continue };
        let quiet = (*since)
            .max(witness.last_fault)
            .max(witness.suspended_at)
            .max(witness.acted_at)
            .max(if service == 1 {
                witness.condemned_at
            } else {
                0
            })
            .max(witness.run_at);
        let patience = DARK + 4 * world.gateway.lag;
        let suspended = world.suspended;
        // A canary that was never judged must not be given the primary's share.
        let unjudged = service == 1 && !carries_the_run(world);
        if world.now - quiet > patience && !suspended && !unjudged {
            return Some(format!(
                "for {} s traffic goes to {}, which has no pods, while the other side has some",
                (world.now - since) / 1000,
                SERVICES[service]
            ));
        }
    }
    None
}

/// Looks at the world after the end of time.
pub fn end(world: &mut World) {
    if world.truth.deleted_at.is_some() {
        if let Some(text) = reverted(world) {
            world.violate("I11 ends", text);
        }
        return;
    }
    let checks: [(&'static str, EndCheck); 7] = [
        ("I11 ends", ended),
        ("I12 seen", seen),
        ("I10 true", status_agrees),
        ("I4 safe side", safe_end),
        ("I2 served", all_served),
        ("I11 ends", at_rest),
        ("I10 true", nothing_owed),
    ];
    for (name, check) in checks {
        if let Some(text) = check(world) {
            world.violate(name, text);
            return;
        }
    }
}

/// I11 and I2, deletion: the object is gone, and with `revertOnDeletion` the target runs and the apex Service leads to it.
fn reverted(world: &World) -> Option<String> {
    if !world.truth.gone {
        return Some("the canary was deleted and its object is still there".to_owned());
    }
    let live = world.store.get(&target(world))?;
    let given_back = world.witness.finalized;
    if given_back && world.scale_of(live) == 0 && !world.witness.hand_on_scale {
        return Some("the canary was given back, and its target has no pods".to_owned());
    }
    let apex = world.store.get(&kinds::SERVICE.named(NAMESPACE, "web"))?;
    let led_back = apex.text("/spec/selector/app") == "web" || world.witness.late_for_the_gone;
    (given_back && !led_back).then(|| {
        "the canary was given back, and the apex Service leads to the primary that is gone"
            .to_owned()
    })
}

/// I11: no run is under way.
fn ended(world: &World) -> Option<String> {
    let status = &world.status;
    let done = matches!(
        status.phase,
        Phase::Initialized | Phase::Succeeded | Phase::Failed
    );
    (!done).then(|| {
        let run = status.run.as_ref();
        format!(
            "the canary is still {}, stage {}: {}",
            if status.phase == Phase::Unset {
                "new"
            } else {
                status.phase.as_str()
            },
            run.map_or("none", |run| &run.stage),
            run.and_then(|run| run.message.as_deref())
                .unwrap_or("no message")
        )
    })
}

/// I12: what the target asks for was judged or is promoted.
fn seen(world: &World) -> Option<String> {
    let status = &world.status;
    let image = world.target_image();
    let hash = world.witness.hashes.get(&image)?;
    let config = world
        .store
        .get(&kinds::CONFIG_MAP.named(NAMESPACE, CONFIG))
        .map(|config| checksum(config));
    let same = |configs: &BTreeMap<String, String>| configs.get(CONFIG_KEY) == config.as_ref();
    let promoted = status
        .promoted
        .as_ref()
        .is_some_and(|promoted| promoted.revision == *hash && same(&promoted.tracked_configs));
    let by_flagger = world
        .scenario
        .flagger
        .is_some_and(|left| left.phase == Phase::Failed)
        && status.history.is_empty();
    let judged = (by_flagger
        || status
            .history
            .iter()
            .any(|run| run.revision == *hash && run.outcome != "Superseded"))
        && status.last_applied_spec.as_ref() == Some(hash)
        && same(&status.tracked_configs.clone().unwrap_or_default());
    let held = status
        .run
        .as_ref()
        .is_some_and(|run| run.revision == *hash && same(&run.tracked_configs));
    (!promoted && !judged && !held).then(|| {
        format!(
            "{image} is neither promoted nor judged; phase {}",
            status.phase.as_str()
        )
    })
}

/// I10: the status says what the world is.
fn status_agrees(world: &World) -> Option<String> {
    let status = &world.status;
    if world.scenario.gateway
        && status.promoted.is_some()
        && let Some(weight) = world.gateway.canary
        && weight != status.canary_weight
    {
        return Some(format!(
            "canaryWeight is {}, the gateway sends {weight} %",
            status.canary_weight
        ));
    }
    let canary = world.store.get(&kinds::CANARY.named(NAMESPACE, CANARY))?;
    if status.observed_generation != Some(canary.generation()) {
        return Some(format!(
            "observedGeneration is {:?}, generation {}",
            status.observed_generation,
            canary.generation()
        ));
    }
    let promoted = status.promoted.as_ref()?;
    let image = world.witness.image_of(&promoted.revision)?;
    let live = world
        .store
        .get(&primary(world))
        .map(image_of)
        .unwrap_or_default();
    (live != image).then(|| format!("{image} is said to be promoted, the primary runs {live}"))
}

/// I4: all traffic is on the side that was last promoted, or held by a canary that is healthy; the target of an ended run is at zero.
fn safe_end(world: &World) -> Option<String> {
    let status = &world.status;
    status.promoted.as_ref()?;
    let held = status.run.as_ref().is_some_and(|run| run.stage == "Held");
    let weight = world.gateway.canary.unwrap_or(0);
    if !held && weight > 0 {
        return Some(format!(
            "no run is under way, and {weight} % of the traffic goes to the canary"
        ));
    }
    let replicas = world
        .store
        .get(&target(world))
        .map_or(1, |target| world.scale_of(target));
    // The only copy that may still answer stays.
    let alone = world.endpoints(1).is_empty();
    if !held && replicas > 0 && !world.witness.hand_on_scale && !alone {
        return Some(format!(
            "no run is under way, and the target still has {replicas} replicas"
        ));
    }
    None
}

/// I2: at the end requests are answered, if anything can answer them.
fn all_served(world: &World) -> Option<String> {
    let any = Deployment::ALL
        .iter()
        .zip(&world.workloads)
        .any(|(_, workload)| workload.ready_pods().next().is_some());
    let dark = world
        .shares()
        .into_iter()
        .find(|(service, weight)| *weight > 0 && !world.answers(*service));
    let unfit = world
        .store
        .get(&primary(world))
        .map(image_of)
        .is_some_and(|image| Nature::of(&image) == Nature::Crash);
    match dark {
        // Without the Service there is nothing that could be served: nobody ever had it.
        Some((service, weight))
            if any
                && !unfit
                && world
                    .store
                    .get(&kinds::SERVICE.named(NAMESPACE, SERVICES[service]))
                    .is_some() =>
        {
            // Somebody's hand on an idle target gives pods that must not serve.
            let unmanaged = world
                .status
                .run
                .as_ref()
                .is_none_or(|run| run.stage == "Initializing");
            // Until the switch the Service leads to the user's own workload, whatever that is worth.
            let own = unmanaged
                && world
                    .status
                    .run
                    .as_ref()
                    .is_some_and(|run| run.weights.is_none());
            let idle = own || unmanaged && world.witness.hand_on_scale;
            (!idle).then(|| {
                format!(
                    "{weight} % of the traffic goes to {}, where nobody answers",
                    SERVICES[service]
                )
            })
        }
        _ => None,
    }
}

/// I11: a calm canary makes no passes that write.
fn at_rest(world: &World) -> Option<String> {
    world
        .replicas
        .iter()
        .filter(|replica| replica.alive && !replica.deaf)
        .find_map(|replica| {
            (replica.work.is_some() || replica.restless > 2)
                .then(|| "nothing happens any more, and yet the controller writes".to_owned())
        })
}

/// I10: the cluster is as the status says: whoever looks afresh finds nothing to write.
fn nothing_owed(world: &World) -> Option<String> {
    world.owed().map(|owed| {
        format!("nothing happens any more, and these are not as they should be: {owed}")
    })
}

/// A number that changes with what is random in a history's end, to compare two runs of one seed.
#[must_use]
pub fn fingerprint(world: &World) -> u64 {
    let names: BTreeSet<String> = world
        .store
        .all()
        .map(|(name, object)| format!("{name} {}", object.resource_version()))
        .collect();
    let text = format!("{names:?} {} {}", world.passes, world.now);
    Random::new(0, &text).next()
}
