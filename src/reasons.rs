//! The stable reasons: every refusal, on the wire, in logs and in exit codes, carries exactly one of these names.
//!
//! A name never changes its meaning and is never used again for another. The table of the manual is printed from here
//! ([`table`]) and a test holds the two equal.

use std::fmt;

/// Whose fault a refusal is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The request, or the one who made it.
    Caller,
    /// The token, the disk, another node, the state of the machine. The request may be right.
    Surroundings,
    /// A defect of this program.
    Bug,
}

impl Fault {
    /// The stable name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Caller => "caller",
            Self::Surroundings => "surroundings",
            Self::Bug => "bug",
        }
    }
}

/// What a caller who was refused can do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Retry {
    /// The same request is refused for ever; nothing has to be done, or another request has to be made.
    Never,
    /// The same request, unchanged, a little later.
    SameRequest,
    /// The same request once the outage is over; the error says when the next try is.
    AfterOutage,
    /// The same request after the delay that the error names.
    AfterDelay,
    /// A new package with the commitments that the error carries.
    NewCommitments,
    /// Another attempt of the same session.
    NewAttempt,
    /// Read the session first: this caller's view of it is old.
    ReadSession,
    /// The same request after an operator has acted.
    AfterOperator,
}

impl Retry {
    /// The stable name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Never => "never",
            Self::SameRequest => "same_request",
            Self::AfterOutage => "after_outage",
            Self::AfterDelay => "after_delay",
            Self::NewCommitments => "new_commitments",
            Self::NewAttempt => "new_attempt",
            Self::ReadSession => "read_session",
            Self::AfterOperator => "after_operator",
        }
    }

    /// The advice as a sentence, for the `hint:` line of the command.
    pub const fn advice(self) -> &'static str {
        match self {
            Self::Never => "the same request will be refused again",
            Self::SameRequest => "send the same request again, unchanged",
            Self::AfterOutage => "send the same request again when the outage is over",
            Self::AfterDelay => "send the same request again after the delay that the error names",
            Self::NewCommitments => "build a new package with the member's current commitments",
            Self::NewAttempt => "start another attempt of this session",
            Self::ReadSession => "read the session, then go on from its active attempt",
            Self::AfterOperator => "an operator has to act first; `frostkeep reasons` says what this reason means",
        }
    }
}

macro_rules! reasons {
    ($($variant:ident $name:literal $fault:ident $retry:ident $meaning:literal;)+) => {
        /// A stable reason of a refusal.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Reason {
            $(#[doc = $meaning] $variant,)+
        }

        impl Reason {
            /// Every reason, in the order of the table.
            pub const ALL: &'static [Reason] = &[$(Reason::$variant,)+];

            /// The stable name, `snake_case`.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// Whose fault it is.
            pub const fn fault(self) -> Fault {
                match self { $(Self::$variant => Fault::$fault,)+ }
            }

            /// What the caller can do next.
            pub const fn retry(self) -> Retry {
                match self { $(Self::$variant => Retry::$retry,)+ }
            }

            /// What it means, one sentence.
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$variant => $meaning,)+ }
            }
        }
    };
}

reasons! {
    // The request itself.
    InvalidRequest "invalid_request" Caller Never
        "A field is missing, malformed, or above its limit; the error names the field, the value and the limit.";
    PermissionDenied "permission_denied" Caller Never
        "The caller's role does not allow this operation on this key group.";

    // Key groups and members.
    KeyGroupUnknown "key_group_unknown" Caller Never
        "This node holds no key group with that id.";
    KeyGroupPrepared "key_group_prepared" Surroundings AfterOperator
        "The key group waits for its certificate: the share is kept and refuses to sign.";
    KeyGroupRetired "key_group_retired" Caller Never
        "The key group has been retired; its shares are gone.";
    MemberNotLocal "member_not_local" Caller Never
        "The member is not a seat of this node.";
    Quarantined "quarantined" Surroundings NewAttempt
        "An included member is quarantined for verified faults; an attempt without it can pass.";
    Frozen "frozen" Surroundings AfterOperator
        "The key group is frozen: nothing is released until every freeze id has been thawed.";
    FreezeNotDurable "freeze_not_durable" Surroundings SameRequest
        "The freeze is in force in memory, but its deny file could not be synced: a restart would lose it.";

    // Sessions.
    SessionUnknown "session_unknown" Caller Never
        "This node knows no session with that id under that key group.";
    SessionConflict "session_conflict" Caller Never
        "The session exists with another message, key group or root.";
    SessionFinalized "session_finalized" Caller Never
        "The session has ended with a signature, which the error carries.";
    SessionAborted "session_aborted" Caller Never
        "The session was aborted; its nonces are wiped.";
    SessionClosed "session_closed" Caller Never
        "The session was idle for too long and has been closed.";

    // Attempts.
    AttemptContextMissing "attempt_context_missing" Caller Never
        "The request carries no attempt context.";
    AttemptContextInvalid "attempt_context_invalid" Caller Never
        "The attempt context is not valid in itself: number, participants, threshold or fingerprint.";
    AttemptIdMismatch "attempt_id_mismatch" Caller Never
        "The attempt id is not the hash of the other fields.";
    CoordinatorMismatch "coordinator_mismatch" Caller Never
        "The coordinator is not the one that the selection yields for this attempt.";
    AttemptStale "attempt_stale" Caller ReadSession
        "The attempt number is below the active one.";
    AttemptFuture "attempt_future" Caller ReadSession
        "The attempt number is more than one above the active one.";
    AttemptTransitionUnauthorized "attempt_transition_unauthorized" Caller ReadSession
        "The advance carries no evidence, or evidence that does not prove what it claims.";
    AttemptConflict "attempt_conflict" Caller NewAttempt
        "This member has answered, or is answering, this attempt with another package or context.";
    AttemptReplay "attempt_replay" Caller NewAttempt
        "This member has consumed the attempt, and its round is not served any more.";
    AttemptExhausted "attempt_exhausted" Caller Never
        "The session has used all the attempts or answers that the limits allow.";
    VoteTooEarly "vote_too_early" Caller AfterDelay
        "This node's own timer for the attempt has not run out; the error carries the time left.";

    // Packages, shares, signatures.
    PackageInvalid "package_invalid" Caller NewAttempt
        "The signing package does not fit the attempt: its set, its message, or its encoding.";
    CommitmentsUnknown "commitments_unknown" Caller NewCommitments
        "The package holds commitments that this member has not outstanding; the error carries its current ones.";
    SharesInvalid "shares_invalid" Caller NewAttempt
        "The shares do not make a signature; every member proved at fault is named, or nobody when the proof is missing.";
    SignatureInvalid "signature_invalid" Caller Never
        "The finished signature does not verify under the session's key and message.";

    // Policy.
    MessageNotApproved "message_not_approved" Caller Never
        "The message is no sighash of an approved transaction of this key group under this root.";
    PolicyDenied "policy_denied" Caller AfterOperator
        "The key group's policy does not allow this transaction, or not yet; the error names the rule.";

    // Outages and limits.
    KeyProviderUnavailable "key_provider_unavailable" Surroundings AfterOutage
        "The token cannot seal or open now; durable rounds are still served.";
    Starting "starting" Surroundings AfterOutage
        "The state is open, but this start is not recorded yet: durable rounds are served, fresh ones are not.";
    RoundNotDurable "round_not_durable" Surroundings AfterOutage
        "The round exists but is not durable yet; the same share is served once it is.";
    DiskFull "disk_full" Surroundings AfterOutage
        "The volume is below its reserve; nothing is written until there is room.";
    StorageFailed "storage_failed" Surroundings AfterOperator
        "A write or sync that was issued has failed: this process writes no more, and serves what was durable.";
    CapacityExceeded "capacity_exceeded" Surroundings SameRequest
        "A registry or the line is full; the error names the limit.";
    Busy "busy" Surroundings SameRequest
        "Another process holds the state, or the same work is under way.";

    // Drills.
    LiveTraffic "live_traffic" Surroundings AfterDelay
        "Somebody has signed on this node a moment ago, and a drill would be in the way; the error carries the time left.";
    DrillOn "drill_on" Surroundings AfterDelay
        "An outage drill is on already on this node; the error carries the time left.";

    // The state at an opening.
    StateMissing "state_missing" Surroundings AfterOperator
        "There is no state at the configured place; a node is never started empty.";
    StateExists "state_exists" Caller Never
        "There is a state already where a new one was to be made.";
    StateCorrupt "state_corrupt" Surroundings AfterOperator
        "A frame does not open, or the chain has a gap or a break; the error says where.";
    StateRolledBack "state_rolled_back" Surroundings AfterOperator
        "The state is older than the token's anchor says: a backup or a clone.";
    AnchorMissing "anchor_missing" Surroundings AfterOperator
        "The state names an anchor and the token has none.";
    WrongKey "wrong_key" Surroundings AfterOperator
        "The token has another key than the one that the state names.";
    UnsupportedVersion "unsupported_version" Surroundings AfterOperator
        "The state was written in a format that this version does not know.";
    Fenced "fenced" Surroundings AfterOperator
        "The anchor belongs to another instance of this state: nothing is released by this process.";

    // Key generation.
    CeremonyUnknown "ceremony_unknown" Caller Never
        "There is no such ceremony here: it was never begun, or a restart before its share was durable has voided it.";
    CeremonyConflict "ceremony_conflict" Caller Never
        "The ceremony exists with other parameters, or the sender has sent another message for this step.";
    CeremonyMessageInvalid "ceremony_message_invalid" Caller Never
        "The message is not signed by its sender, is out of step, or does not decode; the sender is named.";
    CeremonyIncomplete "ceremony_incomplete" Surroundings SameRequest
        "Messages of the ceremony's current round have not come; the error names the members.";
    CeremonyFailed "ceremony_failed" Surroundings Never
        "The ceremony is over without a key; every member that was absent or at fault is named.";
    CertificateInvalid "certificate_invalid" Caller Never
        "The certificate does not carry the signatures of all members on this transcript.";

    // Between nodes.
    RosterMismatch "roster_mismatch" Surroundings AfterOperator
        "The roster in force gives a member of this key group another node identity than its certificate.";
    RosterInvalid "roster_invalid" Surroundings AfterOperator
        "The node's roster file cannot be read or does not parse; the error says where, and the roster in force stays.";
    PeerUnreachable "peer_unreachable" Surroundings SameRequest
        "This node cannot reach a node that the request needs; the error names it.";
    CoordinationOff "coordination_off" Caller Never
        "This node does not coordinate: its configuration does not say so.";
    TooFewMembers "too_few_members" Surroundings SameRequest
        "Fewer members than the threshold can answer, or not in time; the error says what stands in the way.";
    Stopping "stopping" Surroundings SameRequest
        "The node is stopping: it finishes what it has begun, and takes nothing new.";

    // Us.
    Internal "internal" Bug SameRequest
        "A defect of this program; nothing was released. The log has the details.";
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The table of the manual, as Markdown.
pub fn table() -> String {
    let mut text = String::from("| reason | fault | retry | meaning |\n| --- | --- | --- | --- |\n");
    for reason in Reason::ALL {
        text.push_str(&format!(
            "| `{}` | {} | `{}` | {} |\n",
            reason.name(),
            reason.fault().name(),
            reason.retry().name(),
            reason.meaning()
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_manual_s_table_of_reasons_is_the_enum() {
        let page = include_str!("manual/reasons.md");
        let rows: String = page.lines().filter(|line| line.starts_with('|')).map(|line| format!("{line}\n")).collect();
        assert_eq!(rows, table(), "print it again with `frostkeep reasons --markdown`");
    }

    #[test]
    fn no_two_reasons_share_a_name_and_every_name_is_snake_case() {
        let names: BTreeSet<_> = Reason::ALL.iter().map(|reason| reason.name()).collect();
        assert_eq!(names.len(), Reason::ALL.len());
        for name in names {
            assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{name}");
        }
    }

    #[test]
    fn the_meaning_of_a_reason_is_one_sentence_that_fits_a_table() {
        for reason in Reason::ALL {
            let meaning = reason.meaning();
            assert!(meaning.ends_with('.') && meaning.len() <= 130 && !meaning.contains('|'), "{reason}: {meaning}");
        }
    }
}
