//! Routers: which objects steer the traffic of a canary, what they should say for a given split, what they say now.
//!
//! A router is data in, data out. `desired` turns a canary and a split into writes, `observed` turns live objects into the split
//! that they carry, `capabilities` says what the router can express. One file for each mesh or ingress, one line in `ROUTERS`.
//! What a router cannot express is refused by [`Router::refusals`], never approximated by sending everyone to the canary.
//!
//! ```text
//!            split, canary, live objects
//!                      │
//!   desired ───────────┼──────────▶ writes (server-side apply of a route, or a guarded patch)
//!   observed ◀─────────┘──────────▶ split now, applied by the data plane or not, who wrote last
//! ```

use crate::api::Canary;
use crate::object::{ObjectRef, Reading, Write};
use serde::{Deserialize, Serialize};

pub use capabilities::{Capabilities, Condition, Feature, Mirror, ServiceField, Weights};

/// Share of traffic in percent, 0..=100.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Weight(u8);

impl Weight {
    /// No traffic.
    pub const NONE: Self = Self(0);
    /// All traffic.
    pub const ALL: Self = Self(100);

    /// Clamps a number to 0..=100.
    #[must_use]
    pub fn clamped(percent: i64) -> Self {
        Self(u8::try_from(percent.clamp(0, 100)).unwrap_or(100))
    }

    /// The number.
    #[must_use]
    pub fn percent(self) -> u8 {
        self.0
    }

    /// The canary's share where the two sides have these relative weights; `None` where nobody gets anything. A side that gets
    /// anything is never rounded to nothing.
    #[must_use]
    pub fn proportion(primary: u64, canary: u64) -> Option<Self> {
        let total = primary.checked_add(canary).filter(|total| *total > 0)?;
        let percent = (canary.checked_mul(200)?.checked_add(total)?) / total.checked_mul(2)?;
        let percent = i64::try_from(percent).ok()?;
        Some(Self::clamped(match (primary, canary) {
            (0, _) | (_, 0) => percent,
            _ => percent.clamp(1, 99),
        }))
    }

    /// What is left for the other side.
    #[must_use]
    pub fn rest(self) -> Self {
        Self(100 - self.0)
    }
}

/// How the traffic of one canary is divided. The primary gets what the canary does not, so a split always sums to 100 (I1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Split {
    /// Share of the canary; with A/B testing the share of the *matching* requests.
    pub canary: Weight,
    /// Whether requests are also mirrored to the canary.
    #[serde(default)]
    pub mirrored: bool,
}

impl Split {
    /// All traffic to the primary, nothing mirrored.
    pub const PRIMARY: Self = Self {
        canary: Weight::NONE,
        mirrored: false,
    };
    /// All traffic to the canary, nothing mirrored.
    pub const CANARY: Self = Self {
        canary: Weight::ALL,
        mirrored: false,
    };

    /// A split with this canary weight, not mirrored.
    #[must_use]
    pub fn canary(percent: i64) -> Self {
        Self {
            canary: Weight::clamped(percent),
            mirrored: false,
        }
    }

    /// Share of the primary.
    #[must_use]
    pub fn primary(self) -> Weight {
        self.canary.rest()
    }
}

/// Cookies of session affinity, `name=value`; empty where there is none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Cookies {
    /// Pins a user to the canary in this run.
    pub canary: Option<String>,
    /// Pins a user to the primary in this run.
    pub primary: Option<String>,
    /// The canary cookie of the run before, to be dropped by browsers.
    pub previous: Option<String>,
}

/// What the controller was started with, so far as routes depend on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoutingSettings {
    /// `-ingress-annotations-prefix`: what stands before the slash in the annotations of the nginx ingress controller.
    pub ingress_annotations_prefix: String,
    /// `-ingress-class`: the class that `HTTPProxy` objects name; empty for none.
    pub ingress_class: String,
    /// `-refuse-unsupported`: what routers only warn about is refused too.
    pub refuse_unsupported: bool,
}

impl Default for RoutingSettings {
    fn default() -> Self {
        Self {
            ingress_annotations_prefix: "nginx.ingress.kubernetes.io".to_owned(),
            ingress_class: String::new(),
            refuse_unsupported: false,
        }
    }
}

/// The objects that keep the revisions of the two sides, by name, for a router that leads requests to revisions and not to Services.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Revisions<'a> {
    /// Keeps what the primary runs, or takes over.
    pub primary: Option<&'a str>,
    /// Keeps what is judged.
    pub canary: Option<&'a str>,
}

/// What the objects shall say.
#[derive(Clone, Debug)]
pub struct RouteRequest<'a> {
    /// The canary, valid and with defaults read through its accessors.
    pub canary: &'a Canary,
    /// Settings of the controller.
    pub settings: &'a RoutingSettings,
    /// The split that shall hold.
    pub split: Split,
    /// Between which revisions.
    pub revisions: Revisions<'a>,
    /// Session-affinity cookies.
    pub cookies: Cookies,
    /// Selector label key of the target (`app` for example): Flagger also puts it on routes when `service.apex` is set.
    pub selector_label: Option<&'a str>,
}

/// Looks live objects up in the snapshot.
pub type Lookup<'a> = dyn Fn(&ObjectRef) -> Reading + 'a;

/// How far the data plane is with what the route object says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Applied {
    /// Accepted for the generation that was read, or the router has no way to tell (then the drain time covers it).
    Yes,
    /// Not yet; the text says what is missing. Holds a raise of weight, never a rollback.
    Pending(String),
}

/// What the live objects say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    /// The split that they carry; `None` where they carry none (no object yet, or weights that make no sense).
    pub split: Option<Split>,
    /// Whether the data plane has taken it over.
    pub applied: Applied,
    /// Who, other than Serin, wrote the route last.
    pub foreign_writer: Option<String>,
}

impl Observed {
    /// What an object says that is not there yet.
    #[must_use]
    pub fn of_nothing(target: &ObjectRef) -> Self {
        Self {
            split: None,
            applied: Applied::Pending(format!("{target} does not exist yet")),
            foreign_writer: None,
        }
    }
}

/// Why a router can't produce its objects. The texts name the field, the value and what would be right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// The canary asks for something that cannot be written.
    #[error("{field}: {found}; {expected}")]
    Invalid {
        /// Path of the field, for example `spec.service.gatewayRefs`.
        field: String,
        /// What was found.
        found: String,
        /// What would be right.
        expected: String,
    },
    /// An object of the user that the router builds on is not there.
    #[error("{0} not found; it is named by the canary and must exist")]
    Missing(Box<ObjectRef>),
    /// An object could not be read.
    #[error("{0} can't be read: {1}")]
    Unknown(Box<ObjectRef>, String),
    /// An object has a shape that the router can't work with, or belongs to another canary.
    #[error("{0}: {1}")]
    Unfit(Box<ObjectRef>, String),
}

/// Whether a rollout can go on without what its router refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Severity {
    /// The rollout goes on without that feature; nobody gets traffic that they should not get.
    Warning,
    /// Any route would be wrong: nothing is written until the canary is changed.
    Error,
}

/// The field that names the router.
pub(crate) const PROVIDER: &str = "spec.provider";

/// Something that a canary asks for and its router lacks, or that is wrong for this router.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Whether the rollout can go on without it.
    pub severity: Severity,
    /// Path of the field.
    pub field: String,
    /// Found, expected, and what would be right, in one sentence.
    pub message: String,
    /// Flagger's own words for it, one event each; the message where there are none.
    pub flaggers: &'static [&'static str],
}

impl Refusal {
    /// A refusal with which nothing right can be written.
    #[must_use]
    pub fn error(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            field: field.into(),
            message: message.into(),
            flaggers: &[],
        }
    }

    /// A refusal without which the rollout goes on.
    #[must_use]
    pub fn warning(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Warning,
            field: field.into(),
            message: message.into(),
            flaggers: &[],
        }
    }

    /// As a controller takes it: with `-refuse-unsupported` a warning is an error, and says so. That a provider has come to its end is
    /// nothing that the canary asks for, and stays a warning.
    #[must_use]
    pub fn taken(self, refuse_unsupported: bool) -> Self {
        let asked_for = self.severity == Severity::Warning && self.field != PROVIDER;
        if !(refuse_unsupported && asked_for) {
            return self;
        }
        let message = format!(
            "{} (a warning, which -refuse-unsupported makes an error)",
            self.message
        );
        Self::error(self.field, message)
    }

    /// The same, told in Flagger's words.
    #[must_use]
    pub fn in_flaggers_words(self, flaggers: &'static [&'static str]) -> Self {
        Self { flaggers, ..self }
    }
}

/// What is refused as an error is not written, whoever asks for it.
fn refuse_errors(refusals: Vec<Refusal>) -> Result<(), RouteError> {
    let error = refusals
        .into_iter()
        .find(|refusal| refusal.severity == Severity::Error);
    match error {
        None => Ok(()),
        Some(refusal) => {
            let (found, expected) = refusal
                .message
                .split_once("; ")
                .unwrap_or((&refusal.message, "it can't be written"));
            Err(RouteError::Invalid {
                field: refusal.field,
                found: found.to_owned(),
                expected: expected.to_owned(),
            })
        }
    }
}

/// One mesh or ingress. Implementations have no state.
pub trait Router: Send + Sync {
    /// Flagger's provider name, for example `gatewayapi:v1`.
    fn provider(&self) -> &'static str;
    /// Whether the router answers to this provider name; some also answer to names that only begin with theirs.
    fn answers_to(&self, provider: &str) -> bool {
        provider == self.provider()
    }
    /// What the router can express.
    fn capabilities(&self) -> Capabilities;
    /// What this canary asks for in vain. Empty for a canary that can be routed. What follows from the capabilities is found by
    /// [`capabilities::refusals`]; a router that knows more to refuse adds to it.
    fn refusals(&self, canary: &Canary) -> Vec<Refusal> {
        capabilities::refusals(self.provider(), &self.capabilities(), canary)
    }
    /// The objects that steer this canary's traffic, to be watched.
    fn objects(&self, canary: &Canary) -> Vec<ObjectRef>;
    /// The writes of what must be there before the primary's pods can start; no traffic follows from it. None for most.
    fn prepare(&self, _: &RouteRequest<'_>, _: &Lookup<'_>) -> Result<Vec<Write>, RouteError> {
        Ok(Vec::new())
    }
    /// The writes that bring the live objects to the request; none where they already say so. Weights, matches, filters and
    /// metadata together: one write for each object.
    fn desired(
        &self,
        request: &RouteRequest<'_>,
        live: &Lookup<'_>,
    ) -> Result<Vec<Write>, RouteError>;
    /// What the live objects say.
    fn observed(
        &self,
        canary: &Canary,
        settings: &RoutingSettings,
        live: &Lookup<'_>,
    ) -> Result<Observed, RouteError>;
    /// Why objects of the user that the router builds on can't be worked with. Asked before anything is changed for a new canary.
    fn unfit(&self, _: &Canary, _: &Lookup<'_>) -> Vec<RouteError> {
        Vec::new()
    }
    /// Whether it writes objects that the API server can't collect with the canary, so that [`Router::finalize`] has to be heard before
    /// any deletion.
    fn leaves_objects(&self) -> bool {
        false
    }
    /// The writes that give the user's route back when the canary is deleted with `revertOnDeletion`.
    fn finalize(&self, canary: &Canary, live: &Lookup<'_>) -> Result<Vec<Write>, RouteError>;
}

mod apisix;
mod appmesh;
mod capabilities;
mod companion;
mod contour;
mod gateway_api;
mod gloo;
mod istio;
pub mod knative;
mod kubernetes;
mod kuma;
mod nginx;
mod own_route;
mod route_object;
mod session_cookie;
mod skipper;
mod smi;
mod traefik;
mod weighted;

pub use own_route::kinds as own_routes;
pub use route_object::may_ask_what_was_applied;

/// Every router, in the order in which names are tried: a longer prefix stands before a shorter one.
static ROUTERS: [&dyn Router; 19] = [
    &kubernetes::Kubernetes,
    &istio::Istio,
    &gateway_api::V1BETA1,
    &gateway_api::V1,
    &smi::LINKERD,
    &smi::OSM,
    &smi::V1ALPHA1,
    &smi::V1ALPHA2,
    &smi::V1ALPHA3,
    &kuma::Kuma,
    &gloo::Gloo,
    &appmesh::V1Beta2,
    &appmesh::V1Beta1,
    &contour::Contour,
    &nginx::Nginx,
    &traefik::Traefik,
    &skipper::Skipper,
    &apisix::Apisix,
    &knative::Knative,
];

/// The router for a provider name, by Flagger's rules: exact names, prefixes for `gatewayapi:v1…`. `None` for a name that no
/// router answers to (Flagger falls back to Istio with a log line; Serin refuses, see `docs/flagger.md`).
#[must_use]
pub fn router(provider: &str) -> Option<&'static dyn Router> {
    ROUTERS
        .iter()
        .copied()
        .find(|router| router.answers_to(provider))
}

/// The router of a canary: the one for routes of its user's own where it names such (`spec.routeRef`), else its provider's; `default` is the
/// provider of canaries that name none.
#[must_use]
pub fn router_of(canary: &Canary, default: &str) -> Option<&'static dyn Router> {
    let provider = canary.spec.provider_or(default);
    if own_route::claims(canary, provider) {
        return Some(&own_route::OwnRoute);
    }
    router(provider)
}

/// The feature table: each provider and what it can express.
#[must_use]
pub fn table() -> Vec<(&'static str, Capabilities)> {
    ROUTERS
        .iter()
        .map(|router| (router.provider(), router.capabilities()))
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod asked;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod golden_tests;
#[cfg(test)]
mod ingress_tests;
#[cfg(test)]
mod tests;

#[cfg(test)]
mod mesh_tests;
