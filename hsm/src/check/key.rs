//! The configured key: what its attributes say, and whether a node would seal under it.

use super::finding::Code;
use super::report::{Outcome, SealedWith};
use super::run::Run;
use crate::agent::examine::{Examine, Examined, KeyAttributes};
use crate::agent::protocol::FoundKey;
use crate::pkcs11_token::{guarded, hex};
use crate::token::{FaultClass, TokenError};

/// Bytes of a sealing key that `token init --create` makes.
const KEY_BYTES: u64 = 32;

impl Run<'_> {
    /// Looks at the configured key, and uses it once.
    pub(super) fn examine_key(&mut self) {
        let (label, id) = (self.subject.token.uri().object.clone(), self.subject.token.uri().id.clone());
        let question = Examine::Attributes { label: label.clone(), id: id.clone() };
        let told = match self.ask(|subject| subject.token.examine(question.clone())) {
            Some(Ok(Examined::Attributes(keys))) => keys,
            Some(Err(error)) if error.code == "too_many_keys" => {
                self.report.key.unique = Some(false);
                self.report.key.refusal = Some(error.to_string());
                self.report.key.accepted = Outcome::No;
                return self.find(Code::KeyNotUnique, error.to_string());
            }
            Some(Err(error)) => {
                self.report.key.refusal = Some(error.to_string());
                if error.class != FaultClass::Deadline {
                    self.report.key.accepted = Outcome::No;
                    self.find(Code::KeyUnusable, error.to_string());
                }
                return;
            }
            Some(Ok(_)) | None => return,
        };
        self.report.key.found = u32::try_from(told.len()).ok();
        let told = match <[KeyAttributes; 1]>::try_from(told) {
            Ok([one]) => one,
            Err(none) if none.is_empty() => {
                return self.find(Code::KeyMissing, "the token holds no key of the configured name");
            }
            Err(several) => {
                self.report.key.unique = Some(false);
                self.report.key.accepted = Outcome::No;
                return self.find(Code::KeyNotUnique, format!("{} keys have the configured name", several.len()));
            }
        };
        self.report.key.unique = Some(true);
        self.judge_attributes(&told);
        // As a node finds it, with its check value.
        let found = self.ask(|subject| {
            let found = subject.token.find(label.clone(), id.clone())?;
            <[FoundKey; 1]>::try_from(found).map_err(|found| {
                let detail = format!("{} keys match now, one did before", found.len());
                TokenError::new(FaultClass::Key, "find", "key_not_unique", detail)
            })
        });
        let refusal = match found {
            Some(Ok([key])) => {
                self.report.key.check_value = Some(hex(&key.check_value));
                self.refusal(&told, &key)
            }
            // A hang was told as one.
            Some(Err(error)) if error.class == FaultClass::Deadline => {
                self.report.key.refusal = Some(error.to_string());
                return;
            }
            Some(Err(error)) => Some((Code::KeyUnusable, error)),
            None => return,
        };
        self.report.key.accepted = refusal.is_none().into();
        match refusal {
            None => self.subject.key = Some(SealedWith::ConfiguredKey),
            Some((code, error)) => {
                self.report.key.refusal = Some(error.to_string());
                self.find(code, error.to_string());
            }
        }
    }

    /// Why a node would not seal under it.
    fn refusal(&self, told: &KeyAttributes, key: &FoundKey) -> Option<(Code, TokenError)> {
        if let Err(error) = guarded(key) {
            return Some((Code::KeyExposed, error));
        }
        if key.id.is_empty() {
            let error = TokenError::new(FaultClass::Usage, "find", "key_without_id", "the key needs a CKA_ID");
            return Some((Code::KeyWithoutId, error));
        }
        if (told.sensitive, told.extractable) != (key.sensitive, key.extractable) {
            let detail = format!(
                "sensitive {:?}, extractable {:?} when asked alone; {:?}, {:?} with others",
                told.sensitive, told.extractable, key.sensitive, key.extractable
            );
            let error = TokenError::new(FaultClass::Integrity, "attributes", "attributes_differ", detail);
            return Some((Code::KeyAttributesDiffer, error));
        }
        None
    }

    fn judge_attributes(&mut self, told: &KeyAttributes) {
        let key = &mut self.report.key;
        key.label = Some(told.label.clone());
        key.id = Some(hex(&told.id));
        key.key_type = told.key_type.clone();
        key.value_bytes = told.value_bytes;
        key.sensitive = told.sensitive;
        key.extractable = told.extractable;
        key.always_sensitive = told.always_sensitive;
        key.never_extractable = told.never_extractable;
        key.local = told.local;
        key.sign = told.sign;
        key.derive = told.derive;
        key.modifiable = told.modifiable;
        key.copyable = told.copyable;
        key.destroyable = told.destroyable;
        key.private = told.private;
        key.token = told.token;
        // What is wrong now is said by its refusal; this is what was wrong once.
        let guarded_now = told.sensitive == Some(true) && told.extractable == Some(false);
        if guarded_now && told.local == Some(false) {
            self.find(Code::KeyImported, "CKA_LOCAL is false: the key was not made in the token");
        } else if guarded_now && (told.always_sensitive == Some(false) || told.never_extractable == Some(false)) {
            self.find(Code::KeyWasExposed, "the key could once leave the token, says the token");
        }
        if told.private == Some(false) {
            self.find(Code::KeyPublic, "CKA_PRIVATE is false");
        }
        if let Some(bytes) = told.value_bytes.filter(|bytes| *bytes < KEY_BYTES) {
            self.find(Code::KeyShort, format!("the key has {bytes} bytes"));
        }
    }
}
