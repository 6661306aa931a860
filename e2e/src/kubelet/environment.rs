//! What a container's process finds around it: variables, volumes as folders, and the credentials of its service account.
use std::net::Ipv4Addr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

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

/// How often what volumes show is read again; a kubelet of a cluster takes a minute or two.
const REFRESH: Duration = Duration::from_secs(2);
/// The link, in a volume's folder, to the folder that has its entries now.
const PRESENT: &str = "..data";

/// Writes the `ConfigMap`, `Secret` and `emptyDir` volumes that a container mounts as folders. Returns where each is to be seen, with its
/// folder.
pub(super) async fn volumes(
    kubelet: &Kubelet,
    pod: &Pod,
    container: &Container,
) -> Result<Vec<(String, PathBuf)>> {
    let mut mounts = Vec::new();
    let known = pod
        .spec
        .iter()
        .flat_map(|spec| spec.volumes.iter().flatten());
    for volume in known {
        let mounted = container.volume_mounts.iter().flatten();
        let mounted: Vec<&str> = mounted
            .filter(|mount| mount.name == volume.name)
            .map(|mount| mount.mount_path.as_str())
            .collect();
        if mounted.is_empty() {
            continue;
        }
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
        show(&folder, &entries)?;
        mounts.extend(
            mounted
                .into_iter()
                .map(|path| (path.to_owned(), folder.clone())),
        );
    }
    Ok(mounts)
}

/// Brings changed entries into the volumes of a container, for ever.
pub(super) async fn refresh(kubelet: &Kubelet, pod: &Pod, container: &Container) {
    loop {
        tokio::time::sleep(REFRESH).await;
        match volumes(kubelet, pod, container).await {
            Ok(mounts) if mounts.is_empty() => return std::future::pending().await,
            // What is gone or can't be read stays as it was.
            Ok(_) | Err(_) => {}
        }
    }
}

/// Has a folder show these entries. They change all at once, as in a cluster: each is a link into the folder to which `..data` leads.
fn show(folder: &Path, entries: &Entries) -> Result<()> {
    std::fs::create_dir_all(folder)?;
    let before = std::fs::read_link(folder.join(PRESENT)).ok();
    let same = |name: &str, bytes: &[u8]| {
        std::fs::read(folder.join(name)).is_ok_and(|found| found == bytes)
    };
    let names: Vec<String> = std::fs::read_dir(folder)?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| !name.starts_with(".."))
        .collect();
    let stays = |name: &String| entries.iter().any(|(known, _)| known == name);
    if entries.iter().all(|(name, bytes)| same(name, bytes))
        && (before.is_none() || names.iter().all(stays))
    {
        return Ok(());
    }
    let fresh = format!("..{}", jiff::Timestamp::now().as_nanosecond());
    std::fs::create_dir(folder.join(&fresh))?;
    for (name, bytes) in entries {
        std::fs::write(folder.join(&fresh).join(name), bytes)?;
    }
    symlink(&fresh, folder.join("..next"))?;
    std::fs::rename(folder.join("..next"), folder.join(PRESENT))?;
    for (name, _) in entries {
        if !names.contains(name) {
            symlink(Path::new(PRESENT).join(name), folder.join(name))?;
        }
    }
    for name in names.iter().filter(|name| !stays(name)) {
        std::fs::remove_file(folder.join(name))?;
    }
    if let Some(before) = before {
        std::fs::remove_dir_all(folder.join(before))?;
    }
    Ok(())
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
    fn the_entries_of_a_volume_change_and_go_all_at_once() {
        let place = std::env::temp_dir().join(format!("serin-volumes-{}", std::process::id()));
        let folder = &place.join("entries");
        let entries = |list: &[(&str, &str)]| -> Entries {
            list.iter()
                .map(|(name, text)| ((*name).to_owned(), text.as_bytes().to_vec()))
                .collect()
        };
        let read = |name: &str| std::fs::read_to_string(folder.join(name)).ok();
        show(folder, &entries(&[("a", "1"), ("b", "1")])).unwrap();
        assert_eq!(read("a").as_deref(), Some("1"));
        let present = std::fs::read_link(folder.join(PRESENT)).unwrap();
        show(folder, &entries(&[("a", "1"), ("b", "1")])).unwrap();
        assert_eq!(std::fs::read_link(folder.join(PRESENT)).unwrap(), present);
        show(folder, &entries(&[("a", "2"), ("c", "2")])).unwrap();
        assert_eq!(read("a").as_deref(), Some("2"));
        assert_eq!(read("b"), None);
        assert_eq!(read("c").as_deref(), Some("2"));
        assert!(!folder.join(present).exists());
        // What a program wrote into a folder of its own stays.
        let own = place.join("own");
        show(&own, &Vec::new()).unwrap();
        std::fs::write(own.join("note"), "mine").unwrap();
        show(&own, &Vec::new()).unwrap();
        assert!(own.join("note").exists());
        std::fs::remove_dir_all(place).unwrap();
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
