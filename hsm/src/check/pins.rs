//! Which kinds of token were seen to lock, and when. Measured by this project on each kind, never on the token that is checked; the
//! manual says how (operations, "Before a token is used").

use super::report::KnownLock;
use crate::agent::examine::LibraryDetails;
use crate::token::TokenInfo;

const SOURCE: &str = "measured by the project: manual, operations";

/// What is known of tokens like this one.
pub(super) fn known(info: &TokenInfo, library: Option<&LibraryDetails>) -> Option<KnownLock> {
    let lock = |kind, locks_at| Some(KnownLock { kind, locks_at, source: SOURCE });
    // A TPM tells the manufacturer of the chip: the module tells more. Remoted, it does not.
    if library.is_some_and(|library| library.description.starts_with("TPM2.0 Cryptoki")) {
        return lock("tpm2-pkcs11", Some(4));
    }
    match (info.manufacturer.as_str(), info.model.as_str()) {
        ("SoftHSM project", _) => lock("SoftHSM", None),
        ("Mozilla Foundation", _) => lock("NSS", None),
        ("Kryoptic Project", _) => lock("kryoptic", Some(10)),
        (manufacturer, model) if manufacturer.starts_with("IBM") && model.contains("Soft") => {
            lock("openCryptoki soft token", Some(4))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_that_lock_are_told_from_each_other() {
        let known = |manufacturer: &str, model: &str, description: &str| {
            let info = TokenInfo {
                label: String::new(),
                serial: String::new(),
                manufacturer: manufacturer.to_owned(),
                model: model.to_owned(),
                pin_count_low: false,
                pin_final_try: false,
                pin_locked: false,
            };
            let library = LibraryDetails {
                manufacturer: String::new(),
                description: description.to_owned(),
                version: String::new(),
                cryptoki_version: String::new(),
            };
            super::known(&info, Some(&library)).map(|known| (known.kind, known.locks_at))
        };
        assert_eq!(known("SoftHSM project", "SoftHSM v2", "Implementation of PKCS11"), Some(("SoftHSM", None)));
        assert_eq!(known("Mozilla Foundation", "NSS 3", ""), Some(("NSS", None)));
        assert_eq!(known("Kryoptic Project", "v1", ""), Some(("kryoptic", Some(10))));
        assert_eq!(known("IBM Corp.", "IBM SoftTok", "openCryptoki"), Some(("openCryptoki soft token", Some(4))));
        assert_eq!(known("IBM", "SW   TPM", "TPM2.0 Cryptoki"), Some(("tpm2-pkcs11", Some(4))));
        // A software TPM behind a remoting module: nothing tells it from other tokens of that name.
        assert_eq!(known("IBM", "SW   TPM", "p11-kit client"), None);
        assert_eq!(known("Yubico", "YubiHSM", ""), None);
    }
}
