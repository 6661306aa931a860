//! Where the API server is and how to be known there, from a kubeconfig or from the service account of the pod, and again whenever the
//! files that say so change: certificates on disk are rotated while the controller runs. (Tokens in files are read anew by the client itself.)

use anyhow::Context;
use kube::config::{KubeConfigOptions, Kubeconfig};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::watch;

/// How often the files are looked at.
const PERIOD: Duration = Duration::from_secs(20);
/// The authority of the API server, in a pod.
const POD_AUTHORITY: &str = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt";

/// Where to find credentials.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    /// Path of a kubeconfig; empty for `$KUBECONFIG`, `~/.kube/config` or the pod's service account.
    pub kubeconfig: String,
    /// Address of the API server, in place of the one that was found; empty for that one.
    pub master: String,
}

impl Credentials {
    /// What the files say now.
    ///
    /// # Errors
    /// When there is nothing to be found, or it can't be understood.
    pub async fn load(&self) -> anyhow::Result<kube::Config> {
        let path = &self.kubeconfig;
        let mut config = if path.is_empty() {
            kube::Config::infer().await.context(
                "no kubeconfig and no service account: give one with -kubeconfig or $KUBECONFIG",
            )?
        } else {
            let kubeconfig = Kubeconfig::read_from(PathBuf::from(path))
                .with_context(|| format!("-kubeconfig {path}"))?;
            kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
                .await
                .with_context(|| format!("-kubeconfig {path}"))?
        };
        if !self.master.is_empty() {
            config.cluster_url = self
                .master
                .parse()
                .with_context(|| format!("-master: {:?} is not a URL", self.master))?;
        }
        Ok(config)
    }

    /// What the files say, now and later.
    ///
    /// # Errors
    /// As [`Self::load`]; later ones are logged, and what was read before goes on.
    pub async fn follow(self) -> anyhow::Result<watch::Receiver<kube::Config>> {
        let mut before = contents(&self.files());
        let (sender, configs) = watch::channel(self.load().await?);
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    () = sender.closed() => return,
                    () = tokio::time::sleep(PERIOD) => {}
                }
                let now = contents(&self.files());
                if now == before {
                    continue;
                }
                // Half-written files are read again the next time.
                match self.load().await {
                    Ok(config) => {
                        tracing::info!("the credentials changed on disk and are used from now on");
                        before = now;
                        let _ = sender.send(config);
                    }
                    Err(error) => {
                        tracing::warn!(
                            error = format!("{error:#}"),
                            "the credentials changed on disk and can't be read; going on with those before"
                        );
                    }
                }
            }
        });
        Ok(configs)
    }

    /// The files that credentials come from: kubeconfigs and what they name, or the pod's authority.
    fn files(&self) -> Vec<PathBuf> {
        let kubeconfigs: Vec<PathBuf> = if self.kubeconfig.is_empty() {
            match std::env::var_os("KUBECONFIG") {
                Some(paths) => std::env::split_paths(&paths)
                    .filter(|path| !path.as_os_str().is_empty())
                    .collect(),
                None => std::env::home_dir()
                    .map(|home| home.join(".kube/config"))
                    .filter(|path| path.exists())
                    .into_iter()
                    .collect(),
            }
        } else {
            vec![PathBuf::from(&self.kubeconfig)]
        };
        if kubeconfigs.is_empty() {
            return vec![PathBuf::from(POD_AUTHORITY)];
        }
        let mut files = kubeconfigs.clone();
        for path in kubeconfigs {
            files.extend(named_in(&path));
        }
        files
    }
}

/// The files that a kubeconfig names.
fn named_in(path: &Path) -> Vec<PathBuf> {
    let Ok(kubeconfig) = Kubeconfig::read_from(path) else {
        return Vec::new();
    };
    let clusters = kubeconfig
        .clusters
        .into_iter()
        .filter_map(|named| named.cluster);
    let users = kubeconfig
        .auth_infos
        .into_iter()
        .filter_map(|named| named.auth_info);
    clusters
        .filter_map(|cluster| cluster.certificate_authority)
        .chain(users.flat_map(|user| {
            [user.client_certificate, user.client_key]
                .into_iter()
                .flatten()
        }))
        .map(PathBuf::from)
        .collect()
}

fn contents(files: &[PathBuf]) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
    files
        .iter()
        .map(|path| (path.clone(), std::fs::read(path).ok()))
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_files_that_a_kubeconfig_names_are_known() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config");
        std::fs::write(
            &path,
            "apiVersion: v1\nkind: Config\nclusters: [{name: c, cluster: {server: 'https://a', certificate-authority: ca.crt}}]\n\
             users: [{name: u, user: {client-certificate: u.crt, client-key: u.key}}]\n",
        )
        .unwrap();
        let files = Credentials {
            kubeconfig: path.to_string_lossy().into_owned(),
            master: String::new(),
        }
        .files();
        let names: Vec<_> = files
            .iter()
            .map(|file| file.file_name().unwrap().to_str().unwrap())
            .collect();
        assert_eq!(names, ["config", "ca.crt", "u.crt", "u.key"]);
        assert!(files.iter().all(|file| file.is_absolute()));
    }

    /// A kubeconfig for the API server of this name.
    fn kubeconfig(server: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters: [{{name: c, cluster: {{server: 'https://{server}'}}}}]\n\
             contexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n\
             users: [{{name: u, user: {{client-certificate: u.crt, client-key: u.key}}}}]\n"
        )
    }

    fn server(configs: &mut watch::Receiver<kube::Config>) -> String {
        let config = configs.borrow_and_update();
        config.cluster_url.host().unwrap_or_default().to_owned()
    }

    #[tokio::test(start_paused = true)]
    async fn what_changes_on_disk_is_used_from_then_on_and_half_a_file_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config");
        std::fs::write(&path, kubeconfig("first")).unwrap();
        let credentials = Credentials {
            kubeconfig: path.to_string_lossy().into_owned(),
            master: String::new(),
        };
        let mut configs = credentials.follow().await.unwrap();
        assert_eq!(server(&mut configs), "first");

        std::fs::write(&path, kubeconfig("second")).unwrap();
        configs.changed().await.unwrap();
        assert_eq!(server(&mut configs), "second");

        std::fs::write(&path, "apiVersion: v1\nkind: Config\nusers: [{").unwrap();
        tokio::time::sleep(PERIOD * 3).await;
        assert!(!configs.has_changed().unwrap());

        std::fs::write(&path, kubeconfig("third")).unwrap();
        configs.changed().await.unwrap();
        assert_eq!(server(&mut configs), "third");
        // The kubeconfig stays as it is, and the certificate that it names is renewed.
        std::fs::write(folder.path().join("u.crt"), "renewed").unwrap();
        let renewed = tokio::time::timeout(PERIOD * 3, configs.changed());
        renewed.await.unwrap().unwrap();
    }
}
