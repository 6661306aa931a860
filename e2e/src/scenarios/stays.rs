//! How a split is measured: over the whole of a canary's stay at a weight, which a gate makes long enough for chance to be small.
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::Value;

use super::gates::Gates;
use super::shop::{PATIENCE, Shop};
use crate::figures::Share;
use crate::load::{Load, Mark};

/// So many answers are counted at a weight, at least; four standard deviations are then 4.5 % of the requests at most.
pub const ENOUGH: u64 = 2000;
/// Standard deviations that a random split may be off.
const SIGMAS: f64 = 4.0;
const GATE: &str = "step";

/// The gate before each of a canary's steps.
pub struct Stays(Gates);

impl Stays {
    /// Lets every step pass until [`Self::hold`].
    pub async fn start() -> Result<Self> {
        Gates::start().await.map(Self)
    }

    /// `analysis.webhooks` of the canary.
    #[must_use]
    pub fn hooks(&self) -> Value {
        self.0
            .hooks(&["confirm-traffic-increase", "confirm-promotion"], GATE)
    }

    /// From now on the canary stays at the weight that it has, until enough was counted there.
    pub fn hold(&self) {
        self.0.close(GATE);
    }

    /// Every step passes again.
    pub fn let_go(&self) {
        self.0.open(GATE);
    }

    /// The share of a version in all answers of the canary's stay at a weight, from when the gateway is seen to have it until the status
    /// asks for something else. Fails where it is off by more than four standard deviations. The stay must be held.
    pub async fn measure(&self, shop: &Shop<'_>, version: &str, percent: i64) -> Result<Share> {
        let mut shares = self
            .measure_all(shop, &[shop.load()?], version, percent)
            .await?;
        Ok(shares.remove(0))
    }

    /// The same for visitors of several ways in, of each of which enough are counted.
    pub async fn measure_all(
        &self,
        shop: &Shop<'_>,
        loads: &[&Load],
        version: &str,
        percent: i64,
    ) -> Result<Vec<Share>> {
        let expected = percent as f64 / 100.0;
        shop.bed
            .wait(
                &format!(
                    "the gateway to give {version} of {} about {percent} %",
                    shop.namespace.name()
                ),
                Duration::from_secs(20),
                async || {
                    Ok(loads
                        .iter()
                        .all(|load| {
                            // Enough to tell the weight from the one before.
                            let recent = load.report_since(load.mark_ago(Duration::from_secs(2)));
                            recent.answered() > 100
                                && recent.split_within(version, expected, 3.0).is_ok()
                        })
                        .then_some(()))
                },
            )
            .await?;
        let now = || -> Vec<Mark> { loads.iter().map(|load| load.mark()).collect() };
        let from = now();
        let mut until = from.clone();
        shop.bed
            .wait(
                &format!("the end of the stay at {percent} %"),
                PATIENCE,
                async || {
                    // What was sent before the status was read was sent at this weight: it is written before the route is.
                    let sent = now();
                    if !is_at(&shop.status().await?, percent) {
                        return Ok(Some(()));
                    }
                    until = sent;
                    let enough =
                        loads
                            .iter()
                            .zip(from.iter().zip(&until))
                            .all(|(load, (from, until))| {
                                load.report_between(*from, *until).answered() >= ENOUGH
                            });
                    if enough {
                        self.let_go();
                    }
                    Ok(None)
                },
            )
            .await?;
        let mut shares = Vec::new();
        for ((load, from), until) in loads.iter().zip(from).zip(until) {
            let report = load.settled_between(from, until).await;
            shares.push(Share {
                asked: percent,
                measured: report.split_within(version, expected, SIGMAS)?,
                answers: report.answered(),
            });
        }
        for share in &shares {
            ensure!(
                share.answers >= ENOUGH,
                "expected the canary to stay at {percent} % for {ENOUGH} answers, found {share}"
            );
        }
        Ok(shares)
    }
}

/// Whether a canary is at a weight and not on its way to promotion.
fn is_at(status: &Value, percent: i64) -> bool {
    let stays = ["Progressing", "Waiting", "WaitingPromotion"];
    status["canaryWeight"] == percent
        && status["phase"]
            .as_str()
            .is_some_and(|phase| stays.contains(&phase))
}
