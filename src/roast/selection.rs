//! Who coordinates an attempt: the first of Go's shuffle of the included members, seeded by the session.
//!
//! The functions take text and bytes, not this crate's identifiers: the vectors that bind other implementations hold
//! sessions and digests of their own.

use sha2::{Digest, Sha256};

use super::go_rand::GoRand;

/// A digest that cannot seed a selection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("message of {significant} significant bytes: at most 32 can seed a selection")]
pub struct SeedError {
    /// Bytes after the leading zeros.
    pub significant: usize,
}

/// The seed of a session: the first 8 bytes, big-endian, of
/// `SHA-256(key group || session || message)`, *not framed*, where the message is the raw one (not its hash), stripped of
/// leading zeros and left-padded to 32 bytes.
///
/// # Errors
/// [`SeedError`] when more than 32 bytes are significant.
pub fn session_seed(key_group: &str, session: &str, message: &[u8]) -> Result<i64, SeedError> {
    let leading = message.iter().take_while(|&&byte| byte == 0).count();
    let significant = message.get(leading..).unwrap_or_default();
    let mut padded = [0u8; 32];
    let start = padded.len().checked_sub(significant.len()).ok_or(SeedError { significant: significant.len() })?;
    if let Some(tail) = padded.get_mut(start..) {
        tail.copy_from_slice(significant);
    }
    let digest = Sha256::new().chain_update(key_group).chain_update(session).chain_update(padded).finalize();
    let seed = digest.first_chunk().expect("SHA-256 has 32 bytes");
    Ok(i64::from_be_bytes(*seed))
}

/// The coordinator among `members` for the attempt that is `attempt_index` (from zero: the wire's number less one) after
/// the first; the order of `members` does not matter. `None` without members.
pub fn coordinator(session_seed: i64, attempt_index: u32, members: &[u16]) -> Option<u16> {
    let mut shuffled = members.to_vec();
    shuffled.sort_unstable();
    GoRand::new(session_seed.wrapping_add(i64::from(attempt_index))).shuffle(&mut shuffled);
    shuffled.first().copied()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_message_with_more_than_32_significant_bytes_is_refused() {
        assert_eq!(session_seed("k", "s", &[1; 33]), Err(SeedError { significant: 33 }));
        let mut padded = vec![0; 40];
        padded.extend([1; 32]);
        assert_eq!(session_seed("k", "s", &padded), session_seed("k", "s", &[1; 32]));
        assert_eq!(session_seed("k", "s", &[]), session_seed("k", "s", &[0; 32]));
        assert_eq!(session_seed("k", "s", &[7]), session_seed("k", "s", &[0, 0, 7]));
    }

    #[test]
    fn the_attempt_index_wraps_at_the_edge_of_the_seed() {
        let members = [1, 2, 3, 4, 5];
        assert_eq!(coordinator(i64::MAX, 1, &members), coordinator(i64::MIN, 0, &members));
        assert_eq!(coordinator(-1, 1, &members), coordinator(0, 0, &members));
        assert_eq!(coordinator(i64::MAX, u32::MAX, &members), coordinator(i64::MIN, u32::MAX - 1, &members));
        assert_eq!(coordinator(0, 0, &[]), None);
    }

    proptest! {
        #[test]
        fn the_coordinator_is_a_member_whatever_their_order(seed: i64, index: u32, members in proptest::collection::btree_set(1u16.., 1..60)) {
            let sorted: Vec<u16> = members.iter().copied().collect();
            let reversed: Vec<u16> = members.iter().rev().copied().collect();
            let chosen = coordinator(seed, index, &sorted);
            prop_assert!(members.contains(&chosen.unwrap()));
            prop_assert_eq!(chosen, coordinator(seed, index, &reversed));
        }
    }
}
