//! Members at fault, as the verb shows them: for people a line each, for machines with the proof.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use crate::client::{Blamed, KnownGroup, Network, Signed};
use crate::ids::to_hex;
use crate::roast::SignedRound;

/// A member at fault.
#[derive(Serialize)]
pub(super) struct Shown {
    member: u16,
    node: String,
    fault: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    proof: Option<Proof>,
}

/// What anybody can check with the key group's certificate (`VerifySignatureShare`).
#[derive(Serialize)]
struct Proof {
    session: String,
    attempt_number: u32,
    attempt_id: String,
    signing_package: String,
    signature_share: String,
    round_signature: String,
}

impl Proof {
    fn of(signed: &Signed, round: &SignedRound) -> Self {
        Self {
            session: signed.session.to_string(),
            attempt_number: round.attempt.number,
            attempt_id: to_hex(&round.attempt.attempt_id),
            signing_package: to_hex(&round.package),
            signature_share: to_hex(&round.share),
            round_signature: to_hex(&round.round_signature),
        }
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "blamed: member {} ({}) {}", self.member, self.node, self.fault)?;
        if self.proof.is_some() { f.write_str("; --json shows the proof") } else { Ok(()) }
    }
}

/// Everybody who was blamed in these sessions, once each; with a proof where one of them has it.
pub(super) fn shown<'a>(
    network: &Network,
    group: &KnownGroup,
    sessions: impl IntoIterator<Item = &'a Signed>,
) -> Vec<Shown> {
    let mut all: BTreeMap<u16, (&Signed, &Blamed)> = BTreeMap::new();
    for signed in sessions {
        for blamed in &signed.blamed {
            let known = all.entry(blamed.member.number()).or_insert((signed, blamed));
            if known.1.proof.is_none() {
                *known = (signed, blamed);
            }
        }
    }
    let node = |blamed: &Blamed| {
        let identity = group.seats.get(&blamed.member)?;
        network.node_of(identity).map(|node| node.name.clone())
    };
    let one = |(signed, blamed): (&Signed, &Blamed)| Shown {
        member: blamed.member.number(),
        node: node(blamed).unwrap_or_else(|| "no node of the roster".into()),
        fault: blamed.fault.clone(),
        proof: blamed.proof.as_ref().map(|round| Proof::of(signed, round)),
    };
    all.into_values().map(one).collect()
}
