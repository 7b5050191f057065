//! Who does not get past TLS, and learns nothing from trying.

use std::sync::Arc;

use frostkeep::server::SERVING_KEY;
use frostkeep::tls::{SERVER_NAME, TlsKey, client_config};
use rustls::client::ResolvesClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::version::TLS12;
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, Error, SignatureScheme};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::raw::PREFACE;
use crate::scene::{Scene, closed};

/// The first byte of a TLS record that carries an alert.
const ALERT: u8 = 21;

/// Trusts whoever answers: these callers do not care.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
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

/// Has no certificate.
#[derive(Debug)]
struct Nameless;

impl ResolvesClientCert for Nameless {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

fn name() -> ServerName<'static> {
    ServerName::try_from(SERVER_NAME).unwrap()
}

/// What the node says to somebody who begins with these bytes, and then ends or waits.
async fn answer(scene: &Scene, says: &[u8], ends: bool) -> Vec<u8> {
    let mut tcp = TcpStream::connect(scene.stage.net.nodes[0].address()).await.unwrap();
    tcp.write_all(says).await.unwrap();
    if ends {
        tcp.shutdown().await.unwrap();
    }
    closed(&mut tcp).await
}

/// A caller with this configuration gets no byte of application data. TLS 1.3 lets a client finish before its server has
/// looked: the refusal comes with the first read.
async fn is_refused(scene: &Scene, config: impl Into<Arc<ClientConfig>>, what: &str) {
    let tcp = TcpStream::connect(scene.stage.net.nodes[0].address()).await.unwrap();
    if let Ok(mut tls) = TlsConnector::from(config.into()).connect(name(), tcp).await {
        // It may be closed already.
        let _ = tls.write_all(PREFACE).await;
        assert!(closed(&mut tls).await.is_empty(), "{what} is told something");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_no_handshake_gets_an_alert_at_most_and_is_counted() {
    let scene = Scene::new("handshake_ms = 2000\n").await;
    let node = &scene.stage.net.nodes[0];
    let key = &scene.stage.net.clients["observer"];
    let mut hello = Vec::new();
    let config = client_config(key, node.line.serving_pin).unwrap();
    ClientConnection::new(config, name()).unwrap().write_tls(&mut hello).unwrap();
    let noise: Vec<u8> = (0..4_096_u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut altered = hello.clone();
    altered[40..].iter_mut().for_each(|byte| *byte ^= 0x5a);
    let cases: [(&str, &[u8], bool); 8] = [
        ("noise", &noise, false),
        ("a record longer than any may be", &[22, 3, 1, 0xff, 0xff, 1], false),
        ("an alert", &[ALERT, 3, 3, 0, 2, 2, 40], false),
        ("HTTP/2 without TLS", PREFACE, false),
        ("HTTP/1", b"GET / HTTP/1.1\r\nhost: frostkeep\r\n\r\n", false),
        ("an altered ClientHello", &altered, true),
        ("half a ClientHello and the end", &hello[..hello.len() / 2], true),
        ("nothing and the end", &[], true),
    ];
    for (number, (what, says, ends)) in (1..).zip(cases) {
        let said = answer(&scene, says, ends).await;
        assert!(said.is_empty() || (said[0] == ALERT && said.len() <= 7), "{what}: {said:?}");
        scene.counted("tls", number).await;
    }
    // Half a ClientHello, and then silence: its time is over some time.
    assert!(answer(&scene, &hello[..hello.len() / 2], false).await.is_empty());
    scene.counted("handshake_timeout", 1).await;
    scene.nothing_lost().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_without_a_key_of_the_roster_opens_no_door() {
    let scene = Scene::new("").await;
    let net = &scene.stage.net;
    let pin = net.nodes[0].line.serving_pin;
    let old = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&TLS12])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody))
        .with_no_client_auth();
    is_refused(&scene, old, "TLS 1.2").await;
    scene.counted("tls", 1).await;
    let mut nameless = ClientConfig::clone(&client_config(&net.clients["observer"], pin).unwrap());
    nameless.client_auth_cert_resolver = Arc::new(Nameless);
    is_refused(&scene, nameless, "a caller without a certificate").await;
    scene.counted("tls", 2).await;

    let unknown = TlsKey::generate().unwrap();
    is_refused(&scene, client_config(&unknown, pin).unwrap(), "an unknown key").await;
    scene.counted("unknown_pin", 1).await;
    // What a stolen disk holds: the serving keys, in the clear.
    for (number, node) in (2..).zip(&net.nodes) {
        let serving = TlsKey::read(&node.config.state.join(SERVING_KEY)).unwrap();
        is_refused(&scene, client_config(&serving, pin).unwrap(), "a serving key").await;
        scene.counted("unknown_pin", number).await;
    }
    assert_eq!(net.nodes[0].server().counters().open, 0, "none of them was ever let in");
    scene.nothing_lost().await;
}
