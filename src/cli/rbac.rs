//! `serin rbac`: prints the roles that the controller needs, generated from the table that the code is held to.

use crate::api::crd::as_yaml;
use crate::controller::permissions::{
    CONFIG_TRACKING, CORE, Grant, LEADER_ELECTION, METRICS_PROVIDERS, PROVIDERS, for_chart,
    of_metrics_provider, of_provider, rules,
};
use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use std::io::Write;

const RBAC: &str = "rbac.authorization.k8s.io";

/// Arguments of `serin rbac`.
#[derive(Debug, Args)]
pub struct RbacArguments {
    /// Routers in use, separated by commas, such as gatewayapi,kubernetes; own-route stands for the kinds that `spec.routeRef`
    /// may name (rights for any other kind are yours to give). Default: all that there are.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    providers: Vec<String>,
    /// Metrics backends in use that the API server answers for, separated by commas: externalmetrics, keptn. Default: none.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    metrics_providers: Vec<String>,
    /// Print a `Role` in place of a `ClusterRole`, for a controller that watches one namespace (-namespace).
    #[arg(long)]
    namespaced: bool,
    /// Namespaces that the controller watches, separated by commas: prints a Role for each.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    namespace: Vec<String>,
    /// Leave out what only -enable-config-tracking needs.
    #[arg(long)]
    no_config_tracking: bool,
    /// Namespaces of the lease, separated by commas: prints a Role for it in each.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    leader_election_namespace: Vec<String>,
    /// Name of the roles.
    #[arg(long, value_name = "NAME", default_value = "serin")]
    name: String,
    /// Also print bindings of the roles to this service account.
    #[arg(long, value_name = "NAMESPACE/NAME", conflicts_with = "user")]
    service_account: Option<String>,
    /// Also print bindings of the roles to this user.
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Format of the output.
    #[arg(short, long, value_name = "FORMAT", default_value = "yaml")]
    output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    Yaml,
    Json,
    /// The table from which the chart takes what its values ask for.
    #[value(hide = true)]
    Chart,
}

impl RbacArguments {
    fn grants(&self) -> anyhow::Result<Vec<&'static Grant>> {
        let mut grants: Vec<&Grant> = CORE.iter().collect();
        if !self.no_config_tracking {
            grants.extend(CONFIG_TRACKING);
        }
        if self.providers.is_empty() {
            grants.extend(PROVIDERS.iter().flat_map(|(_, grants)| *grants));
        }
        for provider in &self.providers {
            let known = || {
                let names: Vec<&str> = PROVIDERS.iter().map(|(name, _)| *name).collect();
                format!(
                    "--providers: no router is called {provider:?}; there are {}",
                    names.join(", ")
                )
            };
            let row = of_provider(provider.trim()).with_context(known)?;
            // Two names of one router, gatewayapi:v1 and gatewayapi:v1beta1, are one row.
            if !row.is_empty()
                && !grants
                    .iter()
                    .any(|grant| std::ptr::eq(*grant, &raw const row[0]))
            {
                grants.extend(row);
            }
        }
        for provider in &self.metrics_providers {
            let row = of_metrics_provider(provider.trim()).with_context(|| {
                let names: Vec<&str> = METRICS_PROVIDERS.iter().map(|(name, _)| *name).collect();
                format!(
                    "--metrics-providers: {provider:?} needs no rights or is none; those that do are {}",
                    names.join(", ")
                )
            })?;
            grants.extend(row);
        }
        Ok(grants)
    }

    fn subject(&self) -> anyhow::Result<Option<Value>> {
        if let Some(user) = &self.user {
            return Ok(Some(
                json!({"kind": "User", "apiGroup": RBAC, "name": user}),
            ));
        }
        let Some(account) = &self.service_account else {
            return Ok(None);
        };
        match account.split_once('/') {
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() => Ok(Some(
                json!({"kind": "ServiceAccount", "namespace": namespace, "name": name}),
            )),
            _ => bail!("--service-account: found {account:?}, expected NAMESPACE/NAME"),
        }
    }

    fn objects(&self) -> anyhow::Result<Vec<Value>> {
        let subject = self.subject()?;
        let work = rules(self.grants()?);
        let mut objects = Vec::new();
        if self.namespace.is_empty() {
            let kind = if self.namespaced {
                "Role"
            } else {
                "ClusterRole"
            };
            objects.extend(role(kind, &self.name, None, &work, subject.as_ref()));
        }
        for namespace in &self.namespace {
            objects.extend(role(
                "Role",
                &self.name,
                Some(namespace),
                &work,
                subject.as_ref(),
            ));
        }
        let name = format!("{}-leader-election", self.name);
        for namespace in &self.leader_election_namespace {
            let lease = rules(LEADER_ELECTION);
            objects.extend(role(
                "Role",
                &name,
                Some(namespace),
                &lease,
                subject.as_ref(),
            ));
        }
        Ok(objects)
    }
}

/// A role and, where somebody is to have it, its binding.
fn role(
    kind: &str,
    name: &str,
    namespace: Option<&str>,
    rules: &[Value],
    subject: Option<&Value>,
) -> Vec<Value> {
    let api_version = format!("{RBAC}/v1");
    let mut metadata = json!({"name": name});
    if let Some(namespace) = namespace {
        metadata["namespace"] = json!(namespace);
    }
    let mut objects = vec![
        json!({"apiVersion": api_version, "kind": kind, "metadata": metadata, "rules": rules}),
    ];
    objects.extend(subject.map(|subject| {
        json!({
            "apiVersion": api_version, "kind": format!("{kind}Binding"), "metadata": metadata,
            "roleRef": {"apiGroup": RBAC, "kind": kind, "name": name},
            "subjects": [subject],
        })
    }));
    objects
}

/// Prints them.
pub fn run(arguments: &RbacArguments) -> anyhow::Result<()> {
    let text = match arguments.output {
        Output::Yaml => {
            let documents: Vec<String> = arguments.objects()?.iter().map(as_yaml).collect();
            documents.join("---\n")
        }
        Output::Json => {
            let list = json!({"apiVersion": "v1", "kind": "List", "items": arguments.objects()?});
            format!("{list:#}\n")
        }
        Output::Chart => as_yaml(&for_chart()),
    };
    // A reader that had enough, such as head, is no error.
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        arguments: RbacArguments,
    }

    fn objects(line: &str) -> anyhow::Result<Vec<Value>> {
        let words = std::iter::once("serin").chain(line.split_whitespace());
        Line::try_parse_from(words)?.arguments.objects()
    }

    fn kinds(objects: &[Value]) -> Vec<String> {
        let line = |object: &Value| {
            let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default();
            format!("{} {namespace}", object["kind"].as_str().unwrap())
                .trim()
                .to_owned()
        };
        objects.iter().map(line).collect()
    }

    #[test]
    fn a_cluster_role_by_default_and_roles_for_namespaces() {
        assert_eq!(kinds(&objects("").unwrap()), ["ClusterRole"]);
        assert_eq!(kinds(&objects("--namespaced").unwrap()), ["Role"]);
        let bound = objects(
            "--namespace a,b --leader-election-namespace a --service-account serin-system/serin",
        )
        .unwrap();
        assert_eq!(
            kinds(&bound),
            [
                "Role a",
                "RoleBinding a",
                "Role b",
                "RoleBinding b",
                "Role a",
                "RoleBinding a"
            ]
        );
        assert_eq!(bound[1]["subjects"][0]["namespace"], "serin-system");
        assert_eq!(bound[4]["rules"][0]["resources"], json!(["leases"]));
    }

    #[test]
    fn metrics_providers_are_granted_only_where_they_are_named() {
        let has = |arguments: &str, group: &str| {
            let text = serde_json::to_string(&objects(arguments).unwrap()).unwrap();
            text.contains(group)
        };
        assert!(!has("", "metrics.keptn.sh") && !has("", "external.metrics.k8s.io"));
        assert!(has(
            "--metrics-providers keptn,externalmetrics",
            "metrics.keptn.sh"
        ));
        assert!(has(
            "--metrics-providers keptn,externalmetrics",
            "external.metrics.k8s.io"
        ));
        let why = objects("--metrics-providers datadog").unwrap_err();
        assert!(why.to_string().contains("externalmetrics, keptn"), "{why}");
    }

    #[test]
    fn only_the_providers_in_use_are_granted() {
        let has = |line: &str, what: &str| {
            let text = Value::Array(objects(line).unwrap()).to_string();
            text.matches(&format!("\"{what}\"")).count()
        };
        assert_eq!(has("--providers kubernetes", "httproutes"), 0);
        assert_eq!(
            has("--providers gatewayapi:v1,gatewayapi:v1beta1", "httproutes"),
            1
        );
        assert_eq!(has("", "httproutes"), 1);
        let why = objects("--providers gatewayapi,nonsense").unwrap_err();
        assert!(why.to_string().contains("nonsense"), "{why}");
    }

    #[test]
    fn configs_are_only_read_without_tracking() {
        let verbs = |line: &str| {
            let objects = objects(line).unwrap();
            let rules = objects[0]["rules"].as_array().unwrap().clone();
            let rule = rules
                .into_iter()
                .find(|rule| rule["resources"].to_string().contains("secrets"));
            rule.unwrap()["verbs"].clone()
        };
        assert_eq!(
            verbs("--no-config-tracking"),
            json!(["get", "list", "watch"])
        );
        assert_eq!(
            verbs(""),
            json!(["get", "list", "watch", "create", "patch", "delete"])
        );
    }
}
