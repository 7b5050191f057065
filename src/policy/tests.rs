//! Deny by default, tighten only, and limits that a clock cannot widen.

use proptest::collection::{btree_set, vec};
use proptest::prelude::*;

use super::*;
use crate::bitcoin::{InputFacts, OutputFacts, TransactionFacts, TransactionId};
use crate::limits::POLICY_CHARGES_MAX;

const DAY_S: u64 = 24 * 60 * 60;

fn script(bytes: &[u8]) -> ScriptBytes {
    ScriptBytes::new(bytes.to_vec())
}

fn id(number: u32) -> TransactionId {
    let mut bytes = [0; 32];
    bytes[..4].copy_from_slice(&number.to_be_bytes());
    TransactionId::new(bytes)
}

fn facts(number: u32, paid_sat: u64, fee_sat: u64) -> TransactionFacts {
    let own = OutputFacts { value_sat: 9_000_000_000, class: ScriptClass::P2tr, script: script(&[1]), own: true };
    let other = OutputFacts { value_sat: paid_sat, class: ScriptClass::P2wpkh, script: script(&[2]), own: false };
    TransactionFacts {
        id: id(number),
        inputs: vec![InputFacts { value_sat: 9_000_000_000 + paid_sat + fee_sat, class: ScriptClass::P2tr, own: true }],
        outputs: vec![own, other],
        fee_sat,
        weight_wu: 1_000,
    }
}

fn rated(rate: Rate) -> SigningPolicy {
    SigningPolicy { rates: BTreeSet::from([rate]), value_sat_max: u64::MAX, ..SigningPolicy::standard() }
}

fn approve(policy: &SigningPolicy, usage: &mut Usage, facts: &TransactionFacts, now: u64) -> Result<(), PolicyRefusal> {
    let charge = policy.check(facts, usage, now)?;
    usage.record(&charge);
    Ok(())
}

#[test]
fn the_default_policy_refuses_everything() {
    let policy = SigningPolicy::default();
    assert!(policy.check(&facts(1, 0, 0), &Usage::default(), 0).is_err());
    assert_eq!(policy.check_message(false), Err(PolicyRefusal::MessageNotApproved));
    assert_eq!(policy.check_message(true), Ok(()));
    let danger = SigningPolicy { danger_sign_any_message: true, ..policy };
    assert_eq!(danger.check_message(false), Ok(()));
}

#[test]
fn each_limit_refuses_one_above_it_and_names_value_and_limit() {
    let policy = SigningPolicy {
        value_sat_max: 1_000,
        fee_sat_max: 200,
        feerate_sat_per_kvb_max: 800,
        destinations: Destinations::Only(BTreeSet::from([script(&[2])])),
        ..SigningPolicy::standard()
    };
    let check = |facts: &TransactionFacts| policy.check_transaction(facts);
    assert_eq!(check(&facts(1, 1_000, 200)), Ok(()));
    assert_eq!(check(&facts(1, 1_001, 0)), Err(PolicyRefusal::Value { value_sat: 1_001, limit_sat: 1_000 }));
    assert_eq!(check(&facts(1, 0, 201)), Err(PolicyRefusal::Fee { fee_sat: 201, limit_sat: 200 }));
    let light = TransactionFacts { weight_wu: 999, ..facts(1, 0, 200) };
    assert_eq!(check(&light), Err(PolicyRefusal::Feerate { feerate_sat_per_kvb: 801, limit_sat_per_kvb: 800 }));
    let mut elsewhere = facts(1, 7, 0);
    elsewhere.outputs[1].script = script(&[3]);
    assert_eq!(check(&elsewhere), Err(PolicyRefusal::Destination { output: 1, value_sat: 7, allowed: 1 }));
    let mut burned = facts(1, 7, 0);
    burned.outputs[1].class = ScriptClass::OpReturn;
    let allowed = vec![ScriptClass::P2tr, ScriptClass::P2wpkh, ScriptClass::P2wsh];
    assert_eq!(check(&burned), Err(PolicyRefusal::ScriptClass { output: 1, class: ScriptClass::OpReturn, allowed }));
    let mut foreign = facts(1, 7, 0);
    foreign.inputs[0].own = false;
    assert_eq!(check(&foreign), Err(PolicyRefusal::NothingOwn { id: id(1) }));
}

#[test]
fn what_returns_to_the_key_group_is_free() {
    let policy = SigningPolicy {
        script_classes: BTreeSet::new(),
        value_sat_max: 0,
        destinations: Destinations::Only(BTreeSet::new()),
        ..SigningPolicy::standard()
    };
    let mut back = facts(1, 0, 100);
    back.outputs.pop();
    assert_eq!(policy.check_transaction(&back), Ok(()));
}

#[test]
fn a_rate_counts_value_and_fee_in_a_sliding_window() {
    let policy = rated(Rate { window_s: 100, value_sat_max: 1_000, transactions_max: 9 });
    let mut usage = Usage::default();
    assert_eq!(approve(&policy, &mut usage, &facts(1, 500, 100), 1_000), Ok(()));
    let refused = Err(PolicyRefusal::RateValue { value_sat: 1_001, limit_sat: 1_000, window_s: 100 });
    assert_eq!(approve(&policy, &mut usage, &facts(2, 400, 1), 1_099), refused);
    assert_eq!(approve(&policy, &mut usage, &facts(2, 400, 0), 1_099), Ok(()));
    // The first has left the window, the second has not.
    assert_eq!(approve(&policy, &mut usage, &facts(3, 600, 0), 1_100), Ok(()));
    assert!(approve(&policy, &mut usage, &facts(4, 1, 0), 1_100).is_err());
}

#[test]
fn a_rate_counts_transactions() {
    let policy = rated(Rate { window_s: 100, value_sat_max: u64::MAX, transactions_max: 2 });
    let mut usage = Usage::default();
    for number in 1..=2 {
        assert_eq!(approve(&policy, &mut usage, &facts(number, 1, 1), 0), Ok(()));
    }
    let refused = Err(PolicyRefusal::RateTransactions { count: 3, limit: 2, window_s: 100 });
    assert_eq!(approve(&policy, &mut usage, &facts(3, 1, 1), 99), refused);
    // Again the same transaction is no further one.
    assert_eq!(approve(&policy, &mut usage, &facts(2, 1, 1), 99), Ok(()));
    assert_eq!(approve(&policy, &mut usage, &facts(3, 1, 1), 100), Ok(()));
}

#[test]
fn a_transaction_is_charged_once_at_its_highest_value() {
    let policy = rated(Rate { window_s: 100, value_sat_max: 1_000, transactions_max: 9 });
    let mut usage = Usage::default();
    for fee_sat in [10, 300, 20] {
        assert_eq!(approve(&policy, &mut usage, &facts(1, 500, fee_sat), 0), Ok(()));
    }
    assert_eq!((usage.len(), usage.charged_sat(&id(1))), (1, Some(800)));
    assert_eq!(policy.check(&facts(1, 500, 20), &usage, 0).map(|charge| charge.value_sat), Ok(800));
    assert!(approve(&policy, &mut usage, &facts(2, 201, 0), 0).is_err());
    assert!(approve(&policy, &mut usage, &facts(1, 500, 501), 0).is_err());
}

#[test]
fn a_clock_that_steps_back_neither_refuses_for_ever_nor_widens() {
    let policy = rated(Rate { window_s: 100, value_sat_max: 1_000, transactions_max: 9 });
    let mut usage = Usage::default();
    approve(&policy, &mut usage, &facts(1, 600, 0), 10_000).unwrap();
    // Stepped back by far more than the window: the charge still counts, and the new one is not dated back.
    approve(&policy, &mut usage, &facts(2, 400, 0), 0).unwrap();
    assert!(approve(&policy, &mut usage, &facts(3, 1, 0), 0).is_err());
    assert!(approve(&policy, &mut usage, &facts(3, 1, 0), 10_099).is_err());
    usage.forget_before(0, POLICY_WINDOW_S_MAX);
    assert_eq!(usage.len(), 2);
    assert_eq!(approve(&policy, &mut usage, &facts(3, 1_000, 0), 10_100), Ok(()));
}

#[test]
fn charges_are_bounded_and_none_that_counts_is_forgotten() {
    let policy = SigningPolicy { rates: BTreeSet::new(), ..SigningPolicy::standard() };
    let mut usage = Usage::default();
    for number in 0..POLICY_CHARGES_MAX as u32 {
        usage.record(&Charge { id: id(number), value_sat: 1, at_unix_s: u64::from(number) });
    }
    let new = facts(u32::MAX, 1, 1);
    assert_eq!(policy.check(&new, &usage, 0), Err(PolicyRefusal::ChargesFull));
    assert_eq!(PolicyRefusal::ChargesFull.reason().name(), "capacity_exceeded");
    assert_eq!(PolicyRefusal::MessageNotApproved.reason().name(), "message_not_approved");
    assert_eq!(PolicyRefusal::NothingOwn { id: id(1) }.reason().name(), "policy_denied");
    assert!(policy.check(&facts(7, 1, 1), &usage, 0).is_ok());
    let later = POLICY_CHARGES_MAX as u64 + POLICY_WINDOW_S_MAX;
    assert!(policy.check(&new, &usage, later).is_ok(), "a full list must not stay full for ever");
    usage.forget_before(POLICY_CHARGES_MAX as u64, 10);
    assert_eq!(usage.len(), 9);
    assert!(policy.check(&new, &usage, 0).is_ok());
}

#[test]
fn policies_out_of_bounds_are_refused_by_name() {
    let standard = SigningPolicy::standard;
    let rate = |window_s| Rate { window_s, value_sat_max: 0, transactions_max: 0 };
    for window_s in [0, POLICY_WINDOW_S_MAX + 1] {
        let policy = SigningPolicy { rates: BTreeSet::from([rate(window_s)]), ..standard() };
        assert_eq!(policy.encode(), Err(PolicyError::Window { found: window_s }));
    }
    let rates: BTreeSet<Rate> = (1..=POLICY_RATES_MAX as u64 + 1).map(rate).collect();
    let policy = SigningPolicy { rates: rates.clone(), ..standard() };
    assert_eq!(policy.hash(), Err(PolicyError::TooManyRates { found: POLICY_RATES_MAX + 1 }));
    let by = Tightening { rates, ..Tightening::default() };
    assert_eq!(standard().tighten(&by), Err(PolicyError::TooManyRates { found: POLICY_RATES_MAX + 1 }));
    let only = |scripts| SigningPolicy { destinations: Destinations::Only(scripts), ..standard() };
    let long = only(BTreeSet::from([script(&[0; SCRIPT_BYTES_MAX + 1])]));
    assert_eq!(long.encode(), Err(PolicyError::DestinationTooLong { found: SCRIPT_BYTES_MAX + 1 }));
    let many = (0..=POLICY_DESTINATIONS_MAX as u32).map(|number| script(&number.to_be_bytes())).collect();
    assert_eq!(only(many).encode(), Err(PolicyError::TooManyDestinations { found: POLICY_DESTINATIONS_MAX + 1 }));
    let big = (0..100u8).map(|number| script(&[number; 5_000])).collect();
    assert!(matches!(only(big).encode(), Err(PolicyError::TooLong { .. })));
    assert_eq!(
        SigningPolicy::decode(&vec![0; POLICY_BYTES_MAX + 1]),
        Err(PolicyError::TooLong { found: POLICY_BYTES_MAX + 1 })
    );
}

#[test]
fn a_configuration_file_cannot_name_what_it_cannot_tighten() {
    assert!(serde_json::from_str::<Tightening>(r#"{"danger_sign_any_message": true}"#).is_err());
    let by: Tightening =
        serde_json::from_str(r#"{"value_sat_max": 5, "script_classes": ["p2tr"], "destinations": ["5120"]}"#).unwrap();
    let tight = SigningPolicy::standard().tighten(&by).unwrap();
    assert_eq!((tight.value_sat_max, tight.script_classes), (5, BTreeSet::from([ScriptClass::P2tr])));
    assert_eq!(tight.destinations, Destinations::Only(BTreeSet::from([script(&[0x51, 0x20])])));
}

#[test]
fn an_encoding_out_of_order_or_with_something_behind_it_is_refused() {
    let bytes = SigningPolicy::standard().encode().unwrap();
    assert_eq!(bytes[..4], [3, 0, 1, 2], "three classes, ascending");
    let mut unsorted = bytes.clone();
    unsorted.swap(1, 2);
    let longer = [bytes, vec![0]].concat();
    for other in [unsorted, longer] {
        assert_eq!(SigningPolicy::decode(&other), Err(PolicyError::Encoding));
    }
}

fn classes() -> impl Strategy<Value = BTreeSet<ScriptClass>> {
    btree_set(
        prop_oneof![
            Just(ScriptClass::P2tr),
            Just(ScriptClass::P2wpkh),
            Just(ScriptClass::P2wsh),
            Just(ScriptClass::OpReturn)
        ],
        0..4,
    )
}

fn scripts() -> impl Strategy<Value = BTreeSet<ScriptBytes>> {
    btree_set((0u8..4).prop_map(|byte| script(&[byte])), 0..4)
}

fn rates() -> impl Strategy<Value = BTreeSet<Rate>> {
    let rate = (1..DAY_S, 0u64..3_000, 0u32..5).prop_map(|(window_s, value_sat_max, transactions_max)| Rate {
        window_s,
        value_sat_max,
        transactions_max,
    });
    btree_set(rate, 0..3)
}

prop_compose! {
    fn policies()(
        script_classes in classes(),
        (value_sat_max, fee_sat_max, feerate_sat_per_kvb_max) in (0u64..2_000, 0u64..500, 0u64..3_000),
        destinations in prop_oneof![Just(Destinations::Any), scripts().prop_map(Destinations::Only)],
        rates in rates(),
        danger_sign_any_message: bool,
    ) -> SigningPolicy {
        SigningPolicy {
            script_classes, value_sat_max, fee_sat_max, feerate_sat_per_kvb_max, destinations, rates,
            danger_sign_any_message,
        }
    }
}

prop_compose! {
    fn tightenings()(
        script_classes in proptest::option::of(classes()),
        value_sat_max in proptest::option::of(0u64..2_000),
        fee_sat_max in proptest::option::of(0u64..500),
        feerate_sat_per_kvb_max in proptest::option::of(0u64..3_000),
        destinations in proptest::option::of(scripts()),
        rates in rates(),
        refuse_any_message: bool,
    ) -> Tightening {
        Tightening {
            script_classes, value_sat_max, fee_sat_max, feerate_sat_per_kvb_max, destinations, rates,
            refuse_any_message,
        }
    }
}

proptest! {
    #[test]
    fn a_tightened_policy_allows_nothing_that_the_policy_does_not(
        policy in policies(),
        by in tightenings(),
        payments in vec((0u32..6, 0u64..1_500, 0u64..400, 0u64..2 * DAY_S), 1..12),
    ) {
        let tight = policy.tighten(&by).unwrap();
        prop_assert!(policy.danger_sign_any_message || !tight.danger_sign_any_message);
        let mut usage = Usage::default();
        for (number, paid_sat, fee_sat, now) in payments {
            let facts = facts(number, paid_sat, fee_sat);
            if let Ok(charge) = tight.check(&facts, &usage, now) {
                prop_assert_eq!(policy.check(&facts, &usage, now), Ok(charge));
                usage.record(&charge);
            }
        }
    }

    #[test]
    fn no_window_ever_holds_more_than_its_rate_whatever_the_clock_does(
        rate in rates().prop_filter("a rate", |rates| !rates.is_empty()),
        payments in vec((0u32..9, 0u64..1_500, 0u64..400, 0u64..2 * DAY_S), 1..40),
    ) {
        let policy = SigningPolicy { rates: rate, ..SigningPolicy::standard() };
        let mut usage = Usage::default();
        let mut charges: Vec<Charge> = Vec::new();
        for (number, paid_sat, fee_sat, now) in payments {
            if let Ok(charge) = policy.check(&facts(number, paid_sat, fee_sat), &usage, now) {
                prop_assert!(charges.last().is_none_or(|last| last.at_unix_s <= charge.at_unix_s));
                usage.record(&charge);
                charges.retain(|earlier| earlier.id != charge.id);
                charges.push(charge);
                usage.forget_before(now, POLICY_WINDOW_S_MAX);
            }
        }
        for rate in &policy.rates {
            for end in &charges {
                let held: Vec<_> = charges
                    .iter()
                    .filter(|one| one.at_unix_s <= end.at_unix_s && end.at_unix_s - one.at_unix_s < rate.window_s)
                    .collect();
                prop_assert!(held.len() <= rate.transactions_max as usize);
                prop_assert!(held.iter().map(|one| one.value_sat).sum::<u64>() <= rate.value_sat_max);
            }
        }
    }

    #[test]
    fn the_encoding_is_canonical_and_the_hash_follows_it(policy in policies(), other in policies()) {
        let bytes = policy.encode().unwrap();
        prop_assert_eq!(SigningPolicy::decode(&bytes), Ok(policy.clone()));
        prop_assert_eq!(policy == other, policy.hash() == other.hash());
    }

    #[test]
    fn arbitrary_bytes_never_panic_and_decode_to_their_own_encoding_only(bytes in vec(any::<u8>(), 0..60)) {
        if let Ok(policy) = SigningPolicy::decode(&bytes) {
            prop_assert_eq!(policy.encode().unwrap(), bytes);
        }
    }
}
