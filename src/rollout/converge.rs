//! From intent to writes. What the status says is compared with what is there, and each difference becomes one write, in the order
//! that keeps traffic served: what is kept and created first, then routes, and what takes pods away last.

use super::pass::split_of;
use super::stage::{Stage, revisions};
use super::view::{Identity, Side, View};
use crate::api::{CanaryStatus, Phase, Run};
use crate::object::{
    APPLIED_ANNOTATION, Expect, Object, ObjectRef, Reading, Write, apply_if_needed,
    apply_sealed_if_needed, seal,
};
use crate::routing::{Cookies, RouteRequest, Split, Weight};
use crate::workload::revision::{self, KeptRevision};
use crate::workload::services::{self, ServiceRole};
use crate::workload::{
    self, PrimaryRequest, Sides, WorkloadError, autoscaler, configs, service_target,
};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What is to be written, and what was found on the way.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub writes: Vec<Write>,
    /// A split that somebody else changed and that is set back.
    pub drift: Option<Drift>,
    /// When something must be looked at again.
    pub wake: Option<Timestamp>,
    /// Reason and sentence where something can't be written as it should be.
    pub problem: Option<(&'static str, String)>,
}

/// A split that somebody else changed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Drift {
    pub object: ObjectRef,
    pub writer: String,
    /// The canary's weight; `None` where the route made no sense any more.
    pub found: Option<u8>,
    pub wanted: u8,
}

/// How many pods the target shall have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scale {
    /// As it is.
    Leave,
    /// At least what a side that carries traffic needs.
    Up,
    /// None.
    Zero,
}

/// What the status asks of the cluster.
struct Intent<'s> {
    /// The revision that the primary shall run, with its configs; `None` leaves the primary as it is.
    primary: Option<(&'s str, &'s Configs)>,
    /// Whether the primary's configs and autoscaler are brought to what their sources say now.
    copies: bool,
    /// The split of traffic; `None` touches no route.
    split: Option<Split>,
    /// Whether the apex Service leads to the primary.
    apex: bool,
    /// How many pods the target has.
    scale: Scale,
    /// Whether the target's autoscaler is held at zero; `None` leaves it as it is.
    asleep: Option<bool>,
}

type Configs = BTreeMap<String, String>;

impl<'s> Intent<'s> {
    fn of(status: &'s CanaryStatus, drained: bool) -> Self {
        let promoted = status
            .promoted
            .as_ref()
            // Where Flagger's primary ran something that nobody kept, there is nothing to make it from.
            .filter(|promoted| promoted.template.is_some())
            .map(|promoted| (promoted.revision.as_str(), &promoted.tracked_configs));
        let idle = Self {
            primary: promoted,
            copies: false,
            split: Some(Split::PRIMARY),
            apex: true,
            scale: if drained { Scale::Zero } else { Scale::Leave },
            asleep: drained.then_some(true),
        };
        let Some(run) = &status.run else { return idle };
        let judged = Some((run.revision.as_str(), &run.tracked_configs));
        let split = Some(effective_split(status, run));
        let down = if drained { Scale::Zero } else { Scale::Leave };
        match Stage::parse(&run.stage).unwrap_or(Stage::Analysing) {
            Stage::Initializing => {
                let switching = run.drain_from.is_some();
                Self {
                    primary: judged,
                    copies: true,
                    split: split.filter(|_| switching),
                    apex: switching,
                    scale: down,
                    asleep: Some(drained),
                }
            }
            // Its pods may serve, or have served until now: they stay as they are.
            Stage::Waiting => Self {
                split,
                scale: Scale::Leave,
                asleep: None,
                ..idle
            },
            Stage::PostRollout => idle,
            Stage::ScalingUp | Stage::Analysing | Stage::Held => Self {
                split,
                scale: Scale::Up,
                asleep: Some(false),
                ..idle
            },
            Stage::RollingBack | Stage::Cancelling => Self {
                split,
                scale: down,
                asleep: Some(drained),
                ..idle
            },
            Stage::Promoting | Stage::Returning => Self {
                primary: judged,
                copies: true,
                split,
                scale: Scale::Up,
                asleep: Some(false),
                ..idle
            },
            Stage::ScalingDown => Self {
                primary: judged,
                copies: true,
                split,
                scale: down,
                asleep: Some(drained),
                ..idle
            },
        }
    }
}

/// The split that shall hold now: the run's, or all on the other side while a side is dark.
fn effective_split(status: &CanaryStatus, run: &Run) -> Split {
    if run.diverted {
        return Split {
            canary: Weight::clamped(status.canary_weight),
            mirrored: false,
        };
    }
    split_of(run)
}

/// The writes that bring the cluster to what `status` says.
pub(super) fn writes(view: &View<'_>, status: &CanaryStatus, drained: bool) -> Plan {
    let mut plan = Plan::default();
    let intent = Intent::of(status, drained);
    if let Err((reason, message)) = fill(view, status, &intent, &mut plan) {
        plan.problem = Some((reason, message));
    }
    plan
}

/// Without weights the apex Service alone can lead requests away from a first primary that does not answer.
fn leads_back(view: &View<'_>, status: &CanaryStatus) -> bool {
    let initialising = |run: &Run| Stage::parse(&run.stage) == Some(Stage::Initializing);
    !view.router.capabilities().weighted()
        && status
            .run
            .as_ref()
            .is_some_and(|run| run.diverted && initialising(run))
}

/// What a route carries that somebody led to the canary after the run was over, where the canary alone answers: undone it would be an
/// outage.
fn led_to_the_only_side(view: &View<'_>, status: &CanaryStatus) -> Option<Split> {
    let over = |run: &Run| Stage::parse(&run.stage) == Some(Stage::PostRollout);
    let carried = view.route.as_ref().ok()?.split?;
    (status.run.as_ref().is_none_or(over)
        && carried.canary > Weight::NONE
        && view.is_dark(Side::Primary)
        && view.serves(Side::Canary))
    .then_some(carried)
}

fn fill(
    view: &View<'_>,
    status: &CanaryStatus,
    intent: &Intent<'_>,
    plan: &mut Plan,
) -> Result<(), (&'static str, String)> {
    let unfit = |error: WorkloadError| ("TargetUnfit", error.to_string());
    let sides = view.kind.sides();
    if sides != Sides::Revisions {
        keep_revisions(view, status, plan)?;
    }
    let ports = view.kind.ports(&view.target, view.canary);
    let service = |role: ServiceRole| {
        let part = ("service", role, &view.selector, &ports);
        let name = role.object(view.canary);
        if view.snapshot.is_settled_but_for_status(&part) {
            return Ok(None);
        }
        let live = view.snapshot.object(&name);
        let write = services::desired_services(view.canary, &view.selector, &ports, role, &live)
            .map_err(unfit)?;
        if write.is_none() {
            view.snapshot.remember_settled(&part, &[name]);
        }
        Ok(write)
    };
    let clone = match sides {
        Sides::Pods => {
            plan.writes.extend(service(ServiceRole::Canary)?);
            plan.writes.extend(service(ServiceRole::Primary)?);
            None
        }
        Sides::Clones => canary_clone(view, status)?,
        Sides::Revisions => None,
    };
    // A clone that is there changes what it leads to only after the routes have been told.
    let (first, later) = match clone {
        Some(
            write @ Write::Apply {
                expect: Expect::Absent,
                ..
            },
        ) => (Some(write), None),
        write => (None, write),
    };
    plan.writes.extend(first);
    let autoscaler = view.autoscaler.as_ref().and_then(Reading::object);
    if intent.scale == Scale::Up && view.kind.has_pods() && !view.target_is_up() {
        let replicas = view.kind.replicas_from_zero(
            view.canary,
            &view.target,
            view.primary.object(),
            autoscaler,
        );
        plan.writes.extend(scale_up(view, replicas.max(1)));
    }
    if intent.asleep == Some(false) {
        plan.writes.extend(autoscaler.and_then(autoscaler::resume));
    }
    if intent.split.is_none() {
        let request = route_request(view, status, Split::PRIMARY);
        let lookup = |name: &ObjectRef| view.snapshot.object(name);
        let writes = view.router.prepare(&request, &lookup);
        plan.writes
            .extend(writes.map_err(|error| ("RouteNotWritable", error.to_string()))?);
    }
    if let Some((hash, configs)) = intent.primary
        && sides != Sides::Revisions
    {
        if intent.copies || view.primary.is_absent() {
            copy_configs(view, configs, plan)?;
        }
        prepare_configs(view, status, plan)?;
        plan.writes
            .extend(primary_write(view, status, hash, configs)?);
    }
    if let Some(autoscaler) = autoscaler {
        autoscaler_write(view, status, intent, autoscaler, plan)?;
    }
    if intent.apex && view.kind.has_pods() {
        let apex = if leads_back(view, status) {
            ServiceRole::ApexOfTarget
        } else {
            ServiceRole::Apex
        };
        plan.writes.extend(service(apex)?);
    }
    if let Some(split) = intent.split {
        route_writes(view, status, split, plan)?;
    }
    plan.writes.extend(later);
    // The only copy that may still answer stays awake, and so does one that the gateway still sends to.
    if intent.asleep == Some(true) && leads_to_primary_alone(view) {
        plan.writes.extend(autoscaler.and_then(autoscaler::pause));
    }
    if intent.scale == Scale::Zero {
        plan.writes.extend(view.kind.scale(&view.target, 0));
    }
    if status.run.is_none() {
        forget_revisions(view, status, plan);
        forget_configs(view, status, plan);
    }
    Ok(())
}

/// Whether the primary answers, and the gateway is seen to send everything there.
pub(super) fn leads_to_primary_alone(view: &View<'_>) -> bool {
    view.serves(Side::Primary) && view.carries(Split::PRIMARY).is_ok() && view.applied().is_ok()
}

/// Whether the target has an autoscaler that would start pods of it.
pub(super) fn is_awake(view: &View<'_>) -> bool {
    let autoscaler = view.autoscaler.as_ref().and_then(Reading::object);
    autoscaler.and_then(autoscaler::pause).is_some()
}

/// The canary's clone of a Service target: the revision that is judged, and the target's own while no run is under way. A revision that
/// comes in the middle gets no requests before the run has begun anew.
fn canary_clone(
    view: &View<'_>,
    status: &CanaryStatus,
) -> Result<Option<Write>, (&'static str, String)> {
    let judged = status
        .run
        .as_ref()
        .filter(|run| !["Initializing", "Waiting", "PostRollout"].contains(&run.stage.as_str()))
        .map(|run| run.revision.as_str());
    let spec = match judged {
        Some(hash) => template_of(view, hash)?,
        None => Some(Arc::clone(&view.template)),
    };
    let Some(spec) = spec else { return Ok(None) };
    let live = view
        .snapshot
        .object(&ServiceRole::Canary.object(view.canary));
    let settings = &view.snapshot.settings.workload;
    service_target::desired_canary(view.canary, &view.target, &spec, &live, settings)
        .map_err(|error| ("TargetUnfit", error.to_string()))
}

fn route_request<'v>(
    view: &'v View<'_>,
    status: &'v CanaryStatus,
    split: Split,
) -> RouteRequest<'v> {
    RouteRequest {
        canary: view.canary,
        settings: &view.snapshot.settings.routing,
        split,
        revisions: revisions(status),
        cookies: Cookies {
            canary: status.session_affinity_cookie.clone(),
            primary: status.primary_session_affinity_cookie.clone(),
            previous: status.previous_session_affinity_cookie.clone(),
        },
        selector_label: Some(view.selector.key.as_str()).filter(|key| !key.is_empty()),
    }
}

fn route_writes(
    view: &View<'_>,
    status: &CanaryStatus,
    split: Split,
    plan: &mut Plan,
) -> Result<(), (&'static str, String)> {
    if let Some(carried) = led_to_the_only_side(view, status) {
        let share = carried.canary.percent();
        plan.problem = Some((
            "PrimaryNotServing",
            format!(
                "the primary has no ready endpoints, so the route stays as it is: {share} % for the canary"
            ),
        ));
        return Ok(());
    }
    let request = route_request(view, status, split);
    let part = (
        "route",
        split.canary.percent(),
        split.mirrored,
        request.revisions,
        &request.cookies,
        &view.selector.key,
    );
    if view.snapshot.is_settled_but_for_status(&part) {
        return Ok(());
    }
    let looked_at = RefCell::new(Vec::new());
    let lookup = |name: &ObjectRef| {
        looked_at.borrow_mut().push(name.clone());
        view.snapshot.object(name)
    };
    let carried = view.route.as_ref().ok().and_then(|route| route.split);
    let writes = match view.router.desired(&request, &lookup) {
        Ok(writes) => writes,
        Err(error) => {
            let problem = ("RouteNotWritable", error.to_string());
            if split != Split::PRIMARY || carried != Some(split) {
                return Err(problem);
            }
            // Nothing leads to the canary, so what comes after the routes may be done.
            plan.problem = Some(problem);
            return Ok(());
        }
    };
    if writes.is_empty() {
        view.snapshot.remember_settled(&part, &looked_at.take());
    }
    if let (Some(write), Ok(observed)) = (writes.first(), &view.route)
        && let Some(writer) = &observed.foreign_writer
        && observed
            .split
            .is_none_or(|found| found.canary != split.canary)
        && before(view) == Some(split)
    {
        plan.drift = Some(Drift {
            object: write.target(),
            writer: writer.clone(),
            found: observed.split.map(|found| found.canary.percent()),
            wanted: split.canary.percent(),
        });
    }
    plan.writes.extend(writes);
    Ok(())
}

/// More pods are right whatever the target's controller reports meanwhile, which it does all the time; but not once somebody, another
/// replica of ours among them, asked something else of it.
fn scale_up(view: &View<'_>, replicas: i64) -> Option<Write> {
    view.kind
        .scale(&view.target, replicas)
        .map(|write| write.whatever_status(&view.target))
}

/// The primary's copies of the configs that a revision was judged with. A source that has changed since is a newer revision: what was
/// judged is promoted, so its copy is left as it is.
fn copy_configs(
    view: &View<'_>,
    judged: &Configs,
    plan: &mut Plan,
) -> Result<(), (&'static str, String)> {
    for tracked in &view.tracked {
        if judged.get(&tracked.reference.status_key()) != Some(&tracked.checksum) {
            continue;
        }
        let live = view.snapshot.object(&tracked.reference.copy(view.canary));
        let settings = &view.snapshot.settings.workload;
        let write = configs::copy_if_needed(view.canary, &tracked.source, &live, settings)
            .map_err(|error| ("ConfigUnfit", error.to_string()))?;
        plan.writes.extend(write);
    }
    Ok(())
}

/// Copies of configs that the primary does not read yet are made when their run begins, with what is judged: should the source change just
/// when the run is promoted, the primary's new pods must not wait for them.
fn prepare_configs(
    view: &View<'_>,
    status: &CanaryStatus,
    plan: &mut Plan,
) -> Result<(), (&'static str, String)> {
    let Some(run) = &status.run else {
        return Ok(());
    };
    let known = status
        .promoted
        .as_ref()
        .map(|promoted| &promoted.tracked_configs);
    let fresh: Configs = run
        .tracked_configs
        .iter()
        .filter(|(key, _)| known.is_some_and(|known| !known.contains_key(*key)))
        .map(|(key, checksum)| (key.clone(), checksum.clone()))
        .collect();
    let begun = matches!(
        Stage::parse(&run.stage),
        Some(Stage::ScalingUp | Stage::Analysing)
    );
    if begun && !fresh.is_empty() {
        copy_configs(view, &fresh, plan)?;
    }
    Ok(())
}

/// Which configs of a template are read from the primary's copies: those that were copied with its revision.
fn renames(template: &Value, judged: &Configs) -> BTreeMap<(String, String), String> {
    configs::references(template)
        .into_iter()
        .filter(|reference| judged.contains_key(&reference.status_key()))
        .map(|reference| (reference.rename_key(), reference.copy_name()))
        .collect()
}

/// The primary's autoscaler is made once the primary is there, and follows its source when the primary is promoted. While the primary takes
/// traffic over, the minimum is what the traffic needs: an autoscaler that has seen no load would have kept the primary small.
fn autoscaler_write(
    view: &View<'_>,
    status: &CanaryStatus,
    intent: &Intent<'_>,
    source: &Object,
    plan: &mut Plan,
) -> Result<(), (&'static str, String)> {
    let Some(name) = autoscaler::primary(view.canary) else {
        return Ok(());
    };
    let live = view.snapshot.object(&name);
    let raised = live.object().and_then(autoscaler::floor);
    let settled = status.promoted.as_ref().and_then(|promoted| {
        let at = promoted.promoted_at?;
        at.checked_add(SETTLING).ok()
    });
    let lower = raised.is_some()
        && status.run.is_none()
        && settled.is_none_or(|settled| settled <= view.snapshot.now);
    if raised.is_some() && status.run.is_none() && !lower {
        plan.wake = settled;
    }
    if view.primary.is_absent() || !(live.is_absent() || intent.copies || lower) {
        return Ok(());
    }
    let mut desired = autoscaler::desired_primary_autoscaler(view.canary, source)
        .map_err(|error| ("AutoscalerUnfit", error.to_string()))?;
    if !lower && !live.is_absent() {
        let needed = needed_replicas(view, status).max(raised);
        desired = needed.map_or(desired.clone(), |needed| {
            autoscaler::with_floor(desired, needed)
        });
    }
    plan.writes
        .extend(apply_if_needed(&name.kind, desired, &live));
    Ok(())
}

/// How long the minimum of the primary's autoscaler stays raised after a promotion: as long as a HPA looks back before it scales down.
const SETTLING: SignedDuration = SignedDuration::from_mins(5);

/// How many pods the primary needs for the traffic that it is about to take over; `None` where it takes none over, or has no autoscaler.
fn needed_replicas(view: &View<'_>, status: &CanaryStatus) -> Option<i64> {
    let run = status.run.as_ref()?;
    let takes_over = matches!(
        Stage::parse(&run.stage),
        Some(Stage::Promoting | Stage::Returning)
    );
    let source = view.autoscaler.as_ref()?.object()?;
    let desired = autoscaler::desired_primary_autoscaler(view.canary, source).ok()?;
    let canary = if effective_split(status, run).canary > Weight::NONE {
        view.kind.replicas(&view.target)
    } else {
        0
    };
    takes_over.then(|| autoscaler::capacity(&desired, canary))
}

/// How many pods the primary has, where they are fewer than it needs for the traffic that it is about to take over, and how many those are.
pub(super) fn lacks_capacity(view: &View<'_>, status: &CanaryStatus) -> Option<(i64, i64)> {
    let needed = needed_replicas(view, status)?;
    let has = view.kind.replicas(view.primary.object()?);
    (view.kind.kind() == "Deployment" && has < needed).then_some((has, needed))
}

/// The split that the status asked for before this pass.
fn before(view: &View<'_>) -> Option<Split> {
    let status = view.canary.status.as_ref()?;
    Intent::of(status, false).split
}

/// The template of a revision: the target's own where it is that revision, else the kept one. `None` where it can't be read now.
fn template_of(view: &View<'_>, hash: &str) -> Result<Option<Arc<Value>>, (&'static str, String)> {
    if view.identity.revision == hash {
        return Ok(Some(Arc::clone(&view.template)));
    }
    match view
        .snapshot
        .object(&revision::object_ref(view.canary, hash))
    {
        Reading::Present(object) => revision::decode(&object)
            .map(|kept| Some(Arc::new(kept.template)))
            .map_err(|error| ("KeptRevisionUnusable", error.to_string())),
        Reading::Absent | Reading::Unknown(_) => Ok(None),
    }
}

/// Whether the template of a revision is kept, as far as is known.
pub(super) fn is_kept(view: &View<'_>, hash: &str) -> bool {
    let kept = revision::object_ref(view.canary, hash);
    !view.snapshot.object(&kept).is_absent()
}

/// Keeps what is judged and what is promoted, so that the primary can be made from it whatever becomes of the target.
fn keep_revisions(
    view: &View<'_>,
    status: &CanaryStatus,
    plan: &mut Plan,
) -> Result<(), (&'static str, String)> {
    let run = status.run.as_ref().filter(|run| {
        run.stage != Stage::Waiting.as_str() && run.stage != Stage::PostRollout.as_str()
    });
    let wanted = run
        .map(|run| (run.revision.as_str(), &run.tracked_configs, run.number))
        .into_iter()
        .chain(
            status
                .promoted
                .as_ref()
                .filter(|promoted| promoted.template.is_some())
                .map(|promoted| {
                    (
                        promoted.revision.as_str(),
                        &promoted.tracked_configs,
                        status.history.last().map_or(0, |run| run.number),
                    )
                }),
        );
    let mut seen = BTreeSet::new();
    for (hash, configs, number) in wanted {
        if !seen.insert(hash) || view.identity.revision != hash {
            continue;
        }
        let live = view
            .snapshot
            .object(&revision::object_ref(view.canary, hash));
        if !live.is_absent() {
            continue;
        }
        let kept = KeptRevision {
            hash: hash.to_owned(),
            template: view.template.as_ref().clone(),
            number,
            configs: configs.clone(),
        };
        let write = revision::keep(view.canary, &kept, &live)
            .map_err(|error| ("KeptRevisionUnusable", error.to_string()))?;
        plan.writes.extend(write);
    }
    Ok(())
}

/// Keeps what a primary that is taken over was found to run, where nobody else does.
pub(super) fn keep_found(view: &View<'_>, found: &Identity, template: Value) -> Option<Write> {
    if view.kind.sides() == Sides::Revisions {
        return None;
    }
    let live = view
        .snapshot
        .object(&revision::object_ref(view.canary, &found.revision));
    let kept = KeptRevision {
        hash: found.revision.clone(),
        template,
        number: 0,
        configs: found.configs.clone(),
    };
    revision::keep(view.canary, &kept, &live).ok().flatten()
}

/// Deletes the copies that the promoted primary does not read.
fn forget_configs(view: &View<'_>, status: &CanaryStatus, plan: &mut Plan) {
    let stale = status
        .promoted
        .iter()
        .flat_map(|promoted| &promoted.stale_configs);
    for copy in stale.filter_map(|key| configs::copy_of_key(view.canary, key)) {
        if let Reading::Present(live) = view.snapshot.object(&copy) {
            plan.writes.extend(configs::forget_copy(&live, view.canary));
        }
    }
}

/// Deletes kept revisions beyond `revisionHistoryLimit`, never one that is in use.
fn forget_revisions(view: &View<'_>, status: &CanaryStatus, plan: &mut Plan) {
    let name = super::ListRef {
        kind: crate::object::kinds::CONTROLLER_REVISION,
        namespace: view.canary.metadata.namespace.clone(),
        labels: revision::labels(view.canary),
    };
    let super::Listing::Known(objects) = view.snapshot.list(&name) else {
        return;
    };
    let used: BTreeSet<String> = status
        .promoted
        .iter()
        .filter_map(|promoted| promoted.template.clone())
        .chain(
            status
                .last_applied_spec
                .iter()
                .map(|hash| revision::object_ref(view.canary, hash).name),
        )
        .collect();
    let limit = view.canary.spec.revision_history_limit();
    let expired = revision::expired(objects.iter().map(AsRef::as_ref), &used, limit);
    plan.writes
        .extend(expired.into_iter().map(|object| Write::Delete {
            target: name.kind.named(object.namespace(), object.name()),
            expect: Expect::unchanged(object),
        }));
}

/// The primary with the template of a revision, as Serin wants it: sealed, with the replicas that it shall have now. The seal does not
/// cover the replicas, which autoscalers and people change too.
fn desired_primary(
    view: &View<'_>,
    status: &CanaryStatus,
    hash: &str,
    configs: &Configs,
) -> Result<Option<Object>, (&'static str, String)> {
    let Some(template) = template_of(view, hash)? else {
        return Ok(None);
    };
    let renamed = renames(&template, configs);
    let flagger_id = workload::flagger_id(hash, &crate::object::short_digest(&json!(configs)));
    let request = PrimaryRequest {
        canary: view.canary,
        target: &view.target,
        template: &template,
        replicas: None,
        renamed_configs: &renamed,
        flagger_id: &flagger_id,
        selector: &view.selector,
        settings: &view.snapshot.settings.workload,
    };
    let object = view
        .kind
        .desired_primary(&request)
        .map_err(|error| ("TargetUnfit", error.to_string()))?;
    let mut object = seal(object);
    if view.kind.kind() == "Deployment" {
        object.value_mut()["spec"]["replicas"] = json!(primary_replicas(view, status));
    }
    Ok(Some(object))
}

/// A primary keeps the replicas that it has. While it is promoted it takes over the target's, which is where users write the number
/// down; a new or rebuilt one gets what was promoted with it or what the target has.
fn primary_replicas(view: &View<'_>, status: &CanaryStatus) -> i64 {
    let target = view.kind.replicas(&view.target);
    let Some(live) = view.primary.object() else {
        let remembered = status
            .promoted
            .as_ref()
            .and_then(|promoted| promoted.replicas)
            .unwrap_or(0);
        return if status.phase == Phase::Initializing || remembered < 1 {
            target.max(1)
        } else {
            remembered
        };
    };
    let live = view.kind.replicas(live);
    if status.phase == Phase::Promoting && view.canary.spec.autoscaler_ref.is_none() && target > 0 {
        return target;
    }
    live
}

fn primary_write(
    view: &View<'_>,
    status: &CanaryStatus,
    hash: &str,
    configs: &Configs,
) -> Result<Option<Write>, (&'static str, String)> {
    let promoting = status
        .run
        .as_ref()
        .is_some_and(|run| run.revision == hash && run.stage != Stage::Initializing.as_str());
    if is_flaggers(view) && (!promoting || is_promoted(status, hash, configs)) {
        // Made by Flagger and running what it should: rewriting it would only restart its pods.
        return Ok(None);
    }
    let part = primary_part("primary", view, status, hash, configs);
    if view.snapshot.is_settled_but_for_status(&part) {
        return Ok(None);
    }
    let desired = desired_primary(view, status, hash, configs)?;
    if !view.kind.has_pods() {
        let Some(mut object) = desired else {
            return Ok(None);
        };
        // It is sealed again once it is known how it is written.
        if let Some(annotations) = object.value_mut()["metadata"]["annotations"].as_object_mut() {
            annotations.remove(APPLIED_ANNOTATION);
        }
        return services::apply_exactly(view.canary, object, &view.primary)
            .map_err(|error| ("TargetUnfit", error.to_string()));
    }
    let known = desired.is_some();
    let write = desired
        .and_then(|object| apply_sealed_if_needed(&primary_kind(view), object, &view.primary));
    if write.is_none() && known {
        view.snapshot
            .remember_settled(&part, &made_from(view, hash));
    }
    Ok(write)
}

/// What the primary that Serin wants depends on, beside objects.
fn primary_part<'p>(
    question: &'static str,
    view: &View<'_>,
    status: &CanaryStatus,
    hash: &'p str,
    configs: &'p Configs,
) -> (&'static str, &'p str, &'p Configs, i64) {
    (question, hash, configs, primary_replicas(view, status))
}

/// The objects that the primary that Serin wants depends on, and the primary.
fn made_from(view: &View<'_>, hash: &str) -> Vec<ObjectRef> {
    let mut from = vec![
        view.kind.target(view.canary),
        view.kind.primary(view.canary),
    ];
    if view.identity.revision != hash {
        from.push(revision::object_ref(view.canary, hash));
    }
    from
}

/// Whether the primary is as Flagger wrote it last.
pub(super) fn is_flaggers(view: &View<'_>) -> bool {
    view.primary
        .object()
        .is_some_and(|primary| primary.annotation(APPLIED_ANNOTATION).is_none())
}

/// Whether a revision with its configs is what the primary was found, or made, to run.
fn is_promoted(status: &CanaryStatus, hash: &str, configs: &Configs) -> bool {
    status.promoted.as_ref().is_some_and(|promoted| {
        promoted.template.is_some()
            && promoted.revision == hash
            && promoted.tracked_configs == *configs
    })
}

fn primary_kind(view: &View<'_>) -> crate::object::Kind {
    view.kind.primary(view.canary).kind
}

/// Whether the live primary already carries what `status` wants it to carry.
pub(super) fn primary_carries(view: &View<'_>, status: &CanaryStatus) -> bool {
    let intent = Intent::of(status, false);
    let Some((hash, configs)) = intent.primary else {
        return true;
    };
    let Some(live) = view.primary.object() else {
        return false;
    };
    if view.kind.sides() == Sides::Revisions {
        // It is that revision.
        return true;
    }
    if is_flaggers(view) && is_promoted(status, hash, configs) {
        return true;
    }
    let part = primary_part("carries", view, status, hash, configs);
    if view.snapshot.is_settled_but_for_status(&part) {
        return true;
    }
    match desired_primary(view, status, hash, configs) {
        Ok(Some(desired)) if crate::object::covers(live.value(), desired.value()) => {
            view.snapshot
                .remember_settled(&part, &made_from(view, hash));
            true
        }
        _ => false,
    }
}
