//! Deletion with `revertOnDeletion`: the target gets its replicas back, then the apex Service and the route lead to it again, and after
//! a drain time the object may go. Whatever is missing, this ends within the progress deadline.

use super::Pass;
use super::observe::{FORMER_ROUTER, ROUTER};
use crate::api::{Deletion, Phase};
use crate::object::{Expect, ObjectRef, Patch, Reading, Write, kinds};
use crate::rollout::decision::Severity;
use crate::rollout::view::signed;
use crate::routing::{self, Router};
use crate::workload::services::{self, ServiceRole};
use crate::workload::{self, ReadinessRule, autoscaler};
use serde_json::json;

/// Flagger's finalizer.
pub(crate) const FINALIZER: &str = "finalizer.flagger.app";

impl Pass<'_> {
    /// The finalizer is there exactly as long as the user wants changes undone, or the router has objects that nobody else takes away. Only in a pass that changes no status, since a
    /// status write moves the version that this patch is guarded with.
    pub(super) fn finalizer_write(&self) -> Option<Write> {
        let metadata = &self.canary.metadata;
        let present = metadata.finalizers.iter().any(|name| name == FINALIZER);
        let wanted = (self.canary.spec.revert_on_deletion()
            || self.router().is_some_and(Router::leaves_objects)
            || self.status.observed.contains_key(FORMER_ROUTER))
            && !metadata.is_deleting();
        if present == wanted || metadata.is_deleting() {
            return None;
        }
        let mut finalizers: Vec<&str> = metadata
            .finalizers
            .iter()
            .map(String::as_str)
            .filter(|name| *name != FINALIZER)
            .collect();
        if wanted {
            finalizers.push(FINALIZER);
        }
        Some(self.finalizers_patch(&finalizers))
    }

    fn finalizers_patch(&self, finalizers: &[&str]) -> Write {
        let metadata = &self.canary.metadata;
        Write::Patch {
            target: kinds::CANARY.named(&metadata.namespace, &metadata.name),
            patch: Patch::Json(vec![
                json!({"op": "add", "path": "/metadata/finalizers", "value": finalizers}),
            ]),
            expect: Expect::Version {
                uid: metadata.uid.clone().unwrap_or_default(),
                resource_version: metadata.resource_version.clone().unwrap_or_default(),
            },
        }
    }

    fn release(&self) -> Vec<Write> {
        let others: Vec<&str> = self
            .canary
            .metadata
            .finalizers
            .iter()
            .map(String::as_str)
            .filter(|name| *name != FINALIZER)
            .collect();
        vec![self.finalizers_patch(&others)]
    }

    /// One pass over an object that is being deleted.
    pub(super) fn terminate(&mut self) -> Vec<Write> {
        if !self
            .canary
            .metadata
            .finalizers
            .iter()
            .any(|name| name == FINALIZER)
        {
            // Owned objects are collected by the API server; nothing may be started for an object that goes.
            return Vec::new();
        }
        if !self.canary.spec.revert_on_deletion() {
            let left = self.router().filter(|router| router.leaves_objects());
            let mut writes = left.map(|router| self.undo(router)).unwrap_or_default();
            writes.extend(self.undo_former(self.provider()));
            writes.extend(self.release());
            return writes;
        }
        let deadline = signed(self.canary.spec.progress_deadline());
        let Some(deletion) = self.status.deletion.clone() else {
            self.status.phase = Phase::Terminating;
            self.status.deletion = Some(Deletion {
                started_at: Some(self.now),
                deadline_at: self.now.checked_add(deadline).ok(),
                stage: "Restoring".to_owned(),
                message: Some(
                    "The target gets its replicas back before routes lead to it again.".to_owned(),
                ),
                ..Deletion::default()
            });
            self.tell(
                Severity::Info,
                "Terminating",
                format!("Terminating canary {}", self.full_name()),
            );
            return Vec::new();
        };
        self.wake_at(deletion.deadline_at);
        let late = deletion
            .deadline_at
            .is_none_or(|deadline| deadline <= self.now);
        let drained = deletion.drain_from.is_some_and(|from| {
            self.is_past(Some(from), signed(self.canary.spec.analysis.drain()))
        });
        let (mut writes, ready) = self.restore_target();
        if late || drained && ready {
            // The event is told once: a second pass of this kind finds the object gone.
            self.tell(
                Severity::Info,
                "Terminated",
                format!("Terminated canary {}", self.full_name()),
            );
            // The primary goes with the object, so nobody may be led to it any more, whatever became of the target. Only when that can't
            // be written for as long again, the object goes without.
            let hopeless = self.is_past(deletion.deadline_at, deadline);
            let mut writes = if late && !hopeless {
                self.restore_routes().0
            } else {
                Vec::new()
            };
            writes.extend(self.release());
            return writes;
        }
        if ready {
            let (more, restored) = self.restore_routes();
            writes.extend(more);
            if restored && deletion.drain_from.is_none() {
                let now = self.now;
                if let Some(deletion) = self.status.deletion.as_mut() {
                    deletion.drain_from = Some(now);
                    "Draining".clone_into(&mut deletion.stage);
                    deletion.message =
                        Some("Routes lead to the target again; the primary drains.".to_owned());
                }
            }
        }
        self.wake_after(
            deletion.drain_from,
            signed(self.canary.spec.analysis.drain()),
        );
        writes
    }

    /// Scales the target up; true once it is ready, or where there is nothing to scale.
    fn restore_target(&self) -> (Vec<Write>, bool) {
        let Some(kind) = workload::target_kind(&self.canary.spec.target_ref.kind) else {
            return (Vec::new(), true);
        };
        let target = match self.snapshot.object(&kind.target(self.canary)) {
            Reading::Present(target) => target,
            Reading::Absent => return (Vec::new(), true),
            Reading::Unknown(_) => return (Vec::new(), false),
        };
        let primary = self.snapshot.object(&kind.primary(self.canary));
        let source = autoscaler::source(self.canary).map(|name| self.snapshot.object(&name));
        let source = source.as_ref().and_then(Reading::object);
        let mut writes: Vec<Write> = source.and_then(autoscaler::resume).into_iter().collect();
        if kind.replicas(&target) == 0 {
            let replicas = kind.replicas_from_zero(self.canary, &target, primary.object(), source);
            writes.extend(kind.scale(&target, replicas.max(1)));
            return (writes, false);
        }
        let rule = ReadinessRule {
            threshold: self.canary.spec.analysis.canary_ready_threshold(),
            progress_deadline: signed(self.canary.spec.progress_deadline()),
            since: self
                .status
                .deletion
                .as_ref()
                .and_then(|deletion| deletion.started_at),
            now: self.now,
        };
        let serves = self
            .snapshot
            .endpoints(&self.canary.canary_service_name())
            .is_ok_and(|endpoints| endpoints.ready > 0);
        let ready = kind.readiness(&target, &rule).is_ready() && serves;
        (writes, ready)
    }

    /// Leads the apex Service and the user's route back to the target; true once nothing is left to write.
    fn restore_routes(&self) -> (Vec<Write>, bool) {
        let mut writes = Vec::new();
        let apex = self.snapshot.object(&ServiceRole::Apex.object(self.canary));
        if let Some(kind) = workload::target_kind(&self.canary.spec.target_ref.kind)
            && let Reading::Present(target) = self.snapshot.object(&kind.target(self.canary))
            && let Ok(selector) = kind.selector(&target, &self.snapshot.settings.workload)
        {
            writes.extend(services::restore_apex(self.canary, &selector, &apex));
        }
        writes.extend(
            self.router()
                .map(|router| self.undo(router))
                .unwrap_or_default(),
        );
        writes.extend(self.undo_former(self.provider()));
        let restored = writes.is_empty();
        (writes, restored)
    }

    fn router(&self) -> Option<&'static dyn Router> {
        let flag = &self.snapshot.settings.mesh_provider;
        routing::router_of(self.canary, flag)
    }

    fn provider(&self) -> &'static str {
        self.router().map_or("", Router::provider)
    }

    /// The router that the canary had before this one, as long as objects may be there that it leaves behind: they belong to nobody whom the
    /// API server could collect them with, and a canary that changed its mesh would leave them for ever.
    pub(super) fn former_router(&self, present: &str) -> Option<&'static dyn Router> {
        let observed = &self.status.observed;
        let name = observed.get(FORMER_ROUTER).or_else(|| observed.get(ROUTER));
        let former = routing::router(name?).filter(|one| one.provider() != present)?;
        let lookup = |name: &ObjectRef| self.snapshot.object(name);
        let all_gone = || {
            let writes = former.finalize(self.canary, &lookup);
            writes.is_ok_and(|writes| writes.is_empty())
        };
        (former.leaves_objects() && !all_gone()).then_some(former)
    }

    /// Takes away what the former router left.
    pub(super) fn undo_former(&self, present: &str) -> Vec<Write> {
        self.former_router(present)
            .map(|former| self.undo(former))
            .unwrap_or_default()
    }

    /// A route that can't be given back must not keep the object for ever.
    fn undo(&self, router: &dyn Router) -> Vec<Write> {
        let lookup = |name: &ObjectRef| self.snapshot.object(name);
        router.finalize(self.canary, &lookup).unwrap_or_default()
    }
}
