//! TLS for servers of our own: connections, and a certificate from files that are replaced while it runs, as a mounted Secret is.

use axum::serve::Listener;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

/// How long a client may take to begin a connection.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// How often the files are looked at. A kubelet brings a changed Secret within a minute or two.
const LOOK: Duration = Duration::from_secs(10);
/// Connections that may wait to be served.
const WAITING: usize = 64;

/// The certificate that is shown to clients, and where it comes from.
#[derive(Debug)]
pub(super) struct Certificate {
    present: RwLock<(Vec<u8>, Arc<CertifiedKey>)>,
}

impl Certificate {
    /// Reads `tls.crt` and `tls.key` in `folder`, and again when they change, until `stop`. What can't be read then is told, and the
    /// certificate before it stays.
    pub(super) fn follow(folder: &Path, stop: CancellationToken) -> Result<Arc<Self>, String> {
        let certificate = Arc::new(Self {
            present: RwLock::new(read(folder)?),
        });
        let (following, folder) = (Arc::clone(&certificate), folder.to_owned());
        tokio::spawn(async move {
            let mut told = String::new();
            while tokio::time::timeout(LOOK, stop.cancelled()).await.is_err() {
                match read(&folder) {
                    Ok(fresh) => {
                        told.clear();
                        following.replace(fresh);
                    }
                    Err(why) if why != told => {
                        tracing::warn!(
                            why,
                            "the certificate of the admission webhook can't be read; the one before it is used on"
                        );
                        told = why;
                    }
                    Err(_) => {}
                }
            }
        });
        Ok(certificate)
    }

    fn replace(&self, fresh: (Vec<u8>, Arc<CertifiedKey>)) {
        let mut present = self.present.write().unwrap_or_else(PoisonError::into_inner);
        if present.0 != fresh.0 {
            *present = fresh;
            drop(present);
            tracing::info!("the admission webhook has a new certificate");
        }
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let present = self.present.read().unwrap_or_else(PoisonError::into_inner);
        Some(Arc::clone(&present.1))
    }
}

/// The certificate as it is in the files, with their bytes, by which a change is known.
fn read(folder: &Path) -> Result<(Vec<u8>, Arc<CertifiedKey>), String> {
    let file = |name: &str| {
        let path = folder.join(name);
        std::fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))
    };
    let (chain, key) = (file("tls.crt")?, file("tls.key")?);
    let certificates = CertificateDer::pem_slice_iter(&chain)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| format!("tls.crt: {error}"))?;
    if certificates.is_empty() {
        return Err("tls.crt: no certificate in it, expected PEM".to_owned());
    }
    let private =
        PrivateKeyDer::from_pem_slice(&key).map_err(|error| format!("tls.key: {error}"))?;
    let certified = CertifiedKey::from_der(
        certificates,
        private,
        &rustls::crypto::ring::default_provider(),
    )
    .map_err(|error| format!("tls.crt and tls.key: {error}"))?;
    let mut bytes = chain;
    bytes.extend(key);
    Ok((bytes, Arc::new(certified)))
}

/// HTTP/1.1 under the certificates that `certificates` chooses.
///
/// # Errors
/// The cryptography of this build has no safe version of TLS.
pub fn settings(
    certificates: Arc<dyn ResolvesServerCert>,
) -> Result<Arc<ServerConfig>, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut settings = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(certificates);
    settings.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(settings))
}

/// Accepts TLS connections; a client that is slow to begin holds up no other.
pub struct TlsListener {
    ready: mpsc::Receiver<(TlsStream<TcpStream>, SocketAddr)>,
    address: SocketAddr,
}

impl TlsListener {
    /// Listens with these settings; port 0 takes a free one.
    ///
    /// # Errors
    /// The address can't be listened on.
    pub async fn bind(address: SocketAddr, settings: Arc<ServerConfig>) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let acceptor = TlsAcceptor::from(settings);
        let (sender, ready) = mpsc::channel(WAITING);
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
    #[must_use]
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair};

    /// Writes a certificate for 127.0.0.1 of its own making; returns it in DER.
    fn issue(folder: &Path) -> Vec<u8> {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
        let certificate = params.self_signed(&key).unwrap();
        std::fs::write(folder.join("tls.key"), key.serialize_pem()).unwrap();
        std::fs::write(folder.join("tls.crt"), certificate.pem()).unwrap();
        certificate.der().to_vec()
    }

    fn shown(certificate: &Certificate) -> Vec<u8> {
        let present = certificate.present.read().unwrap();
        present.1.cert[0].to_vec()
    }

    #[tokio::test(start_paused = true)]
    async fn a_certificate_that_is_replaced_is_shown_and_one_that_is_broken_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let first = issue(folder.path());
        let stop = CancellationToken::new();
        let certificate = Certificate::follow(folder.path(), stop.clone()).unwrap();
        assert_eq!(shown(&certificate), first);
        let second = issue(folder.path());
        tokio::time::sleep(LOOK * 2).await;
        assert_eq!(shown(&certificate), second);
        std::fs::write(folder.path().join("tls.crt"), "half a file").unwrap();
        tokio::time::sleep(LOOK * 2).await;
        assert_eq!(shown(&certificate), second);
        stop.cancel();
    }

    #[tokio::test]
    async fn what_can_not_be_used_is_said_at_the_start() {
        let folder = tempfile::tempdir().unwrap();
        let stop = CancellationToken::new();
        let error = Certificate::follow(folder.path(), stop.clone()).unwrap_err();
        assert!(error.contains("tls.crt"), "{error}");
        issue(folder.path());
        let key = KeyPair::generate().unwrap();
        std::fs::write(folder.path().join("tls.key"), key.serialize_pem()).unwrap();
        let error = Certificate::follow(folder.path(), stop).unwrap_err();
        assert!(error.contains("tls.crt and tls.key"), "{error}");
    }
}
