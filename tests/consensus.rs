//! Goal: the judge of the spends can say no. Method: a threshold signature before Bitcoin Core's script engine, whole and with
//! one bit flipped; and the trap that the judge avoids, shown as a negative control.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

mod kit;
#[allow(dead_code, reason = "the demo uses more of it")]
#[path = "../examples/demo/spend.rs"]
mod spend;

use bitcoin::{Network, ScriptBuf, Transaction, consensus};
use bitcoinconsensus::verify;
use frostkeep::engine::{BuildRequest, Subject};
use frostkeep::ids::Member;
use frostkeep::policy::SigningPolicy;
use kit::{Cluster, Kind, Plan, coordinator, member, session};
use spend::{Spend, Verdict, flipped, funding};

struct Signed {
    script: ScriptBuf,
    funding: Transaction,
    spend: Spend,
    signatures: Vec<[u8; 64]>,
}

/// Two outputs of a group whose policy signs approved transactions alone, each signed by another pair.
async fn signed() -> Signed {
    let plan = Plan { policy: SigningPolicy::standard(), ..Plan::two_of_three(Kind::Scripted) };
    let cluster = Cluster::new(plan).await;
    let script = cluster.confirmed.address(Network::Regtest).script_pubkey();
    let funding = funding(&script, &[600_000, 400_000], 1);
    let spend = Spend::of(&funding, &script);
    let request =
        BuildRequest { key_group: cluster.key_group, transaction: spend.unsigned().unwrap(), roots: Vec::new() };
    let mut messages = Vec::new();
    for node in &cluster.nodes {
        let approval = node.engine().build_taproot_tx(&coordinator(), &request).await.unwrap();
        messages = approval.sighashes().to_vec();
    }
    let mut signatures = Vec::new();
    for (input, pair) in [[1, 2], [2, 3]].into_iter().enumerate() {
        let (message, _) = *messages.iter().find(|(_, at)| *at == input).unwrap();
        let included: [Member; 2] = pair.map(member);
        let subject = Subject { message, root: None };
        signatures.push(cluster.sign(&session(&format!("input-{input}")), &subject, &included).await);
    }
    Signed { script, funding, spend, signatures }
}

#[tokio::test(flavor = "multi_thread")]
async fn bitcoin_core_accepts_both_pairs_and_rejects_a_flipped_bit_anywhere_in_a_signature() {
    let Signed { spend, signatures, .. } = signed().await;
    for input in 0..2 {
        assert_eq!(spend.judge(&spend.signed(&signatures), input).unwrap(), Verdict::Accepted);
        for bit in [0, 255, 256, 511] {
            let mut tampered = signatures.clone();
            tampered[input][bit / 8] ^= 1 << (bit % 8);
            assert_eq!(spend.judge(&spend.signed(&tampered), input).unwrap(), Verdict::Rejected, "bit {bit}");
        }
        // A signature of the other input is none of this one.
        let swapped: Vec<_> = signatures.iter().rev().copied().collect();
        assert_eq!(spend.judge(&spend.signed(&swapped), input).unwrap(), Verdict::Rejected);
    }
    assert!(spend.judge(&spend.signed(&signatures), 2).is_err(), "there is no third input: that is no verdict");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_spent_outputs_the_same_library_accepts_a_tampered_signature() {
    let Signed { script, funding, spend, signatures } = signed().await;
    let tampered = spend.signed(&[flipped(&signatures[0]), signatures[1]]);
    let raw = consensus::serialize(&tampered);
    let value = funding.output[0].value.to_sat();
    // The trap: pre-Taproot flags, under which the output is anyone-can-spend. The judge never asks like this.
    assert_eq!(verify(script.as_bytes(), value, &raw, None, 0), Ok(()));
    assert_eq!(spend.judge(&tampered, 0).unwrap(), Verdict::Rejected);
}
