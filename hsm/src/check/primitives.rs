//! What scheme `hmac` needs, proved: lists of mechanisms lie.

use hmac::{Hmac, Mac};
use sha2::Sha256;

use super::finding::Code;
use super::report::{Outcome, SealedWith};
use super::run::Run;
use super::subject::{KNOWN_VALUE, Subject};
use crate::scheme;
use crate::token::{FaultClass, TokenError};

const OTHER_INPUT: &[u8] = b"frostkeep/v1/check";

impl Run<'_> {
    /// HMAC-SHA256 and the making of keys: with the configured key, and with keys that end with their session.
    pub(super) fn prove(&mut self) {
        self.prove_configured();
        self.prove_generated();
        self.compare_with_host();
        let hmac = &self.report.primitives.hmac_sha256;
        if hmac.proved == Outcome::Yes && (hmac.listed == Some(false) || hmac.told == Some(false)) {
            self.find(Code::MechanismNotListed, "CKM_SHA256_HMAC works and is not listed for signing");
        }
    }

    fn prove_configured(&mut self) {
        if self.subject.key != Some(SealedWith::ConfiguredKey) {
            return;
        }
        let proved = self.ask(|subject| {
            subject.open_whole(&[])?;
            consistent(|input| subject.derive_sealing(input).map(|output| *output.expose()))
        });
        match proved {
            Some(Ok(())) => self.proved_with(SealedWith::ConfiguredKey),
            // Told as a hang; what the key would have answered is not known.
            Some(Err(error)) if error.class == FaultClass::Deadline => {
                self.report.primitives.hmac_sha256.error = Some(error.to_string());
            }
            Some(Err(error)) => {
                // Nothing seals under it, and a session key that works says nothing of it.
                self.subject.key = None;
                self.report.key.accepted = Outcome::No;
                self.report.key.refusal = Some(error.to_string());
                self.not_proved(&error);
            }
            None => {}
        }
    }

    fn prove_generated(&mut self) {
        // Two questions: a token that makes no key may still sign.
        match self.ask(|subject| subject.session_key(None)) {
            Some(Ok(_)) => {}
            Some(Err(error)) if error.class == FaultClass::Deadline => {
                self.report.primitives.generic_secret_key_gen.error = Some(error.to_string());
                return;
            }
            Some(Err(error)) => {
                let has_key = self.subject.key.is_some();
                let generated = &mut self.report.primitives.generic_secret_key_gen;
                (generated.proved, generated.error) = (Outcome::No, Some(error.to_string()));
                let code = if has_key { Code::KeyGenRefused } else { Code::KeyGenImpossible };
                return self.find(code, error.to_string());
            }
            None => return,
        }
        self.report.primitives.generic_secret_key_gen.proved = Outcome::Yes;
        self.report.primitives.generic_secret_key_gen.error = None;
        let signed = self.ask(|subject| {
            let number = subject.session_key(None)?;
            consistent(|input| subject.token.derive_with(number, input).map(|output| *output.expose()))
        });
        match signed {
            Some(Ok(())) => {
                if self.subject.key.is_none() && self.report.primitives.hmac_sha256.proved != Outcome::No {
                    self.subject.key = Some(SealedWith::SessionKey);
                    self.proved_with(SealedWith::SessionKey);
                }
            }
            // With a configured key that works, one of a session that does not is a curiosity.
            Some(Err(error)) if self.subject.key.is_none() && error.class != FaultClass::Deadline => {
                self.not_proved(&error);
            }
            Some(Err(_)) | None => {}
        }
    }

    fn compare_with_host(&mut self) {
        let compared = self.ask(known_answer);
        let primitives = &mut self.report.primitives;
        match compared {
            Some(Ok(same)) => {
                primitives.hmac_equals_host = same.into();
                if !same {
                    self.find(Code::HmacDiffers, "the same key and input give another HMAC-SHA256 on this host");
                }
            }
            Some(Err(error)) => {
                primitives.hmac_equals_host_error = Some(error.to_string());
                if error.class != FaultClass::Deadline {
                    self.find(Code::HmacNotCompared, error.to_string());
                }
            }
            None => {}
        }
    }

    fn proved_with(&mut self, key: SealedWith) {
        let hmac = &mut self.report.primitives.hmac_sha256;
        (hmac.proved, hmac.proved_with, hmac.error) = (Outcome::Yes, Some(key), None);
    }

    fn not_proved(&mut self, error: &TokenError) {
        let hmac = &mut self.report.primitives.hmac_sha256;
        (hmac.proved, hmac.error) = (Outcome::No, Some(error.to_string()));
        self.find(Code::HmacNotProved, error.to_string());
    }
}

/// The same question twice, and another one.
fn consistent(mut derive: impl FnMut(&[u8]) -> Result<[u8; 32], TokenError>) -> Result<(), TokenError> {
    let input = scheme::check_value_input();
    let (first, again, other) = (derive(&input)?, derive(&input)?, derive(OTHER_INPUT)?);
    let wrong = |detail| Err(TokenError::new(FaultClass::Integrity, "derive", "answers_differ", detail));
    if first != again {
        return wrong("the same input gave two outputs");
    }
    if first == other {
        return wrong("two inputs gave the same output");
    }
    Ok(())
}

/// Whether token and host agree on HMAC-SHA256 under a key that both know.
fn known_answer(subject: &mut Subject) -> Result<bool, TokenError> {
    let number = subject.session_key(Some(KNOWN_VALUE))?;
    for input in [scheme::check_value_input().as_slice(), OTHER_INPUT] {
        if !is_hmac_of_known(input, subject.token.derive_with(number, input)?.expose()) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether this is HMAC-SHA256 (RFC 2104) under [`KNOWN_VALUE`].
fn is_hmac_of_known(input: &[u8], answer: &[u8; 32]) -> bool {
    let Ok(mut host) = <Hmac<Sha256> as Mac>::new_from_slice(&KNOWN_VALUE) else { return false };
    host.update(input);
    host.verify_slice(answer).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_hmac_sha256_passes_for_it() {
        use sha2::Digest;
        let hash = |parts: &[&[u8]]| -> [u8; 32] { Sha256::digest(parts.concat()).into() };
        // By its definition, not by the crate that is asked.
        let pad = |byte: u8| -> Vec<u8> {
            let padded = KNOWN_VALUE.iter().chain(&[0; 32]);
            padded.map(|key| key ^ byte).collect()
        };
        let (inner, outer) = (pad(0x36), pad(0x5c));
        let right = hash(&[&outer, &hash(&[&inner, OTHER_INPUT])]);
        assert!(is_hmac_of_known(OTHER_INPUT, &right));
        assert!(!is_hmac_of_known(b"another input", &right));
        for wrong in [hash(&[OTHER_INPUT]), hash(&[&KNOWN_VALUE, OTHER_INPUT]), hash(&[&inner, OTHER_INPUT]), [0; 32]] {
            assert!(!is_hmac_of_known(OTHER_INPUT, &wrong));
        }
    }

    #[test]
    fn answers_that_do_not_hold_together_are_found_out() {
        let of = |input: &[u8]| [u8::try_from(input.len()).unwrap(); 32];
        assert_eq!(consistent(|input| Ok(of(input))), Ok(()));
        let detail = |result: Result<(), TokenError>| result.unwrap_err().detail;
        assert!(detail(consistent(|_| Ok([7; 32]))).contains("two inputs"));
        let mut count = 0;
        let counting = consistent(|_| {
            count += 1;
            Ok([count; 32])
        });
        assert!(detail(counting).contains("the same input"));
    }
}
