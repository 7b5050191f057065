//! Goal: whoever dies, lies or alters messages when, a key generation ends in one key that every node keeps, or in a failure
//! that names who stood in the way; and the next run succeeds. Method: the driver over engines in process, through wires
//! that the test cuts, and a node whose secrets the test holds.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod kit;
mod wire;

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use bitcoin::Network;
use frostkeep::ceremony::{CeremonyError, Driver, Event, Failed, Finding, Pace, Progress, Stands, Step};
use frostkeep::engine::{CeremonyStage, CommitRequest};
use frostkeep::hsm::token::FaultClass;
use frostkeep::ids::AttemptPolicy;
use frostkeep::keygen::{ConfirmedKeyGroup, Fault, Parameters};
use frostkeep::policy::SigningPolicy;
use frostkeep::reasons::Reason;
use kit::{admin, coordinator, member, peer, session};
use wire::{Call, Lie, Rig, Tamper, When};

/// Generous where nodes work, short where they are away.
fn pace() -> Pace {
    Pace { step_ms_max: 30_000, preflight_ms_max: 30_000, ..impatient() }
}

/// For runs in which somebody is away until the deadline.
fn impatient() -> Pace {
    Pace {
        step_ms_max: 6_000,
        preflight_ms_max: 2_000,
        call_ms_max: 30_000,
        farewell_ms_max: 2_000,
        backoff_ms_min: 10,
        backoff_ms_max: 100,
    }
}

fn failed<T: std::fmt::Debug>(result: Result<T, CeremonyError>) -> Failed {
    match result.unwrap_err() {
        CeremonyError::Failed(failed) => {
            assert!(!failed.findings.is_empty(), "a failure names somebody");
            assert!(failed.findings.iter().all(|finding| !finding.named().is_empty()));
            *failed
        }
        setup => panic!("{setup}"),
    }
}

fn names(failed: &Failed) -> Vec<String> {
    let mut names: Vec<String> =
        failed.findings.iter().flat_map(Finding::named).map(|named| named.node.clone()).collect();
    names.sort();
    names.dedup();
    names
}

/// Every node holds the key and answers under it.
fn active_everywhere(rig: &Rig, confirmed: &ConfirmedKeyGroup) {
    for (seat, index) in &rig.seats {
        let request = CommitRequest { session: session("any"), key_group: confirmed.id(), member: *seat };
        rig.engine(*index).commit(&coordinator(), &request).unwrap();
    }
    assert!(confirmed.address(Network::Regtest).to_string().starts_with("bcrt1p"));
    assert!(confirmed.descriptor().starts_with("tr("));
}

/// No node but those in `except` has anything left of the ceremony.
async fn clean(rig: &Rig, parameters: &Parameters, except: usize) {
    for index in (0..rig.nodes.len()).filter(|index| *index != except) {
        let stage = rig.engine(index).keygen_stage(&peer(), &parameters.ceremony()).await;
        assert_eq!(stage.unwrap_err().reason(), Reason::CeremonyUnknown, "node {index}");
    }
}

async fn succeeds(rig: &Rig) -> ConfirmedKeyGroup {
    let parameters = rig.parameters(AttemptPolicy::Roast);
    let confirmed = rig.driver(pace()).run(&parameters, &rig.policy).await.unwrap();
    assert_eq!(confirmed.certificate().ceremony(), parameters.ceremony());
    active_everywhere(rig, &confirmed);
    confirmed
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ceremony_ends_in_a_key_that_every_node_has_confirmed_and_shows_each_step_of_each_node() {
    for (seats, threshold, attempts) in
        [(vec![1, 1, 1], 2, AttemptPolicy::Roast), (vec![2, 2, 1], 3, AttemptPolicy::Evidence)]
    {
        let rig = Rig::new(&seats, threshold).await;
        let events: Arc<Mutex<Vec<Event>>> = Arc::default();
        let seen = Arc::clone(&events);
        let observer = Arc::new(move |event| seen.lock().unwrap().push(event));
        let parameters = rig.parameters(attempts);
        let driver = Driver::new(rig.wires(), pace(), observer);
        let confirmed = driver.run(&parameters, &rig.policy).await.unwrap();
        active_everywhere(&rig, &confirmed);
        assert_eq!(confirmed.certificate().transcript().parameters(), &parameters);
        let events = events.lock().unwrap();
        for node in 0..seats.len() {
            for step in [
                Step::Preflight,
                Step::Begin,
                Step::RelayOne,
                Step::Advance,
                Step::RelayTwo,
                Step::Finish,
                Step::Certify,
            ] {
                for progress in [Progress::Started, Progress::Done] {
                    let event = Event { node: format!("node-{node}"), step, progress };
                    assert_eq!(events.iter().filter(|seen| **seen == event).count(), 1, "{event:?}");
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_stands_in_the_way_is_named_before_any_secret_exists_and_so_is_every_other() {
    let rig = Rig::new(&[1, 1, 1, 1], 2).await;
    rig.nodes[0].token.scripted_handle().fail_until_healed(FaultClass::Token);
    kit::eventually("the outage is seen", || !rig.engine(0).status().health.admits_work()).await;
    rig.wire(1).cut_off_from("node-2");
    rig.wire(3).dead.store(true, Ordering::SeqCst);
    let before = rig.draws.load(Ordering::SeqCst);
    let parameters = rig.parameters(AttemptPolicy::Roast);
    let failed = failed(rig.driver(impatient()).run(&parameters, &rig.policy).await);
    assert_eq!(failed.stands, Stands::NothingBegun);
    assert_eq!(names(&failed), ["node-0", "node-1", "node-3"]);
    let text = failed.to_string();
    for part in ["node-0 (member 1)", "key_provider_unavailable", "node-2", "node-3 (member 4): absent in pre-flight"] {
        assert!(text.contains(part), "{text}");
    }
    for index in 0..4 {
        assert!(!rig.wire(index).calls().iter().any(|call| *call != Call::Preflight), "nobody was asked to begin");
    }
    assert_eq!(rig.draws.load(Ordering::SeqCst), before, "no randomness was drawn: there is no secret");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_dies_at_any_step_is_named_and_leaves_the_others_clean_and_a_second_run_succeeds() {
    let mut cases = tokio::task::JoinSet::new();
    for call in [Call::Preflight, Call::Begin, Call::Receive, Call::Advance] {
        for when in [When::Before, When::After] {
            cases.spawn(async move {
                let mut rig = Rig::new(&[1, 2, 1], 3).await;
                rig.wire(1).die_at(call, when);
                let parameters = rig.parameters(AttemptPolicy::Roast);
                let failed = failed(rig.driver(impatient()).run(&parameters, &rig.policy).await);
                let absent = failed.findings.iter().all(
                    |finding| matches!(finding, Finding::Absent { node, .. } if node.members == [member(2), member(3)]),
                );
                assert!(absent, "{call:?} {when:?}: {failed}");
                assert_eq!(names(&failed), ["node-1"], "{call:?} {when:?}: {failed}");
                let expected = if call == Call::Preflight { Stands::NothingBegun } else { Stands::Over };
                assert_eq!(failed.stands, expected, "{call:?} {when:?}");
                clean(&rig, &parameters, 1).await;
                // It comes back without a memory of it, or with one that blocks nothing.
                if when == When::After {
                    rig.restart(1).await;
                }
                rig.wire(1).revive();
                succeeds(&rig).await;
            });
        }
    }
    while let Some(done) = cases.join_next().await {
        done.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_dies_after_the_others_have_prepared_is_waited_for_and_a_resumed_run_completes_the_same_key() {
    let mut cases = tokio::task::JoinSet::new();
    for (call, when, restart) in [
        (Call::Finish, When::Before, false),
        (Call::Finish, When::After, true),
        (Call::Certify, When::Before, true),
        (Call::Certify, When::After, false),
    ] {
        cases.spawn(async move {
            let mut rig = Rig::new(&[1, 1, 1], 2).await;
            rig.wire(2).die_at(call, when);
            let parameters = rig.parameters(AttemptPolicy::Roast);
            let ceremony = parameters.ceremony();
            let failed_run = failed(rig.driver(impatient()).run(&parameters, &rig.policy).await);
            assert_eq!((names(&failed_run), failed_run.stands), (vec!["node-2".to_string()], Stands::Resumable));
            assert!(!rig.wire(2).calls().contains(&Call::Abandon), "nobody is told to give up what can be completed");
            // Still away: nothing is lost by asking.
            let again = failed(rig.driver(impatient()).resume(&parameters).await);
            assert_eq!((names(&again), again.stands), (vec!["node-2".to_string()], Stands::Resumable));
            if restart {
                rig.restart(2).await;
            }
            if call == Call::Certify {
                let stage = rig.engine(0).keygen_stage(&peer(), &ceremony).await.unwrap();
                assert_eq!(stage, CeremonyStage::Active, "the others have their certificate");
            } else {
                assert_eq!(rig.driver(pace()).unfinished().await.into_iter().collect::<Vec<_>>(), [ceremony]);
            }
            rig.wire(2).revive();
            let confirmed = rig.driver(pace()).resume(&parameters).await.unwrap();
            assert_eq!(confirmed.certificate().ceremony(), ceremony);
            active_everywhere(&rig, &confirmed);
            // And again, for whoever lost the answer.
            assert_eq!(rig.driver(pace()).resume(&parameters).await.unwrap(), confirmed);
            assert!(rig.driver(pace()).unfinished().await.is_empty());
        });
    }
    while let Some(done) = cases.join_next().await {
        done.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_lost_the_ceremony_after_the_others_prepared_ends_it_by_name_and_a_new_run_succeeds() {
    let mut rig = Rig::new(&[1, 1, 1], 2).await;
    rig.wire(2).die_at(Call::Finish, When::Before);
    let parameters = rig.parameters(AttemptPolicy::Roast);
    failed(rig.driver(impatient()).run(&parameters, &rig.policy).await);
    rig.restart(2).await;
    rig.wire(2).revive();
    let lost = failed(rig.driver(pace()).resume(&parameters).await);
    assert_eq!((names(&lost), lost.stands), (vec!["node-2".to_string()], Stands::Over));
    // What the others prepared is kept, signs nothing, and blocks nothing.
    let stage = rig.engine(0).keygen_stage(&peer(), &parameters.ceremony()).await.unwrap();
    assert_eq!(stage, CeremonyStage::Prepared);
    succeeds(&rig).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_one_node_made_alone_is_not_completed_as_the_key_of_all() {
    let rig = Rig::new(&[1, 1, 1], 2).await;
    let expected = rig.parameters(AttemptPolicy::Roast);
    // The last node holds every seat of a ceremony with that id, and so the whole key.
    let liar = rig.engine(2).node_identity().unwrap();
    let seats = expected.seats().keys().map(|member| (*member, liar)).collect();
    let own = Parameters::new(expected.ceremony(), 2, seats, AttemptPolicy::Roast, expected.signing_policy()).unwrap();
    let alone = Driver::new(vec![rig.wires().pop().unwrap()], pace(), Arc::new(|_| {}));
    alone.run(&own, &rig.policy).await.unwrap();
    let refused = failed(rig.driver(pace()).resume(&expected).await);
    assert_eq!(names(&refused), ["node-0", "node-1"], "{refused}");
    let unknown = |finding: &Finding| matches!(finding, Finding::Refused { reason: Reason::CeremonyUnknown, .. });
    assert!(refused.findings.iter().all(unknown), "{refused}");
    assert_eq!(refused.stands, Stands::Over);
    // With another node away it is not completed either.
    rig.wire(0).dead.store(true, Ordering::SeqCst);
    let refused = failed(rig.driver(impatient()).resume(&expected).await);
    assert_eq!(names(&refused), ["node-0", "node-1"], "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ceremony_with_other_parameters_than_those_asked_for_is_neither_completed_nor_given_up() {
    let rig = Rig::new(&[1, 1, 1], 2).await;
    let weak = rig.parameters(AttemptPolicy::Roast);
    for index in 0..3 {
        rig.wire(index).die_at(Call::Finish, When::After);
    }
    failed(rig.driver(impatient()).run(&weak, &rig.policy).await);
    (0..3).for_each(|index| rig.wire(index).revive());
    let (id, seats, policy) = (weak.ceremony(), weak.seats().clone(), weak.signing_policy());
    let strong = Parameters::new(id, 3, seats.clone(), AttemptPolicy::Roast, policy).unwrap();
    let other = Parameters::new(id, 2, seats.clone(), AttemptPolicy::Evidence, policy).unwrap();
    let loose = Parameters::new(id, 2, seats, AttemptPolicy::Roast, [1; 32]).unwrap();
    for asked in [strong, other, loose] {
        let error = rig.driver(pace()).resume(&asked).await.unwrap_err();
        assert!(matches!(error, CeremonyError::Setup(_)), "{error}");
        let stage = rig.engine(0).keygen_stage(&peer(), &id).await.unwrap();
        assert_eq!(stage, CeremonyStage::Prepared, "no certificate was handed over");
    }
    rig.driver(pace()).resume(&weak).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn no_address_exists_before_every_node_has_confirmed() {
    let rig = Rig::new(&[1, 1, 1], 2).await;
    let parameters = rig.parameters(AttemptPolicy::Roast);
    for index in 0..3 {
        rig.wire(index).die_at(Call::Certify, When::Before);
    }
    let first = failed(rig.driver(impatient()).run(&parameters, &rig.policy).await);
    assert_eq!(names(&first).len(), 3);
    for (index, left) in [(0, 2), (1, 1)] {
        rig.wire(index).revive();
        let still = failed(rig.driver(impatient()).resume(&parameters).await);
        assert_eq!(names(&still).len(), left, "{still}");
    }
    // A confirmation that another node has signed is none of its own.
    rig.wire(2).revive();
    rig.wire(2).confirm_as(rig.engine(0));
    let false_word = failed(rig.driver(pace()).resume(&parameters).await);
    assert!(
        matches!(&false_word.findings[0], Finding::WrongAnswer { node, .. } if node.node == "node-2"),
        "{false_word}"
    );
    rig.wire(2).revive();
    let confirmed = rig.driver(pace()).resume(&parameters).await.unwrap();
    active_everywhere(&rig, &confirmed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lying_member_is_named_with_the_proof_or_beside_whom_it_accuses_and_the_honest_go_on_without_it() {
    for lie in Lie::ALL {
        let rig = Rig::with_liar(&[1, 1], 2, lie).await;
        let parameters = rig.parameters(AttemptPolicy::Roast);
        let failed = failed(rig.driver(pace()).run(&parameters, &rig.policy).await);
        assert_eq!(failed.stands, Stands::Over, "{lie:?}: {failed}");
        let named = names(&failed);
        assert!(named.contains(&"liar".to_string()), "{lie:?}: {failed}");
        match lie {
            Lie::Malformed | Lie::Equivocation | Lie::MissingEnvelope => {
                for finding in &failed.findings {
                    let Finding::Faulty { node, fault } = finding else { panic!("{lie:?}: {finding}") };
                    assert_eq!((node.node.as_str(), node.members.as_slice()), ("liar", &[member(3)][..]));
                    assert!(fault.verify(&parameters).is_ok(), "the proof is anybody's");
                    assert_eq!(Fault::from_bytes(&fault.to_bytes()).unwrap(), **fault);
                }
            }
            Lie::WrongEnvelope => {
                assert!(failed.findings.iter().all(|finding| matches!(finding, Finding::Disputed { .. })), "{failed}");
                assert_eq!(named, ["liar", "node-0"], "accuser and accused");
            }
            Lie::FalseAccusation | Lie::FalseProof => {
                // Nothing proves what it says of the other: both are named.
                assert!(failed.findings.iter().all(|finding| matches!(finding, Finding::Disputed { .. })), "{failed}");
                assert_eq!(named, ["liar", "node-1"]);
            }
            Lie::OtherTranscript => {
                let diverged =
                    |finding: &Finding| matches!(finding, Finding::Diverged { other, .. } if other.node == "liar");
                assert!(failed.findings.iter().all(diverged), "{failed}");
            }
            Lie::OtherSignature | Lie::Garbage => assert_eq!(named, ["liar"], "{failed}"),
        }
        for index in 0..2 {
            let stage = rig.engine(index).keygen_stage(&peer(), &parameters.ceremony()).await;
            assert!(!matches!(stage, Ok(CeremonyStage::RoundOne { .. } | CeremonyStage::RoundTwo { .. })), "{lie:?}");
        }
        let honest = rig.without_liar();
        let parameters = honest.parameters(AttemptPolicy::Roast);
        honest.driver(pace()).run(&parameters, &honest.policy).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wire_that_alters_drops_repeats_or_reorders_never_makes_a_wrong_key() {
    let rig = Rig::new(&[1, 2, 1], 3).await;
    let (mut made, mut refused) = (0, 0);
    for seed in 0..60 {
        let alters = seed % 2 == 0;
        for index in 0..3 {
            rig.wire(index).tamper_with(Tamper::new(seed * 3 + index as u64, alters));
        }
        let parameters = rig.parameters(AttemptPolicy::Roast);
        match rig.driver(pace()).run(&parameters, &rig.policy).await {
            Ok(confirmed) => {
                made += 1;
                assert_eq!(confirmed.certificate().ceremony(), parameters.ceremony());
                active_everywhere(&rig, &confirmed);
                for index in 0..3 {
                    rig.engine(index).retire_key_group(&admin(), &confirmed.id()).await.unwrap();
                }
            }
            Err(error) => {
                assert!(alters, "seed {seed}: what is lost once is sent again: {error}");
                refused += 1;
                let failed = failed::<()>(Err(error));
                assert_eq!(failed.stands, Stands::Over, "seed {seed}: {failed}");
                clean(&rig, &parameters, 3).await;
            }
        }
    }
    assert!(made >= 30 && refused > 0, "{made} made, {refused} refused");
    (0..3).for_each(|index| rig.wire(index).revive());
    succeeds(&rig).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_driver_that_dies_between_any_two_steps_leaves_what_is_resumed_or_run_anew() {
    let rig = Rig::new(&[1, 1, 1], 2).await;
    for step in
        [Step::Preflight, Step::Begin, Step::RelayOne, Step::Advance, Step::RelayTwo, Step::Finish, Step::Certify]
    {
        for progress in [Progress::Started, Progress::Done] {
            let parameters = rig.parameters(AttemptPolicy::Roast);
            let (dies, mut died) = tokio::sync::mpsc::unbounded_channel();
            let (at, cut) = (progress.clone(), rig.cut());
            let observer = Arc::new(move |event: Event| {
                if event.step == step && event.progress == at {
                    cut();
                    let _ = dies.send(());
                }
            });
            let driver = Driver::new(rig.wires(), pace(), observer);
            let (told, policy) = (parameters.clone(), rig.policy.clone());
            let run = tokio::spawn(async move { driver.run(&told, &policy).await });
            died.recv().await;
            run.abort();
            assert!(run.await.unwrap_err().is_cancelled());
            (0..3).for_each(|index| rig.wire(index).revive());
            let resumed = rig.driver(pace()).resume(&parameters).await;
            match resumed {
                Ok(confirmed) => {
                    assert!(step >= Step::Advance, "{step} {progress:?} cannot be resumed");
                    active_everywhere(&rig, &confirmed);
                }
                Err(error) => {
                    assert!(step <= Step::Advance, "{step} {progress:?} can be resumed: {error}");
                    assert_eq!(failed::<()>(Err(error)).stands, Stands::Over, "{step} {progress:?}");
                }
            }
            succeeds(&rig).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_are_lost_on_the_way_cost_a_retry_and_no_key() {
    let rig = Rig::new(&[1, 2, 1], 3).await;
    for index in 0..3 {
        // Every second call is answered, and the answer is lost.
        rig.wire(index).loses_answers.store(true, Ordering::SeqCst);
    }
    succeeds(&rig).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_driver_asks_nobody_when_its_nodes_are_not_those_of_the_parameters() {
    let rig = Rig::new(&[1, 1, 1], 2).await;
    let parameters = rig.parameters(AttemptPolicy::Roast);
    let mut two = rig.wires();
    two.pop();
    let mut twice = rig.wires();
    twice.extend(rig.wires().pop());
    for wires in [two, twice] {
        let error = Driver::new(wires, pace(), Arc::new(|_| {})).run(&parameters, &rig.policy).await.unwrap_err();
        assert!(matches!(error, CeremonyError::Setup(_)), "{error}");
    }
    let other = SigningPolicy::default();
    let error = rig.driver(pace()).run(&parameters, &other).await.unwrap_err();
    assert!(matches!(error, CeremonyError::Setup(_)), "{error}");
    assert!((0..3).all(|index| rig.wire(index).calls().is_empty()));
}
