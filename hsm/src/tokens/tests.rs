//! Several scripted tokens at once, in real time: each has a thread.

#![allow(clippy::disallowed_methods, reason = "threads and real time are what is tested")]

use super::*;
use crate::clock::SystemClock;
use crate::outage::Backoff;
use crate::scheme;
use crate::scripted::ScriptedHandle;
use crate::sealer::Timing;
use crate::token::FaultClass;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Long enough for a loaded machine, and far above what is waited for.
const PATIENCE: Duration = Duration::from_secs(20);

struct Bench {
    one: ScriptedHandle,
    two: ScriptedHandle,
    tokens: Tokens,
}

fn provider(token: &ScriptedHandle, clock: &Arc<dyn Clock>) -> Box<dyn KeyProvider> {
    let timing = Timing { health_interval_ms: 50, backoff: Backoff { min_ms: 10, max_ms: 50 } };
    Box::new(Provider::new(token.token(), timing, Arc::clone(clock), Box::new(crate::entropy::os())))
}

fn bench(min_wraps: usize) -> Bench {
    let (one, two) = (ScriptedHandle::new("one", [1; 32]), ScriptedHandle::new("two", [2; 32]));
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let providers = vec![provider(&one, &clock), provider(&two, &clock)];
    Bench { one, two, tokens: Tokens::new(providers, min_wraps, &clock).unwrap() }
}

fn ready(min_wraps: usize) -> Bench {
    let mut bench = bench(min_wraps);
    bench.tokens.tick();
    bench.until(|tokens| states(tokens) == [ProviderState::Ready; 2]);
    let keys = bench.tokens.keys();
    bench.tokens.require(&keys);
    bench
}

fn states(tokens: &Tokens) -> Vec<ProviderState> {
    tokens.tokens().iter().map(|token| token.state).collect()
}

fn object() -> SealedObject {
    SealedObject { store: [1; 16], kind: 1, id: 9 }
}

fn key() -> DataKey {
    DataKey::new(&[7; 32])
}

impl Bench {
    fn until(&self, holds: impl Fn(&Tokens) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !holds(&self.tokens) {
            assert!(Instant::now() < end, "{:?} {:?}", self.tokens.health(), self.tokens.tokens());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn opens(&mut self, wraps: &[Wrap]) -> bool {
        self.tokens.unwrap(&object(), wraps).is_ok_and(|found| found.expose() == key().expose())
    }
}

#[test]
fn what_is_sealed_is_wrapped_under_each_token_and_any_one_opens_it() {
    let mut bench = ready(1);
    let names: Vec<_> = bench.tokens.keys().iter().map(scheme::key_name).collect();
    let wraps = bench.tokens.wrap(&object(), &key()).unwrap();
    assert_eq!(wraps.iter().map(|wrap| wrap.key).collect::<Vec<_>>(), names);
    for wrap in &wraps {
        assert!(bench.opens(std::slice::from_ref(wrap)));
    }
}

#[test]
fn losing_one_token_is_degraded_and_no_outage() {
    let mut bench = ready(1);
    let wraps = bench.tokens.wrap(&object(), &key()).unwrap();
    bench.one.fail_until_healed(FaultClass::Token);
    for _ in 0..20 {
        let under_two = bench.tokens.wrap(&object(), &key()).unwrap();
        assert!(under_two.iter().any(|wrap| wrap.key == wraps[1].key));
    }
    bench.until(|tokens| states(tokens)[0] == ProviderState::Out);
    assert_eq!((bench.tokens.health().state, bench.tokens.health().outage), (ProviderState::Ready, None));
    assert_eq!(bench.tokens.tokens()[0].outage.as_ref().unwrap().class, OutageClass::Token);
    assert!(bench.opens(&wraps), "by the other one");
    assert!(!bench.opens(&wraps[..1]), "its own wrap needs it");
    bench.one.heal();
    bench.until(|tokens| states(tokens) == [ProviderState::Ready; 2]);
    assert_eq!(bench.tokens.wrap(&object(), &key()).unwrap().len(), 2, "by itself");
}

#[test]
fn a_token_that_hangs_costs_the_others_one_short_wait() {
    let mut bench = ready(1);
    bench.one.set_deadline(Duration::from_secs(5));
    bench.one.hang();
    let begun = Instant::now();
    for _ in 0..50 {
        assert_eq!(bench.tokens.wrap(&object(), &key()).unwrap().len(), 1);
    }
    // One wait of a quarter of a second; the deadline of the one that hangs is twenty times as long.
    assert!(begun.elapsed() < Duration::from_millis(2_500), "{:?}", begun.elapsed());
    bench.one.release();
    bench.until(|tokens| states(tokens) == [ProviderState::Ready; 2]);
    bench.until(|tokens| !tokens.workers[0].is_busy());
    assert_eq!(bench.tokens.wrap(&object(), &key()).unwrap().len(), 2);
}

#[test]
fn one_key_alone_wraps_what_its_token_has_missed() {
    let mut bench = ready(1);
    let names: Vec<_> = bench.tokens.keys().iter().map(scheme::key_name).collect();
    for name in &names {
        let wrap = bench.tokens.wrap_under(*name, &object(), &key()).unwrap();
        assert_eq!(wrap.key, *name);
        assert!(bench.opens(&[wrap]));
    }
    assert!(bench.tokens.wrap_under(KeyName([0; 16]), &object(), &key()).is_err());
    assert_eq!(states(&bench.tokens), [ProviderState::Ready; 2], "a name that is not here is no outage");
    bench.two.fail_until_healed(FaultClass::Token);
    bench.until(|tokens| states(tokens)[1] == ProviderState::Out);
    assert!(bench.tokens.wrap_under(names[1], &object(), &key()).is_err());
}

#[test]
fn a_token_that_hangs_holds_up_neither_an_opening_nor_what_is_caught_up() {
    let mut bench = ready(1);
    let wraps = bench.tokens.wrap(&object(), &key()).unwrap();
    let names: Vec<_> = bench.tokens.keys().iter().map(scheme::key_name).collect();
    bench.one.set_deadline(Duration::from_secs(8));
    bench.one.hang();
    assert_eq!(bench.tokens.wrap(&object(), &key()).unwrap().len(), 1);
    assert!(bench.tokens.workers[0].is_busy());
    let begun = Instant::now();
    for _ in 0..20 {
        assert!(bench.tokens.wrap_under(names[0], &object(), &key()).is_err(), "it hangs");
        assert!(bench.opens(&wraps), "the primary is asked first, and not waited for");
        bench.tokens.wrap_under(names[1], &object(), &key()).unwrap();
    }
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    bench.one.release();
}

#[test]
fn an_outage_begins_when_the_last_of_those_that_are_needed_goes_and_a_degraded_node_has_none() {
    let bench = ready(1);
    bench.one.fail_until_healed(FaultClass::Key);
    bench.until(|tokens| states(tokens)[0] == ProviderState::Fenced);
    assert_eq!(bench.tokens.health().outages, 0, "degraded");
    std::thread::sleep(Duration::from_millis(300));
    bench.two.fail_until_healed(FaultClass::Token);
    bench.until(|tokens| !tokens.health().admits_work());
    let health = bench.tokens.health();
    let (first, outage) = (bench.tokens.tokens()[0].outage.clone().unwrap(), health.outage.unwrap());
    assert!(outage.since.since(first.since) >= 300, "{outage:?} after {first:?}");
    assert_eq!((outage.class, outage.token.as_str()), (OutageClass::Token, "two"), "the one that heals by itself");
    assert!(outage.detail.contains("one: key"), "{}", outage.detail);
    assert_eq!(health.outages, 1);
    bench.two.heal();
    bench.until(|tokens| tokens.health().admits_work());
    assert_eq!(bench.tokens.health().outages, 1);
    bench.one.heal();
}

#[test]
fn two_entries_for_one_key_are_one_wrap() {
    let one = ScriptedHandle::new("one", [1; 32]);
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let both = || vec![provider(&one, &clock), provider(&one, &clock)];
    assert_eq!(Tokens::new(both(), 1, &clock).unwrap().wrap(&object(), &key()).unwrap().len(), 1);
    assert!(Tokens::new(both(), 2, &clock).unwrap().wrap(&object(), &key()).is_err());
}

#[test]
fn tokens_that_hang_are_let_go_all_at_once() {
    let bench = ready(1);
    for token in [&bench.one, &bench.two] {
        token.set_deadline(Duration::from_secs(2));
        token.hang();
    }
    // Both are in their health call.
    assert!(bench.one.wait_until_hanging(PATIENCE) && bench.two.wait_until_hanging(PATIENCE));
    let begun = Instant::now();
    drop(bench.tokens);
    assert!(begun.elapsed() < Duration::from_millis(3_500), "{:?}", begun.elapsed());
}

#[test]
fn both_gone_is_an_outage_that_names_both_and_either_one_ends_it() {
    let mut bench = ready(1);
    let wraps = bench.tokens.wrap(&object(), &key()).unwrap();
    bench.one.fail_until_healed(FaultClass::Token);
    bench.two.fail_until_healed(FaultClass::Usage);
    bench.until(|tokens| states(tokens) == [ProviderState::Out; 2]);
    let outage = bench.tokens.wrap(&object(), &key()).unwrap_err().0;
    assert_eq!((outage.class, outage.token.as_str()), (OutageClass::Token, "one"));
    assert!(outage.detail.contains("two: usage"), "{}", outage.detail);
    assert!(matches!(bench.tokens.unwrap(&object(), &wraps), Err(UnwrapError::Unavailable(_))));
    bench.two.heal();
    bench.until(|tokens| tokens.health().admits_work());
    assert_eq!(states(&bench.tokens)[0], ProviderState::Out);
    assert!(bench.opens(&wraps));
    assert_eq!(bench.tokens.wrap(&object(), &key()).unwrap().len(), 1);
}

#[test]
fn fewer_tokens_than_min_wraps_seal_nothing_and_open_everything() {
    let mut bench = ready(2);
    let wraps = bench.tokens.wrap(&object(), &key()).unwrap();
    assert_eq!(wraps.len(), 2);
    bench.two.fail_until_healed(FaultClass::Token);
    bench.until(|tokens| states(tokens)[1] == ProviderState::Out);
    let outage = bench.tokens.wrap(&object(), &key()).unwrap_err().0;
    assert_eq!(outage.token, "two");
    assert_eq!(bench.tokens.health().state, ProviderState::Out);
    assert!(bench.opens(&wraps));
}

#[test]
fn damage_is_told_only_when_no_token_opens() {
    let mut bench = ready(1);
    let mut wraps = bench.tokens.wrap(&object(), &key()).unwrap();
    *wraps[0].blob.last_mut().unwrap() ^= 1;
    assert!(bench.opens(&wraps));
    *wraps[1].blob.last_mut().unwrap() ^= 1;
    assert!(matches!(bench.tokens.unwrap(&object(), &wraps), Err(UnwrapError::Corrupt)));
    // A token that is away may have the good wrap.
    *wraps[0].blob.last_mut().unwrap() ^= 1;
    bench.one.fail_until_healed(FaultClass::Token);
    bench.until(|tokens| states(tokens)[0] == ProviderState::Out);
    assert!(!matches!(bench.tokens.unwrap(&object(), &wraps), Err(UnwrapError::Corrupt)));
    assert!(matches!(bench.tokens.unwrap(&object(), &[]), Err(UnwrapError::NoReachableKey { found: 0, .. })));
}

#[test]
fn the_anchors_fence_is_in_force_at_once_also_when_a_token_hangs() {
    let mut bench = ready(1);
    let wraps = bench.tokens.wrap(&object(), &key()).unwrap();
    bench.one.set_deadline(Duration::from_secs(5));
    bench.one.hang();
    bench.until(|tokens| tokens.workers[1].view().health.admits_work());
    let begun = Instant::now();
    bench.tokens.fence_by_anchor("another instance".to_owned());
    assert!(bench.tokens.wrap(&object(), &key()).is_err_and(|error| error.0.class == OutageClass::Anchor));
    assert!(!bench.opens(&wraps));
    assert_eq!(bench.tokens.health().state, ProviderState::Fenced);
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    bench.one.release();
}

#[test]
fn who_waits_is_woken_when_a_token_has_gone_and_when_it_is_back() {
    let mut bench = ready(1);
    let woken = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&woken);
    bench.tokens.set_waker(Arc::new(move || {
        count.fetch_add(1, Ordering::SeqCst);
    }));
    bench.two.fail_until_healed(FaultClass::Token);
    bench.until(|tokens| states(tokens)[1] == ProviderState::Out);
    let gone = woken.load(Ordering::SeqCst);
    assert!(gone > 0);
    bench.two.heal();
    bench.until(|tokens| states(tokens)[1] == ProviderState::Ready);
    assert!(woken.load(Ordering::SeqCst) > gone);
}

#[test]
fn a_token_whose_thread_panics_is_out_and_the_others_go_on() {
    struct Panics(Box<dyn KeyProvider>);
    impl KeyProvider for Panics {
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
        fn tick(&mut self) -> Duration {
            self.0.tick()
        }
        fn wrap(&mut self, _: &SealedObject, _: &DataKey) -> Result<Vec<Wrap>, Unavailable> {
            panic!("as asked by the test")
        }
        fn wrap_under(&mut self, name: KeyName, object: &SealedObject, key: &DataKey) -> Result<Wrap, Unavailable> {
            self.0.wrap_under(name, object, key)
        }
        fn unwrap(&mut self, object: &SealedObject, wraps: &[Wrap]) -> Result<DataKey, UnwrapError> {
            self.0.unwrap(object, wraps)
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
    let (one, two) = (ScriptedHandle::new("one", [1; 32]), ScriptedHandle::new("two", [2; 32]));
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let providers: Vec<Box<dyn KeyProvider>> = vec![Box::new(Panics(provider(&one, &clock))), provider(&two, &clock)];
    let mut bench = Bench { one, two, tokens: Tokens::new(providers, 1, &clock).unwrap() };
    for _ in 0..3 {
        assert_eq!(bench.tokens.wrap(&object(), &key()).unwrap().len(), 1);
    }
    bench.until(|tokens| states(tokens)[0] == ProviderState::Out);
    assert!(bench.tokens.tokens()[0].outage.as_ref().unwrap().detail.contains("panicked"));
    bench.two.fail_until_healed(FaultClass::Token);
    bench.until(|tokens| states(tokens) == [ProviderState::Out; 2]);
    assert!(bench.tokens.wrap(&object(), &key()).is_err());
}

#[test]
fn the_number_of_tokens_and_of_wraps_is_bounded() {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let some = |count: u8| (0..count).map(|n| provider(&ScriptedHandle::new("t", [n; 32]), &clock)).collect::<Vec<_>>();
    assert_eq!(Tokens::new(some(0), 1, &clock).err(), Some(ConfigError::Tokens(0)));
    assert_eq!(Tokens::new(some(9), 1, &clock).err(), Some(ConfigError::Tokens(9)));
    for min_wraps in [0, 3] {
        assert_eq!(Tokens::new(some(2), min_wraps, &clock).err(), Some(ConfigError::MinWraps { min_wraps, tokens: 2 }));
    }
}
