//! Distributed key generation, parts 1 to 3, as states that are consumed. Who sent what is the caller's to prove.

use std::collections::BTreeMap;
use std::fmt;

use frost_core::keys::dkg::verify_proof_of_knowledge;
use frost_secp256k1_tr as tr;
use rand_core::{CryptoRng, RngCore};
use tr::keys::{KeyPackage, PublicKeyPackage, SecretShare, SigningShare, VerifyingShare, dkg};
use tr::{Ciphersuite, Field, Group, Secp256K1Group, Secp256K1ScalarField, Secp256K1Sha256TR};
use zeroize::Zeroizing;

use super::{DecodeError, GroupKey, KeyShare, identifier, serde_as_bytes};
use crate::ids::{Member, to_hex};
use crate::limits::MEMBERS_MAX;

type Element = <Secp256K1Group as Group>::Element;

/// Why a key generation does not go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DkgError {
    /// A threshold that this many members cannot have.
    #[error("threshold {threshold} of {members} members: 2 to {members} of at most {MEMBERS_MAX} are allowed")]
    Threshold {
        /// The threshold.
        threshold: u16,
        /// Members of the group.
        members: usize,
    },
    /// The packages are not those of exactly the other members.
    #[error("packages of {found} other members, {expected} are needed")]
    Packages {
        /// Members needed.
        expected: usize,
        /// Packages found, of whomever.
        found: usize,
    },
    /// Round-one packages with a wrong number of coefficients or a wrong proof of knowledge: every one of them.
    #[error("round-one packages of {} members do not verify", .culprits.len())]
    RoundOne {
        /// The members, ascending.
        culprits: Vec<Member>,
    },
    /// Round-two packages whose share does not lie on the sender's polynomial: every one of them.
    #[error("round-two packages of {} members do not verify", .culprits.len())]
    RoundTwo {
        /// The members, ascending.
        culprits: Vec<Member>,
    },
    /// Our fault, or a group key that is the identity: the result does not pass its own check.
    #[error("the generated key does not pass its own check")]
    Result(#[source] DecodeError),
}

/// What a member tells all others first: the commitment to its polynomial and the proof that it knows the secret. Public.
#[derive(Clone)]
pub struct RoundOnePackage {
    bytes: Box<[u8]>,
    inner: dkg::round1::Package,
}

impl RoundOnePackage {
    /// Length of the longest encoding: 33 bytes a coefficient, at most as many as members, and the proof.
    pub const BYTES_MAX: usize = 80 + 33 * MEMBERS_MAX;

    fn wrap(inner: dkg::round1::Package) -> Result<Self, DecodeError> {
        let bytes = inner.serialize().map_err(|_| DecodeError::Malformed { what: "round-one package" })?;
        Ok(Self { bytes: bytes.into_boxed_slice(), inner })
    }

    /// Reads the canonical encoding.
    ///
    /// # Errors
    /// [`DecodeError`] for anything else.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        const WHAT: &str = "round-one package";
        if bytes.len() > Self::BYTES_MAX {
            return Err(DecodeError::Length { what: WHAT, found: bytes.len(), limit: Self::BYTES_MAX });
        }
        let inner = dkg::round1::Package::deserialize(bytes).map_err(|_| DecodeError::Malformed { what: WHAT })?;
        let read = Self::wrap(inner)?;
        if read.as_bytes() == bytes { Ok(read) } else { Err(DecodeError::NotCanonical { what: WHAT }) }
    }

    /// The canonical encoding.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether it is a package that `sender` can have made: as many coefficients as the threshold, and the proof verifies.
    pub fn verifies(&self, sender: Member, threshold: u16) -> bool {
        self.inner.commitment().coefficients().len() == usize::from(threshold)
            && verify_proof_of_knowledge(identifier(sender), self.inner.commitment(), self.inner.proof_of_knowledge())
                .is_ok()
    }
}

impl PartialEq for RoundOnePackage {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for RoundOnePackage {}

impl fmt::Debug for RoundOnePackage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RoundOnePackage({})", to_hex(&self.bytes))
    }
}

serde_as_bytes!(RoundOnePackage, RoundOnePackage::as_bytes, RoundOnePackage::from_bytes);

/// What a member tells one other member: the value of its polynomial there.
///
/// # Security
/// Secret: boxed, wiped on drop, no `Clone`, no `Debug`, no `Serialize`. It leaves the process encrypted to its receiver only.
pub struct RoundTwoPackage(Box<dkg::round2::Package>);

impl RoundTwoPackage {
    /// Length of the encoding: a scalar, big-endian.
    pub const BYTES: usize = 32;

    /// Reads the scalar.
    ///
    /// # Errors
    /// [`DecodeError::Malformed`] for a number that is not below the group order.
    pub fn decode(bytes: &[u8; Self::BYTES]) -> Result<Self, DecodeError> {
        SigningShare::deserialize(bytes)
            .map(|share| Self(Box::new(dkg::round2::Package::new(share))))
            .map_err(|_| DecodeError::Malformed { what: "round-two package" })
    }

    /// The scalar, in a wiped buffer.
    pub fn encode(&self) -> Zeroizing<[u8; Self::BYTES]> {
        Zeroizing::new(Secp256K1ScalarField::serialize(&self.0.signing_share().to_scalar()))
    }
}

/// A member that has sent its round-one package and awaits those of the others.
///
/// # Security
/// Holds the secret polynomial: boxed, wiped on drop, lives in RAM only.
pub struct DkgRoundOne {
    pub(super) member: Member,
    pub(super) own: RoundOnePackage,
    pub(super) secret: Box<dkg::round1::SecretPackage>,
}

impl DkgRoundOne {
    /// Part 1: a secret polynomial from `entropy`.
    ///
    /// # Errors
    /// [`DkgError::Threshold`].
    pub fn start<R: RngCore + CryptoRng>(
        member: Member,
        members: usize,
        threshold: u16,
        entropy: &mut R,
    ) -> Result<(Self, RoundOnePackage), DkgError> {
        let invalid = DkgError::Threshold { threshold, members };
        if members > MEMBERS_MAX {
            return Err(invalid);
        }
        let count = u16::try_from(members).map_err(|_| invalid.clone())?;
        let (secret, package) = dkg::part1(identifier(member), count, threshold, &mut *entropy).map_err(|_| invalid)?;
        let own = RoundOnePackage::wrap(package).map_err(DkgError::Result)?;
        Ok((Self { member, own: own.clone(), secret: Box::new(secret) }, own))
    }

    /// Part 2: checks the packages of all others and makes a secret one for each.
    ///
    /// # Errors
    /// [`DkgError::RoundOne`] names every member whose package does not verify.
    pub fn advance(
        self,
        others: &BTreeMap<Member, RoundOnePackage>,
    ) -> Result<(DkgRoundTwo, BTreeMap<Member, RoundTwoPackage>), DkgError> {
        let expected = usize::from(*self.secret.max_signers()) - 1;
        if others.len() != expected || others.contains_key(&self.member) {
            return Err(DkgError::Packages { expected, found: others.len() });
        }
        let threshold = *self.secret.min_signers();
        let wrong = || -> Vec<Member> {
            others
                .iter()
                .filter(|(sender, package)| !package.verifies(**sender, threshold))
                .map(|(sender, _)| *sender)
                .collect()
        };
        let packages = others.iter().map(|(&sender, package)| (identifier(sender), package.inner.clone())).collect();
        // Part 2 checks every proof itself, and names the first culprit only.
        let (secret, mut shares) =
            dkg::part2(*self.secret, &packages).map_err(|_| DkgError::RoundOne { culprits: wrong() })?;
        let outgoing = others
            .keys()
            .filter_map(|&receiver| Some((receiver, RoundTwoPackage(Box::new(shares.remove(&identifier(receiver))?)))))
            .collect();
        let mut packages = others.clone();
        packages.insert(self.member, self.own);
        Ok((DkgRoundTwo { member: self.member, packages, secret: Box::new(secret) }, outgoing))
    }
}

/// A member that has sent its round-two packages and awaits those of the others.
///
/// # Security
/// Holds its own part of its key share: boxed, wiped on drop, lives in RAM only.
pub struct DkgRoundTwo {
    member: Member,
    /// Of all members, this one included.
    packages: BTreeMap<Member, RoundOnePackage>,
    secret: Box<dkg::round2::SecretPackage>,
}

impl DkgRoundTwo {
    /// Part 3: the key share and the group key. One check of the sum of all shares; sender by sender only when that fails.
    ///
    /// # Errors
    /// [`DkgError::RoundTwo`] names every member whose share does not lie on its polynomial.
    pub fn finish(self, others: &BTreeMap<Member, RoundTwoPackage>) -> Result<(KeyShare, GroupKey), DkgError> {
        let expected = self.packages.len() - 1;
        if others.len() != expected
            || !others.keys().all(|sender| *sender != self.member && self.packages.contains_key(sender))
        {
            return Err(DkgError::Packages { expected, found: others.len() });
        }
        let mut sum = Zeroizing::new(self.secret.secret_share());
        for package in others.values() {
            *sum += package.0.signing_share().to_scalar();
        }
        let signing_share = SigningShare::new(*sum);
        let commitment = self.summed_commitment();
        let id = identifier(self.member);
        let verifying_share = VerifyingShare::from(signing_share);
        if verifying_share.to_element() != evaluate(&commitment, self.member) {
            return Err(DkgError::RoundTwo { culprits: self.culprits(others) });
        }
        let verifying_shares = self
            .packages
            .keys()
            .map(|&member| (identifier(member), VerifyingShare::new(evaluate(&commitment, member))))
            .collect();
        let verifying_key = tr::VerifyingKey::new(commitment.first().copied().unwrap_or_else(Secp256K1Group::identity));
        let threshold = *self.secret.min_signers();
        let (share, group) = Secp256K1Sha256TR::post_dkg(
            KeyPackage::new(id, signing_share, verifying_share, verifying_key, threshold),
            PublicKeyPackage::new(verifying_shares, verifying_key, Some(threshold)),
        )
        .map_err(|_| DkgError::Result(DecodeError::Malformed { what: "generated key" }))?;
        let share = KeyShare::wrap(Box::new(share)).map_err(DkgError::Result)?;
        let group = GroupKey::wrap(group).map_err(DkgError::Result)?;
        Ok((share, group))
    }

    /// The commitment to the sum of all polynomials, coefficient by coefficient. Part 2 proved that all have t of them.
    fn summed_commitment(&self) -> Vec<Element> {
        let mut sum = vec![Secp256K1Group::identity(); usize::from(*self.secret.min_signers())];
        for package in self.packages.values() {
            for (total, coefficient) in sum.iter_mut().zip(package.inner.commitment().coefficients()) {
                *total += coefficient.value();
            }
        }
        sum
    }

    fn culprits(&self, others: &BTreeMap<Member, RoundTwoPackage>) -> Vec<Member> {
        let lies = |sender: &Member, package: &RoundTwoPackage| {
            self.packages.get(sender).is_none_or(|round_one| {
                let commitment = round_one.inner.commitment().clone();
                SecretShare::new(identifier(self.member), *package.0.signing_share(), commitment).verify().is_err()
            })
        };
        others.iter().filter(|(sender, package)| lies(sender, package)).map(|(sender, _)| *sender).collect()
    }
}

/// The committed polynomial at `member`, in the exponent: Horner's rule with a 16-bit factor, some twenty times faster than
/// with full scalars. Public values only, so time may depend on them.
fn evaluate(commitment: &[Element], member: Member) -> Element {
    let mut value = Secp256K1Group::identity();
    for coefficient in commitment.iter().rev() {
        value = times(value, member.number()) + coefficient;
    }
    value
}

fn times(point: Element, factor: u16) -> Element {
    let mut product = Secp256K1Group::identity();
    for bit in (0..u16::BITS - factor.leading_zeros()).rev() {
        product = product.double();
        if factor >> bit & 1 == 1 {
            product += point;
        }
    }
    product
}
