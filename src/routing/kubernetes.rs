//! Provider `kubernetes`: no mesh and no ingress, so there is no route to write. All traffic of the apex Service stays on the
//! primary until promotion; the canary is reached only through its own Service, by load tests. Every rollout is Blue/Green.

use super::{
    Applied, Capabilities, Lookup, Observed, Refusal, RouteError, RouteRequest, Router,
    RoutingSettings, capabilities,
};
use crate::api::Canary;
use crate::object::{ObjectRef, Write};

/// The router that routes nothing.
pub struct Kubernetes;

impl Router for Kubernetes {
    fn provider(&self) -> &'static str {
        "kubernetes"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::NONE
    }

    fn refusals(&self, canary: &Canary) -> Vec<Refusal> {
        let analysis = &canary.spec.analysis;
        let mut refusals = Vec::new();
        if !analysis.matches.is_empty() {
            refusals.push(
                Refusal::warning(
                    "spec.analysis.match",
                    "A/B testing is not supported when using the kubernetes provider; the matches are ignored and the rollout \
                     is Blue/Green",
                )
                .in_flaggers_words(&[
                    "A/B testing is not supported when using the kubernetes provider",
                ]),
            );
        }
        if analysis.iterations() == 0 {
            refusals.push(
                Refusal::warning(
                    "spec.analysis.iterations",
                    "progressive traffic is not supported when using the kubernetes provider, which has no weights; the rollout \
                     is Blue/Green with 10 iterations, set the number that is wanted",
                )
                .in_flaggers_words(&[
                    "Progressive traffic is not supported when using the kubernetes provider",
                    "Setting canaryAnalysis.iterations: 10",
                ]),
            );
        }
        // An A/B test is no error here as elsewhere: the canary has no traffic of its own, so nobody gets what they should not.
        refusals.extend(
            capabilities::refusals(self.provider(), &self.capabilities(), canary)
                .into_iter()
                .filter(|refusal| refusal.field != "spec.analysis.match"),
        );
        refusals
    }

    fn objects(&self, _: &Canary) -> Vec<ObjectRef> {
        Vec::new()
    }

    fn desired(&self, _: &RouteRequest<'_>, _: &Lookup<'_>) -> Result<Vec<Write>, RouteError> {
        Ok(Vec::new())
    }

    fn observed(
        &self,
        _: &Canary,
        _: &RoutingSettings,
        _: &Lookup<'_>,
    ) -> Result<Observed, RouteError> {
        Ok(Observed {
            split: None,
            applied: Applied::Yes,
            foreign_writer: None,
        })
    }

    fn finalize(&self, _: &Canary, _: &Lookup<'_>) -> Result<Vec<Write>, RouteError> {
        Ok(Vec::new())
    }
}
