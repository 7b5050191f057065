//! I6: a nonce pair signs at most one package.

use std::collections::BTreeMap;

use frostkeep::engine::{Refusal, SignRequest};
use frostkeep::frost::{Commitments, SigningPackage};
use frostkeep::ids::Member;

use crate::kit::{Kind, Plan, coordinator, durable_part, member, session, subject};
use crate::stage::Stage;

/// What makes a request bad.
type Change = Box<dyn Fn(&mut SignRequest)>;

/// `package` with one member more, who takes `other`'s place.
fn with_other(package: &SigningPackage, other: Member, commitments: Commitments) -> SigningPackage {
    let mine = package.commitments_of(member(1)).unwrap().clone();
    SigningPackage::new(package.message(), BTreeMap::from([(member(1), mine), (other, commitments)])).unwrap()
}

fn current_of(refusal: Refusal) -> Commitments {
    match refusal {
        Refusal::CommitmentsUnknown { current: Some(current), .. } => *current,
        other => panic!("{other}"),
    }
}

async fn two_packages_with_the_same_commitments_get_one_share(kind: Kind) {
    let mut stage = Stage::new(Plan::two_of_three(kind)).await;
    let request = stage.opening_request("i6", 1);
    let third = stage.cluster.commit(&stage.cluster.engine_of(member(3)), &request.session, member(3)).unwrap();
    let package = with_other(&request.package, member(3), third);
    let other = stage.cluster.request(&request.session, &request.subject, 1, &package, member(1));
    let later = stage.cluster.request(&request.session, &request.subject, 2, &request.package, member(1));
    let spent = request.package.commitments_of(member(1)).unwrap().clone();

    // Both at once, and the same again under the next number: one of them gets a share.
    let tasks: Vec<_> = [&request, &other, &later].map(|one| stage.ask(&coordinator(), one)).into_iter().collect();
    let mut answers = Vec::new();
    for task in tasks {
        answers.push(stage.finish(task).await);
    }
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 1);
    for refusal in answers.into_iter().filter_map(Result::err) {
        match refusal {
            Refusal::CommitmentsUnknown { current, .. } => assert_ne!(current.as_deref(), Some(&spent)),
            other => panic!("{other}"),
        }
    }
    // Nor ever after, whoever asks and whatever is restarted meanwhile.
    for _ in 0..2 {
        let mut served = 0;
        for one in [&request, &other, &later] {
            match stage.answer(&coordinator(), one).await {
                Ok(_) => served += 1,
                Err(Refusal::CommitmentsUnknown { current, .. }) => assert_ne!(current.as_deref(), Some(&spent)),
                Err(other) => panic!("{other}"),
            }
        }
        assert_eq!(served, 1);
        stage.restart();
    }
}

async fn after_a_restart_unspent_commitments_are_unknown_and_a_new_pair_is_offered(kind: Kind) {
    let mut stage = Stage::new(Plan::two_of_three(kind)).await;
    let request = stage.opening_request("i6-restart", 1);
    stage.restart();
    let refusal = stage.at_once(&coordinator(), &request).await.unwrap_err();
    let fresh = current_of(refusal);
    assert_ne!(Some(&fresh), request.package.commitments_of(member(1)));
    let second = request.package.commitments_of(member(2)).unwrap().clone();
    let package =
        SigningPackage::new(request.subject.message, BTreeMap::from([(member(1), fresh), (member(2), second)]));
    let request = stage.cluster.request(&request.session, &request.subject, 1, &package.unwrap(), member(1));
    stage.answer(&coordinator(), &request).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn i6_two_packages_with_the_same_commitments_get_one_share() {
    two_packages_with_the_same_commitments_get_one_share(Kind::Scripted).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i6_two_packages_with_the_same_commitments_get_one_share_on_softhsm() {
    two_packages_with_the_same_commitments_get_one_share(Kind::Soft).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i6_after_a_restart_unspent_commitments_are_unknown_and_a_new_pair_is_offered() {
    after_a_restart_unspent_commitments_are_unknown_and_a_new_pair_is_offered(Kind::Scripted).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i6_after_a_restart_unspent_commitments_are_unknown_and_a_new_pair_is_offered_on_softhsm() {
    after_a_restart_unspent_commitments_are_unknown_and_a_new_pair_is_offered(Kind::Soft).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i6_a_refusal_never_replaces_a_pair_and_a_bad_package_never_burns_one() {
    let mut stage = Stage::new(Plan::two_of_three(Kind::Scripted)).await;
    let request = stage.opening_request("i6-bad", 1);
    let mine = request.package.commitments_of(member(1)).unwrap().clone();
    let theirs = request.package.commitments_of(member(2)).unwrap().clone();
    let elsewhere = stage.opening_request("i6-elsewhere", 2);
    let refusals: [(&str, Change); 5] = [
        ("another session's commitments", {
            let foreign = elsewhere.package.commitments_of(member(1)).unwrap().clone();
            let parts = BTreeMap::from([(member(1), foreign), (member(2), theirs.clone())]);
            let package = SigningPackage::new(request.subject.message, parts).unwrap();
            Box::new(move |bad| bad.package = package.clone())
        }),
        ("a package of another message", {
            let parts = BTreeMap::from([(member(1), mine.clone()), (member(2), theirs.clone())]);
            let package = SigningPackage::new(subject(77).message, parts).unwrap();
            Box::new(move |bad| bad.package = package.clone())
        }),
        ("a package below the threshold", {
            let parts = BTreeMap::from([(member(1), mine.clone())]);
            let package = SigningPackage::new(request.subject.message, parts).unwrap();
            Box::new(move |bad| bad.package = package.clone())
        }),
        ("a package of another set", {
            let parts = BTreeMap::from([(member(1), mine.clone()), (member(3), theirs.clone())]);
            let package = SigningPackage::new(request.subject.message, parts).unwrap();
            Box::new(move |bad| bad.package = package.clone())
        }),
        ("a malformed context", Box::new(|bad| bad.context.included_fingerprint[3] ^= 1)),
    ];
    for (label, change) in &refusals {
        let mut bad = request.clone();
        change(&mut bad);
        let refusal = stage.at_once(&coordinator(), &bad).await.unwrap_err();
        if let Refusal::CommitmentsUnknown { current, .. } = &refusal {
            assert_eq!(current.as_deref(), Some(&mine), "{label}");
        }
        let current = stage.cluster.commit(stage.engine(), &request.session, member(1)).unwrap();
        assert_eq!(current, mine, "{label} cost the member its pair: {refusal}");
    }
    stage.outage().await;
    let refusal = stage.at_once(&coordinator(), &request).await.unwrap_err();
    assert!(matches!(refusal, Refusal::KeyProviderUnavailable { pending: false, .. }), "{refusal}");
    assert_eq!(stage.cluster.commit(stage.engine(), &request.session, member(1)).unwrap(), mine);
    stage.heal().await;
    stage.answer(&coordinator(), &request).await.unwrap();
}

/// Trap 10: markers per attempt instead of per member refused the second local seat and wiped its nonces.
#[tokio::test(flavor = "multi_thread")]
async fn i6_two_seats_of_one_node_answer_the_same_attempt_each_with_its_own_pair() {
    let plan = Plan { seats: vec![2, 1], ..Plan::two_of_three(Kind::Scripted) };
    let mut stage = Stage::new(plan).await;
    let (name, what) = (session("i6-seats"), subject(3));
    let package = stage.package(&name, &what, &[member(1), member(2)]);
    let requests = [1, 2].map(|seat| stage.cluster.request(&name, &what, 1, &package, member(seat)));
    let mut replies = Vec::new();
    for request in &requests {
        replies.push(stage.answer(&coordinator(), request).await.unwrap());
    }
    assert_ne!(replies[0].share(), replies[1].share());
    for (reply, request) in replies.iter().zip(&requests) {
        let share = crate::kit::submitted(reply).share;
        stage.cluster.group.verify_share(reply.member(), &package, &share, None).unwrap();
        let again = stage.at_once(&coordinator(), request).await.unwrap();
        assert_eq!(durable_part(reply), durable_part(&again));
    }
    stage.restart();
    for (reply, request) in replies.iter().zip(&requests) {
        let again = stage.at_once(&coordinator(), request).await.unwrap();
        assert_eq!(durable_part(reply), durable_part(&again));
    }
}
