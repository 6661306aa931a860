//! Certificates and kubeconfigs of a bed: one authority, a serving certificate, and a client certificate for each user.
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use serde_json::{Value, json};

/// Where the API server listens, inside the bed's network.
pub const API_SERVER: &str = "https://127.0.0.1:6443";

/// The certificate that a gateway shows to visitors.
pub const GATEWAY: &str = "gateway";

/// A user of the bed's API server. The groups decide what it may do; a user without groups may do what is bound to its name.
struct User {
    name: &'static str,
    common_name: &'static str,
    groups: &'static [&'static str],
}

const MASTERS: &[&str] = &["system:masters"];
const USERS: [User; 10] = [
    User {
        name: "admin",
        common_name: "admin",
        groups: MASTERS,
    },
    User {
        name: "kubelet",
        common_name: "bed-kubelet",
        groups: MASTERS,
    },
    User {
        name: "kube-controller-manager",
        common_name: "bed-kube-controller-manager",
        groups: MASTERS,
    },
    User {
        name: "prometheus",
        common_name: "bed-prometheus",
        groups: MASTERS,
    },
    User {
        name: "traefik",
        common_name: "bed-traefik",
        groups: MASTERS,
    },
    User {
        name: "contour",
        common_name: "bed-contour",
        groups: MASTERS,
    },
    User {
        name: "istiod",
        common_name: "bed-istiod",
        groups: MASTERS,
    },
    User {
        name: "envoy-gateway",
        common_name: "bed-envoy-gateway",
        groups: MASTERS,
    },
    User {
        name: "serin",
        common_name: "serin",
        groups: &[],
    },
    // May do what a story lets them.
    User {
        name: "somebody",
        common_name: "somebody",
        groups: &[],
    },
];

/// Who makes certificates.
pub struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate with its key, both PEM.
pub struct Issued {
    pub certificate: String,
    pub key: String,
}

impl Issued {
    /// The Secret that keeps it.
    #[must_use]
    pub fn secret(&self, namespace: &str, name: &str) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
            "metadata": {"name": name, "namespace": namespace},
            "stringData": {"tls.crt": self.certificate, "tls.key": self.key},
        })
    }
}

impl Authority {
    /// A new one, which nobody trusts yet.
    pub fn new(name: &str) -> Result<Self> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::CrlSign,
        ];
        let key = KeyPair::generate()?;
        Ok(Self {
            pem: params.self_signed(&key)?.pem(),
            issuer: Issuer::new(params, key),
        })
    }

    /// Its own certificate.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Its own certificate and key, for somebody who is to issue in its name.
    #[must_use]
    pub fn own(&self) -> Issued {
        Issued {
            certificate: self.pem.clone(),
            key: self.issuer.key().serialize_pem(),
        }
    }

    /// Makes a certificate for a server of these names.
    pub fn server(&self, names: impl Into<Vec<String>>) -> Result<Issued> {
        let mut server = CertificateParams::new(names)?;
        server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.issue(server)
    }

    fn issue(&self, mut params: CertificateParams) -> Result<Issued> {
        let key = KeyPair::generate()?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        Ok(Issued {
            certificate: params.signed_by(&key, &self.issuer)?.pem(),
            key: key.serialize_pem(),
        })
    }
}

/// The files made for one bed.
#[derive(Debug, Clone)]
pub struct Pki {
    folder: PathBuf,
    authority: String,
}

impl Pki {
    /// Makes every key, certificate and kubeconfig in `<state>/pki` and `<state>/<user>.kubeconfig`.
    pub fn make(state: &Path) -> Result<Self> {
        let folder = state.join("pki");
        fs::create_dir_all(&folder)?;
        let authority = Authority::new("bed-ca")?;
        let pki = Self {
            folder,
            authority: authority.pem().to_owned(),
        };
        fs::write(pki.authority(), authority.pem())?;

        let names = [
            "127.0.0.1",
            "10.96.0.1",
            "localhost",
            "kubernetes.default.svc",
        ];
        pki.keep("apiserver", &authority.server(names.map(String::from))?)?;
        pki.keep(GATEWAY, &authority.server(["localhost".to_owned()])?)?;

        for user in USERS {
            let mut client = CertificateParams::default();
            client
                .distinguished_name
                .push(DnType::CommonName, user.common_name);
            for group in user.groups {
                client
                    .distinguished_name
                    .push(DnType::OrganizationName, *group);
            }
            client.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
            pki.keep(user.name, &authority.issue(client)?)?;
            let [authority, certificate, key] = [
                pki.authority(),
                pki.certificate(user.name),
                pki.key(user.name),
            ];
            fs::write(
                kubeconfig(state, user.name),
                kubeconfig_text(user.name, &authority, &certificate, &key)?,
            )?;
        }

        let signing = KeyPair::generate()?;
        fs::write(pki.key("service-account"), signing.serialize_pem())?;
        fs::write(
            pki.folder.join("service-account.pub"),
            signing.public_key_pem(),
        )?;
        Ok(pki)
    }

    /// What was issued to a server or a user.
    pub fn issued(&self, name: &str) -> Result<Issued> {
        let read = |path: PathBuf| {
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
        };
        Ok(Issued {
            certificate: read(self.certificate(name))?,
            key: read(self.key(name))?,
        })
    }

    /// The authority's certificate itself, PEM.
    #[must_use]
    pub fn authority_pem(&self) -> &str {
        &self.authority
    }

    fn keep(&self, name: &str, issued: &Issued) -> Result<()> {
        fs::write(self.certificate(name), &issued.certificate)?;
        Ok(fs::write(self.key(name), &issued.key)?)
    }

    /// Puts a user's kubeconfig, and what it points to, into a folder that is the whole world of a program.
    pub fn pack(&self, user: &str, root: &Path) -> Result<()> {
        let files = [
            (self.authority(), "ca.crt"),
            (self.certificate(user), "client.crt"),
            (self.key(user), "client.key"),
        ];
        for (from, to) in files {
            fs::copy(&from, root.join(to))
                .with_context(|| format!("copying {}", from.display()))?;
        }
        let [authority, certificate, key] =
            ["/ca.crt", "/client.crt", "/client.key"].map(Path::new);
        let text = kubeconfig_text(user, authority, certificate, key)?;
        Ok(fs::write(root.join("kubeconfig"), text)?)
    }

    #[must_use]
    pub fn authority(&self) -> PathBuf {
        self.certificate("ca")
    }

    #[must_use]
    pub fn certificate(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.crt"))
    }

    #[must_use]
    pub fn key(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.key"))
    }
}

/// The kubeconfig of a user in a bed's state folder.
#[must_use]
pub fn kubeconfig(state: &Path, user: &str) -> PathBuf {
    state.join(format!("{user}.kubeconfig"))
}

/// JSON is YAML: a kubeconfig needs no template.
fn kubeconfig_text(user: &str, authority: &Path, certificate: &Path, key: &Path) -> Result<String> {
    Ok(serde_json::to_string_pretty(&json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "bed",
        "clusters": [{"name": "bed", "cluster": {"server": API_SERVER, "certificate-authority": authority}}],
        "users": [{"name": user, "user": {"client-certificate": certificate, "client-key": key}}],
        "contexts": [{"name": "bed", "context": {"cluster": "bed", "user": user}}],
    }))?)
}
