//! What a Canary says about itself, read once for all the screens: its strategy, its ladder with times, its blocked and waiting states.
//! From the object alone, so that a screen is the same for a live object and for one in a file.

use super::screen::Tone;
use crate::analysis::Sources;
use crate::api::{
    Canary, CanaryStatus, Condition, ConditionStatus, HookType, MetricStatus, Phase, Run, Strategy,
    Verdict, condition_type,
};
use crate::rollout::{Stage, ladder};
use crate::routing;
use jiff::{SignedDuration, Timestamp};

/// A Canary and the present time.
pub struct Facts<'a> {
    pub canary: &'a Canary,
    pub status: CanaryStatus,
    pub now: Timestamp,
    /// What the router can do decides with the spec how a run goes.
    pub strategy: Strategy,
    pub stage: Option<Stage>,
}

/// One step of the way to promotion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rung {
    /// `20 %`, `2/5`, `promotion`.
    pub label: String,
    pub place: Place,
    /// When it began, or when it can begin at the earliest.
    pub at: Option<Timestamp>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Behind,
    Here,
    Ahead,
}

impl<'a> Facts<'a> {
    pub fn of(canary: &'a Canary, now: Timestamp) -> Self {
        let status = canary.status_or_default();
        let router = status
            .observed
            .get("router")
            .map(String::as_str)
            .or(canary.spec.provider.as_deref())
            .and_then(|provider| routing::router_of(canary, provider));
        let weighted = router.is_none_or(|router| router.capabilities().weighted());
        let strategy = if weighted {
            canary.spec.strategy()
        } else {
            Strategy::BlueGreen
        };
        let stage = status.run.as_ref().and_then(|run| Stage::parse(&run.stage));
        Self {
            canary,
            status,
            now,
            strategy,
            stage,
        }
    }

    pub fn phase(&self) -> Phase {
        self.status.phase
    }

    /// `namespace/name`.
    pub fn name(&self) -> String {
        self.canary.metadata.namespaced_name()
    }

    /// The run that is under way; one that only tells its post-rollout hooks is over.
    pub fn run(&self) -> Option<&Run> {
        self.status
            .run
            .as_ref()
            .filter(|_| self.stage != Some(Stage::PostRollout))
    }

    /// The phase in a word, for people.
    pub fn phase_word(&self) -> &'static str {
        match self.phase() {
            Phase::Unset if self.refusal().is_some() => "refused",
            Phase::Unset => "not looked at yet",
            phase => phase.as_str(),
        }
    }

    /// What holds the run where it is until somebody acts: a closed gate, or a pause.
    pub fn held_by(&self) -> Option<&str> {
        match self.run()?.waiting_for.as_deref() {
            Some(what) if what.starts_with("gate ") => Some(what),
            // A pause is felt from the next step on; the run says so then.
            what => self
                .status
                .paused
                .as_ref()
                .map(|_| what.unwrap_or("a person to resume")),
        }
    }

    pub fn is_busy(&self) -> bool {
        !matches!(
            self.phase(),
            Phase::Initialized | Phase::Succeeded | Phase::Failed
        )
    }

    /// What keeps the canary from being carried out at all.
    pub fn refusal(&self) -> Option<&Condition> {
        self.status
            .condition(condition_type::ACCEPTED)
            .filter(|accepted| accepted.status == ConditionStatus::False)
    }

    pub fn interval(&self) -> SignedDuration {
        SignedDuration::try_from(self.canary.spec.analysis.interval())
            .unwrap_or(SignedDuration::from_mins(1))
    }

    pub fn iterations(&self) -> i64 {
        match self.canary.spec.analysis.iterations() {
            asked if asked < 1 => 10,
            asked => asked,
        }
    }

    pub fn threshold(&self) -> i64 {
        self.canary.spec.analysis.threshold()
    }

    pub fn canary_weight(&self) -> i64 {
        self.status.canary_weight.clamp(0, 100)
    }

    /// How far the run is, as `2/5`; empty where there is none.
    pub fn step(&self) -> String {
        if self.run().is_none() {
            return String::new();
        }
        let rungs = self.rungs();
        let all = rungs.len().saturating_sub(1);
        let reached = rungs
            .iter()
            .take(all)
            .filter(|rung| rung.place != Place::Ahead)
            .count();
        format!("{reached}/{all}")
    }

    /// The steps of the run, the promotion last. Times ahead are the earliest ones: every check passes, nothing waits.
    pub fn rungs(&self) -> Vec<Rung> {
        let promoting = matches!(self.phase(), Phase::Promoting | Phase::Finalising)
            || self.stage == Some(Stage::Held);
        let under_way = self.run().is_some();
        let labels: Vec<(i64, String)> = match self.strategy {
            Strategy::Canary => ladder(&self.canary.spec.analysis)
                .into_iter()
                .map(|weight| {
                    let percent = i64::from(weight.percent());
                    (percent, format!("{percent} %"))
                })
                .collect(),
            _ => (1..=self.iterations())
                .map(|round| (round, format!("{round}/{}", self.iterations())))
                .collect(),
        };
        let reached = match self.strategy {
            Strategy::Canary => self
                .run()
                .and_then(|run| run.weights)
                .map_or(0, |weights| i64::from(weights.canary)),
            _ => self.status.iterations,
        };
        let mut ahead = self.run().and_then(|run| {
            run.next_check_at
                .map(|at| at.max(self.now))
                .filter(|_| !promoting && self.held_by().is_none())
        });
        let mut rungs: Vec<Rung> = labels
            .into_iter()
            .map(|(value, label)| {
                let place = if promoting || under_way && value < reached {
                    Place::Behind
                } else if under_way && value == reached {
                    Place::Here
                } else {
                    Place::Ahead
                };
                let at = match place {
                    Place::Behind => None,
                    Place::Here => self.run().and_then(|run| run.step_started_at),
                    Place::Ahead => {
                        let at = ahead;
                        ahead = ahead.and_then(|at| at.checked_add(self.interval()).ok());
                        at
                    }
                };
                Rung { label, place, at }
            })
            .collect();
        rungs.push(Rung {
            label: "promotion".to_owned(),
            place: if promoting { Place::Here } else { Place::Ahead },
            at: if promoting {
                self.run().and_then(|run| run.step_started_at)
            } else {
                ahead
            },
        });
        rungs
    }

    /// The metric that says most about the run: one that failed, else one without data, else the first.
    pub fn telling_metric(&self) -> Option<&MetricStatus> {
        let with = |wanted: &[Verdict]| {
            self.status
                .metrics
                .iter()
                .find(|metric| wanted.contains(&metric.verdict))
        };
        with(&[Verdict::Failed])
            .or_else(|| with(&[Verdict::NoData, Verdict::Error]))
            .or_else(|| self.status.metrics.first())
    }

    /// Which series each built-in check reads, as it was found: check, whose series they are, the series.
    pub fn series(&self) -> impl Iterator<Item = (&str, &str, &str)> {
        let metrics = self.canary.spec.analysis.metrics.iter();
        metrics.filter_map(|metric| {
            let found = self.status.observed.get(&metric.name)?;
            let (whose, series) = Sources::parts(found).filter(|(_, series)| !series.is_empty())?;
            Some((metric.name.as_str(), whose, series))
        })
    }

    /// The hooks at which a run can stop, with whether it stands there now.
    pub fn gates(&self) -> Vec<(HookType, String, bool)> {
        let waiting = self
            .run()
            .and_then(|run| run.waiting_for.as_deref())
            .and_then(|what| what.strip_prefix("gate "));
        [
            HookType::ConfirmRollout,
            HookType::ConfirmTrafficIncrease,
            HookType::ConfirmPromotion,
        ]
        .into_iter()
        .flat_map(|kind| {
            self.canary
                .spec
                .analysis
                .hooks(kind)
                .map(move |hook| (kind, hook.name.clone(), waiting == Some(hook.name.as_str())))
        })
        .collect()
    }
}

/// A metric in one line: `request-success-rate 99.50 % (limit ≥ 99 %)`.
pub fn metric_line(metric: &MetricStatus) -> String {
    let value = metric.value.as_deref().unwrap_or("no value");
    match &metric.limit {
        Some(limit) => format!("{} {value} (limit {limit})", metric.name),
        None => format!("{} {value}", metric.name),
    }
}

pub fn phase_tone(phase: Phase) -> Tone {
    match phase {
        Phase::Succeeded | Phase::Initialized => Tone::Good,
        Phase::Failed => Tone::Bad,
        Phase::Waiting | Phase::WaitingPromotion => Tone::Warning,
        _ => Tone::Strong,
    }
}

pub fn verdict_tone(verdict: Verdict) -> Tone {
    match verdict {
        Verdict::Passed => Tone::Good,
        Verdict::Failed => Tone::Bad,
        Verdict::NoData | Verdict::Error => Tone::Warning,
        Verdict::Unset => Tone::Faint,
    }
}

pub fn verdict_word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Passed => "passed",
        Verdict::Failed => "failed",
        Verdict::NoData => "no data",
        Verdict::Error => "no answer",
        Verdict::Unset => "not judged",
    }
}

pub fn outcome_tone(outcome: &str) -> Tone {
    match outcome {
        "Promoted" => Tone::Good,
        "RolledBack" | "Held" | "Aborted" => Tone::Bad,
        _ => Tone::Warning,
    }
}
