//! Serin as its users get it: installed by Helm, run by the kubelet as pods under Pod Security's restricted profile, with the rights of
//! the chart and no others. What it asked of the API server is held against these rights in both directions.
use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kube::ResourceExt;
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams};
use serde_json::{Value, json};

use super::rollouts::judged_by_pods;
use super::shop::{PATIENCE, Plan, Shop, flawless, only_failed};
use crate::bed::Bed;
use crate::bed::audit::{Audit, Request};
use crate::bed::parts::{PROMETHEUS, Part};
use crate::tools::project_root;

/// Where Serin is installed.
pub const HOME: &str = "serin-system";
/// Who it is to the API server.
const USER: &str = "system:serviceaccount:serin-system:serin";
/// The namespace of the canaries, which is the scenario's name.
const PLACE: &str = "installed";
/// One more that is watched, where only some are, and one that is not.
const OTHER: &str = "installed-too";
const FOREIGN: &str = "installed-not";

/// A right: group, resource with its subresource, verb.
type Right = (String, String, String);

/// Rights that one bed does not see used, and why they are there. A `*` stands for all.
const UNSEEN: &[(&str, &str, &str, &str)] = &[
    (
        "*",
        "*",
        "get",
        "a read past the watch: after a conflict, or of what the first list did not have yet",
    ),
    (
        "flagger.app",
        "canaries/finalizers",
        "update",
        "asked for only by the admission plugin OwnerReferencesPermissionEnforcement",
    ),
    ("keda.sh", "scaledobjects", "*", "no KEDA on this bed"),
    (
        "gateway.networking.k8s.io",
        "grpcroutes",
        "*",
        "written only for a canary with routeKind: GRPCRoute",
    ),
];

/// What must be there before the canary: a template that it names, and the autoscaler of its target.
const BESIDE: &str = r"
apiVersion: flagger.app/v1beta1
kind: AlertProvider
metadata: {name: chat}
spec: {type: slack, address: 'http://127.0.0.1:9/nobody'}
---
apiVersion: flagger.app/v1beta1
kind: MetricTemplate
metadata: {name: constant}
spec:
  provider: {type: prometheus, address: 'http://127.0.0.1:9090'}
  query: vector(1)
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: app}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: app}
  minReplicas: 2
  maxReplicas: 3
  metrics: [{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 80}}}]
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {colour: blue}
---
apiVersion: v1
kind: Secret
metadata: {name: credentials}
stringData: {token: one}
";

const DAEMONS: &str = "
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: agent}
spec:
  selector: {matchLabels: {app: agent}}
  template:
    metadata: {labels: {app: agent}}
    spec:
      containers:
        - name: app
          image: serin-demo-app:1.0.0
          ports: [{name: http, containerPort: 8080}]
          readinessProbe: {httpGet: {path: /readyz, port: http}, periodSeconds: 1}
---
apiVersion: flagger.app/v1beta1
kind: Canary
metadata: {name: agent}
spec:
  targetRef: {apiVersion: apps/v1, kind: DaemonSet, name: agent}
  service: {port: 80, targetPort: 8080, gatewayRefs: [{name: traefik, namespace: gateway}], hosts: [agent.installed.bed]}
  analysis: {interval: 3s, threshold: 2, stepWeight: 50, maxWeight: 50}
";

/// Takes away the definitions that the bed brings along for all other scenarios, for the chart to bring them.
async fn remove_definitions(bed: &Bed) -> Result<()> {
    let definitions = bed
        .api_of("apiextensions.k8s.io/v1", "CustomResourceDefinition", "")
        .await?;
    for name in ["canaries", "metrictemplates", "alertproviders"] {
        let name = format!("{name}.flagger.app");
        definitions.delete(&name, &DeleteParams::default()).await?;
        bed.wait(&format!("{name} to be gone"), PATIENCE, async || {
            Ok(definitions.get_opt(&name).await?.is_none().then_some(()))
        })
        .await?;
    }
    Ok(())
}

/// Installs the chart with defaults for the Gateway API and what the scenario adds. Returns what Helm told.
pub async fn install(bed: &Bed, more: &[&str]) -> Result<String> {
    bed.apply(&format!(
        "{{apiVersion: v1, kind: Namespace, metadata: {{name: {HOME}, labels: {{pod-security.kubernetes.io/enforce: restricted}}}}}}"
    ))
    .await?;
    let chart = project_root()?.join("charts/serin");
    let chart = chart.to_str().context("the path is not UTF-8")?;
    let metrics = format!("metricsServer={PROMETHEUS}");
    let arguments = [
        "install",
        "serin",
        chart,
        "--namespace",
        HOME,
        "--wait",
        "--timeout",
        "90s",
        // What is true of this cluster: its gateway, its Prometheus, and that all pods share one network.
        "--set",
        "meshProvider=gatewayapi:v1",
        "--set",
        &metrics,
        "--set",
        "bindAddress=$(POD_IP)",
        "--set",
        "leaderElection.enabled=true,leaderElection.replicaCount=2",
    ];
    let told = bed
        .helm(arguments.into_iter().chain(more.iter().copied()))
        .await?;
    ensure!(!told.contains("WARNING"), "{told}");
    bed.namespace(HOME)
        .await?
        .wait_ready("serin", PATIENCE)
        .await?;
    Ok(told)
}

/// Everything that a canary can make Serin do, told in one go, with visitors. `install` begins when the canary's namespace is there.
async fn releases(bed: &Bed, install: impl AsyncFnOnce() -> Result<()>) -> Result<()> {
    let plan = Plan {
        analysis: json!({
            "threshold": 2, "stepWeight": 50, "maxWeight": 50,
            "alerts": [{"name": "bad", "severity": "error", "providerRef": {"name": "chat"}}],
            "metrics": [
                {"name": "request-success-rate", "interval": "5s", "thresholdRange": {"min": 99}},
                {"name": "constant", "interval": "5s", "templateRef": {"name": "constant"}, "thresholdRange": {"max": 2}},
            ],
        }),
        spec: json!({
            "revertOnDeletion": true,
            "revisionHistoryLimit": 1,
            "autoscalerRef": {"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "name": "app"},
        }),
        ..Plan::default()
    };
    let beside = async {
        bed.wait("the namespace to be there", PATIENCE, async || {
            bed.apply_in(PLACE, BESIDE).await.map(Some)
        })
        .await?;
        install().await
    };
    let (shop, ()) = futures::try_join!(Shop::open(bed, PLACE, plan), beside)?;
    ensure!(
        shop.namespace.name() == PLACE,
        "this scenario is alone on its bed"
    );
    let opened = shop.load()?.mark();
    shop.release("1.1.0").await?;
    shop.wait_phase("Succeeded").await?;

    let volumes = json!([
        {"name": "settings", "configMap": {"name": "settings"}},
        {"name": "credentials", "secret": {"secretName": "credentials"}},
    ]);
    let patch = json!({"spec": {"template": {"spec": {"volumes": volumes}}}});
    shop.namespace
        .patch("apps/v1", "Deployment", "app", &patch)
        .await?;
    run_to_end(&shop).await?;
    shop.namespace
        .patch(
            "v1",
            "ConfigMap",
            "settings",
            &json!({"data": {"colour": "green"}}),
        )
        .await?;
    run_to_end(&shop).await?;
    let copy = shop
        .namespace
        .get("v1", "ConfigMap", "settings-primary")
        .await?;
    ensure!(copy.data["data"]["colour"] == "green", "{}", copy.data);
    // Copies that nobody reads any more go.
    let patch = json!({"spec": {"template": {"spec": {"volumes": null}}}});
    shop.namespace
        .patch("apps/v1", "Deployment", "app", &patch)
        .await?;
    run_to_end(&shop).await?;
    for (kind, name) in [
        ("ConfigMap", "settings-primary"),
        ("Secret", "credentials-primary"),
    ] {
        let copies = bed.api_of("v1", kind, shop.namespace.name()).await?;
        bed.wait(&format!("{kind} {name} to be gone"), PATIENCE, async || {
            Ok(copies.get_opt(name).await?.is_none().then_some(()))
        })
        .await?;
    }
    flawless(&shop.load()?.report_since(opened))?;

    shop.release_with("1.2.0", &[("ERROR_RATE", "0.5")]).await?;
    shop.wait_phase("Failed").await?;

    shop.namespace.apply(DAEMONS).await?;
    shop.namespace
        .wait_phase("agent", "Initialized", PATIENCE)
        .await?;

    let canaries = bed
        .api_of("flagger.app/v1beta1", "Canary", shop.namespace.name())
        .await?;
    canaries.delete("app", &DeleteParams::default()).await?;
    bed.wait(
        "the canary to be given back and gone",
        PATIENCE,
        async || Ok(canaries.get_opt("app").await?.is_none().then_some(())),
    )
    .await?;
    only_failed(&shop.close().await?, "1.2.0")
}

/// Waits until a run that is about to begin has ended well.
async fn run_to_end(shop: &Shop<'_>) -> Result<()> {
    shop.wait_phase("Progressing").await?;
    shop.wait_phase("Succeeded").await.map(drop)
}

/// The rights in the roles that Helm installed.
async fn granted(bed: &Bed) -> Result<BTreeSet<Right>> {
    let manifest = bed
        .helm(["get", "manifest", "serin", "--namespace", HOME])
        .await?;
    let options = serde_saphyr::options! { budget: None };
    let documents: Vec<Value> = serde_saphyr::from_multiple_with_options(&manifest, options)?;
    let texts = |value: &Value| -> Vec<String> {
        let list = value.as_array().into_iter().flatten();
        list.filter_map(|text| text.as_str().map(str::to_owned))
            .collect()
    };
    let mut rights = BTreeSet::new();
    for rule in documents
        .iter()
        .filter(|document| {
            ["Role", "ClusterRole"].contains(&document["kind"].as_str().unwrap_or_default())
        })
        .flat_map(|role| role["rules"].as_array().into_iter().flatten())
    {
        for group in texts(&rule["apiGroups"]) {
            for resource in texts(&rule["resources"]) {
                for verb in texts(&rule["verbs"]) {
                    rights.insert((group.clone(), resource.clone(), verb));
                }
            }
        }
    }
    ensure!(rights.len() > 20, "the release has no roles: {rights:?}");
    Ok(rights)
}

/// What a request needed. An apply that made its object was authorised as a creation too.
fn needed(request: &Request) -> Vec<Right> {
    let right = |verb: &str| {
        (
            request.group.clone(),
            request.resource.clone(),
            verb.to_owned(),
        )
    };
    let mut rights = vec![right(&request.verb)];
    if request.verb == "patch" && request.code == 201 {
        rights.push(right("create"));
    }
    rights
}

fn is_excused((group, resource, verb): &Right) -> bool {
    let fits = |pattern: &str, text: &str| pattern == "*" || pattern == text;
    UNSEEN
        .iter()
        .any(|(g, r, v, _)| fits(g, group) && fits(r, resource) && fits(v, verb))
}

/// Holds the rights against what the audit log saw.
fn compare(granted: &BTreeSet<Right>, audit: &Audit) -> Result<()> {
    let refused: Vec<&Request> = audit
        .requests
        .iter()
        .filter(|request| request.code == 403)
        .collect();
    ensure!(refused.is_empty(), "the chart lacks a right: {refused:#?}");
    let used: BTreeSet<Right> = audit.requests.iter().flat_map(needed).collect();
    let lacking: Vec<&Right> = used.difference(granted).collect();
    ensure!(
        lacking.is_empty(),
        "these were allowed by something else than the chart's roles: {lacking:?}"
    );
    let surplus: Vec<&Right> = granted
        .difference(&used)
        .filter(|right| !is_excused(right))
        .collect();
    ensure!(
        surplus.is_empty(),
        "the chart grants what nothing used, and no reason says why: {surplus:?}"
    );
    println!(
        "        {} rights granted, {} of them used in {} requests",
        granted.len(),
        used.len(),
        audit.requests.len()
    );
    Ok(())
}

/// Every question of the dashboard and of the alerts is one that Prometheus understands.
async fn questions(bed: &Bed) -> Result<usize> {
    let files = project_root()?.join("charts/serin/files");
    let dashboard: Value = serde_json::from_slice(&std::fs::read(files.join("dashboard.json"))?)?;
    let alerts: Value =
        serde_saphyr::from_str(&std::fs::read_to_string(files.join("alerts.yaml"))?)?;
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let targets = list(&dashboard["panels"])
        .into_iter()
        .flat_map(|panel| list(&panel["targets"]));
    let mut asked = 0;
    for target in targets.chain(list(&alerts["alerts"])) {
        let question = target["expr"]
            .as_str()
            .with_context(|| format!("{target} asks nothing"))?
            .replace("$namespace", ".*")
            .replace("$__rate_interval", "1m")
            .replace("$__range", "1h");
        bed.query(&question)
            .await
            .with_context(|| format!("Prometheus does not understand {question}"))?;
        asked += 1;
    }
    bed.wait(
        "the controller's own series in Prometheus",
        Duration::from_secs(20),
        async || {
            Ok(bed
                .query("sum(flagger_info)")
                .await?
                .filter(|count| *count >= 1.0))
        },
    )
    .await?;
    Ok(asked)
}

/// Memory of the controller's processes in MiB.
fn resident() -> Vec<f64> {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .filter_map(|process| {
            let command = std::fs::read(process.path().join("cmdline")).ok()?;
            let words: Vec<&[u8]> = command.split(|byte| *byte == 0).collect();
            if words.get(1) != Some(&b"controller".as_slice()) {
                return None;
            }
            let status = std::fs::read_to_string(process.path().join("status")).ok()?;
            let line = status
                .lines()
                .find_map(|line| line.strip_prefix("VmRSS:"))?;
            Some(line.split_whitespace().next()?.parse::<f64>().ok()? / 1024.0)
        })
        .collect()
}

/// Installed by Helm, a good release and a bad one, and not one right too many or too few.
pub async fn installed(bed: &Bed) -> Result<()> {
    let mark = bed.audit_mark()?;
    remove_definitions(bed).await?;
    let told = install(bed, &[]).await?;
    ensure!(told.contains("watches the whole cluster"), "{told}");
    releases(bed, async || Ok(())).await?;
    let asked = questions(bed).await?;
    let memory: Vec<String> = resident().iter().map(|mib| format!("{mib:.1}")).collect();
    println!(
        "        {asked} questions of dashboard and alerts understood; the replicas have {} MiB",
        memory.join(" and ")
    );
    compare(&granted(bed).await?, &bed.audit_since(mark)?.of_user(USER))?;
    let told = bed
        .helm(["uninstall", "serin", "--namespace", HOME, "--wait"])
        .await?;
    ensure!(told.contains("kept due to the resource policy"), "{told}");
    let kept = bed
        .get(
            "apiextensions.k8s.io/v1",
            "CustomResourceDefinition",
            "",
            "canaries.flagger.app",
        )
        .await?;
    ensure!(
        kept.metadata.deletion_timestamp.is_none(),
        "canaries.flagger.app is being deleted"
    );
    Ok(())
}

/// The command by which the README installs the chart, word by word.
fn of_the_read_me() -> Result<Vec<String>> {
    let page = std::fs::read_to_string(project_root()?.join("README.md"))?;
    let (_, rest) = page
        .split_once("\n    helm install")
        .context("README.md installs nothing by Helm")?;
    let (command, _) = rest.split_once("\n\n").unwrap_or((rest, ""));
    let words = command.split_whitespace().filter(|word| *word != "\\");
    Ok(std::iter::once("install")
        .chain(words)
        .map(str::to_owned)
        .collect())
}

/// Installed as the README says, on a cluster with a gateway and nothing that measures.
pub async fn quick_start(bed: &Bed) -> Result<()> {
    remove_definitions(bed).await?;
    bed.stop_part(Part::Prometheus).await?;
    let chart = project_root()?.join("charts/serin");
    let chart = chart.to_str().context("the path is not UTF-8")?;
    let mut command = of_the_read_me()?;
    for word in &mut command {
        *word = word
            .replace("charts/serin", chart)
            .replace("REGISTRY/serin", "serin");
    }
    // All pods of the bed share one network.
    let here = [
        "--wait",
        "--timeout",
        "90s",
        "--set",
        "bindAddress=$(POD_IP)",
    ];
    let told = bed
        .helm(command.iter().map(String::as_str).chain(here))
        .await?;
    ensure!(!told.contains("WARNING"), "{told}");
    judged_by_pods(bed, "quick-start", json!({})).await?;
    bed.start_part(Part::Prometheus).await
}

/// The same with rights in two namespaces alone, and definitions that somebody else installed.
pub async fn in_namespaces(bed: &Bed) -> Result<()> {
    let mark = bed.audit_mark()?;
    let own = format!("namespaces={{{PLACE},{OTHER}}}");
    let more = ["--set", &own, "--set", "crds.install=false"];
    let daemons =
        |place: &str| DAEMONS.replace("agent.installed.bed", &format!("agent.{place}.bed"));
    let other = bed.namespace(OTHER).await?;
    other.apply(&daemons(OTHER)).await?;
    let foreign = bed.namespace(FOREIGN).await?;
    foreign.apply(&daemons(FOREIGN)).await?;
    releases(bed, async || {
        let told = install(bed, &more).await?;
        ensure!(
            told.contains(&format!("watches {PLACE}, {OTHER}.")),
            "{told}"
        );
        Ok(())
    })
    .await?;
    other.wait_phase("agent", "Initialized", PATIENCE).await?;
    let left_alone = foreign.canary("agent").await?;
    ensure!(
        left_alone.data["status"].is_null(),
        "a canary of a namespace that is not watched has the status {}",
        left_alone.data["status"]
    );
    let manifest = bed
        .helm(["get", "manifest", "serin", "--namespace", HOME])
        .await?;
    ensure!(
        !manifest.contains("kind: Cluster"),
        "a controller for namespaces has no rights in the cluster:\n{manifest}"
    );
    compare(&granted(bed).await?, &bed.audit_since(mark)?.of_user(USER))
}

/// Kinds that no API server of the bed serves: their shape is looked at, no more.
const NOT_SERVED: [&str; 2] = ["monitoring.coreos.com/v1", "policy.linkerd.io/v1alpha1"];

/// `helm lint`, and everything that the charts render with several values files, as the API server sees it.
pub async fn chart_renders(bed: &Bed) -> Result<()> {
    for namespace in ["chart-a", "chart-b", "chart-home"] {
        bed.namespace(namespace).await?;
    }
    renders(bed, "serin", "chart-values").await?;
    renders(bed, "loadtester", "loadtester-values").await?;
    loadtester_flags(bed).await
}

/// Shells and tokens are what their values say, and nothing by default.
async fn loadtester_flags(bed: &Bed) -> Result<()> {
    let chart = project_root()?.join("charts/loadtester");
    let chart = chart.to_str().context("the path is not UTF-8")?;
    let shell = "- --allow-shell";
    let tokens = "- --token-dir=/etc/loadtester/tokens";
    for (set, given) in [
        (&[][..], &[][..]),
        (&["--set", "cmd.allowShell=true"], &[shell]),
        (&["--set", "tokens.secretName=ours"], &[tokens]),
    ] {
        let template = ["template", "loadtester", chart];
        let rendered = bed.helm(template.into_iter().chain(set.to_vec())).await?;
        let lines: Vec<&str> = rendered.lines().map(str::trim).collect();
        for flag in [shell, tokens] {
            ensure!(
                lines.contains(&flag) == given.contains(&flag),
                "{set:?} and the flag {flag} do not go together"
            );
        }
        let mounted = ["secretName: ours", "mountPath: /etc/loadtester/tokens"];
        ensure!(
            mounted.iter().all(|line| lines.contains(line)) == given.contains(&tokens),
            "{set:?}: the Secret of the tokens"
        );
    }
    Ok(())
}

async fn renders(bed: &Bed, chart: &str, files: &str) -> Result<()> {
    let root = project_root()?;
    let path = root.join("charts").join(chart);
    let chart = path.to_str().context("the path is not UTF-8")?;
    let files = root.join("e2e/manifests").join(files);
    let mut values = vec![None];
    for entry in std::fs::read_dir(files)? {
        values.push(Some(entry?.path().to_string_lossy().into_owned()));
    }
    for values in &values {
        let name = values.as_deref().unwrap_or("defaults");
        let values: Vec<&str> = values.iter().flat_map(|file| ["--values", file]).collect();
        let lint = ["lint", chart, "--strict"]
            .into_iter()
            .chain(values.clone());
        bed.helm(lint).await?;
        let template = ["template", "serin", chart, "--namespace", "chart-home"];
        let rendered = bed.helm(template.into_iter().chain(values)).await?;
        let (tried, unserved) = dry_run(bed, &rendered)
            .await
            .with_context(|| format!("with the values of {name}"))?;
        println!(
            "        {tried} objects taken by the API server, {unserved} of kinds that it does not serve: {name}"
        );
    }
    Ok(())
}

/// The Kustomize base is the chart with its defaults, and what Kustomize makes of it is taken by the API server. With `SERIN_UPDATE` set the
/// base is written anew.
pub async fn kustomize_base(bed: &Bed) -> Result<()> {
    let root = project_root()?;
    let chart = root.join("charts/serin");
    let chart = chart.to_str().context("the path is not UTF-8")?;
    let rendered = bed
        .helm(["template", "serin", chart, "--namespace", HOME])
        .await?;
    // No release of Helm stands behind these objects.
    let expected: String =
        std::iter::once("# The chart rendered with its defaults, for this folder.")
            .chain(rendered.lines().filter(|line| {
                let line = line.trim_start();
                !(line.starts_with("# Source:")
                    || line.starts_with("helm.sh/chart:")
                    || line.starts_with("app.kubernetes.io/managed-by: Helm"))
            }))
            .flat_map(|line| [line.trim_end(), "\n"])
            .collect();
    let file = root.join("kustomize/base/serin.yaml");
    if std::env::var_os("SERIN_UPDATE").is_some() {
        std::fs::write(&file, &expected)?;
    }
    ensure!(
        std::fs::read_to_string(&file)? == expected,
        "kustomize/base/serin.yaml is out of date: run SERIN_UPDATE=1 make e2e ARGS=kustomize-base"
    );
    bed.namespace(HOME).await?;
    let output = tokio::process::Command::new(&bed.tools().kubectl)
        .arg("kustomize")
        .arg(root.join("kustomize/base"))
        .output()
        .await?;
    ensure!(
        output.status.success(),
        "kubectl kustomize: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let (tried, unserved) = dry_run(bed, &String::from_utf8(output.stdout)?).await?;
    ensure!(
        unserved == 0 && tried >= 8,
        "{tried} objects, {unserved} not served"
    );
    Ok(())
}

/// Applies everything without keeping it. Returns how many objects were tried and how many could not be.
async fn dry_run(bed: &Bed, rendered: &str) -> Result<(usize, usize)> {
    let options = serde_saphyr::options! { budget: None };
    let documents: Vec<Value> = serde_saphyr::from_multiple_with_options(rendered, options)?;
    let (mut tried, mut unserved) = (0, 0);
    for document in documents.into_iter().filter(|document| !document.is_null()) {
        let object: DynamicObject = serde_json::from_value(document)?;
        let types = object.types.clone().context("an object without kind")?;
        let name = object.name_any();
        if NOT_SERVED.contains(&types.api_version.as_str()) {
            ensure!(
                !name.is_empty() && object.data["spec"].is_object(),
                "{object:?}"
            );
            unserved += 1;
            continue;
        }
        let namespace = object.namespace().unwrap_or_default();
        let params = PatchParams {
            field_validation: Some(kube::api::ValidationDirective::Strict),
            ..PatchParams::apply("helm").force().dry_run()
        };
        bed.api_of(&types.api_version, &types.kind, &namespace)
            .await?
            .patch(&name, &params, &Patch::Apply(&object))
            .await
            .with_context(|| format!("{} {name}", types.kind))?;
        tried += 1;
    }
    ensure!(tried > 2, "only {tried} objects were rendered");
    Ok((tried, unserved))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(verb: &str, resource: &str, code: u16) -> Request {
        Request {
            at: jiff::Timestamp::UNIX_EPOCH,
            user: USER.to_owned(),
            user_agent: String::new(),
            verb: verb.to_owned(),
            group: "apps".to_owned(),
            resource: resource.to_owned(),
            namespace: String::new(),
            name: String::new(),
            code,
        }
    }

    fn right(resource: &str, verb: &str) -> Right {
        ("apps".to_owned(), resource.to_owned(), verb.to_owned())
    }

    #[test]
    fn a_missing_and_a_surplus_right_are_both_found() {
        let requests = vec![
            request("list", "deployments", 200),
            request("patch", "deployments", 201),
        ];
        let audit = Audit { requests };
        let exact: BTreeSet<Right> = ["list", "patch", "create"]
            .map(|verb| right("deployments", verb))
            .into();
        assert!(compare(&exact, &audit).is_ok());
        let mut more = exact.clone();
        more.insert(right("deployments", "delete"));
        assert!(compare(&more, &audit).is_err());
        let mut less = exact.clone();
        less.remove(&right("deployments", "create"));
        assert!(compare(&less, &audit).is_err());
        let refused = Audit {
            requests: vec![request("list", "deployments", 403)],
        };
        assert!(compare(&exact, &refused).is_err());
    }
}
