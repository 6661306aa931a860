//! The story's clients on the bed: the open-loop load that judges every scenario.
use std::time::Duration;

use serin::demo::VersionLine;
use serin::demo::story::{Account, Crowd, HOST, RATE, StoryError, WINDOW};

use crate::load::{Load, Mark, Report, VersionReport};

/// How long the gateway is tried out before it counts as serving.
const TRIAL: Duration = Duration::from_millis(250);

/// The clients of one gateway.
pub struct BedCrowd {
    url: String,
    load: Option<Load>,
    /// The account of every request, once the load was stopped.
    pub report: Option<Report>,
}

impl BedCrowd {
    /// `gateway` is `http://address:port`.
    #[must_use]
    pub fn new(gateway: &str) -> Self {
        Self {
            url: format!("{gateway}/"),
            load: None,
            report: None,
        }
    }

    fn begin(&self, rate: f64) -> Result<Load, StoryError> {
        Load::start(&self.url, HOST, rate).map_err(|error| StoryError::Crowd(format!("{error:#}")))
    }
}

impl Crowd for BedCrowd {
    fn start(&mut self) -> Result<(), StoryError> {
        self.load = Some(self.begin(RATE)?);
        Ok(())
    }

    async fn probe(&mut self) -> Result<bool, StoryError> {
        let trial = self.begin(10.0)?;
        tokio::time::sleep(TRIAL).await;
        let report = trial.stop().await;
        Ok(report.answered() > 0 && report.lost() == 0)
    }

    fn account(&self) -> Account {
        let Some(load) = &self.load else {
            return Account::default();
        };
        let all = load.report_since(Mark::BEGINNING);
        Account {
            served: all.answered(),
            lost: all.lost(),
            versions: traffic(&load.report_since(load.mark_ago(WINDOW))),
        }
    }

    async fn stop(&mut self) -> Account {
        let Some(load) = self.load.take() else {
            return Account::default();
        };
        let report = load.stop().await;
        let account = Account {
            served: report.answered(),
            lost: report.lost(),
            versions: Vec::new(),
        };
        self.report = Some(report);
        account
    }
}

fn traffic(report: &Report) -> Vec<VersionLine> {
    let seconds = report
        .until
        .saturating_sub(report.from)
        .as_secs_f64()
        .max(0.001);
    let line = |(name, version): (&String, &VersionReport)| VersionLine {
        version: name.clone(),
        rate: version.requests as f64 / seconds,
        error_rate: version.error_rate(),
        p99: version.latency.p99,
    };
    report.versions.iter().map(line).collect()
}
