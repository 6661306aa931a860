//! What an alert says: its text, from a template where there is one, and the fields beside it, Flagger's first.

use super::template::{self, TemplateContext, TemplateError};
use crate::api::{AlertRecord, AlertSeverity, Canary, Strategy};
use jiff::Timestamp;
use std::collections::BTreeMap;

/// Longest text of a message in characters; the chat services cut or refuse longer ones.
const LONGEST_TEXT: usize = 3000;
/// Reasons that Flagger tells the canary's settings with.
const WITH_SETTINGS: [&str; 2] = ["Initialized", "NewRevision"];

/// The text of a message: the template's, or the alert's own where there is none. What a template says itself is the receiver's markup;
/// what it shows of the alert may come from outside, and is written by `words`.
pub fn text(
    template: Option<&str>,
    canary: &Canary,
    alert: &AlertRecord,
    cluster: &str,
    words: fn(&str) -> String,
) -> Result<String, TemplateError> {
    let shown = AlertRecord {
        message: words(&alert.message),
        cause: words(&alert.cause),
        checks: alert.checks.iter().map(|check| words(check)).collect(),
        ..alert.clone()
    };
    let text = match template.filter(|template| !template.is_empty()) {
        None => shown.message,
        Some(template) => render(template, canary, &shown, cluster)?,
    };
    Ok(text.chars().take(LONGEST_TEXT).collect())
}

/// The address that a message links to.
pub fn link(
    template: Option<&str>,
    canary: &Canary,
    alert: &AlertRecord,
    cluster: &str,
) -> Result<Option<String>, TemplateError> {
    let Some(template) = template.filter(|template| !template.is_empty()) else {
        return Ok(None);
    };
    let link = render(template, canary, alert, cluster)?.trim().to_owned();
    Ok((!link.is_empty()).then_some(link))
}

/// Whether a template of an alert can be read and asks for nothing that is not there.
pub fn check(template: &str) -> Result<(), TemplateError> {
    let alert = AlertRecord {
        key: "key".to_owned(),
        at: Some(Timestamp::UNIX_EPOCH),
        severity: AlertSeverity::Error,
        reason: "Reason".to_owned(),
        message: "message".to_owned(),
        phase: "Failed".to_owned(),
        cause: "cause".to_owned(),
        checks: vec!["check".to_owned()],
        run: 1,
        revision: "revision".to_owned(),
        ..AlertRecord::default()
    };
    render(template, &Canary::default(), &alert, "cluster").map(drop)
}

fn render(
    template: &str,
    canary: &Canary,
    alert: &AlertRecord,
    cluster: &str,
) -> Result<String, TemplateError> {
    let target = canary.target_name();
    let named = |name: Option<&str>| name.unwrap_or(target).to_owned();
    let spec = &canary.spec;
    let context = TemplateContext {
        name: canary.metadata.name.clone(),
        namespace: canary.metadata.namespace.clone(),
        target: target.to_owned(),
        service: canary.apex_name().to_owned(),
        ingress: named(spec.ingress_ref.as_ref().map(|one| one.name.as_str())),
        route: named(spec.route_ref.as_ref().map(|one| one.name.as_str())),
        interval: String::new(),
        variables: BTreeMap::new(),
    };
    template::render_facts(template, &context, &facts(canary, alert, cluster))
}

/// What a template can ask for as `{{ .key }}`.
fn facts(canary: &Canary, alert: &AlertRecord, cluster: &str) -> BTreeMap<String, String> {
    [
        ("key", alert.key.clone()),
        ("cluster", cluster.to_owned()),
        ("severity", alert.severity.as_str().to_owned()),
        ("reason", alert.reason.clone()),
        ("message", alert.message.clone()),
        ("cause", alert.cause.clone()),
        ("checks", alert.checks.join("; ")),
        ("phase", alert.phase.clone()),
        ("run", alert.run.to_string()),
        ("revision", alert.revision.clone()),
        ("kind", canary.spec.target_ref.kind.clone()),
        (
            "time",
            alert
                .at
                .unwrap_or_default()
                .strftime("%Y-%m-%dT%H:%M:%SZ")
                .to_string(),
        ),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value))
    .collect()
}

/// The fields of a message, name and value: the cluster, the canary's settings where Flagger tells them, why, and what was measured.
#[must_use]
pub fn fields(canary: &Canary, alert: &AlertRecord, cluster: &str) -> Vec<(String, String)> {
    let mut fields = Vec::new();
    let mut add = |name: &str, value: String| {
        if !value.is_empty() {
            fields.push((name.to_owned(), value));
        }
    };
    add("Cluster", cluster.to_owned());
    if WITH_SETTINGS.contains(&alert.reason.as_str()) {
        let spec = &canary.spec;
        let target = &spec.target_ref;
        add(
            "Target",
            format!(
                "{}/{}.{}",
                target.kind, target.name, canary.metadata.namespace
            ),
        );
        add(
            "Failed checks threshold",
            spec.analysis.threshold().to_string(),
        );
        add(
            "Progress deadline",
            format!("{}s", spec.progress_deadline().as_secs()),
        );
        add("Traffic routing", routing(canary));
    }
    add("Cause", alert.cause.clone());
    add("Checks", alert.checks.join("\n"));
    fields
}

fn routing(canary: &Canary) -> String {
    let analysis = &canary.spec.analysis;
    let most = analysis.max_weight.unwrap_or(0);
    match canary.spec.strategy() {
        Strategy::AbTesting => "A/B Testing".to_owned(),
        Strategy::BlueGreen => "Blue/Green".to_owned(),
        Strategy::Canary if analysis.step_weights.is_empty() => format!(
            "Weight step: {} max: {most}",
            analysis.step_weight.unwrap_or(0)
        ),
        Strategy::Canary => {
            let steps: Vec<String> = analysis.step_weights.iter().map(i64::to_string).collect();
            format!("Weight steps: {} max: {most}", steps.join(","))
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    fn canary(analysis: &serde_json::Value) -> Canary {
        let mut all = json!({"interval": "1m", "threshold": 5});
        for (key, value) in analysis.as_object().unwrap() {
            all[key] = value.clone();
        }
        Canary::decode(&json!({
            "apiVersion": "flagger.app/v1beta1", "kind": "Canary",
            "metadata": {"name": "podinfo", "namespace": "test"},
            "spec": {
                "targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "podinfo"},
                "service": {"port": 80},
                "analysis": all,
            },
        }))
        .unwrap()
    }

    fn alert(reason: &str) -> AlertRecord {
        AlertRecord {
            reason: reason.to_owned(),
            message: "Failed checks threshold reached 2".to_owned(),
            severity: AlertSeverity::Error,
            run: 3,
            ..AlertRecord::default()
        }
    }

    #[test]
    fn without_a_template_the_text_is_the_message() {
        let canary = canary(&json!({"stepWeight": 10}));
        for template in [None, Some("")] {
            let text = text(
                template,
                &canary,
                &alert("ThresholdReached"),
                "",
                str::to_owned,
            )
            .unwrap();
            assert_eq!(text, "Failed checks threshold reached 2");
        }
    }

    #[test]
    fn a_template_has_the_facts_as_its_dot_and_the_names_as_functions() {
        let canary = canary(&json!({"stepWeight": 10}));
        let template = r#"{{ if eq .severity "error" }}@here {{ end }}{{ name }}.{{ namespace }} run {{ .run }} on {{ .cluster }}: {{ .message }}"#;
        assert_eq!(
            text(
                Some(template),
                &canary,
                &alert("ThresholdReached"),
                "europe",
                str::to_owned,
            )
            .unwrap(),
            "@here podinfo.test run 3 on europe: Failed checks threshold reached 2"
        );
    }

    #[test]
    fn markup_is_what_the_template_says_and_nothing_of_what_it_shows() {
        let canary = canary(&json!({"stepWeight": 10}));
        let alert = AlertRecord {
            message: "<m>".to_owned(),
            cause: "<c>".to_owned(),
            checks: vec!["<1>".to_owned(), "<2>".to_owned()],
            ..alert("ThresholdReached")
        };
        let words = |text: &str| text.replace('<', "[");
        let template = "<!here> {{ .message }} {{ .cause }} {{ .checks }}";
        for (template, expected) in [(Some(template), "<!here> [m> [c> [1>; [2>"), (None, "[m>")] {
            assert_eq!(
                text(template, &canary, &alert, "", words).unwrap(),
                expected
            );
        }
    }

    #[test]
    fn a_template_that_asks_for_what_is_not_there_is_found_before_an_alert_needs_it() {
        assert!(check("{{ .message }}: {{ .cause }}").is_ok());
        let error = check("{{ .mesage }}").unwrap_err().to_string();
        assert!(
            error.contains("there is no .mesage here; there are .cause, .checks"),
            "{error}"
        );
        assert!(check("{{ .message").is_err());
    }

    #[test]
    fn fields_are_flaggers() {
        let with = |analysis: serde_json::Value, reason: &str, cluster: &str| {
            let fields = fields(&canary(&analysis), &alert(reason), cluster);
            fields
                .iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect::<Vec<_>>()
                .join(" | ")
        };
        assert_eq!(
            with(
                json!({"stepWeight": 10, "maxWeight": 50}),
                "NewRevision",
                "europe"
            ),
            "Cluster=europe | Target=Deployment/podinfo.test | Failed checks threshold=5 | Progress deadline=600s | Traffic routing=Weight step: 10 max: 50"
        );
        assert!(
            with(json!({"stepWeights": [1, 2, 10]}), "Initialized", "")
                .ends_with("Traffic routing=Weight steps: 1,2,10 max: 0")
        );
        assert!(with(json!({"iterations": 3}), "Initialized", "").ends_with("=Blue/Green"));
        assert!(
            with(
                json!({"iterations": 3, "match": [{"headers": {"x": {"exact": "y"}}}]}),
                "Initialized",
                ""
            )
            .ends_with("=A/B Testing")
        );
        assert_eq!(with(json!({"stepWeight": 10}), "ThresholdReached", ""), "");
    }

    #[test]
    fn why_and_what_was_measured_come_after_flaggers_fields() {
        let alert = AlertRecord {
            cause: "2 failed checks".to_owned(),
            checks: vec!["latency 712 (≤ 500ms): Failed".to_owned()],
            ..alert("ThresholdReached")
        };
        let fields = fields(&canary(&json!({"stepWeight": 10})), &alert, "europe");
        let names: Vec<&str> = fields.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["Cluster", "Cause", "Checks"]);
    }
}
