//! What is found about the spec before anything is done: which router steers the traffic, what it lacks and the rollout goes on without,
//! which configs both sides share, whether the metrics backends can be reached, whose series the built-in checks read. It stands in `status.observed` and is told when it is
//! new, once; nothing else follows from it.

use super::Pass;
use crate::analysis::sampling::scrape_options;
use crate::analysis::{
    self, MetricQuery, ProviderConfig, QueryProblem, REQUEST_DURATION, REQUEST_SUCCESS_RATE,
};
use crate::api::MetricProviderType;
use crate::object::{ObjectRef, kinds};
use crate::rollout::decision::Severity;
use crate::rollout::need::{Finding, Need, Request};
use crate::rollout::stage::Stage;
use crate::rollout::view::View;
use std::collections::BTreeMap;

/// Key of what the metrics backends said; it is there only during the initialisation.
const BACKENDS: &str = "metricsProviders";
/// Key of the router's name.
pub(super) const ROUTER: &str = "router";
/// Key of the name of a former router, as long as there may be objects of it that nobody else takes away.
pub(super) const FORMER_ROUTER: &str = "formerRouter";

impl<'a> Pass<'a> {
    pub(super) fn observe(&mut self, view: &View<'a>) {
        let mut observed = BTreeMap::from([(ROUTER.to_owned(), view.router.provider().to_owned())]);
        for kept in [BACKENDS, REQUEST_SUCCESS_RATE, REQUEST_DURATION] {
            if let Some(said) = self.status.observed.get(kept) {
                observed.insert(kept.to_owned(), said.clone());
            }
        }
        for warning in &view.warnings {
            if self.status.observed.get(&warning.field) != Some(&warning.message) {
                if warning.flaggers.is_empty() {
                    let text = format!("{}: {}", warning.field, warning.message);
                    self.tell(Severity::Warn, "NotSupported", text);
                }
                for text in warning.flaggers {
                    self.tell(Severity::Warn, "NotSupported", (*text).to_owned());
                }
            }
            observed.insert(warning.field.clone(), warning.message.clone());
        }
        for (key, why) in &view.shared {
            if self.status.observed.get(key) != Some(why) {
                self.tell(Severity::Info, "ConfigShared", why.clone());
            }
            observed.insert(key.clone(), why.clone());
        }
        if let Some(former) = self.former_router(view.router.provider()) {
            let name = former.provider().to_owned();
            observed.insert(FORMER_ROUTER.to_owned(), name);
        }
        self.status.observed = observed;
    }

    /// Asks each metrics backend once, while the primary comes up, whether it is there. It is a hint for people: no phase waits for it.
    pub(super) fn probe_backends(&mut self, view: &View<'a>) {
        let asked = self.status.observed.contains_key(BACKENDS);
        if asked || self.canary.spec.skip_analysis() {
            return;
        }
        let Some(id) = self.run_ref().map(|run| run.id.clone()) else {
            return;
        };
        let settings = &self.snapshot.settings;
        let lookup = |name: &ObjectRef| view.snapshot.object(name);
        let queries = analysis::queries(self.canary, settings.metrics(), &lookup);
        let mut problems: Vec<String> = Vec::new();
        let mut seen: Vec<ProviderConfig> = Vec::new();
        let mut needs = Vec::new();
        for query in queries {
            let query = match query {
                Ok(query) if seen.contains(&query.provider) => continue,
                Ok(query) => query,
                Err(QueryProblem::Unknown(_)) => return,
                Err(QueryProblem::Invalid { message, .. }) => {
                    problems.push(message);
                    continue;
                }
            };
            seen.push(query.provider.clone());
            let need = Need {
                key: format!("probe/{}/{id}", seen.len()),
                request: Request::Probe(Box::new(query)),
            };
            match self.snapshot.finding(&need) {
                Some(Finding::Probe(Ok(()))) => {}
                Some(Finding::Probe(Err(why))) => problems.push(why.clone()),
                _ => needs.push(need),
            }
        }
        if !needs.is_empty() {
            return self.needs.extend(needs);
        }
        if seen.is_empty() && problems.is_empty() {
            return;
        }
        if problems.is_empty() {
            let text = "all the metrics providers are available!".to_owned();
            self.tell(Severity::Info, "MetricsProvidersAvailable", text);
            problems.push("available".to_owned());
        } else {
            let text = format!("Error checking metric providers: {}", problems.join("; "));
            self.tell(Severity::Warn, "MetricsProviderUnavailable", text);
        }
        self.status
            .observed
            .insert(BACKENDS.to_owned(), problems.join("; "));
    }

    /// The metrics of the canary's own pods, while a run is on its way that they will judge.
    pub(super) fn sampled(&self) -> Vec<MetricQuery> {
        let judged = matches!(self.stage(), Some(Stage::ScalingUp | Stage::Analysing));
        let settings = &self.snapshot.settings;
        let by_server = || {
            let server = self.canary.spec.metrics_server_or(&settings.metrics_server);
            scrape_options(server).is_some()
        };
        let metrics = &self.canary.spec.analysis.metrics;
        let perhaps = by_server() || metrics.iter().any(|metric| metric.template_ref.is_some());
        if !judged || !perhaps || self.canary.metadata.is_deleting() {
            return Vec::new();
        }
        let lookup = |name: &ObjectRef| self.snapshot.object(name);
        let queries = analysis::queries(self.canary, settings.metrics(), &lookup);
        queries
            .into_iter()
            .flatten()
            .filter(|query| query.provider.provider_type == MetricProviderType::Scrape)
            .collect()
    }

    /// What is wrong with the metrics, so that they can't be asked: a template that is missing or lacks what its backend needs, a name that
    /// is not built in, a variable that is not there.
    pub(super) fn unanswerable(&self) -> Option<String> {
        const PART: &str = "metrics";
        if self.canary.spec.skip_analysis() {
            return None;
        }
        let home = &self.canary.metadata.namespace;
        let templates: Vec<ObjectRef> = self
            .canary
            .spec
            .analysis
            .metrics
            .iter()
            .filter_map(|metric| metric.template_ref.as_ref())
            .map(|template| {
                kinds::METRIC_TEMPLATE.named(template.namespace_or(home), &template.name)
            })
            .collect();
        // Looked at in any case, so that they stay in sight.
        for template in &templates {
            let _ = self.snapshot.object(template);
        }
        if self.snapshot.is_settled(&PART) {
            return None;
        }
        let settings = &self.snapshot.settings;
        let lookup = |name: &ObjectRef| self.snapshot.object(name);
        let queries = analysis::queries(self.canary, settings.metrics(), &lookup);
        let mut problems = Vec::new();
        let mut unknown = false;
        for query in queries {
            match query {
                Ok(_) => {}
                Err(QueryProblem::Unknown(_)) => unknown = true,
                Err(QueryProblem::Invalid { message, .. }) => problems.push(message),
            }
        }
        if problems.is_empty() && !unknown {
            self.snapshot.remember_settled(&PART, &templates);
        }
        (!problems.is_empty()).then(|| problems.join("; "))
    }

    /// What was said at the start says nothing of later.
    pub(super) fn forget_backends(&mut self) {
        self.status.observed.remove(BACKENDS);
    }
}
