//! The four faults of the reference.

use frostkeep::engine::Refusal;
use frostkeep::ids::Member;
use frostkeep::roast::{Evidence, TransitionError};

use crate::kit::{Kind, Plan, coordinator, durable_part, member, subject, timeout_step};
use crate::stage::{Stage, evidence};

async fn a_fresh_round_whose_persist_failed_is_never_served_by_its_replay(kind: Kind) {
    let mut stage = Stage::new(Plan::two_of_three(kind)).await;
    let (request, refusal) = stage.round_caught_by_an_outage("f1", 1).await;
    let Refusal::KeyProviderUnavailable { outage, pending: true, .. } = refusal else { panic!("{refusal}") };
    for _ in 0..3 {
        let replay = stage.at_once(&coordinator(), &request).await.unwrap_err();
        let Refusal::RoundNotDurable { outage: Some(told), .. } = replay else { panic!("{replay}") };
        assert_eq!((told.class, told.since, &told.detail), (outage.class, outage.since, &outage.detail));
        stage.bench().persister.step();
    }
    // The node has not even an open session: nothing of the round shows.
    assert!(matches!(stage.view(&request.session, |_| ()), Err(Refusal::SessionUnknown(_))));
    stage.heal().await;
    // A package has one good share of a nonce pair: the share that verifies is the one that was refused.
    let served = stage.at_once(&coordinator(), &request).await.unwrap();
    let share = crate::kit::submitted(&served).share;
    stage.cluster.group.verify_share(member(1), &request.package, &share, None).unwrap();
    let again = stage.at_once(&coordinator(), &request).await.unwrap();
    assert_eq!(durable_part(&served), durable_part(&again));

    stage.restart();
    let after = stage.at_once(&coordinator(), &request).await.unwrap();
    assert_eq!(durable_part(&served), durable_part(&after), "its marker and its share are one record");
    let other = stage.package(&request.session, &request.subject, &[member(1), member(2)]);
    let other = stage.cluster.request(&request.session, &request.subject, 1, &other, member(1));
    let refusal = stage.at_once(&coordinator(), &other).await.unwrap_err();
    assert!(matches!(refusal, Refusal::AttemptConflict { .. }), "a restart forgot a consumed attempt: {refusal}");
}

async fn a_round_that_never_became_durable_is_gone_after_a_crash_with_its_nonces(kind: Kind) {
    let mut stage = Stage::new(Plan::two_of_three(kind)).await;
    let (request, _) = stage.round_caught_by_an_outage("f1-crash", 1).await;
    stage.crash();
    stage.bring_back();
    stage.restart();
    let refusal = stage.at_once(&coordinator(), &request).await.unwrap_err();
    let Refusal::CommitmentsUnknown { current: Some(current), .. } = refusal else { panic!("{refusal}") };
    assert_ne!(Some(&*current), request.package.commitments_of(member(1)));
}

async fn a_refused_advance_leaves_the_active_attempt_and_its_durable_round_as_they_were(kind: Kind) {
    let mut stage = Stage::new(evidence(kind)).await;
    let (all, rest) = ([1, 2, 3, 4].map(member), [1, 2, 3].map(member));
    let what = subject(2);
    let name = stage.session_led_by(member(4), &what, &all);
    let first = stage.cluster.context(&name, &what, 1, &all);
    let package = stage.package(&name, &what, &all);
    let request = stage.cluster.request(&name, &what, 1, &package, member(1));
    let old_driver = stage.driver(&first);
    let answered = stage.answer(&old_driver, &request).await.unwrap();

    let second = stage.cluster.context(&name, &what, 2, &rest);
    let driver = stage.driver(&second);
    let votes = [1, 3].map(|voter| stage.vote(&name, &what, &first, member(voter))).to_vec();
    let next = stage.package(&name, &what, &rest);
    let mut good = stage.cluster.request(&name, &what, 2, &next, member(1));
    good.evidence = vec![timeout_step(&first, &second, votes.clone())];

    let mut cases = Vec::new();
    let mut case = |label: &'static str, expected: fn(&Refusal) -> bool, change: &dyn Fn(&mut _)| {
        let mut bad = good.clone();
        change(&mut bad);
        cases.push((label, bad, expected));
    };
    let unproved: fn(&Refusal) -> bool = |refusal| matches!(refusal, Refusal::Transition(_));
    case("no evidence", unproved, &|bad| bad.evidence.clear());
    case("one vote", |refusal| matches!(refusal, Refusal::Transition(TransitionError::TooFewVotes { .. })), &|bad| {
        bad.evidence = vec![timeout_step(&first, &second, votes[..1].to_vec())];
    });
    case("a vote twice", unproved, &|bad| {
        bad.evidence = vec![timeout_step(&first, &second, vec![votes[0].clone(), votes[0].clone()])];
    });
    case("a forged vote", unproved, &|bad| {
        if let Evidence::CoordinatorTimeout { votes } = &mut bad.evidence[0].evidence {
            votes[1].signature[7] ^= 1;
        }
    });
    case("nobody excluded", unproved, &|bad| bad.evidence[0].excluded = vec![2]);
    // From here on the advance is authorised, and a later check refuses.
    case("the package of another set", |refusal| matches!(refusal, Refusal::PackageInvalid(_)), &|bad| {
        bad.package = package.clone();
    });
    let spent = {
        let mut commitments: std::collections::BTreeMap<Member, _> =
            rest.iter().map(|seat| (*seat, next.commitments_of(*seat).unwrap().clone())).collect();
        commitments.insert(member(1), package.commitments_of(member(1)).unwrap().clone());
        frostkeep::frost::SigningPackage::new(what.message, commitments).unwrap()
    };
    case("spent commitments", |refusal| matches!(refusal, Refusal::CommitmentsUnknown { .. }), &|bad| {
        bad.package = spent.clone();
    });
    case("a malformed context", |refusal| matches!(refusal, Refusal::Context(_)), &|bad| {
        bad.context.attempt_id[0] ^= 1;
    });
    case("a member that is not here", |refusal| matches!(refusal, Refusal::MemberNotLocal { .. }), &|bad| {
        bad.member = member(3);
    });

    for (label, bad, expected) in &cases {
        let refusal = stage.at_once(&driver, bad).await.unwrap_err();
        assert!(expected(&refusal), "{label}: {refusal}");
        assert_eq!(stage.active(&name), Some((1, first.id())), "{label}");
        let served = stage.at_once(&old_driver, &request).await;
        let served = served.unwrap_or_else(|refusal| panic!("{label} destroyed the durable round: {refusal}"));
        assert_eq!(durable_part(&answered), durable_part(&served), "{label}");
    }
    let refusal = stage.at_once(&old_driver, &good).await;
    if old_driver.identity != driver.identity {
        assert!(matches!(refusal, Err(Refusal::PermissionDenied { .. })), "only the selected coordinator drives");
    }

    stage.outage().await;
    let refusal = stage.at_once(&driver, &good).await.unwrap_err();
    assert!(matches!(refusal, Refusal::KeyProviderUnavailable { pending: false, .. }), "{refusal}");
    assert_eq!(stage.active(&name), Some((1, first.id())));
    let served = stage.at_once(&old_driver, &request).await.unwrap();
    assert_eq!(durable_part(&answered), durable_part(&served));
    stage.heal().await;

    // None of them spent a nonce: the same package is still good.
    let advanced = stage.answer(&driver, &good).await.unwrap();
    assert_eq!(advanced.attempt(), second.id());
    assert_eq!(stage.active(&name), Some((2, second.id())));
    let stale = stage.at_once(&old_driver, &request).await.unwrap_err();
    assert!(matches!(stale, Refusal::AttemptStale { number: 1, active: 2 }), "{stale}");
}

async fn a_later_unrelated_record_makes_an_earlier_round_durable_and_it_is_served_in_the_next_outage(kind: Kind) {
    let mut stage = Stage::new(Plan::two_of_three(kind)).await;
    let (request, refusal) = stage.round_caught_by_an_outage("f3", 1).await;
    assert!(matches!(refusal, Refusal::KeyProviderUnavailable { pending: true, .. }), "{refusal}");
    stage.bring_back();
    // Nobody asks for that round; another session's caller is the one whose persist succeeds.
    stage.step_until("the token is back", |status| status.health.admits_work()).await;
    let (_, unrelated) = stage.durable_round("f3-other", 2).await;
    stage.outage().await;
    let served = stage.at_once(&coordinator(), &request).await.unwrap_or_else(|refusal| panic!("{refusal}"));
    assert!(served.position() < unrelated.position());
    stage.heal().await;
    stage.restart();
    let after = stage.at_once(&coordinator(), &request).await.unwrap();
    assert_eq!(durable_part(&served), durable_part(&after));
}

async fn one_sessions_failed_persist_neither_delays_nor_refuses_the_durable_rounds_of_others(kind: Kind) {
    let mut stage = Stage::new(Plan::two_of_three(kind)).await;
    let mut durable = Vec::new();
    for number in 0..4 {
        durable.push(stage.durable_round(&format!("f4-{number}"), number).await);
    }
    let (stuck, _) = stage.round_caught_by_an_outage("f4-stuck", 9).await;
    for _ in 0..2 {
        for (request, reply) in &durable {
            let served = stage.at_once(&coordinator(), request).await;
            let served = served.unwrap_or_else(|refusal| panic!("another session's failure refused it: {refusal}"));
            assert_eq!(durable_part(reply), durable_part(&served));
        }
        let refusal = stage.at_once(&coordinator(), &stuck).await.unwrap_err();
        assert!(matches!(refusal, Refusal::RoundNotDurable { .. }), "{refusal}");
        stage.bench().persister.step();
    }
}

macro_rules! on_both_tokens {
    ($($law:ident => $scripted:ident, $soft:ident;)+) => {
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $scripted() {
                $law(Kind::Scripted).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn $soft() {
                $law(Kind::Soft).await;
            }
        )+
    };
}

on_both_tokens! {
    a_fresh_round_whose_persist_failed_is_never_served_by_its_replay =>
        f1_a_fresh_round_whose_persist_failed_is_never_served_by_its_replay,
        f1_a_fresh_round_whose_persist_failed_is_never_served_by_its_replay_on_softhsm;
    a_round_that_never_became_durable_is_gone_after_a_crash_with_its_nonces =>
        f1_a_round_that_never_became_durable_is_gone_after_a_crash_with_its_nonces,
        f1_a_round_that_never_became_durable_is_gone_after_a_crash_with_its_nonces_on_softhsm;
    a_refused_advance_leaves_the_active_attempt_and_its_durable_round_as_they_were =>
        f2_a_refused_advance_leaves_the_active_attempt_and_its_durable_round_as_they_were,
        f2_a_refused_advance_leaves_the_active_attempt_and_its_durable_round_as_they_were_on_softhsm;
    a_later_unrelated_record_makes_an_earlier_round_durable_and_it_is_served_in_the_next_outage =>
        f3_a_later_unrelated_record_makes_an_earlier_round_durable_and_it_is_served_in_the_next_outage,
        f3_a_later_unrelated_record_makes_an_earlier_round_durable_and_it_is_served_in_the_next_outage_on_softhsm;
    one_sessions_failed_persist_neither_delays_nor_refuses_the_durable_rounds_of_others =>
        f4_one_sessions_failed_persist_neither_delays_nor_refuses_the_durable_rounds_of_others,
        f4_one_sessions_failed_persist_neither_delays_nor_refuses_the_durable_rounds_of_others_on_softhsm;
}
