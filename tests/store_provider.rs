//! The store on the real provider (outage machine, scheme `hmac`) with a scripted token behind it.
#![allow(missing_docs, unreachable_pub, dead_code, clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

mod store_kit;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use frostkeep::node::{Node, NodeConfig, Phase, init};
use frostkeep::store::{Next, NotOpened, OpenError, Opening, Position, Strength, create_over};
use frostkeep_hsm::clock::SystemClock;
use frostkeep_hsm::health::{Health, TokenHealth};
use frostkeep_hsm::outage::Backoff;
use frostkeep_hsm::provider::{
    AnchorRead, AnchorValue, DataKey, KeyDescriptor, KeyName, KeyProvider, SealedObject, Unavailable, UnwrapError,
    Waker, Wrap,
};
use frostkeep_hsm::scripted::ScriptedHandle;
use frostkeep_hsm::sealer::{Provider, Timing};
use frostkeep_hsm::token::FaultClass;
use store_kit::{Disk, Records, World, running, tuning};

fn provider(token: &ScriptedHandle) -> Box<dyn KeyProvider> {
    let clock = Arc::new(SystemClock::new());
    let timing = Timing { health_interval_ms: 1_000, backoff: Backoff { min_ms: 10, max_ms: 100 } };
    Box::new(Provider::new(token.token(), timing, clock, Box::new(frostkeep_hsm::entropy::os())))
}

#[test]
fn a_store_made_and_opened_with_a_token_waits_for_it_and_refuses_another_key() {
    let world = World::new(tuning(Strength::Strict));
    let token = ScriptedHandle::new("token", [3; 32]);
    let disk = Disk::new(Vec::new());
    create_over(disk.clone(), &mut *provider(&token), &mut world.environment()).unwrap();
    let open = || {
        let opening = Opening::over(disk.clone(), provider(&token), world.environment(), world.tuning).unwrap();
        opening.recover(Records::default()).map(running)
    };
    let mut store = open().unwrap_or_else(|NotOpened { error, .. }| panic!("{error}"));
    store.enter(b"one");
    while store.persister.step() == Next::Now {}
    assert_eq!(store.durable(), store.line.last());
    assert_eq!(token.anchor().map(|anchor| Position::new(anchor.position)), Some(store.durable()));
    let expected = store.acknowledged();
    drop(store);

    token.fail_until_healed(FaultClass::Token);
    let Err(NotOpened { error, sealed }) = open() else { panic!("it opened without its token") };
    assert!(matches!(error, OpenError::Outage(_)), "{error}");
    assert!(sealed.is_some());
    token.heal();
    drop(sealed);
    let store = open().unwrap_or_else(|NotOpened { error, .. }| panic!("{error}"));
    assert_eq!(store.records.lock().unwrap().0, expected);
    drop(store);

    token.swap_key(Some([4; 32]));
    let Err(NotOpened { error, .. }) = open() else { panic!("it opened with another key") };
    assert!(matches!(error, OpenError::WrongKey { .. }), "{error}");
}

/// A healthy provider whose tokens hold none of the keys that the state hangs on.
struct Elsewhere(Box<dyn KeyProvider>, Arc<AtomicU64>);

impl KeyProvider for Elsewhere {
    fn require(&mut self, keys: &[KeyDescriptor]) {
        self.0.require(keys);
    }
    fn keys(&self) -> Vec<KeyDescriptor> {
        self.0.keys()
    }
    fn health(&self) -> Health {
        self.0.health()
    }
    fn tokens(&self) -> Vec<TokenHealth> {
        self.0.tokens()
    }
    fn set_waker(&mut self, waker: Waker) {
        self.0.set_waker(waker);
    }
    fn tick(&mut self) -> Duration {
        self.0.tick()
    }
    fn wrap(&mut self, object: &SealedObject, key: &DataKey) -> Result<Vec<Wrap>, Unavailable> {
        self.0.wrap(object, key)
    }
    fn wrap_under(&mut self, name: KeyName, object: &SealedObject, key: &DataKey) -> Result<Wrap, Unavailable> {
        self.0.wrap_under(name, object, key)
    }
    fn unwrap(&mut self, _: &SealedObject, wraps: &[Wrap]) -> Result<DataKey, UnwrapError> {
        self.1.fetch_add(1, Ordering::SeqCst);
        Err(UnwrapError::NoReachableKey { found: wraps.len(), keys: Vec::new() })
    }
    fn anchor_read(&mut self) -> Result<AnchorRead, Unavailable> {
        self.0.anchor_read()
    }
    fn anchor_write(&mut self, value: &AnchorValue) -> Result<(), Unavailable> {
        self.0.anchor_write(value)
    }
    fn fence_by_anchor(&mut self, detail: String) {
        self.0.fence_by_anchor(detail);
    }
    fn connection(&self) -> u64 {
        self.0.connection()
    }
}

#[test]
fn a_sealed_node_whose_key_is_on_an_absent_token_does_not_spin() {
    let directory = tempfile::tempdir().unwrap();
    let config = NodeConfig::new(directory.path().join("state"));
    let token = ScriptedHandle::new("token", [3; 32]);
    init(&config, &mut *provider(&token)).unwrap();
    let tries = Arc::new(AtomicU64::new(0));
    let node = Node::start(config, Box::new(Elsewhere(provider(&token), Arc::clone(&tries)))).unwrap();
    std::thread::sleep(Duration::from_millis(500));
    assert!(matches!(node.phase(), Phase::Sealed { .. }));
    let tries = tries.load(Ordering::SeqCst);
    assert!((1..=2).contains(&tries), "{tries} tries in half a second");
}
