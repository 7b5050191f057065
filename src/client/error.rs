//! Why a call has no answer, and what that is to the drivers.

use std::error::Error;
use std::io;

use rustls::AlertDescription;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::read::plain;
use crate::coordinator::{self, RefusedDetail};
use crate::reasons::Reason;
use crate::wire::status::{DOMAIN, Problem};

/// Why a call has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// The node refused, and said why.
    #[error("{}", .0.problem)]
    Refused(Box<Problem>),
    /// The node was not reached, or did not answer in time. The request may have been done.
    #[error("not reached: {0}")]
    Unreachable(String),
    /// What answered is no node of this interface, or its answer is not what it has to be.
    #[error("answer without sense: {0}")]
    Nonsense(String),
}

impl ClientError {
    /// The stable reason of a refusal.
    pub fn reason(&self) -> Option<Reason> {
        match self {
            Self::Refused(problem) => Some(problem.reason),
            Self::Unreachable(_) | Self::Nonsense(_) => None,
        }
    }

    /// What a status says.
    pub(super) fn of(status: &Status) -> Self {
        if let Some(mut problem) = Problem::from_status(status) {
            problem.problem = plain(&problem.problem);
            problem.outage = problem.outage.map(|(class, detail)| (plain(&class), plain(&detail)));
            return Self::Refused(Box::new(problem));
        }
        // A refusal of another version: it has its reasons, and nothing says that it is at fault.
        let details = status.check_error_details().ok();
        if let Some(info) = details.as_ref().and_then(|it| it.error_info()).filter(|info| info.domain == DOMAIN) {
            let said =
                format!("refused for a reason that this version does not know, {}: {}", info.reason, status.message());
            return Self::Unreachable(plain(&said));
        }
        // A status that the transport made has a source; one that came from afar has none.
        if let Some(source) = status.source() {
            return Self::Unreachable(plain(&told(source)));
        }
        let said = plain(&format!("{:?}: {}", status.code(), status.message()));
        match status.code() {
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::ResourceExhausted | Code::Unknown => {
                Self::Unreachable(said)
            }
            // Longer than this side reads: an honest node may have that much to say.
            Code::OutOfRange => Self::Unreachable(said),
            _ => Self::Nonsense(said),
        }
    }

    /// An answer that is not what it has to be.
    pub(super) fn nonsense(error: impl std::fmt::Display) -> Self {
        Self::Nonsense(plain(&error.to_string()))
    }
}

/// An error of the transport with its causes, each once, without what every one of them says.
pub(super) fn told(error: &(dyn Error + 'static)) -> String {
    let mut text = String::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let said = said(error);
        next = error.source();
        let says_nothing = said == "transport error" && next.is_some();
        let known = text.to_lowercase().contains(&said.to_lowercase());
        if !says_nothing && !known {
            let between = if text.is_empty() { "" } else { ": " };
            text = format!("{text}{between}{said}");
        }
    }
    text
}

/// One error by itself.
fn said(error: &(dyn Error + 'static)) -> String {
    let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    let tls = inner.and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match tls.or_else(|| error.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::AlertReceived(alert)) if is_about_the_key(*alert) => {
            format!("the node refuses this TLS key ({alert:?}): its roster does not name it")
        }
        _ => match error.downcast_ref::<io::Error>() {
            Some(error) if error.kind() == io::ErrorKind::UnexpectedEof => "the connection broke off".into(),
            Some(error) if error.raw_os_error().is_some() => {
                let text = error.to_string();
                text.split_once(" (os error").map_or(text.as_str(), |(words, _)| words).to_lowercase()
            }
            _ => error.to_string(),
        },
    }
}

/// Alerts of a server that does not take the client's certificate (RFC 8446, section 6.2).
const fn is_about_the_key(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::AccessDenied
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateRequired
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::UnsupportedCertificate
    )
}

impl From<ClientError> for coordinator::PortError {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Refused(problem) => {
                let detail = detail(&problem);
                let Problem { reason, problem, .. } = *problem;
                Self::Refused(Box::new(coordinator::Refused { reason, problem, detail }))
            }
            ClientError::Unreachable(problem) => Self::Unreachable(problem),
            ClientError::Nonsense(problem) => Self::Nonsense(problem),
        }
    }
}

/// What a coordinator needs of a refusal. The coordinator checks it.
fn detail(problem: &Problem) -> RefusedDetail {
    let found = match problem.reason {
        Reason::CommitmentsUnknown => problem.commitments.clone().map(RefusedDetail::Current),
        Reason::SessionFinalized => problem.signature.map(|signature| RefusedDetail::Signature(signature.to_vec())),
        Reason::VoteTooEarly => problem.left_ms.map(RefusedDetail::LeftMs),
        Reason::KeyProviderUnavailable | Reason::RoundNotDurable => {
            problem.next_try_ms.map(RefusedDetail::RetryAfterMs)
        }
        _ => None,
    };
    found.unwrap_or(RefusedDetail::None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coordinator::PortError;
    use crate::engine::Refusal;
    use crate::ids::{Member, SessionId};
    use crate::wire::status::{self, refusal_status};

    #[test]
    fn a_refusal_is_to_a_coordinator_what_it_was_to_the_engine() {
        let session = SessionId::new("session").unwrap();
        let member = Member::new(3).unwrap();
        for refusal in [
            Refusal::SessionFinalized { session: session.clone(), signature: Box::new([7; 64]) },
            Refusal::VoteTooEarly { number: 1, left_ms: 250 },
            Refusal::CommitmentsUnknown { member, current: None },
            Refusal::SessionAborted(session),
            Refusal::Busy("the prepared key shares"),
        ] {
            let through = PortError::from(ClientError::of(&refusal_status(&refusal)));
            assert_eq!(through, PortError::from(&refusal), "{refusal}");
        }
    }

    #[test]
    fn a_status_that_is_no_refusal_is_no_answer_or_no_sense() {
        for (code, lost) in [
            (Code::Unavailable, true),
            (Code::ResourceExhausted, true),
            (Code::Unknown, true),
            (Code::Unimplemented, false),
            (Code::Internal, false),
            (Code::OutOfRange, true),
            (Code::Unauthenticated, false),
        ] {
            let error = ClientError::of(&Status::new(code, "a proxy's own words"));
            assert_eq!(matches!(error, ClientError::Unreachable(_)), lost, "{code:?}: {error}");
            assert!(lost || matches!(error, ClientError::Nonsense(_)));
        }
    }

    /// A refusal whose reason this version does not know.
    fn of_another_version(problem: &str) -> Status {
        let details = tonic_types::ErrorDetails::with_error_info("invented_later", DOMAIN, []);
        Status::with_error_details(Code::FailedPrecondition, problem, details)
    }

    #[test]
    fn a_reason_that_this_version_does_not_know_is_no_answer_and_nobody_is_to_blame() {
        let error = ClientError::of(&of_another_version("because"));
        assert!(matches!(&error, ClientError::Unreachable(said) if said.contains("invented_later")), "{error}");
        assert!(matches!(PortError::from(error), PortError::Unreachable(_)));
    }

    #[test]
    fn what_a_node_says_cannot_steer_a_terminal_and_is_bounded() {
        let said = "\u{1b}]0;owned\u{7}\u{9b}2J\rdone\n\u{202e}gpj".to_owned() + &"\u{e9}".repeat(5_000);
        let engine = status::status(Reason::Internal, said.clone());
        for status in [engine, of_another_version(&said), Status::internal(&said), Status::unavailable(&said)] {
            let shown = ClientError::of(&status).to_string();
            assert!(!shown.chars().any(|letter| letter.is_control() || letter == '\u{202e}'), "{shown:?}");
            assert!(shown.contains("]0;owned") && shown.len() < 1_100, "{shown:?}");
        }
    }
}
