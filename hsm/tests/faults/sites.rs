//! Every call that the provider makes of the module, in the order in which it makes them.

/// What a call is for, where that decides how a fault ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Closing a session that is being forgotten.
    Close,
    /// Closing the session of a login that the token did not answer well.
    CloseAfterLogin,
    /// Finalizing the module.
    Finalize,
    /// Asking a slot that is not ours who it is.
    OtherSlot,
    /// A step on the way to an open key.
    Opening,
    /// A session for the login, and the login.
    Login,
    /// The end of a search.
    FindFinal,
    /// A keyed call of an open connection.
    Keyed,
}

/// What the provider is asked, so that it makes the call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// To seal, with a session that is lost: a full re-initialisation.
    Reopen,
    /// To seal.
    Wrap,
    /// To open what was sealed.
    Unwrap,
    /// To open what was damaged since.
    UnwrapDamaged,
    /// The known-answer call of an idle node.
    Health,
}

/// An earlier fault that leads to a call: function, calls that pass, code.
pub type First = (&'static str, u64, u64);

/// One call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Site {
    pub name: &'static str,
    pub function: &'static str,
    /// Calls of that function before this one, in the same operation. One that an earlier fault hits is not counted.
    pub skip: u64,
    pub kind: Kind,
    pub operation: Operation,
    /// What has to fail before this call is made.
    pub first: &'static [First],
}

/// The call with which a seal begins says that the session is lost.
const SESSION_LOST: First = ("C_SignInit", 0, 0xb3);
pub const CKR_DEVICE_ERROR: u64 = 0x30;
const CKR_TOKEN_WRITE_PROTECTED: u64 = 0xe2;

const fn opening(name: &'static str, function: &'static str, skip: u64, kind: Kind) -> Site {
    Site { name, function, skip, kind, operation: Operation::Reopen, first: &[SESSION_LOST] }
}

const fn keyed(name: &'static str, function: &'static str, skip: u64, operation: Operation) -> Site {
    Site { name, function, skip, kind: Kind::Keyed, operation, first: &[] }
}

/// A full re-initialisation. A new agent begins at the third.
pub const OPENING: &[Site] = &[
    opening("close session", "C_CloseSession", 0, Kind::Close),
    opening("finalize", "C_Finalize", 0, Kind::Finalize),
    opening("initialize", "C_Initialize", 0, Kind::Opening),
    opening("number of slots", "C_GetSlotList", 0, Kind::Opening),
    opening("slots", "C_GetSlotList", 1, Kind::Opening),
    opening("token info", "C_GetTokenInfo", 0, Kind::Opening),
    opening("other token info", "C_GetTokenInfo", 1, Kind::OtherSlot),
    opening("token info again", "C_GetTokenInfo", 2, Kind::Opening),
    opening("open session", "C_OpenSession", 0, Kind::Login),
    opening("login", "C_Login", 0, Kind::Login),
    opening("begin search", "C_FindObjectsInit", 0, Kind::Opening),
    opening("search", "C_FindObjects", 0, Kind::Opening),
    opening("end search", "C_FindObjectsFinal", 0, Kind::FindFinal),
    opening("attribute lengths 1", "C_GetAttributeValue", 0, Kind::Opening),
    opening("attributes 1", "C_GetAttributeValue", 1, Kind::Opening),
    opening("check value, begin 1", "C_SignInit", 0, Kind::Opening),
    opening("check value, length 1", "C_Sign", 0, Kind::Opening),
    opening("check value 1", "C_Sign", 1, Kind::Opening),
    opening("attribute lengths 2", "C_GetAttributeValue", 2, Kind::Opening),
    opening("attributes 2", "C_GetAttributeValue", 3, Kind::Opening),
    opening("check value, begin 2", "C_SignInit", 1, Kind::Opening),
    opening("check value, length 2", "C_Sign", 2, Kind::Opening),
    opening("check value 2", "C_Sign", 3, Kind::Opening),
];

/// Steps of an opening that something else has to fail for.
pub const DETOURS: &[Site] = &[
    Site {
        first: &[SESSION_LOST, ("C_OpenSession", 0, CKR_TOKEN_WRITE_PROTECTED)],
        ..opening("open session read-only", "C_OpenSession", 0, Kind::Login)
    },
    Site {
        first: &[SESSION_LOST, ("C_Login", 0, CKR_DEVICE_ERROR)],
        ..opening("close session after login", "C_CloseSession", 1, Kind::CloseAfterLogin)
    },
];

/// To seal: asked twice.
pub const WRAP: &[Site] = &[
    keyed("seal, begin 1", "C_SignInit", 0, Operation::Wrap),
    keyed("seal, length 1", "C_Sign", 0, Operation::Wrap),
    keyed("seal 1", "C_Sign", 1, Operation::Wrap),
    keyed("seal, begin 2", "C_SignInit", 1, Operation::Wrap),
    keyed("seal, length 2", "C_Sign", 2, Operation::Wrap),
    keyed("seal 2", "C_Sign", 3, Operation::Wrap),
];

/// To open what was sealed.
pub const UNWRAP: &[Site] = &[
    keyed("open, begin", "C_SignInit", 0, Operation::Unwrap),
    keyed("open, length", "C_Sign", 0, Operation::Unwrap),
    keyed("open", "C_Sign", 1, Operation::Unwrap),
];

/// What does not open: the known answer, and the same question again.
pub const DAMAGED: &[Site] = &[
    keyed("damaged, begin", "C_SignInit", 0, Operation::UnwrapDamaged),
    keyed("damaged, length", "C_Sign", 0, Operation::UnwrapDamaged),
    keyed("damaged", "C_Sign", 1, Operation::UnwrapDamaged),
    keyed("known answer, begin", "C_SignInit", 1, Operation::UnwrapDamaged),
    keyed("known answer, length", "C_Sign", 2, Operation::UnwrapDamaged),
    keyed("known answer", "C_Sign", 3, Operation::UnwrapDamaged),
    keyed("damaged again, begin", "C_SignInit", 2, Operation::UnwrapDamaged),
    keyed("damaged again, length", "C_Sign", 4, Operation::UnwrapDamaged),
    keyed("damaged again", "C_Sign", 5, Operation::UnwrapDamaged),
];

/// The known-answer call of an idle node.
pub const HEALTH: &[Site] = &[
    keyed("health, begin", "C_SignInit", 0, Operation::Health),
    keyed("health, length", "C_Sign", 0, Operation::Health),
    keyed("health", "C_Sign", 1, Operation::Health),
];
