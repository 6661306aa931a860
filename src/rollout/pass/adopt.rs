//! Taking over what Flagger left behind: its hashes can't be made anew, so what is there is looked at, and work goes on where it stands.

use super::{Pass, weights};
use crate::api::Phase;
use crate::object::{Reading, Write};
use crate::rollout::converge;
use crate::rollout::decision::Severity;
use crate::rollout::stage::Stage;
use crate::rollout::view::{Identity, View};
use crate::routing::{Split, Weight};
use crate::workload::{self, configs};
use std::collections::BTreeMap;

impl<'a> Pass<'a> {
    /// A cluster that Flagger ran until now: the status has a phase and hashes, but nothing of ours, and Flagger's hashes can't be made
    /// anew. When target and primary carry the same template nothing is started; otherwise the target is a revision to be judged,
    /// unless it was judged and failed.
    ///
    /// A write that comes back must be done before anything else: what the primary runs is kept before the status speaks of it, since the
    /// target, which it is kept from, may change at any moment.
    pub(super) fn adopt(&mut self, view: &View<'a>) -> Option<Write> {
        let foreign = self
            .status
            .last_applied_spec
            .as_deref()
            .is_some_and(|hash| !hash.starts_with("s1:"));
        if !foreign || self.status.promoted.is_some() || self.status.run.is_some() {
            return None;
        }
        let Some(primary) = view.primary.object() else {
            // Nothing is left of what was promoted: it begins with what the target carries, as a new canary does.
            self.status.phase = Phase::Initializing;
            self.status.last_applied_spec = None;
            return None;
        };
        let same = view.kind.runs(
            primary,
            &view.template,
            self.canary.target_name(),
            &view.selector,
        );
        let before = self.status.tracked_configs.clone().unwrap_or_default();
        let (promoted, template) = if same {
            let identity = Identity {
                revision: view.identity.revision.clone(),
                configs: copied_configs(view),
            };
            (identity, Some(view.template.as_ref().clone()))
        } else if let Some(template) = view.kind.found_template(primary, &view.selector) {
            // Without it a promotion that fails, or a primary that is deleted, would have no way back.
            let identity = Identity {
                revision: workload::revision_hash(&template),
                configs: before,
            };
            (identity, Some(template))
        } else {
            let revision = self.status.last_promoted_spec.clone();
            let identity = Identity {
                revision: revision.unwrap_or_else(|| "unknown".to_owned()),
                configs: before,
            };
            (identity, None)
        };
        let kept = template.as_ref().map(|template| {
            let kind = view.kind;
            kind.keeper(self.canary, &promoted.revision, template)
        });
        if let Some(template) = template
            && let Some(write) = converge::keep_found(view, &promoted, template)
        {
            return Some(write);
        }
        let phase = self.status.phase;
        self.record_promoted(view, &promoted, kept);
        match phase {
            Phase::Initialized | Phase::Succeeded if promoted != view.identity => {}
            Phase::Waiting => {}
            _ => self.record_applied(&view.identity),
        }
        let split = view
            .route
            .as_ref()
            .ok()
            .and_then(|route| route.split)
            .unwrap_or(Split::PRIMARY);
        if phase == Phase::Failed && split == Split::CANARY {
            let mut run = self.new_run(view, Stage::Held, self.next_number());
            run.weights = Some(weights(Split::CANARY));
            run.message = Some(
                "Taken over after a failed promotion; the canary keeps the traffic.".to_owned(),
            );
            self.status.run = Some(run);
        }
        self.tell(
            Severity::Info,
            "Adopted",
            format!("{} is taken over in phase {phase}", self.full_name()),
        );
        None
    }

    pub(super) fn take_over_run(&mut self, view: &View<'a>) {
        let split = view
            .route
            .as_ref()
            .ok()
            .and_then(|route| route.split)
            .unwrap_or(Split::PRIMARY);
        let mut run = self.new_run(view, Stage::Analysing, self.next_number());
        run.weights = Some(weights(split));
        run.next_check_at = self.after(self.interval());
        run.step_started_at = Some(self.now);
        run.pre_rollout_passed = split.canary > Weight::NONE;
        run.message = Some("Taken over in mid-run; the split was read from the route.".to_owned());
        self.status.canary_weight = i64::from(split.canary.percent());
        self.status.run = Some(run);
        self.record_applied(&view.identity);
    }

    /// Flagger had judged what it was promoting, but which revision that was can't be known: its hash can't be made anew, and the target may
    /// have changed while no controller ran. What the primary runs already was judged; anything else is judged once more, with the
    /// traffic that it has.
    pub(super) fn take_over_judged(&mut self, view: &View<'a>) {
        if self.is_promoted(&view.identity) {
            return self.take_over_promotion(view);
        }
        self.status.phase = Phase::Progressing;
        self.take_over_run(view);
    }

    fn take_over_promotion(&mut self, view: &View<'a>) {
        let split = view
            .route
            .as_ref()
            .ok()
            .and_then(|route| route.split)
            .unwrap_or(Split::PRIMARY);
        let mut run = self.new_run(view, Stage::Promoting, self.next_number());
        run.weights = Some(weights(split));
        run.step_started_at = Some(self.now);
        run.message = Some("Taken over during its promotion.".to_owned());
        self.status.canary_weight = i64::from(split.canary.percent());
        self.status.phase = Phase::Promoting;
        self.status.run = Some(run);
    }
}

/// Which configs the primary runs with, by what is in its copies: a config that changed since they were made is a revision to be judged.
/// Flagger copies no binary data, so that says nothing.
fn copied_configs(view: &View<'_>) -> BTreeMap<String, String> {
    view.tracked
        .iter()
        .filter_map(|tracked| {
            let copy = view.snapshot.object(&tracked.reference.copy(view.canary));
            let checksum = match &copy {
                Reading::Present(copy) if copy.at("/data") != tracked.source.at("/data") => {
                    configs::checksum(copy)
                }
                Reading::Present(_) | Reading::Unknown(_) => tracked.checksum.clone(),
                Reading::Absent => return None,
            };
            Some((tracked.reference.status_key(), checksum))
        })
        .collect()
}
