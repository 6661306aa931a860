//! The admission webhook as the chart installs it: the API server calls it through the chart's Service, under the certificate that the chart
//! made, or under one of cert-manager's, whose part is played here by what it does to the chart's objects.
use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::{DynamicObject, ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use super::admission::{apply, base64, canary, wait_denied};
use super::installed::{HOME, install};
use super::shop::PATIENCE;
use crate::bed::Bed;
use crate::bed::pki::{Authority, Issued};
use crate::tools::project_root;

/// What the chart calls its Service, its Secret, and the Certificate that it asks cert-manager for.
const NAME: &str = "serin-admission";
/// The authority that the chart asks cert-manager for: an Issuer, a Certificate and a Secret.
const AUTHORITY: &str = "serin-admission-ca";
/// The kinds' version.
const CERT_MANAGERS: &str = "cert-manager.io/v1";
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
    let authority = Authority::new(AUTHORITY)?;
    // Helm waits for pods, and these for the Secret.
    let set = ["--set", values];
    futures::try_join!(install(bed, &set), act_as_cert_manager(bed, &authority))?;
    through_the_service(bed).await?;
    let injected = base64(authority.pem());
    ensure!(
        self::authority(bed).await? == injected,
        "the authority is not the injected one"
    );
    judges(bed, "cert-manager's certificate").await?;

    upgrade(bed).await?;
    ensure!(
        self::authority(bed).await? == injected,
        "the upgrade took away what cert-manager had injected"
    );
    judges(bed, "cert-manager's certificate after an upgrade").await?;

    // A renewal reaches the pods by the mounted Secret alone, each at its own time.
    let pods = pods(bed).await?;
    certify(bed, &authority).await?;
    let (mut asked, bad) = (0, canary("bad", 990.0));
    let renewed = async || {
        asked += 1;
        let (taken, said) = apply(bed, &bad, &["--dry-run=server"]).await?;
        let all = pods.iter().all(|pod| has_a_new_certificate(bed, pod));
        Ok((taken || all).then_some((taken, said)))
    };
    let (taken, said) = bed
        .wait("both pods to have the new certificate", PATIENCE, renewed)
        .await?;
    ensure!(
        !taken,
        "while the certificate was renewed a bad canary got in, asked {asked} times:\n{said}"
    );
    judges(bed, "the renewed certificate").await?;
    ensure!(
        pods == self::pods(bed).await?,
        "pods were replaced for a renewal"
    );
    Ok(())
}

/// Whether this pod tells of a certificate that it took on while it ran.
fn has_a_new_certificate(bed: &Bed, pod: &str) -> bool {
    let log = format!("logs/pods/{HOME}_{pod}_serin.log");
    std::fs::read_to_string(bed.state().join(log))
        .is_ok_and(|log| log.contains("the admission webhook has a new certificate"))
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

/// Does what cert-manager does: makes the authority and the certificate that the chart's Certificates ask for, and puts the authority into the
/// webhook configuration whose annotation names the latter.
async fn act_as_cert_manager(bed: &Bed, authority: &Authority) -> Result<()> {
    let asked = spec(bed, "Certificate", AUTHORITY).await?;
    ensure!(
        asked["isCA"] == true && issuer(bed, &asked).await?["selfSigned"].is_object(),
        "{asked:#}"
    );
    keep(bed, &asked, authority, authority.own()).await?;
    certify(bed, authority).await?;

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
        "op": "add", "path": "/webhooks/0/clientConfig/caBundle", "value": base64(authority.pem()),
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
    Ok(())
}

/// Makes a certificate for the webhook, as its Certificate asks, by the authority whose Secret its Issuer names.
async fn certify(bed: &Bed, authority: &Authority) -> Result<()> {
    let asked = spec(bed, "Certificate", NAME).await?;
    let kept = spec(bed, "Certificate", AUTHORITY).await?["secretName"].take();
    let from = &issuer(bed, &asked).await?["ca"]["secretName"];
    ensure!(
        *from == kept,
        "the issuer's authority is kept in {from}, not in {kept}"
    );
    let names: Vec<String> = serde_json::from_value(asked["dnsNames"].clone())?;
    keep(bed, &asked, authority, authority.server(names)?).await
}

/// What an object of the chart's says, once Helm has made it: one kind after the other.
async fn spec(bed: &Bed, kind: &str, name: &str) -> Result<Value> {
    let mut object = bed
        .wait(
            &format!("the chart's {kind} {name}"),
            PATIENCE,
            async || Ok(bed.get(CERT_MANAGERS, kind, HOME, name).await.ok()),
        )
        .await?;
    Ok(object.data["spec"].take())
}

/// How the Issuer that a Certificate names makes certificates.
async fn issuer(bed: &Bed, asked: &Value) -> Result<Value> {
    let named = &asked["issuerRef"];
    ensure!(named["kind"] == "Issuer", "{asked:#}");
    let name = named["name"].as_str().context("no issuer")?;
    spec(bed, "Issuer", name).await
}

/// Keeps what was issued in the Secret that the Certificate names.
async fn keep(bed: &Bed, asked: &Value, authority: &Authority, issued: Issued) -> Result<()> {
    let name = asked["secretName"].as_str().context("no secretName")?;
    let mut secret = issued.secret(HOME, name);
    secret["stringData"]["ca.crt"] = json!(authority.pem());
    bed.apply(&secret.to_string()).await
}
