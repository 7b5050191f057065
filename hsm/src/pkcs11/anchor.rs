//! Anchor objects in the module.

use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;

use super::{Module, not_connected};
use crate::agent::anchor::{ANCHOR_BYTES_MAX, AnchorAct, AnchorKind, AnchorName};
use crate::agent::protocol::{ATTRIBUTE_BYTES_MAX, KEYS_FOUND_MAX};
use crate::classify::classify;
use crate::token::{FaultClass, TokenError};

impl Module {
    /// All values under `name`.
    pub(crate) fn anchor_read(&self, kind: AnchorKind, name: &AnchorName) -> Result<Vec<Vec<u8>>, TokenError> {
        let session = self.anchor_session(AnchorAct::Read)?;
        let handles = find(session, kind, name, AnchorAct::Read)?;
        handles.into_iter().map(|handle| value(session, kind, handle)).collect()
    }

    /// Makes an anchor object.
    pub(crate) fn anchor_create(&self, kind: AnchorKind, name: &AnchorName, value: &[u8]) -> Result<(), TokenError> {
        check(name, value, AnchorAct::Create)?;
        create(self.anchor_session(AnchorAct::Create)?, kind, name, value, AnchorAct::Create)
    }

    /// Replaces the value of the anchor object that is there.
    pub(crate) fn anchor_write(&self, kind: AnchorKind, name: &AnchorName, value: &[u8]) -> Result<(), TokenError> {
        let act = AnchorAct::Write;
        check(name, value, act)?;
        let session = self.anchor_session(act)?;
        let handles = find(session, kind, name, act)?;
        let failed = |error| classify(&error, act.operation());
        match (kind, handles.as_slice()) {
            // As ambiguous as a lost handle: only a full re-initialisation tells.
            (_, []) => Err(TokenError::new(FaultClass::AmbiguousKey, act.operation(), "anchor_missing", "")),
            (AnchorKind::UpdateData, [one]) => {
                session.update_attributes(*one, &[Attribute::Value(value.to_vec())]).map_err(failed)
            }
            (AnchorKind::SetId, [one]) => {
                session.update_attributes(*one, &[Attribute::Id(value.to_vec())]).map_err(failed)
            }
            (AnchorKind::ReplaceData, old) => {
                // The new one first: whatever cuts this off, a value stays.
                create(session, kind, name, value, act)?;
                old.iter().try_for_each(|old| session.destroy_object(*old)).map_err(failed)
            }
            (AnchorKind::UpdateData | AnchorKind::SetId, several) => {
                let detail = format!("{} objects have the name, exactly one must", several.len());
                Err(TokenError::new(FaultClass::Usage, act.operation(), "anchor_not_unique", detail))
            }
        }
    }

    /// Destroys all objects of the name. One that resists does not keep the others.
    pub(crate) fn anchor_destroy(&self, kind: AnchorKind, name: &AnchorName) -> Result<u32, TokenError> {
        let act = AnchorAct::Destroy;
        let session = self.anchor_session(act)?;
        let (mut destroyed, mut failed) = (0, None);
        for handle in find(session, kind, name, act)? {
            let answer = spare_keys(session, kind, handle)
                .and_then(|()| session.destroy_object(handle).map_err(|error| classify(&error, act.operation())));
            match answer {
                Ok(()) => destroyed += 1,
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(destroyed), Err)
    }

    fn anchor_session(&self, act: AnchorAct) -> Result<&Session, TokenError> {
        self.session.as_ref().ok_or_else(|| not_connected(act.operation()))
    }
}

/// Whatever its label: a key that may sign is somebody's key, and never an anchor.
fn spare_keys(session: &Session, kind: AnchorKind, handle: ObjectHandle) -> Result<(), TokenError> {
    let operation = AnchorAct::Destroy.operation();
    if kind != AnchorKind::SetId {
        return Ok(());
    }
    let told = session.get_attributes(handle, &[AttributeType::Sign]).map_err(|error| classify(&error, operation))?;
    match told.as_slice() {
        [Attribute::Sign(false)] => Ok(()),
        _ => Err(TokenError::new(FaultClass::Usage, operation, "anchor_is_a_key", "it may sign, and is left alone")),
    }
}

fn check(name: &AnchorName, value: &[u8], act: AnchorAct) -> Result<(), TokenError> {
    let AnchorName { label, application } = name;
    if label.is_empty() || label.len() > ATTRIBUTE_BYTES_MAX || application.len() > ATTRIBUTE_BYTES_MAX {
        let detail = format!("label of {} bytes, application of {} bytes", label.len(), application.len());
        return Err(TokenError::new(FaultClass::Usage, act.operation(), "name_length", detail));
    }
    if value.is_empty() || value.len() > ANCHOR_BYTES_MAX {
        let detail = format!("{} bytes, 1 to {ANCHOR_BYTES_MAX} are allowed", value.len());
        return Err(TokenError::new(FaultClass::Usage, act.operation(), "anchor_length", detail));
    }
    Ok(())
}

fn find(
    session: &Session,
    kind: AnchorKind,
    name: &AnchorName,
    act: AnchorAct,
) -> Result<Vec<ObjectHandle>, TokenError> {
    let handles = session.find_objects(&named(kind, name)).map_err(|error| classify(&error, act.operation()))?;
    if handles.len() > KEYS_FOUND_MAX && act != AnchorAct::Destroy {
        let detail = format!("{} objects have the name, at most {KEYS_FOUND_MAX} are looked at", handles.len());
        return Err(TokenError::new(FaultClass::Usage, act.operation(), "anchor_not_unique", detail));
    }
    Ok(handles)
}

/// What an anchor is found by, and made with.
fn named(kind: AnchorKind, name: &AnchorName) -> Vec<Attribute> {
    let mut template = vec![Attribute::Token(true), Attribute::Label(name.label.as_bytes().to_vec())];
    match kind {
        AnchorKind::UpdateData | AnchorKind::ReplaceData => {
            template.push(Attribute::Class(ObjectClass::DATA));
            template.push(Attribute::Application(name.application.as_bytes().to_vec()));
        }
        AnchorKind::SetId => template.push(Attribute::Class(ObjectClass::SECRET_KEY)),
    }
    template
}

fn create(
    session: &Session,
    kind: AnchorKind,
    name: &AnchorName,
    value: &[u8],
    act: AnchorAct,
) -> Result<(), TokenError> {
    let mut template = named(kind, name);
    // A public object could be changed by whoever reaches the token, without the pin.
    template.push(Attribute::Private(true));
    let made = match kind {
        AnchorKind::UpdateData | AnchorKind::ReplaceData => {
            template.push(Attribute::Value(value.to_vec()));
            session.create_object(&template)
        }
        AnchorKind::SetId => {
            template.extend([
                Attribute::KeyType(KeyType::GENERIC_SECRET),
                Attribute::Sensitive(true),
                Attribute::Extractable(false),
                Attribute::Sign(false),
                Attribute::Verify(false),
                Attribute::Encrypt(false),
                Attribute::Decrypt(false),
                Attribute::Wrap(false),
                Attribute::Unwrap(false),
                Attribute::Derive(false),
                Attribute::Id(value.to_vec()),
                Attribute::ValueLen(32.into()),
            ]);
            session.generate_key(&Mechanism::GenericSecretKeyGen, &template)
        }
    };
    made.map(drop).map_err(|error| classify(&error, act.operation()))
}

fn value(session: &Session, kind: AnchorKind, handle: ObjectHandle) -> Result<Vec<u8>, TokenError> {
    let operation = AnchorAct::Read.operation();
    let wanted = match kind {
        AnchorKind::UpdateData | AnchorKind::ReplaceData => AttributeType::Value,
        AnchorKind::SetId => AttributeType::Id,
    };
    let read = session.get_attributes(handle, &[wanted]).map_err(|error| classify(&error, operation))?;
    match read.into_iter().next() {
        Some(Attribute::Value(bytes) | Attribute::Id(bytes)) if bytes.len() <= ANCHOR_BYTES_MAX => Ok(bytes),
        Some(_) => {
            let detail = format!("at most {ANCHOR_BYTES_MAX} bytes are read");
            Err(TokenError::new(FaultClass::Usage, operation, "anchor_length", detail))
        }
        None => Err(TokenError::new(FaultClass::Usage, operation, "anchor_not_told", "")),
    }
}
