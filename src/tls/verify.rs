//! The two verifiers. The pin decides who a peer is; the signature of the handshake proves that the peer holds the key.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, CommonState, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
};
use webpki::EndEntityCert;

use crate::roster::Pin;

/// P-256 with SHA-256, and nothing else: what is not in this table is not offered, and is refused when a peer uses it anyway.
static ALGORITHMS: WebPkiSupportedAlgorithms = WebPkiSupportedAlgorithms {
    all: &[webpki::ring::ECDSA_P256_SHA256],
    mapping: &[(SignatureScheme::ECDSA_NISTP256_SHA256, &[webpki::ring::ECDSA_P256_SHA256])],
};

/// A peer whose key is not the one that was expected, or that nobody knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub struct UnexpectedPin {
    /// The pin of the key that the peer showed.
    pub found: Pin,
    /// The pin that was expected of a server; none of a client.
    pub expected: Option<Pin>,
}

impl fmt::Display for UnexpectedPin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.expected {
            Some(expected) => write!(f, "the server has the key with pin {}, expected was {expected}", self.found),
            None => write!(f, "nobody is known by the key with pin {}", self.found),
        }
    }
}

impl From<UnexpectedPin> for Error {
    fn from(unexpected: UnexpectedPin) -> Self {
        Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(unexpected))))
    }
}

/// Both configurations speak 1.3 alone; this holds when one of them is changed.
fn old_version() -> Error {
    Error::General("no signature of TLS 1.2 is taken".into())
}

pub(super) fn pin_of(certificate: &CertificateDer<'_>) -> Result<Pin, Error> {
    let parsed = EndEntityCert::try_from(certificate);
    let parsed = parsed.map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
    Ok(Pin::of_spki(&parsed.subject_public_key_info()))
}

/// The pin of the peer, after a handshake.
pub fn peer_pin(connection: &CommonState) -> Option<Pin> {
    connection.peer_certificates()?.first().and_then(|certificate| pin_of(certificate).ok())
}

/// What a client expects of its server.
#[derive(Debug)]
pub(super) struct ExpectedPin(pub(super) Pin);

impl ServerCertVerifier for ExpectedPin {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match pin_of(end_entity)? {
            found if found == self.0 => Ok(ServerCertVerified::assertion()),
            found => Err(UnexpectedPin { found, expected: Some(self.0) }.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(old_version())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &ALGORITHMS)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ALGORITHMS.supported_schemes()
    }
}

/// Whom a server knows.
pub(super) struct KnownPins(pub(super) Arc<dyn Fn(&Pin) -> bool + Send + Sync>);

impl fmt::Debug for KnownPins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KnownPins(..)")
    }
}

impl ClientCertVerifier for KnownPins {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        match pin_of(end_entity)? {
            found if (self.0)(&found) => Ok(ClientCertVerified::assertion()),
            found => Err(UnexpectedPin { found, expected: None }.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(old_version())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &ALGORITHMS)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ALGORITHMS.supported_schemes()
    }
}
