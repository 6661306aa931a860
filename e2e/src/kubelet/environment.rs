//! What a container's process finds around it: variables, volumes as folders, and the credentials of its service account.
use std::net::Ipv4Addr;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{ConfigMap, Container, Pod, Secret, ServiceAccount};
use kube::api::PostParams;
use kube::{Api, ResourceExt};

use super::{Kubelet, NODE};
use crate::bed::parts::NODE_ADDRESS;
use crate::bed::pki::API_SERVER;

/// Where a pod finds its service account.
pub(super) const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Names and values in order; a later one wins.
pub(super) type Variables = Vec<(String, String)>;
/// The entries of a `ConfigMap` or `Secret`.
type Entries = Vec<(String, Vec<u8>)>;

/// Fills in `$(NAME)`; `$$(NAME)` stays as `$(NAME)`, and so does a name that is not defined.
pub(super) fn expand(text: &str, variables: &[(String, String)]) -> String {
    let mut expanded = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        expanded.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            expanded.push('$');
            rest = after;
        } else if let Some((name, after)) =
            rest.strip_prefix('(').and_then(|name| name.split_once(')'))
        {
            match variables.iter().rev().find(|(known, _)| known == name) {
                Some((_, value)) => expanded.push_str(value),
                None => expanded.extend(["$(", name, ")"]),
            }
            rest = after;
        } else {
            expanded.push('$');
        }
    }
    expanded + rest
}

/// Adds `envFrom` and `env` of a container.
pub(super) async fn add(
    kubelet: &Kubelet,
    pod: &Pod,
    container: &Container,
    address: Ipv4Addr,
    variables: &mut Variables,
) -> Result<()> {
    for source in container.env_from.iter().flatten() {
        let prefix = source.prefix.as_deref().unwrap_or_default();
        let entries = if let Some(reference) = &source.config_map_ref {
            config_map(kubelet, pod, &reference.name, reference.optional).await?
        } else if let Some(reference) = &source.secret_ref {
            secret(kubelet, pod, &reference.name, reference.optional).await?
        } else {
            Vec::new()
        };
        variables.extend(entries.into_iter().map(|(name, value)| {
            (
                format!("{prefix}{name}"),
                String::from_utf8_lossy(&value).into_owned(),
            )
        }));
    }
    for variable in container.env.iter().flatten() {
        let value = match &variable.value_from {
            None => Some(expand(
                variable.value.as_deref().unwrap_or_default(),
                variables,
            )),
            Some(source) => {
                if let Some(field) = &source.field_ref {
                    Some(pod_field(pod, address, &field.field_path)?)
                } else if let Some(key) = &source.config_map_key_ref {
                    entry(
                        config_map(kubelet, pod, &key.name, key.optional).await?,
                        &key.name,
                        &key.key,
                        key.optional,
                    )?
                } else if let Some(key) = &source.secret_key_ref {
                    entry(
                        secret(kubelet, pod, &key.name, key.optional).await?,
                        &key.name,
                        &key.key,
                        key.optional,
                    )?
                } else {
                    None
                }
            }
        };
        variables.extend(value.map(|value| (variable.name.clone(), value)));
    }
    Ok(())
}

/// The value of a `fieldRef`.
fn pod_field(pod: &Pod, address: Ipv4Addr, path: &str) -> Result<String> {
    let spec = pod.spec.as_ref();
    Ok(match path {
        "metadata.name" => pod.name_any(),
        "metadata.namespace" => pod.namespace().unwrap_or_default(),
        "metadata.uid" => pod.uid().unwrap_or_default(),
        "spec.nodeName" => NODE.to_owned(),
        "spec.serviceAccountName" => spec
            .and_then(|spec| spec.service_account_name.clone())
            .unwrap_or_default(),
        "status.podIP" | "status.podIPs" => address.to_string(),
        "status.hostIP" | "status.hostIPs" => NODE_ADDRESS.to_owned(),
        _ => {
            let map = [
                ("metadata.labels['", pod.labels()),
                ("metadata.annotations['", pod.annotations()),
            ];
            let found = map.iter().find_map(|(start, map)| {
                Some((path.strip_prefix(start)?.strip_suffix("']")?, map))
            });
            let (key, map) =
                found.with_context(|| format!("fieldRef {path:?} is none that a pod has"))?;
            map.get(key).cloned().unwrap_or_default()
        }
    })
}

fn entry(
    entries: Entries,
    object: &str,
    key: &str,
    optional: Option<bool>,
) -> Result<Option<String>> {
    match entries.into_iter().find(|(name, _)| name == key) {
        Some((_, value)) => Ok(Some(String::from_utf8_lossy(&value).into_owned())),
        None if optional == Some(true) => Ok(None),
        None => bail!("couldn't find key {key} in {object}"),
    }
}

async fn config_map(
    kubelet: &Kubelet,
    pod: &Pod,
    name: &str,
    optional: Option<bool>,
) -> Result<Entries> {
    let found =
        Api::<ConfigMap>::namespaced(kubelet.client.clone(), &pod.namespace().unwrap_or_default())
            .get_opt(name)
            .await?;
    let Some(found) = found else {
        return if optional == Some(true) {
            Ok(Vec::new())
        } else {
            bail!("configmap {name:?} not found")
        };
    };
    let texts = found
        .data
        .into_iter()
        .flatten()
        .map(|(name, text)| (name, text.into_bytes()));
    Ok(texts
        .chain(
            found
                .binary_data
                .into_iter()
                .flatten()
                .map(|(name, bytes)| (name, bytes.0)),
        )
        .collect())
}

async fn secret(
    kubelet: &Kubelet,
    pod: &Pod,
    name: &str,
    optional: Option<bool>,
) -> Result<Entries> {
    let found =
        Api::<Secret>::namespaced(kubelet.client.clone(), &pod.namespace().unwrap_or_default())
            .get_opt(name)
            .await?;
    let Some(found) = found else {
        return if optional == Some(true) {
            Ok(Vec::new())
        } else {
            bail!("secret {name:?} not found")
        };
    };
    Ok(found
        .data
        .into_iter()
        .flatten()
        .map(|(name, bytes)| (name, bytes.0))
        .collect())
}

/// Writes `ConfigMap`, `Secret` and `emptyDir` volumes as folders; `VOLUME_<NAME>` says where each is, since nothing can be mounted.
pub(super) async fn volumes(kubelet: &Kubelet, pod: &Pod) -> Result<Variables> {
    let mut variables = Vec::new();
    for volume in pod
        .spec
        .iter()
        .flat_map(|spec| spec.volumes.iter().flatten())
    {
        let entries = if let Some(source) = &volume.config_map {
            config_map(kubelet, pod, &source.name, source.optional).await?
        } else if let Some(source) = &volume.secret {
            secret(
                kubelet,
                pod,
                source.secret_name.as_deref().unwrap_or_default(),
                source.optional,
            )
            .await?
        } else if volume.empty_dir.is_some() {
            Vec::new()
        } else {
            continue;
        };
        let folder = kubelet.pod_folder(pod).join("volumes").join(&volume.name);
        std::fs::create_dir_all(&folder)?;
        for (name, bytes) in entries {
            std::fs::write(folder.join(name), bytes)?;
        }
        let variable = format!(
            "VOLUME_{}",
            volume.name.to_uppercase().replace(['-', '.'], "_")
        );
        variables.push((variable, folder.to_string_lossy().into_owned()));
    }
    Ok(variables)
}

/// The folder of a pod's service account, as the mount that admission adds to every pod would show it: token, CA and namespace.
/// `None` for a container that does not ask for that mount.
pub(super) async fn service_account(
    kubelet: &Kubelet,
    pod: &Pod,
    container: &Container,
) -> Result<Option<PathBuf>> {
    let mounts = container.volume_mounts.iter().flatten();
    if !mounts
        .into_iter()
        .any(|mount| mount.mount_path == SERVICE_ACCOUNT)
    {
        return Ok(None);
    }
    let namespace = pod.namespace().unwrap_or_default();
    let account = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.service_account_name.clone())
        .unwrap_or_else(|| "default".to_owned());
    let accounts = Api::<ServiceAccount>::namespaced(kubelet.client.clone(), &namespace);
    let request = TokenRequest {
        spec: Some(TokenRequestSpec {
            expiration_seconds: Some(24 * 3600),
            bound_object_ref: Some(BoundObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                name: Some(pod.name_any()),
                uid: pod.uid(),
            }),
            ..TokenRequestSpec::default()
        }),
        ..TokenRequest::default()
    };
    let answer = accounts
        .create_token_request(&account, &PostParams::default(), &request)
        .await?;
    let status = answer.status.context("the API server gave no token")?;
    let token = status.token.context("the API server gave an empty token")?;
    let folder = kubelet.pod_folder(pod).join("serviceaccount");
    std::fs::create_dir_all(&folder)?;
    std::fs::write(folder.join("token"), token)?;
    std::fs::write(folder.join("namespace"), namespace)?;
    std::fs::copy(kubelet.state.join("pki/ca.crt"), folder.join("ca.crt"))?;
    Ok(Some(folder))
}

/// Where the API server is, as every container is told.
pub(super) fn api_server() -> Variables {
    let address = API_SERVER.trim_start_matches("https://");
    let (host, port) = address.split_once(':').unwrap_or((address, "443"));
    vec![
        ("KUBERNETES_SERVICE_HOST".to_owned(), host.to_owned()),
        ("KUBERNETES_SERVICE_PORT".to_owned(), port.to_owned()),
    ]
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn variables_expand_as_kubernetes_says() {
        let variables = [
            ("A".to_owned(), "1".to_owned()),
            ("A".to_owned(), "2".to_owned()),
        ];
        for (text, expanded) in [
            ("x$(A)y", "x2y"),
            ("$$(A)", "$(A)"),
            ("$(B)", "$(B)"),
            ("$A $", "$A $"),
            ("$(A", "$(A"),
        ] {
            assert_eq!(expand(text, &variables), expanded, "{text}");
        }
    }

    #[test]
    fn pod_fields_are_found_and_unknown_ones_refused() {
        let pod: Pod =
            serde_saphyr::from_str("{metadata: {name: a, labels: {app: shop}}}").unwrap();
        let address = Ipv4Addr::new(10, 244, 0, 9);
        assert_eq!(
            pod_field(&pod, address, "status.podIP").unwrap(),
            "10.244.0.9"
        );
        assert_eq!(
            pod_field(&pod, address, "metadata.labels['app']").unwrap(),
            "shop"
        );
        assert!(pod_field(&pod, address, "status.nonsense").is_err());
    }
}
