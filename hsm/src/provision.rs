//! `token init`, `token show`, `token unlatch`: what an operator does to a token, through the same agent as everything else.

use serde::Serialize;

use crate::agent::protocol::FoundKey;
use crate::config::{ConfigError, TokenConfig};
use crate::entropy::Entropy;
use crate::latch::{Latch, LatchError};
use crate::pkcs11_token::{Pkcs11Token, descriptor, guarded, hex};
use crate::scheme;
use crate::token::{FaultClass, Token, TokenError, TokenInfo};

/// Bytes of a `CKA_ID` that is made here.
const ID_BYTES: usize = 16;

/// Whether `init` may create a key. A search that found none is never reason enough: an outage looks the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CreateKey {
    /// Use the key that is there.
    Never,
    /// The operator says that there is none and wants one.
    IfAbsent,
}

/// Why provisioning failed.
#[derive(Debug, thiserror::Error)]
pub enum ProvisionError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The token.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The latch.
    #[error(transparent)]
    Latch(#[from] LatchError),
    /// No such key, and no leave to create one.
    #[error("the token holds no key of the configured name; name the right one, or allow to create it")]
    NoKey,
    /// A new key needs a label.
    #[error("token uri has no object=: a new key needs a label")]
    NoLabel,
    /// The key could leave the token.
    #[error(
        "key {id} is not usable: sensitive {sensitive:?}, extractable {extractable:?}; it must be sensitive and not extractable"
    )]
    Extractable {
        /// `CKA_ID`, hex.
        id: String,
        /// `CKA_SENSITIVE`, when the token tells.
        sensitive: Option<bool>,
        /// `CKA_EXTRACTABLE`, when the token tells.
        extractable: Option<bool>,
    },
    /// The scheme does not work with this key on this token.
    #[error("self-test of scheme hmac failed: {0}")]
    SelfTest(&'static str),
}

/// A token, for people and machines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TokenReport {
    /// Label.
    pub label: String,
    /// Serial number.
    pub serial: String,
    /// Manufacturer.
    pub manufacturer: String,
    /// Model.
    pub model: String,
    /// A wrong PIN was entered since the last login.
    pub pin_count_low: bool,
    /// One more wrong PIN locks.
    pub pin_final_try: bool,
    /// Locked.
    pub pin_locked: bool,
}

/// A key, for people and machines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KeyReport {
    /// Label.
    pub label: String,
    /// `CKA_ID`, hex.
    pub id: String,
    /// Check value, hex, 8 bytes.
    pub check_value: String,
    /// The name under which wraps refer to it, hex, 16 bytes.
    pub name: String,
    /// `CKA_SENSITIVE`, when the token tells.
    pub sensitive: Option<bool>,
    /// `CKA_EXTRACTABLE`, when the token tells.
    pub extractable: Option<bool>,
}

/// The credential latch, for people and machines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LatchReport {
    /// Its file.
    pub path: String,
    /// Whether a login would be refused, in a process that has not seen a PIN yet.
    pub latched: bool,
    /// A login has succeeded since `init` or `unlatch`.
    pub succeeded: bool,
    /// Logins begun and never answered.
    pub unanswered: u8,
}

/// What `init` did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct InitReport {
    /// The token.
    pub token: TokenReport,
    /// The key.
    pub key: KeyReport,
    /// Whether it was created now.
    pub created: bool,
    /// The scheme that the self-test proved.
    pub scheme: &'static str,
}

/// What `show` saw.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ShowReport {
    /// The token.
    pub token: TokenReport,
    /// The latch.
    pub latch: LatchReport,
    /// Keys of the configured name; none when no login was asked for.
    pub keys: Option<Vec<KeyReport>>,
}

/// What `unlatch` did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UnlatchReport {
    /// Serial number of the token.
    pub serial: String,
    /// The latch as it was.
    pub before: LatchReport,
}

/// Finds the key that `config` names, or creates it when told to, and proves scheme `hmac` with it in a fresh session.
///
/// # Errors
/// [`ProvisionError`].
pub fn init(
    config: &TokenConfig,
    create: CreateKey,
    mut entropy: Box<dyn Entropy>,
) -> Result<InitReport, ProvisionError> {
    let mut id = vec![0; ID_BYTES];
    entropy.fill_bytes(&mut id);
    let mut token = Pkcs11Token::new(config, entropy)?;
    let info = token.connect()?;
    token.login(&info)?;
    let (label, named_id) = (token.uri().object.clone(), token.uri().id.clone());
    let mut found = token.find(label.clone(), named_id.clone())?;
    let created = found.is_empty();
    if created {
        if create == CreateKey::Never {
            return Err(ProvisionError::NoKey);
        }
        token.create_key(label.clone().ok_or(ProvisionError::NoLabel)?, named_id.clone().unwrap_or(id))?;
        // What the token made is not always what it was asked for.
        found = token.find(label.clone(), named_id.clone())?;
    }
    if let Some(key) = found.iter().find(|key| guarded(key).is_err()) {
        return Err(ProvisionError::Extractable {
            id: hex(&key.id),
            sensitive: key.sensitive,
            extractable: key.extractable,
        });
    }
    // A fresh session, from the start: what is true in the one that made the key proves little.
    let opened = token.open(&[])?;
    let found = token.find(label, named_id)?;
    let [key] = found.as_slice() else {
        return Err(ProvisionError::SelfTest("the key is not the only one of its name"));
    };
    self_test(&mut token)?;
    Ok(InitReport { token: token_report(&opened.info), key: key_report(key, &opened.info), created, scheme: "hmac" })
}

/// Shows token and latch; with `login` also the keys of the configured name.
///
/// # Errors
/// [`ProvisionError`].
pub fn show(config: &TokenConfig, login: bool, entropy: Box<dyn Entropy>) -> Result<ShowReport, ProvisionError> {
    let mut token = Pkcs11Token::new(config, entropy)?;
    let info = token.connect()?;
    let latch = latch_report(token.latch(&info.serial))?;
    let keys = if login {
        token.login(&info)?;
        let found = token.find(token.uri().object.clone(), token.uri().id.clone())?;
        Some(found.iter().map(|key| key_report(key, &info)).collect())
    } else {
        None
    };
    Ok(ShowReport { token: token_report(&info), latch, keys })
}

/// Lifts the latch: the operator says that the PIN is right now. Needs no token when the URI names the serial number.
///
/// # Errors
/// [`ProvisionError`].
pub fn unlatch(config: &TokenConfig, entropy: Box<dyn Entropy>) -> Result<UnlatchReport, ProvisionError> {
    let mut token = Pkcs11Token::new(config, entropy)?;
    let serial = match token.uri().serial.clone() {
        Some(serial) => serial,
        None => token.connect()?.serial,
    };
    let latch = token.latch(&serial);
    let before = latch_report(latch)?;
    latch.unlatch()?;
    Ok(UnlatchReport { serial, before })
}

/// The same question twice, and another one.
fn self_test(token: &mut Pkcs11Token) -> Result<(), ProvisionError> {
    let first = token.derive(0, &scheme::check_value_input())?;
    let again = token.derive(0, &scheme::check_value_input())?;
    let other = token.derive(0, b"frostkeep/v1/self-test")?;
    if first.expose() != again.expose() {
        return Err(ProvisionError::SelfTest("the same input gave two outputs"));
    }
    if first.expose() == other.expose() {
        return Err(ProvisionError::SelfTest("two inputs gave the same output"));
    }
    if token.derive(0, &[]).is_err_and(|error| error.class == FaultClass::Usage) {
        Ok(())
    } else {
        Err(ProvisionError::SelfTest("an empty input was not refused"))
    }
}

fn token_report(info: &TokenInfo) -> TokenReport {
    TokenReport {
        label: info.label.clone(),
        serial: info.serial.clone(),
        manufacturer: info.manufacturer.clone(),
        model: info.model.clone(),
        pin_count_low: info.pin_count_low,
        pin_final_try: info.pin_final_try,
        pin_locked: info.pin_locked,
    }
}

fn key_report(key: &FoundKey, info: &TokenInfo) -> KeyReport {
    KeyReport {
        label: key.label.clone(),
        id: hex(&key.id),
        check_value: hex(&key.check_value),
        name: hex(&scheme::key_name(&descriptor(key.clone(), info)).0),
        sensitive: key.sensitive,
        extractable: key.extractable,
    }
}

/// What the latch says, read without the token.
///
/// # Errors
/// [`LatchError::File`].
pub fn latch_report(latch: &Latch) -> Result<LatchReport, LatchError> {
    let path = latch.path().display().to_string();
    Ok(match latch.state() {
        Ok(state) => LatchReport {
            path,
            latched: state.latched || state.unanswered(),
            succeeded: state.succeeded,
            unanswered: state.begun,
        },
        // A file that does not parse: the safe side.
        Err(LatchError::Latched) => LatchReport { path, latched: true, succeeded: false, unanswered: 0 },
        Err(error) => return Err(error),
    })
}
