//! `serin migrate check`: what becomes of each canary when Serin takes over from Flagger, from the live cluster or from files, before anything
//! is done. The same validation and the same routers answer here that refuse or accept a canary later.

use crate::analysis::{interval_problem, provider_problems};
use crate::api::validation::{ProblemSeverity, ValidationOptions, validate};
use crate::api::{
    AlertSeverity, Canary, CanaryMetric, MetricProvider, MetricProviderType, MetricTemplate, Phase,
};
use crate::controller::permissions;
use crate::object::{Kind, kinds};
use crate::routing;
use anyhow::{Context, bail};
use clap::{Args, Subcommand, ValueEnum};
use kube::api::{ApiResource, DynamicObject, ListParams};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{Read, Write as _};
use std::path::PathBuf;

/// Arguments of `serin migrate`.
#[derive(Debug, Args)]
pub struct MigrateArguments {
    #[command(subcommand)]
    command: MigrateCommand,
}

#[derive(Debug, Subcommand)]
enum MigrateCommand {
    /// Say for each Canary what will change. Changes nothing.
    Check(CheckArguments),
}

#[derive(Debug, Args)]
#[allow(clippy::doc_markdown, reason = "help texts are read as plain text")]
struct CheckArguments {
    /// Files with Canaries and MetricTemplates, such as from kubectl get canaries,metrictemplates -A -o yaml; - for standard input.
    /// Default: the live cluster.
    files: Vec<PathBuf>,
    /// Path to a kubeconfig, for the live cluster.
    #[arg(long, value_name = "FILE", default_value = "")]
    kubeconfig: String,
    /// The controller's -mesh-provider, for canaries that name none. Flagger's default.
    #[arg(long, value_name = "NAME", default_value = "istio")]
    mesh_provider: String,
    /// The controller's -no-cross-namespace-refs.
    #[arg(long)]
    no_cross_namespace_refs: bool,
    /// Format of the output.
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    Text,
    Json,
}

/// What Serin does with a canary in the phase in which Flagger left it.
const PHASES: &[(Phase, &str)] = &[
    (Phase::Unset, "is initialised"),
    (
        Phase::Initializing,
        "what is missing is made; the target serves until the primary does",
    ),
    (Phase::Initialized, "rests; no pod restarts"),
    (Phase::Succeeded, "rests; no pod restarts"),
    (
        Phase::Failed,
        "rests; the failed revision is not tried again",
    ),
    (Phase::Waiting, "waits at the same gate"),
    (
        Phase::Progressing,
        "goes on from the split that is on the route",
    ),
    (
        Phase::WaitingPromotion,
        "waits at the same gate with the same split",
    ),
    (
        Phase::Promoting,
        "waits for the primary that is being rolled, then leads the traffic back",
    ),
    (Phase::Finalising, "the target drains and is scaled down"),
    (Phase::Terminated, "goes"),
    (
        Phase::Terminating,
        "what was changed is given back, then the object goes",
    ),
];

/// Behaviour that differs from Flagger's: for which canaries, and how.
type Difference = (fn(&Canary) -> bool, &'static str);
const DIFFERENCES: &[Difference] = &[
    (
        |canary| canary.spec.analysis.interval().as_secs() < 10,
        "analysis.interval is below 10 s: Flagger takes 10 s for it, Serin takes it as it is",
    ),
    (
        |canary| {
            let silent = |severity: Option<AlertSeverity>| {
                severity.unwrap_or_default() == AlertSeverity::Unspecified
            };
            canary
                .spec
                .analysis
                .alerts
                .iter()
                .any(|alert| silent(alert.severity))
        },
        "analysis.alerts: an entry without severity gets all alerts, as is documented; from Flagger it gets none",
    ),
    (
        |canary| {
            let spec = &canary.spec;
            spec.analysis.mirror.unwrap_or_default()
                && !spec.provider_or("").is_empty()
                && routing::router_of(canary, "")
                    .is_some_and(|router| router.capabilities().mirror == routing::Mirror::NONE)
        },
        "analysis.mirror: the router can't mirror; the mirrored step is left out, where Flagger would loop",
    ),
];

/// What is known of one canary.
#[derive(Debug, PartialEq)]
struct Account {
    name: String,
    /// Why it will be left alone; empty where it is taken over.
    refused: Vec<String>,
    /// What becomes of it at once.
    at_first: String,
    /// What is different afterwards.
    differs: Vec<String>,
}

struct Setting {
    mesh_provider: String,
    no_cross_namespace_refs: bool,
}

/// The accounts, and the routers that the canaries are for.
fn check(objects: &[Value], setting: &Setting) -> (Vec<Account>, BTreeSet<String>) {
    let templates: Vec<MetricTemplate> = of_kind(objects, &kinds::METRIC_TEMPLATE)
        .filter_map(|object| MetricTemplate::decode(object).ok())
        .collect();
    let mut routers = BTreeSet::new();
    let mut accounts: Vec<Account> = of_kind(objects, &kinds::CANARY)
        .map(|object| match Canary::decode(object) {
            Ok(canary) => {
                let provider = canary.spec.provider_or(&setting.mesh_provider);
                routers.insert(provider.split(':').next().unwrap_or_default().to_owned());
                account(&canary, &templates, setting)
            }
            Err(error) => Account {
                name: format!(
                    "{}/{}",
                    object["metadata"]["namespace"]
                        .as_str()
                        .unwrap_or("default"),
                    object["metadata"]["name"].as_str().unwrap_or_default()
                ),
                refused: vec![error.to_string()],
                at_first: String::new(),
                differs: Vec::new(),
            },
        })
        .collect();
    accounts.sort_by(|a, b| a.name.cmp(&b.name));
    (accounts, routers)
}

fn of_kind<'a>(objects: &'a [Value], kind: &'a Kind) -> impl Iterator<Item = &'a Value> {
    objects.iter().filter(|object| {
        let text = |field: &str| object[field].as_str().unwrap_or_default().to_owned();
        kind.matches(&text("apiVersion"), &text("kind"))
    })
}

/// What a metric's backend makes different.
fn of_backend(metric: &CanaryMetric, provider: &MetricProvider) -> Vec<String> {
    let kind = provider.provider_type;
    let lacks = provider_problems(provider)
        .into_iter()
        .filter(|problem| problem.severity == ProblemSeverity::Error)
        .chain(interval_problem(metric, kind, "spec.analysis.metrics[]"))
        .map(|problem| format!("metric {}, its template: {problem}", metric.name));
    let has_address = provider
        .address
        .as_deref()
        .is_some_and(|address| !address.is_empty());
    let own = match kind {
        MetricProviderType::ExternalMetrics if has_address => Some(
            "its address does not see the controller's token any more; put one of its own into secretRef".to_owned(),
        ),
        kind if permissions::of_metrics_provider(kind.as_str()).is_some() => Some(format!(
            "its backend needs rights that the chart does not grant by default: --set 'rbac.metricsProviders={{{kind}}}'"
        )),
        _ => None,
    };
    lacks
        .chain(own.map(|text| format!("metric {}: {text}", metric.name)))
        .collect()
}

fn account(canary: &Canary, templates: &[MetricTemplate], setting: &Setting) -> Account {
    let mut refused = Vec::new();
    let mut differs = Vec::new();
    let options = ValidationOptions {
        no_cross_namespace_refs: setting.no_cross_namespace_refs,
        default_provider: setting.mesh_provider.clone(),
    };
    for problem in validate(canary, &options) {
        match problem.severity {
            ProblemSeverity::Error => refused.push(problem.to_string()),
            ProblemSeverity::Warning => differs.push(problem.to_string()),
        }
    }
    let provider = canary.spec.provider_or(&setting.mesh_provider);
    match routing::router_of(canary, provider) {
        None => refused.push(format!("spec.provider: {provider} has no router here yet")),
        Some(router) => {
            for refusal in router.refusals(canary) {
                let text = format!("{}: {}", refusal.field, refusal.message);
                match refusal.severity {
                    routing::Severity::Error => refused.push(text),
                    routing::Severity::Warning => differs.push(text),
                }
            }
        }
    }
    for metric in &canary.spec.analysis.metrics {
        let Some(reference) = &metric.template_ref else {
            continue;
        };
        let namespace = reference
            .namespace
            .as_deref()
            .filter(|namespace| !namespace.is_empty())
            .unwrap_or(&canary.metadata.namespace);
        let template = templates.iter().find(|template| {
            template.metadata.name == reference.name && template.metadata.namespace == namespace
        });
        if let Some(template) = template {
            differs.extend(of_backend(metric, &template.spec.provider));
        }
    }
    differs.extend(
        DIFFERENCES
            .iter()
            .filter(|(applies, _)| applies(canary))
            .map(|(_, text)| (*text).to_owned()),
    );
    let status = canary.status.as_ref();
    let phase = status.map(|status| status.phase).unwrap_or_default();
    let at_first = if canary.spec.suspended() {
        "is suspended and left alone".to_owned()
    } else {
        let fate = PHASES.iter().find(|(known, _)| *known == phase);
        let fate = fate.map_or("is looked at anew", |(_, fate)| fate);
        match phase {
            Phase::Unset => fate.to_owned(),
            // A failed promotion: Flagger leaves all traffic on the canary.
            Phase::Failed if status.is_some_and(|status| status.canary_weight >= 100) => {
                "Failed with all traffic on the canary: holds there; a fixed revision can follow"
                    .to_owned()
            }
            phase => format!("{phase}: {fate}"),
        }
    };
    Account {
        name: format!("{}/{}", canary.metadata.namespace, canary.metadata.name),
        refused,
        at_first,
        differs,
    }
}

fn text(accounts: &[Account], routers: &BTreeSet<String>) -> String {
    let mut out = String::new();
    // Writing to a string can't fail.
    for account in accounts {
        if account.refused.is_empty() {
            let _ = writeln!(out, "{}: taken over\n  {}", account.name, account.at_first);
        } else {
            let _ = writeln!(out, "{}: LEFT ALONE, nothing is touched", account.name);
        }
        for why in &account.refused {
            let _ = writeln!(out, "  ! {why}");
        }
        for difference in &account.differs {
            let _ = writeln!(out, "  ~ {difference}");
        }
    }
    let left = accounts
        .iter()
        .filter(|account| !account.refused.is_empty())
        .count();
    let _ = writeln!(
        out,
        "{} canaries: {} taken over, {left} left alone",
        accounts.len(),
        accounts.len() - left
    );
    let known: Vec<&str> = routers
        .iter()
        .map(String::as_str)
        .filter(|name| permissions::of_provider(name).is_some())
        .collect();
    if !known.is_empty() {
        let _ = writeln!(
            out,
            "The chart's rights: --set 'rbac.providers={{{}}}'",
            known.join(",")
        );
    }
    out
}

fn as_json(accounts: &[Account], routers: &BTreeSet<String>) -> String {
    let canaries: Vec<Value> = accounts
        .iter()
        .map(|account| {
            json!({
                "name": account.name, "takenOver": account.refused.is_empty(), "refused": account.refused,
                "atFirst": account.at_first, "differs": account.differs,
            })
        })
        .collect();
    format!(
        "{:#}\n",
        json!({"canaries": canaries, "providers": routers})
    )
}

/// The objects of YAML documents; those of lists each by itself.
fn objects_of(yaml: &str) -> anyhow::Result<Vec<Value>> {
    let options = serde_saphyr::options! { budget: None };
    let documents: Vec<Value> = serde_saphyr::from_multiple_with_options(yaml, options)?;
    Ok(documents
        .into_iter()
        .flat_map(|mut document| match document["items"].take() {
            Value::Array(items) => items,
            _ => vec![document],
        })
        .collect())
}

async fn objects_of_cluster(kubeconfig: &str) -> anyhow::Result<Vec<Value>> {
    let credentials = super::credentials::Credentials {
        kubeconfig: kubeconfig.to_owned(),
        ..Default::default()
    };
    let config = credentials.load().await?;
    let client = kube::Client::try_from(config).context("no client for the API server")?;
    let mut objects = Vec::new();
    for kind in [&kinds::CANARY, &kinds::METRIC_TEMPLATE] {
        let resource = ApiResource {
            group: kind.group.to_string(),
            version: kind.version.to_string(),
            api_version: kind.api_version(),
            kind: kind.kind.to_string(),
            plural: kind.plural.to_string(),
        };
        let api = kube::Api::<DynamicObject>::all_with(client.clone(), &resource);
        let list = api
            .list(&ListParams::default())
            .await
            .with_context(|| format!("{} can't be listed", kind.plural))?;
        for object in list {
            let mut value = serde_json::to_value(object)?;
            // Items of lists come without these two.
            value["apiVersion"] = json!(kind.api_version());
            value["kind"] = json!(kind.kind);
            objects.push(value);
        }
    }
    Ok(objects)
}

/// Says what will change; fails when a canary will be left alone.
pub fn run(arguments: &MigrateArguments) -> anyhow::Result<()> {
    let MigrateCommand::Check(arguments) = &arguments.command;
    let objects = if arguments.files.is_empty() {
        // An error means that one was installed before.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(objects_of_cluster(&arguments.kubeconfig))?
    } else {
        let mut objects = Vec::new();
        for file in &arguments.files {
            let mut yaml = String::new();
            if file.as_os_str() == "-" {
                std::io::stdin().read_to_string(&mut yaml)?;
            } else {
                yaml = std::fs::read_to_string(file)
                    .with_context(|| format!("{} can't be read", file.display()))?;
            }
            objects.extend(
                objects_of(&yaml).with_context(|| format!("{} is not YAML", file.display()))?,
            );
        }
        objects
    };
    let setting = Setting {
        mesh_provider: arguments.mesh_provider.clone(),
        no_cross_namespace_refs: arguments.no_cross_namespace_refs,
    };
    let (accounts, routers) = check(&objects, &setting);
    let told = match arguments.output {
        Output::Text => text(&accounts, &routers),
        Output::Json => as_json(&accounts, &routers),
    };
    match std::io::stdout().write_all(told.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => return Err(error.into()),
        _ => {}
    }
    let left = accounts
        .iter()
        .filter(|account| !account.refused.is_empty())
        .count();
    if left > 0 {
        bail!("{left} of {} canaries will be left alone", accounts.len());
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const LIST: &str = r"
apiVersion: v1
kind: List
items:
- apiVersion: flagger.app/v1beta1
  kind: Canary
  metadata: {name: web, namespace: shop}
  spec: &spec
    provider: gatewayapi:v1
    targetRef: {apiVersion: apps/v1, kind: Deployment, name: web}
    service: {port: 80, hosts: [a.example.com], gatewayRefs: [{name: public}]}
    analysis:
      interval: 5s
      threshold: 2
      maxWeight: 50
      stepWeight: 10
      metrics: [{name: errors, templateRef: {name: errors}, thresholdRange: {max: 1}}]
  status: {phase: Progressing, canaryWeight: 30, failedChecks: 0, iterations: 0}
- apiVersion: flagger.app/v1beta1
  kind: Canary
  metadata: {name: mesh, namespace: shop}
  spec:
    targetRef: {apiVersion: apps/v1, kind: Deployment, name: mesh}
    service: {port: 80}
    analysis: {interval: 1m, threshold: 2, maxWeight: 50, stepWeight: 10}
- apiVersion: flagger.app/v1beta1
  kind: Canary
  metadata: {name: odd, namespace: shop}
  spec:
    targetRef: {apiVersion: apps/v1, kind: Deployment, name: odd}
    service: {port: 80}
    analysis: {interval: 1m, threshold: 2, stepWeight: 2.5}
- apiVersion: flagger.app/v1beta1
  kind: MetricTemplate
  metadata: {name: errors, namespace: shop}
  spec: {provider: {type: splunk, address: 'https://example.com'}, query: x}
";

    fn accounts() -> (Vec<Account>, BTreeSet<String>) {
        let setting = Setting {
            mesh_provider: "istio".to_owned(),
            no_cross_namespace_refs: false,
        };
        check(&objects_of(LIST).unwrap(), &setting)
    }

    #[test]
    fn each_canary_has_an_account() {
        let (accounts, routers) = accounts();
        let names: Vec<&str> = accounts.iter().map(|one| one.name.as_str()).collect();
        assert_eq!(names, ["shop/mesh", "shop/odd", "shop/web"]);
        assert_eq!(
            routers.into_iter().collect::<Vec<_>>(),
            ["gatewayapi", "istio"]
        );
    }

    #[test]
    fn what_can_be_carried_out_is_taken_over_where_it_stands() {
        let (accounts, _) = accounts();
        let web = &accounts[2];
        assert_eq!(web.refused, Vec::<String>::new());
        assert!(web.at_first.starts_with("Progressing: goes on"), "{web:?}");
        assert!(
            web.differs.iter().any(|text| text.contains("below 10 s")),
            "{web:?}"
        );
    }

    #[test]
    fn what_cant_is_left_alone_and_says_why() {
        let (accounts, routers) = accounts();
        // A canary that can't be read, and one whose router may not be there.
        assert!(
            accounts[1].refused[0].contains("stepWeight"),
            "{:?}",
            accounts[1]
        );
        assert_eq!(
            accounts[0].refused.is_empty(),
            routing::router("istio").is_some(),
            "{:?}",
            accounts[0]
        );
        let told = text(&accounts, &routers);
        assert!(told.contains("shop/odd: LEFT ALONE"), "{told}");
        assert!(told.contains("3 canaries: "), "{told}");
        assert!(told.contains("rbac.providers={gatewayapi"), "{told}");
    }

    #[test]
    fn a_backend_that_needs_more_than_in_flagger_says_what() {
        let metric = CanaryMetric {
            name: "errors".to_owned(),
            ..CanaryMetric::default()
        };
        let told = |kind, address: Option<&str>| {
            let provider = MetricProvider {
                provider_type: kind,
                address: address.map(str::to_owned),
                ..MetricProvider::default()
            };
            of_backend(&metric, &provider).join("; ")
        };
        assert_eq!(told(MetricProviderType::Prometheus, None), "");
        assert_eq!(
            told(
                MetricProviderType::Splunk,
                Some("https://api.us1.signalfx.com")
            ),
            "metric errors, its template: spec.provider.secretRef: is required for splunk; name a Secret in the template's namespace with sf_token_key; metric errors, its template: spec.analysis.metrics[].interval: is required for metrics from splunk: it says how far back to look; expected for example 1m"
        );
        assert_eq!(
            told(MetricProviderType::Keptn, None),
            "metric errors: its backend needs rights that the chart does not grant by default: --set 'rbac.metricsProviders={keptn}'"
        );
        assert_eq!(
            told(
                MetricProviderType::ExternalMetrics,
                Some("https://adapter.test")
            ),
            "metric errors: its address does not see the controller's token any more; put one of its own into secretRef"
        );
    }

    #[test]
    fn every_phase_has_a_fate() {
        for phase in Phase::ALL {
            assert!(PHASES.iter().any(|(known, _)| known == phase), "{phase:?}");
        }
    }
}
