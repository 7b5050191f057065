//! A refusal as a gRPC status with `google.rpc.ErrorInfo`, and back. The metadata's keys are listed in the proto file.

use std::collections::HashMap;
use std::error::Error;
use std::time::Duration;

use frostkeep_hsm::clock::Millis;
use frostkeep_hsm::health::Outage;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::engine::Refusal;
use crate::ids::{Member, from_hex, to_hex};
use crate::limits::{MEMBERS_MAX, WIRE_PROBLEM_BYTES_MAX};
use crate::reasons::Reason;

/// The domain of every reason.
pub const DOMAIN: &str = "frostkeep";

/// The status of a refusal that is not the engine's.
pub fn status(reason: Reason, problem: impl Into<String>) -> Status {
    built(reason, problem.into(), HashMap::new(), None)
}

/// The same for a request that can pass after this time.
pub fn later_status(reason: Reason, problem: impl Into<String>, left_ms: u64) -> Status {
    let mut note = Note::default();
    note.add("left_ms", left_ms.to_string());
    built(reason, problem.into(), note.metadata, Some(left_ms))
}

/// The status of a state that is not open because of an outage: nothing is served then.
pub fn sealed_status(problem: impl Into<String>, outage: &Outage, now: Millis) -> Status {
    let mut note = Note::default();
    note.outage(outage, now);
    note.metadata.remove("durable_served");
    built(Reason::KeyProviderUnavailable, problem.into(), note.metadata, note.retry_ms)
}

/// The status of a refusal.
pub fn refusal_status(refusal: &Refusal) -> Status {
    let mut note = Note::default();
    match refusal {
        Refusal::KeyProviderUnavailable { outage, pending, now } => {
            note.outage(outage, *now);
            note.pending(*pending);
        }
        Refusal::RoundNotDurable { outage, now, .. } => {
            note.pending(true);
            if let Some(outage) = outage {
                note.outage(outage, *now);
            }
        }
        Refusal::DiskFull { pending, .. } | Refusal::StorageFailed { pending, .. } => {
            note.pending(*pending);
            note.add("durable_served", "true");
        }
        Refusal::Starting => note.add("durable_served", "true"),
        Refusal::CommitmentsUnknown { member, current } => {
            note.add("members", member.to_string());
            if let Some(current) = current {
                note.add("commitments", to_hex(current.as_bytes()));
            }
        }
        Refusal::SessionFinalized { signature, .. } => note.add("signature", to_hex(signature.as_slice())),
        Refusal::VoteTooEarly { left_ms, .. } => {
            note.add("left_ms", left_ms.to_string());
            note.retry_ms = Some(*left_ms);
        }
        Refusal::AttemptStale { active, .. } | Refusal::AttemptFuture { active, .. } => {
            note.add("active_number", active.to_string());
        }
        Refusal::CapacityExceeded { limit, .. } => note.add("limit", limit.to_string()),
        Refusal::AttemptExhausted { member, limit } => {
            note.add("members", member.to_string());
            note.add("limit", limit.to_string());
        }
        Refusal::Quarantined { member, .. }
        | Refusal::MemberNotLocal { member, .. }
        | Refusal::AttemptConflict { member, .. }
        | Refusal::AttemptReplay { member, .. } => note.add("members", member.to_string()),
        Refusal::SharesInvalid { culprits, .. } => note.members(culprits),
        Refusal::CeremonyAbsent { members, .. } => note.members(members),
        _ => {}
    }
    built(refusal.reason(), with_causes(refusal), note.metadata, note.retry_ms)
}

/// The problem with its causes, once each.
pub(super) fn with_causes(error: &dyn Error) -> String {
    let mut problem = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        problem = format!("{problem}: {cause}");
        source = cause.source();
    }
    problem
}

#[derive(Default)]
struct Note {
    metadata: HashMap<String, String>,
    retry_ms: Option<u64>,
}

impl Note {
    fn add(&mut self, key: &str, value: impl Into<String>) {
        self.metadata.insert(key.to_owned(), value.into());
    }

    fn pending(&mut self, pending: bool) {
        if pending {
            self.add("pending", "true");
        }
    }

    fn members(&mut self, members: &[Member]) {
        let members: Vec<String> = members.iter().map(Member::to_string).collect();
        self.add("members", members.join(","));
    }

    fn outage(&mut self, outage: &Outage, now: Millis) {
        self.add("durable_served", "true");
        self.add("outage_class", outage.class.name());
        self.add("outage_detail", bounded(&outage.detail));
        self.add("outage_since_ms", now.since(outage.since).to_string());
        if let Some(next_try) = outage.next_try {
            let next_try_ms = next_try.since(now);
            self.add("next_try_ms", next_try_ms.to_string());
            self.retry_ms = Some(next_try_ms);
        }
    }
}

/// At most [`WIRE_PROBLEM_BYTES_MAX`] bytes of `text`.
fn bounded(text: &str) -> String {
    let end = (0..=WIRE_PROBLEM_BYTES_MAX.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    text.get(..end.unwrap_or_default()).unwrap_or_default().to_owned()
}

fn built(reason: Reason, problem: String, mut metadata: HashMap<String, String>, retry_ms: Option<u64>) -> Status {
    metadata.insert("fault".into(), reason.fault().name().into());
    metadata.insert("retry".into(), reason.retry().name().into());
    let mut details = ErrorDetails::with_error_info(reason.name(), DOMAIN, metadata);
    if let Some(retry_ms) = retry_ms {
        details.set_retry_info(Some(Duration::from_millis(retry_ms)));
    }
    Status::with_error_details(code(reason), bounded(&problem), details)
}

/// The gRPC code of a reason. The reason says more; the code is for those who know no reasons.
pub const fn code(reason: Reason) -> Code {
    match reason {
        Reason::InvalidRequest
        | Reason::AttemptContextMissing
        | Reason::AttemptContextInvalid
        | Reason::AttemptIdMismatch
        | Reason::CoordinatorMismatch
        | Reason::PackageInvalid
        | Reason::SharesInvalid
        | Reason::SignatureInvalid
        | Reason::CeremonyMessageInvalid
        | Reason::CertificateInvalid => Code::InvalidArgument,
        Reason::PermissionDenied | Reason::MessageNotApproved | Reason::PolicyDenied => Code::PermissionDenied,
        Reason::KeyGroupUnknown | Reason::MemberNotLocal | Reason::SessionUnknown | Reason::CeremonyUnknown => {
            Code::NotFound
        }
        Reason::SessionConflict | Reason::AttemptConflict | Reason::CeremonyConflict | Reason::StateExists => {
            Code::AlreadyExists
        }
        Reason::KeyProviderUnavailable
        | Reason::Starting
        | Reason::RoundNotDurable
        | Reason::DiskFull
        | Reason::Busy
        | Reason::Stopping
        | Reason::PeerUnreachable
        | Reason::TooFewMembers => Code::Unavailable,
        Reason::CapacityExceeded | Reason::AttemptExhausted => Code::ResourceExhausted,
        Reason::CoordinationOff => Code::Unimplemented,
        Reason::StateCorrupt => Code::DataLoss,
        Reason::Internal => Code::Internal,
        Reason::KeyGroupPrepared
        | Reason::KeyGroupRetired
        | Reason::Quarantined
        | Reason::Frozen
        | Reason::FreezeNotDurable
        | Reason::SessionFinalized
        | Reason::SessionAborted
        | Reason::SessionClosed
        | Reason::AttemptStale
        | Reason::AttemptFuture
        | Reason::AttemptTransitionUnauthorized
        | Reason::AttemptReplay
        | Reason::VoteTooEarly
        | Reason::CommitmentsUnknown
        | Reason::StorageFailed
        | Reason::StateMissing
        | Reason::StateRolledBack
        | Reason::AnchorMissing
        | Reason::WrongKey
        | Reason::UnsupportedVersion
        | Reason::Fenced
        | Reason::CeremonyIncomplete
        | Reason::CeremonyFailed
        | Reason::RosterMismatch
        | Reason::RosterInvalid
        | Reason::LiveTraffic
        | Reason::DrillOn => Code::FailedPrecondition,
    }
}

/// A refusal as it came. Nothing in it has been checked beyond its form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{problem}")]
pub struct Problem {
    /// The stable reason.
    pub reason: Reason,
    /// What is wrong, for people.
    pub problem: String,
    /// Whether the request left a round in line.
    pub pending: bool,
    /// Whether durable rounds are still served.
    pub durable_served: bool,
    /// The class of the outage, and what was seen last.
    pub outage: Option<(String, String)>,
    /// How long the outage had lasted when the refusal was made, milliseconds.
    pub outage_since_ms: Option<u64>,
    /// When the key provider is tried next, milliseconds from when the refusal was made.
    pub next_try_ms: Option<u64>,
    /// `commitments_unknown`: the member's current commitments.
    pub commitments: Option<Vec<u8>>,
    /// `session_finalized`: the signature.
    pub signature: Option<[u8; 64]>,
    /// How long the coordinator has left (`vote_too_early`), the node has to be quiet (`live_traffic`), or the drill goes on
    /// (`drill_on`), milliseconds.
    pub left_ms: Option<u64>,
    /// `attempt_stale`, `attempt_future`: the active attempt's number.
    pub active_number: Option<u32>,
    /// The members that the refusal names.
    pub members: Vec<Member>,
}

impl Problem {
    /// The refusal that a status carries; none when it is no refusal of a node, or of one that knows other reasons.
    pub fn from_status(status: &Status) -> Option<Self> {
        let details = status.check_error_details().ok()?;
        let info = details.error_info().filter(|info| info.domain == DOMAIN)?;
        let reason = Reason::ALL.iter().copied().find(|reason| reason.name() == info.reason)?;
        let text = |key: &str| info.metadata.get(key);
        let number = |key: &str| text(key).and_then(|value| value.parse::<u64>().ok());
        let says = |key: &str| text(key).is_some_and(|value| value == "true");
        let commitments = text("commitments").and_then(|hex| from_hex::<71>("commitments", hex).ok());
        let outage =
            text("outage_class").map(|class| (class.clone(), text("outage_detail").cloned().unwrap_or_default()));
        let members = text("members").into_iter().flat_map(|list| list.split(','));
        Some(Self {
            reason,
            problem: status.message().to_owned(),
            pending: says("pending"),
            durable_served: says("durable_served"),
            outage,
            outage_since_ms: number("outage_since_ms"),
            next_try_ms: number("next_try_ms"),
            commitments: commitments.map(|bytes| bytes.to_vec()),
            signature: text("signature").and_then(|hex| from_hex("signature", hex).ok()),
            left_ms: number("left_ms"),
            active_number: number("active_number").and_then(|number| number.try_into().ok()),
            members: members.filter_map(|member| Member::new(member.parse().ok()?).ok()).take(MEMBERS_MAX).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use frostkeep_hsm::health::OutageClass;

    use super::*;
    use crate::ids::SessionId;

    fn outage() -> Box<Outage> {
        Box::new(Outage {
            class: OutageClass::Deadline,
            since: Millis(1_000),
            since_unix: 1_700_000_000,
            next_try: Some(Millis(5_250)),
            detail: "seal: no answer within 2000 ms".into(),
            token: "vault".into(),
        })
    }

    #[test]
    fn an_outage_says_its_class_since_when_the_next_try_and_that_durable_rounds_are_served() {
        let refusal = Refusal::KeyProviderUnavailable { outage: outage(), pending: true, now: Millis(4_000) };
        let status = refusal_status(&refusal);
        assert_eq!(status.code(), Code::Unavailable);
        let details = status.get_error_details();
        let info = details.error_info().unwrap();
        assert_eq!((info.reason.as_str(), info.domain.as_str()), ("key_provider_unavailable", "frostkeep"));
        assert_eq!(info.metadata["outage_since_ms"], "3000");
        assert_eq!(details.retry_info().unwrap().retry_delay, Some(Duration::from_millis(1_250)));
        let problem = Problem::from_status(&status).unwrap();
        assert_eq!(problem.reason, Reason::KeyProviderUnavailable);
        assert!(problem.pending && problem.durable_served);
        assert_eq!((problem.outage_since_ms, problem.next_try_ms), (Some(3_000), Some(1_250)));
        assert_eq!(problem.outage, Some(("deadline".into(), "seal: no answer within 2000 ms".into())));
    }

    #[test]
    fn what_a_coordinator_needs_of_a_refusal_survives_the_wire() {
        let session = SessionId::new("session").unwrap();
        let finalized = refusal_status(&Refusal::SessionFinalized { session, signature: Box::new([7; 64]) });
        assert_eq!(Problem::from_status(&finalized).unwrap().signature, Some([7; 64]));
        let early = refusal_status(&Refusal::VoteTooEarly { number: 1, left_ms: 77 });
        assert_eq!(Problem::from_status(&early).unwrap().left_ms, Some(77));
        let stale = refusal_status(&Refusal::AttemptStale { number: 1, active: 4 });
        assert_eq!(Problem::from_status(&stale).unwrap().active_number, Some(4));
        let members = vec![Member::new(2).unwrap(), Member::new(9).unwrap()];
        let shares = Refusal::SharesInvalid { culprits: members.clone(), indeterminate: Vec::new() };
        assert_eq!(Problem::from_status(&refusal_status(&shares)).unwrap().members, members);
    }

    #[test]
    fn every_reason_survives_the_wire_and_no_code_is_ok() {
        for &reason in Reason::ALL {
            let status = status(reason, "because");
            assert_ne!(status.code(), Code::Ok);
            let problem = Problem::from_status(&status).unwrap();
            assert_eq!((problem.reason, problem.problem.as_str()), (reason, "because"));
        }
    }

    #[test]
    fn a_problem_is_bounded_at_a_character() {
        let long = "\u{e9}".repeat(WIRE_PROBLEM_BYTES_MAX);
        let status = status(Reason::Internal, long);
        assert_eq!(status.message().len(), WIRE_PROBLEM_BYTES_MAX);
        assert!(Problem::from_status(&Status::unavailable("a proxy's own words")).is_none());
    }
}
