//! What the status remembers: runs and how they ended, what was applied and what was promoted, measurements, cookies.

use super::{Pass, weights};
use crate::api::{HookType, MetricStatus, Phase, Promoted, Run};
use crate::object::Reading;
use crate::rollout::checks;
use crate::rollout::checks::Judged;
use crate::rollout::decision::Tally;
use crate::rollout::stage::Stage;
use crate::rollout::view::{Identity, View};
use crate::routing::Split;
use crate::workload::configs;
use jiff::SignedDuration;
use std::collections::{BTreeMap, BTreeSet};

impl<'a> Pass<'a> {
    pub(super) fn end_run(&mut self, phase: Phase, outcome: &str, cause: &str) {
        if let Some(run) = self.status.run.take() {
            let told = self
                .status
                .history
                .last()
                .is_some_and(|last| last.number == run.number && last.outcome == "Held");
            if !told {
                self.status
                    .remember(checks::past_run(&run, outcome, cause, self.now));
            }
            if outcome != "Promoted" {
                self.leave_configs(&run);
            }
            if self
                .canary
                .spec
                .analysis
                .hooks(HookType::PostRollout)
                .next()
                .is_some()
            {
                self.status.run = Some(Run {
                    id: run.id,
                    number: run.number,
                    revision: run.revision,
                    template: run.template,
                    tracked_configs: run.tracked_configs,
                    stage: Stage::PostRollout.as_str().to_owned(),
                    step_started_at: Some(self.now),
                    ..Run::default()
                });
            }
        }
        self.status.phase = phase;
        self.status.canary_weight = 0;
        self.status.iterations = 0;
        self.status.failed_checks = 0;
        self.drop_cookies();
    }

    pub(super) fn new_run(&self, view: &View<'a>, stage: Stage, number: i64) -> Run {
        Run {
            id: format!("{number}-{}", self.now.as_millisecond()),
            number,
            revision: view.identity.revision.clone(),
            template: Some(
                view.kind
                    .keeper(self.canary, &view.identity.revision, &view.template),
            ),
            tracked_configs: view.identity.configs.clone(),
            started_at: Some(self.now),
            stage: stage.as_str().to_owned(),
            weights: Some(weights(Split::PRIMARY)),
            ..Run::default()
        }
    }

    pub(super) fn next_number(&self) -> i64 {
        let past = self.status.history.last().map_or(0, |run| run.number);
        let present = self.run_ref().map_or(0, |run| {
            if run.stage == Stage::Waiting.as_str() {
                run.number - 1
            } else {
                run.number
            }
        });
        past.max(present) + 1
    }

    pub(super) fn record_applied(&mut self, identity: &Identity) {
        self.status.last_applied_spec = Some(identity.revision.clone());
        self.status.tracked_configs = self
            .snapshot
            .settings
            .workload
            .config_tracking
            .then(|| identity.configs.clone());
    }

    pub(super) fn record_promoted(
        &mut self,
        view: &View<'_>,
        identity: &Identity,
        template: Option<String>,
    ) {
        let replicas = view
            .primary
            .object()
            .map(|primary| view.kind.replicas(primary))
            .filter(|replicas| *replicas > 0);
        self.status.last_promoted_spec = Some(identity.revision.clone());
        let stale_configs = self.stale_configs(&identity.configs);
        self.status.promoted = Some(Promoted {
            stale_configs,
            revision: identity.revision.clone(),
            template,
            tracked_configs: identity.configs.clone(),
            promoted_at: Some(self.now),
            replicas,
        });
    }

    /// The configs whose copies nobody reads once these are the primary's: those of the revision before, and what is left over from
    /// earlier ones and from runs that failed.
    fn stale_configs(&self, kept: &BTreeMap<String, String>) -> Vec<String> {
        let before = self.status.promoted.iter();
        let keys: BTreeSet<String> = before
            .flat_map(|promoted| {
                promoted
                    .tracked_configs
                    .keys()
                    .chain(&promoted.stale_configs)
            })
            .filter(|key| !kept.contains_key(*key))
            .cloned()
            .collect();
        keys.into_iter().collect()
    }

    /// A run that ended without its promotion leaves copies that it alone would have read.
    pub(super) fn leave_configs(&mut self, run: &Run) {
        let Some(promoted) = self.status.promoted.as_mut() else {
            return;
        };
        for key in run.tracked_configs.keys() {
            if !promoted.tracked_configs.contains_key(key) && !promoted.stale_configs.contains(key)
            {
                promoted.stale_configs.push(key.clone());
            }
        }
    }

    /// Forgets the stale copies that are gone, or that are not ours to remove.
    pub(super) fn forget_configs(&mut self) {
        let Some(promoted) = &self.status.promoted else {
            return;
        };
        if promoted.stale_configs.is_empty() {
            return;
        }
        let left: Vec<String> = promoted
            .stale_configs
            .iter()
            .filter(|key| {
                let Some(copy) = configs::copy_of_key(self.canary, key) else {
                    return false;
                };
                match self.snapshot.object(&copy) {
                    Reading::Present(live) => configs::forget_copy(&live, self.canary).is_some(),
                    Reading::Absent => false,
                    Reading::Unknown(_) => true,
                }
            })
            .cloned()
            .collect();
        if let Some(promoted) = self.status.promoted.as_mut() {
            promoted.stale_configs = left;
        }
    }

    /// Records what was judged, each measurement once.
    pub(super) fn record_metrics(&mut self, judged: &[Judged]) {
        for one in judged {
            let known =
                |known: &MetricStatus| known.name == one.status.name && known.at == one.status.at;
            if self.status.metrics.iter().any(known) {
                continue;
            }
            if let Some(value) = one.value {
                self.tallies.push(Tally::Measured {
                    metric: one.status.name.clone(),
                    value,
                });
            }
            let mut fresh = one.status.clone();
            let slot = self
                .status
                .metrics
                .iter_mut()
                .find(|known| known.name == fresh.name);
            let mut recent = slot
                .as_ref()
                .map(|known| known.recent.clone())
                .unwrap_or_default();
            recent.extend(fresh.value.clone());
            let surplus = recent
                .len()
                .saturating_sub(crate::api::canary_status::RECENT_LENGTH);
            recent.drain(..surplus);
            fresh.recent = recent;
            match slot {
                Some(known) => *known = fresh,
                None => self.status.metrics.push(fresh),
            }
        }
    }

    /// While a gate is closed the checks go on. What they measure is written now and then, and at once where a verdict changes: a gate may
    /// stay closed for days, and a write in every interval would be a write for nothing.
    pub(super) fn refresh_metrics(&mut self, judged: &[Judged]) {
        let age = (self.interval() * 5).max(SignedDuration::from_mins(5));
        let stale = judged.iter().any(|one| {
            let known = self
                .status
                .metrics
                .iter()
                .find(|known| known.name == one.status.name);
            known.is_none_or(|known| {
                known.verdict != one.status.verdict || self.is_past(known.at, age)
            })
        });
        if stale {
            self.record_metrics(judged);
        }
    }

    pub(super) fn is_promoted(&self, identity: &Identity) -> bool {
        self.status.promoted.as_ref().is_some_and(|promoted| {
            promoted.revision == identity.revision && promoted.tracked_configs == identity.configs
        })
    }

    pub(super) fn is_applied(&self, identity: &Identity) -> bool {
        let same_configs =
            self.status.tracked_configs.clone().unwrap_or_default() == identity.configs;
        self.status.last_applied_spec.as_deref() == Some(&identity.revision) && same_configs
    }

    pub(super) fn is_ours(&self, identity: &Identity) -> bool {
        self.run_ref().is_some_and(|run| {
            run.revision == identity.revision && run.tracked_configs == identity.configs
        })
    }

    pub(super) fn keep_cookies(&mut self) {
        let Some(affinity) = &self.canary.spec.analysis.session_affinity else {
            return;
        };
        if self.status.canary_weight > 0 && self.status.session_affinity_cookie.is_none() {
            self.status.session_affinity_cookie = Some(format!(
                "{}={}",
                affinity.cookie_name,
                letters(self.snapshot.entropy)
            ));
            self.status.primary_session_affinity_cookie = affinity
                .primary_cookie_name
                .as_ref()
                .map(|name| format!("{name}={}", letters(!self.snapshot.entropy)));
        }
    }

    pub(super) fn drop_cookies(&mut self) {
        if let Some(cookie) = self.status.session_affinity_cookie.take() {
            self.status.previous_session_affinity_cookie = Some(cookie);
        }
        self.status.primary_session_affinity_cookie = None;
    }
}

/// Ten letters from a number, for a cookie's value.
fn letters(mut seed: u64) -> String {
    (0..10)
        .map(|_| {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            char::from(b'a' + u8::try_from((seed >> 33) % 26).unwrap_or(0))
        })
        .collect()
}
