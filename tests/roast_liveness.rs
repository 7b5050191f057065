//! Goal: under every schedule with at least t honest members a signature comes out, within n - t + 1 attempts beside
//! readmissions, and no honest member is ever blamed. Method: seeded runs of the machine with real FROST shares in a small
//! world (`roast_sim`). On a failure the seed and the log are printed.
//!
//! `FROSTKEEP_ROAST_SEEDS` sets how many seeds there are (10 000), `FROSTKEEP_ROAST_SEED` runs one.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::print_stdout)]

mod roast_sim;

use frostkeep::coordinator::{Blame, Fault};
use roast_sim::Dice;
use roast_sim::member::Character;
use roast_sim::network::{Run, Schedule};

/// Seeds are dealt over this many tests, so that they run side by side.
const PARTS: u64 = 16;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is a number, not {text}")))
}

fn check(seed: u64) -> (usize, usize) {
    let mut run = Run::new(seed, false);
    if run.run().is_ok() {
        return (run.attempts, run.packets_sent);
    }
    let mut run = Run::new(seed, true);
    let Err(broken) = run.run() else { panic!("seed {seed}: the run is not the same twice") };
    println!("{}", run.log.unwrap_or_default().join("\n"));
    panic!("seed {seed} (FROSTKEEP_ROAST_SEED={seed}): {}", broken.0);
}

fn part(index: u64) {
    if let Some(seed) = number("FROSTKEEP_ROAST_SEED") {
        if index == 0 {
            check(seed);
        }
        return;
    }
    let seeds = number("FROSTKEEP_ROAST_SEEDS").unwrap_or(10_000);
    let (mut runs, mut attempts, mut packets) = (0, 0, 0);
    for seed in (0..seeds).filter(|seed| seed % PARTS == index) {
        let (made, sent) = check(seed);
        runs += 1;
        attempts = attempts.max(made);
        packets += sent;
    }
    println!("{runs} seeds, at most {attempts} attempts in one, {packets} messages");
}

macro_rules! parts {
    ($($name:ident $index:literal),+) => {$(
        #[test]
        fn $name() {
            part($index);
        }
    )+};
}

parts! {
    t_honest_members_sign_and_none_of_them_is_blamed_00 0,
    t_honest_members_sign_and_none_of_them_is_blamed_01 1,
    t_honest_members_sign_and_none_of_them_is_blamed_02 2,
    t_honest_members_sign_and_none_of_them_is_blamed_03 3,
    t_honest_members_sign_and_none_of_them_is_blamed_04 4,
    t_honest_members_sign_and_none_of_them_is_blamed_05 5,
    t_honest_members_sign_and_none_of_them_is_blamed_06 6,
    t_honest_members_sign_and_none_of_them_is_blamed_07 7,
    t_honest_members_sign_and_none_of_them_is_blamed_08 8,
    t_honest_members_sign_and_none_of_them_is_blamed_09 9,
    t_honest_members_sign_and_none_of_them_is_blamed_10 10,
    t_honest_members_sign_and_none_of_them_is_blamed_11 11,
    t_honest_members_sign_and_none_of_them_is_blamed_12 12,
    t_honest_members_sign_and_none_of_them_is_blamed_13 13,
    t_honest_members_sign_and_none_of_them_is_blamed_14 14,
    t_honest_members_sign_and_none_of_them_is_blamed_15 15
}

#[test]
fn each_lie_is_blamed_on_the_liar_by_its_name_and_with_proof_when_it_was_signed() {
    let unproved = |fault: Fault| Some(Blame::Unproved(fault));
    let lies = [
        (Character::BadShareSigned, None),
        (Character::NoScalar, None),
        (Character::BadShareUnsigned, unproved(Fault::BadShareUnsigned)),
        (Character::CommitmentsAgain, unproved(Fault::CommitmentsAgain)),
        (Character::WrongRound, unproved(Fault::Unsolicited)),
        (Character::Unsolicited, unproved(Fault::Unsolicited)),
        (Character::TwoAnswers, unproved(Fault::TwoAnswers)),
    ];
    for (character, expected) in lies {
        let mut caught = 0;
        for seed in 0..60 {
            let characters = [character, Character::Honest, Character::Honest, Character::Honest];
            let schedule = Schedule {
                threshold: 3,
                members: 4,
                characters: characters.to_vec(),
                drop_once_in: 1_000_000,
                repeat_once_in: 3,
                delay_max: 40,
                members_restart: false,
                coordinator_restarts: 0,
                stale_requests: false,
            };
            let mut run = Run::of(schedule, Dice(seed), false);
            run.run().unwrap_or_else(|broken| panic!("{character:?}, seed {seed}: {}", broken.0));
            for (member, blame) in run.blamed() {
                assert_eq!(member.number(), 1);
                match (&blame, &expected) {
                    (Blame::Proved(round), None) => assert_eq!(round.member, 1),
                    // The network delivered the altered one first.
                    (Blame::Unproved(Fault::BadShareUnsigned), _) if character == Character::TwoAnswers => {}
                    _ => assert_eq!(Some(&blame), expected.as_ref(), "{character:?}, seed {seed}"),
                }
                caught += 1;
            }
        }
        assert!(caught > 5, "{character:?} was caught {caught} times");
    }
}
