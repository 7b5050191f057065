//! The token under examination: the node's own way to a key, which is the configured one or one that ends with its session.

use super::SCRATCH_LABEL;
use super::report::SealedWith;
use crate::agent::examine::{Examine, Examined};
use crate::pkcs11_token::Pkcs11Token;
use crate::provider::{AnchorRead, AnchorValue, KeyDescriptor};
use crate::scheme;
use crate::token::{Derived, FaultClass, Opened, Token, TokenError, TokenInfo};

/// The value of a session key that host and token both know.
pub(super) const KNOWN_VALUE: [u8; 32] = *b"frostkeep check: a known value..";

/// A token, and which key seals.
pub(super) struct Subject {
    pub(super) token: Pkcs11Token,
    /// None while no key is known to work.
    pub(super) key: Option<SealedWith>,
    // The number of the session key in this connection.
    session_key: Option<u32>,
}

impl Subject {
    pub(super) fn new(token: Pkcs11Token) -> Self {
        Self { token, key: None, session_key: None }
    }

    /// Full re-initialisation and a login, without a key.
    pub(super) fn reconnect(&mut self) -> Result<TokenInfo, TokenError> {
        self.session_key = None;
        let info = self.token.connect()?;
        self.token.login(&info)?;
        Ok(info)
    }

    /// Makes a key that ends with the session.
    pub(super) fn session_key(&mut self, value: Option<[u8; 32]>) -> Result<u32, TokenError> {
        match self.token.examine(Examine::SessionKey { label: SCRATCH_LABEL.to_owned(), value })? {
            Examined::Key(number) => Ok(number),
            Examined::Done | Examined::Details(_) | Examined::Attributes(_) => {
                Err(TokenError::new(FaultClass::Module, "session_key", "agent_confused", ""))
            }
        }
    }

    /// One of the losses on purpose.
    pub(super) fn disturb(&mut self, loss: Examine) -> Result<(), TokenError> {
        self.token.examine(loss).map(drop)
    }

    /// Everything from the start, as a node does it, up to the key that seals.
    pub(super) fn open_whole(&mut self, required: &[KeyDescriptor]) -> Result<Opened, TokenError> {
        self.session_key = None;
        match self.key {
            Some(SealedWith::ConfiguredKey) | None => self.token.open(required),
            Some(SealedWith::SessionKey) => self.open_session_key(),
        }
    }

    /// One HMAC under the key that seals.
    pub(super) fn derive_sealing(&mut self, input: &[u8]) -> Result<Derived, TokenError> {
        match (self.key, self.session_key) {
            (Some(SealedWith::SessionKey), Some(number)) => self.token.derive_with(number, input),
            (Some(SealedWith::SessionKey), None) => Err(TokenError::new(FaultClass::Session, "derive", "not_open", "")),
            (Some(SealedWith::ConfiguredKey) | None, _) => self.token.derive(0, input),
        }
    }

    fn open_session_key(&mut self) -> Result<Opened, TokenError> {
        let info = self.reconnect()?;
        let number = self.session_key(None)?;
        let answer = self.token.derive_with(number, &scheme::check_value_input())?;
        self.session_key = Some(number);
        let key = KeyDescriptor {
            scheme: scheme::HMAC,
            id: SCRATCH_LABEL.as_bytes().to_vec(),
            check_value: scheme::check_value(&answer),
            token_label: info.label.clone(),
            token_serial: info.serial.clone(),
        };
        Ok(Opened { info, keys: vec![key] })
    }
}

impl Token for &mut Subject {
    fn name(&self) -> &str {
        self.token.name()
    }

    fn open(&mut self, required: &[KeyDescriptor]) -> Result<Opened, TokenError> {
        self.open_whole(required)
    }

    fn derive(&mut self, _key: usize, input: &[u8]) -> Result<Derived, TokenError> {
        self.derive_sealing(input)
    }

    fn anchor_read(&mut self) -> Result<AnchorRead, TokenError> {
        self.token.anchor_read()
    }

    fn anchor_write(&mut self, value: &AnchorValue) -> Result<(), TokenError> {
        self.token.anchor_write(value)
    }

    fn agents_started(&self) -> u64 {
        self.token.agents_started()
    }
}
