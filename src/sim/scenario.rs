//! What a history is made of, drawn from its seed: the canary, what people do and when, and what goes wrong. Everything is a list, so that
//! a history can be made smaller by leaving things out.

use super::random::Random;
use super::workloads::Nature;
use crate::api::Phase;
use serde_json::{Value, json};

/// What people and tools do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// A new revision.
    Release(Nature),
    /// The target is set back to the image that is promoted.
    Revert,
    /// The steps of the analysis change.
    EditSteps(i64),
    /// The interval changes (seconds).
    EditInterval(i64),
    /// `spec.suspend`.
    Suspend(bool),
    /// `spec.skipAnalysis`.
    Skip(bool),
    /// Somebody deletes the primary.
    DeletePrimary,
    /// Somebody deletes the route.
    DeleteRoute,
    /// Somebody deletes a Service: 0 apex, 1 primary, 2 canary.
    DeleteService(u8),
    /// Somebody writes other weights into the route.
    EditWeights(i64),
    /// Somebody scales the target.
    ScaleTarget(i64),
    /// Somebody scales the primary.
    ScalePrimary(i64),
    /// A tool writes the target's manifest back, replicas included.
    WriteBack,
    /// Someone adds an annotation of their own to everything.
    Annotate,
    /// All pods of the target become unready for some seconds.
    LoseTarget(i64),
    /// All pods of the primary become unready for some seconds.
    LosePrimary(i64),
    /// Gates close.
    CloseGates,
    /// Gates open.
    OpenGates,
    /// Somebody asks the rollback hook to signal, for some seconds.
    AskRollback(i64),
    /// Metrics and hooks give no answer for some seconds.
    Silence(i64),
    /// Metrics give values that are no numbers for some seconds.
    Nonsense(i64),
    /// The gateway is slow (ms) from now on.
    SlowGateway(i64),
    /// The config that the pods read changes.
    EditConfig,
    /// The load changes: autoscalers want so many pods.
    Load(i64),
    /// The canary is deleted.
    DeleteCanary,
}

/// What goes wrong between the controller and the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// The next request fails and does nothing.
    ErrorBefore,
    /// The next request is carried out, but its answer is lost.
    ErrorAfter,
    /// The next request is carried out, and times out ten seconds later.
    TimeOut,
    /// The next request is told of a conflict.
    Conflict,
    /// The controller dies before its next request.
    CrashBefore,
    /// The controller dies after its next request.
    CrashAfter,
    /// The watches break and list again after some seconds.
    WatchesBreak,
    /// The watches lag for some seconds.
    WatchesLag,
    /// Another replica takes over while this one goes on with a cache that hears nothing any more.
    HandOver,
    /// The same, and this one's request stands still on its way until long after the other has begun.
    Stands,
}

/// Every fault with its name.
pub const FAULTS: [(Fault, &str); 10] = [
    (Fault::ErrorBefore, "error before"),
    (Fault::ErrorAfter, "error after"),
    (Fault::TimeOut, "time-out"),
    (Fault::Conflict, "conflict"),
    (Fault::CrashBefore, "crash before"),
    (Fault::CrashAfter, "crash after"),
    (Fault::WatchesBreak, "watches break"),
    (Fault::WatchesLag, "watches lag"),
    (Fault::HandOver, "hand-over"),
    (Fault::Stands, "stands still"),
];

/// How traffic is moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Growing shares.
    Weights,
    /// Matching requests, for rounds.
    AbTest,
    /// No traffic for rounds, then all.
    BlueGreen,
}

/// Who scales the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scaler {
    /// Nobody.
    Hand,
    /// A `HorizontalPodAutoscaler`.
    Hpa,
    /// A KEDA `ScaledObject`.
    Keda,
}

/// What Flagger left behind when it was replaced in mid-life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flagger {
    /// The phase in its status.
    pub phase: Phase,
    /// The revision of the target, when it is another than the primary's.
    pub newer: Option<Nature>,
    /// Whether the primary runs the target's revision already.
    pub copied: bool,
    /// Replicas of the target.
    pub replicas: i64,
    /// The canary's share on the route.
    pub weight: i64,
}

/// A history before it happened.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Its seed.
    pub seed: u64,
    /// `spec` of the canary.
    pub spec: Value,
    /// Replicas of the target at the start.
    pub replicas: i64,
    /// Whether there is a gateway, or only Services.
    pub gateway: bool,
    /// Lag of the gateway in ms at the start.
    pub gateway_lag: i64,
    /// Whether target and primary are `DaemonSets`; `replicas` is then the number of nodes.
    pub daemon: bool,
    /// Who scales the target.
    pub scaler: Scaler,
    /// Whether the pods read a `ConfigMap`.
    pub config: bool,
    /// Whether Flagger ran the canary until now.
    pub flagger: Option<Flagger>,
    /// What people do, by time in ms.
    pub acts: Vec<(i64, Act)>,
    /// What goes wrong, by time in ms.
    pub faults: Vec<(i64, Fault)>,
    /// What happens when a phase is entered for the first time: so that short phases get their share.
    pub reactions: Vec<Reaction>,
}

/// Something that waits for a phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reaction {
    /// The phase.
    pub phase: Phase,
    /// How long after it was entered, in ms.
    pub delay: i64,
    /// What happens.
    pub what: What,
}

/// A deed or a mishap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// People do something.
    Act(Act),
    /// Something goes wrong.
    Fault(Fault),
}

impl Scenario {
    /// A release of one nature after the start, and nothing else: no faults, no other hands.
    #[must_use]
    pub fn plain(seed: u64, nature: Nature) -> Self {
        let mut random = Random::new(seed, "plain");
        Self {
            seed,
            spec: spec(&mut random, true, Way::Weights),
            replicas: 2,
            gateway: true,
            gateway_lag: 300,
            daemon: false,
            scaler: Scaler::Hand,
            config: false,
            flagger: None,
            acts: vec![(30_000, Act::Release(nature))],
            faults: Vec::new(),
            reactions: Vec::new(),
        }
    }

    /// The history of a seed.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        let mut random = Random::new(seed, "scenario");
        let gateway = random.chance(85);
        let way = random.pick(&[(6, Way::Weights), (2, Way::AbTest), (2, Way::BlueGreen)]);
        let mut spec = spec(&mut random, gateway, way);
        let replicas = random.between(1, 4);
        let gateway_lag = random.pick(&[(6, 200), (3, 1_000), (1, 4_000)]);
        let mut acts = acts(&mut Random::new(seed, "acts"));
        let mut random = Random::new(seed, "surroundings");
        let daemon = random.chance(12);
        let scaler = match random.between(0, 9) {
            0 | 1 if !daemon => Scaler::Hpa,
            2 if !daemon => Scaler::Keda,
            _ => Scaler::Hand,
        };
        let config = random.chance(30);
        let flagger = random
            .chance(20)
            .then(|| left_by_flagger(&mut random, gateway, way));
        surround(&mut random, &mut spec, &mut acts, daemon, scaler, config);
        let end = acts.last().map_or(60_000, |(at, _)| at + 60_000);
        let faults = faults(&mut Random::new(seed, "faults"), end);
        let reactions = reactions(&mut Random::new(seed, "reactions"), faults.is_empty());
        Self {
            seed,
            spec,
            replicas,
            gateway,
            gateway_lag,
            daemon,
            scaler,
            config,
            flagger,
            acts,
            faults,
            reactions,
        }
    }

    /// The same without one thing, each in turn: the smaller histories of a shrinker.
    pub fn smaller(&self) -> impl Iterator<Item = Self> {
        let without_fault = (0..self.faults.len()).rev().map(|position| {
            let mut smaller = self.clone();
            smaller.faults.remove(position);
            smaller
        });
        let without_reaction = (0..self.reactions.len()).rev().map(|position| {
            let mut smaller = self.clone();
            smaller.reactions.remove(position);
            smaller
        });
        let without_act = (0..self.acts.len()).rev().map(|position| {
            let mut smaller = self.clone();
            smaller.acts.remove(position);
            smaller
        });
        without_fault.chain(without_reaction).chain(without_act)
    }
}

fn spec(random: &mut Random, gateway: bool, way: Way) -> Value {
    let interval = random.between(3, 10);
    let mut analysis = json!({
        "interval": format!("{interval}s"),
        "threshold": random.between(1, 3),
    });
    match way {
        Way::Weights => match random.between(0, 2) {
            0 => {
                analysis["stepWeight"] = json!(random.between(2, 6) * 10);
                analysis["maxWeight"] = json!(random.between(3, 10) * 10);
            }
            1 => analysis["stepWeights"] = json!([5, 20, 60]),
            _ => {
                analysis["stepWeight"] = json!(50);
                analysis["stepWeightPromotion"] = json!(random.between(2, 10) * 10);
            }
        },
        Way::AbTest => {
            analysis["iterations"] = json!(random.between(1, 4));
            analysis["match"] = json!([{"headers": {"x-canary": {"exact": "insider"}}}]);
        }
        Way::BlueGreen => {
            analysis["iterations"] = json!(random.between(1, 4));
            if random.chance(30) {
                analysis["mirror"] = json!(true);
            }
        }
    }
    let hook = |name: &str, kind: &str| json!({"name": name, "type": kind, "url": format!("http://hooks.test/{name}")});
    // There is always somebody who judges: a hook, metrics, or both.
    let judges = random.between(0, 2);
    let mut hooks = Vec::new();
    if judges != 0 {
        hooks.push(hook("acceptance", "rollout"));
    }
    for (name, kind, percent) in [
        ("smoke", "pre-rollout", 40),
        ("start-gate", "confirm-rollout", 25),
        ("step-gate", "confirm-traffic-increase", 20),
        ("promote-gate", "confirm-promotion", 25),
        ("stop", "rollback", 30),
        ("after", "post-rollout", 20),
    ] {
        if random.chance(percent) {
            hooks.push(hook(name, kind));
        }
    }
    analysis["webhooks"] = json!(hooks);
    if judges != 1 {
        analysis["metrics"] = json!([
            {"name": "request-success-rate", "thresholdRange": {"min": 99}, "interval": "30s"},
            {"name": "request-duration", "thresholdRange": {"max": 500}, "interval": "30s"},
        ]);
    }
    if random.chance(20) {
        analysis["failureMode"] = json!(if random.chance(50) {
            "consecutive"
        } else {
            "window"
        });
    }
    if random.chance(30) {
        analysis["gateTimeout"] = json!("90s");
    }
    if random.chance(20) && gateway && way == Way::Weights {
        analysis["sessionAffinity"] = json!({"cookieName": "canary-user"});
    }
    let mut spec = json!({
        "provider": if gateway { "gatewayapi:v1" } else { "kubernetes" },
        "targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"},
        "progressDeadlineSeconds": 60,
        "service": {"port": 80, "targetPort": 8080},
        "analysis": analysis,
    });
    if gateway {
        spec["service"]["gatewayRefs"] = json!([{"name": "edge", "namespace": "gateways"}]);
    }
    if random.chance(8) {
        spec["skipAnalysis"] = json!(true);
    }
    if random.chance(30) {
        spec["promotion"] = json!({"onFailure": "rollback"});
    }
    spec
}

/// What Flagger may have left in each of its phases.
fn left_by_flagger(random: &mut Random, gateway: bool, way: Way) -> Flagger {
    let phase = random.pick(&[
        (2, Phase::Initialized),
        (3, Phase::Succeeded),
        (3, Phase::Failed),
        (1, Phase::Waiting),
        (5, Phase::Progressing),
        (2, Phase::WaitingPromotion),
        (3, Phase::Promoting),
        (3, Phase::Finalising),
    ]);
    let weighted = gateway && way == Way::Weights;
    let nature = random.pick(&[(3, Nature::Good), (2, Nature::Bad), (1, Nature::Flap)]);
    let (newer, copied, replicas, weight) = match phase {
        Phase::Initialized | Phase::Succeeded => (random.chance(30).then_some(nature), false, 0, 0),
        Phase::Failed | Phase::Waiting => (Some(nature), false, 0, 0),
        Phase::Promoting => (Some(Nature::Good), random.chance(50), 2, 50),
        Phase::Finalising => (Some(Nature::Good), true, 2, 0),
        _ => (Some(nature), false, 2, random.between(0, 5) * 10),
    };
    Flagger {
        phase,
        newer,
        copied,
        replicas,
        weight: if weighted { weight } else { 0 },
    }
}

/// Adds to spec and acts what target, autoscaler, config and deletion ask for.
fn surround(
    random: &mut Random,
    spec: &mut Value,
    acts: &mut Vec<(i64, Act)>,
    daemon: bool,
    scaler: Scaler,
    config: bool,
) {
    let last = acts.last().map_or(30_000, |(at, _)| *at);
    if daemon {
        spec["targetRef"]["kind"] = json!("DaemonSet");
    }
    match scaler {
        Scaler::Hand => {}
        Scaler::Hpa => {
            spec["autoscalerRef"] = json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "name": "web"});
        }
        Scaler::Keda => {
            spec["autoscalerRef"] =
                json!({"apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject", "name": "web"});
        }
    }
    if scaler != Scaler::Hand {
        for _ in 0..random.between(1, 3) {
            acts.push((random.between(1_000, last), Act::Load(random.between(1, 6))));
        }
    }
    if config {
        for _ in 0..random.between(0, 2) {
            acts.push((random.between(5_000, last + 20_000), Act::EditConfig));
        }
    }
    if random.chance(8) {
        spec["revertOnDeletion"] = json!(random.chance(70));
        acts.push((random.between(10_000, last + 120_000), Act::DeleteCanary));
    }
    if random.chance(10) && spec["analysis"].get("stepWeight").is_some() {
        spec["analysis"]["mirror"] = json!(true);
    }
    acts.sort_by_key(|(at, _)| *at);
}

const RELEASES: [(i64, Nature); 7] = [
    (8, Nature::Good),
    (5, Nature::Bad),
    (2, Nature::Never),
    (2, Nature::Crash),
    (2, Nature::Flap),
    (1, Nature::Slow),
    (2, Nature::Misfit),
];

fn acts(random: &mut Random) -> Vec<(i64, Act)> {
    let mut at = random.between(2_000, 40_000);
    let mut acts = Vec::new();
    if random.chance(30) {
        acts.push((0, Act::CloseGates));
    }
    acts.push((at, Act::Release(random.pick(&RELEASES))));
    for _ in 0..random.between(0, 7) {
        at += if random.chance(50) {
            random.between(100, 12_000)
        } else {
            random.between(10_000, 90_000)
        };
        let act = match random.between(0, 24) {
            0..=6 => Act::Release(random.pick(&RELEASES)),
            7 | 8 => Act::Revert,
            9 => Act::EditSteps(random.between(1, 10) * 10),
            10 => Act::EditInterval(random.between(2, 12)),
            11 => {
                acts.push((at, Act::Suspend(true)));
                at += random.between(1_000, 40_000);
                Act::Suspend(false)
            }
            12 => Act::DeletePrimary,
            13 => Act::DeleteRoute,
            14 => Act::DeleteService(u8::try_from(random.between(0, 2)).unwrap_or(0)),
            15 => Act::EditWeights(random.between(0, 10) * 10),
            16 => Act::ScaleTarget(random.between(0, 4)),
            17 => Act::ScalePrimary(random.between(1, 4)),
            18 => Act::WriteBack,
            19 => Act::Annotate,
            20 => Act::LoseTarget(random.between(2, 80)),
            21 => Act::LosePrimary(random.between(2, 80)),
            22 => {
                acts.push((at, Act::CloseGates));
                at += random.between(1_000, 120_000);
                Act::OpenGates
            }
            23 => random.pick(&[
                (2, Act::AskRollback(20)),
                (1, Act::Skip(true)),
                (1, Act::Skip(false)),
            ]),
            _ => random.pick(&[
                (2, Act::Silence(20)),
                (1, Act::Silence(100)),
                (1, Act::Nonsense(20)),
                (1, Act::SlowGateway(8_000)),
            ]),
        };
        acts.push((at, act));
    }
    if acts.first().is_some_and(|(_, act)| *act == Act::CloseGates) && random.chance(70) {
        acts.push((at + random.between(0, 60_000), Act::OpenGates));
    }
    acts
}

fn random_fault(random: &mut Random) -> Fault {
    let last = i64::try_from(FAULTS.len() - 1).unwrap_or(0);
    FAULTS[usize::try_from(random.between(0, last)).unwrap_or(0)].0
}

fn faults(random: &mut Random, end: i64) -> Vec<(i64, Fault)> {
    // A third of the histories goes without faults: what is wrong there is easier to understand.
    let count = if random.chance(33) {
        0
    } else {
        random.between(1, 6)
    };
    let mut faults: Vec<(i64, Fault)> = (0..count)
        .map(|_| {
            let at = random.between(0, end);
            (at, random_fault(random))
        })
        .collect();
    faults.sort();
    faults
}

fn reactions(random: &mut Random, faultless: bool) -> Vec<Reaction> {
    const PHASES: [(i64, Phase); 8] = [
        (1, Phase::Initializing),
        (2, Phase::Waiting),
        (3, Phase::Progressing),
        (3, Phase::WaitingPromotion),
        (5, Phase::Promoting),
        (5, Phase::Finalising),
        (2, Phase::Failed),
        (2, Phase::Succeeded),
    ];
    let count = random.between(0, 3);
    (0..count)
        .map(|_| {
            let phase = random.pick(&PHASES);
            let delay = if random.chance(60) {
                random.between(0, 60)
            } else {
                random.between(60, 4_000)
            };
            let what = if faultless || random.chance(40) {
                What::Act(random.pick(&[
                    (4, Act::Release(Nature::Good)),
                    (4, Act::Release(Nature::Bad)),
                    (2, Act::Release(Nature::Never)),
                    (3, Act::Revert),
                    (2, Act::LosePrimary(30)),
                    (2, Act::LoseTarget(30)),
                    (1, Act::DeletePrimary),
                    (1, Act::DeleteRoute),
                    (1, Act::EditWeights(40)),
                    (1, Act::ScaleTarget(0)),
                    (1, Act::WriteBack),
                ]))
            } else {
                What::Fault(random_fault(random))
            };
            Reaction { phase, delay, what }
        })
        .collect()
}
