//! Scheme `hmac`: the bytes that go into the token and what the host makes of what comes out.
//!
//! Input of the token (NIST SP 800-108 counter layout, one block):
//!
//! ```text
//! counter  4 bytes, big-endian, 1
//! label    16 bytes: "frostkeep/v1/kek" or "frostkeep/v1/kcv"
//! zero     1 byte
//! context  store 16 || kind 1 || id 8, big-endian || key name 16 || salt 32        (kek)
//!          empty                                                                    (kcv)
//! length   4 bytes, big-endian, 256: bits of output
//! ```
//!
//! The output for `kek` is used once, for one wrap: ChaCha20-Poly1305 (RFC 8439) with a zero nonce over the data key, with the
//! context up to the salt as associated data. A wrap is `salt 32 || ciphertext 32 || tag 16`.

use chacha20poly1305::aead::AeadInPlace;
use chacha20poly1305::{ChaCha20Poly1305, Key, KeyInit, Nonce, Tag};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::provider::{DataKey, KeyDescriptor, KeyName, SealedObject};
use crate::token::Derived;

/// The number of scheme `hmac`.
pub const HMAC: u8 = 1;
/// Bytes of a wrap: salt, ciphertext, tag.
pub const WRAP_BYTES: usize = 32 + 32 + 16;
/// Bytes of a salt.
pub const SALT_BYTES: usize = 32;
/// Bytes of a key check value.
pub const CHECK_VALUE_BYTES: usize = 8;

const LABEL_KEK: &[u8; 16] = b"frostkeep/v1/kek";
const LABEL_KCV: &[u8; 16] = b"frostkeep/v1/kcv";
const CONTEXT_BYTES: usize = 16 + 1 + 8 + 16;

fn layout(label: &[u8; 16], context: &[u8]) -> Vec<u8> {
    let mut input = Vec::with_capacity(4 + label.len() + 1 + context.len() + 4);
    input.extend_from_slice(&1u32.to_be_bytes());
    input.extend_from_slice(label);
    input.push(0);
    input.extend_from_slice(context);
    input.extend_from_slice(&256u32.to_be_bytes());
    input
}

/// The known input of the key check value.
pub fn check_value_input() -> Vec<u8> {
    layout(LABEL_KCV, &[])
}

/// The key check value: the first 8 bytes of the token's answer to [`check_value_input`].
pub fn check_value(answer: &Derived) -> [u8; CHECK_VALUE_BYTES] {
    let [a, b, c, d, e, f, g, h, ..] = *answer.expose();
    [a, b, c, d, e, f, g, h]
}

/// The name of a token key.
pub fn key_name(key: &KeyDescriptor) -> KeyName {
    let mut hash = Sha256::new();
    for part in [b"frostkeep/v1/key-name".as_slice(), &[key.scheme], &key.id, &key.check_value] {
        hash.update(u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
        hash.update(part);
    }
    let digest: [u8; 32] = hash.finalize().into();
    let mut name = [0; 16];
    name.iter_mut().zip(digest).for_each(|(to, from)| *to = from);
    KeyName(name)
}

fn context(object: &SealedObject, key: KeyName) -> [u8; CONTEXT_BYTES] {
    let mut bytes = [0; CONTEXT_BYTES];
    let parts = object.store.into_iter().chain([object.kind]).chain(object.id.to_be_bytes()).chain(key.0);
    bytes.iter_mut().zip(parts).for_each(|(to, from)| *to = from);
    bytes
}

/// What the token is asked for one wrap.
pub fn kek_input(object: &SealedObject, key: KeyName, salt: &[u8; SALT_BYTES]) -> Vec<u8> {
    layout(LABEL_KEK, &[context(object, key).as_slice(), salt].concat())
}

/// Wraps `data_key` under `kek`, the token's answer to [`kek_input`] with this `salt`.
pub fn wrap(
    object: &SealedObject,
    key: KeyName,
    salt: &[u8; SALT_BYTES],
    kek: &Derived,
    data_key: &DataKey,
) -> Vec<u8> {
    let mut sealed = Zeroizing::new(*data_key.expose());
    let tag = ChaCha20Poly1305::new(Key::from_slice(kek.expose()))
        .encrypt_in_place_detached(&Nonce::default(), &context(object, key), sealed.as_mut_slice())
        .expect("41 bytes of associated data and 32 of plaintext are below every bound of RFC 8439");
    let mut blob = Vec::with_capacity(WRAP_BYTES);
    blob.extend_from_slice(salt);
    blob.extend_from_slice(sealed.as_slice());
    blob.extend_from_slice(&tag);
    blob
}

/// The salt of a wrap; none when the wrap has not exactly [`WRAP_BYTES`].
pub fn salt(blob: &[u8]) -> Option<[u8; SALT_BYTES]> {
    if blob.len() != WRAP_BYTES {
        return None;
    }
    blob.first_chunk().copied()
}

/// Opens a wrap under `kek`; none when it does not open.
pub fn unwrap(object: &SealedObject, key: KeyName, kek: &Derived, blob: &[u8]) -> Option<DataKey> {
    if blob.len() != WRAP_BYTES {
        return None;
    }
    let (ciphertext, tag) = blob.get(SALT_BYTES..)?.split_at_checked(32)?;
    let mut opened = Zeroizing::new([0; 32]);
    opened.copy_from_slice(ciphertext);
    ChaCha20Poly1305::new(Key::from_slice(kek.expose()))
        .decrypt_in_place_detached(
            &Nonce::default(),
            &context(object, key),
            opened.as_mut_slice(),
            Tag::from_slice(tag),
        )
        .ok()?;
    Some(DataKey::new(&opened))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn object() -> SealedObject {
        SealedObject { store: [7; 16], kind: 2, id: 99 }
    }

    #[test]
    fn the_input_of_the_token_is_the_documented_layout() {
        let input = kek_input(&object(), KeyName([3; 16]), &[5; 32]);
        assert_eq!(input.len(), 98);
        assert_eq!(&input[..21], b"\0\0\0\x01frostkeep/v1/kek\0");
        assert_eq!(&input[21..37], &[7; 16]);
        assert_eq!(&input[37..46], &[2, 0, 0, 0, 0, 0, 0, 0, 99]);
        assert_eq!(&input[46..62], &[3; 16]);
        assert_eq!(&input[62..94], &[5; 32]);
        assert_eq!(&input[94..], &[0, 0, 1, 0]);
        assert_eq!(check_value_input(), b"\0\0\0\x01frostkeep/v1/kcv\0\0\0\x01\0");
    }

    proptest! {
        #[test]
        fn a_wrap_opens_only_as_the_same_object_under_the_same_key_and_unchanged(
            kek in any::<[u8; 32]>(), data in any::<[u8; 32]>(), salt_bytes in any::<[u8; 32]>(), flip in 32usize..WRAP_BYTES, bit in 0u8..8,
        ) {
            let kek = Derived::from_slice(&kek).unwrap();
            let name = KeyName([1; 16]);
            let blob = wrap(&object(), name, &salt_bytes, &kek, &DataKey::new(&data));
            prop_assert_eq!(blob.len(), WRAP_BYTES);
            prop_assert_eq!(salt(&blob), Some(salt_bytes));
            let opened = unwrap(&object(), name, &kek, &blob).unwrap();
            prop_assert_eq!(opened.expose(), &data);
            let other_id = SealedObject { id: 100, ..object() };
            let other_kind = SealedObject { kind: 3, ..object() };
            let other_store = SealedObject { store: [8; 16], ..object() };
            for other in [other_id, other_kind, other_store] {
                prop_assert!(unwrap(&other, name, &kek, &blob).is_none());
            }
            prop_assert!(unwrap(&object(), KeyName([2; 16]), &kek, &blob).is_none());
            let mut broken = blob.clone();
            broken[flip] ^= 1 << bit;
            prop_assert!(unwrap(&object(), name, &kek, &broken).is_none());
        }

        #[test]
        fn no_bytes_make_the_decoder_panic(blob in proptest::collection::vec(any::<u8>(), 0..200)) {
            let kek = Derived::from_slice(&[9; 32]).unwrap();
            prop_assert!(unwrap(&object(), KeyName([1; 16]), &kek, &blob).is_none());
            prop_assert_eq!(salt(&blob).is_some(), blob.len() == WRAP_BYTES);
        }
    }
}
