//! Round-two packages end to end: HPKE base mode (RFC 9180) with X25519, HKDF-SHA256 and ChaCha20-Poly1305. The sender is
//! authenticated by the identity signature of the message around it.

use hpke::aead::{AeadTag, ChaCha20Poly1305};
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::{Deserializable, Kem, OpModeR, OpModeS, Serializable};
use rand_core::{CryptoRng, RngCore};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use crate::frost::RoundTwoPackage;
use crate::hash::Framed;
use crate::ids::Member;

type X25519 = X25519HkdfSha256;

/// A round-two package that only its receiver can read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    receiver: Member,
    encapsulated: [u8; 32],
    ciphertext: [u8; RoundTwoPackage::BYTES],
    tag: [u8; 16],
}

/// A key made for one seat and one ceremony; it dies in RAM with it.
///
/// # Security
/// Wiped on drop, never encoded.
pub(super) struct EnvelopeKey {
    secret: Box<<X25519 as Kem>::PrivateKey>,
    public: [u8; 32],
}

impl EnvelopeKey {
    pub(super) fn generate<R: RngCore + CryptoRng>(entropy: &mut R) -> Self {
        let mut material = Zeroizing::new([0; 32]);
        entropy.fill_bytes(material.as_mut_slice());
        let (secret, public) = X25519::derive_keypair(material.as_slice());
        Self { secret: Box::new(secret), public: public.to_bytes().into() }
    }

    pub(super) fn public(&self) -> [u8; 32] {
        self.public
    }
}

/// Binds a ciphertext to its ceremony, sender and receiver.
fn info(parameters: &[u8; 32], sender: Member, receiver: Member) -> [u8; 32] {
    Framed::new("frostkeep-keygen-envelope-v1")
        .part(parameters)
        .part(&sender.number().to_be_bytes())
        .part(&receiver.number().to_be_bytes())
        .finish()
}

impl Envelope {
    pub(super) fn receiver(&self) -> Member {
        self.receiver
    }

    /// Seals; none when the receiver's key is one that gives every sender the same secret (RFC 9180, 7.1.4).
    pub(super) fn seal<R: RngCore + CryptoRng>(
        package: &RoundTwoPackage,
        key: &[u8; 32],
        parameters: &[u8; 32],
        sender: Member,
        receiver: Member,
        entropy: &mut R,
    ) -> Option<Self> {
        let key = <X25519 as Kem>::PublicKey::from_bytes(key).ok()?;
        let mut buffer = package.encode();
        let (encapsulated, tag) = hpke::single_shot_seal_in_place_detached::<ChaCha20Poly1305, HkdfSha256, X25519, _>(
            &OpModeS::Base,
            &key,
            &info(parameters, sender, receiver),
            buffer.as_mut_slice(),
            &[],
            entropy,
        )
        .ok()?;
        Some(Self {
            receiver,
            encapsulated: encapsulated.to_bytes().into(),
            ciphertext: *buffer,
            tag: tag.to_bytes().into(),
        })
    }

    /// Opens; none when it was not sealed to this key, by this sender, for this receiver, or holds no scalar.
    pub(super) fn open(&self, key: &EnvelopeKey, parameters: &[u8; 32], sender: Member) -> Option<RoundTwoPackage> {
        let encapsulated = <X25519 as Kem>::EncappedKey::from_bytes(&self.encapsulated).ok()?;
        let tag = AeadTag::<ChaCha20Poly1305>::from_bytes(&self.tag).ok()?;
        let mut buffer = Zeroizing::new(self.ciphertext);
        hpke::single_shot_open_in_place_detached::<ChaCha20Poly1305, HkdfSha256, X25519>(
            &OpModeR::Base,
            &key.secret,
            &encapsulated,
            &info(parameters, sender, self.receiver),
            buffer.as_mut_slice(),
            &[],
            &tag,
        )
        .ok()?;
        let package = RoundTwoPackage::decode(&buffer).ok();
        buffer.zeroize();
        package
    }

    /// Whether `key` gives a secret that depends on the sender. A key of small order does not, whatever the scalar: clamping
    /// makes every scalar a multiple of eight.
    pub(super) fn accepts(key: &[u8; 32]) -> bool {
        x25519_dalek::x25519([1; 32], *key) != [0; 32]
    }
}
