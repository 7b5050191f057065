//! Go's legacy `math/rand`: an additive lagged Fibonacci generator, and the shuffle on top of it.
//!
//! Not a source of randomness: every node must compute the same permutation from a public seed.

#![allow(
    clippy::indexing_slicing,
    reason = "every index is reduced modulo the fixed length, or below the slice's length"
)]

mod table;

use table::COOKED;

const LENGTH: usize = COOKED.len();
const TAP: usize = 273;
const WARM_UP_STEPS: usize = 20;
/// The seed that stands in for zero, which the multiplicative step would never leave.
const SEED_FOR_ZERO: i64 = 89_482_311;
const MODULUS: i64 = (1 << 31) - 1;
const MULTIPLIER: i64 = 48_271;

/// The generator of `rand.New(rand.NewSource(seed))`.
pub struct GoRand {
    words: [u64; LENGTH],
    tap: usize,
    feed: usize,
}

impl GoRand {
    /// The generator with this seed; all 64-bit seeds are valid, congruent ones (modulo 2^31 - 1) are equal.
    pub fn new(seed: i64) -> Self {
        let mut state = match seed.rem_euclid(MODULUS) {
            0 => SEED_FOR_ZERO,
            state => state,
        };
        let mut draw = || {
            state = state * MULTIPLIER % MODULUS;
            state
        };
        for _ in 0..WARM_UP_STEPS {
            draw();
        }
        let mut words = [0; LENGTH];
        for (word, cooked) in words.iter_mut().zip(COOKED) {
            *word = ((draw() << 40) ^ (draw() << 20) ^ draw() ^ cooked) as u64;
        }
        Self { words, tap: 0, feed: LENGTH - TAP }
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.tap = (self.tap + LENGTH - 1) % LENGTH;
        self.feed = (self.feed + LENGTH - 1) % LENGTH;
        let word = self.words[self.feed].wrapping_add(self.words[self.tap]);
        self.words[self.feed] = word;
        word
    }

    /// The next 32 bits: the upper half of 63.
    pub fn next_u32(&mut self) -> u32 {
        ((self.next_u64() & (u64::MAX >> 1)) >> 31) as u32
    }

    /// A number below `bound` (Lemire's multiply-shift, with rejection); `bound` is not zero.
    fn below(&mut self, bound: u32) -> u32 {
        let mut product = u64::from(self.next_u32()) * u64::from(bound);
        if (product as u32) < bound {
            let threshold = bound.wrapping_neg() % bound;
            while (product as u32) < threshold {
                product = u64::from(self.next_u32()) * u64::from(bound);
            }
        }
        (product >> 32) as u32
    }

    /// Permutes `items` (at most 2^31 - 1 of them, which a set of `u16` never exceeds).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let other = self.below(last as u32 + 1) as usize;
            items.swap(last, other);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::hash::sha256;
    use crate::ids::to_hex;

    #[test]
    fn the_first_draws_are_those_of_go_at_the_edges_of_the_seed_too() {
        // Int63 of rand.New(rand.NewSource(seed)); the first three numbers of seed 1 are in many a Go tutorial.
        for (seed, expected) in [
            (1, [5_577_006_791_947_779_410, 8_674_665_223_082_153_551, 6_129_484_611_666_145_821]),
            (42, [3_440_579_354_231_278_675, 608_747_136_543_856_411, 5_571_782_338_101_878_760]),
            (0, [8_717_895_732_742_165_505, 2_259_404_117_704_393_152, 6_050_128_673_802_995_827]),
            (-1, [3_644_962_268_338_389_676, 550_171_362_161_912_239, 3_094_056_749_125_766_625]),
            (i64::MIN, [7_681_445_645_332_086_223, 6_777_158_040_660_201_103, 8_748_006_033_234_207_912]),
            (i64::MAX, [5_577_006_791_947_779_410, 8_674_665_223_082_153_551, 6_129_484_611_666_145_821]),
        ] {
            let mut generator = GoRand::new(seed);
            let drawn = [(); 3].map(|()| generator.next_u64() & (u64::MAX >> 1));
            assert_eq!(drawn, expected, "seed {seed}");
        }
    }

    #[test]
    fn shuffles_of_255_are_those_of_an_independent_implementation() {
        for (seed, expected) in [
            (0, "38e24cc2e197acedb3fb5a81d6b135d3105d621d4eb6bf2e373fa22675169bce"),
            (-1, "41a68e5f6212ed55dbcde53b98db960c4df45f6563d4baf99a5a8ef601d82234"),
            (7, "c3265fbb7ac4bfb9c96ac3323a97a7a5074b289b150b27204880d92f7742f22f"),
            (i64::MIN, "cb45d286c82aae8180bf1f7ff0e56dd585364e75ed15c3730d167ac9f8ae1952"),
            (i64::MAX, "a40f9f0329960b8716f5f6a598c62b842cd95185cdc778635c212da2180b08b3"),
        ] {
            let mut members: Vec<u16> = (1..=255).collect();
            GoRand::new(seed).shuffle(&mut members);
            let bytes: Vec<u8> = members.iter().flat_map(|member| member.to_be_bytes()).collect();
            assert_eq!(to_hex(&sha256(&bytes)), expected, "seed {seed}");
        }
    }

    #[test]
    fn a_bounded_draw_rejects_what_would_bias_it() {
        // A bound of 3e9 rejects three draws in ten: two for the first seed, one for the second, in six numbers.
        for (seed, expected) in [
            (3, [2_825_881_675, 2_304_411_283, 2_680_599_378, 657_214_940, 1_282_900_454, 1_523_058_186]),
            (5, [2_411_534_487, 1_558_857_741, 2_938_156_699, 1_438_117_195, 2_100_801_466, 1_406_825_733]),
        ] {
            let mut generator = GoRand::new(seed);
            assert_eq!([(); 6].map(|()| generator.below(3_000_000_000)), expected, "seed {seed}");
        }
    }

    proptest! {
        #[test]
        fn a_shuffle_is_a_permutation_and_a_function_of_its_seed(seed: i64, length in 0usize..300) {
            let sorted: Vec<usize> = (0..length).collect();
            let mut once = sorted.clone();
            GoRand::new(seed).shuffle(&mut once);
            let mut again = sorted.clone();
            GoRand::new(seed).shuffle(&mut again);
            prop_assert_eq!(&once, &again);
            once.sort_unstable();
            prop_assert_eq!(once, sorted);
        }

        #[test]
        fn seeds_congruent_modulo_the_generators_prime_agree(seed in -1_000_000_000_000i64..1_000_000_000_000, steps in -1_000_000i64..1_000_000) {
            let (mut one, mut other) = (GoRand::new(seed), GoRand::new(seed + steps * MODULUS));
            for _ in 0..8 {
                prop_assert_eq!(one.next_u64(), other.next_u64());
            }
        }

        #[test]
        fn a_bounded_draw_stays_below_its_bound(seed: i64, bound in 1u32..=u32::MAX) {
            prop_assert!(GoRand::new(seed).below(bound) < bound);
        }
    }
}
