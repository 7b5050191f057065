//! Goal: a new key is proved by one signature under any policy, and that signature can be of nothing else. Method: two key
//! groups under the policy that refuses everything.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod kit;

use frostkeep::engine::{EngineConfig, Subject, trial_session, trial_subject};
use frostkeep::hash::sha256;
use frostkeep::ids::{AttemptPolicy, CeremonyId, MerkleRoot, Message, SessionId};
use frostkeep::limits::TRIALS_MAX;
use frostkeep::policy::{SigningPolicy, Tightening};
use frostkeep::reasons::Reason;
use kit::{Cluster, Kind, Plan, member, session, start};

async fn cluster(engine: &EngineConfig) -> Cluster {
    let plan = Plan {
        kind: Kind::Scripted,
        seats: vec![1, 1, 1],
        threshold: 2,
        attempts: AttemptPolicy::Roast,
        policy: SigningPolicy::default(),
    };
    Cluster::configured(plan, engine).await
}

fn ceremony(cluster: &Cluster) -> CeremonyId {
    cluster.confirmed.certificate().ceremony()
}

/// Why member 1 does not answer; none when it does.
async fn refused(cluster: &Cluster, session: &SessionId, subject: &Subject) -> Option<Reason> {
    let package = cluster.package(session, subject, &[member(1), member(2)]);
    let request = cluster.request(session, subject, 1, &package, member(1));
    start(&cluster.engine_of(member(1)), &request).await.err().map(|refusal| refusal.reason())
}

fn verifies(cluster: &Cluster, subject: &Subject, signature: &[u8; 64]) -> bool {
    let key = bitcoin::secp256k1::XOnlyPublicKey::from_slice(&cluster.group.output_key(None)).unwrap();
    let signature = bitcoin::secp256k1::schnorr::Signature::from_slice(signature).unwrap();
    let message = bitcoin::secp256k1::Message::from_digest(*subject.message.as_bytes());
    bitcoin::secp256k1::Secp256k1::verification_only().verify_schnorr(&signature, &message, &key).is_ok()
}

#[test]
fn the_trial_message_is_a_tagged_hash_under_a_tag_that_no_signature_hash_has() {
    let key_group = format!("02{}", "11".repeat(32)).parse().unwrap();
    let id = CeremonyId::new([7; 16]);
    let (name, subject) = trial_subject(&key_group, &id);
    assert_eq!(name.as_str(), "keygen-trial-07070707070707070707070707070707");
    // BIP-340: SHA256(SHA256(tag) || SHA256(tag) || x).
    let tagged = |tag: &str| {
        let tag = sha256(tag.as_bytes());
        sha256(&[tag.as_slice(), &tag, key_group.as_bytes(), id.as_bytes()].concat())
    };
    assert_eq!(subject.message.as_bytes(), &tagged("frostkeep/keygen-trial/v1"));
    assert_ne!(subject.message.as_bytes(), &tagged("TapSighash"));
    assert_eq!(subject.root, None);
    assert_eq!(trial_session(&id, 0), Some(name));
    assert_eq!(trial_session(&id, TRIALS_MAX), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_group_signs_its_own_trial_message_under_a_policy_that_allows_nothing() {
    // Not even what the configuration file takes away stands against it: it spends nothing.
    let tighten = Some(Tightening { refuse_any_message: true, ..Tightening::default() });
    let cluster = cluster(&EngineConfig { tighten, ..EngineConfig::default() }).await;
    let (name, subject) = trial_subject(&cluster.key_group, &ceremony(&cluster));
    let signature = cluster.sign(&name, &subject, &[member(1), member(3)]).await;
    assert!(verifies(&cluster, &subject, &signature));
    // A trial that ended without a signature is made again under the next number.
    let again = trial_session(&ceremony(&cluster), TRIALS_MAX - 1).unwrap();
    let signature = cluster.sign(&again, &subject, &[member(2), member(3)]).await;
    assert!(verifies(&cluster, &subject, &signature));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_but_the_own_trial_message_in_a_trial_session_without_a_root_gets_past_the_policy() {
    let cluster = cluster(&EngineConfig::default()).await;
    let other = self::cluster(&EngineConfig::default()).await;
    let (name, own) = trial_subject(&cluster.key_group, &ceremony(&cluster));
    let (other_name, others) = trial_subject(&other.key_group, &ceremony(&other));
    let (_, other_ceremony) = trial_subject(&cluster.key_group, &ceremony(&other));
    let (_, other_group) = trial_subject(&other.key_group, &ceremony(&cluster));
    let beyond = SessionId::new(&format!("{name}-{TRIALS_MAX}")).unwrap();
    let refused_all = [
        (&name, Subject { message: Message::new([1; 32]), root: None }),
        (&name, others),
        (&other_name, others),
        (&name, other_ceremony),
        (&name, other_group),
        (&name, Subject { root: Some(MerkleRoot::new([2; 32])), ..own }),
        (&session("payment"), own),
        (&other_name, own),
        (&beyond, own),
    ];
    for (session, subject) in refused_all {
        let reason = refused(&cluster, session, &subject).await;
        assert_eq!(reason, Some(Reason::MessageNotApproved), "{session} {subject:?}");
    }
    assert_eq!(refused(&cluster, &name, &own).await, None);
}
