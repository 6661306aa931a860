//! The way to the demo's API server: TLS on loopback with an authority made for this process, a token, and a kubeconfig with both in a
//! folder that only the user can read. The folder goes with the process.
//!
//! TLS is here for kubectl's sake: it sends no token over a connection without.

use crate::controller::tls::{self, TlsListener};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use serde_json::json;
use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Certificates for one server on 127.0.0.1.
pub struct Certificates {
    /// The authority, as PEM.
    pub authority: String,
    settings: Arc<rustls::ServerConfig>,
}

/// No certificate can be made.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    #[error("no certificate can be made: {0}")]
    Made(#[from] rcgen::Error),
    #[error("the certificate can't be used: {0}")]
    Used(#[from] rustls::Error),
}

impl Certificates {
    /// Makes an authority and a server's certificate. The authority's key is forgotten at once.
    pub fn make() -> Result<Self, CertificateError> {
        let mut authority = CertificateParams::default();
        authority
            .distinguished_name
            .push(DnType::CommonName, "serin demo");
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyCertSign,
        ];
        let key = KeyPair::generate()?;
        let pem = authority.self_signed(&key)?.pem();
        let issuer = Issuer::new(authority, key);
        let mut server = CertificateParams::new(["127.0.0.1".to_owned(), "localhost".to_owned()])?;
        server
            .distinguished_name
            .push(DnType::CommonName, "serin demo API server");
        server.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate()?;
        let certificate = server.signed_by(&key, &issuer)?;
        let certified = CertifiedKey::from_der(
            vec![certificate.der().clone()],
            PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
            &rustls::crypto::ring::default_provider(),
        )?;
        Ok(Self {
            authority: pem,
            settings: tls::settings(Arc::new(SingleCertAndKey::from(certified)))?,
        })
    }

    /// Listens on 127.0.0.1 with them; port 0 takes a free one.
    pub async fn listen(&self, port: u16) -> io::Result<TlsListener> {
        TlsListener::bind(
            (Ipv4Addr::LOCALHOST, port).into(),
            Arc::clone(&self.settings),
        )
        .await
    }
}

/// A text that nobody can guess.
#[must_use]
pub fn secret() -> String {
    format!(
        "{:032x}{:032x}",
        rand::random::<u128>(),
        rand::random::<u128>()
    )
}

/// A kubeconfig on disk, gone when this is dropped.
#[derive(Debug)]
pub struct KubeconfigFile {
    folder: PathBuf,
    path: PathBuf,
}

impl KubeconfigFile {
    /// Writes it into a new folder that only the user can enter (0700), readable by the user alone (0600).
    pub fn write(
        server: SocketAddr,
        authority: &str,
        token: &str,
        namespace: &str,
    ) -> io::Result<Self> {
        use base64::Engine;
        let authority = base64::engine::general_purpose::STANDARD.encode(authority);
        // JSON is YAML.
        let text = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "serin-demo",
            "clusters": [{"name": "serin-demo", "cluster": {"server": format!("https://{server}"), "certificate-authority-data": authority}}],
            "users": [{"name": "demo", "user": {"token": token}}],
            "contexts": [{"name": "serin-demo", "context": {"cluster": "serin-demo", "user": "demo", "namespace": namespace}}],
        });
        let folder = std::env::temp_dir().join(format!("serin-demo-{:08x}", rand::random::<u32>()));
        DirBuilder::new().mode(0o700).create(&folder)?;
        let file = Self {
            path: folder.join("kubeconfig"),
            folder,
        };
        let mut out = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&file.path)?;
        serde_json::to_writer_pretty(&mut out, &text)?;
        out.write_all(b"\n")?;
        Ok(file)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for KubeconfigFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
        let _ = std::fs::remove_dir(&self.folder);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_kubeconfig_is_the_user_s_alone_and_goes_with_its_value() {
        let file =
            KubeconfigFile::write("127.0.0.1:1".parse().unwrap(), "PEM", "token", "demo").unwrap();
        let path = file.path().to_owned();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o600);
        assert_eq!(mode(path.parent().unwrap()), 0o700);
        assert!(std::fs::read_to_string(&path).unwrap().contains("token"));
        drop(file);
        assert!(!path.exists() && !path.parent().unwrap().exists());
    }

    #[test]
    fn secrets_are_long_and_differ() {
        assert_eq!(secret().len(), 64);
        assert_ne!(secret(), secret());
    }
}
