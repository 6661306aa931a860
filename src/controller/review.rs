//! What is wrong with one object by itself: with a canary, a metric template, an alert provider. `serin lint` and the admission webhook ask
//! here, and what is an error here is what a pass refuses: the same validation, the same routers, the same queries.

use crate::analysis::{MetricFlags, QueryProblem, alert, provider_problems, queries, template};
use crate::api::validation::ProblemSeverity;
use crate::api::{
    AlertProvider, Canary, HookType, MetricTemplate, Problem, ThresholdRange, ValidationOptions,
    validate, validate_alert_provider,
};
use crate::object::{ObjectRef, Reading};
use crate::routing;
use std::collections::BTreeMap;

/// What the controller was, or will be, started with.
#[derive(Clone, Debug, Default)]
pub struct ReviewSettings {
    /// `-mesh-provider`.
    pub mesh_provider: String,
    /// `-no-cross-namespace-refs`.
    pub no_cross_namespace_refs: bool,
    /// `-refuse-unsupported`.
    pub refuse_unsupported: bool,
}

/// One thing that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remark {
    /// An error can never work; a warning is doubtful.
    pub severity: ProblemSeverity,
    /// Which check: spec, router, metric, template.
    pub rule: &'static str,
    /// Path of the field.
    pub field: String,
    /// What was found and what would be right.
    pub message: String,
    /// Line and column within the field's text, from 1, where it is about a place in it.
    pub place: Option<(usize, usize)>,
}

struct Remarks {
    rule: &'static str,
    found: Vec<Remark>,
}

impl Remarks {
    fn of(rule: &'static str) -> Self {
        Self {
            rule,
            found: Vec::new(),
        }
    }

    fn add(&mut self, severity: ProblemSeverity, field: &str, message: impl Into<String>) {
        self.found.push(Remark {
            severity,
            rule: self.rule,
            field: field.to_owned(),
            message: message.into(),
            place: None,
        });
    }

    fn error(&mut self, field: &str, message: impl Into<String>) {
        self.add(ProblemSeverity::Error, field, message);
    }

    fn warning(&mut self, field: &str, message: impl Into<String>) {
        self.add(ProblemSeverity::Warning, field, message);
    }

    fn problems(&mut self, problems: Vec<Problem>) {
        for problem in problems {
            let message = match problem.value.as_str() {
                "" => problem.message,
                value => format!("{value}: {}", problem.message),
            };
            self.add(problem.severity, &problem.field, message);
        }
    }
}

/// What is wrong with a canary. `lookup` knows the templates that it names, as far as they are known.
#[must_use]
pub fn of_canary(
    canary: &Canary,
    settings: &ReviewSettings,
    lookup: &dyn Fn(&ObjectRef) -> Reading,
) -> Vec<Remark> {
    let mut spec = Remarks::of("spec");
    spec.problems(validate(
        canary,
        &ValidationOptions {
            no_cross_namespace_refs: settings.no_cross_namespace_refs,
            default_provider: settings.mesh_provider.clone(),
        },
    ));
    let mut router = Remarks::of("router");
    refusals(canary, settings, &mut router);
    let mut metric = Remarks::of("metric");
    metrics(canary, settings, lookup, &mut metric);
    let mut text = Remarks::of("template");
    for (index, entry) in canary.spec.analysis.alerts.iter().enumerate() {
        if let Some(template) = &entry.template {
            alert_template(
                template,
                &format!("spec.analysis.alerts[{index}].template"),
                &mut text,
            );
        }
    }
    [spec, router, metric, text]
        .into_iter()
        .flat_map(|remarks| remarks.found)
        .collect()
}

fn refusals(canary: &Canary, settings: &ReviewSettings, found: &mut Remarks) {
    let provider = canary.spec.provider_or(&settings.mesh_provider);
    if provider.is_empty() {
        return;
    }
    let Some(router) = routing::router_of(canary, provider) else {
        let known: Vec<&str> = routing::table().into_iter().map(|(name, _)| name).collect();
        let message = format!(
            "{provider} has no router in this version of Serin; there are {}",
            known.join(", ")
        );
        return found.error("spec.provider", message);
    };
    for refusal in router.refusals(canary) {
        let refusal = refusal.taken(settings.refuse_unsupported);
        let severity = match refusal.severity {
            routing::Severity::Error => ProblemSeverity::Error,
            routing::Severity::Warning => ProblemSeverity::Warning,
        };
        found.add(severity, &refusal.field, refusal.message);
    }
}

fn metrics(
    canary: &Canary,
    settings: &ReviewSettings,
    lookup: &dyn Fn(&ObjectRef) -> Reading,
    found: &mut Remarks,
) {
    let analysis = &canary.spec.analysis;
    let flags = MetricFlags {
        mesh_provider: &settings.mesh_provider,
        metrics_server: "http://prometheus:9090",
        no_cross_namespace_refs: settings.no_cross_namespace_refs,
    };
    for problem in queries(canary, flags, lookup) {
        if let Err(QueryProblem::Invalid { metric, message }) = problem {
            let position = analysis
                .metrics
                .iter()
                .position(|known| known.name == metric);
            let field = position.map_or_else(
                || "spec.analysis.metrics".to_owned(),
                |index| format!("spec.analysis.metrics[{index}]"),
            );
            found.error(&field, message);
        }
    }
    for (index, metric) in analysis.metrics.iter().enumerate() {
        if metric.name == "request-success-rate"
            && let Some(range) = &metric.threshold_range
        {
            let field = format!("spec.analysis.metrics[{index}].thresholdRange");
            success_rate(range, &field, found);
        }
    }
    let judges = [
        HookType::Rollout,
        HookType::PreRollout,
        HookType::ConfirmPromotion,
    ]
    .into_iter()
    .any(|kind| analysis.hooks(kind).next().is_some());
    if analysis.metrics.is_empty() && !judges && !canary.spec.skip_analysis() {
        let message = "no metric and no hook judges a revision, so every one that starts is promoted; name a metric, or say skipAnalysis: true";
        found.warning("spec.analysis", message);
    }
}

/// Limits of a percentage that no value, or every value, is within.
fn success_rate(range: &ThresholdRange, field: &str, found: &mut Remarks) {
    let (min, max) = (format!("{field}.min"), format!("{field}.max"));
    match (range.min, range.max) {
        (Some(value), _) if value > 100.0 => found.error(
            &min,
            format!("{value}: a success rate is a percentage, so no value can pass"),
        ),
        (Some(value), None) if value <= 0.0 => found.warning(
            &min,
            format!("{value}: every success rate passes; say from which percentage on the canary is good, such as 99"),
        ),
        (Some(value), None) if value <= 1.0 => found.warning(
            &min,
            format!(
                "{value}: the success rate is measured in percent, so nearly every value passes; did you mean {}?",
                value * 100.0
            ),
        ),
        (None, Some(value)) if value >= 100.0 => found.warning(
            &max,
            format!("{value}: every success rate passes; did you mean min?"),
        ),
        _ => {}
    }
}

/// What is wrong with a metric template.
#[must_use]
pub fn of_template(metric_template: &MetricTemplate) -> Vec<Remark> {
    let mut found = Remarks::of("template");
    let spec = &metric_template.spec;
    found.problems(provider_problems(&spec.provider));
    // Variables are the canaries' own: whatever the template asks for is there.
    let context = template::TemplateContext {
        name: "name".to_owned(),
        namespace: "namespace".to_owned(),
        target: "target".to_owned(),
        service: "service".to_owned(),
        ingress: "ingress".to_owned(),
        route: "route".to_owned(),
        interval: "1m".to_owned(),
        variables: asked_variables(&spec.query),
    };
    if let Err(error) = template::render(&spec.query, &context) {
        found.error("spec.query", error.message);
        if let Some(remark) = found.found.last_mut() {
            remark.place = Some((error.line, error.column));
        }
    }
    found.found
}

/// The names that follow `variables.` in a template.
fn asked_variables(text: &str) -> BTreeMap<String, String> {
    text.split("variables.")
        .skip(1)
        .map(|rest| {
            let name = rest
                .chars()
                .take_while(|c| c.is_alphanumeric() || *c == '_')
                .collect();
            (name, "value".to_owned())
        })
        .collect()
}

/// What is wrong with an alert provider.
#[must_use]
pub fn of_provider(provider: &AlertProvider) -> Vec<Remark> {
    let mut spec = Remarks::of("spec");
    spec.problems(validate_alert_provider(&provider.spec));
    let mut text = Remarks::of("template");
    for (field, template) in [
        ("spec.template", &provider.spec.template),
        ("spec.link", &provider.spec.link),
    ] {
        if let Some(template) = template {
            alert_template(template, field, &mut text);
        }
    }
    spec.found.extend(text.found);
    spec.found
}

fn alert_template(text: &str, field: &str, found: &mut Remarks) {
    if let Err(error) = alert::check(text) {
        found.error(field, error.message);
        if let Some(remark) = found.found.last_mut() {
            remark.place = Some((error.line, error.column));
        }
    }
}
