//! The pages of `docs/providers/` on a cluster: each page's templates are applied as they stand, with a Secret that has the keys which the page
//! names, and one canary asks by all of them. Vendors are played by a server that answers as their documentation shows; what the
//! cluster or its pods answer for is asked for real. What each backend's answers mean, in every case, the contract in
//! `src/providers/contract` says; here it is whether a newcomer gets a number.
use std::collections::BTreeMap;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use axum::Router;
use axum::extract::Path;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::metrics_backends;
use super::pages::{self, blocks, quoted, rows};
use super::shop::{Plan, Shop};
use crate::bed::parts::PROMETHEUS;
use crate::bed::process::exit_code;
use crate::bed::{Bed, beside};

/// The namespace of all templates on the pages; the app of the canary is there too.
const NAMESPACE: &str = "shop";
/// Opens nothing; it was made for tests.
const KEY: &str = include_str!("../../../src/providers/contract/key-for-tests.pem");
/// What every vendor measures.
const VALUE: &str = "0.50";

/// A template of a page, in a namespace of the page's own, since several pages give theirs the same name.
struct Template {
    page: String,
    name: String,
    object: Value,
}

/// A page: its templates, and the keys of the Secret that it names.
struct Page {
    templates: Vec<Template>,
    keys: Vec<String>,
}

fn read(page: &str, text: &str) -> Result<Page> {
    let keys = rows(text, "Secret key")
        .iter()
        .flat_map(|row| {
            quoted(&row[0])
                .into_iter()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        })
        .collect();
    let mut templates = Vec::new();
    for block in blocks(text).with_context(|| format!("{page}.md"))? {
        if !block.is_kind("MetricTemplate") {
            continue;
        }
        ensure!(
            block.value["metadata"]["namespace"] == NAMESPACE,
            "{page}.md:{}: expected a template of namespace {NAMESPACE}",
            block.line
        );
        let name = block.value["metadata"]["name"].as_str().context("a name")?;
        templates.push(Template {
            page: page.to_owned(),
            name: name.to_owned(),
            object: block.value,
        });
    }
    ensure!(!templates.is_empty(), "{page}.md has no MetricTemplate");
    Ok(Page { templates, keys })
}

impl Template {
    fn namespace(&self) -> String {
        format!("{NAMESPACE}-{}", self.page)
    }

    /// What the metric of the canary is called.
    fn metric(&self) -> String {
        format!("{}-{}", self.page, self.name)
    }

    /// As the page has it, but for where it is and whom it asks.
    fn moved(&self, vendors: &str) -> Value {
        let mut object = self.object.clone();
        object["metadata"]["namespace"] = json!(self.namespace());
        if let Some(address) = object.pointer_mut("/spec/provider/address") {
            *address = json!(format!("{vendors}/{}", self.page));
        }
        object
    }

    /// The number that comes out, where it is known before.
    fn value(&self) -> Option<&'static str> {
        match (self.page.as_str(), self.name.as_str()) {
            ("keptn", "response-time") => Some("3.25"),
            ("keptn", _) => Some("1.00"),
            ("externalmetrics", _) => Some("1.50"),
            // As long as requests take.
            ("scrape", _) => None,
            _ => Some(VALUE),
        }
    }

    fn entry(&self) -> Value {
        json!({
            "name": self.metric(), "interval": "1m", "thresholdRange": {"max": 1000},
            "templateRef": {"name": self.name, "namespace": self.namespace()},
        })
    }
}

/// A text for a key, of the form that the backend wants.
fn secret_text(key: &str, vendors: &str) -> String {
    match key {
        "newrelic_account_id" => "51312".to_owned(),
        "serviceAccountKey" => json!({
            "type": "service_account", "client_email": "serin@shop-1.iam.gserviceaccount.com", "private_key": KEY,
            "token_uri": format!("{vendors}/token"),
        })
        .to_string(),
        _ => format!("s3cret-{}", key.replace('_', "-")),
    }
}

/// What a vendor says of one value, now.
async fn vendor(Path(path): Path<String>) -> Response {
    let now = jiff::Timestamp::now();
    let (seconds, millis) = (now.as_second(), now.as_millisecond());
    let vendor = path.split('/').next().unwrap_or_default();
    let answer = match vendor {
        "token" => {
            json!({"access_token": "ya29.token", "expires_in": 3599, "token_type": "Bearer"})
        }
        "prometheus" => json!({"status": "success", "data": {
            "resultType": "vector", "result": [{"metric": {}, "value": [seconds, "0.5"]}],
        }}),
        "datadog" => json!({"status": "ok", "series": [{
            "interval": 20, "pointlist": [[millis - 60_000, 0.5], [millis, null]],
        }]}),
        "newrelic" => json!({"results": [{"result": 0.5}], "metadata": {"endTimeMillis": millis}}),
        "graphite" => json!([{"target": "a", "datapoints": [[0.5, seconds - 5], [null, seconds]]}]),
        "dynatrace" => {
            json!({"result": [{"metricId": "a", "data": [{"timestamps": [millis], "values": [0.5]}]}]})
        }
        "stackdriver" => json!({"timeSeriesData": [{"pointData": [{
            "values": [{"doubleValue": 0.5}], "timeInterval": {"startTime": now.to_string(), "endTime": now.to_string()},
        }]}]}),
        "cloudwatch" => json!({"MetricDataResults": [{
            "Id": "e1", "Timestamps": [seconds - 60], "Values": [0.5], "StatusCode": "Complete",
        }]}),
        "influxdb" => {
            let head = "#datatype,string,long,dateTime:RFC3339,double\r\n#group,false,false,false,false\r\n#default,_result,,,\r\n,result,table,_stop,_value";
            return (
                [(CONTENT_TYPE, "text/csv")],
                format!("{head}\r\n,,0,{now},0.5\r\n\r\n"),
            )
                .into_response();
        }
        "splunk" => {
            let data = json!({"data": [{"tsId": "a", "value": 0.5}], "logicalTimestampMs": millis});
            return (
                [(CONTENT_TYPE, "text/event-stream")],
                format!("event: data\ndata: {data}\n\n"),
            )
                .into_response();
        }
        _ => return axum::http::StatusCode::NOT_FOUND.into_response(),
    };
    axum::Json(answer).into_response()
}

/// The vendors' address.
async fn vendors() -> Result<String> {
    let router = Router::new().route("/{*path}", any(vendor));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .context("the vendors need a port")?;
    let address = format!("http://{}", listener.local_addr()?);
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok(address)
}

/// Every page.
fn all() -> Result<Vec<Page>> {
    pages::of_folder("providers")?
        .iter()
        .map(|(page, text)| read(page, text))
        .collect()
}

/// Whatever a page brings, in its namespace.
async fn bring(bed: &Bed, page: &Page, vendors: &str) -> Result<()> {
    let Page { templates, keys } = page;
    let place = bed.namespace(&templates[0].namespace()).await?;
    for template in templates {
        let provider = &template.object["spec"]["provider"];
        if let Some(name) = provider["secretRef"]["name"].as_str() {
            ensure!(
                !keys.is_empty(),
                "{}.md names a Secret and none of its keys",
                template.page
            );
            let data: BTreeMap<&str, String> = keys
                .iter()
                .map(|key| (key.as_str(), secret_text(key, vendors)))
                .collect();
            let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data});
            place.apply(&secret.to_string()).await?;
        }
        place.apply(&template.moved(vendors).to_string()).await?;
    }
    Ok(())
}

/// `serin` with something on its standard input; what it said.
async fn serin(bed: &Bed, arguments: &[&str], input: &str) -> Result<String> {
    let mut process = Command::new(beside("serin")?)
        .args(arguments)
        .env("KUBECONFIG", bed.kubeconfig("admin"))
        .env("NO_COLOR", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    if let Some(mut stdin) = process.stdin.take() {
        stdin.write_all(input.as_bytes()).await?;
    }
    let output = process.wait_with_output().await?;
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    ensure!(
        output.status.success(),
        "serin {}: {said}",
        arguments.join(" ")
    );
    Ok(said)
}

pub async fn run(bed: &Bed) -> Result<()> {
    let pages = all()?;
    let vendors = vendors().await?;
    metrics_backends::install(bed).await?;
    metrics_backends::grant(bed).await?;
    let (cloudwatch, stackdriver) = (
        format!("{vendors}/cloudwatch"),
        format!("{vendors}/stackdriver"),
    );
    let controller = bed.start_serin_in(
        &[
            ("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE"),
            ("AWS_SECRET_ACCESS_KEY", "s3cret-aws-key"),
            ("AWS_ENDPOINT_URL_CLOUDWATCH", &cloudwatch),
            ("CLOUDSDK_API_ENDPOINT_OVERRIDES_MONITORING", &stackdriver),
        ],
        ["--metrics-server", PROMETHEUS, "--log-level", "debug"],
    )?;
    let mut metrics = Vec::new();
    for page in &pages {
        bring(bed, page, &vendors).await?;
        metrics.extend(page.templates.iter().map(Template::entry));
    }
    let plan = Plan {
        analysis: json!({"threshold": 1, "stepWeight": 30, "maxWeight": 60, "metrics": metrics}),
        rate: 50.0,
        beside: metrics_backends::measured(),
        ..Plan::default()
    };
    let shop = Shop::open(bed, NAMESPACE, plan).await?;
    ensure!(
        shop.namespace.name() == NAMESPACE,
        "the pages speak of namespace {NAMESPACE}"
    );
    let analyses = bed
        .api_of("metrics.keptn.sh/v1beta1", "Analysis", NAMESPACE)
        .await?;
    let keptn = tokio::spawn(metrics_backends::keptn(analyses));
    shop.release("1.1.0").await?;
    shop.wait_phase("Succeeded").await?;
    let status = shop.status().await?;
    let explained = serin(bed, &["explain", "app", "-n", NAMESPACE, "--run", "1"], "").await?;
    let mut told = 0;
    for template in pages.iter().flat_map(|page| &page.templates) {
        let (page, metric) = (&template.page, template.metric());
        let found = status["metrics"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|found| found["name"] == metric)
            .with_context(|| format!("{page}.md: status.metrics lacks {metric}: {status}"))?;
        let value = found["value"].as_str();
        ensure!(
            found["verdict"] == "Passed"
                && value.is_some()
                && template.value().is_none_or(|wanted| value == Some(wanted)),
            "{page}.md: expected {:?}, found {found}",
            template.value()
        );
        ensure!(
            explained.contains(&metric),
            "serin explain does not tell of {metric}:\n{explained}"
        );
        serin(bed, &["lint", "-"], &template.object.to_string())
            .await
            .with_context(|| format!("{page}.md"))?;
        told += 1;
    }
    println!("        {told} templates of docs/providers");
    ensure!(!keptn.is_finished(), "Keptn's part ended before its time");
    keptn.abort();
    let log = std::fs::read_to_string(controller.log())?;
    ensure!(
        !log.contains("s3cret-"),
        "the log of the controller has a key in it"
    );
    let status = controller.stop().await?;
    ensure!(exit_code(status) == 0, "the controller ended with {status}");
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn every_page_has_a_template() {
        let pages = all().unwrap();
        let names: Vec<String> = pages
            .iter()
            .flat_map(|page| &page.templates)
            .map(Template::metric)
            .collect();
        let unique: std::collections::BTreeSet<&String> = names.iter().collect();
        assert_eq!(unique.len(), names.len());
    }
}
