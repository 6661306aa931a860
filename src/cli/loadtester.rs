//! `serin loadtester`: the flags of Flagger's load tester, and those of ours that say what it may do and where it keeps its gates.

use super::controller::{go_bool, install_crypto, start_logging, stop_on_signal};
use super::credentials::Credentials;
use crate::api::parse_go_duration;
use crate::controller::api_server;
use crate::loadtester::{self, Access, Gates, Limits, Options};
use anyhow::Context;
use clap::Args;
use regex::Regex;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Flags of `serin loadtester`.
#[derive(Debug, Args)]
#[allow(clippy::doc_markdown, reason = "help texts are read as plain text")]
pub struct LoadTesterArguments {
    /// Port of everything: tasks, gates, /metrics and /healthz.
    #[arg(long, value_name = "PORT", default_value_t = 9090)]
    port: u16,
    /// Address that the port is opened on.
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0")]
    bind_address: IpAddr,
    /// The longest that a task may take.
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = positive)]
    timeout: Duration,
    /// Regular expression that the namespace of a canary must match, anywhere in it. Default: any namespace.
    #[arg(long, value_name = "PATTERN", default_value = "")]
    namespace_regexp: String,
    /// Folder with a file for each namespace that may ask, in which its token is: a Secret mounted as a volume. Default: no tokens.
    #[arg(long, value_name = "FOLDER", default_value = "")]
    token_dir: String,
    /// Run shells, helm, kubectl and whatever program a hook names, if the image has it. Whoever may ask can then do what this pod can.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", value_parser = go_bool, action = clap::ArgAction::Set)]
    allow_shell: bool,
    /// Hosts that load and tests may go to, separated by commas: names, addresses, *.suffix. Default: any but link-local addresses.
    #[arg(long, value_name = "HOSTS", default_value = "", value_delimiter = ',')]
    allowed_hosts: Vec<String>,
    /// Folder with keys for tests of type concord: one folder for each server, named like its host, with the files that
    /// metadata.apiKeyPath names. Default: no keys are read.
    #[arg(long, value_name = "FOLDER", default_value = "")]
    api_key_dir: String,
    /// Requests that may be under way at the same time, of all tasks together.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    max_workers: usize,
    /// Where gates are kept: configmap, so that a restart keeps them and replicas agree, or memory, which needs no cluster.
    #[arg(long, value_name = "WHERE", default_value = "configmap", value_parser = ["configmap", "memory"])]
    gates: String,
    /// Name of the ConfigMap.
    #[arg(long, value_name = "NAME", default_value = "serin-loadtester-gates")]
    gates_configmap: String,
    /// Its namespace. Default: the pod's, or the kubeconfig's.
    #[arg(long, value_name = "NAME", default_value = "")]
    gates_namespace: String,
    /// Path to a kubeconfig. Default: $KUBECONFIG, ~/.kube/config, or the service account of the pod.
    #[arg(long, value_name = "FILE", default_value = "")]
    kubeconfig: String,
    /// What is logged: debug, info, warn, warning, error.
    #[arg(long, value_name = "LEVEL", default_value = "debug")]
    log_level: String,
    /// How it is logged: json or console.
    #[arg(long, value_name = "ENCODING", default_value = "json", value_parser = ["json", "console"])]
    zap_encoding: String,
    /// Accepted and without effect: there is one logger.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", hide = true)]
    zap_replace_globals: Option<String>,
}

/// A duration as Go writes it, above zero.
fn positive(text: &str) -> Result<Duration, String> {
    match parse_go_duration(text) {
        Ok(duration) if !duration.is_zero() => Ok(duration),
        Ok(_) => Err(format!("found {text:?}, expected more than no time")),
        Err(error) => Err(error.to_string()),
    }
}

impl LoadTesterArguments {
    fn access(&self) -> anyhow::Result<Access> {
        let namespaces = (!self.namespace_regexp.is_empty())
            .then(|| Regex::new(&self.namespace_regexp))
            .transpose()
            .context("-namespace-regexp")?;
        let tokens = (!self.token_dir.is_empty()).then(|| PathBuf::from(&self.token_dir));
        if let Some(folder) = &tokens {
            // A folder that is not there would refuse everybody, one hook at a time.
            std::fs::read_dir(folder)
                .with_context(|| format!("--token-dir {}", folder.display()))?;
        }
        Ok(Access { namespaces, tokens })
    }

    fn limits(&self) -> Limits {
        Limits {
            timeout: self.timeout,
            allow_shell: self.allow_shell,
            allowed_hosts: self.allowed_hosts.clone(),
            max_workers: self.max_workers,
            api_keys: (!self.api_key_dir.is_empty()).then(|| PathBuf::from(&self.api_key_dir)),
        }
    }

    async fn gates(&self) -> anyhow::Result<Gates> {
        if self.gates == "memory" {
            return Ok(Gates::in_memory());
        }
        let credentials = Credentials {
            kubeconfig: self.kubeconfig.clone(),
            master: String::new(),
        };
        let configs = credentials
            .follow()
            .await
            .context("gates are kept in a ConfigMap; without a cluster: --gates=memory")?;
        let namespace = match self.gates_namespace.as_str() {
            "" => configs.borrow().default_namespace.clone(),
            namespace => namespace.to_owned(),
        };
        let replica = ["POD_NAME", "HOSTNAME"]
            .into_iter()
            .find_map(|name| std::env::var(name).ok())
            .unwrap_or_else(|| "loadtester".to_owned());
        let api = api_server(configs, &replica)?;
        tracing::info!(
            namespace,
            name = self.gates_configmap,
            "gates are kept in a ConfigMap"
        );
        Ok(Gates::in_config_map(api, &namespace, &self.gates_configmap))
    }
}

/// Runs the load tester until a signal ends it.
pub fn run(arguments: &LoadTesterArguments) -> anyhow::Result<()> {
    start_logging(&arguments.log_level, &arguments.zap_encoding)?;
    install_crypto();
    let access = arguments.access()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("loadtester")
        .build()
        .context("the runtime can't be started")?;
    let result = runtime.block_on(async {
        let stop = CancellationToken::new();
        tokio::spawn(stop_on_signal(stop.clone()));
        let options = Options {
            listen: SocketAddr::new(arguments.bind_address, arguments.port),
            access,
            gates: arguments.gates().await?,
            limits: arguments.limits(),
        };
        loadtester::run(options, stop).await?;
        Ok(())
    });
    runtime.shutdown_background();
    result
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::{Arguments, Command, double_dashes};
    use super::*;
    use clap::Parser;

    fn parse(arguments: &[&str]) -> Result<LoadTesterArguments, clap::Error> {
        let all = ["serin", "loadtester"]
            .iter()
            .chain(arguments)
            .map(|argument| (*argument).to_owned());
        match Arguments::try_parse_from(double_dashes(all))?.command {
            Command::Loadtester(arguments) => Ok(*arguments),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn flags_and_defaults_are_flaggers() {
        let arguments = parse(&[]).unwrap();
        assert_eq!(
            (arguments.port, arguments.timeout),
            (9090, Duration::from_hours(1))
        );
        assert!(arguments.access().unwrap().namespaces.is_none());
        assert!(!arguments.limits().allow_shell, "never by default");
        let arguments = parse(&[
            "-port=8080",
            "-log-level=info",
            "-timeout=30m",
            "-namespace-regexp=shop",
            "-zap-encoding=console",
            "-zap-replace-globals=true",
            "--allow-shell",
            "-allowed-hosts=*.test,app.shop",
        ])
        .unwrap();
        assert_eq!(
            (arguments.port, arguments.timeout),
            (8080, Duration::from_mins(30))
        );
        assert!(
            arguments
                .access()
                .unwrap()
                .namespaces
                .unwrap()
                .is_match("my-shop")
        );
        assert!(arguments.limits().allow_shell);
        assert_eq!(arguments.limits().allowed_hosts, ["*.test", "app.shop"]);
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (flag, told) in [
            ("-timeout=0s", "expected more than no time"),
            ("-gates=disk", "[possible values: configmap, memory]"),
            ("-allow-shell=maybe", "expected true or false"),
        ] {
            let error = parse(&[flag]).unwrap_err().to_string();
            assert!(error.contains(told), "{flag}: {error}");
        }
        let error = parse(&["-namespace-regexp=("])
            .unwrap()
            .access()
            .unwrap_err();
        assert!(
            format!("{error:#}").contains("-namespace-regexp"),
            "{error:#}"
        );
        let error = parse(&["-token-dir=/no/such/folder"])
            .unwrap()
            .access()
            .unwrap_err();
        assert!(
            format!("{error:#}").contains("/no/such/folder"),
            "{error:#}"
        );
    }
}
