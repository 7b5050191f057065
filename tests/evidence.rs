//! Goal: under the policy `evidence` an attempt gives way to proof alone, on every node in the same way. Method: three nodes
//! and one member that the test holds itself, which can lie with its real key.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod kit;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use frostkeep::engine::{Caller, FinalizeRequest, Finish, Refusal, RoundReply, SignRequest, Subject, VoteRequest};
use frostkeep::frost::{Commitments, Nonces, SignatureShare, SigningPackage};
use frostkeep::hsm::clock::ManualClock;
use frostkeep::ids::{AttemptPolicy, Member, MerkleRoot, SessionId};
use frostkeep::limits::ATTEMPT_TIMEOUT_MS;
use frostkeep::reasons::Reason;
use frostkeep::roast::score::Scoring;
use frostkeep::roast::{AttemptContext, Evidence, ShareVerdict, SignedRound, TimeoutVote, Transition};
use kit::outsider::{Outsider, altered};
use kit::{Cluster, any_message, coordinator, durable_part, member, peer, session, subject};

/// Nodes of members 1 to 3, and the liar, member 4.
const LIAR: u16 = 4;

struct Room {
    cluster: Cluster,
    outsider: Outsider,
    clock: ManualClock,
}

impl Room {
    async fn new(scoring: Scoring) -> Self {
        let (mut cluster, outsider) = Cluster::with_outsider(3, 1, 2, AttemptPolicy::Evidence, any_message()).await;
        let clock = ManualClock::default();
        for node in &mut cluster.nodes {
            node.stop();
            node.config.clock = Arc::new(clock.clone());
            node.config.engine.scoring = scoring;
            node.start_open().await;
        }
        Self { cluster, outsider, clock }
    }

    /// A package of `included`: everybody's unspent commitments, and fresh ones of the liar.
    fn package(&self, id: &SessionId, what: &Subject, included: &[Member]) -> (SigningPackage, Option<Nonces>) {
        let mut nonces = None;
        let commitments: BTreeMap<Member, Commitments> = included
            .iter()
            .map(|seat| {
                let commitments = if seat.number() == LIAR {
                    let (secret, public) = self.outsider.commit(*seat);
                    nonces = Some(secret);
                    public
                } else {
                    self.cluster.commit(&self.cluster.engine_of(*seat), id, *seat).unwrap()
                };
                (*seat, commitments)
            })
            .collect();
        (SigningPackage::new(what.message, commitments).unwrap(), nonces)
    }

    fn context(&self, id: &SessionId, what: &Subject, number: u32, included: &[u16]) -> AttemptContext {
        let included: Vec<Member> = included.iter().map(|number| member(*number)).collect();
        self.cluster.context(id, what, number, &included)
    }

    fn request(
        &self,
        id: &SessionId,
        what: &Subject,
        context: &AttemptContext,
        package: &SigningPackage,
        seat: u16,
        evidence: &[Transition],
    ) -> SignRequest {
        SignRequest {
            session: id.clone(),
            key_group: self.cluster.key_group,
            member: member(seat),
            subject: *what,
            context: context.parts(),
            package: package.clone(),
            evidence: evidence.to_vec(),
        }
    }

    /// Asks as the node of the selected member.
    async fn drive(&self, request: &SignRequest, context: &AttemptContext) -> Result<RoundReply, Refusal> {
        let engine = self.cluster.engine_of(request.member);
        engine.start_sign_round(&self.cluster.driver(context), request, RoundReply::clone).await
    }

    async fn vote(
        &self,
        id: &SessionId,
        what: &Subject,
        context: &AttemptContext,
        seat: u16,
        led_by: &[Transition],
    ) -> Result<TimeoutVote, Refusal> {
        let request = VoteRequest {
            session: id.clone(),
            key_group: self.cluster.key_group,
            member: member(seat),
            subject: *what,
            context: context.parts(),
            evidence: led_by.to_vec(),
        };
        self.cluster.engine_of(member(seat)).vote_timeout(&peer(), &request).await
    }

    /// Every node's timer of the attempt runs out, and all who may vote do.
    async fn votes(&self, id: &SessionId, what: &Subject, context: &AttemptContext) -> Vec<TimeoutVote> {
        self.votes_led(id, what, context, &[]).await
    }

    /// The same, where `led_by` leads those who missed attempts.
    async fn votes_led(
        &self,
        id: &SessionId,
        what: &Subject,
        context: &AttemptContext,
        led_by: &[Transition],
    ) -> Vec<TimeoutVote> {
        let voters = || {
            let members = context.included().iter().copied().filter(|seat| *seat != context.coordinator());
            members.map(Member::number).filter(|seat| *seat != LIAR)
        };
        for seat in voters() {
            let _ = self.vote(id, what, context, seat, led_by).await;
        }
        self.clock.advance(Duration::from_millis(ATTEMPT_TIMEOUT_MS));
        let mut votes = Vec::new();
        for seat in voters() {
            votes.push(self.vote(id, what, context, seat, led_by).await.unwrap());
        }
        votes
    }

    fn transcript(&self, seat: u16, id: &SessionId) -> Vec<[u8; 32]> {
        let engine = self.cluster.engine_of(member(seat));
        let view = engine.session(&coordinator(), &self.cluster.session_request(id), |view| view.transcript.clone());
        view.unwrap()
    }

    fn active(&self, seat: u16, id: &SessionId) -> Option<u32> {
        let engine = self.cluster.engine_of(member(seat));
        let view = engine.session(&coordinator(), &self.cluster.session_request(id), |view| view.active);
        view.unwrap().map(|(number, _)| number)
    }
}

fn step(active: &AttemptContext, next: &AttemptContext, excluded: &[u16], evidence: Evidence) -> Transition {
    Transition {
        active_number: active.number(),
        active_id: active.id(),
        active_coordinator: active.coordinator().number(),
        excluded: excluded.to_vec(),
        evidence,
        next: next.parts(),
    }
}

fn timeout(active: &AttemptContext, next: &AttemptContext, votes: &[TimeoutVote]) -> Transition {
    step(active, next, &[], Evidence::CoordinatorTimeout { votes: votes.to_vec() })
}

fn bad_share(active: &AttemptContext, next: &AttemptContext, accused: SignedRound) -> Transition {
    let excluded = [accused.member];
    step(active, next, &excluded, Evidence::InvalidShare { accused: vec![accused] })
}

fn reason<T>(result: Result<T, Refusal>) -> Reason {
    result.err().unwrap().reason()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_votes_for_a_timeout_by_its_own_timer_and_says_how_much_time_is_left() {
    let room = Room::new(Scoring::Off).await;
    let (id, what) = (session("timer"), subject(1));
    let context = room.context(&id, &what, 1, &[1, 2, 3]);
    let silent = context.coordinator().number();
    let voter = [1, 2, 3].into_iter().find(|seat| *seat != silent).unwrap();
    let Err(Refusal::VoteTooEarly { left_ms, number }) = room.vote(&id, &what, &context, voter, &[]).await else {
        panic!()
    };
    assert_eq!((left_ms, number), (ATTEMPT_TIMEOUT_MS, 1));
    room.clock.advance(Duration::from_millis(ATTEMPT_TIMEOUT_MS - 1));
    let Err(Refusal::VoteTooEarly { left_ms, .. }) = room.vote(&id, &what, &context, voter, &[]).await else {
        panic!()
    };
    assert_eq!(left_ms, 1);
    room.clock.advance(Duration::from_millis(1));
    room.vote(&id, &what, &context, voter, &[]).await.unwrap();
    // Its own timer: an attempt that it sees for the first time begins now. Nothing is active here yet.
    let next = room.context(&id, &what, 2, &[1, 2, 3]);
    let seat = [1, 2, 3].into_iter().find(|seat| *seat != next.coordinator().number()).unwrap();
    assert_eq!(reason(room.vote(&id, &what, &next, seat, &[]).await), Reason::VoteTooEarly);

    // Who has no vote: the coordinator, and who is not included.
    assert_eq!(reason(room.vote(&id, &what, &context, silent, &[]).await), Reason::InvalidRequest);
    let without = room.context(&id, &what, 1, &[1, 2]);
    assert_eq!(reason(room.vote(&id, &what, &without, 3, &[]).await), Reason::InvalidRequest);
}

#[tokio::test(flavor = "multi_thread")]
async fn votes_of_the_others_advance_every_node_by_the_same_transition_and_the_old_attempt_gives_way() {
    let room = Room::new(Scoring::Off).await;
    let (id, what) = (session("votes"), subject(2));
    let included = [1, 2, 3].map(member);
    let (package, _) = room.package(&id, &what, &included);
    let one = room.context(&id, &what, 1, &[1, 2, 3]);
    let mut first = Vec::new();
    for seat in 1..=3 {
        first.push(room.drive(&room.request(&id, &what, &one, &package, seat, &[]), &one).await.unwrap());
    }
    let votes = room.votes(&id, &what, &one).await;
    let two = room.context(&id, &what, 2, &[1, 2, 3]);
    let (next, _) = room.package(&id, &what, &included);
    let evidence = [timeout(&one, &two, &votes)];
    for seat in 1..=3 {
        assert_eq!(room.active(seat, &id), Some(1));
        room.drive(&room.request(&id, &what, &two, &next, seat, &evidence), &two).await.unwrap();
        assert_eq!(room.active(seat, &id), Some(2));
        let stale = room.drive(&room.request(&id, &what, &one, &package, seat, &[]), &one).await;
        assert_eq!(reason(stale), Reason::AttemptStale, "the old attempt has given way");
    }
    let hashes: Vec<_> = (1..=3).map(|seat| room.transcript(seat, &id)).collect();
    assert_eq!(hashes[0].len(), 1);
    assert!(hashes.iter().all(|transcript| *transcript == hashes[0]), "the same on every node (trap 16)");

    // A step over what the evidence reaches, another context of the same number, and a repeat without evidence.
    let four = room.context(&id, &what, 4, &[1, 2, 3]);
    let future = room.drive(&room.request(&id, &what, &four, &next, 1, &[]), &four).await;
    assert_eq!(reason(future), Reason::AttemptFuture);
    let smaller = room.context(&id, &what, 2, &[1, 2]);
    let conflict = room.drive(&room.request(&id, &what, &smaller, &next, 1, &[]), &smaller).await;
    assert_eq!(reason(conflict), Reason::AttemptConflict);
    room.drive(&room.request(&id, &what, &two, &next, 1, &[]), &two).await.unwrap();
    let (third, _) = room.package(&id, &what, &included);
    let three = room.context(&id, &what, 3, &[1, 2, 3]);
    let bare = room.drive(&room.request(&id, &what, &three, &third, 1, &[]), &three).await;
    assert_eq!(reason(bare), Reason::AttemptTransitionUnauthorized);
}

/// The liar's answer to `context`: really signed, by its own identity, and really wrong.
fn lie(
    room: &Room,
    id: &SessionId,
    what: &Subject,
    context: &AttemptContext,
    package: &SigningPackage,
    nonces: Nonces,
) -> SignedRound {
    let good = room.outsider.sign(member(LIAR), nonces, &room.cluster.group, package, what).to_bytes();
    room.outsider.says(&room.cluster, id, what, context, package, member(LIAR), &altered(&good))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_really_bad_share_with_its_members_signature_advances_and_excludes_it() {
    let room = Room::new(Scoring::Off).await;
    let what = Subject { root: Some(MerkleRoot::new([9; 32])), ..subject(3) };
    let id = session("lie");
    let (package, nonces) = room.package(&id, &what, &[1, 2, 4].map(member));
    let one = room.context(&id, &what, 1, &[1, 2, 4]);
    for seat in [1, 2] {
        room.drive(&room.request(&id, &what, &one, &package, seat, &[]), &one).await.unwrap();
    }
    let accused = lie(&room, &id, &what, &one, &package, nonces.unwrap());
    let engine = room.cluster.engine_of(member(1));
    let verdict = engine.verify_signature_share(&coordinator(), &room.cluster.key_group, &id, &what, &accused);
    assert_eq!(verdict.unwrap(), ShareVerdict::Invalid);

    let two = room.context(&id, &what, 2, &[1, 2, 3]);
    let (next, _) = room.package(&id, &what, &[1, 2, 3].map(member));
    let evidence = [bad_share(&one, &two, accused.clone())];
    for seat in 1..=2 {
        room.drive(&room.request(&id, &what, &two, &next, seat, &evidence), &two).await.unwrap();
    }
    // Member 3 comes to the session at number 2: there is nothing to leave, and a session may begin at any number.
    room.drive(&room.request(&id, &what, &two, &next, 3, &[]), &two).await.unwrap();
    assert_eq!(room.transcript(1, &id), room.transcript(2, &id));
    assert!(room.transcript(3, &id).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_missed_attempts_is_led_through_a_chain_of_evidence() {
    let room = Room::new(Scoring::Off).await;
    let (id, what) = (session("chain"), subject(4));
    let included = [1, 2, 3].map(member);
    let (package, _) = room.package(&id, &what, &included);
    let contexts: Vec<AttemptContext> = (1..=3).map(|number| room.context(&id, &what, number, &[1, 2, 3])).collect();
    for seat in 1..=3 {
        room.drive(&room.request(&id, &what, &contexts[0], &package, seat, &[]), &contexts[0]).await.unwrap();
    }
    // Nodes 1 and 2 take every step; node 3 sleeps.
    let mut chain = Vec::new();
    for pair in contexts.windows(2) {
        let votes = room.votes_led(&id, &what, &pair[0], &chain).await;
        chain.push(timeout(&pair[0], &pair[1], &votes));
        let (next, _) = room.package(&id, &what, &included);
        for seat in 1..=2 {
            let last = std::slice::from_ref(chain.last().unwrap());
            room.drive(&room.request(&id, &what, &pair[1], &next, seat, last), &pair[1]).await.unwrap();
        }
        assert_eq!(room.active(3, &id), Some(1));
    }
    let (next, _) = room.package(&id, &what, &included);
    let three = &contexts[2];
    // Broken chains first: the wrong order, a step left out, one too many. Nothing gives way.
    let reply = room.drive(&room.request(&id, &what, &contexts[0], &package, 3, &[]), &contexts[0]).await.unwrap();
    for (broken, why) in [
        (vec![chain[1].clone(), chain[0].clone()], Reason::AttemptTransitionUnauthorized),
        (vec![chain[0].clone()], Reason::AttemptFuture),
        (vec![chain[1].clone()], Reason::AttemptFuture),
        (vec![chain[0].clone(), chain[0].clone()], Reason::AttemptTransitionUnauthorized),
    ] {
        let refused = room.drive(&room.request(&id, &what, three, &next, 3, &broken), three).await;
        assert_eq!(reason(refused), why);
        let again = room.drive(&room.request(&id, &what, &contexts[0], &package, 3, &[]), &contexts[0]).await.unwrap();
        assert_eq!(durable_part(&again), durable_part(&reply));
    }
    room.drive(&room.request(&id, &what, three, &next, 3, &chain), three).await.unwrap();
    assert_eq!(room.active(3, &id), Some(3));
    assert_eq!(room.transcript(3, &id), room.transcript(1, &id), "the same steps, the same hashes");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_node_of_the_selected_member_may_ask_for_a_round() {
    let room = Room::new(Scoring::Off).await;
    let (id, what) = (session("driver"), subject(5));
    let (package, _) = room.package(&id, &what, &[1, 2, 3].map(member));
    let one = room.context(&id, &what, 1, &[1, 2, 3]);
    let request = room.request(&id, &what, &one, &package, 1, &[]);
    let engine = room.cluster.engine_of(member(1));
    let seats = room.cluster.confirmed.certificate().seats().clone();
    let mut others: Vec<Caller> = seats
        .iter()
        .filter(|(seat, _)| **seat != one.coordinator())
        .map(|(_, identity)| kit::coordinator_as(*identity))
        .collect();
    others.push(coordinator());
    for caller in others {
        let refused = engine.start_sign_round(&caller, &request, RoundReply::clone).await;
        assert_eq!(reason(refused), Reason::PermissionDenied, "{caller:?}");
    }
    room.drive(&request, &one).await.unwrap();
    // The same holds for the round once it is durable.
    let refused = engine.start_sign_round(&coordinator(), &request, RoundReply::clone).await;
    assert_eq!(reason(refused), Reason::PermissionDenied);
}

#[tokio::test(flavor = "multi_thread")]
async fn i3_an_advance_that_fails_any_check_leaves_the_active_attempt_served() {
    let room = Room::new(Scoring::Off).await;
    let (id, what) = (session("i3"), subject(6));
    let (package, nonces) = room.package(&id, &what, &[1, 2, 4].map(member));
    let one = room.context(&id, &what, 1, &[1, 2, 4]);
    let first = room.request(&id, &what, &one, &package, 1, &[]);
    let served = room.drive(&first, &one).await.unwrap();
    room.drive(&room.request(&id, &what, &one, &package, 2, &[]), &one).await.unwrap();
    let good = room.outsider.sign(member(LIAR), nonces.unwrap(), &room.cluster.group, &package, &what).to_bytes();
    let says = |share: &[u8; 32]| room.outsider.says(&room.cluster, &id, &what, &one, &package, member(LIAR), share);
    let (honest, accused) = (says(&good), says(&altered(&good)));

    let two = room.context(&id, &what, 2, &[1, 2, 3]);
    let with_liar = room.context(&id, &what, 2, &[1, 2, 4]);
    let (next, _) = room.package(&id, &what, &[1, 2, 3].map(member));
    let proof = bad_share(&one, &two, accused.clone());
    let unsigned = SignedRound { round_signature: vec![0; 64], ..accused.clone() };
    let forged = SignedRound { member: 2, ..accused.clone() };
    let relabelled = SignedRound { attempt: two.parts(), ..accused.clone() };
    let cut = SignedRound { package: accused.package[..accused.package.len() - 1].to_vec(), ..accused.clone() };
    let nobody = step(&one, &two, &[LIAR], Evidence::InvalidShare { accused: vec![] });
    let mut other_active = proof.clone();
    other_active.active_coordinator ^= 1;
    let mut kept = proof.clone();
    kept.excluded.clear();
    let mut innocent = proof.clone();
    innocent.excluded = vec![2, LIAR];
    let votes_of_nobody = step(&one, &two, &[], Evidence::CoordinatorTimeout { votes: vec![] });
    let forged_vote = TimeoutVote { voter: 2, signature: vec![7; 64] };

    let unauthorised = Reason::AttemptTransitionUnauthorized;
    let bare = |evidence: Vec<Transition>| room.request(&id, &what, &two, &next, 1, &evidence);
    let mut wrong: Vec<(&str, SignRequest, &AttemptContext, Reason)> = vec![
        ("no evidence", bare(vec![]), &two, unauthorised),
        ("an honest share is accused", bare(vec![bad_share(&one, &two, honest)]), &two, unauthorised),
        ("without the member's signature", bare(vec![bad_share(&one, &two, unsigned)]), &two, unauthorised),
        ("another member's name", bare(vec![bad_share(&one, &two, forged)]), &two, unauthorised),
        ("a round of another attempt", bare(vec![bad_share(&one, &two, relabelled)]), &two, unauthorised),
        ("a package that does not decode", bare(vec![bad_share(&one, &two, cut)]), &two, unauthorised),
        ("nobody is accused", bare(vec![nobody]), &two, unauthorised),
        ("another active attempt", bare(vec![other_active]), &two, unauthorised),
        ("the accused stays", bare(vec![kept]), &two, unauthorised),
        ("an innocent member is excluded", bare(vec![innocent]), &two, unauthorised),
        ("no votes", bare(vec![votes_of_nobody]), &two, unauthorised),
        ("a forged vote", bare(vec![timeout(&one, &two, &[forged_vote])]), &two, unauthorised),
        (
            "the accused is in the next attempt",
            room.request(&id, &what, &with_liar, &next, 1, &[bad_share(&one, &with_liar, accused.clone())]),
            &with_liar,
            unauthorised,
        ),
    ];
    // With proof that holds, every later check can still fail.
    let other_message = SigningPackage::new(
        subject(7).message,
        next.members().map(|seat| (seat, next.commitments_of(seat).unwrap().clone())).collect(),
    )
    .unwrap();
    let (foreign, _) = room.package(&session("foreign"), &what, &[1, 2, 3].map(member));
    let (too_few, _) = room.package(&id, &what, &[1, 2].map(member));
    let with = |package: &SigningPackage| room.request(&id, &what, &two, package, 1, std::slice::from_ref(&proof));
    wrong.extend([
        ("another message in the package", with(&other_message), &two, Reason::PackageInvalid),
        ("other members in the package", with(&too_few), &two, Reason::PackageInvalid),
        ("commitments of another session", with(&foreign), &two, Reason::CommitmentsUnknown),
    ]);
    let position = room.cluster.engine_of(member(1)).status().durable;
    for (case, request, context, expected) in wrong {
        assert_eq!(reason(room.drive(&request, context).await), expected, "{case}");
        let again = room.drive(&first, &one).await.unwrap();
        assert_eq!(durable_part(&again), durable_part(&served), "{case}: the active attempt is served as before");
        assert_eq!(room.active(1, &id), Some(1), "{case}");
    }
    assert_eq!(room.cluster.engine_of(member(1)).status().durable, position, "nothing was recorded");
    // And the advance that is right still goes through with the pair that no refusal has spent.
    room.drive(&with(&next), &two).await.unwrap();
    assert_eq!(room.active(1, &id), Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_proved_bad_shares_quarantine_a_member_and_the_cached_serve_checks_it_too() {
    let mut room = Room::new(Scoring::On).await;
    let what = subject(8);
    // A durable round of an attempt that includes the liar, before it is quarantined.
    let old = session("before");
    let (package, _) = room.package(&old, &what, &[1, 2, 4].map(member));
    let context = room.context(&old, &what, 1, &[1, 2, 4]);
    let request = room.request(&old, &what, &context, &package, 1, &[]);
    room.drive(&request, &context).await.unwrap();
    for number in 0..2 {
        let id = session(&format!("fault-{number}"));
        room.drive(&request, &context).await.unwrap();
        let (package, nonces) = room.package(&id, &what, &[1, 2, 4].map(member));
        let one = room.context(&id, &what, 1, &[1, 2, 4]);
        room.drive(&room.request(&id, &what, &one, &package, 1, &[]), &one).await.unwrap();
        let accused = lie(&room, &id, &what, &one, &package, nonces.unwrap());
        let two = room.context(&id, &what, 2, &[1, 2, 3]);
        let (next, _) = room.package(&id, &what, &[1, 2, 3].map(member));
        let evidence = [bad_share(&one, &two, accused)];
        room.drive(&room.request(&id, &what, &two, &next, 1, &evidence), &two).await.unwrap();
    }
    for restarted in [false, true] {
        if restarted {
            room.cluster.nodes[0].stop();
            room.cluster.nodes[0].start_open().await;
        }
        let cached = room.drive(&request, &context).await;
        assert_eq!(reason(cached), Reason::Quarantined, "trap 7: restarted {restarted}");
        let rounds =
            room.cluster
                .engine_of(member(1))
                .session(&coordinator(), &room.cluster.session_request(&old), |view| view.rounds.len());
        assert_eq!(rounds.unwrap(), 0, "GetSession shows none of its rounds either");
        let id = session(&format!("after-{restarted}"));
        let (package, _) = room.package(&id, &what, &[1, 2, 4].map(member));
        let one = room.context(&id, &what, 1, &[1, 2, 4]);
        let fresh = room.drive(&room.request(&id, &what, &one, &package, 1, &[]), &one).await;
        assert_eq!(reason(fresh), Reason::Quarantined);
        let (package, _) = room.package(&id, &what, &[1, 2, 3].map(member));
        let without = room.context(&id, &what, 1, &[1, 2, 3]);
        room.drive(&room.request(&id, &what, &without, &package, 1, &[]), &without).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn timeouts_alone_never_quarantine_a_coordinator() {
    let room = Room::new(Scoring::On).await;
    let (id, what) = (session("slow"), subject(9));
    let included = [1, 2, 3].map(member);
    for number in 1..=12 {
        let context = room.context(&id, &what, number, &[1, 2, 3]);
        let evidence: Vec<Transition> = match number {
            1 => vec![],
            _ => {
                let before = room.context(&id, &what, number - 1, &[1, 2, 3]);
                let votes = room.votes(&id, &what, &before).await;
                assert_eq!(votes.len(), 2, "as many as the threshold: they count");
                vec![timeout(&before, &context, &votes)]
            }
        };
        let (package, _) = room.package(&id, &what, &included);
        for seat in 1..=3 {
            let request = room.request(&id, &what, &context, &package, seat, &evidence);
            room.drive(&request, &context).await.unwrap();
        }
    }
    assert_eq!(room.transcript(1, &id).len(), 11);
    assert_eq!(room.transcript(1, &id), room.transcript(2, &id));
    assert_eq!(room.transcript(1, &id), room.transcript(3, &id));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_proof_nobody_is_named_and_with_it_every_culprit_is() {
    let room = Room::new(Scoring::On).await;
    let (id, what) = (session("blame"), subject(10));
    let (package, nonces) = room.package(&id, &what, &[1, 2, 4].map(member));
    let one = room.context(&id, &what, 1, &[1, 2, 4]);
    let mut shares = Vec::new();
    for seat in [1, 2] {
        let reply = room.drive(&room.request(&id, &what, &one, &package, seat, &[]), &one).await.unwrap();
        shares.push(kit::submitted(&reply));
    }
    let accused = lie(&room, &id, &what, &one, &package, nonces.unwrap());
    let mut lied = shares[0].clone();
    lied.member = member(LIAR);
    lied.share = SignatureShare::from_bytes(&accused.share).unwrap();
    lied.round_signature = Some(<[u8; 64]>::try_from(accused.round_signature.as_slice()).unwrap());
    // An honest share altered by whoever submits it: its member has not signed that.
    let mut framed = shares[1].clone();
    // By another amount than the lie: two faults that cancel out would make a good signature.
    let mut other = framed.share.to_bytes();
    other[30] ^= 1;
    framed.share = SignatureShare::from_bytes(&other).unwrap();
    let mut unsigned = lied.clone();
    unsigned.round_signature = None;

    let engine = room.cluster.engine_of(member(1));
    for (shares, culprits, indeterminate) in [
        (vec![shares[0].clone(), shares[1].clone(), lied.clone()], vec![4], vec![]),
        (vec![shares[0].clone(), shares[1].clone(), unsigned], vec![], vec![4]),
        (vec![shares[0].clone(), framed, lied], vec![4], vec![2]),
    ] {
        let request = FinalizeRequest {
            session: id.clone(),
            key_group: room.cluster.key_group,
            subject: what,
            finish: Finish::Shares { attempt: one.id(), shares },
        };
        let refusal = engine.finalize_sign_round(&coordinator(), &request).await.unwrap_err();
        assert_eq!(refusal.reason(), Reason::SharesInvalid);
        let Refusal::SharesInvalid { culprits: named, indeterminate: open } = refusal else { panic!("{refusal}") };
        let numbers = |members: Vec<Member>| members.into_iter().map(Member::number).collect::<Vec<_>>();
        assert_eq!((numbers(named), numbers(open)), (culprits, indeterminate));
    }
    // The session is open as before, and nobody's score has changed.
    assert_eq!(room.active(1, &id), Some(1));
    room.drive(&room.request(&id, &what, &one, &package, 1, &[]), &one).await.unwrap();
}

/// Nothing but its own blame makes the advance fail, so the blame is counted before anything gives way.
#[tokio::test(flavor = "multi_thread")]
async fn i3_an_advance_whose_own_blame_quarantines_an_included_member_leaves_the_attempt_as_it_was() {
    let room = Room::new(Scoring::On).await;
    let included = [1, 2, LIAR].map(member);
    // The liar has one proved bad share: two points.
    let (id, what) = (session("bad-share"), subject(70));
    let (package, nonces) = room.package(&id, &what, &included);
    let first = room.context(&id, &what, 1, &[1, 2, LIAR]);
    room.drive(&room.request(&id, &what, &first, &package, 1, &[]), &first).await.unwrap();
    let accused = lie(&room, &id, &what, &first, &package, nonces.unwrap());
    let second = room.context(&id, &what, 2, &[1, 2]);
    let (two, _) = room.package(&id, &what, &[1, 2].map(member));
    let proof = [bad_share(&first, &second, accused)];
    room.drive(&room.request(&id, &what, &second, &two, 1, &proof), &second).await.unwrap();
    // Another session, whose first attempt the liar coordinates and lets time out: one more point.
    let (id, first) = (0..1_000)
        .map(|number| session(&format!("silent-{number}")))
        .map(|id| (id.clone(), room.context(&id, &subject(71), 1, &[1, 2, LIAR])))
        .find(|(_, context)| context.coordinator() == member(LIAR))
        .unwrap();
    let what = subject(71);
    let (package, _) = room.package(&id, &what, &included);
    let sign = room.request(&id, &what, &first, &package, 1, &[]);
    let served = room.drive(&sign, &first).await.unwrap();
    let votes = room.votes(&id, &what, &first).await;
    let next = room.context(&id, &what, 2, &[1, 2, LIAR]);
    let step = timeout(&first, &next, &votes);
    let (package, _) = room.package(&id, &what, &included);
    let refused = room.drive(&room.request(&id, &what, &next, &package, 1, &[step]), &next).await;
    assert_eq!(reason(refused), Reason::Quarantined);
    assert_eq!(room.active(1, &id), Some(1));
    assert_eq!(durable_part(&room.drive(&sign, &first).await.unwrap()), durable_part(&served));
}

/// Whoever could start the timer of an attempt that nothing authorises could have its coordinator blamed at once.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_votes_against_an_attempt_that_nothing_authorises() {
    let room = Room::new(Scoring::Off).await;
    let (id, what) = (session("early"), subject(72));
    let included = [1, 2, 3].map(member);
    let (package, _) = room.package(&id, &what, &included);
    let first = room.context(&id, &what, 1, &[1, 2, 3]);
    for seat in 1..=3 {
        room.drive(&room.request(&id, &what, &first, &package, seat, &[]), &first).await.unwrap();
    }
    let next = room.context(&id, &what, 2, &[1, 2, 3]);
    let voter =
        |context: &AttemptContext| *context.included().iter().find(|seat| **seat != context.coordinator()).unwrap();
    let early = room.vote(&id, &what, &next, voter(&next).number(), &[]).await;
    assert_eq!(reason(early), Reason::AttemptTransitionUnauthorized);
    let votes = room.votes(&id, &what, &first).await;
    let step = [timeout(&first, &next, &votes)];
    // The timer of the next attempt starts now, not when somebody named it.
    let now = room.vote(&id, &what, &next, voter(&next).number(), &step).await;
    assert!(matches!(now, Err(Refusal::VoteTooEarly { number: 2, left_ms: ATTEMPT_TIMEOUT_MS })), "{now:?}");
    let stale = room.vote(&id, &what, &first, voter(&first).number(), &[]).await;
    assert!(stale.is_ok(), "attempt 1 is still the active one");
}
