//! The way to the demo's API server: TLS on loopback with an authority made for this process, a token, and a kubeconfig with both in a
//! folder that only the user can read. The folder goes with the process.
//!
//! TLS is here for kubectl's sake: it sends no token over a connection without.

use axum::serve::Listener;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::json;
use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// How long a client may take to begin a connection.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Certificates for one server on 127.0.0.1.
pub struct Certificates {
    /// The authority, as PEM.
    pub authority: String,
    config: Arc<rustls::ServerConfig>,
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
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
            )?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self {
            authority: pem,
            config: Arc::new(config),
        })
    }
}

/// Accepts TLS connections; a client that is slow to begin holds up no other.
pub struct TlsListener {
    ready: mpsc::Receiver<(TlsStream<TcpStream>, SocketAddr)>,
    address: SocketAddr,
}

impl TlsListener {
    /// Listens on 127.0.0.1; port 0 takes a free one.
    pub async fn bind(port: u16, certificates: &Certificates) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", port)).await?;
        let address = listener.local_addr()?;
        let acceptor = TlsAcceptor::from(Arc::clone(&certificates.config));
        let (sender, ready) = mpsc::channel(64);
        tokio::spawn(async move {
            while !sender.is_closed() {
                let Ok((stream, peer)) = listener.accept().await else {
                    // No file descriptor is left, perhaps; there will be one again.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                };
                let _ = stream.set_nodelay(true);
                let (acceptor, sender) = (acceptor.clone(), sender.clone());
                tokio::spawn(async move {
                    if let Ok(Ok(stream)) =
                        tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await
                    {
                        let _ = sender.send((stream, peer)).await;
                    }
                });
            }
        });
        Ok(Self { ready, address })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match self.ready.recv().await {
            Some(connection) => connection,
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
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
