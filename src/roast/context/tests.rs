use proptest::prelude::*;

use super::*;

struct Owned {
    key_group: KeyGroupId,
    session: SessionId,
    message: Message,
    threshold: u16,
}

impl Owned {
    fn new() -> Self {
        let mut key_group = [9; 33];
        key_group[0] = 2;
        Self {
            key_group: KeyGroupId::new(key_group).unwrap(),
            session: SessionId::new("session").unwrap(),
            message: Message::new([3; 32]),
            threshold: 3,
        }
    }

    fn binding(&self) -> AttemptBinding<'_> {
        let Self { key_group, session, message, threshold } = self;
        AttemptBinding { key_group, session, message, threshold: *threshold }
    }

    fn attempt(&self, number: u32, included: &[u16]) -> AttemptContext {
        AttemptContext::derive(&self.binding(), number, included).unwrap()
    }
}

fn parse(parts: &AttemptContextParts) -> Result<AttemptContext, ContextError> {
    AttemptContext::parse(&Owned::new().binding(), parts)
}

#[test]
fn each_fault_of_a_context_is_named_and_in_the_order_of_rfc_21() {
    // Faults are added from the last check to the first: each one must hide those that come after it.
    let good = Owned::new().attempt(2, &[1, 2, 3, 4]).parts();
    assert_eq!(parse(&good).unwrap().parts(), good);
    let mut bad = good.clone();
    bad.attempt_id[0] ^= 1;
    assert!(matches!(parse(&bad), Err(ContextError::AttemptIdMismatch { .. })));
    bad.included_fingerprint[0] ^= 1;
    assert!(matches!(parse(&bad), Err(ContextError::FingerprintMismatch { .. })));
    bad.coordinator = if good.coordinator == 1 { 2 } else { 1 };
    let mismatch = ContextError::CoordinatorMismatch { found: bad.coordinator, expected: good.coordinator };
    assert_eq!(parse(&bad), Err(mismatch));
    bad.coordinator = 9;
    assert_eq!(parse(&bad), Err(ContextError::CoordinatorOutside { coordinator: 9 }));
    bad.included = vec![2, 1];
    assert_eq!(parse(&bad), Err(ContextError::BelowThreshold { count: 2, threshold: 3 }));
    bad.included = vec![0, 1];
    assert_eq!(parse(&bad), Err(ContextError::IncludedZero));
    bad.included = vec![1, 0, 1];
    assert_eq!(parse(&bad), Err(ContextError::IncludedTwice { member: 1 }));
    bad.included = (1..=256).collect();
    assert_eq!(parse(&bad), Err(ContextError::IncludedTooMany { count: 256 }));
    bad.included.clear();
    assert_eq!(parse(&bad), Err(ContextError::IncludedEmpty));
    bad.coordinator = 0;
    assert_eq!(parse(&bad), Err(ContextError::CoordinatorZero));
    bad.number = ATTEMPTS_MAX + 1;
    assert_eq!(parse(&bad), Err(ContextError::Exhausted { number: ATTEMPTS_MAX + 1 }));
    bad.number = 0;
    assert_eq!(parse(&bad), Err(ContextError::NumberZero));
}

#[test]
fn reasons_are_stable() {
    let reasons = [
        (ContextError::NumberZero, "attempt_context_invalid"),
        (ContextError::IncludedTwice { member: 1 }, "attempt_context_invalid"),
        (ContextError::FingerprintMismatch { found: [0; 32], expected: [1; 32] }, "attempt_context_invalid"),
        (ContextError::Exhausted { number: 5_000 }, "attempt_exhausted"),
        (ContextError::CoordinatorMismatch { found: 1, expected: 2 }, "coordinator_mismatch"),
        (ContextError::AttemptIdMismatch { found: [0; 32], expected: AttemptId::new([1; 32]) }, "attempt_id_mismatch"),
    ];
    for (error, reason) in reasons {
        assert_eq!(error.reason().name(), reason);
    }
}

#[test]
fn a_context_is_valid_under_its_own_binding_only() {
    let parts = Owned::new().attempt(1, &[1, 2, 3, 4, 5]).parts();
    let session = Owned { session: SessionId::new("other").unwrap(), ..Owned::new() };
    let message = Owned { message: Message::new([4; 32]), ..Owned::new() };
    let threshold = Owned { threshold: 6, ..Owned::new() };
    for other in [session, message, threshold] {
        assert!(AttemptContext::parse(&other.binding(), &parts).is_err());
    }
}

#[test]
fn the_last_attempt_number_is_still_valid() {
    assert_eq!(Owned::new().attempt(ATTEMPTS_MAX, &[1, 2, 3]).number(), ATTEMPTS_MAX);
}

#[test]
fn a_context_stands_to_the_active_one_by_number_then_by_every_field() {
    let owned = Owned::new();
    let active = owned.attempt(5, &[1, 2, 3]);
    assert_eq!(active.against(&active), AgainstActive::Same);
    assert_eq!(owned.attempt(6, &[2, 3, 4]).against(&active), AgainstActive::Next);
    assert_eq!(owned.attempt(4, &[1, 2, 3]).against(&active), AgainstActive::Stale { number: 4, active: 5 });
    assert_eq!(owned.attempt(7, &[1, 2, 3]).against(&active), AgainstActive::Future { number: 7, active: 5 });
    let other = owned.attempt(5, &[1, 2, 4]);
    assert_eq!(other.against(&active), AgainstActive::Conflict { id: other.id(), active: active.id() });
}

proptest! {
    #[test]
    fn a_derived_context_parses_whatever_the_order_of_its_members(
        number in 1..=ATTEMPTS_MAX,
        included in proptest::collection::btree_set(1u16.., 3..40),
        seed: i64,
    ) {
        let owned = Owned::new();
        let mut shuffled: Vec<u16> = included.iter().copied().collect();
        super::super::go_rand::GoRand::new(seed).shuffle(&mut shuffled);
        let derived = owned.attempt(number, &shuffled);
        let sorted: Vec<u16> = derived.included().iter().map(|member| member.number()).collect();
        prop_assert_eq!(sorted, included.into_iter().collect::<Vec<_>>());
        let parts = AttemptContextParts { included: shuffled, ..derived.parts() };
        prop_assert_eq!(AttemptContext::parse(&owned.binding(), &parts), Ok(derived));
    }

    #[test]
    fn attempts_with_different_numbers_or_sets_have_different_ids(number in 1..ATTEMPTS_MAX, extra in 4u16..) {
        let owned = Owned::new();
        let base = owned.attempt(number, &[1, 2, 3]);
        prop_assert_ne!(base.id(), owned.attempt(number + 1, &[1, 2, 3]).id());
        prop_assert_ne!(base.id(), owned.attempt(number, &[1, 2, 3, extra]).id());
    }

    #[test]
    fn arbitrary_parts_never_panic_and_never_pass(
        number: u32,
        coordinator: u16,
        included in proptest::collection::vec(any::<u16>(), 0..300),
        included_fingerprint: [u8; 32],
        attempt_id: [u8; 32],
    ) {
        let parts = AttemptContextParts { number, coordinator, included, included_fingerprint, attempt_id };
        prop_assert!(parse(&parts).is_err());
    }

    #[test]
    fn arbitrary_bytes_of_stored_parts_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(parts) = postcard::from_bytes::<AttemptContextParts>(&bytes) {
            prop_assert!(parse(&parts).is_err());
        }
    }
}
