//! `serin controller`: Flagger's flags with Flagger's defaults where they apply, the start of logging and of the runtime, and signals.

use super::credentials::Credentials;
use crate::analysis::REQUEST_DURATION;
use crate::analysis::sampling::{ScrapeQuery, scrape_options};
use crate::api::{AlertProviderType, GoDuration, parse_go_duration};
use crate::controller::{self, AdmissionOptions, LeaseSettings, Options};
use crate::notify::Receiver;
use crate::rollout::{Limits, Settings};
use crate::routing::RoutingSettings;
use crate::workload::WorkloadSettings;
use anyhow::Context;
use clap::{Args, FromArgMatches};
use std::io::IsTerminal;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Name of Flagger's Lease: with the same one, the two never work at the same time.
const LEASE_NAME: &str = "flagger-leader-election";

/// Flags of `serin controller`.
#[derive(Debug, Args)]
#[allow(clippy::doc_markdown, reason = "help texts are read as plain text")]
#[allow(clippy::struct_excessive_bools, reason = "flags are what they are")]
pub struct ControllerArguments {
    /// Path to a kubeconfig. Default: $KUBECONFIG, ~/.kube/config, or the service account of the pod.
    #[arg(long, value_name = "FILE", default_value = "")]
    kubeconfig: String,
    /// Address of the API server, in place of the one in the kubeconfig.
    #[arg(long, value_name = "URL", default_value = "")]
    master: String,
    /// Namespaces to watch, separated by commas. Default: all.
    #[arg(long, value_name = "NAMES", default_value = "", value_delimiter = ',')]
    namespace: Vec<String>,
    /// Router of canaries that name none, such as gatewayapi:v1, nginx or kubernetes.
    #[arg(long, value_name = "NAME", default_value = "istio")]
    mesh_provider: String,
    /// Prometheus for built-in and inline metrics of canaries that name none, or scrape, perhaps with options as in scrape?port=9797: the
    /// metrics pages of the canary's own pods.
    #[arg(long, value_name = "URL", default_value = "http://prometheus:9090")]
    metrics_server: String,
    /// Canaries that are worked on at the same time.
    #[arg(long, value_name = "N", default_value_t = 2)]
    threadiness: usize,
    /// Runs that may be under way at once in the whole cluster; 0 for any number. Others wait for their turn.
    #[arg(long, value_name = "N", default_value_t = 0)]
    max_runs: usize,
    /// Runs that may be under way at once in one namespace; 0 for any number.
    #[arg(long, value_name = "N", default_value_t = 0)]
    max_runs_per_namespace: usize,
    /// Labels by which the pods of a target are told apart, separated by commas, tried in order.
    #[arg(
        long,
        value_name = "NAMES",
        default_value = "app,name,app.kubernetes.io/name",
        value_delimiter = ','
    )]
    selector_labels: Vec<String>,
    /// Prefixes of labels and annotations that are copied to the primary, separated by commas; * for all.
    #[arg(
        long,
        value_name = "PREFIXES",
        default_value = "",
        value_delimiter = ','
    )]
    include_label_prefix: Vec<String>,
    /// Treat a change of a ConfigMap or Secret that the target uses as a new revision.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "true", value_parser = go_bool, action = clap::ArgAction::Set)]
    enable_config_tracking: bool,
    /// Forbid references to MetricTemplates, AlertProviders and upstreams in other namespaces.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", value_parser = go_bool, action = clap::ArgAction::Set)]
    no_cross_namespace_refs: bool,
    /// Refuse canaries that ask of their router what it lacks also where a rollout could go on without it, which is a warning otherwise.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", value_parser = go_bool, action = clap::ArgAction::Set)]
    refuse_unsupported: bool,
    /// Name of this cluster, shown in alerts.
    #[arg(long, value_name = "NAME", default_value = "")]
    cluster_name: String,
    /// Webhook that is told every event. The variable EVENT_WEBHOOK_URL, where set, wins.
    #[arg(long, value_name = "URL", default_value = "")]
    event_webhook: String,
    /// Slack webhook, or method of Slack's API, for alerts about canaries that name nobody. SLACK_URL, where set, wins.
    #[arg(
        long,
        value_name = "URL",
        default_value = "",
        hide_default_value = true
    )]
    slack_url: String,
    /// Bot token for -slack-url. SLACK_TOKEN, where set, wins, and is no argument that others can read.
    #[arg(
        long,
        value_name = "TOKEN",
        default_value = "",
        hide_default_value = true
    )]
    slack_token: String,
    /// Proxy on the way to -slack-url. SLACK_PROXY_URL, where set, wins.
    #[arg(
        long,
        value_name = "URL",
        default_value = "",
        hide_default_value = true
    )]
    slack_proxy_url: String,
    /// Name that alerts come from.
    #[arg(long, value_name = "NAME", default_value = "flagger")]
    slack_user: String,
    /// Channel of alerts. Default: general.
    #[arg(
        long,
        value_name = "NAME",
        default_value = "",
        hide_default_value = true
    )]
    slack_channel: String,
    /// Webhook of Microsoft Teams, in place of Slack. MSTEAMS_URL, where set, wins.
    #[arg(
        long,
        value_name = "URL",
        default_value = "",
        hide_default_value = true
    )]
    msteams_url: String,
    /// Proxy on the way to -msteams-url. MSTEAMS_PROXY_URL, where set, wins.
    #[arg(
        long,
        value_name = "URL",
        default_value = "",
        hide_default_value = true
    )]
    msteams_proxy_url: String,
    /// Form of messages to -msteams-url: adaptive-card for a webhook of Teams' Workflows, message-card for an old connector.
    #[arg(long, value_name = "FORM", default_value = "adaptive-card", value_parser = ["adaptive-card", "message-card"])]
    msteams_format: String,
    /// Port of /metrics, /healthz and /readyz.
    #[arg(long, value_name = "PORT", default_value_t = 8080)]
    port: u16,
    /// Address that the port is opened on.
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0")]
    bind_address: IpAddr,
    /// Port of the admission webhook, HTTPS, path /validate. Default: none, the webhook is off.
    #[arg(
        long,
        value_name = "PORT",
        default_value_t = 0,
        hide_default_value = true
    )]
    admission_port: u16,
    /// Folder with tls.crt and tls.key for the admission webhook; read again when they change.
    #[arg(long, value_name = "FOLDER", default_value = "/etc/serin/admission")]
    admission_certificates: PathBuf,
    /// Run several replicas of which one works. The others wait for its lease.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", value_parser = go_bool, action = clap::ArgAction::Set)]
    enable_leader_election: bool,
    /// Namespace of the lease. Default: the first of -namespace, else kube-system.
    #[arg(long, value_name = "NAME", default_value = "")]
    leader_election_namespace: String,
    /// How long the other replicas wait after the last renewal of the lease that they saw.
    #[arg(long, value_name = "DURATION", default_value = "15s", value_parser = seconds)]
    leader_election_lease_duration: Duration,
    /// How long after its last renewal the leader still works. Shorter than the lease duration.
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = seconds)]
    leader_election_renew_deadline: Duration,
    /// How often the leader renews the lease. Shorter than the renew deadline.
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = seconds)]
    leader_election_retry_period: Duration,
    /// What stands before the slash in the annotations of the nginx ingress controller; used by canaries with provider nginx.
    #[arg(
        long,
        value_name = "PREFIX",
        default_value = "nginx.ingress.kubernetes.io"
    )]
    ingress_annotations_prefix: String,
    /// The class that generated HTTPProxy objects name, for provider contour; empty: none, Contour's own default.
    #[arg(long, value_name = "NAME", default_value = "")]
    ingress_class: String,
    /// What is logged: debug, info, warn, warning, error.
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    log_level: String,
    /// How it is logged: json or console.
    #[arg(long, value_name = "ENCODING", default_value = "json", value_parser = ["json", "console"])]
    zap_encoding: String,
    /// Print the version and exit.
    #[arg(long = "version", value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", value_parser = go_bool, action = clap::ArgAction::Set)]
    print_version: bool,

    #[command(flatten)]
    unused: UnusedArguments,
}

/// Flags of Flagger that are accepted and do nothing.
#[derive(Debug, Args)]
#[command(next_help_heading = "Flags of Flagger that are accepted and have no effect")]
struct UnusedArguments {
    /// Requests are few and need no limit.
    #[arg(long, value_name = "N")]
    kubeconfig_qps: Option<String>,
    /// Requests are few and need no limit.
    #[arg(long, value_name = "N")]
    kubeconfig_burst: Option<String>,
    /// Routes in another cluster are not supported.
    #[arg(long, value_name = "FILE")]
    kubeconfig_service_mesh: Option<String>,
    /// The controller reacts to changes and does not poll.
    #[arg(long, value_name = "DURATION")]
    control_loop_interval: Option<String>,
    /// There is one logger.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    zap_replace_globals: Option<String>,
    /// Verbosity of a Go logging library that is not here.
    #[arg(short = 'v', value_name = "N", hide = true)]
    verbosity: Option<String>,
}

impl UnusedArguments {
    /// Names of those that were given a value. Values are not told, some are secrets.
    fn given(&self) -> Vec<&'static str> {
        [
            ("kubeconfig-qps", &self.kubeconfig_qps),
            ("kubeconfig-burst", &self.kubeconfig_burst),
            ("kubeconfig-service-mesh", &self.kubeconfig_service_mesh),
            ("control-loop-interval", &self.control_loop_interval),
            ("zap-replace-globals", &self.zap_replace_globals),
            ("v", &self.verbosity),
        ]
        .into_iter()
        .filter(|(_, value)| value.as_ref().is_some_and(|value| !value.is_empty()))
        .map(|(name, _)| name)
        .collect()
    }
}

/// What Go's `flag` package takes for a boolean.
pub(super) fn go_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        other => Err(format!("expected true or false, found {other:?}")),
    }
}

/// A duration as Go writes it, of a second at least.
fn seconds(text: &str) -> Result<Duration, String> {
    match parse_go_duration(text) {
        Ok(duration) if duration >= Duration::from_secs(1) => Ok(duration),
        Ok(_) => Err(format!("found {text:?}, expected 1s or more")),
        Err(error) => Err(error.to_string()),
    }
}

impl ControllerArguments {
    /// Whether the three times of leader election leave the holder time to notice that it lost the lease.
    fn check_lease(&self) -> anyhow::Result<()> {
        let (duration, deadline, period) = (
            self.leader_election_lease_duration,
            self.leader_election_renew_deadline,
            self.leader_election_retry_period,
        );
        anyhow::ensure!(
            period < deadline && deadline < duration,
            "leader election: expected retry period < renew deadline < lease duration, such as 2s < 10s < 15s; found {}, {} and {}",
            GoDuration(period),
            GoDuration(deadline),
            GoDuration(duration)
        );
        Ok(())
    }

    /// Whether the options of `scrape` can be understood.
    fn check_metrics_server(&self) -> anyhow::Result<()> {
        if let Some(options) = scrape_options(&self.metrics_server) {
            ScrapeQuery::parse(&format!("{REQUEST_DURATION}?{options}"))
                .map_err(|why| anyhow::anyhow!("-metrics-server: {why}"))?;
        }
        Ok(())
    }

    /// The options of a controller that is started with these flags inside of another command.
    pub fn for_options(flags: &[&str]) -> anyhow::Result<Options> {
        let command = Self::augment_args(clap::Command::new("controller").no_binary_name(true));
        let arguments = Self::from_arg_matches(&command.try_get_matches_from(flags)?)?;
        arguments.check_lease()?;
        arguments.check_metrics_server()?;
        Ok(arguments.options(|_| None))
    }

    fn namespaces(&self) -> Vec<String> {
        not_empty(&self.namespace)
    }

    /// The channel of alerts about canaries that name nobody; Teams goes before Slack, as in Flagger.
    fn alerts(&self, variable: impl Fn(&str) -> Option<String>) -> Option<Receiver> {
        let chosen = |name: &str, flag: &str| {
            variable(name)
                .filter(|value| !value.is_empty())
                .unwrap_or_else(|| flag.to_owned())
        };
        let teams = chosen("MSTEAMS_URL", &self.msteams_url);
        if !teams.is_empty() {
            let proxy = chosen("MSTEAMS_PROXY_URL", &self.msteams_proxy_url);
            return Some(Receiver {
                format: self.msteams_format.parse().unwrap_or_default(),
                ..Receiver::of_flags(AlertProviderType::MsTeams, &teams, "", &proxy, "", "")
            });
        }
        let slack = chosen("SLACK_URL", &self.slack_url);
        (!slack.is_empty()).then(|| {
            Receiver::of_flags(
                AlertProviderType::Slack,
                &slack,
                &chosen("SLACK_TOKEN", &self.slack_token),
                &chosen("SLACK_PROXY_URL", &self.slack_proxy_url),
                &self.slack_user,
                &self.slack_channel,
            )
        })
    }

    /// `variable` reads the environment, which goes before flags.
    fn options(&self, variable: impl Fn(&str) -> Option<String>) -> Options {
        let namespaces = self.namespaces();
        let event_webhook = variable("EVENT_WEBHOOK_URL")
            .filter(|url| !url.is_empty())
            .unwrap_or_else(|| self.event_webhook.clone());
        let alerts = self.alerts(variable);
        let replica = ["POD_NAME", "HOSTNAME"]
            .into_iter()
            .find_map(|name| std::env::var(name).ok())
            .unwrap_or_else(|| "serin".to_owned());
        let lease = self.enable_leader_election.then(|| LeaseSettings {
            namespace: [
                namespaces.first().map_or("", String::as_str),
                &self.leader_election_namespace,
                "kube-system",
            ]
            .into_iter()
            .find(|namespace| !namespace.is_empty())
            .unwrap_or_default()
            .to_owned(),
            name: LEASE_NAME.to_owned(),
            duration: self.leader_election_lease_duration,
            renew_deadline: self.leader_election_renew_deadline,
            retry_period: self.leader_election_retry_period,
            identity: format!("{replica}_{:016x}", rand::random::<u64>()),
        });
        Options {
            settings: Settings {
                mesh_provider: self.mesh_provider.clone(),
                metrics_server: self.metrics_server.clone(),
                no_cross_namespace_refs: self.no_cross_namespace_refs,
                cluster_name: self.cluster_name.clone(),
                alerts: alerts.is_some(),
                limits: Limits {
                    everywhere: self.max_runs,
                    in_namespace: self.max_runs_per_namespace,
                },
                workload: WorkloadSettings {
                    selector_labels: not_empty(&self.selector_labels),
                    include_label_prefix: not_empty(&self.include_label_prefix),
                    config_tracking: self.enable_config_tracking,
                },
                routing: RoutingSettings {
                    ingress_annotations_prefix: self.ingress_annotations_prefix.clone(),
                    ingress_class: self.ingress_class.clone(),
                    refuse_unsupported: self.refuse_unsupported,
                },
            },
            namespaces,
            threadiness: self.threadiness.max(1),
            listen: SocketAddr::new(self.bind_address, self.port),
            event_webhook: (!event_webhook.is_empty()).then_some(event_webhook),
            alerts,
            replica,
            lease,
            admission: (self.admission_port != 0).then(|| AdmissionOptions {
                listen: SocketAddr::new(self.bind_address, self.admission_port),
                certificates: self.admission_certificates.clone(),
            }),
        }
    }
}

fn not_empty(texts: &[String]) -> Vec<String> {
    texts
        .iter()
        .map(|text| text.trim().to_owned())
        .filter(|text| !text.is_empty())
        .collect()
}

/// The level for our own lines; libraries speak from warn on, except when debugging.
fn log_filter(level: &str) -> Option<&'static str> {
    match level.to_ascii_lowercase().as_str() {
        "debug" => Some("info,serin=debug"),
        "info" => Some("warn,serin=info"),
        "warn" | "warning" => Some("warn"),
        "error" | "fatal" | "panic" => Some("error"),
        _ => None,
    }
}

pub(super) fn start_logging(level: &str, encoding: &str) -> anyhow::Result<()> {
    let filter = log_filter(level).with_context(|| {
        format!("-log-level: found {level:?}, expected debug, info, warn, warning or error")
    })?;
    let registry = tracing_subscriber::registry().with(EnvFilter::new(filter));
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    if encoding == "json" {
        registry.with(lines.json().flatten_event(true)).init();
    } else {
        registry.with(lines).init();
    }
    Ok(())
}

/// Chooses the cryptography of all TLS here.
pub fn install_crypto() {
    if rustls::crypto::ring::default_provider()
        .install_default()
        .is_err()
    {
        tracing::debug!("a crypto provider was installed before");
    }
}

/// Runs the controller until a signal ends it.
pub fn run(arguments: &ControllerArguments) -> anyhow::Result<()> {
    if arguments.print_version {
        println!("{}", env!("CARGO_PKG_VERSION"));
        return Ok(());
    }
    start_logging(&arguments.log_level, &arguments.zap_encoding)?;
    let unused = arguments.unused.given();
    if !unused.is_empty() {
        tracing::warn!(
            flags = unused.join(","),
            "these flags of Flagger are accepted and have no effect"
        );
    }
    install_crypto();
    arguments.check_lease()?;
    arguments.check_metrics_server()?;
    let options = arguments.options(|name| std::env::var(name).ok());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("serin")
        .build()
        .context("the runtime can't be started")?;
    let result = runtime.block_on(async {
        let stop = CancellationToken::new();
        tokio::spawn(stop_on_signal(stop.clone()));
        let credentials = Credentials {
            kubeconfig: arguments.kubeconfig.clone(),
            master: arguments.master.clone(),
        };
        controller::run(credentials.follow().await?, options, stop).await?;
        Ok(())
    });
    // Watches and stuck calls are not waited for.
    runtime.shutdown_background();
    result
}

/// SIGTERM and SIGINT end the controller in order; the second one at once.
pub(super) async fn stop_on_signal(stop: CancellationToken) {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut terminate), Ok(mut interrupt)) = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    ) else {
        tracing::error!("signals can't be caught; SIGTERM will end the process at once");
        return;
    };
    for last in [false, true] {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        if last {
            tracing::warn!("second signal: ending at once");
            std::process::exit(1);
        }
        stop.cancel();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::tests::parse;
    use super::*;

    #[test]
    fn defaults_are_flaggers() {
        let options = parse(&[]).unwrap().options(|_| None);
        assert_eq!(options.settings.mesh_provider, "istio");
        assert_eq!(options.settings.metrics_server, "http://prometheus:9090");
        assert_eq!(options.settings.workload, WorkloadSettings::default());
        assert!(
            options.namespaces.is_empty()
                && options.event_webhook.is_none()
                && options.lease.is_none()
        );
        assert_eq!(
            (options.threadiness, options.listen.to_string().as_str()),
            (2, "0.0.0.0:8080")
        );
    }

    #[test]
    fn flaggers_way_of_writing_flags_is_understood() {
        let arguments = parse(&[
            "-log-level=info",
            "-namespace",
            "a,b",
            "-enable-config-tracking=false",
            "--no-cross-namespace-refs",
            "-selector-labels=app, tier",
            "-kubeconfig-qps=20",
            "-zap-replace-globals=true",
            "-v=4",
            "-include-label-prefix=*",
            "-enable-leader-election=true",
        ])
        .unwrap();
        assert_eq!(
            arguments.unused.given(),
            ["kubeconfig-qps", "zap-replace-globals", "v"]
        );
        let options = arguments.options(|_| None);
        assert_eq!(options.namespaces, ["a", "b"]);
        assert!(
            !options.settings.workload.config_tracking && options.settings.no_cross_namespace_refs
        );
        assert_eq!(options.settings.workload.selector_labels, ["app", "tier"]);
        assert_eq!(options.settings.workload.include_label_prefix, ["*"]);
        let lease = options.lease.unwrap();
        assert_eq!(
            (lease.namespace.as_str(), lease.name.as_str()),
            ("a", "flagger-leader-election")
        );
    }

    #[test]
    fn the_environment_beats_the_flag() {
        let arguments = parse(&["-event-webhook=http://flag"]).unwrap();
        assert_eq!(
            arguments
                .options(|name| (name == "EVENT_WEBHOOK_URL").then(|| "http://variable".into()))
                .event_webhook
                .unwrap(),
            "http://variable"
        );
        assert_eq!(
            arguments
                .options(|_| Some(String::new()))
                .event_webhook
                .unwrap(),
            "http://flag"
        );
    }

    #[test]
    fn the_controllers_own_channel_is_teams_or_slack_and_its_secrets_are_not_shown() {
        assert!(parse(&[]).unwrap().options(|_| None).alerts.is_none());
        let slack = parse(&[
            "-slack-url=http://slack.test/T0",
            "-slack-token=t0ken",
            "-slack-channel=ops",
        ])
        .unwrap()
        .options(|_| None)
        .alerts
        .unwrap();
        assert_eq!(
            (
                slack.kind,
                slack.username.as_str(),
                slack.channel.as_str(),
                slack.token.as_deref()
            ),
            (AlertProviderType::Slack, "flagger", "ops", Some("t0ken"))
        );
        let shown = format!("{slack:?}");
        assert!(!shown.contains("t0ken") && !shown.contains("T0"), "{shown}");
        let both = parse(&[
            "-slack-url=http://slack.test/T0",
            "-msteams-format=message-card",
        ])
        .unwrap()
        .options(|name| (name == "MSTEAMS_URL").then(|| "http://teams.test/".to_owned()));
        let teams = both.alerts.unwrap();
        assert_eq!(
            (teams.kind, teams.format.as_str()),
            (AlertProviderType::MsTeams, "message-card")
        );
        assert!(both.settings.alerts);
    }

    #[test]
    fn what_is_wrong_is_said() {
        assert!(
            parse(&["-enable-config-tracking=maybe"])
                .unwrap_err()
                .to_string()
                .contains("expected true or false")
        );
        assert!(
            parse(&["-no-such-flag"])
                .unwrap_err()
                .to_string()
                .contains("--no-such-flag")
        );
        assert!(
            parse(&["-leader-election-retry-period=0s"])
                .unwrap_err()
                .to_string()
                .contains("expected 1s or more")
        );
        assert!(parse(&[]).unwrap().check_lease().is_ok());
        assert!(
            parse(&["-leader-election-renew-deadline=15s"])
                .unwrap()
                .check_lease()
                .unwrap_err()
                .to_string()
                .contains("2s, 15s and 15s")
        );
        assert!(log_filter("loud").is_none() && log_filter("warning").is_some());
    }
}
