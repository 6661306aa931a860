//! Metrics backends for real, as far as they run on this machine: Prometheus, `VictoriaMetrics`, Graphite, `CloudWatch` as moto plays it (which
//! checks signatures), and by the API server a `KeptnMetric`, an `Analysis` and an external metric. One canary asks them all; what each
//! answers is what it was given, and one that turns bad ends a run.
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kube::Api;
use kube::api::{DynamicObject, ListParams, Patch, PatchParams};
use serde_json::{Value, json};

use super::shop::{PATIENCE, Plan, Shop};
use crate::bed::parts::PROMETHEUS;
use crate::bed::process::{Process, Program, exit_code};
use crate::bed::{Bed, beside};
use crate::tools;

const VICTORIA: &str = "127.0.0.1:18428";
const GRAPHITE: &str = "127.0.0.1:18429";
const MOTO: &str = "127.0.0.1:18430";
const REGION: &str = "eu-central-1";

/// Writes a minute of values into a whisper file.
const WHISPER: &str = r"
import os, sys, time, whisper
path, value = sys.argv[1], float(sys.argv[2])
if not os.path.exists(path):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    whisper.create(path, [(5, 720)])
now = int(time.time())
for age in range(12):
    whisper.update(path, value, now - 5 * age)
";

/// Makes a user with a key that may ask for metrics and nothing else, and puts a metric there; prints the key.
const AWS: &str = r"
import boto3, datetime, json, sys
common = dict(endpoint_url=sys.argv[1], region_name=sys.argv[2])
iam = boto3.client('iam', aws_access_key_id='first', aws_secret_access_key='first', **common)
iam.create_user(UserName='serin')
key = iam.create_access_key(UserName='serin')['AccessKey']
# moto knows CloudWatch's actions by the name of its endpoint.
allowed = {'Effect': 'Allow', 'Action': ['cloudwatch:*', 'monitoring:*'], 'Resource': '*'}
iam.put_user_policy(UserName='serin', PolicyName='metrics', PolicyDocument=json.dumps({'Version': '2012-10-17', 'Statement': [allowed]}))
metrics = boto3.client('cloudwatch', aws_access_key_id=key['AccessKeyId'], aws_secret_access_key=key['SecretAccessKey'], **common)
now = datetime.datetime.now(datetime.timezone.utc)
metrics.put_metric_data(Namespace='Shop', MetricData=[{'MetricName': 'Errors', 'Value': 2.5, 'Timestamp': now}])
print(key['AccessKeyId'], key['SecretAccessKey'])
";

/// Definitions as Keptn and an adapter would bring them, without their schemas. The group of external metrics is Kubernetes' own, so the API server
/// wants to be told that this is meant.
fn definitions() -> String {
    let definition = |group: &str, kind: &str, plural: &str| {
        json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {
                "name": format!("{plural}.{group}"),
                "annotations": {"api-approved.kubernetes.io": "unapproved, on a test bed"},
            },
            "spec": {
                "group": group, "scope": "Namespaced",
                "names": {"kind": kind, "listKind": format!("{kind}List"), "plural": plural, "singular": kind.to_lowercase()},
                "versions": [{
                    "name": "v1beta1", "served": true, "storage": true,
                    "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}},
                }],
            },
        })
        .to_string()
    };
    [
        definition("metrics.keptn.sh", "KeptnMetric", "keptnmetrics"),
        definition("metrics.keptn.sh", "Analysis", "analyses"),
        definition("external.metrics.k8s.io", "QueueLength", "queue-length"),
    ]
    .join("\n---\n")
}

fn template(name: &str, provider: &Value, query: &str) -> Value {
    json!({
        "apiVersion": "flagger.app/v1beta1", "kind": "MetricTemplate", "metadata": {"name": name},
        "spec": {"provider": provider, "query": query},
    })
}

/// The templates: name, provider, query, value that comes out, most that passes.
fn questions() -> Vec<(&'static str, Value, String, &'static str, f64)> {
    let cloudwatch = json!([
        {"Id": "errors", "MetricStat": {"Metric": {"Namespace": "Shop", "MetricName": "Errors"}, "Period": 60, "Stat": "Sum"}},
    ]);
    vec![
        (
            "prometheus",
            json!({"type": "prometheus", "address": PROMETHEUS}),
            "vector(0.25)".to_owned(),
            "0.25",
            1.0,
        ),
        (
            "victoriametrics",
            json!({"type": "prometheus", "address": format!("http://{VICTORIA}"), "headers": {"X-Scope-OrgID": ["shop"]}}),
            "sum(last_over_time(shop_errors{app=\"{{ target }}\"}[5m]))".to_owned(),
            "0.50",
            1.0,
        ),
        (
            "graphite",
            json!({"type": "graphite", "address": format!("http://{GRAPHITE}")}),
            "target=averageSeries(shop.{{ target }}.*)&from=-{{ interval }}in".to_owned(),
            "0.75",
            1.0,
        ),
        (
            "cloudwatch",
            json!({"type": "cloudwatch", "region": REGION}),
            cloudwatch.to_string(),
            "2.50",
            5.0,
        ),
        (
            "keptn",
            json!({"type": "keptn"}),
            "keptnmetric/{{ namespace }}/response-time".to_owned(),
            "3.25",
            5.0,
        ),
        (
            "analysis",
            json!({"type": "keptn"}),
            "analysis/{{ namespace }}/slo/{{ interval }}/app={{ target }}".to_owned(),
            "1.00",
            1.0,
        ),
        (
            "external",
            json!({"type": "externalmetrics"}),
            "{{ namespace }}/queue-length?labelSelector=app%3D{{ target }}".to_owned(),
            "1.50",
            5.0,
        ),
    ]
}

/// Runs a program of Python's to its end and gives what it printed.
fn python(packages: &Path, program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new("python3")
        .env("PYTHONPATH", packages)
        .args(["-c", program])
        .args(arguments)
        .output()
        .context("cannot start python3")?;
    ensure!(
        output.status.success(),
        "python3 failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?)
}

async fn wait_answering(bed: &Bed, what: &str, url: &str) -> Result<()> {
    let http = reqwest::Client::new();
    bed.wait(what, Duration::from_secs(30), async || {
        Ok(http.get(url).send().await.is_ok().then_some(()))
    })
    .await
}

/// The servers, which end with this.
struct Servers {
    _running: [Process; 3],
    whisper: std::path::PathBuf,
    graphite: std::path::PathBuf,
    access_key: String,
    secret_key: String,
}

impl Servers {
    async fn start(bed: &Bed) -> Result<Self> {
        let tools = tools::metrics_backends()?;
        let state = bed.state().join("metrics-backends");
        std::fs::create_dir_all(&state)?;
        let logs = bed.state().join("logs");
        let victoria = Program::new(&tools.victoria_metrics).args([
            format!("-httpListenAddr={VICTORIA}"),
            format!("-storageDataPath={}", state.join("victoria").display()),
            "-search.latencyOffset=0s".to_owned(),
        ]);
        let victoria = Process::start("victoriametrics", &victoria, &logs)?;
        let settings = state.join("graphite.yaml");
        let whisper = state.join("whisper");
        let text = json!({
            "search_index": state.join("index"),
            "finders": ["graphite_api.finders.whisper.WhisperFinder"],
            "functions": ["graphite_api.functions.SeriesFunctions"],
            "whisper": {"directories": [&whisper]},
            "time_zone": "UTC",
        });
        std::fs::write(&settings, text.to_string())?;
        let whisper = whisper.join("shop/app/errors.wsp");
        python(
            &tools.graphite,
            WHISPER,
            &[&whisper.display().to_string(), "0.75"],
        )?;
        let graphite = Program::new("python3")
            .env("PYTHONPATH", &tools.graphite)
            .env("GRAPHITE_API_CONFIG", &settings)
            .args(["-m", "gunicorn", "-b", GRAPHITE, "graphite_api.app:app"]);
        let graphite = Process::start("graphite", &graphite, &logs)?;
        let (host, port) = MOTO.split_once(':').context("an address has a port")?;
        let moto = Program::new("python3")
            .env("PYTHONPATH", &tools.moto)
            // From the fourth request on everybody must sign, and may do what the policy says.
            .env("INITIAL_NO_AUTH_ACTION_COUNT", "3")
            .args(["-m", "moto.server", "-H", host, "-p", port]);
        let moto = Process::start("moto", &moto, &logs)?;
        wait_answering(bed, "VictoriaMetrics", &format!("http://{VICTORIA}/health")).await?;
        wait_answering(bed, "Graphite", &format!("http://{GRAPHITE}/")).await?;
        wait_answering(bed, "moto", &format!("http://{MOTO}/moto-api/")).await?;
        reqwest::Client::new()
            .post(format!("http://{VICTORIA}/api/v1/import/prometheus"))
            .body(
                "shop_errors{app=\"app\",pod=\"a\"} 0.2\nshop_errors{app=\"app\",pod=\"b\"} 0.3\n",
            )
            .send()
            .await?
            .error_for_status()?;
        let keys = python(&tools.moto, AWS, &[&format!("http://{MOTO}"), REGION])?;
        let (access_key, secret_key) = keys
            .trim()
            .split_once(' ')
            .context("the script prints a key and its secret")?;
        Ok(Self {
            _running: [victoria, graphite, moto],
            whisper,
            graphite: tools.graphite,
            access_key: access_key.to_owned(),
            secret_key: secret_key.to_owned(),
        })
    }

    /// What Graphite has from now on.
    fn graphite_has(&self, value: &str) -> Result<()> {
        let path = self.whisper.display().to_string();
        python(&self.graphite, WHISPER, &[&path, value]).map(drop)
    }
}

/// The rights that these backends need, as a user would grant them.
pub async fn grant(bed: &Bed) -> Result<()> {
    let output = Command::new(beside("serin")?)
        .args([
            "rbac",
            "--metrics-providers",
            "keptn,externalmetrics",
            "--name",
            "serin-metrics",
            "--user",
            "serin",
        ])
        .output()?;
    ensure!(
        output.status.success(),
        "serin rbac: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    bed.apply(&String::from_utf8(output.stdout)?).await
}

/// What Keptn does with an Analysis: says that it passes.
pub async fn keptn(analyses: Api<DynamicObject>) -> Result<()> {
    let passed = json!({"status": {"state": "Completed", "pass": true}});
    loop {
        for analysis in analyses.list(&ListParams::default()).await? {
            let name = analysis.metadata.name.unwrap_or_default();
            if analysis.data["status"].is_null() {
                // It may be gone by now.
                let _ = analyses
                    .patch(&name, &PatchParams::default(), &Patch::Merge(&passed))
                    .await;
            }
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Brings the definitions and waits until they are served.
pub async fn install(bed: &Bed) -> Result<()> {
    bed.apply(&definitions()).await?;
    for (group, kind) in [
        ("metrics.keptn.sh", "KeptnMetric"),
        ("metrics.keptn.sh", "Analysis"),
        ("external.metrics.k8s.io", "QueueLength"),
    ] {
        bed.wait(&format!("{kind} to be served"), PATIENCE, async || {
            let served = bed
                .api_of(&format!("{group}/v1beta1"), kind, "default")
                .await;
            Ok(served.is_ok().then_some(()))
        })
        .await?;
    }
    Ok(())
}

/// What Keptn and the adapter have measured; an item that the selector leaves out among it.
pub fn measured() -> Vec<Value> {
    let now = jiff::Timestamp::now().to_string();
    vec![
        json!({
            "apiVersion": "metrics.keptn.sh/v1beta1", "kind": "KeptnMetric", "metadata": {"name": "response-time"},
            "status": {"value": "3.25", "lastUpdated": now},
        }),
        json!({
            "apiVersion": "external.metrics.k8s.io/v1beta1", "kind": "QueueLength",
            "metadata": {"name": "a", "labels": {"app": "app"}}, "metricName": "queue-length", "value": "1500m", "timestamp": now,
        }),
        json!({
            "apiVersion": "external.metrics.k8s.io/v1beta1", "kind": "QueueLength",
            "metadata": {"name": "b", "labels": {"app": "other"}}, "metricName": "queue-length", "value": "9k", "timestamp": now,
        }),
    ]
}

pub async fn run(bed: &Bed) -> Result<()> {
    let servers = Servers::start(bed).await?;
    install(bed).await?;
    grant(bed).await?;
    let endpoint = format!("http://{MOTO}");
    let serin = bed.start_serin_in(
        &[
            ("AWS_ACCESS_KEY_ID", &servers.access_key),
            ("AWS_SECRET_ACCESS_KEY", &servers.secret_key),
            ("AWS_ENDPOINT_URL_CLOUDWATCH", &endpoint),
        ],
        ["--metrics-server", PROMETHEUS, "--log-level", "debug"],
    )?;
    let mut beside = measured();
    let questions = questions();
    let mut metrics = Vec::new();
    for (name, provider, query, _, most) in &questions {
        beside.push(template(name, provider, query));
        metrics.push(json!({
            "name": name, "interval": "1m", "templateRef": {"name": name}, "thresholdRange": {"max": most},
        }));
    }
    let plan = Plan {
        analysis: json!({"threshold": 1, "stepWeight": 30, "maxWeight": 60, "metrics": metrics}),
        rate: 0.0,
        beside,
        ..Plan::default()
    };
    let shop = Shop::open(bed, "metrics-backends", plan).await?;
    let analyses = bed
        .api_of(
            "metrics.keptn.sh/v1beta1",
            "Analysis",
            shop.namespace.name(),
        )
        .await?;
    let keptn = tokio::spawn(keptn(analyses.clone()));
    shop.release("1.1.0").await?;
    shop.wait_phase("Succeeded").await?;
    let status = shop.status().await?;
    for (name, _, _, expected, _) in &questions {
        let found = status["metrics"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|metric| metric["name"] == *name)
            .with_context(|| format!("status.metrics lacks {name}: {}", status["metrics"]))?;
        ensure!(
            found["value"] == *expected && found["verdict"] == "Passed",
            "{name}: expected {expected}, found {found}"
        );
    }

    servers.graphite_has("7.5")?;
    shop.release("1.2.0").await?;
    shop.wait_phase("Failed").await?;
    let status = shop.status().await?;
    let failed: Vec<&Value> = status["metrics"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|metric| metric["verdict"] != "Passed")
        .collect();
    ensure!(
        failed.len() == 1 && failed[0]["name"] == "graphite" && failed[0]["value"] == "7.50",
        "expected graphite alone to fail, found {failed:?}"
    );

    ensure!(!keptn.is_finished(), "Keptn's part ended before its time");
    bed.wait("no Analysis to stay behind", PATIENCE, async || {
        let left = analyses.list(&ListParams::default()).await?.items.len();
        Ok((left == 0).then_some(()))
    })
    .await?;
    keptn.abort();
    let log = std::fs::read_to_string(serin.log())?;
    ensure!(
        !log.contains(&servers.secret_key),
        "the log of the controller has the secret key in it"
    );
    let status = serin.stop().await?;
    ensure!(exit_code(status) == 0, "the controller ended with {status}");
    Ok(())
}
