//! Every `CKR_*` code, classified. The match is exhaustive, without a wildcard: `RvError` is not `non_exhaustive`, so a
//! code that a later version of `cryptoki` adds does not compile until somebody has thought about it.

use cryptoki::context::Function;
use cryptoki::error::{Error, RvError};

use crate::token::{FaultClass, TokenError};

/// What follows from a code. Two codes mean something else in one place, and are handled there: "already logged in" of a login
/// and "already initialised" of an initialisation are no errors.
pub const fn class(code: &RvError) -> FaultClass {
    match code {
        // The session is lost or confused.
        RvError::SessionHandleInvalid
        | RvError::SessionClosed
        | RvError::OperationActive
        | RvError::OperationNotInitialized
        | RvError::UserNotLoggedIn
        | RvError::SessionExists
        | RvError::SessionReadOnlyExists
        | RvError::SessionReadWriteSoExists
        | RvError::SavedStateInvalid
        | RvError::StateUnsaveable
        | RvError::UserAnotherAlreadyLoggedIn
        | RvError::UserTooManyTypes
        | RvError::UserAlreadyLoggedIn => FaultClass::Session,
        // A lost key, or a logout or an outage that looks like one (tokens differ): the full re-initialisation tells.
        RvError::KeyHandleInvalid
        | RvError::ObjectHandleInvalid
        | RvError::KeySizeRange
        | RvError::KeyChanged
        | RvError::KeyNeeded
        | RvError::UnwrappingKeyHandleInvalid
        | RvError::WrappingKeyHandleInvalid => FaultClass::AmbiguousKey,
        // The token is gone, refuses or failed.
        RvError::DeviceError
        | RvError::DeviceRemoved
        | RvError::TokenNotPresent
        | RvError::TokenNotRecognized
        | RvError::GeneralError
        | RvError::FunctionFailed
        | RvError::FunctionCanceled
        | RvError::FunctionRejected
        | RvError::Cancel
        | RvError::NoEvent
        | RvError::HostMemory
        | RvError::DeviceMemory
        | RvError::SessionCount
        | RvError::FipsSelfTestFailed
        | RvError::RandomNoRng
        | RvError::ExceededMaxIterations
        | RvError::VendorDefined(_)
        | RvError::UnknownErrorCode(_) => FaultClass::Token,
        // The module lost its own state: only a new process is sure.
        RvError::CryptokiNotInitialized
        | RvError::CryptokiAlreadyInitialized
        | RvError::MutexBad
        | RvError::MutexNotLocked
        | RvError::LibraryLoadFailed => FaultClass::Module,
        // One attempt: a second one may lock the token.
        RvError::PinIncorrect
        | RvError::PinInvalid
        | RvError::PinLenRange
        | RvError::PinLocked
        | RvError::PinExpired
        | RvError::PinTooWeak
        | RvError::UserPinNotInitialized
        | RvError::NewPinMode
        | RvError::NextOtp => FaultClass::Credential,
        // An answer that does not fit its question.
        RvError::SignatureInvalid
        | RvError::SignatureLenRange
        | RvError::EncryptedDataInvalid
        | RvError::EncryptedDataLenRange
        | RvError::WrappedKeyInvalid
        | RvError::WrappedKeyLenRange
        | RvError::PublicKeyInvalid
        | RvError::BufferTooSmall => FaultClass::Integrity,
        // Nothing that a retry cures: the configuration, the key or the token.
        RvError::SlotIdInvalid
        | RvError::ArgumentsBad
        | RvError::NeedToCreateThreads
        | RvError::CantLock
        | RvError::AttributeReadOnly
        | RvError::AttributeSensitive
        | RvError::AttributeTypeInvalid
        | RvError::AttributeValueInvalid
        | RvError::ActionProhibited
        | RvError::DataInvalid
        | RvError::DataLenRange
        | RvError::FunctionNotParallel
        | RvError::FunctionNotSupported
        | RvError::CurveNotSupported
        | RvError::KeyTypeInconsistent
        | RvError::KeyNotNeeded
        | RvError::KeyIndigestible
        | RvError::KeyFunctionNotPermitted
        | RvError::KeyNotWrappable
        | RvError::KeyUnextractable
        | RvError::MechanismInvalid
        | RvError::MechanismParamInvalid
        | RvError::SessionParallelNotSupported
        | RvError::SessionReadOnly
        | RvError::TemplateIncomplete
        | RvError::TemplateInconsistent
        | RvError::TokenWriteProtected
        | RvError::UnwrappingKeySizeRange
        | RvError::UnwrappingKeyTypeInconsistent
        | RvError::UserTypeInvalid
        | RvError::WrappingKeySizeRange
        | RvError::WrappingKeyTypeInconsistent
        | RvError::RandomSeedNotSupported
        | RvError::DomainParamsInvalid
        | RvError::InformationSensitive => FaultClass::Usage,
    }
}

/// The name of a code, as in PKCS#11.
pub fn name(code: &RvError) -> String {
    let name = match code {
        RvError::Cancel => "CKR_CANCEL",
        RvError::HostMemory => "CKR_HOST_MEMORY",
        RvError::SlotIdInvalid => "CKR_SLOT_ID_INVALID",
        RvError::GeneralError => "CKR_GENERAL_ERROR",
        RvError::FunctionFailed => "CKR_FUNCTION_FAILED",
        RvError::ArgumentsBad => "CKR_ARGUMENTS_BAD",
        RvError::NoEvent => "CKR_NO_EVENT",
        RvError::NeedToCreateThreads => "CKR_NEED_TO_CREATE_THREADS",
        RvError::CantLock => "CKR_CANT_LOCK",
        RvError::AttributeReadOnly => "CKR_ATTRIBUTE_READ_ONLY",
        RvError::AttributeSensitive => "CKR_ATTRIBUTE_SENSITIVE",
        RvError::AttributeTypeInvalid => "CKR_ATTRIBUTE_TYPE_INVALID",
        RvError::AttributeValueInvalid => "CKR_ATTRIBUTE_VALUE_INVALID",
        RvError::ActionProhibited => "CKR_ACTION_PROHIBITED",
        RvError::DataInvalid => "CKR_DATA_INVALID",
        RvError::DataLenRange => "CKR_DATA_LEN_RANGE",
        RvError::DeviceError => "CKR_DEVICE_ERROR",
        RvError::DeviceMemory => "CKR_DEVICE_MEMORY",
        RvError::DeviceRemoved => "CKR_DEVICE_REMOVED",
        RvError::EncryptedDataInvalid => "CKR_ENCRYPTED_DATA_INVALID",
        RvError::EncryptedDataLenRange => "CKR_ENCRYPTED_DATA_LEN_RANGE",
        RvError::FunctionCanceled => "CKR_FUNCTION_CANCELED",
        RvError::FunctionNotParallel => "CKR_FUNCTION_NOT_PARALLEL",
        RvError::FunctionNotSupported => "CKR_FUNCTION_NOT_SUPPORTED",
        RvError::CurveNotSupported => "CKR_CURVE_NOT_SUPPORTED",
        RvError::KeyHandleInvalid => "CKR_KEY_HANDLE_INVALID",
        RvError::KeySizeRange => "CKR_KEY_SIZE_RANGE",
        RvError::KeyTypeInconsistent => "CKR_KEY_TYPE_INCONSISTENT",
        RvError::KeyNotNeeded => "CKR_KEY_NOT_NEEDED",
        RvError::KeyChanged => "CKR_KEY_CHANGED",
        RvError::KeyNeeded => "CKR_KEY_NEEDED",
        RvError::KeyIndigestible => "CKR_KEY_INDIGESTIBLE",
        RvError::KeyFunctionNotPermitted => "CKR_KEY_FUNCTION_NOT_PERMITTED",
        RvError::KeyNotWrappable => "CKR_KEY_NOT_WRAPPABLE",
        RvError::KeyUnextractable => "CKR_KEY_UNEXTRACTABLE",
        RvError::MechanismInvalid => "CKR_MECHANISM_INVALID",
        RvError::MechanismParamInvalid => "CKR_MECHANISM_PARAM_INVALID",
        RvError::ObjectHandleInvalid => "CKR_OBJECT_HANDLE_INVALID",
        RvError::OperationActive => "CKR_OPERATION_ACTIVE",
        RvError::OperationNotInitialized => "CKR_OPERATION_NOT_INITIALIZED",
        RvError::PinIncorrect => "CKR_PIN_INCORRECT",
        RvError::PinInvalid => "CKR_PIN_INVALID",
        RvError::PinLenRange => "CKR_PIN_LEN_RANGE",
        RvError::PinExpired => "CKR_PIN_EXPIRED",
        RvError::PinLocked => "CKR_PIN_LOCKED",
        RvError::SessionClosed => "CKR_SESSION_CLOSED",
        RvError::SessionCount => "CKR_SESSION_COUNT",
        RvError::SessionHandleInvalid => "CKR_SESSION_HANDLE_INVALID",
        RvError::SessionParallelNotSupported => "CKR_SESSION_PARALLEL_NOT_SUPPORTED",
        RvError::SessionReadOnly => "CKR_SESSION_READ_ONLY",
        RvError::SessionExists => "CKR_SESSION_EXISTS",
        RvError::SessionReadOnlyExists => "CKR_SESSION_READ_ONLY_EXISTS",
        RvError::SessionReadWriteSoExists => "CKR_SESSION_READ_WRITE_SO_EXISTS",
        RvError::SignatureInvalid => "CKR_SIGNATURE_INVALID",
        RvError::SignatureLenRange => "CKR_SIGNATURE_LEN_RANGE",
        RvError::TemplateIncomplete => "CKR_TEMPLATE_INCOMPLETE",
        RvError::TemplateInconsistent => "CKR_TEMPLATE_INCONSISTENT",
        RvError::TokenNotPresent => "CKR_TOKEN_NOT_PRESENT",
        RvError::TokenNotRecognized => "CKR_TOKEN_NOT_RECOGNIZED",
        RvError::TokenWriteProtected => "CKR_TOKEN_WRITE_PROTECTED",
        RvError::UnwrappingKeyHandleInvalid => "CKR_UNWRAPPING_KEY_HANDLE_INVALID",
        RvError::UnwrappingKeySizeRange => "CKR_UNWRAPPING_KEY_SIZE_RANGE",
        RvError::UnwrappingKeyTypeInconsistent => "CKR_UNWRAPPING_KEY_TYPE_INCONSISTENT",
        RvError::UserAlreadyLoggedIn => "CKR_USER_ALREADY_LOGGED_IN",
        RvError::UserNotLoggedIn => "CKR_USER_NOT_LOGGED_IN",
        RvError::UserPinNotInitialized => "CKR_USER_PIN_NOT_INITIALIZED",
        RvError::UserTypeInvalid => "CKR_USER_TYPE_INVALID",
        RvError::UserAnotherAlreadyLoggedIn => "CKR_USER_ANOTHER_ALREADY_LOGGED_IN",
        RvError::UserTooManyTypes => "CKR_USER_TOO_MANY_TYPES",
        RvError::WrappedKeyInvalid => "CKR_WRAPPED_KEY_INVALID",
        RvError::WrappedKeyLenRange => "CKR_WRAPPED_KEY_LEN_RANGE",
        RvError::WrappingKeyHandleInvalid => "CKR_WRAPPING_KEY_HANDLE_INVALID",
        RvError::WrappingKeySizeRange => "CKR_WRAPPING_KEY_SIZE_RANGE",
        RvError::WrappingKeyTypeInconsistent => "CKR_WRAPPING_KEY_TYPE_INCONSISTENT",
        RvError::RandomSeedNotSupported => "CKR_RANDOM_SEED_NOT_SUPPORTED",
        RvError::RandomNoRng => "CKR_RANDOM_NO_RNG",
        RvError::DomainParamsInvalid => "CKR_DOMAIN_PARAMS_INVALID",
        RvError::BufferTooSmall => "CKR_BUFFER_TOO_SMALL",
        RvError::SavedStateInvalid => "CKR_SAVED_STATE_INVALID",
        RvError::InformationSensitive => "CKR_INFORMATION_SENSITIVE",
        RvError::StateUnsaveable => "CKR_STATE_UNSAVEABLE",
        RvError::CryptokiNotInitialized => "CKR_CRYPTOKI_NOT_INITIALIZED",
        RvError::CryptokiAlreadyInitialized => "CKR_CRYPTOKI_ALREADY_INITIALIZED",
        RvError::MutexBad => "CKR_MUTEX_BAD",
        RvError::MutexNotLocked => "CKR_MUTEX_NOT_LOCKED",
        RvError::NewPinMode => "CKR_NEW_PIN_MODE",
        RvError::NextOtp => "CKR_NEXT_OTP",
        RvError::ExceededMaxIterations => "CKR_EXCEEDED_MAX_ITERATIONS",
        RvError::FipsSelfTestFailed => "CKR_FIPS_SELF_TEST_FAILED",
        RvError::LibraryLoadFailed => "CKR_LIBRARY_LOAD_FAILED",
        RvError::PinTooWeak => "CKR_PIN_TOO_WEAK",
        RvError::PublicKeyInvalid => "CKR_PUBLIC_KEY_INVALID",
        RvError::FunctionRejected => "CKR_FUNCTION_REJECTED",
        RvError::VendorDefined(number) => return format!("CKR_VENDOR_DEFINED(0x{number:x})"),
        RvError::UnknownErrorCode(number) => return format!("CKR(0x{number:x})"),
    };
    name.to_owned()
}

/// What a token in a drill answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sample {
    /// `CKR_DEVICE_REMOVED`, of a keyed call.
    DeviceRemoved,
    /// `CKR_USER_NOT_LOGGED_IN`, of a keyed call.
    UserNotLoggedIn,
    /// `CKR_PIN_INCORRECT`, of a login.
    PinIncorrect,
}

/// The same error as a module's own answer of that code: it is classified in the same place.
pub(crate) fn sample(answer: Sample) -> TokenError {
    let (code, function) = match answer {
        Sample::DeviceRemoved => (RvError::DeviceRemoved, Function::Sign),
        Sample::UserNotLoggedIn => (RvError::UserNotLoggedIn, Function::Sign),
        Sample::PinIncorrect => (RvError::PinIncorrect, Function::Login),
    };
    classify(&Error::Pkcs11(code, function), "drill")
}

/// An error of `cryptoki`, classified.
pub fn classify(error: &Error, operation: &str) -> TokenError {
    match error {
        Error::Pkcs11(code, function) => TokenError::new(class(code), &format!("C_{function:?}"), &name(code), ""),
        Error::LibraryLoading(cause) => {
            TokenError::new(FaultClass::Module, operation, "module_not_loaded", cause.to_string())
        }
        Error::MissingSymbol(symbol) => {
            TokenError::new(FaultClass::Module, operation, "module_without_symbol", *symbol)
        }
        Error::NullFunctionPointer | Error::NotSupported => {
            TokenError::new(FaultClass::Usage, operation, "function_not_supported", "")
        }
        Error::PinNotSet => TokenError::new(FaultClass::Credential, operation, "pin_not_set", ""),
        Error::NulError(_) => TokenError::new(FaultClass::Usage, operation, "name_with_nul", ""),
        Error::TryFromInt(_) | Error::TryFromSlice(_) | Error::ParseInt(_) | Error::Utf8(_) | Error::InvalidValue => {
            TokenError::new(FaultClass::Integrity, operation, "answer_malformed", "")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use FaultClass::*;

    /// Variants of `RvError`.
    const CODES: usize = 95;

    /// The whole of PKCS#11's codes, each with its class and number-free name. Written out by hand from the tables of
    /// measured outages: it repeats the match on purpose, so that a changed class is a changed line in two places.
    const TABLE: &[(RvError, FaultClass, &str)] = &[
        (RvError::Cancel, Token, "CKR_CANCEL"),
        (RvError::HostMemory, Token, "CKR_HOST_MEMORY"),
        (RvError::SlotIdInvalid, Usage, "CKR_SLOT_ID_INVALID"),
        (RvError::GeneralError, Token, "CKR_GENERAL_ERROR"),
        (RvError::FunctionFailed, Token, "CKR_FUNCTION_FAILED"),
        (RvError::ArgumentsBad, Usage, "CKR_ARGUMENTS_BAD"),
        (RvError::NoEvent, Token, "CKR_NO_EVENT"),
        (RvError::NeedToCreateThreads, Usage, "CKR_NEED_TO_CREATE_THREADS"),
        (RvError::CantLock, Usage, "CKR_CANT_LOCK"),
        (RvError::AttributeReadOnly, Usage, "CKR_ATTRIBUTE_READ_ONLY"),
        (RvError::AttributeSensitive, Usage, "CKR_ATTRIBUTE_SENSITIVE"),
        (RvError::AttributeTypeInvalid, Usage, "CKR_ATTRIBUTE_TYPE_INVALID"),
        (RvError::AttributeValueInvalid, Usage, "CKR_ATTRIBUTE_VALUE_INVALID"),
        (RvError::ActionProhibited, Usage, "CKR_ACTION_PROHIBITED"),
        (RvError::DataInvalid, Usage, "CKR_DATA_INVALID"),
        (RvError::DataLenRange, Usage, "CKR_DATA_LEN_RANGE"),
        (RvError::DeviceError, Token, "CKR_DEVICE_ERROR"),
        (RvError::DeviceMemory, Token, "CKR_DEVICE_MEMORY"),
        (RvError::DeviceRemoved, Token, "CKR_DEVICE_REMOVED"),
        (RvError::EncryptedDataInvalid, Integrity, "CKR_ENCRYPTED_DATA_INVALID"),
        (RvError::EncryptedDataLenRange, Integrity, "CKR_ENCRYPTED_DATA_LEN_RANGE"),
        (RvError::FunctionCanceled, Token, "CKR_FUNCTION_CANCELED"),
        (RvError::FunctionNotParallel, Usage, "CKR_FUNCTION_NOT_PARALLEL"),
        (RvError::FunctionNotSupported, Usage, "CKR_FUNCTION_NOT_SUPPORTED"),
        (RvError::CurveNotSupported, Usage, "CKR_CURVE_NOT_SUPPORTED"),
        (RvError::KeyHandleInvalid, AmbiguousKey, "CKR_KEY_HANDLE_INVALID"),
        (RvError::KeySizeRange, AmbiguousKey, "CKR_KEY_SIZE_RANGE"),
        (RvError::KeyTypeInconsistent, Usage, "CKR_KEY_TYPE_INCONSISTENT"),
        (RvError::KeyNotNeeded, Usage, "CKR_KEY_NOT_NEEDED"),
        (RvError::KeyChanged, AmbiguousKey, "CKR_KEY_CHANGED"),
        (RvError::KeyNeeded, AmbiguousKey, "CKR_KEY_NEEDED"),
        (RvError::KeyIndigestible, Usage, "CKR_KEY_INDIGESTIBLE"),
        (RvError::KeyFunctionNotPermitted, Usage, "CKR_KEY_FUNCTION_NOT_PERMITTED"),
        (RvError::KeyNotWrappable, Usage, "CKR_KEY_NOT_WRAPPABLE"),
        (RvError::KeyUnextractable, Usage, "CKR_KEY_UNEXTRACTABLE"),
        (RvError::MechanismInvalid, Usage, "CKR_MECHANISM_INVALID"),
        (RvError::MechanismParamInvalid, Usage, "CKR_MECHANISM_PARAM_INVALID"),
        (RvError::ObjectHandleInvalid, AmbiguousKey, "CKR_OBJECT_HANDLE_INVALID"),
        (RvError::OperationActive, Session, "CKR_OPERATION_ACTIVE"),
        (RvError::OperationNotInitialized, Session, "CKR_OPERATION_NOT_INITIALIZED"),
        (RvError::PinIncorrect, Credential, "CKR_PIN_INCORRECT"),
        (RvError::PinInvalid, Credential, "CKR_PIN_INVALID"),
        (RvError::PinLenRange, Credential, "CKR_PIN_LEN_RANGE"),
        (RvError::PinExpired, Credential, "CKR_PIN_EXPIRED"),
        (RvError::PinLocked, Credential, "CKR_PIN_LOCKED"),
        (RvError::SessionClosed, Session, "CKR_SESSION_CLOSED"),
        (RvError::SessionCount, Token, "CKR_SESSION_COUNT"),
        (RvError::SessionHandleInvalid, Session, "CKR_SESSION_HANDLE_INVALID"),
        (RvError::SessionParallelNotSupported, Usage, "CKR_SESSION_PARALLEL_NOT_SUPPORTED"),
        (RvError::SessionReadOnly, Usage, "CKR_SESSION_READ_ONLY"),
        (RvError::SessionExists, Session, "CKR_SESSION_EXISTS"),
        (RvError::SessionReadOnlyExists, Session, "CKR_SESSION_READ_ONLY_EXISTS"),
        (RvError::SessionReadWriteSoExists, Session, "CKR_SESSION_READ_WRITE_SO_EXISTS"),
        (RvError::SignatureInvalid, Integrity, "CKR_SIGNATURE_INVALID"),
        (RvError::SignatureLenRange, Integrity, "CKR_SIGNATURE_LEN_RANGE"),
        (RvError::TemplateIncomplete, Usage, "CKR_TEMPLATE_INCOMPLETE"),
        (RvError::TemplateInconsistent, Usage, "CKR_TEMPLATE_INCONSISTENT"),
        (RvError::TokenNotPresent, Token, "CKR_TOKEN_NOT_PRESENT"),
        (RvError::TokenNotRecognized, Token, "CKR_TOKEN_NOT_RECOGNIZED"),
        (RvError::TokenWriteProtected, Usage, "CKR_TOKEN_WRITE_PROTECTED"),
        (RvError::UnwrappingKeyHandleInvalid, AmbiguousKey, "CKR_UNWRAPPING_KEY_HANDLE_INVALID"),
        (RvError::UnwrappingKeySizeRange, Usage, "CKR_UNWRAPPING_KEY_SIZE_RANGE"),
        (RvError::UnwrappingKeyTypeInconsistent, Usage, "CKR_UNWRAPPING_KEY_TYPE_INCONSISTENT"),
        (RvError::UserAlreadyLoggedIn, Session, "CKR_USER_ALREADY_LOGGED_IN"),
        (RvError::UserNotLoggedIn, Session, "CKR_USER_NOT_LOGGED_IN"),
        (RvError::UserPinNotInitialized, Credential, "CKR_USER_PIN_NOT_INITIALIZED"),
        (RvError::UserTypeInvalid, Usage, "CKR_USER_TYPE_INVALID"),
        (RvError::UserAnotherAlreadyLoggedIn, Session, "CKR_USER_ANOTHER_ALREADY_LOGGED_IN"),
        (RvError::UserTooManyTypes, Session, "CKR_USER_TOO_MANY_TYPES"),
        (RvError::WrappedKeyInvalid, Integrity, "CKR_WRAPPED_KEY_INVALID"),
        (RvError::WrappedKeyLenRange, Integrity, "CKR_WRAPPED_KEY_LEN_RANGE"),
        (RvError::WrappingKeyHandleInvalid, AmbiguousKey, "CKR_WRAPPING_KEY_HANDLE_INVALID"),
        (RvError::WrappingKeySizeRange, Usage, "CKR_WRAPPING_KEY_SIZE_RANGE"),
        (RvError::WrappingKeyTypeInconsistent, Usage, "CKR_WRAPPING_KEY_TYPE_INCONSISTENT"),
        (RvError::RandomSeedNotSupported, Usage, "CKR_RANDOM_SEED_NOT_SUPPORTED"),
        (RvError::RandomNoRng, Token, "CKR_RANDOM_NO_RNG"),
        (RvError::DomainParamsInvalid, Usage, "CKR_DOMAIN_PARAMS_INVALID"),
        (RvError::BufferTooSmall, Integrity, "CKR_BUFFER_TOO_SMALL"),
        (RvError::SavedStateInvalid, Session, "CKR_SAVED_STATE_INVALID"),
        (RvError::InformationSensitive, Usage, "CKR_INFORMATION_SENSITIVE"),
        (RvError::StateUnsaveable, Session, "CKR_STATE_UNSAVEABLE"),
        (RvError::CryptokiNotInitialized, Module, "CKR_CRYPTOKI_NOT_INITIALIZED"),
        (RvError::CryptokiAlreadyInitialized, Module, "CKR_CRYPTOKI_ALREADY_INITIALIZED"),
        (RvError::MutexBad, Module, "CKR_MUTEX_BAD"),
        (RvError::MutexNotLocked, Module, "CKR_MUTEX_NOT_LOCKED"),
        (RvError::NewPinMode, Credential, "CKR_NEW_PIN_MODE"),
        (RvError::NextOtp, Credential, "CKR_NEXT_OTP"),
        (RvError::ExceededMaxIterations, Token, "CKR_EXCEEDED_MAX_ITERATIONS"),
        (RvError::FipsSelfTestFailed, Token, "CKR_FIPS_SELF_TEST_FAILED"),
        (RvError::LibraryLoadFailed, Module, "CKR_LIBRARY_LOAD_FAILED"),
        (RvError::PinTooWeak, Credential, "CKR_PIN_TOO_WEAK"),
        (RvError::PublicKeyInvalid, Integrity, "CKR_PUBLIC_KEY_INVALID"),
        (RvError::FunctionRejected, Token, "CKR_FUNCTION_REJECTED"),
        (RvError::VendorDefined(0x8000_0001), Token, "CKR_VENDOR_DEFINED(0x80000001)"),
        (RvError::UnknownErrorCode(0x7777), Token, "CKR(0x7777)"),
    ];

    #[test]
    fn every_code_has_the_class_and_the_name_of_the_table() {
        for (code, expected, expected_name) in TABLE {
            assert_eq!(class(code), *expected, "{code:?}");
            assert_eq!(name(code), *expected_name, "{code:?}");
        }
        let mut names: Vec<_> = TABLE.iter().map(|(_, _, name)| *name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), TABLE.len(), "a name stands twice");
        // The match is complete by the compiler; the table is by this number.
        assert_eq!(TABLE.len(), CODES, "a code is missing in the table");
    }

    #[test]
    fn a_call_that_fails_names_function_and_code() {
        let error = Error::Pkcs11(RvError::DeviceError, cryptoki::context::Function::Sign);
        let error = classify(&error, "derive");
        assert_eq!(error.to_string(), "C_Sign: CKR_DEVICE_ERROR");
        assert_eq!(error.class, Token);
    }
}
