//! A small world for coordinators: members with real FROST shares, honest ones that crash and liars, behind a network that
//! delays, repeats, drops and reorders. One seed, one run.
#![allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test support: each test binary uses a part of it"
)]

pub mod member;
pub mod network;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock};

use frostkeep::coordinator::Setting;
use frostkeep::engine::Subject;
use frostkeep::frost::{GroupKey, KeyShare};
use frostkeep::identity::{IdentityKey, NodeIdentity};
use frostkeep::ids::{AttemptPolicy, CeremonyId, Member, Message, SessionId};
use frostkeep::keygen::{self, Certificate, Parameters};
use frostkeep::policy::SigningPolicy;
use rand_core::{CryptoRng, RngCore};

/// The domain under which an identity signs a round's hash, as the wire has it.
pub const SIGNED_HASH_DOMAIN: &str = "frostkeep/signed-hash/v1";

/// SplitMix64: one seed, one run. Good enough for nonces that nobody attacks.
#[derive(Clone)]
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.roll() % bound
    }

    /// True once in `times`.
    pub fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for index in (1..items.len()).rev() {
            items.swap(index, self.below(index as u64 + 1) as usize);
        }
    }
}

impl RngCore for Dice {
    fn next_u32(&mut self) -> u32 {
        self.roll() as u32
    }
    fn next_u64(&mut self) -> u64 {
        self.roll()
    }
    fn fill_bytes(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let word = self.roll().to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }
    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), rand_core::Error> {
        self.fill_bytes(bytes);
        Ok(())
    }
}

impl CryptoRng for Dice {}

/// A key group whose secrets all lie open, made without a dealer.
pub struct Group {
    pub key: GroupKey,
    pub shares: BTreeMap<Member, KeyShare>,
    pub identities: BTreeMap<Member, Arc<NodeIdentity>>,
}

impl Group {
    /// The group of this size; made once a process.
    pub fn of(threshold: u16, members: u16) -> Arc<Group> {
        type Groups = BTreeMap<(u16, u16), Arc<Group>>;
        static GROUPS: OnceLock<Mutex<Groups>> = OnceLock::new();
        let mut groups = GROUPS.get_or_init(Mutex::default).lock().unwrap();
        Arc::clone(groups.entry((threshold, members)).or_insert_with(|| Arc::new(Self::generate(threshold, members))))
    }

    fn generate(threshold: u16, members: u16) -> Self {
        let mut dice = Dice(u64::from(threshold) << 16 | u64::from(members));
        let identities: BTreeMap<Member, Arc<NodeIdentity>> = (1..=members)
            .map(|number| (Member::new(number).unwrap(), Arc::new(NodeIdentity::generate(&mut dice))))
            .collect();
        let holders: BTreeMap<Member, IdentityKey> =
            identities.iter().map(|(member, identity)| (*member, identity.public())).collect();
        let policy = SigningPolicy::standard().hash().unwrap();
        let ceremony = CeremonyId::new([7; 16]);
        let parameters = Parameters::new(ceremony, threshold, holders, AttemptPolicy::Roast, policy).unwrap();
        let (mut stages, mut messages) = (Vec::new(), Vec::new());
        for identity in identities.values() {
            let (stage, sent) = keygen::begin(parameters.clone(), Arc::clone(identity), &mut dice).unwrap();
            stages.push(stage);
            messages.extend(sent);
        }
        let (mut next, mut second) = (Vec::new(), Vec::new());
        for mut stage in stages {
            for message in &messages {
                stage.receive(&message.to_bytes()).unwrap();
            }
            let (stage, sent) = stage.advance(&mut dice).unwrap();
            next.push(stage);
            second.extend(sent);
        }
        let mut prepared = Vec::new();
        for mut stage in next {
            for message in &second {
                stage.receive(&message.to_bytes()).unwrap();
            }
            prepared.push(stage.finish().unwrap());
        }
        let statements: Vec<_> = prepared.iter().map(|one| *one.statement()).collect();
        let certificate = Certificate::new(prepared[0].transcript().clone(), statements).unwrap();
        let mut shares = BTreeMap::new();
        for one in prepared {
            for share in one.activate(&certificate).map_err(|(_, error)| error).unwrap() {
                shares.insert(share.member(), share);
            }
        }
        Self { key: certificate.group().clone(), shares, identities }
    }

    pub fn setting(&self, name: &str, subject: Subject) -> Setting {
        let identities = self.identities.iter().map(|(member, identity)| (*member, identity.public())).collect();
        Setting::new(self.key.clone(), identities, SessionId::new(name).unwrap(), subject)
    }
}

pub fn subject(byte: u8) -> Subject {
    Subject { message: Message::new([byte; 32]), root: None }
}
