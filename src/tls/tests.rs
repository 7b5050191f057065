//! Who gets a connection, and who does not. Method: real sockets, one server that answers once, and peers that each break one rule.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::{NoClientAuth, ServerSessionMemoryCache};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::{TLS12, TLS13};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, HandshakeKind, ProtocolVersion, RootCertStore,
    ServerConfig, SignatureScheme,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;
use crate::roster::Pin;
use crate::store::files;

const REQUEST: &[u8] = b"a request";
const ANSWER: &[u8] = b"an answer";

/// How one connection went, seen from both ends.
struct Meeting {
    /// What the server's application got.
    delivered: Vec<u8>,
    /// Whom the server's application saw, or why the handshake failed.
    server: Result<Pin, std::io::Error>,
    /// The answer, or why there was none.
    client: Result<(HandshakeKind, Vec<u8>), std::io::Error>,
}

impl Meeting {
    fn failed(&self) -> bool {
        self.server.is_err() && self.client.is_err() && self.delivered.is_empty()
    }

    /// The TLS error of the server.
    fn server_error(&self) -> &Error {
        tls_error(self.server.as_ref().unwrap_err())
    }

    /// The TLS error of the client.
    fn client_error(&self) -> &Error {
        tls_error(self.client.as_ref().unwrap_err())
    }
}

fn tls_error(error: &std::io::Error) -> &Error {
    error.get_ref().and_then(|inner| inner.downcast_ref()).unwrap_or_else(|| panic!("no TLS error: {error}"))
}

fn unexpected(error: &Error) -> &UnexpectedPin {
    match error {
        Error::InvalidCertificate(CertificateError::Other(other)) => other.0.downcast_ref().unwrap(),
        other => panic!("{other}"),
    }
}

fn meet(server: Arc<ServerConfig>, client: Arc<ClientConfig>) -> Meeting {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(meeting(server, client))
}

async fn meeting(server: Arc<ServerConfig>, client: Arc<ClientConfig>) -> Meeting {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let delivered = Arc::new(Mutex::new(Vec::new()));
    let application = Arc::clone(&delivered);
    let served = tokio::spawn(async move {
        let (stream, _) = listener.accept().await?;
        let mut stream = TlsAcceptor::from(server).accept(stream).await?;
        let pin = peer_pin(stream.get_ref().1).expect("a handshake shows a key");
        let mut buffer = [0; 64];
        let got = stream.read(&mut buffer).await?;
        application.lock().unwrap().extend_from_slice(&buffer[..got]);
        stream.write_all(ANSWER).await?;
        stream.shutdown().await?;
        Ok(pin)
    });
    let client = ask(TcpStream::connect(address).await.unwrap(), client).await;
    let server = served.await.unwrap();
    let delivered = delivered.lock().unwrap().clone();
    Meeting { delivered, server, client }
}

async fn ask(stream: TcpStream, client: Arc<ClientConfig>) -> std::io::Result<(HandshakeKind, Vec<u8>)> {
    let name = ServerName::try_from(SERVER_NAME).unwrap();
    let mut stream = TlsConnector::from(client).connect(name, stream).await?;
    stream.write_all(REQUEST).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    let connection = stream.get_ref().1;
    assert_eq!(connection.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    assert_eq!(connection.alpn_protocol(), Some(ALPN));
    Ok((connection.handshake_kind().unwrap(), answer))
}

fn knows(pins: &[Pin]) -> Arc<dyn Fn(&Pin) -> bool + Send + Sync> {
    let pins = pins.to_vec();
    Arc::new(move |pin| pins.contains(pin))
}

fn key() -> TlsKey {
    TlsKey::generate().unwrap()
}

/// Believes every server; signatures count all the same.
#[derive(Debug)]
struct Gullible;

impl ServerCertVerifier for Gullible {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
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
        ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

fn pair(certificate: &CertificateDer<'static>, pkcs8: &[u8]) -> Arc<SingleCertAndKey> {
    let key = ring::sign::any_supported_type(&PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pkcs8))).unwrap();
    Arc::new(CertifiedKey::new(vec![certificate.clone()], key).into())
}

/// A client that believes every server and shows `shown`, when it shows anything.
fn stranger(version: &'static rustls::SupportedProtocolVersion, shown: Option<Arc<SingleCertAndKey>>) -> ClientConfig {
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Gullible));
    let mut config = match shown {
        Some(shown) => config.with_client_cert_resolver(shown),
        None => config.with_no_client_auth(),
    };
    config.alpn_protocols = vec![ALPN.to_vec()];
    config
}

/// A server that asks for no key and shows `shown`.
fn impostor(version: &'static rustls::SupportedProtocolVersion, shown: Arc<SingleCertAndKey>) -> Arc<ServerConfig> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_client_cert_verifier(Arc::new(NoClientAuth))
        .with_cert_resolver(shown);
    config.alpn_protocols = vec![ALPN.to_vec()];
    Arc::new(config)
}

#[test]
fn peers_that_expect_each_other_meet_and_each_knows_the_other_s_key() {
    let (server, client) = (key(), key());
    let meeting =
        meet(server_config(&server, knows(&[client.pin()])).unwrap(), client_config(&client, server.pin()).unwrap());
    assert_eq!(meeting.server.unwrap(), client.pin());
    assert_eq!(meeting.client.unwrap().1, ANSWER);
    assert_eq!(meeting.delivered, REQUEST);
}

#[test]
fn an_unknown_client_delivers_no_byte_to_the_server_s_application() {
    let (server, client, known) = (key(), key(), key());
    let config = server_config(&server, knows(&[known.pin(), server.pin()])).unwrap();
    let meeting = meet(config, client_config(&client, server.pin()).unwrap());
    assert!(meeting.failed(), "{:?}", meeting.delivered);
    assert_eq!(*unexpected(meeting.server_error()), UnexpectedPin { found: client.pin(), expected: None });
}

#[test]
fn a_client_sends_no_request_to_a_server_with_another_key() {
    let (server, client, other) = (key(), key(), key());
    let config = server_config(&server, knows(&[client.pin()])).unwrap();
    let meeting = meet(config, client_config(&client, other.pin()).unwrap());
    assert!(meeting.failed(), "{:?}", meeting.delivered);
    let found = *unexpected(meeting.client_error());
    assert_eq!(found, UnexpectedPin { found: server.pin(), expected: Some(other.pin()) });
}

#[test]
fn a_client_that_shows_no_key_is_refused() {
    let server = key();
    let config = server_config(&server, Arc::new(|_| true)).unwrap();
    let meeting = meet(config, Arc::new(stranger(&TLS13, None)));
    assert!(meeting.failed());
    assert_eq!(*meeting.server_error(), Error::NoCertificatesPresented);
}

#[test]
fn no_peer_speaks_an_older_version() {
    let (server, client) = (key(), key());
    let config = server_config(&server, knows(&[client.pin()])).unwrap();
    let shown = pair(client.certificate(), &client.pkcs8());
    let meeting = meet(config, Arc::new(stranger(&TLS12, Some(shown))));
    assert!(meeting.failed());
    assert!(matches!(meeting.server_error(), Error::PeerIncompatible(_)), "{}", meeting.server_error());

    let config = impostor(&TLS12, pair(server.certificate(), &server.pkcs8()));
    let meeting = self::meet(config, client_config(&client, server.pin()).unwrap());
    assert!(meeting.failed());
}

#[test]
fn a_certificate_without_its_key_opens_nothing() {
    let (server, client, thief) = (key(), key(), key());
    let config = server_config(&server, knows(&[client.pin()])).unwrap();
    let shown = pair(client.certificate(), &thief.pkcs8());
    let meeting = meet(config, Arc::new(stranger(&TLS13, Some(shown))));
    assert!(meeting.failed());
    assert_eq!(*meeting.server_error(), Error::InvalidCertificate(CertificateError::BadSignature));

    let config = impostor(&TLS13, pair(server.certificate(), &thief.pkcs8()));
    let meeting = meet(config, client_config(&client, server.pin()).unwrap());
    assert!(meeting.failed());
    assert_eq!(*meeting.client_error(), Error::InvalidCertificate(CertificateError::BadSignature));
}

#[test]
fn a_key_of_another_kind_is_refused_even_with_a_known_pin() {
    let (server, client) = (key(), key());
    for kind in [&rcgen::PKCS_ED25519, &rcgen::PKCS_ECDSA_P384_SHA384] {
        let other = rcgen::KeyPair::generate_for(kind).unwrap();
        let certificate = rcgen::CertificateParams::new(vec![SERVER_NAME.into()]).unwrap().self_signed(&other).unwrap();
        let shown = pair(certificate.der(), other.serialized_der());
        let config = server_config(&server, Arc::new(|_| true)).unwrap();
        let meeting = meet(config, Arc::new(stranger(&TLS13, Some(Arc::clone(&shown)))));
        assert!(meeting.failed());

        let pin = verify::pin_of(certificate.der()).unwrap();
        let meeting = meet(impostor(&TLS13, shown), client_config(&client, pin).unwrap());
        assert!(meeting.failed());
        assert!(TlsKey::from_pkcs8(other.serialized_der().to_vec().into()).is_err());
    }
}

#[test]
fn who_is_taken_out_does_not_come_back_by_resuming() {
    let (server, client) = (key(), key());
    let welcome = Arc::new(AtomicBool::new(true));
    let (known, pin) = (Arc::clone(&welcome), client.pin());
    let config = server_config(&server, Arc::new(move |found| known.load(Ordering::SeqCst) && *found == pin)).unwrap();
    // A client that keeps every ticket that it gets.
    let mut keen = stranger(&TLS13, Some(pair(client.certificate(), &client.pkcs8())));
    keen.resumption = Resumption::in_memory_sessions(8);
    keen.enable_early_data = true;
    let keen = Arc::new(keen);
    for _ in 0..2 {
        let (kind, answer) = meet(Arc::clone(&config), Arc::clone(&keen)).client.unwrap();
        assert_eq!((kind, answer.as_slice()), (HandshakeKind::Full, ANSWER), "every connection shows its key");
    }
    welcome.store(false, Ordering::SeqCst);
    assert!(meet(config, keen).failed());

    // And our client resumes nothing, whatever a server hands out.
    let mut generous = ServerConfig::clone(&server_config(&server, knows(&[client.pin()])).unwrap());
    generous.send_tls13_tickets = 2;
    generous.session_storage = ServerSessionMemoryCache::new(8);
    let (generous, ours) = (Arc::new(generous), client_config(&client, server.pin()).unwrap());
    for _ in 0..2 {
        let (kind, _) = meet(Arc::clone(&generous), Arc::clone(&ours)).client.unwrap();
        assert_eq!(kind, HandshakeKind::Full);
    }
}

#[tokio::test]
async fn what_is_not_tls_reaches_nothing() {
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0x16, 3, 1, 0, 4, 1, 0xff, 0xff, 0xff], &[0; 64], b""] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        stream.write_all(garbage).await.unwrap();
        stream.shutdown().await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        let config = server_config(&key(), Arc::new(|_| true)).unwrap();
        assert!(TlsAcceptor::from(config).accept(accepted).await.is_err());
    }
}

/// Clients of other libraries trust the serving certificate as their one root.
#[test]
fn a_certificate_is_its_own_root() {
    let (server, client) = (key(), key());
    let provider = Arc::new(ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(server.certificate().clone()).unwrap();
    let verifier = WebPkiServerVerifier::builder_with_provider(roots.into(), Arc::clone(&provider)).build().unwrap();
    let mut ordinary = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_webpki_verifier(verifier)
        .with_client_cert_resolver(pair(client.certificate(), &client.pkcs8()));
    ordinary.alpn_protocols = vec![ALPN.to_vec()];
    let ordinary = Arc::new(ordinary);
    let config = server_config(&server, knows(&[client.pin()])).unwrap();
    assert_eq!(meet(config, Arc::clone(&ordinary)).client.unwrap().1, ANSWER);
    let other = server_config(&key(), knows(&[client.pin()])).unwrap();
    assert!(meet(other, ordinary).failed());
    // A key usage without the signing of certificates is what OpenSSL takes for "not self-signed".
    let key_usage = [0x06, 0x03, 0x55, 0x1d, 0x0f];
    assert!(!server.certificate().windows(5).any(|window| window == key_usage));
}

#[test]
fn a_key_is_the_same_key_after_its_bytes() {
    let ours = key();
    let again = TlsKey::from_pkcs8(ours.pkcs8()).unwrap();
    assert_eq!((again.pin(), again.pkcs8()), (ours.pin(), ours.pkcs8()));
    assert_ne!(ours.pin(), key().pin());
    for wrong in [&b""[..], b"no key", &ours.pkcs8()[1..]] {
        assert!(matches!(TlsKey::from_pkcs8(wrong.to_vec().into()), Err(TlsError::Key(_))));
    }
}

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o7777
}

#[test]
fn a_key_file_is_for_its_owner_alone_and_is_never_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("serving.key");
    let ours = key();
    ours.write(&path).unwrap();
    assert_eq!(mode(&path), 0o600);
    let read = TlsKey::read(&path).unwrap();
    assert_eq!((read.pin(), read.pkcs8()), (ours.pin(), ours.pkcs8()));
    assert_eq!(read.certificate_pem(), ours.certificate_pem(), "the certificate that clients hold stays the same");

    let error = key().write(&path).unwrap_err();
    assert!(matches!(error, TlsError::File { source, .. } if source.kind() == std::io::ErrorKind::AlreadyExists));
    assert_eq!(TlsKey::read(&path).unwrap().pin(), ours.pin());

    for open in [0o640, 0o604, 0o620, 0o601] {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(open)).unwrap();
        assert!(matches!(TlsKey::read(&path), Err(TlsError::Exposed { mode, .. }) if mode == open), "{open:o}");
    }
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o400)).unwrap();
    TlsKey::read(&path).unwrap();
}

#[test]
fn files_that_are_no_key_with_its_certificate_are_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let (path, beside) = (directory.path().join("serving.key"), directory.path().join("serving.crt"));
    assert!(matches!(TlsKey::read(&path), Err(TlsError::File { .. })));
    let (ours, other) = (key(), key());
    ours.write(&path).unwrap();

    files::write_synced(&beside, other.certificate_pem().as_bytes()).unwrap();
    let error = TlsKey::read(&path).err().unwrap();
    assert!(matches!(&error, TlsError::Mismatch { .. }) && error.to_string().contains("serving.crt"), "{error}");

    for text in ["", "no PEM", &*ours.private_key_pem()] {
        files::write_synced(&beside, text.as_bytes()).unwrap();
        assert!(matches!(TlsKey::read(&path), Err(TlsError::Pem { expected: "CERTIFICATE", .. })), "{text:?}");
    }
    files::write_synced(&beside, ours.certificate_pem().as_bytes()).unwrap();
    TlsKey::read(&path).unwrap();

    for text in ["", "no PEM", &ours.certificate_pem()] {
        files::write_synced(&path, text.as_bytes()).unwrap();
        assert!(matches!(TlsKey::read(&path), Err(TlsError::Pem { expected: "PRIVATE KEY", .. })), "{text:?}");
    }
    files::write_synced(&path, &vec![b'a'; TLS_FILE_BYTES_MAX + 1]).unwrap();
    assert!(matches!(TlsKey::read(&path), Err(TlsError::TooLarge { .. })));
    assert!(TlsKey::read(directory.path()).is_err(), "a directory is no key");
}

#[test]
fn a_new_key_takes_no_certificate_from_another_key_and_replaces_no_file_of_others() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    for name in ["ops.alice", "ops.bob", "x.crt", "ops", "node.key"] {
        key().write(&at(name)).unwrap();
    }
    for name in ["ops.alice", "ops.bob", "x.crt", "ops", "node.key"] {
        TlsKey::read(&at(name)).unwrap();
    }
    assert!(at("node.crt").exists() && at("ops.alice.crt").exists());
    // Both names lead to one certificate.
    let before = std::fs::read(at("ops.crt")).unwrap();
    assert!(key().write(&at("ops.key")).is_err() && !at("ops.key").exists());
    assert_eq!(std::fs::read(at("ops.crt")).unwrap(), before);
    for (name, text) in [("mine", "a file of mine"), ("ours", &*key().private_key_pem())] {
        files::write_synced(&at(name).with_extension("crt"), text.as_bytes()).unwrap();
        assert!(key().write(&at(name)).is_err() && !at(name).exists(), "{name}");
    }
    // What a write that broke off has left.
    files::write_synced(&at("left.crt"), key().certificate_pem().as_bytes()).unwrap();
    key().write(&at("left.key")).unwrap();
    TlsKey::read(&at("left.key")).unwrap();
}
