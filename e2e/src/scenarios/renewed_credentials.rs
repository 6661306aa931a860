//! Credentials that change on disk under a controller that runs: the certificate that a kubeconfig names, the kubeconfig itself, and the token
//! in a file. Each renewal is for another user, so that the audit log shows it, and what was valid before loses its rights.
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::Api;
use kube::api::{DeleteParams, PostParams};
use serde_json::json;

use super::shop::{self, Plan, Shop, flawless};
use crate::bed::Bed;
use crate::bed::audit::AuditMark;
use crate::bed::pki::API_SERVER;

/// Tokens are read anew once a minute, other files every 20 s.
const RENEWED: Duration = Duration::from_mins(2);
/// Where the service accounts are.
const HOME: &str = "renewed-credentials-home";

/// Where the controller finds its credentials.
struct Files {
    kubeconfig: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
    token: PathBuf,
}

impl Files {
    fn in_folder(folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder)?;
        Ok(Self {
            kubeconfig: folder.join("kubeconfig"),
            certificate: folder.join("client.crt"),
            key: folder.join("client.key"),
            token: folder.join("token"),
        })
    }

    fn certificate_of(&self, bed: &Bed, user: &str) -> Result<()> {
        replace(
            &self.certificate,
            &std::fs::read(bed.pki().certificate(user))?,
        )?;
        replace(&self.key, &std::fs::read(bed.pki().key(user))?)
    }

    fn kubeconfig(&self, bed: &Bed, user: &serde_json::Value) -> Result<()> {
        let text = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "bed",
            "clusters": [{"name": "bed", "cluster": {"server": API_SERVER, "certificate-authority": bed.pki().authority()}}],
            "users": [{"name": "user", "user": user}],
            "contexts": [{"name": "bed", "context": {"cluster": "bed", "user": "user"}}],
        });
        replace(&self.kubeconfig, text.to_string().as_bytes())
    }
}

/// Puts a whole file in the place of another one.
fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let next = path.with_extension("next");
    std::fs::write(&next, bytes)?;
    std::fs::rename(&next, path)?;
    Ok(())
}

async fn token(bed: &Bed, account: &str) -> Result<String> {
    let accounts = Api::<ServiceAccount>::namespaced(bed.client(), HOME);
    let request = TokenRequest {
        spec: Some(TokenRequestSpec::default()),
        ..TokenRequest::default()
    };
    let answer = accounts
        .create_token_request(account, &PostParams::default(), &request)
        .await?;
    let status = answer.status.context("the API server gave no token")?;
    status.token.context("the API server gave an empty token")
}

async fn give_rights(bed: &Bed, name: &str, whom: &str) -> Result<()> {
    let roles = bed.roles_for(name, whom).await?;
    bed.apply(&roles).await
}

async fn take_rights(bed: &Bed, name: &str) -> Result<()> {
    let bindings = bed
        .api_of("rbac.authorization.k8s.io/v1", "ClusterRoleBinding", "")
        .await?;
    bindings.delete(name, &DeleteParams::default()).await?;
    Ok(())
}

/// Whether somebody has begun such a request since a mark.
fn has_asked(bed: &Bed, mark: AuditMark, user: &str, verb: &str, resource: &str) -> Result<bool> {
    let audit = bed.audit_since(mark)?.of_user(user);
    let asked = audit.count(|request| request.verb == verb && request.resource == resource);
    Ok(asked > 0)
}

/// Waits until all is watched by `user`, and takes the rights of who was known before. Returns how long the wait was.
async fn watched_anew(bed: &Bed, user: &str, before: &str) -> Result<Duration> {
    let mark = bed.audit_mark()?;
    let began = Instant::now();
    bed.wait(&format!("{user} to watch"), RENEWED, async || {
        let watches = |resource| has_asked(bed, mark, user, "watch", resource);
        Ok((watches("canaries")? && watches("deployments")?).then_some(()))
    })
    .await?;
    take_rights(bed, before).await?;
    Ok(began.elapsed())
}

async fn run_to_end(shop: &Shop<'_>, version: &str) -> Result<()> {
    shop.release(version).await?;
    shop.wait_phase("Progressing").await?;
    shop.wait_phase("Succeeded").await.map(drop)
}

/// Each renewal in a run, and a whole run after it.
pub async fn run(bed: &Bed) -> Result<()> {
    bed.namespace(HOME).await?;
    for account in ["one", "two"] {
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": account, "namespace": HOME}});
        bed.apply(&account.to_string()).await?;
    }
    let files = Files::in_folder(&bed.state().join("renewed"))?;
    files.certificate_of(bed, "serin")?;
    files.kubeconfig(
        bed,
        &json!({"client-certificate": files.certificate, "client-key": files.key}),
    )?;
    let kubeconfig = files.kubeconfig.to_str().context("the path is not UTF-8")?;
    let serin = shop::start_serin_with(bed, &["-kubeconfig", kubeconfig])?;
    let shop = Shop::open(bed, "renewed-credentials", Plan::default()).await?;

    shop.release("1.1.0").await?;
    shop.wait_weight(20).await?;
    give_rights(bed, "renewed", "--user=somebody").await?;
    files.certificate_of(bed, "somebody")?;
    let certificate = watched_anew(bed, "somebody", "bed-serin").await?;
    shop.wait_phase("Succeeded").await?;

    shop.release("1.2.0").await?;
    shop.wait_weight(20).await?;
    give_rights(bed, "one", &format!("--service-account={HOME}/one")).await?;
    replace(&files.token, token(bed, "one").await?.as_bytes())?;
    files.kubeconfig(bed, &json!({"tokenFile": files.token}))?;
    let user = |account: &str| format!("system:serviceaccount:{HOME}:{account}");
    let kubeconfig = watched_anew(bed, &user("one"), "renewed").await?;
    shop.wait_phase("Succeeded").await?;

    // A token is renewed where it lies; only requests after that carry it, and there are some as long as something moves.
    give_rights(bed, "two", &format!("--service-account={HOME}/two")).await?;
    replace(&files.token, token(bed, "two").await?.as_bytes())?;
    let (last, mark, began) = (user("two"), bed.audit_mark()?, Instant::now());
    let mut patch = 0;
    while !has_asked(bed, mark, &last, "patch", "canaries/status")? {
        ensure!(
            began.elapsed() < RENEWED,
            "the token in the file is not used"
        );
        run_to_end(&shop, &format!("1.3.{patch}")).await?;
        patch += 1;
    }
    take_rights(bed, "one").await?;

    let mark = bed.audit_mark()?;
    run_to_end(&shop, "1.4.0").await?;
    shop.wait_only("1.4.0").await?;
    let audit = bed.audit_since(mark)?;
    let name = format!("({})", serin.name());
    let refused = audit.count(|request| request.code == 401 || request.code == 403);
    let others: Vec<&str> = audit
        .requests
        .iter()
        .filter(|request| request.user_agent.contains(&name) && request.user != last)
        .map(|request| request.user.as_str())
        .collect();
    ensure!(
        refused == 0 && others.is_empty(),
        "{refused} requests refused, others asked as {others:?}"
    );
    println!(
        "        watched with a new certificate after {certificate:.0?}, with a new kubeconfig after {kubeconfig:.0?}; a token used after {patch} runs"
    );
    serin.stop().await?;
    flawless(&shop.close().await?)
}
