//! Certificates and kubeconfigs of a bed: one authority, a serving certificate, and a client certificate for each user.
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

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

/// The files made for one bed.
#[derive(Debug, Clone)]
pub struct Pki {
    folder: PathBuf,
}

impl Pki {
    /// Makes every key, certificate and kubeconfig in `<state>/pki` and `<state>/<user>.kubeconfig`.
    pub fn make(state: &Path) -> Result<Self> {
        let folder = state.join("pki");
        fs::create_dir_all(&folder)?;
        let pki = Self { folder };

        let mut authority = CertificateParams::default();
        authority
            .distinguished_name
            .push(DnType::CommonName, "bed-ca");
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::CrlSign,
        ];
        let key = KeyPair::generate()?;
        let authority_pem = authority.self_signed(&key)?.pem();
        fs::write(pki.authority(), &authority_pem)?;
        let issuer = Issuer::new(authority, key);

        let names = [
            "127.0.0.1",
            "10.96.0.1",
            "localhost",
            "kubernetes.default.svc",
        ];
        let mut server = CertificateParams::new(names.map(String::from))?;
        server
            .distinguished_name
            .push(DnType::CommonName, "kube-apiserver");
        server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        pki.issue("apiserver", server, &issuer)?;
        let mut gateway = CertificateParams::new(["localhost".to_owned()])?;
        gateway.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        pki.issue(GATEWAY, gateway, &issuer)?;

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
            let (certificate, key) = pki.issue(user.name, client, &issuer)?;
            fs::write(
                kubeconfig(state, user.name),
                kubeconfig_text(user.name, &pki.authority(), &certificate, &key)?,
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

    fn issue(
        &self,
        name: &str,
        mut params: CertificateParams,
        issuer: &Issuer<'_, KeyPair>,
    ) -> Result<(PathBuf, PathBuf)> {
        let key = KeyPair::generate()?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let certificate = params
            .signed_by(&key, issuer)
            .with_context(|| format!("issuing the certificate of {name}"))?;
        fs::write(self.certificate(name), certificate.pem())?;
        fs::write(self.key(name), key.serialize_pem())?;
        Ok((self.certificate(name), self.key(name)))
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
    Ok(serde_json::to_string_pretty(&serde_json::json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "bed",
        "clusters": [{"name": "bed", "cluster": {"server": API_SERVER, "certificate-authority": authority}}],
        "users": [{"name": user, "user": {"client-certificate": certificate, "client-key": key}}],
        "contexts": [{"name": "bed", "context": {"cluster": "bed", "user": user}}],
    }))?)
}
