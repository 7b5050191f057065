//! What is documented for each code at each site. Written from the contract (the classes of the outage machine, the table of measured
//! outages, the numbers of the PKCS#11 standard), not from the code: the product's own functions are not asked.

use frostkeep_fixtures::When;
use frostkeep_hsm::health::OutageClass;

use crate::sites::{Kind, Site};

/// What a code says of the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// The session is lost or confused: reopen, retry once.
    Session,
    /// A lost key, or an outage or a logout that looks like one: a full re-initialisation tells.
    Ambiguous,
    /// The token is gone, refuses, or failed.
    Token,
    /// The module lost its own state: a new agent.
    Module,
    /// The PIN: stop.
    Credential,
    /// An answer that does not fit its question.
    Integrity,
    /// What no retry cures: the configuration, the key, the token's abilities.
    Usage,
}

/// How a fault ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The call succeeds as if nothing had been.
    Nothing,
    /// The call succeeds after one reconnection; nobody sees an outage.
    Cured,
    /// An outage of this class that heals at the first probe after the fault.
    Out(OutageClass),
    /// Fenced by this class; no PIN is latched and no key was changed, so that it lifts at the first probe after the fault.
    Fenced(OutageClass),
    /// Fenced by a credential: no login is tried again before the operator has unlatched.
    Latched,
}

/// A code that a token can answer.
pub type Code = (u64, &'static str);

/// Every code of PKCS#11 that has a name, one of a vendor, and one that has none. By class.
pub const CODES: &[(Class, &[Code])] = &[
    (
        Class::Session,
        &[
            (0x90, "CKR_OPERATION_ACTIVE"),
            (0x91, "CKR_OPERATION_NOT_INITIALIZED"),
            (0xb0, "CKR_SESSION_CLOSED"),
            (0xb3, "CKR_SESSION_HANDLE_INVALID"),
            (0xb6, "CKR_SESSION_EXISTS"),
            (0xb7, "CKR_SESSION_READ_ONLY_EXISTS"),
            (0xb8, "CKR_SESSION_READ_WRITE_SO_EXISTS"),
            (0x100, "CKR_USER_ALREADY_LOGGED_IN"),
            (0x101, "CKR_USER_NOT_LOGGED_IN"),
            (0x104, "CKR_USER_ANOTHER_ALREADY_LOGGED_IN"),
            (0x105, "CKR_USER_TOO_MANY_TYPES"),
            (0x160, "CKR_SAVED_STATE_INVALID"),
            (0x180, "CKR_STATE_UNSAVEABLE"),
        ],
    ),
    (
        Class::Ambiguous,
        &[
            (0x60, "CKR_KEY_HANDLE_INVALID"),
            (0x62, "CKR_KEY_SIZE_RANGE"),
            (0x65, "CKR_KEY_CHANGED"),
            (0x66, "CKR_KEY_NEEDED"),
            (0x82, "CKR_OBJECT_HANDLE_INVALID"),
            (0xf0, "CKR_UNWRAPPING_KEY_HANDLE_INVALID"),
            (0x113, "CKR_WRAPPING_KEY_HANDLE_INVALID"),
        ],
    ),
    (
        Class::Token,
        &[
            (0x30, "CKR_DEVICE_ERROR"),
            (0x01, "CKR_CANCEL"),
            (0x02, "CKR_HOST_MEMORY"),
            (0x05, "CKR_GENERAL_ERROR"),
            (0x06, "CKR_FUNCTION_FAILED"),
            (0x08, "CKR_NO_EVENT"),
            (0x31, "CKR_DEVICE_MEMORY"),
            (0x32, "CKR_DEVICE_REMOVED"),
            (0x50, "CKR_FUNCTION_CANCELED"),
            (0xb1, "CKR_SESSION_COUNT"),
            (0xe0, "CKR_TOKEN_NOT_PRESENT"),
            (0xe1, "CKR_TOKEN_NOT_RECOGNIZED"),
            (0x121, "CKR_RANDOM_NO_RNG"),
            (0x1b5, "CKR_EXCEEDED_MAX_ITERATIONS"),
            (0x1b6, "CKR_FIPS_SELF_TEST_FAILED"),
            (0x200, "CKR_FUNCTION_REJECTED"),
            (0x8000_0001, "CKR_VENDOR_DEFINED(0x80000001)"),
            (0x7777, "CKR(0x7777)"),
        ],
    ),
    (
        Class::Module,
        &[
            (0x190, "CKR_CRYPTOKI_NOT_INITIALIZED"),
            (0x191, ALREADY_INITIALIZED),
            (0x1a0, "CKR_MUTEX_BAD"),
            (0x1a1, "CKR_MUTEX_NOT_LOCKED"),
            (0x1b7, "CKR_LIBRARY_LOAD_FAILED"),
        ],
    ),
    (
        Class::Credential,
        &[
            (0xa0, "CKR_PIN_INCORRECT"),
            (0xa1, "CKR_PIN_INVALID"),
            (0xa2, "CKR_PIN_LEN_RANGE"),
            (0xa3, "CKR_PIN_EXPIRED"),
            (0xa4, "CKR_PIN_LOCKED"),
            (0x102, "CKR_USER_PIN_NOT_INITIALIZED"),
            (0x1b0, "CKR_NEW_PIN_MODE"),
            (0x1b1, "CKR_NEXT_OTP"),
            (0x1b8, "CKR_PIN_TOO_WEAK"),
        ],
    ),
    (
        Class::Integrity,
        &[
            (0x40, "CKR_ENCRYPTED_DATA_INVALID"),
            (0x41, "CKR_ENCRYPTED_DATA_LEN_RANGE"),
            (0xc0, "CKR_SIGNATURE_INVALID"),
            (0xc1, "CKR_SIGNATURE_LEN_RANGE"),
            (0x110, "CKR_WRAPPED_KEY_INVALID"),
            (0x112, "CKR_WRAPPED_KEY_LEN_RANGE"),
            (0x150, BUFFER_TOO_SMALL),
            (0x1b9, "CKR_PUBLIC_KEY_INVALID"),
        ],
    ),
    (
        Class::Usage,
        &[
            (0x03, "CKR_SLOT_ID_INVALID"),
            (0x07, "CKR_ARGUMENTS_BAD"),
            (0x09, "CKR_NEED_TO_CREATE_THREADS"),
            (0x0a, "CKR_CANT_LOCK"),
            (0x10, "CKR_ATTRIBUTE_READ_ONLY"),
            (0x11, "CKR_ATTRIBUTE_SENSITIVE"),
            (0x12, "CKR_ATTRIBUTE_TYPE_INVALID"),
            (0x13, "CKR_ATTRIBUTE_VALUE_INVALID"),
            (0x1b, "CKR_ACTION_PROHIBITED"),
            (0x20, "CKR_DATA_INVALID"),
            (0x21, "CKR_DATA_LEN_RANGE"),
            (0x51, "CKR_FUNCTION_NOT_PARALLEL"),
            (0x54, "CKR_FUNCTION_NOT_SUPPORTED"),
            (0x63, "CKR_KEY_TYPE_INCONSISTENT"),
            (0x64, "CKR_KEY_NOT_NEEDED"),
            (0x67, "CKR_KEY_INDIGESTIBLE"),
            (0x68, "CKR_KEY_FUNCTION_NOT_PERMITTED"),
            (0x69, "CKR_KEY_NOT_WRAPPABLE"),
            (0x6a, "CKR_KEY_UNEXTRACTABLE"),
            (0x70, "CKR_MECHANISM_INVALID"),
            (0x71, "CKR_MECHANISM_PARAM_INVALID"),
            (0xb4, "CKR_SESSION_PARALLEL_NOT_SUPPORTED"),
            (0xb5, "CKR_SESSION_READ_ONLY"),
            (0xd0, "CKR_TEMPLATE_INCOMPLETE"),
            (0xd1, "CKR_TEMPLATE_INCONSISTENT"),
            (0xe2, "CKR_TOKEN_WRITE_PROTECTED"),
            (0xf1, "CKR_UNWRAPPING_KEY_SIZE_RANGE"),
            (0xf2, "CKR_UNWRAPPING_KEY_TYPE_INCONSISTENT"),
            (0x103, "CKR_USER_TYPE_INVALID"),
            (0x114, "CKR_WRAPPING_KEY_SIZE_RANGE"),
            (0x115, "CKR_WRAPPING_KEY_TYPE_INCONSISTENT"),
            (0x120, "CKR_RANDOM_SEED_NOT_SUPPORTED"),
            (0x130, "CKR_DOMAIN_PARAMS_INVALID"),
            (0x140, "CKR_CURVE_NOT_SUPPORTED"),
            (0x170, "CKR_INFORMATION_SENSITIVE"),
        ],
    ),
];

const ALREADY_INITIALIZED: &str = "CKR_CRYPTOKI_ALREADY_INITIALIZED";
const BUFFER_TOO_SMALL: &str = "CKR_BUFFER_TOO_SMALL";

/// The documented end of one code at one site, and what the outage then says.
pub fn end(site: &Site, class: Class, code: Code, when: When) -> (End, String) {
    let end = exception(site, code.1, when).unwrap_or_else(|| rule(site.kind, class, when));
    (end, told(site, code.1, when))
}

/// The table of the manual.
fn rule(kind: Kind, class: Class, when: When) -> End {
    use Class::*;
    match (kind, class) {
        // A keyed call of an open connection: one reconnection where that may cure.
        (Kind::Keyed, Session | Ambiguous | Token | Module) => End::Cured,
        // A step of an opening: that was the reconnection.
        (Kind::Opening | Kind::Login, Session) => End::Out(OutageClass::Session),
        (Kind::Opening | Kind::Login, Ambiguous | Token) => End::Out(OutageClass::Token),
        (Kind::Opening | Kind::Login, Module) => End::Out(OutageClass::Module),
        // A PIN that the token refused is not tried again; elsewhere no PIN of ours was refused.
        (Kind::Login, Credential) => End::Latched,
        (Kind::Opening | Kind::Keyed, Credential) => End::Fenced(OutageClass::Credential),
        // The operator is needed; nothing is gained by trying at once.
        (Kind::Opening | Kind::Login | Kind::Keyed, Integrity) => End::Out(OutageClass::Integrity),
        (Kind::Opening | Kind::Login | Kind::Keyed, Usage) => End::Out(OutageClass::Usage),
        // Errors of close are nobody's.
        (Kind::Close | Kind::OtherSlot, _) => End::Nothing,
        // The login had failed before: with a code of class token.
        (Kind::CloseAfterLogin, _) => End::Out(OutageClass::Token),
        // A module that did not finalize is not initialised again; one that did may say what it likes.
        (Kind::Finalize, _) => match when {
            When::Before => End::Out(OutageClass::Module),
            When::After => End::Nothing,
        },
        // A search that was not ended is in the way of the next operation, which says so.
        (Kind::FindFinal, _) => match when {
            When::Before => End::Out(OutageClass::Session),
            When::After => End::Nothing,
        },
    }
}

/// Codes that mean something else at one site.
fn exception(site: &Site, code: &str, when: When) -> Option<End> {
    match (site.name, code, when) {
        // A locked token looks at no PIN: nothing is latched.
        _ if is_locked(site, code) => Some(End::Fenced(OutageClass::Credential)),
        // Benign after a finalisation. If it is not true, the next call says so.
        ("initialize", ALREADY_INITIALIZED, When::After) => Some(End::Nothing),
        ("initialize", ALREADY_INITIALIZED, When::Before) => Some(End::Out(OutageClass::Module)),
        // More slots than a moment ago: asked again.
        ("slots", BUFFER_TOO_SMALL, _) => Some(End::Nothing),
        // A write-protected token is opened for reading.
        ("open session", "CKR_TOKEN_WRITE_PROTECTED", _) => Some(End::Nothing),
        // Benign. If it is not true, the private key is not seen: to us, it is missing.
        ("login", "CKR_USER_ALREADY_LOGGED_IN", When::After) => Some(End::Nothing),
        ("login", "CKR_USER_ALREADY_LOGGED_IN", When::Before) => Some(End::Fenced(OutageClass::Key)),
        // What a token may say beside the attributes that it does tell. If it told none, the key is described in two ways.
        (_, _, When::After) if tells_attributes(site, code) => Some(End::Nothing),
        (_, _, When::Before) if tells_attributes(site, code) => Some(End::Out(OutageClass::Integrity)),
        _ => None,
    }
}

fn is_locked(site: &Site, code: &str) -> bool {
    matches!(site.kind, Kind::Login) && code == "CKR_PIN_LOCKED"
}

fn tells_attributes(site: &Site, code: &str) -> bool {
    match site.name {
        "attribute lengths 1" | "attribute lengths 2" => {
            matches!(code, "CKR_ATTRIBUTE_SENSITIVE" | "CKR_ATTRIBUTE_TYPE_INVALID" | BUFFER_TOO_SMALL)
        }
        "attributes 1" | "attributes 2" => matches!(code, "CKR_ATTRIBUTE_SENSITIVE" | "CKR_ATTRIBUTE_TYPE_INVALID"),
        _ => false,
    }
}

/// Function and code, except where a later call is the first that is told the truth.
fn told(site: &Site, code: &str, when: When) -> String {
    match (site.name, code, when) {
        ("close session after login", _, _) => "C_Login: CKR_DEVICE_ERROR".to_owned(),
        ("finalize", _, _) => format!("C_Initialize: {ALREADY_INITIALIZED}"),
        ("end search", _, _) => "C_SignInit: CKR_OPERATION_ACTIVE".to_owned(),
        ("initialize", ALREADY_INITIALIZED, _) => "C_GetSlotList: CKR_CRYPTOKI_NOT_INITIALIZED".to_owned(),
        ("login", "CKR_USER_ALREADY_LOGGED_IN", _) => "find: key_missing".to_owned(),
        // Nothing as the length of a flag is no answer at all.
        ("attribute lengths 1" | "attribute lengths 2", _, _) if tells_attributes(site, code) => {
            "attributes: answer_malformed".to_owned()
        }
        _ if tells_attributes(site, code) => "find: answers_differ".to_owned(),
        _ if is_locked(site, code) => format!("{}: pin_locked", site.function),
        _ => format!("{}: {code}", site.function),
    }
}
