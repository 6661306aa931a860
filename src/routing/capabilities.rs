//! What routers can express, as data: one [`Capabilities`] for each, from which the table in `docs/routers/README.md` is written, and
//! from which [`refusals`] finds what a canary asks for in vain. A router adds only what its row can't tell.

use super::{Refusal, Severity, table};
use crate::api::{AnalysisMatch, Canary, CanaryService, HeaderMatch, Strategy, StringMatch};
use serde::Serialize;

/// Which splits of traffic a router can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weights {
    /// None: traffic stays on the primary until promotion.
    None,
    /// Every split from 0 to 100 that is a multiple of so many percent, 1 or more.
    Steps(u8),
}

/// What a request may be asked for in `spec.analysis.match`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Condition {
    /// A header has this value.
    HeaderExact,
    /// The value of a header begins so.
    HeaderPrefix,
    /// The value of a header ends so.
    HeaderSuffix,
    /// The value of a header matches this expression as a whole.
    HeaderRegex,
    /// A header is there.
    HeaderPresent,
    /// There is a cookie of this name: `headers: {cookie: {exact: NAME}}`, which others read as the whole header.
    Cookie,
    /// A query parameter has this value.
    QueryExact,
    /// The value of a query parameter begins so.
    QueryPrefix,
    /// The value of a query parameter matches this expression as a whole.
    QueryRegex,
    /// A query parameter is there.
    QueryPresent,
    /// The calling pods carry these labels.
    SourceLabels,
}

impl Condition {
    /// Every kind, in the order of the table.
    pub const ALL: [Self; 11] = [
        Self::HeaderExact,
        Self::HeaderPrefix,
        Self::HeaderSuffix,
        Self::HeaderRegex,
        Self::HeaderPresent,
        Self::Cookie,
        Self::QueryExact,
        Self::QueryPrefix,
        Self::QueryRegex,
        Self::QueryPresent,
        Self::SourceLabels,
    ];

    /// The words of the table and of messages: what is matched, and how.
    #[must_use]
    pub const fn label(self) -> (&'static str, &'static str) {
        match self {
            Self::HeaderExact => ("headers", "exact"),
            Self::HeaderPrefix => ("headers", "prefix"),
            Self::HeaderSuffix => ("headers", "suffix"),
            Self::HeaderRegex => ("headers", "regex"),
            Self::HeaderPresent => ("headers", "presence"),
            Self::Cookie => ("cookie", "by name"),
            Self::QueryExact => ("queryParams", "exact"),
            Self::QueryPrefix => ("queryParams", "prefix"),
            Self::QueryRegex => ("queryParams", "regex"),
            Self::QueryPresent => ("queryParams", "presence"),
            Self::SourceLabels => ("sourceLabels", "exact"),
        }
    }
}

/// Where a router can send copies of requests to the canary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// During Blue/Green iterations.
    pub blue_green: bool,
    /// In a step before the first weight of a canary.
    pub canary_step: bool,
    /// A part of the requests, by `spec.analysis.mirrorWeight`; without it all are copied.
    pub percentage: bool,
}

impl Mirror {
    /// Nowhere.
    pub const NONE: Self = Self {
        blue_green: false,
        canary_step: false,
        percentage: false,
    };
}

/// A field of `spec.service` that some routers write to their objects and others don't.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ServiceField {
    /// `match`
    Match,
    /// `hosts`
    Hosts,
    /// `headers`
    Headers,
    /// `rewrite`
    Rewrite,
    /// `timeout`
    Timeout,
    /// `backendTimeout`
    BackendTimeout,
    /// `retries`
    Retries,
    /// `corsPolicy`
    CorsPolicy,
    /// `mirror`
    Mirror,
    /// `trafficPolicy`
    TrafficPolicy,
}

impl ServiceField {
    /// Every field, in the order of the table.
    pub const ALL: [Self; 10] = [
        Self::Match,
        Self::Hosts,
        Self::Headers,
        Self::Rewrite,
        Self::Timeout,
        Self::BackendTimeout,
        Self::Retries,
        Self::CorsPolicy,
        Self::Mirror,
        Self::TrafficPolicy,
    ];

    /// Its name below `spec.service`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Match => "match",
            Self::Hosts => "hosts",
            Self::Headers => "headers",
            Self::Rewrite => "rewrite",
            Self::Timeout => "timeout",
            Self::BackendTimeout => "backendTimeout",
            Self::Retries => "retries",
            Self::CorsPolicy => "corsPolicy",
            Self::Mirror => "mirror",
            Self::TrafficPolicy => "trafficPolicy",
        }
    }

    /// Whether a canary sets it.
    fn is_set(self, service: &CanaryService) -> bool {
        match self {
            Self::Match => !service.matches.is_empty(),
            Self::Hosts => !service.hosts.is_empty(),
            Self::Headers => service.headers.is_some(),
            Self::Rewrite => service.rewrite.is_some(),
            Self::Timeout => filled(service.timeout.as_ref()),
            Self::BackendTimeout => filled(service.backend_timeout.as_ref()),
            Self::Retries => service.retries.is_some(),
            Self::CorsPolicy => service.cors_policy.is_some(),
            Self::Mirror => !service.mirror.is_empty(),
            Self::TrafficPolicy => service.traffic_policy.is_some(),
        }
    }
}

/// What a canary may ask of its router and what routers may lack: the columns of the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Feature {
    /// A weight between the steps that the router holds.
    Weight,
    /// An A/B test by this condition.
    Condition,
    /// Connections of any protocol.
    Tcp,
    /// Copies of requests during Blue/Green.
    Mirror,
    /// Copies in a step before the first weight of a canary.
    MirrorStep,
    /// Copies of a part of the requests.
    MirrorPart,
    /// Stickiness of the canary's users.
    Affinity,
    /// Stickiness of the primary's users too.
    PrimaryAffinity,
    /// A field of `spec.service`.
    Field,
}

impl Feature {
    /// Every one, those that are refused first.
    pub const ALL: [Self; 9] = [
        Self::Condition,
        Self::Tcp,
        Self::Weight,
        Self::Mirror,
        Self::MirrorStep,
        Self::MirrorPart,
        Self::Affinity,
        Self::PrimaryAffinity,
        Self::Field,
    ];

    /// Whether a canary that asks for it in vain is refused. Without the others nobody gets what they should not, and Flagger has always let
    /// such manifests pass: they go on working, with a warning.
    #[must_use]
    pub const fn severity(self) -> Severity {
        match self {
            Self::Weight | Self::Condition | Self::Tcp => Severity::Error,
            Self::Mirror
            | Self::MirrorStep
            | Self::MirrorPart
            | Self::Affinity
            | Self::PrimaryAffinity
            | Self::Field => Severity::Warning,
        }
    }

    /// The words of the documentation: how a canary asks for it, and what comes of it where the router lacks it.
    #[must_use]
    pub const fn label(self) -> (&'static str, &'static str) {
        match self {
            Self::Weight => (
                "a weight in `analysis` that is no multiple of the router's step",
                "no split that was not asked for is written",
            ),
            Self::Condition => (
                "an entry in `analysis.match` by a condition that the router lacks, or an A/B test where it knows none",
                "every user would get the canary, or nobody; with `kubernetes`, where the canary gets no users at all, it is a \
                 warning",
            ),
            Self::Tcp => (
                "`service.appProtocol: tcp`",
                "connections would not be routed; where there are no weights it is fine",
            ),
            Self::Mirror => ("`analysis.mirror`", "no requests are copied"),
            Self::MirrorStep => (
                "`analysis.mirror` without iterations",
                "the step of copies is left out",
            ),
            Self::MirrorPart => ("`analysis.mirrorWeight`", "every request is copied"),
            Self::Affinity => (
                "`analysis.sessionAffinity`",
                "users may change sides at each request",
            ),
            Self::PrimaryAffinity => (
                "`analysis.sessionAffinity.primaryCookieName`",
                "only users who met the canary stay on their side",
            ),
            Self::Field => (
                "a field of `service` that the router's objects don't have",
                "the objects are written without it",
            ),
        }
    }

    /// Asked for in vain.
    fn lacking(self, field: impl Into<String>, message: impl Into<String>) -> Refusal {
        match self.severity() {
            Severity::Error => Refusal::error(field, message),
            Severity::Warning => Refusal::warning(field, message),
        }
    }
}

/// What a router can express.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Splits of traffic.
    pub weights: Weights,
    /// A/B testing: what requests can be asked for; empty where it can't be done.
    pub conditions: &'static [Condition],
    /// Copies of requests.
    pub mirror: Mirror,
    /// Cookie stickiness of the canary's users.
    pub affinity: bool,
    /// Cookie stickiness of the primary's users too.
    pub primary_affinity: bool,
    /// Connections of any protocol, not HTTP alone.
    pub tcp: bool,
    /// Fields of `spec.service` that are written to the router's objects.
    pub fields: &'static [ServiceField],
}

impl Capabilities {
    /// Nothing; the row from which others are made.
    pub const NONE: Self = Self {
        weights: Weights::None,
        conditions: &[],
        mirror: Mirror::NONE,
        affinity: false,
        primary_affinity: false,
        tcp: false,
        fields: &[],
    };
    /// Weights in steps of one percent and nothing else.
    pub const WEIGHTED: Self = Self {
        weights: Weights::Steps(1),
        ..Self::NONE
    };

    /// Whether traffic can be split at all.
    #[must_use]
    pub const fn weighted(&self) -> bool {
        matches!(self.weights, Weights::Steps(_))
    }
}

/// What a canary asks for and the row of its router lacks, in the order of the spec; [`Feature::severity`] says whether the rollout goes on
/// without.
#[must_use]
pub fn refusals(provider: &str, can: &Capabilities, canary: &Canary) -> Vec<Refusal> {
    let mut refusals = of_service(provider, can, canary);
    refusals.extend(of_weights(provider, can, canary));
    refusals.extend(of_conditions(provider, can, canary));
    refusals.extend(of_mirror(provider, can, canary));
    refusals.extend(of_affinity(provider, can, canary));
    refusals
}

/// The routers that can what this one can't, for the end of a message.
fn others(can: impl Fn(&Capabilities) -> bool) -> String {
    let names: Vec<&str> = table()
        .into_iter()
        .filter(|(_, row)| can(row))
        .map(|(name, _)| name)
        .collect();
    if names.is_empty() {
        String::new()
    } else {
        format!(" (possible with {})", names.join(", "))
    }
}

fn of_service(provider: &str, can: &Capabilities, canary: &Canary) -> Vec<Refusal> {
    let Some(service) = &canary.spec.service else {
        return Vec::new();
    };
    let mut refusals = Vec::new();
    // Without weights there is nothing but Services, which carry any protocol.
    if let Some(protocol) = service.app_protocol.as_deref()
        && protocol.eq_ignore_ascii_case("tcp")
        && can.weighted()
        && !can.tcp
    {
        refusals.push(Feature::Tcp.lacking(
            "spec.service.appProtocol",
            format!(
                "{protocol}; {provider} routes HTTP requests, not connections{}",
                others(|row| row.tcp)
            ),
        ));
    }
    refusals.extend(
        ServiceField::ALL
            .into_iter()
            .filter(|field| field.is_set(service) && !can.fields.contains(field))
            .map(|field| {
                Feature::Field.lacking(
                    format!("spec.service.{}", field.name()),
                    format!(
                        "set; the objects of {provider} have no {}, the rollout goes on without{}",
                        field.name(),
                        others(|row| row.fields.contains(&field))
                    ),
                )
            }),
    );
    refusals
}

fn of_weights(provider: &str, can: &Capabilities, canary: &Canary) -> Vec<Refusal> {
    let Weights::Steps(step) = can.weights else {
        return Vec::new();
    };
    let analysis = &canary.spec.analysis;
    let single = [
        ("spec.analysis.maxWeight", analysis.max_weight),
        ("spec.analysis.stepWeight", analysis.step_weight),
        (
            "spec.analysis.stepWeightPromotion",
            analysis.step_weight_promotion,
        ),
    ];
    single
        .into_iter()
        .filter_map(|(field, weight)| Some((field.to_owned(), weight?)))
        .chain(
            analysis
                .step_weights
                .iter()
                .enumerate()
                .map(|(index, weight)| (format!("spec.analysis.stepWeights[{index}]"), *weight)),
        )
        .filter(|(_, weight)| weight % i64::from(step.max(1)) != 0)
        .map(|(field, weight)| {
            Feature::Weight.lacking(
                field,
                format!("{weight}; {provider} holds splits in steps of {step} %: use a multiple of {step}"),
            )
        })
        .collect()
}

/// A condition of the spec: its field, its kind, what it says.
type Asked = (String, Condition, String);

fn of_conditions(provider: &str, can: &Capabilities, canary: &Canary) -> Vec<Refusal> {
    let analysis = &canary.spec.analysis;
    if can.conditions.is_empty() {
        // Without iterations the conditions don't count, and validation says so.
        if analysis.strategy() != Strategy::AbTesting {
            return Vec::new();
        }
        return vec![Feature::Condition.lacking(
            "spec.analysis.match",
            format!(
                "set; {provider} can't tell requests apart, every user would get the canary: remove match for Blue/Green, or \
                 use another router{}",
                others(|row| !row.conditions.is_empty())
            ),
        )];
    }
    let mut refusals = Vec::new();
    for (index, entry) in analysis.matches.iter().enumerate() {
        let path = format!("spec.analysis.match[{index}]");
        let asked = asked(entry, &path, can.conditions.contains(&Condition::Cookie));
        if asked.is_empty() {
            refusals.push(Refusal::error(
                path.clone(),
                "no condition; name at least one, or every request would go to the canary",
            ));
        }
        for (field, condition, found) in asked {
            if !can.conditions.contains(&condition) {
                refusals.push(Feature::Condition.lacking(
                    field,
                    format!("{found}; {}", instead(provider, can, condition)),
                ));
            }
        }
    }
    refusals
}

/// What an entry asks for.
fn asked(entry: &AnalysisMatch, path: &str, cookies: bool) -> Vec<Asked> {
    let headers = entry.headers.iter().map(|(name, value)| {
        let condition =
            if cookies && name.eq_ignore_ascii_case("cookie") && filled(value.exact.as_ref()) {
                Condition::Cookie
            } else {
                header_condition(value)
            };
        (format!("{path}.headers.{name}"), condition, shown(value))
    });
    let query = entry.query_params.iter().map(|(name, value)| {
        let condition = query_condition(value);
        (
            format!("{path}.queryParams.{name}"),
            condition,
            shown(value),
        )
    });
    let labels = (!entry.source_labels.is_empty()).then(|| {
        let found = shown(&entry.source_labels);
        (
            format!("{path}.sourceLabels"),
            Condition::SourceLabels,
            found,
        )
    });
    headers.chain(query).chain(labels).collect()
}

fn filled(text: Option<&String>) -> bool {
    text.is_some_and(|text| !text.is_empty())
}

fn header_condition(value: &HeaderMatch) -> Condition {
    [
        (&value.exact, Condition::HeaderExact),
        (&value.prefix, Condition::HeaderPrefix),
        (&value.suffix, Condition::HeaderSuffix),
        (&value.regex, Condition::HeaderRegex),
    ]
    .into_iter()
    .find(|(text, _)| filled(text.as_ref()))
    .map_or(Condition::HeaderPresent, |(_, condition)| condition)
}

fn query_condition(value: &StringMatch) -> Condition {
    [
        (&value.exact, Condition::QueryExact),
        (&value.prefix, Condition::QueryPrefix),
        (&value.regex, Condition::QueryRegex),
    ]
    .into_iter()
    .find(|(text, _)| filled(text.as_ref()))
    .map_or(Condition::QueryPresent, |(_, condition)| condition)
}

/// A condition as the user wrote it.
fn shown(condition: &impl Serialize) -> String {
    serde_json::to_string(condition).unwrap_or_default()
}

/// What could be asked for instead of a condition that a router lacks.
fn instead(provider: &str, can: &Capabilities, condition: Condition) -> String {
    let (subject, _) = condition.label();
    let known: Vec<String> = can
        .conditions
        .iter()
        .filter(|known| known.label().0 == subject)
        .map(|known| format!("`{}`", known.label().1))
        .collect();
    if known.is_empty() {
        let what = if condition == Condition::SourceLabels {
            "the labels of the caller"
        } else {
            subject
        };
        let mut subjects: Vec<&str> = can.conditions.iter().map(|known| known.label().0).collect();
        subjects.dedup();
        return format!(
            "{provider} can't match by {what}; use {}{}",
            subjects.join(" or "),
            others(|row| row.conditions.contains(&condition))
        );
    }
    let regex = match condition {
        Condition::HeaderPrefix | Condition::HeaderSuffix | Condition::HeaderPresent => {
            can.conditions.contains(&Condition::HeaderRegex)
        }
        Condition::QueryPrefix | Condition::QueryPresent => {
            can.conditions.contains(&Condition::QueryRegex)
        }
        _ => false,
    };
    let hint = if regex {
        "; a prefix can be written as `regex: prefix.*`, a suffix as `regex: .*suffix`, presence as `regex: .*`"
    } else {
        ""
    };
    format!("{provider} knows {} here{hint}", known.join(" and "))
}

fn of_mirror(provider: &str, can: &Capabilities, canary: &Canary) -> Vec<Refusal> {
    let analysis = &canary.spec.analysis;
    if !analysis.mirror() {
        return Vec::new();
    }
    let Mirror {
        blue_green,
        canary_step,
        percentage,
    } = can.mirror;
    let mut refusals = Vec::new();
    let stepwise = analysis.strategy() == Strategy::Canary;
    if !blue_green && !canary_step {
        refusals.push(Feature::Mirror.lacking(
            "spec.analysis.mirror",
            format!(
                "true; {provider} can't mirror, the rollout goes on without it{}",
                others(|row| row.mirror != Mirror::NONE)
            ),
        ));
    } else if stepwise && !canary_step {
        refusals.push(Feature::MirrorStep.lacking(
            "spec.analysis.mirror",
            format!(
                "true without iterations; {provider} mirrors only during Blue/Green, the mirrored step is skipped{}",
                others(|row| row.mirror.canary_step)
            ),
        ));
    }
    if let Some(weight) = analysis.mirror_weight()
        && !percentage
        && (blue_green || canary_step)
    {
        refusals.push(Feature::MirrorPart.lacking(
            "spec.analysis.mirrorWeight",
            format!(
                "{weight}; {provider} mirrors every request{}",
                others(|row| row.mirror.percentage)
            ),
        ));
    }
    refusals
}

fn of_affinity(provider: &str, can: &Capabilities, canary: &Canary) -> Option<Refusal> {
    let analysis = &canary.spec.analysis;
    let affinity = analysis.session_affinity.as_ref()?;
    if !can.affinity {
        return Some(Feature::Affinity.lacking(
            "spec.analysis.sessionAffinity",
            format!(
                "set; {provider} has no cookies, the rollout goes on without it{}",
                others(|row| row.affinity)
            ),
        ));
    }
    if !analysis.matches.is_empty() {
        return Some(Refusal::warning(
            "spec.analysis.sessionAffinity",
            "set together with spec.analysis.match; an A/B test already decides by request, cookies are not used",
        ));
    }
    let name = affinity.primary_cookie_name.as_deref()?;
    (!name.is_empty() && !can.primary_affinity).then(|| {
        Feature::PrimaryAffinity.lacking(
            "spec.analysis.sessionAffinity.primaryCookieName",
            format!(
                "{name}; {provider} pins only the canary's users{}",
                others(|row| row.primary_affinity)
            ),
        )
    })
}
