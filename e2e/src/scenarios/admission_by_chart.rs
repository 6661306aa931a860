//! The admission webhook as the chart installs it: the API server calls it through the chart's Service, under the certificate that the chart
//! made, or under one of cert-manager's, whose part is played here by what it does to the chart's objects.
use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::{DynamicObject, ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use super::admission::{Issued, apply, base64, canary, issue, wait_denied};
use super::installed::{HOME, install};
use super::shop::PATIENCE;
use crate::bed::Bed;
use crate::tools::project_root;

/// What the chart calls its Service, its Secret, and the Certificate that it asks cert-manager for.
const NAME: &str = "serin-admission";
/// The webhook configuration, which is of no namespace.
const CONFIGURATION: &str = "serin-admission.serin-system";
/// What cert-manager has put into the webhook configuration: the authority of a Certificate.
const INJECT: &str = "cert-manager.io/inject-ca-from";

/// One of cert-manager's kinds, without any schema.
fn cert_managers_kind(kind: &str) -> String {
    let singular = kind.to_lowercase();
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{singular}s.cert-manager.io")},
        "spec": {
            "group": "cert-manager.io", "scope": "Namespaced",
            "names": {"kind": kind, "plural": format!("{singular}s"), "singular": singular, "listKind": format!("{kind}List")},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {
                "openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
            }}],
        },
    })
    .to_string()
}

/// Under the chart's own certificate, through an upgrade and without a controller; then under cert-manager's, through a renewal.
pub async fn run(bed: &Bed) -> Result<()> {
    bed.namespace("admission").await?;
    own_certificate(bed).await?;
    let told = bed
        .helm(["uninstall", "serin", "--namespace", HOME, "--wait"])
        .await?;
    ensure!(told.contains("uninstalled"), "{told}");
    cert_managers(bed).await
}

async fn own_certificate(bed: &Bed) -> Result<()> {
    install(bed, &["--set", "crds.install=false,admission.enabled=true"]).await?;
    through_the_service(bed).await?;
    judges(bed, "the chart's certificate").await?;

    let before = (secret(bed).await?, authority(bed).await?);
    upgrade(bed).await?;
    ensure!(
        before == (secret(bed).await?, authority(bed).await?),
        "the upgrade changed the certificate"
    );
    judges(bed, "the chart's certificate after an upgrade").await?;

    let none = json!({"spec": {"replicas": 0}});
    bed.api_of("apps/v1", "Deployment", HOME)
        .await?
        .patch("serin", &PatchParams::default(), &Patch::Merge(none))
        .await?;
    bed.wait("the controller to be gone", PATIENCE, async || {
        let pods = Api::<Pod>::namespaced(bed.client(), HOME);
        let left = pods.list(&ListParams::default()).await?;
        Ok(left.items.is_empty().then_some(()))
    })
    .await?;
    let (taken, said) = apply(bed, &canary("never", 990.0), &[]).await?;
    ensure!(
        taken,
        "without a controller everything gets in, but:\n{said}"
    );
    Ok(())
}

async fn cert_managers(bed: &Bed) -> Result<()> {
    for kind in ["Certificate", "Issuer"] {
        bed.apply(&cert_managers_kind(kind)).await?;
    }
    let values = "crds.install=false,admission.enabled=true,admission.certManager.enabled=true";
    // Helm waits for pods, and these for the Secret.
    let set = ["--set", values];
    let (_, first) = futures::try_join!(install(bed, &set), act_as_cert_manager(bed))?;
    through_the_service(bed).await?;
    ensure!(
        authority(bed).await? == base64(&first),
        "the authority is not the injected one"
    );
    judges(bed, "cert-manager's certificate").await?;

    upgrade(bed).await?;
    ensure!(
        authority(bed).await? == base64(&first),
        "the upgrade took away what cert-manager had injected"
    );
    judges(bed, "cert-manager's certificate after an upgrade").await?;

    // A renewal reaches the pods by the mounted Secret alone.
    let pods = pods(bed).await?;
    let second = act_as_cert_manager(bed).await?;
    ensure!(first != second, "nothing was renewed");
    judges(bed, "the renewed certificate").await?;
    ensure!(
        pods == self::pods(bed).await?,
        "pods were replaced for a renewal"
    );
    Ok(())
}

/// A bad canary is denied with field and value, a doubtful one is let in with a warning, a good one without a word.
async fn judges(bed: &Bed, under: &str) -> Result<()> {
    let what = format!("a bad canary to be denied under {under}");
    let said = wait_denied(bed, &canary("bad", 990.0), &what).await?;
    ensure!(
        said.contains("admission webhook \"validate.serin.dev\" denied the request")
            && said.contains(
                "spec.analysis.metrics[0].thresholdRange.min: 990: a success rate is a percentage"
            ),
        "{said}"
    );
    let (taken, said) = apply(bed, &canary("doubtful", 0.99), &["--dry-run=server"]).await?;
    ensure!(
        taken && said.contains("Warning:") && said.contains("did you mean 99?"),
        "under {under}:\n{said}"
    );
    let (taken, said) = apply(bed, &canary("good", 99.0), &["--dry-run=server"]).await?;
    ensure!(taken && !said.contains("Warning"), "under {under}:\n{said}");
    Ok(())
}

/// `helm upgrade` as the pages have it, with one value changed; waits for the new pods.
async fn upgrade(bed: &Bed) -> Result<()> {
    let chart = project_root()?.join("charts/serin");
    let chart = chart.to_str().context("the path is not UTF-8")?;
    let before = pods(bed).await?;
    bed.helm([
        "upgrade",
        "serin",
        chart,
        "--namespace",
        HOME,
        "--reset-then-reuse-values",
        "--set",
        "podLabels.upgraded=yes",
        "--wait",
        "--timeout",
        "90s",
    ])
    .await?;
    bed.wait("the pods of before to be gone", PATIENCE, async || {
        let now = pods(bed).await?;
        Ok((now.len() == 2 && now.iter().all(|pod| !before.contains(pod))).then_some(()))
    })
    .await
}

async fn pods(bed: &Bed) -> Result<Vec<String>> {
    let pods = Api::<Pod>::namespaced(bed.client(), HOME);
    let all = pods.list(&ListParams::default()).await?;
    Ok(all.iter().map(ResourceExt::name_any).collect())
}

async fn configuration(bed: &Bed) -> Result<DynamicObject> {
    bed.get(
        "admissionregistration.k8s.io/v1",
        "ValidatingWebhookConfiguration",
        "",
        CONFIGURATION,
    )
    .await
}

/// Nothing leads the API server past the Service.
async fn through_the_service(bed: &Bed) -> Result<()> {
    let configuration = configuration(bed).await?;
    let webhooks = configuration.data["webhooks"]
        .as_array()
        .context("no webhooks")?;
    let client = &webhooks[0]["clientConfig"];
    let service = json!({"name": NAME, "namespace": HOME, "path": "/validate", "port": 443});
    ensure!(
        webhooks.len() == 1 && client["url"].is_null() && client["service"] == service,
        "{client:#}"
    );
    Ok(())
}

/// The authority by which the API server knows the webhook, as it stands in the configuration.
async fn authority(bed: &Bed) -> Result<Value> {
    let configuration = configuration(bed).await?;
    Ok(configuration.data["webhooks"][0]["clientConfig"]["caBundle"].clone())
}

async fn secret(bed: &Bed) -> Result<Value> {
    let secret = Api::<Secret>::namespaced(bed.client(), HOME)
        .get(NAME)
        .await?;
    ensure!(
        secret.type_.as_deref() == Some("kubernetes.io/tls"),
        "{secret:?}"
    );
    Ok(json!(secret.data))
}

/// Does what cert-manager does: makes what the chart's Certificate asks for, keeps it in the Secret that it names, and puts the authority
/// into the webhook configuration whose annotation names that Certificate. Returns the authority.
async fn act_as_cert_manager(bed: &Bed) -> Result<String> {
    let certificates = "cert-manager.io/v1";
    let certificate = bed
        .wait("the chart's Certificate", PATIENCE, async || {
            let certificate = bed.get(certificates, "Certificate", HOME, NAME).await;
            Ok(certificate.ok())
        })
        .await?;
    let spec = &certificate.data["spec"];
    let issuer = &spec["issuerRef"];
    ensure!(issuer["kind"] == "Issuer", "{spec:#}");
    let issuer = issuer["name"].as_str().context("no issuer")?;
    let issuer = bed.get(certificates, "Issuer", HOME, issuer).await?;
    ensure!(
        issuer.data["spec"]["selfSigned"].is_object(),
        "{}",
        issuer.data
    );
    let names: Vec<String> = serde_json::from_value(spec["dnsNames"].clone())?;
    let Issued {
        authority,
        certificate,
        key,
    } = issue(names)?;
    let name = spec["secretName"].as_str().context("no secretName")?;
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
        "metadata": {"name": name, "namespace": HOME},
        "stringData": {"ca.crt": authority, "tls.crt": certificate, "tls.key": key},
    });
    bed.apply(&secret.to_string()).await?;

    let configuration = bed
        .wait("the webhook configuration", PATIENCE, async || {
            Ok(configuration(bed).await.ok())
        })
        .await?;
    let from = configuration.annotations().get(INJECT);
    ensure!(
        from.map(String::as_str) == Some(&format!("{HOME}/{NAME}")),
        "the annotation names {from:?}"
    );
    let bundle = json!([{
        "op": "add", "path": "/webhooks/0/clientConfig/caBundle", "value": base64(&authority),
    }]);
    bed.api_of(
        "admissionregistration.k8s.io/v1",
        "ValidatingWebhookConfiguration",
        "",
    )
    .await?
    .patch(
        CONFIGURATION,
        &PatchParams::default(),
        &Patch::Json::<()>(serde_json::from_value(bundle)?),
    )
    .await?;
    Ok(authority)
}
