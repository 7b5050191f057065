//! The PKCS#11 module, inside the agent. This file and those below it are the only ones that call `cryptoki`.

mod anchor;
mod examine;

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::slot::Slot;
use cryptoki::types::RawAuthPin;

use crate::agent::protocol::{ATTRIBUTE_BYTES_MAX, FoundKey, KEYS_FOUND_MAX, TokenSelector};
use crate::classify::classify;
use crate::scheme;
use crate::token::{DERIVE_INPUT_BYTES_MAX, Derived, FaultClass, TokenError, TokenInfo};

/// Slots looked at. Real modules have at most some dozens.
const SLOTS_MAX: usize = 1_024;

/// One loaded module and what is open in it.
#[derive(Default)]
pub(crate) struct Module {
    loaded: Option<(String, Pkcs11)>,
    slot: Option<Slot>,
    session: Option<Session>,
    // Handles alias after a reopen: forgotten with the session, never carried over.
    keys: Vec<ObjectHandle>,
}

impl Module {
    /// Finalize, initialize, find the token.
    pub(crate) fn connect(&mut self, path: &str, selector: &TokenSelector) -> Result<TokenInfo, TokenError> {
        self.forget();
        if self.loaded.as_ref().is_some_and(|(loaded, _)| loaded != path) {
            return Err(TokenError::new(FaultClass::Module, "connect", "other_module_loaded", ""));
        }
        let (module, finalized) = match self.loaded.as_ref() {
            // Without this an initialisation with a dead remoting server sticks.
            Some((_, module)) => (module.clone(), module.clone().finalize()),
            None => {
                let module = Pkcs11::new(path).map_err(|error| classify(&error, "load"))?;
                self.loaded = Some((path.to_owned(), module.clone()));
                (module, Ok(()))
            }
        };
        initialized(finalized, module.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)))?;
        let (slot, info) = find_token(&module, selector)?;
        self.slot = Some(slot);
        Ok(info)
    }

    /// Opens a session and logs in with `pin`.
    pub(crate) fn login(&mut self, pin: &[u8]) -> Result<(), TokenError> {
        let (Some((_, module)), Some(slot)) = (self.loaded.as_ref(), self.slot) else {
            return Err(not_connected("login"));
        };
        if let Some(session) = self.session.take() {
            // Closed before a new one opens: handle numbers are used again.
            let _ = session.close();
        }
        self.keys.clear();
        let session = match module.open_rw_session_no_drop(slot) {
            Err(Error::Pkcs11(RvError::TokenWriteProtected, _)) => module.open_ro_session_no_drop(slot),
            other => other,
        }
        .map_err(|error| classify(&error, "open_session"))?;
        // One allocation of the exact size: nothing grows, nothing is left behind.
        let pin = RawAuthPin::new(Box::new(pin.to_vec()));
        match session.login_with_raw(UserType::User, &pin) {
            Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => {
                self.session = Some(session);
                Ok(())
            }
            Err(error) => {
                let _ = session.close();
                Err(classify(&error, "login"))
            }
        }
    }

    /// Secret keys by label and id. None found is an empty list: whether that is a lost key or an outage, and whether several
    /// are too many, is for the node to judge.
    pub(crate) fn find(&mut self, label: Option<&str>, id: Option<&[u8]>) -> Result<Vec<FoundKey>, TokenError> {
        let session = self.session.as_ref().ok_or_else(|| not_connected("find"))?;
        let mut template = vec![Attribute::Class(ObjectClass::SECRET_KEY), Attribute::Token(true)];
        template.extend(label.map(|label| Attribute::Label(label.as_bytes().to_vec())));
        template.extend(id.map(|id| Attribute::Id(id.to_vec())));
        let handles = session.find_objects(&template).map_err(|error| classify(&error, "find"))?;
        if handles.len() + self.keys.len() > KEYS_FOUND_MAX {
            let detail = format!("{} keys match, at most {KEYS_FOUND_MAX} are looked at", handles.len());
            return Err(TokenError::new(FaultClass::Key, "find", "too_many_keys", detail));
        }
        let mut found = Vec::with_capacity(handles.len());
        for handle in handles {
            let number = u32::try_from(self.keys.len()).unwrap_or(u32::MAX);
            let key = describe(session, handle, number)?;
            // Id and check value name the key for ever: with one wrong bit, what is sealed under that name is lost.
            if describe(session, handle, number)? != key {
                return Err(answers_differ("find"));
            }
            let fits = id.is_none_or(|id| key.id == id) && label.is_none_or(|label| trim(&key.label) == trim(label));
            if !fits {
                let detail = format!("a key named {:?} was found that was not asked for", key.label);
                return Err(TokenError::new(FaultClass::Integrity, "find", "key_unasked", detail));
            }
            found.push(key);
            self.keys.push(handle);
        }
        Ok(found)
    }

    /// HMAC-SHA256 of `input` under key number `key`.
    pub(crate) fn derive(&self, key: u32, input: &[u8]) -> Result<Derived, TokenError> {
        if input.is_empty() || input.len() > DERIVE_INPUT_BYTES_MAX {
            let detail = format!("{} bytes, 1 to {DERIVE_INPUT_BYTES_MAX} are allowed", input.len());
            return Err(TokenError::new(FaultClass::Usage, "derive", "input_length", detail));
        }
        let session = self.session.as_ref().ok_or_else(|| not_connected("derive"))?;
        let handle = usize::try_from(key).ok().and_then(|key| self.keys.get(key));
        let handle = handle.ok_or_else(|| not_connected("derive"))?;
        sign(session, *handle, input)
    }

    /// Makes a key. Only provisioning asks for it, after a search in the same connection.
    pub(crate) fn create_key(&mut self, label: &str, id: &[u8]) -> Result<(), TokenError> {
        if id.is_empty() || id.len() > ATTRIBUTE_BYTES_MAX || label.len() > ATTRIBUTE_BYTES_MAX {
            let detail = format!("id of {} bytes, label of {} bytes", id.len(), label.len());
            return Err(TokenError::new(FaultClass::Usage, "create_key", "name_length", detail));
        }
        let session = self.session.as_ref().ok_or_else(|| not_connected("create_key"))?;
        let mut template = sealing_key(label);
        template.extend([Attribute::Token(true), Attribute::Id(id.to_vec())]);
        let made = session.generate_key(&Mechanism::GenericSecretKeyGen, &template);
        made.map(drop).map_err(|error| classify(&error, "create_key"))
    }

    fn forget(&mut self) {
        self.keys.clear();
        self.slot = None;
        if let Some(session) = self.session.take() {
            let _ = session.close();
        }
    }
}

/// Whether this is a full re-initialisation. "Already initialised" is, of a module that initialises itself; not of one that did not
/// finalize before: what it says is then of its old state, a key that it does not find among it. Only a new process is sure.
fn initialized(finalized: Result<(), Error>, initialized: Result<(), Error>) -> Result<(), TokenError> {
    match (finalized, initialized) {
        (_, Ok(())) | (Ok(()), Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _))) => Ok(()),
        (_, Err(error)) => Err(classify(&error, "initialize")),
    }
}

/// Asked twice, the token gave two answers: neither is believed.
fn answers_differ(operation: &str) -> TokenError {
    TokenError::new(
        FaultClass::Integrity,
        operation,
        "answers_differ",
        "the token answered the same question in two ways",
    )
}

/// A sealing key, whether it stays or ends with its session.
fn sealing_key(label: &str) -> Vec<Attribute> {
    vec![
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::GENERIC_SECRET),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Sign(true),
        Attribute::Encrypt(false),
        Attribute::Decrypt(false),
        Attribute::Wrap(false),
        Attribute::Unwrap(false),
        Attribute::Derive(false),
        Attribute::Label(label.as_bytes().to_vec()),
        Attribute::ValueLen(32.into()),
    ]
}

fn not_connected(operation: &str) -> TokenError {
    TokenError::new(FaultClass::Session, operation, "not_connected", "")
}

fn sign(session: &Session, key: ObjectHandle, input: &[u8]) -> Result<Derived, TokenError> {
    let output = session.sign(&Mechanism::Sha256Hmac, key, input).map_err(|error| classify(&error, "sign"))?;
    let output = zeroize::Zeroizing::new(output);
    Derived::from_slice(&output).ok_or_else(|| {
        let detail = format!("{} bytes from HMAC-SHA256, 32 expected", output.len());
        TokenError::new(FaultClass::Integrity, "C_Sign", "output_length", detail)
    })
}

fn describe(session: &Session, handle: ObjectHandle, key: u32) -> Result<FoundKey, TokenError> {
    let wanted = [AttributeType::Id, AttributeType::Label, AttributeType::Sensitive, AttributeType::Extractable];
    let attributes = session.get_attributes(handle, &wanted).map_err(|error| classify(&error, "attributes"))?;
    let (mut id, mut label, mut sensitive, mut extractable) = (Vec::new(), Vec::new(), None, None);
    for attribute in attributes {
        match attribute {
            Attribute::Id(value) => id = value,
            Attribute::Label(value) => label = value,
            Attribute::Sensitive(value) => sensitive = Some(value),
            Attribute::Extractable(value) => extractable = Some(value),
            _ => {}
        }
    }
    if id.len() > ATTRIBUTE_BYTES_MAX || label.len() > ATTRIBUTE_BYTES_MAX {
        let detail = format!("id of {} bytes, label of {} bytes, at most {ATTRIBUTE_BYTES_MAX}", id.len(), label.len());
        return Err(TokenError::new(FaultClass::Usage, "attributes", "name_length", detail));
    }
    let answer = sign(session, handle, &scheme::check_value_input())?;
    Ok(FoundKey {
        key,
        id,
        label: String::from_utf8_lossy(&label).into_owned(),
        check_value: scheme::check_value(&answer),
        sensitive,
        extractable,
    })
}

fn find_token(module: &Pkcs11, selector: &TokenSelector) -> Result<(Slot, TokenInfo), TokenError> {
    let slots = module.get_slots_with_token().map_err(|error| classify(&error, "slots"))?;
    let mut found = None;
    let mut matches = 0u32;
    let mut failed = None;
    for slot in slots.iter().copied().take(SLOTS_MAX) {
        if selector.slot.is_some_and(|wanted| wanted != slot.id()) {
            continue;
        }
        match describe_token(module, slot, selector) {
            Ok(Some(info)) => {
                matches += 1;
                found = Some((slot, info));
            }
            Ok(None) => {}
            Err(error) => failed = Some(error),
        }
    }
    match (found, matches, failed) {
        // Its serial number names the latch of its PIN, and its flags say whether a login is safe.
        (Some((slot, info)), 1, _) => match describe_token(module, slot, selector)? {
            Some(again) if again == info => Ok((slot, info)),
            _ => Err(answers_differ("find_token")),
        },
        (Some(_), several, _) => {
            let detail = format!("{several} tokens match; name the serial number");
            Err(TokenError::new(FaultClass::Usage, "find_token", "token_not_unique", detail))
        }
        // A slot that did not answer may be ours.
        (None, _, Some(error)) => Err(error),
        (None, _, None) => {
            let detail = format!("no token matches among {} slots with a token", slots.len());
            Err(TokenError::new(FaultClass::Token, "find_token", "token_not_found", detail))
        }
    }
}

fn describe_token(module: &Pkcs11, slot: Slot, selector: &TokenSelector) -> Result<Option<TokenInfo>, TokenError> {
    let info = match module.get_token_info(slot) {
        Ok(info) => info,
        Err(error @ Error::Pkcs11(..)) => return Err(classify(&error, "token_info")),
        // The token answered, its information does not parse (seen on openCryptoki 3.8). A slot number then selects, alone.
        Err(error) => {
            return match selector {
                TokenSelector { label: None, serial: None, manufacturer: None, model: None, slot: Some(number) } => {
                    Ok(Some(TokenInfo {
                        label: String::new(),
                        serial: format!("slot-{number}"),
                        manufacturer: String::new(),
                        model: String::new(),
                        pin_count_low: false,
                        pin_final_try: false,
                        pin_locked: false,
                    }))
                }
                _ => Err(classify(&error, "token_info")),
            };
        }
    };
    if !info.token_initialized() {
        return Ok(None);
    }
    let same = |wanted: &Option<String>, seen: &str| {
        wanted.as_ref().is_none_or(|wanted| wanted.trim_end_matches([' ', '\0']) == trim(seen))
    };
    let ours = same(&selector.label, info.label())
        && same(&selector.serial, info.serial_number())
        && same(&selector.manufacturer, info.manufacturer_id())
        && same(&selector.model, info.model());
    Ok(ours.then(|| TokenInfo {
        label: trim(info.label()).to_owned(),
        serial: trim(info.serial_number()).to_owned(),
        manufacturer: trim(info.manufacturer_id()).to_owned(),
        model: trim(info.model()).to_owned(),
        pin_count_low: info.user_pin_count_low(),
        pin_final_try: info.user_pin_final_try(),
        pin_locked: info.user_pin_locked(),
    }))
}

fn trim(text: &str) -> &str {
    text.trim_end_matches([' ', '\0'])
}

#[cfg(test)]
mod tests {
    use super::*;
    use cryptoki::context::Function;

    #[test]
    fn a_module_that_was_not_finalized_is_not_initialised_again() {
        let failed = |code| Err(Error::Pkcs11(code, Function::Finalize));
        let already = || failed(RvError::CryptokiAlreadyInitialized);
        assert_eq!(initialized(Ok(()), Ok(())), Ok(()));
        assert_eq!(initialized(Ok(()), already()), Ok(()), "some initialise themselves");
        // A finalisation that had nothing to do fails too.
        assert_eq!(initialized(failed(RvError::CryptokiNotInitialized), Ok(())), Ok(()));
        let error = initialized(failed(RvError::FunctionFailed), already()).unwrap_err();
        assert_eq!((error.class, error.code.as_str()), (FaultClass::Module, "CKR_CRYPTOKI_ALREADY_INITIALIZED"));
    }
}
