//! A TLS key with its certificate, in memory and in files.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use rcgen::{CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, PublicKeyData};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use zeroize::Zeroizing;

use super::{SERVER_NAME, TlsError, pem, verify};
use crate::limits::TLS_FILE_BYTES_MAX;
use crate::roster::Pin;
use crate::store::files;

/// Everybody but the owner.
const OTHERS: u32 = 0o077;

/// An ECDSA P-256 key, and a certificate that carries nothing but that key.
///
/// # Security
/// Wiped on drop. No `Clone`, no `Debug` (I10). What the TLS library makes of it for a configuration is not: ring has no wiping.
pub struct TlsKey {
    pkcs8: Zeroizing<Vec<u8>>,
    certificate: CertificateDer<'static>,
    pin: Pin,
}

impl TlsKey {
    /// A new key, of the system's randomness.
    ///
    /// # Errors
    /// [`TlsError::Generate`].
    pub fn generate() -> Result<Self, TlsError> {
        let pair = KeyPair::generate().map_err(|error| TlsError::Generate(error.to_string()))?;
        Self::of(&Zeroizing::new(pair))
    }

    /// The key with these bytes, PKCS#8. Its certificate is made anew: peers look at the key in it alone.
    ///
    /// # Errors
    /// [`TlsError::Key`].
    pub fn from_pkcs8(pkcs8: Zeroizing<Vec<u8>>) -> Result<Self, TlsError> {
        Self::of(&*parse(&pkcs8)?)
    }

    fn of(pair: &KeyPair) -> Result<Self, TlsError> {
        let certificate = self_signed(pair).map_err(|error| TlsError::Certificate(error.to_string()))?;
        Ok(Self::with(pair, certificate))
    }

    fn with(pair: &KeyPair, certificate: CertificateDer<'static>) -> Self {
        Self {
            pkcs8: Zeroizing::new(pair.serialized_der().to_vec()),
            certificate,
            pin: Pin::of_spki(&pair.subject_public_key_info()),
        }
    }

    /// The private key, PKCS#8.
    pub fn pkcs8(&self) -> Zeroizing<Vec<u8>> {
        self.pkcs8.clone()
    }

    /// What peers know the key by.
    pub fn pin(&self) -> Pin {
        self.pin
    }

    /// The certificate, PEM. Clients that want a root certificate take this one.
    pub fn certificate_pem(&self) -> String {
        pem::encode(pem::CERTIFICATE, &self.certificate).to_string()
    }

    /// The private key, PKCS#8 in PEM.
    pub fn private_key_pem(&self) -> Zeroizing<String> {
        pem::encode(pem::KEY, &self.pkcs8)
    }

    pub(super) fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    pub(super) fn private_key(&self) -> PrivatePkcs8KeyDer<'_> {
        PrivatePkcs8KeyDer::from(self.pkcs8.as_slice())
    }

    /// Reads a key file, and the certificate beside it: `x.crt` for `x.key`, and `x.crt` for any other name `x`.
    ///
    /// # Errors
    /// [`TlsError`]: a key that others can open, or a certificate of another key, is refused.
    pub fn read(path: &Path) -> Result<Self, TlsError> {
        let (text, mode) = load(path)?;
        if mode & OTHERS != 0 {
            return Err(TlsError::Exposed { path: path.into(), mode });
        }
        let wrong = |path: &Path, expected| TlsError::Pem { path: path.into(), expected };
        let pkcs8 = pem::decode(pem::KEY, &text).ok_or_else(|| wrong(path, pem::KEY))?;
        let pair = parse(&pkcs8)?;
        let beside = certificate_path(path);
        let (text, _) = load(&beside)?;
        let der = pem::decode(pem::CERTIFICATE, &text).ok_or_else(|| wrong(&beside, pem::CERTIFICATE))?;
        let key = Self::with(&pair, CertificateDer::from(der.to_vec()));
        match verify::pin_of(&key.certificate) {
            Ok(pin) if pin == key.pin => Ok(key),
            _ => Err(TlsError::Mismatch { certificate: beside, key: path.into() }),
        }
    }

    /// Writes a new key file, and the certificate beside it, both synced, mode 0600. The key comes last: where one is, its
    /// certificate is.
    ///
    /// # Errors
    /// [`TlsError::File`]; a key that is there already is never replaced, nor a certificate, unless a write that broke off has
    /// left it.
    pub fn write(&self, path: &Path) -> Result<(), TlsError> {
        let failed = |path: &Path, source| TlsError::File { path: path.into(), action: "writing", source };
        match files::is_taken(path) {
            Ok(false) => {}
            Ok(true) => return Err(failed(path, io::Error::from(ErrorKind::AlreadyExists))),
            Err(error) => return Err(failed(path, error)),
        }
        let beside = certificate_path(path);
        if !is_free(&beside, path).map_err(|error| failed(&beside, error))? {
            return Err(failed(&beside, io::Error::from(ErrorKind::AlreadyExists)));
        }
        files::write_synced(&beside, self.certificate_pem().as_bytes()).map_err(|error| failed(&beside, error))?;
        files::write_synced(path, self.private_key_pem().as_bytes()).map_err(|error| failed(path, error))
    }
}

fn certificate_path(key: &Path) -> PathBuf {
    if key.extension().is_some_and(|ending| ending == "key") {
        return key.with_extension("crt");
    }
    let mut path = key.as_os_str().to_owned();
    path.push(".crt");
    path.into()
}

/// Whether the certificate of `key` may be written: nothing is there, or what a write that broke off has left, which is a
/// certificate of ours without a key.
fn is_free(certificate: &Path, key: &Path) -> io::Result<bool> {
    if !files::is_taken(certificate)? {
        return Ok(true);
    }
    let owners = [certificate.with_extension(""), certificate.with_extension("key")];
    for owner in owners.iter().filter(|owner| *owner != key) {
        if files::is_taken(owner)? {
            return Ok(false);
        }
    }
    let found = files::read_bounded(certificate, TLS_FILE_BYTES_MAX)?;
    let der = found.and_then(|(text, _)| pem::decode(pem::CERTIFICATE, &text));
    Ok(der.is_some_and(|der| der.windows(SERVER_NAME.len()).any(|part| part == SERVER_NAME.as_bytes())))
}

fn load(path: &Path) -> Result<(Zeroizing<Vec<u8>>, u32), TlsError> {
    match files::read_bounded(path, TLS_FILE_BYTES_MAX) {
        Ok(Some(found)) => Ok(found),
        Ok(None) => Err(TlsError::TooLarge { path: path.into() }),
        Err(source) => Err(TlsError::File { path: path.into(), action: "reading", source }),
    }
}

fn parse(pkcs8: &[u8]) -> Result<Zeroizing<KeyPair>, TlsError> {
    KeyPair::from_pkcs8_der_and_sign_algo(&PrivatePkcs8KeyDer::from(pkcs8), &rcgen::PKCS_ECDSA_P256_SHA256)
        .map(Zeroizing::new)
        .map_err(|_| TlsError::Key(pkcs8.len()))
}

/// A leaf that signs itself. No key usage: OpenSSL takes a certificate for self-signed only when its usage, if named, has the
/// signing of certificates, which RFC 5280 keeps for authorities; and webpki takes no authority for a leaf. The dates are as
/// wide as the encoding allows.
fn self_signed(pair: &KeyPair) -> Result<CertificateDer<'static>, rcgen::Error> {
    let mut parameters = CertificateParams::new(vec![SERVER_NAME.to_owned()])?;
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, SERVER_NAME);
    parameters.distinguished_name = name;
    parameters.is_ca = IsCa::ExplicitNoCa;
    parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    parameters.not_before = rcgen::date_time_ymd(2000, 1, 1);
    parameters.not_after = rcgen::date_time_ymd(9999, 12, 31);
    Ok(parameters.self_signed(pair)?.into())
}
