//! Host encryption under data keys: XChaCha20-Poly1305 with a random nonce, and the bundle key's wraps.

use chacha20poly1305::aead::{AeadInPlace, KeyInit};
use chacha20poly1305::{Tag, XChaCha20Poly1305, XNonce};
use frostkeep_hsm::entropy::Entropy;
use frostkeep_hsm::provider::{DataKey, KeyProvider, SealedObject, Unavailable, UnwrapError, Wrap};
use zeroize::Zeroizing;

use crate::hash::Framed;

/// Bytes of a nonce.
pub(in crate::store) const NONCE_BYTES: usize = 24;
/// Bytes of an authentication tag.
pub(in crate::store) const TAG_BYTES: usize = 16;
/// Bytes of a data key under a bundle key: bundle number, nonce, key, tag.
pub(in crate::store) const BUNDLE_WRAP_BYTES: usize = 8 + NONCE_BYTES + 32 + TAG_BYTES;

/// [`SealedObject::kind`] of a frame's data key; the id is its first position.
pub(in crate::store) const OBJECT_FRAME: u8 = 1;
/// [`SealedObject::kind`] of a bundle key; the id is its number.
pub(in crate::store) const OBJECT_BUNDLE: u8 = 2;
/// [`SealedObject::kind`] of a snapshot's data key; the id is its number.
pub(in crate::store) const OBJECT_SNAPSHOT: u8 = 3;

/// The tag did not verify.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) struct NotAuthentic;

/// A fresh data key.
pub(in crate::store) fn fresh_key(entropy: &mut dyn Entropy) -> DataKey {
    let mut bytes = Zeroizing::new([0u8; 32]);
    entropy.fill_bytes(bytes.as_mut());
    DataKey::new(&bytes)
}

/// Whether each of `wraps`, alone, gives `key` back. Asked before a key is used that a whole state hangs on (a bundle's, a snapshot's): one wrong
/// answer of a token must not take it along. A frame needs no such call: its bundle opens it too.
///
/// # Errors
/// [`Unavailable`]: the token does not say.
pub(in crate::store) fn each_opens_again(
    provider: &mut dyn KeyProvider,
    object: &SealedObject,
    wraps: &[Wrap],
    key: &DataKey,
) -> Result<bool, Unavailable> {
    for wrap in wraps {
        match provider.unwrap(object, std::slice::from_ref(wrap)) {
            Ok(found) if found.expose() == key.expose() => {}
            Ok(_) | Err(UnwrapError::Corrupt | UnwrapError::NoReachableKey { .. }) => return Ok(false),
            Err(UnwrapError::Unavailable(unavailable)) => return Err(unavailable),
        }
    }
    Ok(true)
}

/// A fresh nonce. 24 random bytes never repeat under one key.
pub(in crate::store) fn fresh_nonce(entropy: &mut dyn Entropy) -> [u8; NONCE_BYTES] {
    let mut nonce = [0u8; NONCE_BYTES];
    entropy.fill_bytes(&mut nonce);
    nonce
}

/// Encrypts `text` in place; the tag comes back.
pub(in crate::store) fn encrypt(
    key: &DataKey,
    nonce: &[u8; NONCE_BYTES],
    associated: &[u8],
    text: &mut [u8],
) -> [u8; TAG_BYTES] {
    XChaCha20Poly1305::new(key.expose().into())
        .encrypt_in_place_detached(XNonce::from_slice(nonce), associated, text)
        .expect("only texts above 256 GiB are refused, and every text here is bounded far below")
        .into()
}

/// Decrypts what `sealed` holds, ciphertext and tag, into a wiped buffer.
pub(in crate::store) fn decrypt(
    key: &DataKey,
    nonce: &[u8; NONCE_BYTES],
    associated: &[u8],
    sealed: &[u8],
) -> Result<Zeroizing<Vec<u8>>, NotAuthentic> {
    let (text, tag) = sealed.split_last_chunk::<TAG_BYTES>().ok_or(NotAuthentic)?;
    let mut text = Zeroizing::new(text.to_vec());
    XChaCha20Poly1305::new(key.expose().into())
        .decrypt_in_place_detached(XNonce::from_slice(nonce), associated, &mut text, Tag::from_slice(tag))
        .map_err(|_| NotAuthentic)?;
    Ok(text)
}

/// The key that opens the frames of one bundle, so that an opening calls the token once per bundle. It lives in RAM.
pub(in crate::store) struct BundleKey {
    pub(in crate::store) number: u64,
    pub(in crate::store) key: DataKey,
}

fn bundle_context(object: &SealedObject, bundle: u64) -> [u8; 32] {
    Framed::new("frostkeep/store/bundle-wrap/v1")
        .part(&object.store)
        .part(&[object.kind])
        .part(&object.id.to_be_bytes())
        .part(&bundle.to_be_bytes())
        .finish()
}

impl BundleKey {
    /// A data key under this bundle key.
    pub(in crate::store) fn wrap(&self, object: &SealedObject, key: &DataKey, entropy: &mut dyn Entropy) -> Vec<u8> {
        let nonce = fresh_nonce(entropy);
        let mut text = Zeroizing::new(*key.expose());
        let context = bundle_context(object, self.number);
        let tag = encrypt(&self.key, &nonce, &context, text.as_mut());
        let mut row = Vec::with_capacity(BUNDLE_WRAP_BYTES);
        row.extend_from_slice(&self.number.to_be_bytes());
        row.extend_from_slice(&nonce);
        row.extend_from_slice(text.as_ref());
        row.extend_from_slice(&tag);
        row
    }

    /// The data key that `row` holds; `row` must name this bundle.
    pub(in crate::store) fn unwrap(&self, object: &SealedObject, row: &[u8]) -> Result<DataKey, NotAuthentic> {
        let (number, rest) = row.split_first_chunk::<8>().ok_or(NotAuthentic)?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_BYTES>().ok_or(NotAuthentic)?;
        if u64::from_be_bytes(*number) != self.number {
            return Err(NotAuthentic);
        }
        let text = decrypt(&self.key, nonce, &bundle_context(object, self.number), sealed)?;
        let bytes: &[u8; 32] = text.as_slice().try_into().map_err(|_| NotAuthentic)?;
        Ok(DataKey::new(bytes))
    }
}

/// The bundle that a bundle wrap names.
pub(in crate::store) fn bundle_of(row: &[u8]) -> Option<u64> {
    (row.len() == BUNDLE_WRAP_BYTES).then(|| row.first_chunk::<8>().map(|number| u64::from_be_bytes(*number))).flatten()
}
