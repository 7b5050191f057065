//! What only `token check` asks of the module.

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::MechanismType;
use cryptoki::object::{Attribute, AttributeInfo, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;
use cryptoki::slot::Slot;

use super::{Module, initialized, not_connected, sealing_key, trim};
use crate::agent::examine::{KeyAttributes, LibraryDetails, Mechanism, MechanismTold, TokenDetails, TokenFlags};
use crate::agent::protocol::{ATTRIBUTE_BYTES_MAX, KEYS_FOUND_MAX};
use crate::classify::classify;
use crate::token::{FaultClass, TokenError};

/// `CK_EFFECTIVELY_INFINITE` and `CK_UNAVAILABLE_INFORMATION` stand where a length has no bound.
const PIN_BYTES_UNBOUNDED: [usize; 2] = [0, usize::MAX];

impl Module {
    /// What module and token say of themselves.
    pub(crate) fn details(&self) -> Result<TokenDetails, TokenError> {
        let (Some((_, module)), Some(slot)) = (self.loaded.as_ref(), self.slot) else {
            return Err(not_connected("details"));
        };
        let listed = told(module.get_mechanism_list(slot), "details")?.ok();
        let mechanism = |wanted| mechanism(module, slot, listed.as_deref(), wanted);
        Ok(TokenDetails {
            library: told(module.get_library_info(), "details")?.ok().map(|info| LibraryDetails {
                manufacturer: trim(info.manufacturer_id()).to_owned(),
                description: trim(info.library_description()).to_owned(),
                version: info.library_version().to_string(),
                cryptoki_version: info.cryptoki_version().to_string(),
            }),
            token: told(module.get_token_info(slot), "details")?.ok().map(|info| TokenFlags {
                hardware_version: info.hardware_version().to_string(),
                firmware_version: info.firmware_version().to_string(),
                login_required: info.login_required(),
                pin_initialized: info.user_pin_initialized(),
                pin_to_be_changed: info.user_pin_to_be_changed(),
                protected_path: info.protected_authentication_path(),
                write_protected: info.write_protected(),
                error_state: info.error_state(),
                pin_bytes_min: wide(info.min_pin_length()),
                pin_bytes_max: Some(info.max_pin_length())
                    .filter(|length| !PIN_BYTES_UNBOUNDED.contains(length))
                    .map(wide),
            }),
            sha256_hmac: mechanism(MechanismType::SHA256_HMAC)?,
            generic_secret_key_gen: mechanism(MechanismType::GENERIC_SECRET_KEY_GEN)?,
        })
    }

    /// Secret keys by label and id, as their attributes tell them.
    pub(crate) fn attributes(&self, label: Option<&str>, id: Option<&[u8]>) -> Result<Vec<KeyAttributes>, TokenError> {
        let session = self.session.as_ref().ok_or_else(|| not_connected("attributes"))?;
        let mut template = vec![Attribute::Class(ObjectClass::SECRET_KEY), Attribute::Token(true)];
        template.extend(label.map(|label| Attribute::Label(label.as_bytes().to_vec())));
        template.extend(id.map(|id| Attribute::Id(id.to_vec())));
        let handles = session.find_objects(&template).map_err(|error| classify(&error, "attributes"))?;
        if handles.len() > KEYS_FOUND_MAX {
            let detail = format!("{} keys match, at most {KEYS_FOUND_MAX} are looked at", handles.len());
            return Err(TokenError::new(FaultClass::Key, "attributes", "too_many_keys", detail));
        }
        handles.into_iter().map(|handle| attributes(session, handle)).collect()
    }

    /// A key that ends with its session: generated under the template of a sealing key, or one of a known value.
    pub(crate) fn session_key(&mut self, label: &str, value: Option<&[u8; 32]>) -> Result<u32, TokenError> {
        let session = self.session.as_ref().ok_or_else(|| not_connected("session_key"))?;
        if self.keys.len() >= KEYS_FOUND_MAX {
            let detail = format!("{KEYS_FOUND_MAX} keys are open");
            return Err(TokenError::new(FaultClass::Usage, "session_key", "too_many_keys", detail));
        }
        let made = match value {
            None => {
                let mut template = sealing_key(label);
                template.push(Attribute::Token(false));
                session.generate_key(&cryptoki::mechanism::Mechanism::GenericSecretKeyGen, &template)
            }
            // The least that says what it is: a value that comes from outside is never a sealing key.
            Some(value) => session.create_object(&[
                Attribute::Class(ObjectClass::SECRET_KEY),
                Attribute::KeyType(KeyType::GENERIC_SECRET),
                Attribute::Token(false),
                Attribute::Sign(true),
                Attribute::Label(label.as_bytes().to_vec()),
                Attribute::Value(value.to_vec()),
            ]),
        };
        let handle = made.map_err(|error| classify(&error, "session_key"))?;
        let number = u32::try_from(self.keys.len()).unwrap_or(u32::MAX);
        self.keys.push(handle);
        Ok(number)
    }

    /// Logs out, and keeps what a node would keep that does not know it.
    pub(crate) fn logout(&self) -> Result<(), TokenError> {
        let session = self.session.as_ref().ok_or_else(|| not_connected("logout"))?;
        session.logout().map_err(|error| classify(&error, "logout"))
    }

    /// Ends every session behind the back of their handles, which stay. Nothing is opened here, so that no new session can have the
    /// number of a stale one.
    pub(crate) fn lose_sessions(&self) -> Result<(), TokenError> {
        let Some((_, module)) = self.loaded.as_ref() else { return Err(not_connected("lose_sessions")) };
        let finalized = module.clone().finalize();
        initialized(finalized, module.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)))
    }
}

/// What a token does not tell or cannot do is an answer, by its code; that it is gone is an error.
fn told<T>(answer: Result<T, Error>, operation: &str) -> Result<Result<T, String>, TokenError> {
    match answer {
        Ok(value) => Ok(Ok(value)),
        Err(error) => {
            let failed = classify(&error, operation);
            match failed.class {
                FaultClass::Usage | FaultClass::Integrity => Ok(Err(failed.code)),
                FaultClass::Session
                | FaultClass::AmbiguousKey
                | FaultClass::Token
                | FaultClass::Module
                | FaultClass::Deadline
                | FaultClass::Credential
                | FaultClass::Key => Err(failed),
            }
        }
    }
}

fn mechanism(
    module: &Pkcs11,
    slot: Slot,
    listed: Option<&[MechanismType]>,
    wanted: MechanismType,
) -> Result<Mechanism, TokenError> {
    let told = told(module.get_mechanism_info(slot, wanted), "details")?.map(|info| MechanismTold {
        key_size_min: wide(info.min_key_size()),
        key_size_max: wide(info.max_key_size()),
        hardware: info.hardware(),
        sign: info.sign(),
        generate: info.generate(),
    });
    Ok(Mechanism { listed: listed.map(|listed| listed.contains(&wanted)), told })
}

/// Each attribute alone: of several that are asked for at once, some modules answer only those before the first that they do not
/// know.
fn attributes(session: &Session, handle: ObjectHandle) -> Result<KeyAttributes, TokenError> {
    let flag = |wanted| Ok(one(session, handle, wanted)?.as_ref().and_then(as_flag));
    let text = |value: Option<Attribute>| match value {
        Some(Attribute::Id(bytes) | Attribute::Label(bytes)) if bytes.len() <= ATTRIBUTE_BYTES_MAX => bytes,
        _ => Vec::new(),
    };
    let label = text(one(session, handle, AttributeType::Label)?);
    Ok(KeyAttributes {
        id: text(one(session, handle, AttributeType::Id)?),
        label: String::from_utf8_lossy(&label).into_owned(),
        key_type: match one(session, handle, AttributeType::KeyType)? {
            Some(Attribute::KeyType(kind)) => Some(kind.to_string()),
            _ => None,
        },
        value_bytes: match one(session, handle, AttributeType::ValueLen)? {
            Some(Attribute::ValueLen(length)) => usize::try_from(*length).ok().map(wide),
            _ => None,
        },
        sensitive: flag(AttributeType::Sensitive)?,
        extractable: flag(AttributeType::Extractable)?,
        always_sensitive: flag(AttributeType::AlwaysSensitive)?,
        never_extractable: flag(AttributeType::NeverExtractable)?,
        local: flag(AttributeType::Local)?,
        sign: flag(AttributeType::Sign)?,
        derive: flag(AttributeType::Derive)?,
        modifiable: flag(AttributeType::Modifiable)?,
        copyable: flag(AttributeType::Copyable)?,
        destroyable: flag(AttributeType::Destroyable)?,
        private: flag(AttributeType::Private)?,
        token: flag(AttributeType::Token)?,
    })
}

/// One attribute; none when the token does not tell. Asked first whether it is there: a module that leaves the buffer alone would
/// otherwise read as "no".
fn one(session: &Session, handle: ObjectHandle, wanted: AttributeType) -> Result<Option<Attribute>, TokenError> {
    let there = told(session.get_attribute_info(handle, &[wanted]), "attributes")?;
    if !matches!(there.as_deref(), Ok([AttributeInfo::Available(_)])) {
        return Ok(None);
    }
    let read = match session.get_attributes(handle, &[wanted]) {
        // Longer than its kind allows, or gone meanwhile.
        Err(Error::Pkcs11(RvError::BufferTooSmall | RvError::AttributeTypeInvalid, _)) => return Ok(None),
        read => told(read, "attributes")?,
    };
    Ok(read.ok().and_then(|read| read.into_iter().next()))
}

fn as_flag(attribute: &Attribute) -> Option<bool> {
    match attribute {
        Attribute::Sensitive(set)
        | Attribute::Extractable(set)
        | Attribute::AlwaysSensitive(set)
        | Attribute::NeverExtractable(set)
        | Attribute::Local(set)
        | Attribute::Sign(set)
        | Attribute::Derive(set)
        | Attribute::Modifiable(set)
        | Attribute::Copyable(set)
        | Attribute::Destroyable(set)
        | Attribute::Private(set)
        | Attribute::Token(set) => Some(*set),
        _ => None,
    }
}

fn wide(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}
