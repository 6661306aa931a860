//! What is wrong with a Canary that decodes: rules that the CRD cannot state, and odd values that have a meaning but
//! surely not the one intended.
//!
//! An error stops the canary until the spec changes; a warning says what the value is taken for. A manifest that does
//! something sensible under Flagger never gets more than a warning. What a router can or cannot express is not asked
//! here, that is the routing room's.

use std::fmt;

use super::alert_provider::{AlertProviderSpec, AlertProviderType};
use super::canary::{Canary, TargetKind};
use super::canary_analysis::{CanaryAnalysis, SameSite, SessionAffinity};
use super::canary_service::IntOrString;
use super::defaults::{BUILT_IN_METRICS, LEAST_INTERVAL, Strategy};
use super::duration::{DurationError, parse_go_duration};

/// What the controller's flags say that validation depends on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ValidationOptions {
    /// References to other namespaces are refused.
    pub no_cross_namespace_refs: bool,
    /// The router for canaries that name none; empty when there is none.
    pub default_provider: String,
}

/// How bad a problem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProblemSeverity {
    /// The value is taken for something else, as the message says.
    Warning,
    /// The canary cannot be carried out.
    Error,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where, as one would write it in `kubectl explain`, with indices.
    pub field: String,
    /// The value found there; empty when the field is missing.
    pub value: String,
    /// What is wrong and what would be right.
    pub message: String,
    /// How bad it is.
    pub severity: ProblemSeverity,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.value.as_str() {
            "" => write!(f, "{}: {}", self.field, self.message),
            value => write!(f, "{}: {value}: {}", self.field, self.message),
        }
    }
}

/// All that is wrong with a Canary, in the order of its fields. Empty when nothing is.
#[must_use]
pub fn validate(canary: &Canary, options: &ValidationOptions) -> Vec<Problem> {
    let mut found = Findings::default();
    target(canary, options, &mut found);
    references(canary, options, &mut found);
    service(canary, &mut found);
    timing(canary, &mut found);
    steps(canary, &mut found);
    mirroring(&canary.spec.analysis, &mut found);
    metrics(&canary.spec.analysis, &mut found);
    hooks(&canary.spec.analysis, &mut found);
    if let Some(affinity) = &canary.spec.analysis.session_affinity {
        cookies(affinity, &mut found);
    }
    found.0
}

/// All that is wrong with an AlertProvider by itself. Whether its Secret is there and whether its templates can be read is not asked here.
#[must_use]
pub fn validate_alert_provider(provider: &AlertProviderSpec) -> Vec<Problem> {
    let mut found = Findings::default();
    match (provider.address(), &provider.secret_ref) {
        // What stands in an address may be a secret: it is not repeated.
        (Some(address), _) if !is_http_url(address) => found.error(
            "spec.address",
            "",
            "is no address that messages can be posted to, such as https://hooks.slack.com/services/…",
        ),
        (None, None) => found.error(
            "spec.address",
            "",
            "is missing, and so is secretRef: one of them must say where messages go",
        ),
        (None, Some(secret)) if secret.name.is_empty() => {
            found.error("spec.secretRef.name", "", "is empty, expected the name of a Secret");
        }
        _ => {}
    }
    if let Some(proxy) = provider.proxy.as_deref().filter(|proxy| !proxy.is_empty())
        && !is_http_url(proxy)
    {
        found.error(
            "spec.proxy",
            "",
            "is no address of a proxy, such as http://proxy.test:3128",
        );
    }
    if provider.format.is_some() && provider.provider_type != AlertProviderType::MsTeams {
        found.warning(
            "spec.format",
            provider.format.unwrap_or_default(),
            format!(
                "is for msteams alone, {} has one form",
                provider.provider_type
            ),
        );
    }
    found.0
}

#[derive(Default)]
struct Findings(Vec<Problem>);

impl Findings {
    fn error(
        &mut self,
        field: impl Into<String>,
        value: impl fmt::Display,
        message: impl Into<String>,
    ) {
        self.add(
            ProblemSeverity::Error,
            field.into(),
            value.to_string(),
            message.into(),
        );
    }

    fn warning(
        &mut self,
        field: impl Into<String>,
        value: impl fmt::Display,
        message: impl Into<String>,
    ) {
        self.add(
            ProblemSeverity::Warning,
            field.into(),
            value.to_string(),
            message.into(),
        );
    }

    fn add(&mut self, severity: ProblemSeverity, field: String, value: String, message: String) {
        self.0.push(Problem {
            field,
            value,
            message,
            severity,
        });
    }

    /// A number below `least` or above `most`, where given.
    fn percent(
        &mut self,
        severity: ProblemSeverity,
        field: &str,
        value: Option<i64>,
        meaning: &str,
    ) {
        if let Some(value) = value.filter(|value| !(0..=100).contains(value)) {
            let message = format!("expected a percentage from 0 to 100; {meaning}");
            self.add(severity, field.to_owned(), value.to_string(), message);
        }
    }

    /// A text that should be a duration; `meaning` says what is used instead.
    fn duration(
        &mut self,
        severity: ProblemSeverity,
        field: &str,
        text: Option<&str>,
        meaning: &str,
    ) {
        // "unit" and the rest of the reason come with the error itself.
        if let Some(Err(error)) = text.filter(|text| !text.is_empty()).map(parse_go_duration) {
            let reason = match error {
                DurationError::Empty => return,
                other => other.to_string(),
            };
            let value = text.unwrap_or_default().to_owned();
            self.add(
                severity,
                field.to_owned(),
                value,
                format!("{reason}; {meaning}"),
            );
        }
    }
}

fn target(canary: &Canary, options: &ValidationOptions, found: &mut Findings) {
    let spec = &canary.spec;
    let knative_target = spec.target_ref.target_kind() == TargetKind::Knative;
    // The flag does not count here: a controller for Knative alone still needs the canary to say so.
    let knative_provider = spec.provider.as_deref() == Some("knative");
    if spec.provider_or(&options.default_provider).is_empty() {
        let message = "the router is neither named here nor by the controller's -mesh-provider flag; name one";
        found.error("spec.provider", "", message);
    }
    if knative_target && !knative_provider {
        let value = spec.provider.as_deref().unwrap_or_default();
        found.error(
            "spec.provider",
            value,
            "a Knative target needs provider: knative here, the flag does not count",
        );
    }
    if knative_provider && !knative_target {
        let value = format!("{} {}", spec.target_ref.api_version, spec.target_ref.kind);
        found.error(
            "spec.targetRef",
            value,
            "the provider knative needs a target serving.knative.dev/v1 Service",
        );
    }
    if knative_target && let Some(autoscaler) = &spec.autoscaler_ref {
        let message = "Knative scales its revisions itself; remove autoscalerRef";
        found.error("spec.autoscalerRef", &autoscaler.name, message);
    }
    if let Some(bounds) = spec
        .autoscaler_ref
        .as_ref()
        .and_then(|scaler| scaler.primary_scaler_replicas.as_ref())
        && let (Some(least), Some(most)) = (bounds.min_replicas, bounds.max_replicas)
        && least > most
    {
        let message = format!("minReplicas must not be above maxReplicas ({most})");
        found.error(
            "spec.autoscalerRef.primaryScalerReplicas.minReplicas",
            least,
            message,
        );
    }
}

fn references(canary: &Canary, options: &ValidationOptions, found: &mut Findings) {
    if !options.no_cross_namespace_refs {
        return;
    }
    let home = &canary.metadata.namespace;
    let analysis = &canary.spec.analysis;
    let upstream = canary.spec.upstream_ref.iter();
    let upstream = upstream.map(|upstream| {
        (
            "spec.upstreamRef.namespace".to_owned(),
            upstream.namespace.as_deref(),
        )
    });
    let templates = analysis
        .metrics
        .iter()
        .enumerate()
        .filter_map(|(index, metric)| {
            let field = format!("spec.analysis.metrics[{index}].templateRef.namespace");
            Some((field, metric.template_ref.as_ref()?.namespace.as_deref()))
        });
    let alerts = analysis.alerts.iter().enumerate().map(|(index, alert)| {
        let field = format!("spec.analysis.alerts[{index}].providerRef.namespace");
        (field, alert.provider_ref.namespace.as_deref())
    });
    for (field, namespace) in upstream.chain(templates).chain(alerts) {
        if let Some(namespace) =
            namespace.filter(|namespace| !namespace.is_empty() && namespace != home)
        {
            let message = format!(
                "the controller runs with -no-cross-namespace-refs; leave it out or use \"{home}\", the canary's own"
            );
            found.error(field, namespace, message);
        }
    }
}

fn service(canary: &Canary, found: &mut Findings) {
    if canary.spec.target_ref.target_kind() == TargetKind::Knative {
        return;
    }
    let Some(service) = &canary.spec.service else {
        found.error(
            "spec.service",
            "",
            "is required for this target: name at least the port that clients call",
        );
        return;
    };
    if !(1..=65535).contains(&service.port) {
        found.error(
            "spec.service.port",
            service.port,
            "expected a port from 1 to 65535",
        );
    }
    match &service.target_port {
        Some(IntOrString::Int(port)) if !(0..=65535).contains(port) => {
            found.error(
                "spec.service.targetPort",
                port,
                "expected a port from 1 to 65535 or a port's name",
            );
        }
        Some(IntOrString::String(name)) if name.len() > 15 => {
            found.error(
                "spec.service.targetPort",
                name,
                "the name of a port has 15 characters at most",
            );
        }
        _ => {}
    }
    let apex = canary.apex_name();
    if !is_service_name(apex) {
        let message = "the generated Services take this name and add -primary and -canary: 55 characters at most, \
            lower-case letters, digits and -, beginning with a letter and not ending with -; set spec.service.name";
        found.error("spec.service.name", apex, message);
    }
    for (field, text) in [
        ("spec.service.timeout", service.timeout.as_deref()),
        (
            "spec.service.backendTimeout",
            service.backend_timeout.as_deref(),
        ),
    ] {
        found.duration(
            ProblemSeverity::Warning,
            field,
            text,
            "the router may refuse it",
        );
    }
}

/// A DNS label as Services need it (RFC 1035), with room for `-primary`.
fn is_service_name(name: &str) -> bool {
    name.len() <= 63 - "-primary".len()
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && !name.ends_with('-')
        && name
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
}

fn timing(canary: &Canary, found: &mut Findings) {
    let spec = &canary.spec;
    let analysis = &spec.analysis;
    if let Some(seconds) = spec
        .progress_deadline_seconds
        .filter(|seconds| *seconds <= 0)
    {
        found.warning(
            "spec.progressDeadlineSeconds",
            seconds,
            "expected a number above 0; 600 is used",
        );
    }
    let interval = analysis.interval.as_deref();
    found.duration(
        ProblemSeverity::Warning,
        "spec.analysis.interval",
        interval,
        "1m is used",
    );
    if let Some(text) = interval
        && parse_go_duration(text).is_ok_and(|interval| interval < LEAST_INTERVAL)
    {
        found.warning(
            "spec.analysis.interval",
            text,
            "the shortest interval is 1s; 1s is used",
        );
    }
    for (field, text) in [
        ("spec.analysis.drain", analysis.drain.as_deref()),
        (
            "spec.analysis.noDataDeadline",
            analysis.no_data_deadline.as_deref(),
        ),
        (
            "spec.analysis.gateTimeout",
            analysis.gate_timeout.as_deref(),
        ),
    ] {
        found.duration(
            ProblemSeverity::Error,
            field,
            text,
            "correct it or leave it out",
        );
    }
    if let Some(threshold) = analysis.threshold.filter(|threshold| *threshold <= 0) {
        found.warning(
            "spec.analysis.threshold",
            threshold,
            "expected a number above 0; 1 is used",
        );
    }
    if let Some(window) = analysis.failure_window {
        match analysis.failure_mode() {
            super::FailureMode::Window => {
                let reachable = i64::try_from(analysis.failure_window()).unwrap_or(i64::MAX);
                if analysis.threshold() > reachable {
                    let message = format!(
                        "a window of {reachable} checks can never hold {} failed ones; raise failureWindow or lower \
                         threshold",
                        analysis.threshold()
                    );
                    found.error("spec.analysis.failureWindow", window, message);
                }
            }
            other => {
                let message =
                    format!("counts only with failureMode: window, and failureMode is {other}");
                found.warning("spec.analysis.failureWindow", window, message);
            }
        }
    }
    for (field, value) in [
        (
            "spec.analysis.primaryReadyThreshold",
            analysis.primary_ready_threshold,
        ),
        (
            "spec.analysis.canaryReadyThreshold",
            analysis.canary_ready_threshold,
        ),
    ] {
        match value {
            Some(percent) if percent > 100 => {
                found.error(
                    field,
                    percent,
                    "more than 100 % of the pods can never be ready; use 100 at most",
                );
            }
            Some(percent) if percent < 0 => {
                found.warning(field, percent, "expected 0 to 100; counts as 0");
            }
            _ => {}
        }
    }
}

fn steps(canary: &Canary, found: &mut Findings) {
    let analysis = &canary.spec.analysis;
    let strategy = analysis.strategy();
    if let Some(rounds) = analysis.iterations.filter(|rounds| *rounds < 0) {
        found.warning(
            "spec.analysis.iterations",
            rounds,
            "expected a number above 0; counts as 0",
        );
    }
    if strategy == Strategy::Canary && !analysis.matches.is_empty() {
        let message =
            "counts only with iterations (A/B testing); this run moves shares of all traffic";
        found.warning("spec.analysis.match", "", message);
    }
    if strategy != Strategy::Canary {
        return;
    }
    if analysis.step_weights.is_empty()
        && analysis.step_weight() <= 0
        && !canary.spec.skip_analysis()
    {
        let value = analysis
            .step_weight
            .map(|weight| weight.to_string())
            .unwrap_or_default();
        let message = "the canary would never get traffic: set stepWeight above 0, or stepWeights, or iterations";
        found.error("spec.analysis.stepWeight", value, message);
    }
    if let Some(weight) = analysis.step_weight.filter(|weight| *weight > 100) {
        found.warning(
            "spec.analysis.stepWeight",
            weight,
            "expected 1 to 100; counts as 100, all in one step",
        );
    }
    for (index, weight) in analysis.step_weights.iter().enumerate() {
        let field = format!("spec.analysis.stepWeights[{index}]");
        if *weight < 0 {
            found.error(
                field,
                weight,
                "a share of traffic cannot be negative; use 0 to 100",
            );
        } else if *weight > 100 {
            found.warning(field, weight, "expected 0 to 100; counts as 100");
        }
    }
    if let Some(last) = analysis.step_weights.last() {
        let fallen = analysis
            .step_weights
            .iter()
            .zip(analysis.step_weights.iter().skip(1))
            .find(|(before, after)| before >= after);
        if let Some((before, after)) = fallen {
            let message = format!(
                "{after} is not above {before} before it: write the steps in ascending order; promotion begins as soon \
                 as the canary has the last of them, {last} %"
            );
            found.warning(
                "spec.analysis.stepWeights",
                format!("{:?}", analysis.step_weights),
                message,
            );
        }
        if *last == 0 {
            let message =
                "the canary would be promoted without any traffic; end with a share above 0";
            found.error(
                "spec.analysis.stepWeights",
                format!("{:?}", analysis.step_weights),
                message,
            );
        }
    }
    if let Some(weight) = analysis.max_weight {
        if weight < 0 {
            found.error(
                "spec.analysis.maxWeight",
                weight,
                "a share of traffic cannot be negative; use 1 to 100",
            );
        } else if weight > 100 {
            found.warning(
                "spec.analysis.maxWeight",
                weight,
                "expected 1 to 100; counts as 100",
            );
        }
    }
    found.percent(
        ProblemSeverity::Warning,
        "spec.analysis.stepWeightPromotion",
        analysis.step_weight_promotion,
        "all traffic goes back in one go",
    );
}

fn mirroring(analysis: &CanaryAnalysis, found: &mut Findings) {
    found.percent(
        ProblemSeverity::Error,
        "spec.analysis.mirrorWeight",
        analysis.mirror_weight,
        "0 or nothing copies all requests",
    );
    if let Some(weight) = analysis.mirror_weight()
        && (0..=100).contains(&weight)
        && !analysis.mirror()
    {
        found.warning(
            "spec.analysis.mirrorWeight",
            weight,
            "counts only with mirror: true",
        );
    }
    if analysis.mirror() && analysis.strategy() == Strategy::AbTesting {
        found.warning(
            "spec.analysis.mirror",
            true,
            "A/B testing copies no requests; without match they are copied",
        );
    }
}

fn metrics(analysis: &CanaryAnalysis, found: &mut Findings) {
    for (index, metric) in analysis.metrics.iter().enumerate() {
        let field = |name: &str| format!("spec.analysis.metrics[{index}]{name}");
        let inline = metric
            .query
            .as_deref()
            .is_some_and(|query| !query.is_empty());
        if metric.template_ref.is_none()
            && !inline
            && !BUILT_IN_METRICS.contains(&metric.name.as_str())
        {
            let message = format!(
                "can never say anything: it is not built in ({}) and has neither templateRef nor query",
                BUILT_IN_METRICS.join(", ")
            );
            found.error(field(".name"), &metric.name, message);
        }
        if inline && metric.template_ref.is_some() {
            found.warning(
                field(".query"),
                "",
                "is not used, templateRef gives the query; remove one of the two",
            );
        }
        if analysis.metrics[..index]
            .iter()
            .any(|earlier| earlier.name == metric.name)
        {
            let message = "another metric has the same name; reports cannot tell them apart";
            found.warning(field(".name"), &metric.name, message);
        }
        match &metric.threshold_range {
            Some(range) => {
                if range.min.is_none() && range.max.is_none() {
                    found.warning(
                        field(".thresholdRange"),
                        "",
                        "has neither min nor max, so every value passes",
                    );
                }
                if let (Some(min), Some(max)) = (range.min, range.max)
                    && min > max
                {
                    let message = format!("no value can pass: min is above max ({max})");
                    found.error(field(".thresholdRange.min"), min, message);
                }
                if let Some(threshold) = metric.threshold {
                    found.warning(
                        field(".threshold"),
                        threshold,
                        "is not used, thresholdRange gives the limits",
                    );
                }
            }
            None if metric.threshold.is_none() => {
                let message = if metric.name == BUILT_IN_METRICS[0] {
                    "is missing, so every value passes; say from which percentage on the canary is good"
                } else {
                    "is missing, so only values up to 0 pass; say what values are good"
                };
                found.warning(field(".thresholdRange"), "", message);
            }
            None => {}
        }
        let meaning = "it goes into the query as it is";
        found.duration(
            ProblemSeverity::Warning,
            &field(".interval"),
            metric.interval.as_deref(),
            meaning,
        );
    }
}

fn hooks(analysis: &CanaryAnalysis, found: &mut Findings) {
    for (index, hook) in analysis.webhooks.iter().enumerate() {
        let field = |name: &str| format!("spec.analysis.webhooks[{index}]{name}");
        if !is_http_url(&hook.url) {
            let message =
                "can never be called: expected an address such as http://tester.test/gate";
            found.error(field(".url"), &hook.url, message);
        }
        let meaning = "10s is used";
        found.duration(
            ProblemSeverity::Warning,
            &field(".timeout"),
            hook.timeout.as_deref(),
            meaning,
        );
        if let Some(retries) = hook.retries.filter(|retries| *retries < 0) {
            found.warning(
                field(".retries"),
                retries,
                "expected 0 or more; counts as 0",
            );
        }
    }
}

fn is_http_url(url: &str) -> bool {
    let rest = url
        .strip_prefix("http://")
        .or_else(|| url.strip_prefix("https://"));
    let host = rest.and_then(|rest| rest.split(['/', '?', '#', ':']).next());
    host.is_some_and(|host| !host.is_empty()) && !url.contains(char::is_whitespace)
}

fn cookies(affinity: &SessionAffinity, found: &mut Findings) {
    let names = [
        (
            "spec.analysis.sessionAffinity.cookieName",
            Some(&affinity.cookie_name),
        ),
        (
            "spec.analysis.sessionAffinity.primaryCookieName",
            affinity.primary_cookie_name.as_ref(),
        ),
    ];
    for (field, name) in names {
        let absent = field.ends_with("primaryCookieName") && name.is_some_and(String::is_empty);
        if let Some(name) = name.filter(|name| !absent && !is_cookie_name(name)) {
            let message = "is no name for a cookie: use letters, digits, - and _, at least one";
            found.error(field, format!("\"{name}\""), message);
        }
    }
    if affinity.primary_cookie_name.as_ref() == Some(&affinity.cookie_name) {
        let message = "must differ from cookieName, or clients of both sides look alike";
        found.error(
            "spec.analysis.sessionAffinity.primaryCookieName",
            &affinity.cookie_name,
            message,
        );
    }
    if let Some(seconds) = affinity.max_age.filter(|seconds| *seconds < 0) {
        let message = "expected a number of seconds above 0; a negative one makes browsers drop the cookie at once";
        found.error("spec.analysis.sessionAffinity.maxAge", seconds, message);
    }
    if affinity.same_site == Some(SameSite::None) && affinity.secure != Some(true) {
        let message =
            "browsers drop a cookie with SameSite None that is not Secure; set secure: true";
        found.warning(
            "spec.analysis.sessionAffinity.sameSite",
            SameSite::None,
            message,
        );
    }
}

/// A token as RFC 6265 asks for (by way of RFC 2616).
fn is_cookie_name(name: &str) -> bool {
    !name.is_empty()
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c))
}
