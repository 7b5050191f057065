//! The two configurations: what is on, and all that is off.

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::ring;
use rustls::pki_types::PrivateKeyDer;
use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::TLS13;
use rustls::{ClientConfig, ServerConfig};

use super::verify::{ExpectedPin, KnownPins};
use super::{ALPN, TlsError, TlsKey};
use crate::roster::Pin;

/// A server with this key, which lets in whom `known` knows at the moment of the handshake. A connection that stands is not asked
/// again: who serves it asks for its [`super::peer_pin`] at every call.
///
/// # Errors
/// [`TlsError::Configuration`].
pub fn server_config(
    key: &TlsKey,
    known: Arc<dyn Fn(&Pin) -> bool + Send + Sync>,
) -> Result<Arc<ServerConfig>, TlsError> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(Arc::new(KnownPins(known)))
        .with_cert_resolver(Arc::new(certified(key)?));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Ok(Arc::new(config))
}

/// A client with this key, which talks to the server with the `expected` pin alone. Its server name is [`super::SERVER_NAME`].
///
/// # Errors
/// [`TlsError::Configuration`].
pub fn client_config(key: &TlsKey, expected: Pin) -> Result<Arc<ClientConfig>, TlsError> {
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(ExpectedPin(expected)))
        .with_client_cert_resolver(Arc::new(certified(key)?));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    Ok(Arc::new(config))
}

/// Borrows the key, so that no copy of its bytes is left in the configuration.
fn certified(key: &TlsKey) -> Result<SingleCertAndKey, TlsError> {
    let signing = ring::sign::any_ecdsa_type(&PrivateKeyDer::Pkcs8(key.private_key()))?;
    Ok(CertifiedKey::new(vec![key.certificate().clone()], signing).into())
}
