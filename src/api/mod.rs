//! The custom resources: Canary, MetricTemplate and AlertProvider of `flagger.app/v1beta1`.
//!
//! The types mirror Flagger's CRDs field by field and add a few optional ones of our own, so an object that Flagger
//! accepts is accepted here and loses nothing on the way through.
//!
//! ```text
//!   JSON of the API server ──decode──▶ Canary ──accessors (defaults)──▶ effective values
//!                            │            └────validate──▶ problems, each with its field
//!                            └─▶ DecodeError: field, value found, what would be right
//!   the same types ──schema──▶ crd ──▶ crds/*.yaml
//! ```
//!
//! Fields hold what the user wrote; what an absent or odd value *means* is answered by the accessor methods in
//! [`defaults`]. Read through those unless the raw text is wanted.

// Doc comments of fields are also what `kubectl explain` shows, where backticks would be noise.
#![allow(clippy::doc_markdown)]

pub mod alert_provider;
pub mod canary;
pub mod canary_analysis;
pub mod canary_service;
pub mod canary_status;
pub mod command;
pub mod crd;
pub mod decode;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod decode_tests;
pub mod defaults;
pub mod duration;
pub mod metadata;
pub mod metric_template;
mod schema;
mod string_enum;
mod timestamp;
pub mod traffic_policy;
pub mod validation;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod validation_tests;

pub use alert_provider::{AlertProvider, AlertProviderSpec, AlertProviderType, TeamsFormat};
pub use canary::{
    AutoscalerRef, Canary, CanarySpec, FailurePromotion, IngressRef, PromotionOptions, RouteRef,
    ScalerReplicas, TargetKind, TargetRef, UpstreamRef, WeightPaths,
};
pub use canary_analysis::{
    AlertSeverity, AnalysisMatch, CanaryAlert, CanaryAnalysis, CanaryMetric, CanaryWebhook,
    CrossNamespaceRef, FailureMode, HeaderMatch, HookType, SameSite, SessionAffinity,
    ThresholdRange,
};
pub use canary_service::{
    CanaryService, CorsPolicy, CustomMetadata, GatewayRef, HeaderOperations, Headers, HttpMatch,
    IntOrString, MirrorBackendRef, MirrorFilter, Retries, Rewrite, RouteKind, StringMatch,
    UnmanagedMetadata,
};
pub use canary_status::{
    AlertRecord, CanaryStatus, CommandAnswer, Condition, ConditionStatus, Deletion, MetricStatus,
    Pause, Phase, PodFailure, Promoted, Rest, Run, RunOutcome, RunWeights, Verdict, condition_type,
};
pub use command::{COMMAND_ANNOTATION, Command, CommandWord};
pub use decode::DecodeError;
pub use defaults::Strategy;
pub use duration::{DurationError, GoDuration, parse_go_duration};
pub use metadata::Metadata;
pub use metric_template::{
    MetricProvider, MetricProviderType, MetricTemplate, MetricTemplateSpec, SecretRef,
};
pub use validation::{
    Problem, ProblemSeverity, ValidationOptions, validate, validate_alert_provider,
};

/// The API group of all three kinds.
pub const GROUP: &str = "flagger.app";
/// The only version of the group.
pub const VERSION: &str = "v1beta1";
/// Group and version as they stand in an object's `apiVersion`.
pub const API_VERSION: &str = "flagger.app/v1beta1";
