//! Certificate authorities, and servers with certificates from them.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

use project_webhooks::config::{self, Tls};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, date_time_ymd,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};

/// Issues certificates.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, in PEM.
pub(crate) struct Identity {
    certificate: String,
    key: String,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    /// Settings that trust this authority.
    pub(crate) fn trusted(&self) -> Tls {
        Tls {
            ca: vec![self.0.der().clone()],
            ..Tls::default()
        }
    }

    /// A certificate for this name, valid until this year.
    pub(crate) fn issue(&self, name: &str, until: i32, usage: ExtendedKeyUsagePurpose) -> Identity {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.not_before = date_time_ymd(2000, 1, 1);
        params.not_after = date_time_ymd(until, 1, 1);
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().unwrap();
        Identity {
            certificate: params.signed_by(&key, &self.0).unwrap().pem(),
            key: key.serialize_pem(),
        }
    }
}

impl Identity {
    /// The certificate and key as a webhook is configured with them.
    pub(crate) fn into_config(self) -> config::ClientIdentity {
        config::ClientIdentity {
            chain: vec![CertificateDer::from_pem_slice(self.certificate.as_bytes()).unwrap()],
            key: PrivateKeyDer::from_pem_slice(self.key.as_bytes()).unwrap(),
        }
    }
}

/// The settings of a server that asks for client certificates of `clients`.
pub(crate) fn server_config(identity: &Identity, clients: Option<&Authority>) -> ServerConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            roots.add(authority.0.der().clone()).unwrap();
            let roots = Arc::new(roots);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider);
            builder.with_client_cert_verifier(verifier.build().unwrap())
        }
    };
    let chain = CertificateDer::from_pem_slice(identity.certificate.as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).unwrap();
    builder.with_single_cert(vec![chain], key).unwrap()
}

/// A server that answers every request with 204.
pub(crate) struct Server {
    port: u16,
}

impl Server {
    /// Starts a server that asks for client certificates of `clients`.
    pub(crate) fn start(identity: &Identity, clients: Option<&Authority>) -> Self {
        let config = Arc::new(server_config(identity, clients));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        // Ends with the process.
        thread::spawn(move || {
            while let Ok((socket, _)) = listener.accept() {
                let config = Arc::clone(&config);
                thread::spawn(move || serve(config, socket));
            }
        });
        Self { port }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn url(&self, host: &str) -> String {
        format!("https://{host}:{}/", self.port)
    }
}

fn serve(config: Arc<ServerConfig>, socket: TcpStream) {
    let connection = ServerConnection::new(config).unwrap();
    let mut stream = StreamOwned::new(connection, socket);
    let mut request = Vec::new();
    let mut buffer = [0; 4096];
    while !request.ends_with(b"--\r\n") {
        match stream.read(&mut buffer) {
            Ok(length) if length > 0 => request.extend_from_slice(&buffer[..length]),
            // A handshake that failed; the alert is sent before the socket closes.
            _ => {
                let _alert = stream.flush();
                return;
            }
        }
    }
    let _sent = stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n");
    let _sent = stream.flush();
}
