//! Connections: which hosts may be asked, names to addresses, TCP, TLS.

use super::Failure;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Which hosts may be asked.
#[derive(Clone, Debug, Default)]
pub struct Destinations {
    /// Names, addresses and `*.suffix`; any host if there is none.
    allowed: Vec<String>,
}

/// A host that may not be asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("host {host:?} may not be asked; allowed are {allowed}")]
pub struct NotAllowed {
    host: String,
    allowed: String,
}

impl Destinations {
    /// Names and addresses, `*.suffix` for all names below one; none for any host.
    #[must_use]
    pub fn new(allowed: &[String]) -> Self {
        let allowed = allowed
            .iter()
            .map(|host| plain(host))
            .filter(|host| !host.is_empty())
            .collect();
        Self { allowed }
    }

    /// Whether a host is among those that may be asked.
    ///
    /// # Errors
    /// If it is not.
    pub fn check(&self, host: &str) -> Result<(), NotAllowed> {
        if self.allowed.is_empty() || self.names(host) {
            return Ok(());
        }
        Err(NotAllowed {
            host: host.to_owned(),
            allowed: self.allowed.join(", "),
        })
    }

    fn names(&self, host: &str) -> bool {
        let host = plain(host);
        self.allowed.iter().any(|pattern| {
            pattern.strip_prefix('*').map_or_else(
                || *pattern == host,
                |suffix| host.len() > suffix.len() && host.ends_with(suffix),
            )
        })
    }

    /// Addresses of the link alone, where clouds keep what they tell only to a machine, are asked only if they are named themselves.
    fn check_address(&self, host: &str, address: IpAddr) -> bool {
        let link_local = match address.to_canonical() {
            IpAddr::V4(address) => address.is_link_local(),
            IpAddr::V6(address) => address.is_unicast_link_local(),
        };
        !link_local || (self.allowed.iter().any(|allowed| *allowed == plain(host)))
    }
}

fn plain(host: &str) -> String {
    host.trim()
        .trim_matches(['[', ']'])
        .trim_end_matches('.')
        .to_ascii_lowercase()
}

/// TLS as a load wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// Whether the certificate must be one that is vouched for.
    pub verify: bool,
    /// The name to expect and to ask for, in place of the host's.
    pub server_name: Option<String>,
    /// Protocols to offer, the best first.
    pub protocols: &'static [&'static str],
}

/// A byte stream of either kind.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// Connects; returns the stream and whether HTTP/2 was agreed on by TLS.
pub(super) async fn connect(
    host: &str,
    port: u16,
    tls: Option<&Tls>,
    destinations: &Destinations,
) -> Result<(Box<dyn Stream>, bool), Failure> {
    destinations.check(host).map_err(|_| Failure::NotAllowed)?;
    let name = host.trim_matches(['[', ']']);
    let addresses: Vec<_> = tokio::net::lookup_host((name, port))
        .await
        .map_err(|_| Failure::Name)?
        .collect();
    let mut failure = Failure::Name;
    let mut connected = None;
    for address in addresses {
        if !destinations.check_address(host, address.ip()) {
            failure = Failure::NotAllowed;
            continue;
        }
        match TcpStream::connect(address).await {
            Ok(stream) => {
                connected = Some(stream);
                break;
            }
            Err(error) => failure = of_io(&error),
        }
    }
    let stream = connected.ok_or(failure)?;
    stream.set_nodelay(true).map_err(|error| of_io(&error))?;
    let Some(tls) = tls else {
        return Ok((Box::new(stream), false));
    };
    let server_name = tls.server_name.as_deref().unwrap_or(name).to_owned();
    let server_name = ServerName::try_from(server_name).map_err(|_| Failure::Tls)?;
    let mut config = client_config(tls.verify)?;
    config.alpn_protocols = tls
        .protocols
        .iter()
        .map(|protocol| protocol.as_bytes().to_vec())
        .collect();
    let stream = TlsConnector::from(Arc::new(config))
        .connect(server_name, stream)
        .await
        .map_err(|_| Failure::Tls)?;
    let second = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    Ok((Box::new(stream), second))
}

fn client_config(verify: bool) -> Result<ClientConfig, Failure> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|_| Failure::Tls)?;
    Ok(if verify {
        builder
            .with_root_certificates(Arc::clone(roots()))
            .with_no_client_auth()
    } else {
        builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
            .with_no_client_auth()
    })
}

/// The machine's authorities, or those of `SSL_CERT_FILE`.
fn roots() -> &'static Arc<RootCertStore> {
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    ROOTS.get_or_init(|| {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        Arc::new(roots)
    })
}

/// Takes any certificate, as `hey` and `wrk` do; only that its owner speaks is checked.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

pub(super) fn of_io(error: &io::Error) -> Failure {
    use io::ErrorKind;
    match error.kind() {
        ErrorKind::ConnectionRefused => Failure::Refused,
        ErrorKind::ConnectionReset
        | ErrorKind::ConnectionAborted
        | ErrorKind::BrokenPipe
        | ErrorKind::UnexpectedEof
        | ErrorKind::NotConnected => Failure::Broken,
        ErrorKind::TimedOut => Failure::Timeout,
        _ => Failure::Other,
    }
}

/// What an error of the HTTP library means to us.
pub(super) fn of_hyper(error: &hyper::Error) -> Failure {
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        if let Some(io) = inner.downcast_ref::<io::Error>() {
            return of_io(io);
        }
        cause = inner.source();
    }
    if error.is_incomplete_message() || error.is_closed() || error.is_canceled() {
        Failure::Broken
    } else {
        Failure::Protocol
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_allowed_by_name_and_by_suffix() {
        let all = Destinations::new(&[]);
        assert!(all.check("anything.example").is_ok());
        let some = Destinations::new(&["app.test".into(), "*.shop".into(), "10.0.0.1".into()]);
        for (host, allowed) in [
            ("app.test", true),
            ("APP.test.", true),
            ("app-canary.shop", true),
            ("10.0.0.1", true),
            ("shop", false),
            (".shop", false),
            ("app.test.evil.example", false),
            ("myapp.test", false),
            ("10.0.0.11", false),
        ] {
            assert_eq!(some.check(host).is_ok(), allowed, "{host}");
        }
        let told = some.check("evil").unwrap_err().to_string();
        assert!(
            told.contains("\"evil\"") && told.contains("*.shop"),
            "{told}"
        );
    }

    #[test]
    fn a_clouds_own_address_is_asked_only_if_it_is_named() {
        let metadata = "169.254.169.254";
        let of = |allowed: &[&str], host: &str| {
            let allowed: Vec<String> = allowed.iter().map(|host| (*host).to_owned()).collect();
            Destinations::new(&allowed).check_address(host, metadata.parse().unwrap())
        };
        assert!(!of(&[], metadata));
        assert!(
            !of(&["*"], "harmless.example"),
            "by a name that leads there"
        );
        assert!(of(&[metadata], metadata));
        assert!(!Destinations::new(&[]).check_address("x", "fe80::1".parse().unwrap()));
        assert!(!Destinations::new(&[]).check_address("x", "::ffff:169.254.0.1".parse().unwrap()));
        assert!(Destinations::new(&[]).check_address("x", "10.0.0.1".parse().unwrap()));
    }
}
