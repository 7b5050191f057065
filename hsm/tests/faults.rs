//! Goal: whatever a module answers, and whether it answers, ends in the documented class, loses nothing, and heals at the first probe
//! after the fault, or stays fenced where that is documented.
//!
//! Method: the real provider and the real agent on SoftHSM, with the fault shim between them. Each cell is one fault at one call:
//! every code of PKCS#11 before and after every call that the provider makes, and hangs, aborts, delays and flipped bits. The
//! expectations are in `faults/documented.rs`. The clock is moved by hand, so that "at the first probe" is exact; deadlines are real.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, clippy::print_stdout)]
#![allow(unreachable_pub, clippy::disallowed_methods, reason = "a test of several files, which measures real time")]

#[path = "faults/bench.rs"]
mod bench;
#[path = "faults/cells.rs"]
mod cells;
#[path = "faults/documented.rs"]
mod documented;
#[path = "faults/flips.rs"]
mod flips;
#[path = "faults/sites.rs"]
mod sites;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

use bench::Bench;
use cells::Cell;
use documented::{CODES, Class};
use frostkeep_fixtures::{Rule, What, When};
use frostkeep_hsm::config::Deadlines;
use frostkeep_hsm::entropy::os;
use frostkeep_hsm::health::{OutageClass, ProviderState};
use frostkeep_hsm::provider::KeyProvider;
use frostkeep_hsm::provision::{CreateKey, ProvisionError, init, show};
use sites::{DAMAGED, HEALTH, OPENING, Operation, Site, UNWRAP, WRAP};

/// Parts of the codes, one test each, so that they run side by side.
const CODE_PARTS: usize = 8;
/// Hanging calls at once: they cost nothing but time.
const HANGS_AT_ONCE: usize = 8;
/// Short, and yet far above what a call takes on a loaded machine.
const IMPATIENT: Deadlines = Deadlines { start_ms: 3_000, login_ms: 1_500, call_ms: 1_000 };
/// Above every deadline.
const LATE_MS: u64 = 10_000;

/// Runs each cell, all of them also when some fail, and says how many.
fn run(cells: &[Cell], new: impl Fn() -> Bench) {
    let mut bench = new();
    let mut failed = 0;
    for cell in cells {
        if catch_unwind(AssertUnwindSafe(|| bench.run(cell))).is_err() {
            println!("not as documented: {cell:?}");
            failed += 1;
            bench = new();
        }
    }
    bench.left_the_token_alone();
    println!("{} cells", cells.len());
    assert_eq!(failed, 0, "of {} cells", cells.len());
}

fn part(cells: &[Cell], number: usize, parts: usize) -> Vec<Cell> {
    cells.iter().skip(number).step_by(parts).cloned().collect()
}

fn run_at_once(cells: &[Cell]) {
    thread::scope(|scope| {
        for number in 0..HANGS_AT_ONCE {
            let cells = part(cells, number, HANGS_AT_ONCE);
            scope.spawn(move || run(&cells, || Bench::new(IMPATIENT)));
        }
    });
}

macro_rules! parts_of_codes {
    ($($name:ident = $number:literal)*) => {
        $(#[test]
        fn $name() {
            run(&part(&cells::codes(), $number, CODE_PARTS), Bench::patient);
        })*

        /// So that no part is left out, and that the manual tells the truth.
        #[test]
        fn the_matrix_has_as_many_cells_as_the_manual_says() {
            assert_eq!([$($number),*].as_slice(), (0..CODE_PARTS).collect::<Vec<_>>());
            assert_eq!(CODES.iter().map(|(_, codes)| codes.len()).sum::<usize>(), 95, "codes of PKCS#11");
            let kinds = [
                (cells::codes(), "codes"),
                (cells::aborts(), "aborts"),
                (cells::hangs(), "hangs"),
                (cells::late_answers(LATE_MS), "answers after the deadline"),
                (cells::delays(), "answers before the deadline"),
                (flips::flips(), "flipped bits"),
            ];
            let mut told = String::new();
            for (cells, name) in &kinds {
                told.push_str(&format!("| {name} | {} |\n", cells.len()));
            }
            let total: usize = kinds.iter().map(|(cells, _)| cells.len()).sum();
            told.push_str(&format!("| in all | {total} |\n"));
            println!("{told}{total} cells");
            assert!(include_str!("../../src/manual/outage.md").contains(&told), "the manual says otherwise:\n{told}");
        }
    };
}

parts_of_codes! {
    every_code_at_every_call_ends_as_documented_part_1 = 0
    every_code_at_every_call_ends_as_documented_part_2 = 1
    every_code_at_every_call_ends_as_documented_part_3 = 2
    every_code_at_every_call_ends_as_documented_part_4 = 3
    every_code_at_every_call_ends_as_documented_part_5 = 4
    every_code_at_every_call_ends_as_documented_part_6 = 5
    every_code_at_every_call_ends_as_documented_part_7 = 6
    every_code_at_every_call_ends_as_documented_part_8 = 7
}

#[test]
fn a_module_that_aborts_is_restarted_and_nothing_is_lost() {
    run(&cells::aborts(), Bench::patient);
}

#[test]
fn a_call_that_hangs_is_an_outage_at_its_deadline() {
    run_at_once(&cells::hangs());
}

#[test]
fn an_answer_after_the_deadline_is_none() {
    run_at_once(&cells::late_answers(LATE_MS));
}

#[test]
fn an_answer_before_the_deadline_is_one() {
    run(&cells::delays(), Bench::patient);
}

#[test]
fn no_flipped_bit_is_taken_for_the_truth() {
    run(&flips::flips(), Bench::patient);
}

/// So that no call is left out: one that is added is a site, or this fails.
#[test]
fn the_calls_that_the_provider_makes_are_those_of_the_matrix() {
    let mut bench = Bench::patient();
    for (operation, sites) in [
        (Operation::Reopen, OPENING),
        (Operation::Wrap, WRAP),
        (Operation::Unwrap, UNWRAP),
        (Operation::UnwrapDamaged, DAMAGED),
        (Operation::Health, HEALTH),
    ] {
        let mut expected: Vec<&str> = sites.iter().map(|site| site.function).collect();
        let mut plan: Vec<Rule> = sites[0].first.iter().map(|first| first_fault(*first)).collect();
        // Counts everything, hits nothing.
        plan.push("* 0 0 before abort".parse().unwrap());
        bench.shim.set(&plan).unwrap();
        bench.act(operation).unwrap();
        if operation == Operation::Reopen {
            // It was a seal that asked for the reconnection.
            expected.extend(WRAP.iter().map(|site| site.function));
        }
        let hits = bench.shim.hits().unwrap();
        let called: Vec<&str> =
            hits.iter().filter(|hit| hit.rule == plan.len()).map(|hit| hit.function.as_str()).collect();
        assert_eq!(called, expected, "{operation:?}");
        for (number, Site { name, function, skip, .. }) in sites.iter().enumerate() {
            let before = sites[..number].iter().filter(|site| site.function == *function).count();
            assert_eq!(u64::try_from(before).unwrap(), *skip, "{name}");
        }
        bench.shim.clear().unwrap();
    }
}

fn first_fault((function, skip, code): sites::First) -> Rule {
    Rule::once(function, skip, When::Before, What::Rv(code))
}

/// A fault that stays: one outage, of one class, however often it is tried; the waits grow to their bound and no further.
#[test]
fn a_fault_that_lasts_is_one_outage_and_heals_when_it_ends() {
    let mut bench = Bench::patient();
    for (class, codes) in CODES {
        let expected = match class {
            Class::Session => OutageClass::Session,
            Class::Ambiguous | Class::Token => OutageClass::Token,
            Class::Module => OutageClass::Module,
            Class::Credential => OutageClass::Credential,
            Class::Integrity => OutageClass::Integrity,
            Class::Usage => OutageClass::Usage,
        };
        let outages = bench.provider.health().outages;
        bench.shim.set(&[Rule::always("C_Sign", 1, When::Before, What::Rv(codes[0].0))]).unwrap();
        let begun = bench.act(Operation::Wrap).unwrap_err();
        let mut waits = Vec::new();
        for _ in 0..10 {
            let outage = bench.provider.health().outage.unwrap();
            assert_eq!((outage.class, outage.since), (expected, begun.since), "{outage:?}");
            waits.push(bench.probe());
        }
        assert_eq!(bench.provider.health().outages, outages + 1);
        assert!(waits.iter().all(|wait| (bench::BACKOFF_MS_MIN..=bench::BACKOFF_MS_MAX).contains(wait)), "{waits:?}");
        assert!(waits[9] >= bench::BACKOFF_MS_MAX / 2, "{waits:?}");
        assert!(bench.shim.struck(1).unwrap() > 10, "every probe met it");
        bench.shim.clear().unwrap();
        bench.probe();
        assert_eq!(bench.provider.health().state, ProviderState::Ready);
        bench.lost_nothing(None);
    }
    bench.left_the_token_alone();
}

/// "More slots than a moment ago", for ever: the library that asks again never stops. The deadline does.
#[test]
fn slots_that_never_come_to_an_end_are_an_outage_at_the_deadline() {
    let mut bench = Bench::new(IMPATIENT);
    let plan = [first_fault(OPENING[0].first[0]), Rule::always("C_GetSlotList", 1, When::After, What::Rv(0x150))];
    bench.shim.set(&plan).unwrap();
    assert_eq!(bench.act(Operation::Reopen).unwrap_err().class, OutageClass::Deadline);
    bench.shim.clear().unwrap();
    bench.probe();
    assert_eq!(bench.provider.health().state, ProviderState::Ready);
    bench.lost_nothing(None);
}

/// The other way out of a latch: the file holds another PIN than the one that was refused.
#[test]
fn a_changed_pin_lifts_the_latch_of_every_credential_code() {
    let mut bench = Bench::patient();
    let (_, codes) = CODES.iter().find(|(class, _)| *class == Class::Credential).unwrap();
    // A token that is locked looks at no PIN, and latches none.
    for (code, name) in codes.iter().filter(|(_, name)| *name != "CKR_PIN_LOCKED") {
        bench.write_pin("another-pin");
        let plan = [first_fault(OPENING[0].first[0]), first_fault(("C_Login", 0, *code))];
        bench.shim.set(&plan).unwrap();
        assert_eq!(bench.act(Operation::Reopen).unwrap_err().class, OutageClass::Credential, "{name}");
        assert_eq!(bench.shim.struck(2).unwrap(), 1);
        bench.shim.set_text("C_Login 0 0 before abort").unwrap();
        bench.probe();
        assert_eq!(bench.provider.health().state, ProviderState::Fenced, "{name}");
        assert_eq!(bench.shim.hits().unwrap(), [], "{name}: the refused pin was tried again");
        bench.write_pin(bench::PIN);
        bench.probe();
        assert_eq!(bench.provider.health().state, ProviderState::Ready, "{name}");
        assert_eq!(bench.shim.hits().unwrap().len(), 1, "{name}: one login");
        bench.lost_nothing(None);
    }
}

/// A search that is answered with another key's handle.
#[test]
fn a_key_that_was_not_asked_for_is_not_taken() {
    let mut bench = Bench::patient();
    let second = bench.second_key();
    let required: Vec<_> = bench.keys.iter().chain([&second]).cloned().collect();
    for required in [required.clone(), required.into_iter().rev().collect()] {
        bench.restart_with(&required);
        // The handle of the second key that is searched for, turned into that of the first.
        let flipped = |bit| Rule::once("C_FindObjects", 1, When::After, What::Flip(bit));
        let mut told = Vec::new();
        for bit in 0..3 {
            bench.shim.set(&[first_fault(OPENING[0].first[0]), flipped(bit)]).unwrap();
            told.push(bench.act(Operation::Reopen).unwrap_err());
            assert_eq!(bench.shim.struck(2).unwrap(), 1);
            bench.shim.clear().unwrap();
            bench.probe();
            assert_eq!(bench.provider.keys(), bench.keys, "the configured key seals");
            bench.lost_nothing(None);
        }
        let unasked: Vec<_> = told.iter().filter(|outage| outage.detail.contains("key_unasked")).collect();
        assert_eq!(unasked.len(), 1, "{told:?}");
        assert_eq!(unasked[0].class, OutageClass::Integrity);
    }
}

/// A key that was made although the token said no, or its process died over it, is found the next time: never a second one.
#[test]
fn a_creation_that_failed_leaves_at_most_one_key() {
    let bench = Bench::patient();
    let failures = CODES.iter().map(|(_, codes)| What::Rv(codes[0].0)).chain([What::Abort]);
    for (number, (what, when)) in
        failures.flat_map(|what| [When::Before, When::After].map(|when| (what, when))).enumerate()
    {
        let config = bench.config_of(&format!("made-{number}"));
        bench.shim.set(&[Rule::once("C_GenerateKey", 0, when, what)]).unwrap();
        let refused = init(&config, CreateKey::IfAbsent, Box::new(os())).unwrap_err();
        assert!(matches!(refused, ProvisionError::Token(_)), "{what:?} {when:?}: {refused}");
        assert_eq!(bench.shim.struck(1).unwrap(), 1);
        let report = init(&config, CreateKey::IfAbsent, Box::new(os())).unwrap();
        assert_eq!(report.created, when == When::Before, "{what:?} {when:?}");
        assert_eq!(show(&config, true, Box::new(os())).unwrap().keys, Some(vec![report.key]));
    }
}
