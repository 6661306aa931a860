//! The facts that a decision stands on, read once from the snapshot: the target and its revision, the primary, how many endpoints
//! each side has, what the route says. What can't be read or carried out becomes an [`Obstacle`] that says so.

use super::snapshot::{ListRef, Snapshot};
use super::stage::revisions;
use crate::api::Canary;
use crate::object::{Endpoints, Object, ObjectRef, Reading, kinds};
use crate::routing::{self, Observed, Refusal, RouteError, Router, Split};
use crate::workload::configs::{self, ConfigReference, Tracking};
use crate::workload::services::ServiceRole;
use crate::workload::{
    self, Readiness, ReadinessRule, SelectorLabel, Sides, Target, WorkloadError, autoscaler,
};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Why nothing can be decided now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Obstacle {
    /// Something could not be read; nothing starts, stops or is promoted until it can.
    Unknown(String),
    /// The canary asks for something that can't be carried out. A person must change something.
    Refused {
        /// Stable reason.
        reason: &'static str,
        /// Field, value and what would be right.
        message: String,
    },
}

/// One exact version of what runs: the pod template and the configs that it reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    /// Hash of the template.
    pub revision: String,
    /// Checksums of tracked configs.
    pub configs: BTreeMap<String, String>,
}

/// A config of the target that is copied for the primary.
pub(super) struct TrackedConfig {
    pub reference: ConfigReference,
    pub source: Arc<Object>,
    pub checksum: String,
}

/// One of the two sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Primary,
    Canary,
}

/// The facts.
pub(super) struct View<'a> {
    pub snapshot: &'a Snapshot,
    pub canary: &'a Canary,
    pub kind: &'static dyn Target,
    pub router: &'static dyn Router,
    pub target: Arc<Object>,
    pub selector: SelectorLabel,
    /// The target's template as it is kept.
    pub template: Arc<Value>,
    /// The target's revision and configs now.
    pub identity: Identity,
    /// What carries the primary's side, and its name.
    pub primary: Reading,
    pub primary_name: ObjectRef,
    /// What carries the canary's side, and its name: the target itself where it has pods.
    pub judged: Reading,
    pub judged_name: ObjectRef,
    pub autoscaler: Option<Reading>,
    /// The configs that are copied for the primary.
    pub tracked: Vec<TrackedConfig>,
    /// Key and sentence of each config that both sides share because somebody else keeps it.
    pub shared: Vec<(String, String)>,
    /// What the router lacks and the rollout goes on without.
    pub warnings: Vec<Refusal>,
    pub route: Result<Observed, RouteError>,
    primary_endpoints: Result<Endpoints, String>,
    canary_endpoints: Result<Endpoints, String>,
}

impl<'a> View<'a> {
    /// Looks at everything.
    pub fn look(snapshot: &'a Snapshot) -> Result<Self, Obstacle> {
        let canary: &Canary = &snapshot.canary;
        let kind = workload::target_of(canary);
        let (router, warnings) = router(snapshot)?;
        refuse_rivals(snapshot)?;
        let target = present(snapshot, &kind.target(canary), "TargetNotFound")?;
        let selector = kind
            .selector(&target, &snapshot.settings.workload)
            .map_err(|error| unfit(&error))?;
        let facts = snapshot.target_facts(kind, &target);
        let (tracked, shared) = track_configs(snapshot, &facts.references)?;
        let configs = tracked
            .iter()
            .map(|one| (one.reference.status_key(), one.checksum.clone()))
            .collect();
        let identity = Identity {
            revision: facts.revision,
            configs,
        };
        let named = canary.status.as_ref().map(revisions).unwrap_or_default();
        let (primary_name, judged_name) = kind.carriers(canary, &target, named);
        let (primary, judged) = (
            snapshot.object(&primary_name),
            snapshot.object(&judged_name),
        );
        for (name, reading) in [(&primary_name, &primary), (&judged_name, &judged)] {
            if let Some(why) = reading.unknown() {
                return Err(Obstacle::Unknown(format!("{name} can't be read: {why}")));
            }
        }
        if kind.sides() != Sides::Revisions {
            refuse_foreign(canary, &primary_name, &primary)?;
        }
        let autoscaler = autoscaler::source(canary).map(|name| snapshot.object(&name));
        let lookup = |name: &ObjectRef| snapshot.object(name);
        let route = router.observed(canary, &snapshot.settings.routing, &lookup);
        refuse_unfit_route(canary, router, &lookup)?;
        let one = |answers: bool| Endpoints {
            total: 1,
            ready: usize::from(answers),
            ..Endpoints::default()
        };
        let endpoints = |service: &str, carrier: (&ObjectRef, &Reading)| match kind.sides() {
            Sides::Revisions => workload::knative::answers(carrier.0, carrier.1).map(one),
            // A name outside of the cluster has no endpoints here; it is taken to answer, as Flagger takes every Service to.
            Sides::Clones if target.text("/spec/type") == "ExternalName" => Ok(one(true)),
            Sides::Clones | Sides::Pods => snapshot.endpoints(service),
        };
        Ok(Self {
            primary_endpoints: endpoints(&canary.primary_service_name(), (&primary_name, &primary)),
            canary_endpoints: endpoints(&canary.canary_service_name(), (&judged_name, &judged)),
            snapshot,
            canary,
            kind,
            router,
            target,
            selector,
            template: facts.template,
            identity,
            primary,
            primary_name,
            judged,
            judged_name,
            autoscaler,
            tracked,
            shared,
            warnings,
            route,
        })
    }

    /// Ready endpoints of a side; `None` where they can't be read.
    pub fn ready_endpoints(&self, side: Side) -> Option<usize> {
        let endpoints = match side {
            Side::Primary => &self.primary_endpoints,
            Side::Canary => &self.canary_endpoints,
        };
        endpoints.as_ref().ok().map(|endpoints| endpoints.ready)
    }

    /// Whether a side has at least one ready endpoint, so that it can answer at all.
    pub fn serves(&self, side: Side) -> bool {
        self.ready_endpoints(side).is_some_and(|ready| ready > 0)
    }

    /// Whether the apex Service selects the primary's pods already, or a route divides between the two sides.
    pub fn leads_to_primary(&self) -> bool {
        let apex = self.snapshot.object(&ServiceRole::Apex.object(self.canary));
        let selected = apex.object().is_some_and(|apex| {
            apex.at("/spec/selector")[self.selector.key.as_str()].as_str()
                == Some(self.selector.primary_value().as_str())
        });
        selected && self.kind.has_pods()
            || self.route.as_ref().is_ok_and(|route| route.split.is_some())
    }

    /// Whether the primary may be without any pod while it takes over a template; then nobody shall be on it.
    pub fn primary_rolls_dark(&self) -> bool {
        self.primary
            .object()
            .is_some_and(|primary| self.kind.rolls_dark(&self.target, primary))
    }

    /// Whether it is known that a side has no ready endpoint.
    pub fn is_dark(&self, side: Side) -> bool {
        self.ready_endpoints(side) == Some(0)
    }

    /// Whether a side is ready to carry traffic: its workload by Flagger's rule, and the endpoints that gateways see.
    pub fn readiness(&self, side: Side, since: Option<Timestamp>) -> Readiness {
        let analysis = &self.canary.spec.analysis;
        let (workload, threshold) = match side {
            Side::Primary => (self.primary.object(), analysis.primary_ready_threshold()),
            Side::Canary => (self.judged.object(), analysis.canary_ready_threshold()),
        };
        let name = match side {
            Side::Primary => &self.primary_name,
            Side::Canary => &self.judged_name,
        };
        let Some(workload) = workload else {
            return Readiness::Waiting {
                message: format!("{name} is not there yet"),
            };
        };
        let rule = ReadinessRule {
            threshold,
            progress_deadline: signed(self.canary.spec.progress_deadline()),
            since,
            now: self.snapshot.now,
        };
        match self.kind.readiness(workload, &rule) {
            Readiness::Ready if threshold > 0 && !self.serves(side) => Readiness::Waiting {
                message: "waiting for the Service to have ready endpoints".to_owned(),
            },
            readiness => readiness,
        }
    }

    /// Whether the target has pods that may still run.
    pub fn target_is_up(&self) -> bool {
        self.kind.replicas(&self.target) > 0
    }

    /// The pods of a side, as its workload selects them; `None` for a target without pods, or without labels to find them by.
    pub fn pods(&self, side: Side) -> Option<ListRef> {
        let workload = match side {
            Side::Primary => self.primary.object()?,
            Side::Canary => self.target.as_ref(),
        };
        let labels = workload.string_map("/spec/selector/matchLabels");
        (!labels.is_empty()).then(|| ListRef {
            kind: kinds::POD,
            namespace: self.canary.metadata.namespace.clone(),
            labels,
        })
    }

    /// Whether the data plane is seen to carry what the route object says.
    pub fn applied(&self) -> Result<(), String> {
        match &self.route {
            Ok(observed) => match &observed.applied {
                routing::Applied::Yes => Ok(()),
                routing::Applied::Pending(why) => Err(why.clone()),
            },
            Err(error) => Err(error.to_string()),
        }
    }

    /// Whether the route object carries this split; always, where the router has no weights.
    pub fn carries(&self, split: Split) -> Result<(), String> {
        if !self.router.capabilities().weighted() {
            return Ok(());
        }
        let observed = self.route.as_ref().map_err(ToString::to_string)?;
        let Some(found) = observed.split else {
            // Why there is nothing to be seen is better said by what was looked at.
            self.applied()?;
            return Err("it carries no split that can be read".to_owned());
        };
        if found == split {
            return Ok(());
        }
        if found.canary == split.canary {
            return Err(format!(
                "it {} requests to the canary, though it should{}",
                if found.mirrored {
                    "mirrors"
                } else {
                    "mirrors no"
                },
                if split.mirrored { "" } else { " not" },
            ));
        }
        Err(format!(
            "it carries {} % for the canary, {} % were asked",
            found.canary.percent(),
            split.canary.percent()
        ))
    }
}

/// A standard duration as a signed one.
pub(super) fn signed(duration: std::time::Duration) -> SignedDuration {
    SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX)
}

fn router(snapshot: &Snapshot) -> Result<(&'static dyn Router, Vec<Refusal>), Obstacle> {
    let canary = &snapshot.canary;
    let provider = canary.spec.provider_or(&snapshot.settings.mesh_provider);
    let router = routing::router_of(canary, provider).ok_or_else(|| Obstacle::Refused {
        reason: "ProviderNotSupported",
        message: format!(
            "spec.provider: {provider} has no router here; use one of {}",
            routing::table()
                .iter()
                .map(|(name, _)| *name)
                .collect::<Vec<_>>()
                .join(", ")
        ),
    })?;
    if snapshot.is_settled(&"router") {
        return Ok((router, Vec::new()));
    }
    let (errors, warnings): (Vec<Refusal>, Vec<Refusal>) = router
        .refusals(canary)
        .into_iter()
        .map(|refusal| refusal.taken(snapshot.settings.routing.refuse_unsupported))
        .partition(|refusal| refusal.severity == routing::Severity::Error);
    let refusals: Vec<String> = errors
        .into_iter()
        .map(|refusal| format!("{}: {}", refusal.field, refusal.message))
        .collect();
    if refusals.is_empty() {
        if warnings.is_empty() {
            snapshot.remember_settled(&"router", &[]);
        }
        Ok((router, warnings))
    } else {
        Err(Obstacle::Refused {
            reason: "RouterCannotExpress",
            message: refusals.join("; "),
        })
    }
}

/// As long as nothing is promoted and nothing switched, the user's workload serves by itself: a route that can't be worked with is told of
/// before anything is changed. Later it holds what it must hold, and no more.
fn refuse_unfit_route(
    canary: &Canary,
    router: &dyn Router,
    lookup: &routing::Lookup<'_>,
) -> Result<(), Obstacle> {
    let begun = canary.status.as_ref().is_some_and(|status| {
        status.promoted.is_some()
            || status
                .run
                .as_ref()
                .is_some_and(|run| run.drain_from.is_some())
    });
    if begun {
        return Ok(());
    }
    match router.unfit(canary, lookup).into_iter().next() {
        None => Ok(()),
        Some(error) => Err(Obstacle::Refused {
            reason: match error {
                RouteError::Missing(_) => "RouteNotFound",
                RouteError::Unknown(..) => "RouteNotReadable",
                RouteError::Unfit(..) | RouteError::Invalid { .. } => "RouteUnfit",
            },
            message: error.to_string(),
        }),
    }
}

/// Two canaries on one target, or with one apex name, would fight; the older one keeps what both claim.
fn refuse_rivals(snapshot: &Snapshot) -> Result<(), Obstacle> {
    let canary = &snapshot.canary;
    let target = &canary.spec.target_ref;
    let claim = format!("{}/{}", target.kind, target.name);
    let mine = (
        canary.metadata.creation_timestamp,
        canary.metadata.name.as_str(),
    );
    let older = |sibling: &&super::Sibling| (sibling.created_at, sibling.name.as_str()) < mine;
    if let Some(rival) = snapshot
        .siblings
        .iter()
        .filter(older)
        .find(|sibling| sibling.target == claim)
    {
        return Err(Obstacle::Refused {
            reason: "TargetClaimed",
            message: format!(
                "spec.targetRef: {claim} is already controlled by the older canary {}; two canaries on one target would fight, remove one",
                rival.name
            ),
        });
    }
    if let Some(rival) = snapshot
        .siblings
        .iter()
        .filter(older)
        .find(|sibling| sibling.apex == canary.apex_name())
    {
        return Err(Obstacle::Refused {
            reason: "ApexClaimed",
            message: format!(
                "spec.service.name: {} is already the apex of the older canary {}; give this one another name",
                canary.apex_name(),
                rival.name
            ),
        });
    }
    Ok(())
}

fn refuse_foreign(canary: &Canary, name: &ObjectRef, primary: &Reading) -> Result<(), Obstacle> {
    let Some(object) = primary.object() else {
        return Ok(());
    };
    let foreign = match object.controller_owner() {
        // Flagger adopted whatever had the name. A primary without controller is somebody's own workload, unless Flagger made it.
        None => object
            .at("/spec/template/metadata/annotations/flagger-id")
            .is_null()
            .then(|| "nobody".to_owned()),
        Some(owner) if owner.kind == "Canary" && owner.name == canary.metadata.name => None,
        Some(owner) => Some(format!("{} {}", owner.kind, owner.name)),
    };
    foreign.map_or(Ok(()), |owner| {
        Err(Obstacle::Refused {
            reason: "PrimaryNotOurs",
            message: format!(
                "{name} exists and is controlled by {owner}; Serin would overwrite it. Remove or rename that object, or rename the target"
            ),
        })
    })
}

fn present(
    snapshot: &Snapshot,
    name: &ObjectRef,
    reason: &'static str,
) -> Result<Arc<Object>, Obstacle> {
    match snapshot.object(name) {
        Reading::Present(object) => Ok(object),
        Reading::Absent => Err(Obstacle::Refused {
            reason,
            message: format!(
                "{name} not found; spec.targetRef must name a workload in the canary's namespace"
            ),
        }),
        Reading::Unknown(why) => Err(Obstacle::Unknown(format!("{name} can't be read: {why}"))),
    }
}

fn unfit(error: &WorkloadError) -> Obstacle {
    Obstacle::Refused {
        reason: "TargetUnfit",
        message: error.to_string(),
    }
}

/// The configs that are copied, and those that are shared for a reason worth telling.
type Configs = (Vec<TrackedConfig>, Vec<(String, String)>);

fn track_configs(snapshot: &Snapshot, references: &[ConfigReference]) -> Result<Configs, Obstacle> {
    let (mut tracked, mut shared) = (Vec::new(), Vec::new());
    if !snapshot.settings.workload.config_tracking {
        return Ok((tracked, shared));
    }
    let canary = &snapshot.canary;
    for reference in references {
        let source = snapshot.object(&reference.object(canary));
        match configs::track(canary, reference, &source).map_err(|error| unfit(&error))? {
            Tracking::Unknown(why) => {
                return Err(Obstacle::Unknown(format!(
                    "{} can't be read: {why}",
                    reference.object(canary)
                )));
            }
            Tracking::Shared(Some(why)) => shared.push((reference.status_key(), why)),
            Tracking::Shared(None) | Tracking::Missing => {}
            Tracking::Copied { checksum } => {
                if let Reading::Present(source) = source {
                    tracked.push(TrackedConfig {
                        reference: reference.clone(),
                        source,
                        checksum,
                    });
                }
            }
        }
    }
    Ok((tracked, shared))
}
