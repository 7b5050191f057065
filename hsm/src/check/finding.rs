//! Every finding of a check: a stable code, how much it weighs, whose fault it is, and what to do.

use serde::{Serialize, Serializer};

/// How much a finding weighs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Worth knowing.
    Note,
    /// Usable, after a thought.
    Warning,
    /// Not usable, or it could not be found out.
    Failure,
}

/// Whose fault a failure is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// The token or the key: the same check would say the same.
    Token,
    /// What is around: a token that is away, a PIN. The same check may pass later.
    Surroundings,
}

macro_rules! codes {
    ($($variant:ident $name:literal $level:ident $fault:ident $hint:literal;)*) => {
        /// The code of a finding.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[allow(missing_docs, reason = "each is documented by its hint")]
        pub enum Code { $($variant,)* }

        impl Code {
            /// All of them.
            pub const ALL: &'static [Code] = &[$(Code::$variant,)*];

            /// The stable name.
            pub const fn name(self) -> &'static str {
                match self { $(Code::$variant => $name,)* }
            }

            /// How much it weighs.
            pub const fn level(self) -> Level {
                match self { $(Code::$variant => Level::$level,)* }
            }

            /// Whose fault it is.
            pub const fn fault(self) -> Fault {
                match self { $(Code::$variant => Fault::$fault,)* }
            }

            /// What to do.
            pub const fn hint(self) -> &'static str {
                match self { $(Code::$variant => $hint,)* }
            }
        }
    };
}

codes! {
    Unreachable "unreachable" Failure Surroundings "is the token there, does the uri name it, and does module-path= name its module?";
    Hung "hung" Failure Surroundings "a call that is not answered in time is an outage; give a slow token longer deadlines, on the node too";
    TokenLost "token_lost" Failure Surroundings "what is not told below was not tried; run the check again when the token answers";
    ErrorState "error_state" Failure Token "a self-test of the token failed: see its vendor's manual";
    LoginNotTried "login_not_tried" Warning Surroundings "without a login neither key nor primitives are proved: run the check without --no-login";
    LoginLatched "login_latched" Failure Surroundings "correct the pin file, then `frostkeep token unlatch`; no login was tried";
    PinRefused "pin_refused" Failure Surroundings "the latch is set, no login is tried any more: correct the pin file, then `frostkeep token unlatch`";
    PinNotRead "pin_not_read" Failure Surroundings "the pin is one line in a regular file that others cannot read";
    LoginFailed "login_failed" Failure Surroundings "the token answered the login with this error, which says nothing of the pin";
    PinFinalTry "pin_final_try" Failure Surroundings "no login was tried: one more wrong pin locks; log in once with the token's own tool";
    PinLocked "pin_locked" Failure Surroundings "unlock the pin with the token's own tool; a TPM can say so of the right pin, after power losses";
    PinNotInitialized "pin_not_initialized" Warning Surroundings "the token says that it has no user pin: set one with its own tool";
    PinToBeChanged "pin_to_be_changed" Warning Token "the token may refuse everything until the pin is changed: change it with its own tool";
    PinCountLow "pin_count_low" Warning Surroundings "somebody has entered a wrong pin since the last login: find out who";
    ProtectedPath "protected_path" Warning Token "the token wants its pin typed at itself; a node cannot do that after a restart";
    KeyMissing "key_missing" Warning Surroundings "is it the right token, and is it whole? if it never held the key, `frostkeep token init --create`";
    KeyNotUnique "key_not_unique" Failure Token "name exactly one key: object= and id= in the uri";
    KeyExposed "key_exposed" Failure Token "a sealing key is sensitive and not extractable: give this one another name, and make a new one";
    KeyWithoutId "key_without_id" Failure Token "states name their key by its CKA_ID: give it one with the token's own tool";
    KeyUnusable "key_unusable" Failure Token "the key does not seal: a generic secret that may sign is needed; `frostkeep token init --create` makes one";
    KeyAttributesDiffer "key_attributes_differ" Failure Token "the token tells different attributes when it is asked for several: do not rely on it";
    KeyWasExposed "key_was_exposed" Warning Token "somebody may have a copy of the key: make a new one with `frostkeep token init --create`";
    KeyImported "key_imported" Warning Token "whoever brought the key into the token may still have it: make a new one in the token";
    KeyPublic "key_public" Warning Token "the key may be usable without a login: make it private";
    KeyShort "key_short" Warning Token "a sealing key has 32 bytes: make a new one with `frostkeep token init --create`";
    HmacNotProved "hmac_not_proved" Failure Token "scheme hmac does not work on this token: use another one";
    HmacDiffers "hmac_differs" Failure Token "what the token calls HMAC-SHA256 is something else: a state would open on no other token; do not use it";
    HmacNotCompared "hmac_not_compared" Note Token "the token takes no key of a known value, so that its HMAC-SHA256 was not compared with the host's";
    MechanismNotListed "mechanism_not_listed" Note Token "the token does what its list does not say; lists lie, the proof counts";
    KeyGenRefused "key_gen_refused" Note Token "`frostkeep token init --create` does not work here; the key that is there does";
    KeyGenImpossible "key_gen_impossible" Warning Token "`frostkeep token init --create` does not work here: make the key with the token's own tool";
    SealFailed "seal_failed" Failure Token "the provider did not seal and open again what it sealed: do not use this token";
    SealInterrupted "seal_interrupted" Failure Surroundings "the token was lost while it was sealing: run the check again when it answers";
    StartNearDeadline "start_near_deadline" Warning Surroundings "the slowest starts took more than a quarter of the deadline: raise start_ms of the node";
    LoginNearDeadline "login_near_deadline" Warning Surroundings "the slowest logins took more than a quarter of the deadline: raise login_ms of the node";
    CallNearDeadline "call_near_deadline" Warning Surroundings "the slowest calls took more than a quarter of the deadline: raise call_ms of the node";
    LossNotNoticed "loss_not_noticed" Note Token "the token went on answering; a node does not mind, since answers are checked";
    LossAnsweredWrong "loss_answered_wrong" Failure Token "after a loss the token answered with a wrong value, and no error: do not use it";
    LossNotCured "loss_not_cured" Failure Token "a reconnection did not bring the token back: a node would need a restart by hand";
    LossCuredByProbe "loss_cured_by_probe" Warning Token "such a loss is an outage of some hundred milliseconds, which heals by itself";
    ReinitialisationFailed "reinitialisation_failed" Failure Token "a node re-initialises the module after every outage: it has to work every time";
    AnchorNone "anchor_none" Warning Token "no kind of anchor works: an older copy of a state is not found by this token";
    AnchorNotTried "anchor_not_tried" Note Surroundings "which kinds of anchor work was not tried";
    AnchorForgets "anchor_forgets" Note Token "the token says that it has written and keeps another value: this kind is no anchor here";
    LeftoversRemoved "leftovers_removed" Note Surroundings "an earlier check was cut off; what it had left is gone now";
    LeftoversFound "leftovers_found" Warning Surroundings "an earlier check was cut off; run the check without --no-write, which removes what it left";
    ScratchLeft "scratch_left" Failure Surroundings "run the check again when the token answers: it removes objects labelled frostkeep-check-scratch";
    PinLocks "pin_locks" Note Token "nothing was tried for this: it was measured on tokens of this kind";
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How much it weighs.
    level: Level,
    /// What it is.
    code: Code,
    /// Whose fault it is.
    fault: Fault,
    /// What was seen.
    problem: String,
    /// What to do.
    hint: &'static str,
}

impl Finding {
    /// A finding.
    pub fn new(code: Code, problem: impl Into<String>) -> Self {
        Self { level: code.level(), code, fault: code.fault(), problem: problem.into(), hint: code.hint() }
    }

    /// How much it weighs.
    pub fn level(&self) -> Level {
        self.level
    }

    /// What it is.
    pub fn code(&self) -> Code {
        self.code
    }

    /// Whose fault it is.
    pub fn fault(&self) -> Fault {
        self.fault
    }

    /// What was seen.
    pub fn problem(&self) -> &str {
        &self.problem
    }

    /// What to do.
    pub fn hint(&self) -> &str {
        self.hint
    }
}
