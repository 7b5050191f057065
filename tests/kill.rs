//! Goal: `kill -9` at any moment loses no share that a client received and makes no nonce sign twice (I1, I6).
//! Method: one node in a process of its own, on SoftHSM, is killed again and again under load, with snapshots as often as
//! they come and a token that is quick or slow. The other side keeps all that it ever received, asks for it again after each start, tries to get second
//! answers, and at the end runs the extractor over everything that was emitted.
//!
//! `FROSTKEEP_KILL_ROUNDS` (rounds received, 200), `FROSTKEEP_KILL_SEED`: see `scripts/soak --help`.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::disallowed_methods
)]
#![allow(clippy::disallowed_types, reason = "the careless signer of the control uses nonces as the crate lets it")]

mod extractor;
mod kit;
mod victim;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use extractor::{Emission, Reuse, extract};
use frost_secp256k1_tr as tr;
use frostkeep::engine::{CommitRequest, Engine};
use frostkeep::frost::{Commitments, GroupKey, SignatureShare, SigningPackage};
use frostkeep::hsm::entropy;
use frostkeep::ids::{KeyGroupId, Member, Message, SessionId};
use kit::{Cluster, Kind, Plan, coordinator, member, session};
use rand_core::RngCore;
use tr::keys::{EvenY, Tweak};
use tr::{Field, Secp256K1ScalarField};
use victim::{Answer, Settings, Victim};

const ROUNDS_MIN: u64 = 200;
const KILLS_MIN: u64 = 20;
const CLIENTS: u64 = 8;
/// Of the rounds that were shown to be there after an earlier start, so many are asked for again.
const SAMPLE: usize = 100;

/// A seeded generator (splitmix64): the choices of a run can be made again.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.roll() % bound
    }
}

/// A request to member 1, and where its other member's commitments come from.
#[derive(Clone)]
struct Asked {
    session: SessionId,
    number: u32,
    package: SigningPackage,
}

#[derive(Clone)]
struct Received {
    asked: Asked,
    /// The durable part of the reply.
    bytes: Vec<u8>,
}

/// All that clients know. Whatever is in here was read whole from the node's pipe.
#[derive(Default)]
struct Ledger {
    received: Vec<Received>,
    /// Requests whose answer did not come.
    unanswered: Vec<Asked>,
    emissions: Vec<Emission>,
}

struct World {
    group: GroupKey,
    key_group: KeyGroupId,
    /// The nodes of members 2 and 3, which stay.
    others: [Engine; 2],
    ledger: Mutex<Ledger>,
    /// Second answers that were refused, as they must be.
    refused: AtomicU64,
    snapshots: AtomicU64,
}

/// The node is gone: this client's life ends with it.
struct Died;

impl World {
    fn other(&self, session: &SessionId, member: Member) -> Commitments {
        let request = CommitRequest { session: session.clone(), key_group: self.key_group, member };
        let engine = &self.others[usize::from(member.number()) - 2];
        engine.commit(&coordinator(), &request).unwrap()
    }

    fn ask(
        &self,
        session: &SessionId,
        number: u32,
        message: Message,
        own: &Commitments,
        other: Member,
    ) -> Option<Asked> {
        let commitments = BTreeMap::from([(member(1), own.clone()), (other, self.other(session, other))]);
        Some(Asked { session: session.clone(), number, package: SigningPackage::new(message, commitments).ok()? })
    }

    /// Sends a request. A round that comes is a share that was emitted, whatever it was asked for.
    fn start(&self, victim: &Victim, asked: &Asked) -> Result<Answer, Died> {
        let answer = victim.start(&asked.session, asked.number, &asked.package).ok_or(Died)?;
        if let Answer::Round { bytes, .. } = &answer {
            let share: [u8; 32] = bytes[66..98].try_into().unwrap();
            self.ledger.lock().unwrap().emissions.push(Emission {
                member: 1,
                package: asked.package.to_bytes(),
                share,
                output_key: self.group.output_key(None),
            });
        }
        Ok(answer)
    }

    /// A fresh request: what was received goes into the ledger. Returns the member's next commitments.
    fn sign(&self, victim: &Victim, asked: Asked) -> Result<Option<Commitments>, Died> {
        match self.start(victim, &asked) {
            Ok(Answer::Round { bytes, next }) => {
                self.keep(asked, bytes);
                Ok(next.map(|next| *next))
            }
            Ok(Answer::Refused(refusal)) => panic!("a fresh request was refused: {refusal}"),
            Err(died) => {
                self.ledger.lock().unwrap().unanswered.push(asked);
                Err(died)
            }
        }
    }

    fn keep(&self, asked: Asked, bytes: Vec<u8>) {
        let share = SignatureShare::from_bytes(&bytes[66..98]).unwrap();
        self.group.verify_share(member(1), &asked.package, &share, None).unwrap();
        self.ledger.lock().unwrap().received.push(Received { asked, bytes });
    }

    /// The round is served again, byte for byte.
    fn served_again(&self, victim: &Victim, received: &Received) -> Result<(), Died> {
        match self.start(victim, &received.asked)? {
            Answer::Round { bytes, .. } => {
                assert!(bytes == received.bytes, "other bytes for a round that was received")
            }
            Answer::Refused(refusal) => panic!(
                "round of session {} attempt {} was received and is refused now: {refusal}",
                received.asked.session, received.asked.number
            ),
        }
        Ok(())
    }

    /// Tries to get a second share out of what `asked` spent: in its own attempt, and with its own commitments elsewhere.
    fn abuse(&self, victim: &Victim, asked: &Asked, answered: bool) -> Result<(), Died> {
        let message = asked.package.message();
        let other = asked.package.members().find(|other| *other != member(1)).unwrap();
        if answered {
            let fresh = victim.commit(&asked.session).ok_or(Died)?;
            let package = self.ask(&asked.session, asked.number, message, &fresh, other).unwrap();
            self.expect(victim, &package, &["attempt_conflict"])?;
        }
        let spent = asked.package.commitments_of(member(1)).unwrap();
        let other = member(5 - other.number());
        let package = self.ask(&asked.session, asked.number + 500, message, spent, other).unwrap();
        self.expect(victim, &package, &["commitments_unknown"])
    }

    fn expect(&self, victim: &Victim, asked: &Asked, reasons: &[&str]) -> Result<(), Died> {
        match self.start(victim, asked)? {
            // Kept as an emission: the extractor tells what it is worth.
            Answer::Round { .. } => eprintln!("a second answer came out in session {}", asked.session),
            Answer::Refused(refusal) => {
                let reason = refusal.split(' ').next().unwrap_or_default();
                assert!(reasons.contains(&reason), "expected {reasons:?}: {refusal}");
                self.refused.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// Sessions without end, until the node dies.
    fn load(&self, victim: &Victim, mut dice: Dice) -> Died {
        loop {
            if let Err(died) = self.one_session(victim, &mut dice) {
                return died;
            }
        }
    }

    fn one_session(&self, victim: &Victim, dice: &mut Dice) -> Result<(), Died> {
        let name = session(&format!("k{:016x}", dice.roll()));
        let mut message = [0; 32];
        message[..8].copy_from_slice(&dice.roll().to_be_bytes());
        let message = Message::new(message);
        let mut own = victim.commit(&name).ok_or(Died)?;
        for number in 1..=1 + dice.below(3) as u32 {
            let asked = self.ask(&name, number, message, &own, member(2 + dice.below(2) as u16)).unwrap();
            let next = self.sign(victim, asked.clone())?;
            if dice.below(3) == 0 {
                let received = self.ledger.lock().unwrap().received.iter().rev().find_map(|one| {
                    (one.asked.session == asked.session && one.asked.number == number).then(|| one.clone())
                });
                self.served_again(victim, &received.unwrap())?;
            }
            if dice.below(4) == 0 {
                self.abuse(victim, &asked, true)?;
            }
            own = match next {
                Some(next) => next,
                None => victim.commit(&name).ok_or(Died)?,
            };
        }
        self.snapshots.fetch_max(victim.snapshots().ok_or(Died)?, Ordering::Relaxed);
        Ok(())
    }

    /// Everything that was received and not yet asked for after a start, a sample of the rest, and what was never answered.
    fn audit(&self, victim: &Victim, shown: usize, dice: &mut Dice) -> Result<(), Died> {
        let (received, unanswered) = {
            let mut ledger = self.ledger.lock().unwrap();
            (ledger.received.clone(), std::mem::take(&mut ledger.unanswered))
        };
        for (index, asked) in unanswered.iter().enumerate() {
            if let Err(died) = self.ask_once_more(victim, asked) {
                self.ledger.lock().unwrap().unanswered.extend_from_slice(&unanswered[index..]);
                return Err(died);
            }
        }
        let (old, new) = received.split_at(shown.min(received.len()));
        let stride = (old.len() / SAMPLE).max(1);
        let first = dice.below(stride as u64) as usize;
        for received in new.iter().chain(old.iter().skip(first).step_by(stride)) {
            self.served_again(victim, received)?;
            if dice.below(4) == 0 {
                self.abuse(victim, &received.asked, true)?;
            }
        }
        Ok(())
    }

    /// A request without an answer: its record was durable and the share comes now, or its nonces died with the process.
    fn ask_once_more(&self, victim: &Victim, asked: &Asked) -> Result<(), Died> {
        match self.start(victim, asked)? {
            Answer::Round { bytes, .. } => {
                self.keep(asked.clone(), bytes);
                self.abuse(victim, asked, true)
            }
            Answer::Refused(refusal) => {
                assert!(refusal.starts_with("commitments_unknown "), "{refusal}");
                self.abuse(victim, asked, false)
            }
        }
    }
}

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

#[test]
fn no_kill_loses_a_share_that_was_received_or_lets_a_nonce_sign_twice() {
    if let Some(settings) = Settings::from_environment() {
        return victim::run(&settings);
    }
    let seed = from_environment("FROSTKEEP_KILL_SEED").unwrap_or_else(|| entropy::os().next_u64());
    let rounds_min = from_environment("FROSTKEEP_KILL_ROUNDS").unwrap_or(ROUNDS_MIN);
    let kills_min = KILLS_MIN.max(rounds_min / 50);
    eprintln!("FROSTKEEP_KILL_SEED={seed}");
    let mut dice = Dice(seed);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut cluster = runtime.block_on(Cluster::new(Plan::two_of_three(Kind::Soft)));
    let mut settings = Settings::of(&cluster.nodes[0], &cluster.key_group);
    cluster.nodes[0].stop();
    let world = World {
        group: cluster.group.clone(),
        key_group: cluster.key_group,
        others: [cluster.nodes[1].engine(), cluster.nodes[2].engine()],
        ledger: Mutex::default(),
        refused: AtomicU64::new(0),
        snapshots: AtomicU64::new(0),
    };

    let (mut kills, mut kills_at_start, mut snapshots, mut shown) = (0, 0, 0, 0);
    let received = || world.ledger.lock().unwrap().received.len() as u64;
    let began = Instant::now();
    while received() < rounds_min || kills < kills_min {
        assert!(began.elapsed() < Duration::from_secs(60 + rounds_min / 2), "the node makes no progress");
        settings.seal_ms = [0, 0, 5, 20][dice.below(4) as usize];
        let victim = Victim::spawn(&settings, "no_kill_loses_a_share_that_was_received_or_lets_a_nonce_sign_twice");
        if dice.below(5) == 0 {
            std::thread::sleep(Duration::from_millis(dice.below(150)));
            kills_at_start += 1;
        } else {
            victim.ready();
            let life = Duration::from_millis(20 + dice.below(300));
            let before = received() as usize;
            let audited = std::thread::scope(|scope| {
                for _ in 0..CLIENTS {
                    let dice = Dice(dice.roll());
                    let (world, victim) = (&world, &victim);
                    scope.spawn(move || world.load(victim, dice));
                }
                let mut dice = Dice(dice.roll());
                let audit = scope.spawn({
                    let (world, victim) = (&world, &victim);
                    move || world.audit(victim, shown, &mut dice).is_ok()
                });
                std::thread::sleep(life);
                victim.kill();
                audit.join().unwrap()
            });
            if audited {
                shown = before;
            }
            snapshots += world.snapshots.swap(0, Ordering::Relaxed);
        }
        victim.kill();
        kills += 1;
    }

    // The last life is left in peace: everything is asked for once more.
    let victim = Victim::spawn(&settings, "no_kill_loses_a_share_that_was_received_or_lets_a_nonce_sign_twice");
    victim.ready();
    assert!(world.audit(&victim, 0, &mut dice).is_ok(), "the node died by itself");
    victim.kill();
    let ledger = world.ledger.into_inner().unwrap();
    let refused = world.refused.into_inner();
    eprintln!(
        "{} rounds received, {kills} kills ({kills_at_start} while it started), {snapshots} snapshots or more, {} shares \
         emitted, {refused} second answers refused, {} s",
        ledger.received.len(),
        ledger.emissions.len(),
        began.elapsed().as_secs()
    );
    assert!(ledger.received.len() as u64 >= rounds_min);
    assert!(snapshots > 0 && kills_at_start > 0 && refused > 0, "the run did not go where it should");
    let reused = extract(&ledger.emissions);
    assert!(reused.is_empty(), "nonces signed twice: {reused:?}");
}

type Nonce = frost_core::round1::Nonce<tr::Secp256K1Sha256TR>;

/// Two members of a dealer's key; member 1 signs with the same nonces as often as it is asked.
struct Careless {
    keys: BTreeMap<tr::Identifier, tr::keys::KeyPackage>,
    output_key: [u8; 32],
}

impl Careless {
    fn new() -> Self {
        let (shares, public) =
            tr::keys::generate_with_dealer(3, 2, tr::keys::IdentifierList::Default, entropy::os()).unwrap();
        let keys = shares.into_iter().map(|(id, share)| (id, tr::keys::KeyPackage::try_from(share).unwrap())).collect();
        let key = public.tweak(None::<&[u8]>).verifying_key().serialize().unwrap();
        Self { keys, output_key: key[1..].try_into().unwrap() }
    }

    fn key(&self, number: u16) -> &tr::keys::KeyPackage {
        &self.keys[&tr::Identifier::try_from(number).unwrap()]
    }

    fn nonces(&self) -> tr::round1::SigningNonces {
        tr::round1::commit(self.key(1).signing_share(), &mut entropy::os()).0
    }

    /// Member 1's share with `nonces` in a package with `other`, whose commitments are new.
    fn emit(&self, nonces: &tr::round1::SigningNonces, other: u16, message: u8) -> Emission {
        let (_, theirs) = tr::round1::commit(self.key(other).signing_share(), &mut entropy::os());
        let commitments = BTreeMap::from([
            (*self.key(1).identifier(), *nonces.commitments()),
            (*self.key(other).identifier(), theirs),
        ]);
        let package = tr::SigningPackage::new(commitments, &[message; 32]);
        let share = tr::round2::sign_with_tweak(&package, nonces, self.key(1), None).unwrap();
        Emission {
            member: 1,
            package: package.serialize().unwrap(),
            share: share.serialize().try_into().unwrap(),
            output_key: self.output_key,
        }
    }

    fn signing_share(&self) -> [u8; 32] {
        let tweaked = self.key(1).clone().tweak(None::<&[u8]>).into_even_y(None);
        tweaked.signing_share().serialize().try_into().unwrap()
    }
}

#[test]
fn the_extractor_finds_the_signing_share_when_nonces_are_used_again() {
    for _ in 0..8 {
        let signer = Careless::new();
        let nonces = signer.nonces();
        let twice = [signer.emit(&nonces, 2, 1), signer.emit(&nonces, 3, 2)];
        assert_eq!(
            extract(&twice),
            [Reuse { shares: 2, signing_share: None }],
            "seen; two equations do not solve three"
        );

        let mut emissions: Vec<Emission> = (0..20).map(|n| signer.emit(&signer.nonces(), 2, n)).collect();
        emissions.extend(twice);
        emissions.push(signer.emit(&nonces, 2, 2));
        assert_eq!(extract(&emissions), [Reuse { shares: 3, signing_share: Some(signer.signing_share()) }]);

        // A pair that comes back negated, or in halves of two pairs, is found as well.
        let (one, two) = (signer.nonces(), signer.nonces());
        let negated = |secret: &Nonce| {
            let scalar = Secp256K1ScalarField::deserialize(&secret.serialize().try_into().unwrap()).unwrap();
            Nonce::deserialize(&Secp256K1ScalarField::serialize(&-scalar)).unwrap()
        };
        let mixed = tr::round1::SigningNonces::from_nonces(negated(one.hiding()), *two.binding());
        let emissions: Vec<Emission> =
            [&one, &two, &mixed, &mixed].into_iter().zip(0..).map(|(nonces, n)| signer.emit(nonces, 2, n)).collect();
        assert_eq!(extract(&emissions)[0].shares, 4);
        let swapped = tr::round1::SigningNonces::from_nonces(*one.binding(), *one.hiding());
        let emissions = [signer.emit(&one, 2, 1), signer.emit(&swapped, 2, 2), signer.emit(&swapped, 3, 3)];
        assert_eq!(extract(&emissions), [Reuse { shares: 3, signing_share: Some(signer.signing_share()) }]);
    }
}

#[test]
fn the_extractor_finds_nothing_where_every_nonce_signs_one_package() {
    let signer = Careless::new();
    let emissions: Vec<Emission> = (0..50).map(|n| signer.emit(&signer.nonces(), 2 + u16::from(n % 2), n)).collect();
    let again: Vec<Emission> = emissions.iter().chain(&emissions).cloned().collect();
    assert_eq!(extract(&again), [], "the same share again is no second one");
}
