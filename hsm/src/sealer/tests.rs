//! The provider over a scripted token and a clock that is moved by hand: what it asks of the token, and when.

use super::*;
use crate::clock::ManualClock;
use crate::health::ProviderState;
use crate::scripted::{AnchorScript, Calls, ScriptedHandle, ScriptedToken};
use std::thread;

const HEALTH_MS: u64 = 1_000;
const BACKOFF: Backoff = Backoff { min_ms: 100, max_ms: 5_000 };

struct Bench {
    clock: ManualClock,
    token: ScriptedHandle,
    provider: Provider<ScriptedToken>,
}

fn bench() -> Bench {
    let token = ScriptedHandle::new("scripted", [9; 32]);
    let clock = ManualClock::default();
    let provider = on(&token, &clock);
    Bench { clock, token, provider }
}

fn on(token: &ScriptedHandle, clock: &ManualClock) -> Provider<ScriptedToken> {
    let timing = Timing { health_interval_ms: HEALTH_MS, backoff: BACKOFF };
    Provider::new(token.token(), timing, Arc::new(clock.clone()), Box::new(crate::entropy::os()))
}

fn ready() -> Bench {
    let mut bench = bench();
    bench.provider.tick();
    assert_eq!(bench.state(), ProviderState::Ready);
    bench
}

fn object() -> SealedObject {
    SealedObject { store: [1; 16], kind: 2, id: 3 }
}

fn key() -> DataKey {
    DataKey::new(&[5; 32])
}

impl Bench {
    fn state(&self) -> ProviderState {
        let health = self.provider.health();
        assert_eq!(health, self.provider.watch().health(), "what is published is what is so");
        assert_eq!(
            health.outage.is_none(),
            health.admits_work(),
            "an outage is told in every state but Ready and Suspect"
        );
        health.state
    }

    fn class(&self) -> OutageClass {
        self.provider.health().outage.unwrap().class
    }

    fn pass(&mut self, ms: u64) {
        self.clock.advance(Duration::from_millis(ms));
    }

    fn wrap(&mut self) -> Result<Vec<Wrap>, Unavailable> {
        self.provider.wrap(&object(), &key())
    }

    fn asked(&self) -> u64 {
        let Calls { opens, derives, anchor_reads, anchor_writes } = self.token.calls();
        opens + derives + anchor_reads + anchor_writes
    }
}

#[test]
fn nothing_is_asked_before_the_first_call_and_the_first_call_connects() {
    let mut bench = bench();
    assert_eq!((bench.state(), bench.asked()), (ProviderState::Starting, 0));
    assert_eq!(bench.provider.keys(), []);
    let wraps = bench.wrap().unwrap();
    assert_eq!(bench.provider.unwrap(&object(), &wraps).unwrap().expose(), &[5; 32]);
    assert_eq!((bench.state(), bench.provider.connection()), (ProviderState::Ready, 1));
    // What seals is asked for twice.
    assert_eq!(bench.token.calls(), Calls { opens: 1, derives: 3, ..Calls::default() });
}

#[test]
fn a_curable_failure_costs_one_reconnection_and_nobody_notices() {
    for class in [FaultClass::Session, FaultClass::AmbiguousKey, FaultClass::Token, FaultClass::Module] {
        let mut bench = ready();
        bench.token.fail(class, 1);
        bench.wrap().unwrap();
        assert_eq!((bench.state(), bench.provider.connection()), (ProviderState::Ready, 2), "{class:?}");
        assert_eq!(bench.provider.health().outages, 0);
        assert_eq!(bench.token.calls(), Calls { opens: 2, derives: 3, ..Calls::default() });
    }
}

#[test]
fn a_failure_that_outlives_the_reconnection_is_an_outage() {
    let mut bench = ready();
    bench.token.drop_sessions();
    // The reconnection succeeds, the retried call fails.
    bench.provider.tick();
    bench.token.fail_until_healed(FaultClass::Token);
    assert_eq!(bench.wrap().unwrap_err().0.class, OutageClass::Token);
    assert_eq!((bench.state(), bench.provider.health().outages), (ProviderState::Out, 1));
}

#[test]
fn a_missed_deadline_is_not_retried() {
    let mut bench = ready();
    bench.token.fail(FaultClass::Deadline, 1);
    let before = bench.asked();
    assert_eq!(bench.wrap().unwrap_err().0.class, OutageClass::Deadline);
    assert_eq!((bench.asked() - before, bench.state()), (1, ProviderState::Out));
}

#[test]
fn an_outage_asks_the_token_nothing_until_the_probe_is_due() {
    let mut bench = ready();
    bench.token.fail_until_healed(FaultClass::Deadline);
    let refused = bench.wrap().unwrap_err();
    let next = refused.0.next_try.unwrap();
    let before = bench.asked();
    for _ in 0..100 {
        assert_eq!(bench.wrap().unwrap_err(), refused, "at once, with the same details");
        assert!(matches!(bench.provider.unwrap(&object(), &[]), Err(UnwrapError::Unavailable(_))));
        assert!(bench.provider.anchor_read().is_err());
        let due = bench.provider.tick();
        assert_eq!(due, Duration::from_millis(next.since(bench.clock.now())));
    }
    assert_eq!(bench.asked(), before);
    bench.pass(next.since(bench.clock.now()));
    bench.token.heal();
    bench.provider.tick();
    assert_eq!(bench.state(), ProviderState::Ready);
    assert_eq!(bench.asked(), before + 1);
}

#[test]
fn probes_back_off_between_their_bounds_and_begin_again_after_a_recovery() {
    let mut bench = ready();
    bench.token.fail_until_healed(FaultClass::Token);
    bench.wrap().unwrap_err();
    let since = bench.provider.health().outage.unwrap().since;
    let mut waits = Vec::new();
    for _ in 0..12 {
        let next = bench.provider.health().outage.unwrap().next_try.unwrap();
        let wait = next.since(bench.clock.now());
        waits.push(wait);
        bench.pass(wait);
        bench.provider.tick();
        assert_eq!(bench.provider.health().outage.unwrap().since, since);
    }
    assert_eq!(waits[0], BACKOFF.min_ms);
    assert!(waits.iter().all(|wait| (BACKOFF.min_ms..=BACKOFF.max_ms).contains(wait)), "{waits:?}");
    assert!(waits[11] >= BACKOFF.max_ms / 2, "{waits:?}");
    bench.token.heal();
    bench.pass(BACKOFF.max_ms);
    bench.wrap().unwrap();
    bench.token.fail_until_healed(FaultClass::Token);
    bench.wrap().unwrap_err();
    assert_eq!(bench.provider.health().outage.unwrap().next_try, Some(bench.clock.now().plus(BACKOFF.min_ms)));
}

#[test]
fn an_idle_node_asks_for_a_known_answer_once_per_interval() {
    let mut bench = ready();
    for _ in 0..10 {
        let due = bench.provider.tick();
        assert_eq!(due, Duration::from_millis(HEALTH_MS));
        assert_eq!(bench.token.calls().derives, 0);
    }
    bench.pass(HEALTH_MS - 1);
    bench.provider.tick();
    assert_eq!(bench.token.calls().derives, 0);
    bench.wrap().unwrap();
    bench.pass(1);
    bench.provider.tick();
    assert_eq!(bench.token.calls().derives, 2, "a busy node needs no health call");
    bench.pass(HEALTH_MS);
    bench.provider.tick();
    assert_eq!(bench.token.calls().derives, 3);
}

#[test]
fn a_swapped_key_fences_and_the_right_one_lifts_the_fence() {
    let mut bench = ready();
    let keys = bench.provider.keys();
    bench.provider.require(&keys);
    let wraps = bench.wrap().unwrap();
    bench.token.swap_key(Some([8; 32]));
    assert_eq!(bench.wrap().unwrap_err().0.class, OutageClass::Key);
    assert_eq!(bench.state(), ProviderState::Fenced);
    bench.token.swap_key(None);
    bench.pass(BACKOFF.max_ms);
    bench.provider.tick();
    assert_eq!((bench.state(), bench.class()), (ProviderState::Fenced, OutageClass::Key));
    bench.token.swap_key(Some([9; 32]));
    bench.pass(BACKOFF.max_ms);
    bench.provider.tick();
    assert_eq!(bench.state(), ProviderState::Ready);
    assert_eq!(bench.provider.unwrap(&object(), &wraps).unwrap().expose(), &[5; 32]);
}

#[test]
fn a_key_that_the_state_does_not_name_is_not_used() {
    let mut bench = ready();
    let mut other = bench.provider.keys();
    other[0].check_value[0] ^= 1;
    bench.provider.require(&other);
    assert_eq!(bench.wrap().unwrap_err().0.class, OutageClass::Key);
    assert_eq!(bench.token.calls().derives, 0);
}

#[test]
fn naming_the_open_key_costs_no_reconnection() {
    let mut bench = ready();
    let mut keys = bench.provider.keys();
    let mut elsewhere = keys[0].clone();
    elsewhere.token_serial = "another token".to_owned();
    elsewhere.id = vec![1];
    keys.push(elsewhere);
    bench.provider.require(&keys);
    bench.provider.require(&keys);
    bench.wrap().unwrap();
    assert_eq!((bench.state(), bench.provider.connection()), (ProviderState::Ready, 1));
}

#[test]
fn a_wrap_is_called_damaged_only_after_the_token_gave_its_known_answer_and_the_same_again() {
    let mut bench = ready();
    let mut wraps = bench.wrap().unwrap();
    wraps[0].blob[70] ^= 1;
    let before = bench.token.calls().derives;
    assert!(matches!(bench.provider.unwrap(&object(), &wraps), Err(UnwrapError::Corrupt)));
    assert_eq!(bench.token.calls().derives, before + 3);
    // The token fails in between: that is an outage, whatever the wrap is.
    bench.token.fail(FaultClass::Deadline, 1);
    assert!(matches!(bench.provider.unwrap(&object(), &wraps), Err(UnwrapError::Unavailable(_))));
}

/// Two keys on one token. A session may come to mean other keys than those that it opened; a reopening finds the right ones.
struct TwoKeys {
    keys: [ScriptedToken; 2],
    open: Vec<usize>,
    aliased: bool,
    second_gone: bool,
}

impl Token for TwoKeys {
    fn name(&self) -> &'static str {
        "two keys"
    }

    fn open(&mut self, _: &[KeyDescriptor]) -> Result<Opened, TokenError> {
        self.open = if self.second_gone { vec![0] } else { vec![1, 0] };
        self.aliased = false;
        let [first, second] = &mut self.keys;
        let (mut opened, other) = (second.open(&[])?, first.open(&[])?);
        opened.keys.extend(other.keys);
        opened.keys.drain(..2 - self.open.len());
        Ok(opened)
    }

    fn derive(&mut self, key: usize, input: &[u8]) -> Result<crate::token::Derived, TokenError> {
        let key = self.open[key] ^ usize::from(self.aliased);
        self.keys[key].derive(0, input)
    }

    fn anchor_read(&mut self) -> Result<AnchorRead, TokenError> {
        Ok(AnchorRead::Unsupported)
    }

    fn anchor_write(&mut self, _: &AnchorValue) -> Result<(), TokenError> {
        Err(TokenError::new(FaultClass::Usage, "anchor_write", "", ""))
    }

    fn agents_started(&self) -> u64 {
        0
    }
}

fn two_keys() -> (Provider<TwoKeys>, Vec<Wrap>, ScriptedHandle) {
    let (one, two) = (ScriptedHandle::new("one", [1; 32]), ScriptedHandle::new("two", [2; 32]));
    let token = TwoKeys { keys: [one.token(), two.token()], open: Vec::new(), aliased: false, second_gone: false };
    let timing = Timing { health_interval_ms: HEALTH_MS, backoff: BACKOFF };
    let clock = Arc::new(ManualClock::default());
    let mut provider = Provider::new(token, timing, clock, Box::new(crate::entropy::os()));
    let wraps = provider.wrap(&object(), &key()).unwrap();
    (provider, wraps, two)
}

#[test]
fn a_session_that_means_other_keys_does_not_make_a_good_wrap_damaged() {
    let (mut provider, wraps, _) = two_keys();
    provider.token.aliased = true;
    assert_eq!(provider.unwrap(&object(), &wraps).unwrap().expose(), &[5; 32]);
    assert_eq!(provider.connection(), 2);
}

#[test]
fn a_key_that_is_gone_after_a_reconnection_is_not_mistaken_for_its_neighbour() {
    let (mut provider, wraps, second) = two_keys();
    second.drop_sessions();
    provider.token.second_gone = true;
    let refused = provider.unwrap(&object(), &wraps);
    assert!(matches!(refused, Err(UnwrapError::Unavailable(_) | UnwrapError::NoReachableKey { .. })), "{refused:?}");
}

#[test]
fn the_anchor_fence_ends_with_the_process_only() {
    let mut bench = ready();
    bench.provider.fence_by_anchor("epoch 7 is not ours".to_owned());
    let before = bench.asked();
    for _ in 0..20 {
        bench.pass(BACKOFF.max_ms);
        bench.provider.tick();
        let outage = bench.wrap().unwrap_err().0;
        assert_eq!((outage.class, outage.next_try), (OutageClass::Anchor, None));
        assert!(outage.detail.contains("epoch 7"));
        assert!(bench.provider.anchor_read().is_err());
    }
    assert_eq!((bench.state(), bench.asked()), (ProviderState::Fenced, before));
}

#[test]
fn an_anchor_write_is_never_repeated_behind_the_callers_back() {
    let value = |position| AnchorValue { store: [1; 16], epoch: 1, position, head: [2; 32] };
    for (script, held) in
        [(AnchorScript::AppliedAnswerLost, Some(value(2))), (AnchorScript::NotAppliedAnswerLost, Some(value(1)))]
    {
        let mut bench = ready();
        assert_eq!(bench.provider.anchor_read(), Ok(AnchorRead::Absent));
        bench.provider.anchor_write(&value(1)).unwrap();
        bench.token.script_anchor_write(script);
        let connection = bench.provider.connection();
        assert_eq!(bench.provider.anchor_write(&value(2)).unwrap_err().0.class, OutageClass::Deadline);
        assert_eq!((bench.token.anchor(), bench.token.calls().anchor_writes), (held, 2));
        bench.pass(BACKOFF.max_ms);
        bench.provider.tick();
        assert!(bench.provider.connection() > connection, "so that the caller reads it again");
        assert_eq!(bench.provider.anchor_read(), Ok(AnchorRead::Value(held.unwrap())));
    }
    // Also after a lost session.
    let mut bench = ready();
    bench.token.drop_sessions();
    let connection = bench.provider.connection();
    assert!(bench.provider.anchor_write(&value(1)).is_err());
    assert_eq!(bench.state(), ProviderState::Suspect);
    bench.provider.anchor_write(&value(1)).unwrap();
    assert!(bench.provider.connection() > connection);
}

#[test]
fn a_token_without_anchors_is_no_outage() {
    let mut bench = ready();
    bench.token.set_anchors(false);
    assert_eq!(bench.provider.anchor_read(), Ok(AnchorRead::Unsupported));
    let value = AnchorValue { store: [1; 16], epoch: 1, position: 1, head: [2; 32] };
    assert_eq!(bench.provider.anchor_write(&value).unwrap_err().0.class, OutageClass::Usage);
    assert_eq!(bench.state(), ProviderState::Ready);
}

#[test]
fn a_cloned_token_goes_its_own_way() {
    let mut bench = ready();
    let value = |position| AnchorValue { store: [1; 16], epoch: 1, position, head: [2; 32] };
    bench.provider.anchor_write(&value(1)).unwrap();
    let clone = bench.token.clone_token();
    let mut other = on(&clone, &bench.clock);
    assert_eq!(other.anchor_read(), Ok(AnchorRead::Value(value(1))));
    bench.provider.anchor_write(&value(2)).unwrap();
    assert_eq!(clone.anchor(), Some(value(1)));
    // Two processes at one token see each other's.
    let mut same = on(&bench.token, &bench.clock);
    assert_eq!(same.anchor_read(), Ok(AnchorRead::Value(value(2))));
}

#[test]
fn others_see_the_health_at_once_while_a_call_hangs() {
    let Bench { token, mut provider, .. } = ready();
    let watch = provider.watch();
    token.set_deadline(Duration::from_secs(20));
    token.hang();
    let hanging = thread::spawn(move || provider.wrap(&object(), &key()).is_ok());
    assert!(token.wait_until_hanging(Duration::from_secs(10)));
    assert!(watch.health().admits_work());
    assert!(!hanging.is_finished());
    token.release();
    assert!(hanging.join().unwrap());
}

#[test]
fn a_call_that_hangs_ends_at_its_deadline() {
    let mut bench = ready();
    bench.token.set_deadline(Duration::from_millis(10));
    bench.token.hang();
    assert_eq!(bench.wrap().unwrap_err().0.class, OutageClass::Deadline);
    bench.token.heal();
    bench.pass(BACKOFF.max_ms);
    bench.wrap().unwrap();
}
