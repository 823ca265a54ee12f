//! Clients that speak TLS: a handshake of their own, or a tunnel that clients without TLS can use.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};

use super::authority::{Authority, Issued};
use super::h2::H2;
use super::wire::H1;

/// A client that trusts an authority, offers these protocols and shows a certificate.
pub fn client(authority: &Authority, protocols: &[&str], own: Option<&Issued>) -> Arc<ClientConfig> {
    let mut config = authority.client(&[&TLS12, &TLS13], own);
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    Arc::new(config)
}

/// A handshake on an open connection.
pub async fn handshake(tcp: TcpStream, config: &Arc<ClientConfig>, name: &str) -> io::Result<TlsStream<TcpStream>> {
    tcp.set_nodelay(true)?;
    let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
    TlsConnector::from(Arc::clone(config)).connect(name, tcp).await
}

/// A connection with TLS.
pub async fn connect(address: SocketAddr, config: &Arc<ClientConfig>, name: &str) -> io::Result<TlsStream<TcpStream>> {
    handshake(TcpStream::connect(address).await?, config, name).await
}

/// An address on this machine whose connections go on to another one inside of TLS. Dropping it ends them.
pub struct Tunnel {
    /// The address.
    pub address: SocketAddr,
    task: JoinHandle<()>,
}

impl Tunnel {
    pub async fn to(target: SocketAddr, config: &Arc<ClientConfig>, name: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a socket");
        let address = listener.local_addr().expect("an address");
        let (config, name) = (Arc::clone(config), name.to_owned());
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((mut plain, _)) = listener.accept().await {
                let (config, name) = (Arc::clone(&config), name.clone());
                connections.spawn(async move {
                    // A connection that breaks shows at the other end.
                    if let Ok(mut inside) = connect(target, &config, &name).await {
                        drop(tokio::io::copy_bidirectional(&mut plain, &mut inside).await);
                    }
                });
            }
        });
        Self { address, task }
    }

    /// An HTTP/1 connection through it.
    pub async fn h1(&self) -> H1 {
        H1::connect(self.address).await
    }

    /// An HTTP/2 connection through it.
    pub async fn h2(&self) -> H2 {
        H2::connect(self.address).await
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The ways to sign of the certificates that tests make.
pub const ANY: &[SignatureScheme] = &[SignatureScheme::ECDSA_NISTP256_SHA256, SignatureScheme::ED25519];

/// Takes every certificate, offers these ways to sign, and notes the staple.
#[derive(Debug)]
pub struct Witness {
    schemes: Vec<SignatureScheme>,
    /// What came with the last certificate.
    pub staple: Mutex<Vec<u8>>,
}

impl Witness {
    pub fn client(schemes: &[SignatureScheme]) -> (Arc<Self>, Arc<ClientConfig>) {
        let witness = Arc::new(Self { schemes: schemes.to_vec(), staple: Mutex::default() });
        let mut config = Authority::new("none").client(&[&TLS12, &TLS13], None);
        config.dangerous().set_certificate_verifier(Arc::clone(&witness) as _);
        (witness, Arc::new(config))
    }
}

impl ServerCertVerifier for Witness {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        staple: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        *self.staple.lock().expect("not poisoned") = staple.to_vec();
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes.clone()
    }
}
