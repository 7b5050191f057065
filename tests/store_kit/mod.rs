//! A token in memory, a disk that remembers every write, and a state that is a list of records.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use frostkeep::store::{
    EncodedRecord, Environment, FreeSpace, Line, NotOpened, OpenError, Opened, Opening, Persister, Position,
    RecoverySink, SinkError, SlotKind, SnapshotData, SnapshotSource, Strength, Tuning, create_over,
};
use frostkeep_hsm::clock::{Clock, ManualClock, Millis};
use frostkeep_hsm::health::{Health, Outage, OutageClass, ProviderState, TokenHealth};
use frostkeep_hsm::provider::{
    AnchorRead, AnchorValue, DataKey, KeyDescriptor, KeyName, KeyProvider, SealedObject, Unavailable, UnwrapError, Wrap,
};
use frostkeep_hsm::scheme;
use rand_core::SeedableRng;
use redb::StorageBackend;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// What the next anchor writes do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnchorScript {
    Works,
    /// Applied; the caller sees an outage.
    AppliedAnswerLost,
    /// Not applied; the caller sees an outage.
    Refused,
    /// Not applied; the caller sees success.
    Lies,
}

pub struct TokenState {
    pub key: [u8; 32],
    pub out: bool,
    /// Wraps fail while the machine still says `Ready`.
    pub wraps_fail: bool,
    /// Wraps panic: a bug of ours.
    pub wraps_panic: bool,
    /// Reads of the anchor fail while the machine still says `Ready`.
    pub reads_fail: bool,
    pub anchors: bool,
    pub anchor: Option<AnchorValue>,
    pub script: AnchorScript,
    /// After this many wraps one is made under another key.
    pub garbled_wrap: Option<u64>,
    pub connection: u64,
    pub wraps: u64,
    pub unwraps: u64,
    pub anchor_reads: u64,
    pub anchor_writes: u64,
    pub fenced: bool,
    pub disk: Option<Disk>,
}

/// The test's side of a token.
#[derive(Clone)]
pub struct Token(Arc<Mutex<TokenState>>);

impl Token {
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(TokenState {
            key: [7; 32],
            out: false,
            wraps_fail: false,
            wraps_panic: false,
            reads_fail: false,
            anchors: true,
            anchor: None,
            script: AnchorScript::Works,
            garbled_wrap: None,
            connection: 1,
            wraps: 0,
            unwraps: 0,
            anchor_reads: 0,
            anchor_writes: 0,
            fenced: false,
            disk: None,
        })))
    }

    pub fn state(&self) -> MutexGuard<'_, TokenState> {
        self.0.lock().unwrap()
    }

    pub fn provider(&self) -> Box<dyn KeyProvider> {
        Box::new(Provider { token: self.clone(), required: Vec::new() })
    }

    fn unavailable(&self) -> Unavailable {
        Unavailable(outage(OutageClass::Token))
    }
}

fn outage(class: OutageClass) -> Outage {
    Outage { class, since: Millis(0), since_unix: 0, next_try: None, detail: "test".into(), token: "test".into() }
}

struct Provider {
    token: Token,
    required: Vec<KeyDescriptor>,
}

fn sha(parts: &[&[u8]]) -> [u8; 32] {
    parts.iter().fold(Sha256::new(), |hash, part| hash.chain_update(part)).finalize().into()
}

fn descriptor(key: &[u8; 32]) -> KeyDescriptor {
    KeyDescriptor {
        scheme: 1,
        id: b"key".to_vec(),
        check_value: sha(&[b"check", key])[..8].try_into().unwrap(),
        token_label: "test".into(),
        token_serial: "1".into(),
    }
}

fn key_name(key: &[u8; 32]) -> KeyName {
    scheme::key_name(&descriptor(key))
}

fn wrap_blob(key: &[u8; 32], object: &SealedObject, salt: [u8; 32], text: &[u8]) -> Vec<u8> {
    let kek = sha(&[key, &salt, &object.store, &[object.kind], &object.id.to_be_bytes()]);
    let stream = sha(&[&kek, b"stream"]);
    let cipher: Vec<u8> = text.iter().zip(stream).map(|(a, b)| a ^ b).collect();
    let tag = sha(&[&kek, b"tag", &cipher]);
    [&salt[..], &cipher, &tag[..16]].concat()
}

impl KeyProvider for Provider {
    fn require(&mut self, keys: &[KeyDescriptor]) {
        self.required = keys.to_vec();
    }

    fn keys(&self) -> Vec<KeyDescriptor> {
        let state = self.token.state();
        if state.out {
            return Vec::new();
        }
        vec![descriptor(&state.key)]
    }

    fn health(&self) -> Health {
        let state = self.token.state();
        let (machine, outage) = match (state.fenced, state.out) {
            (true, _) => (ProviderState::Fenced, Some(outage(OutageClass::Anchor))),
            (_, true) => (ProviderState::Out, Some(outage(OutageClass::Token))),
            _ => (ProviderState::Ready, None),
        };
        Health { state: machine, outage, calls: 0, outages: 0, agents_started: 0 }
    }

    fn tokens(&self) -> Vec<TokenHealth> {
        let Health { state, outage, .. } = self.health();
        vec![TokenHealth { name: "test".into(), state, outage, keys: self.keys() }]
    }

    fn tick(&mut self) -> Duration {
        Duration::from_millis(10)
    }

    fn wrap(&mut self, object: &SealedObject, key: &DataKey) -> Result<Vec<Wrap>, Unavailable> {
        let mut state = self.token.state();
        state.wraps += 1;
        if state.wraps_panic {
            drop(state);
            panic!("the test says so");
        }
        if state.out || state.wraps_fail {
            return Err(self.token.unavailable());
        }
        let salt = sha(&[b"salt", &state.wraps.to_be_bytes()]);
        let garbled = state.garbled_wrap == Some(0);
        state.garbled_wrap = state.garbled_wrap.and_then(|left| left.checked_sub(1));
        let under = if garbled { [0; 32] } else { state.key };
        let blob = wrap_blob(&under, object, salt, key.expose());
        Ok(vec![Wrap { key: key_name(&state.key), scheme: 1, blob }])
    }

    fn wrap_under(&mut self, name: KeyName, object: &SealedObject, key: &DataKey) -> Result<Wrap, Unavailable> {
        assert_eq!(name, key_name(&self.token.state().key), "it has one key");
        self.wrap(object, key).map(|mut wraps| wraps.remove(0))
    }

    fn unwrap(&mut self, object: &SealedObject, wraps: &[Wrap]) -> Result<DataKey, UnwrapError> {
        let mut state = self.token.state();
        state.unwraps += 1;
        if state.out {
            return Err(self.token.unavailable().into());
        }
        let name = key_name(&state.key);
        // The golden store was written when this provider named its key otherwise.
        let golden = KeyName(sha(&[b"name", &state.key])[..16].try_into().unwrap());
        let Some(wrap) = wraps.iter().find(|wrap| wrap.key == name || wrap.key == golden) else {
            let keys = wraps.iter().map(|wrap| wrap.key).collect();
            return Err(UnwrapError::NoReachableKey { found: wraps.len(), keys });
        };
        let salt: [u8; 32] = wrap.blob.get(..32).and_then(|salt| salt.try_into().ok()).ok_or(UnwrapError::Corrupt)?;
        let cipher = wrap.blob.get(32..64).ok_or(UnwrapError::Corrupt)?;
        let text: [u8; 32] = wrap_blob(&state.key, object, salt, cipher)[32..64].try_into().unwrap();
        if wrap_blob(&state.key, object, salt, &text) != wrap.blob {
            return Err(UnwrapError::Corrupt);
        }
        Ok(DataKey::new(&text))
    }

    fn anchor_read(&mut self) -> Result<AnchorRead, Unavailable> {
        let mut state = self.token.state();
        state.anchor_reads += 1;
        if state.out || state.reads_fail {
            return Err(self.token.unavailable());
        }
        if !state.anchors {
            return Ok(AnchorRead::Unsupported);
        }
        Ok(state.anchor.map_or(AnchorRead::Absent, AnchorRead::Value))
    }

    fn anchor_write(&mut self, value: &AnchorValue) -> Result<(), Unavailable> {
        let mut state = self.token.state();
        state.anchor_writes += 1;
        if state.out {
            return Err(self.token.unavailable());
        }
        if matches!(state.script, AnchorScript::Works | AnchorScript::AppliedAnswerLost) {
            state.anchor = Some(*value);
            if let Some(disk) = &state.disk {
                disk.note(Event::Anchor(*value));
            }
        }
        match state.script {
            AnchorScript::Works | AnchorScript::Lies => Ok(()),
            AnchorScript::AppliedAnswerLost | AnchorScript::Refused => Err(self.token.unavailable()),
        }
    }

    fn fence_by_anchor(&mut self, _detail: String) {
        self.token.state().fenced = true;
    }

    fn connection(&self) -> u64 {
        self.token.state().connection
    }
}

/// What happened to a disk, in order.
#[derive(Debug, Clone)]
pub enum Event {
    Write {
        offset: u64,
        data: Vec<u8>,
    },
    SetLen(u64),
    Sync,
    /// The store said that everything up to here is durable.
    Acknowledged(u64),
    /// The token took this anchor.
    Anchor(AnchorValue),
}

struct DiskState {
    bytes: Vec<u8>,
    events: Vec<Event>,
    syncs_dropped: bool,
    fail: bool,
}

/// A disk in memory that logs. Clones are the same disk.
#[derive(Clone)]
pub struct Disk(Arc<Mutex<DiskState>>);

impl std::fmt::Debug for Disk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Disk")
    }
}

impl Disk {
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Arc::new(Mutex::new(DiskState { bytes, events: Vec::new(), syncs_dropped: false, fail: false })))
    }

    fn state(&self) -> MutexGuard<'_, DiskState> {
        self.0.lock().unwrap()
    }

    pub fn bytes(&self) -> Vec<u8> {
        self.state().bytes.clone()
    }

    pub fn note(&self, event: Event) {
        self.state().events.push(event);
    }

    pub fn events(&self) -> Vec<Event> {
        self.state().events.clone()
    }

    /// From now on a sync answers and does nothing.
    pub fn drop_syncs(&self) {
        self.state().syncs_dropped = true;
    }

    /// From now on writes and syncs fail, or work again.
    pub fn fail(&self, fail: bool) {
        self.state().fail = fail;
    }
}

fn broken() -> io::Error {
    io::Error::other("the test says so")
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.state().bytes.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.state();
        let start = usize::try_from(offset).unwrap();
        let found = state.bytes.get(start..start + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(found);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.state();
        if state.fail {
            return Err(broken());
        }
        state.bytes.resize(usize::try_from(len).unwrap(), 0);
        state.events.push(Event::SetLen(len));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.state();
        if state.fail {
            return Err(broken());
        }
        if !state.syncs_dropped {
            state.events.push(Event::Sync);
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.state();
        if state.fail {
            return Err(broken());
        }
        let start = usize::try_from(offset).unwrap();
        if state.bytes.len() < start + data.len() {
            state.bytes.resize(start + data.len(), 0);
        }
        state.bytes[start..start + data.len()].copy_from_slice(data);
        state.events.push(Event::Write { offset, data: data.to_vec() });
        Ok(())
    }
}

/// Room that a test sets.
#[derive(Clone)]
pub struct Room(pub Arc<AtomicU64>);

impl FreeSpace for Room {
    fn free_bytes(&self) -> io::Result<u64> {
        Ok(self.0.load(Ordering::SeqCst))
    }
}

/// A state that is the list of all engine records.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Records(pub Vec<(u64, Vec<u8>)>);

impl RecoverySink for Records {
    fn snapshot_item(&mut self, bytes: &[u8]) -> Result<(), SinkError> {
        let (position, bytes) = bytes.split_first_chunk::<8>().ok_or(SinkError("short item".into()))?;
        self.0.push((u64::from_be_bytes(*position), bytes.to_vec()));
        Ok(())
    }

    fn record(&mut self, position: Position, bytes: &[u8]) -> Result<(), SinkError> {
        self.0.push((position.number(), bytes.to_vec()));
        Ok(())
    }
}

/// The list as a snapshot source: what is durable of it.
struct Source {
    records: Arc<Mutex<Records>>,
    line: Line,
}

impl SnapshotSource for Source {
    fn snapshot(&self) -> SnapshotData {
        let position = self.line.durable().position();
        let records = self.records.lock().unwrap().0.clone();
        let items = records.into_iter().filter(move |(at, _)| *at <= position.number());
        let items = items.map(|(at, bytes)| Zeroizing::new([&at.to_be_bytes()[..], &bytes].concat()));
        SnapshotData { position, items: Box::new(items) }
    }
}

/// A store over a disk in memory, and the list of what was entered.
pub struct World {
    pub disk: Disk,
    pub token: Token,
    pub clock: ManualClock,
    pub room: Room,
    pub tuning: Tuning,
    pub seed: u64,
}

pub struct Running {
    pub line: Line,
    pub persister: Persister,
    pub records: Arc<Mutex<Records>>,
}

pub fn tuning(strength: Strength) -> Tuning {
    Tuning { strength, disk_reserve_bytes: 1_000, snapshot_floor_bytes: u64::MAX, ..Tuning::default() }
}

impl World {
    pub fn new(tuning: Tuning) -> Self {
        let world = Self {
            disk: Disk::new(Vec::new()),
            token: Token::new(),
            clock: ManualClock::default(),
            room: Room(Arc::new(AtomicU64::new(1 << 40))),
            tuning,
            seed: 1,
        };
        create_over(world.disk.clone(), &mut *world.token.provider(), &mut world.environment()).unwrap();
        world
    }

    pub fn environment(&self) -> Environment {
        let clock: Arc<dyn Clock> = Arc::new(self.clock.clone());
        let entropy = Box::new(Chaotic::seed_from_u64(self.seed));
        Environment { clock, entropy, space: Box::new(self.room.clone()) }
    }

    /// The same disk, token, clock, as after a crash of the process or in a clone.
    pub fn with_disk(&self, bytes: Vec<u8>) -> Self {
        let (token, clock, room) = (self.token.clone(), self.clock.clone(), self.room.clone());
        Self { disk: Disk::new(bytes), token, clock, room, tuning: self.tuning, seed: self.seed + 1 }
    }

    pub fn opening(&self) -> Result<Opening, OpenError> {
        Opening::over(self.disk.clone(), self.token.provider(), self.environment(), self.tuning)
    }

    pub fn try_open(&self) -> Result<Running, OpenError> {
        let opened = self.opening()?.recover(Records::default());
        opened.map(running).map_err(|NotOpened { error, .. }| error)
    }

    pub fn open(&self) -> Running {
        self.try_open().unwrap()
    }
}

pub fn running(opened: Opened<Records>) -> Running {
    let Opened { line, mut persister, sink } = opened;
    let records = Arc::new(Mutex::new(sink));
    persister.set_snapshot_source(Arc::new(Source { records: records.clone(), line: line.clone() }));
    Running { line, persister, records }
}

impl Running {
    pub fn enter(&self, bytes: &[u8]) -> Position {
        self.enter_record(bytes, false)
    }

    pub fn enter_record(&self, bytes: &[u8], anchor_now: bool) -> Position {
        let slot = self.line.reserve(SlotKind::Round, bytes.len()).unwrap();
        let record = EncodedRecord::new(Zeroizing::new(bytes.to_vec())).unwrap();
        let record = if anchor_now { record.anchor_now() } else { record };
        let mut records = self.records.lock().unwrap();
        let position = self.line.enter(slot, record);
        records.0.push((position.number(), bytes.to_vec()));
        position
    }

    pub fn durable(&self) -> Position {
        self.line.durable().position()
    }

    /// What must come back after a reopening now.
    pub fn acknowledged(&self) -> Vec<(u64, Vec<u8>)> {
        let durable = self.durable().number();
        self.records.lock().unwrap().0.iter().filter(|(at, _)| *at <= durable).cloned().collect()
    }
}

/// A seeded generator, so that a failure can be run again.
pub struct Chaotic(u64);

impl SeedableRng for Chaotic {
    type Seed = [u8; 8];
    fn from_seed(seed: [u8; 8]) -> Self {
        Self(u64::from_le_bytes(seed))
    }
}

impl rand_core::RngCore for Chaotic {
    fn next_u32(&mut self) -> u32 {
        self.next_u64() as u32
    }

    // SplitMix64.
    fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn fill_bytes(&mut self, out: &mut [u8]) {
        for chunk in out.chunks_mut(8) {
            let bytes = self.next_u64().to_le_bytes();
            chunk.copy_from_slice(&bytes[..chunk.len()]);
        }
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), rand_core::Error> {
        self.fill_bytes(out);
        Ok(())
    }
}

impl rand_core::CryptoRng for Chaotic {}
