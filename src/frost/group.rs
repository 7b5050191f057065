//! The public side of a key group: its key, its verifying shares, aggregation and verification.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, LazyLock};

use bitcoin::secp256k1::{self, Secp256k1, VerifyOnly, XOnlyPublicKey, schnorr};
use frost_core::{CheaterDetection, aggregate_custom, compute_binding_factor_list, compute_group_commitment};
use frost_secp256k1_tr as tr;
use tr::keys::{EvenY, PublicKeyPackage, Tweak};
use tr::{Field, Group, Secp256K1Group, Secp256K1ScalarField};

use super::polynomial::is_one_polynomial;
use super::share::{key_group_id, point};
use super::{DecodeError, PackageError, Signature, SignatureShare, SigningPackage, identifier, member, serde_as_bytes};
use crate::ids::{KeyGroupId, Member, MerkleRoot, Message, to_hex};
use crate::limits::MEMBERS_MAX;

/// libsecp256k1: an implementation that shares no code with the one that signs (a fault check of every signature).
static SECP: LazyLock<Secp256k1<VerifyOnly>> = LazyLock::new(Secp256k1::verification_only);

/// A signature that does not verify under the output key of a key group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("signature does not verify under output key {}", to_hex(.output_key))]
pub struct SignatureInvalid {
    /// The x-only output key.
    pub output_key: [u8; 32],
}

/// Why a signature share does not pass. Only [`ShareInvalid::Wrong`] says something about the member.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ShareInvalid {
    /// The package is not one that this group can sign.
    #[error(transparent)]
    Package(#[from] PackageError),
    /// The package does not include the member.
    #[error("member {member} is not included in the signing package")]
    NotIncluded {
        /// The member.
        member: Member,
    },
    /// The share is not the member's share of this package under this root.
    #[error("signature share of member {member} does not verify")]
    Wrong {
        /// The member.
        member: Member,
    },
}

/// Why shares do not make a signature.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AggregateError {
    /// The package is not one that this group can sign.
    #[error(transparent)]
    Package(#[from] PackageError),
    /// An included member without a share.
    #[error("no signature share of included member {member}")]
    Missing {
        /// The member.
        member: Member,
    },
    /// A share of a member that is not included.
    #[error("signature share of member {member}, which is not included")]
    NotIncluded {
        /// The member.
        member: Member,
    },
    /// Two shares of one member.
    #[error("two signature shares of member {member}")]
    Repeated {
        /// The member.
        member: Member,
    },
    /// Shares that do not verify: every one of them.
    #[error("signature shares of members {} do not verify", list(.culprits))]
    Invalid {
        /// The members, ascending.
        culprits: Vec<Member>,
    },
    /// Our fault: every share verifies, their sum does not.
    #[error("every signature share verifies, but the signature does not: the two implementations disagree")]
    Disagreement,
}

impl AggregateError {
    /// Every member whose share was proved wrong, ascending; empty when nobody is to blame.
    pub fn culprits(&self) -> &[Member] {
        match self {
            Self::Invalid { culprits } => culprits,
            _ => &[],
        }
    }
}

fn list(members: &[Member]) -> String {
    members.iter().map(Member::to_string).collect::<Vec<_>>().join(", ")
}

/// The public facts of a key group: verifying key (the BIP-341 internal key), threshold, every member's verifying share.
#[derive(Clone)]
pub struct GroupKey(Arc<Inner>);

struct Inner {
    bytes: Box<[u8]>,
    id: KeyGroupId,
    threshold: u16,
    members: Box<[Member]>,
    package: PublicKeyPackage,
}

impl GroupKey {
    /// Length of the longest encoding: 65 bytes a member, and less than 64 for the rest.
    pub const BYTES_MAX: usize = 64 + 65 * MEMBERS_MAX;

    pub(super) fn wrap(package: PublicKeyPackage) -> Result<Self, DecodeError> {
        const WHAT: &str = "group key";
        let count = package.verifying_shares().len();
        let threshold = package.min_signers().unwrap_or_default();
        if threshold < 2 || usize::from(threshold) > count || count > MEMBERS_MAX {
            return Err(DecodeError::Threshold { what: WHAT, found: threshold, members: count });
        }
        let members = package
            .verifying_shares()
            .keys()
            .map(member)
            .collect::<Option<Box<[_]>>>()
            .ok_or(DecodeError::Member { what: WHAT })?;
        let id = key_group_id(package.verifying_key()).ok_or(DecodeError::Malformed { what: WHAT })?;
        let bytes = package.serialize().map_err(|_| DecodeError::Malformed { what: WHAT })?.into_boxed_slice();
        Ok(Self(Arc::new(Inner { bytes, id, threshold, members, package })))
    }

    /// Reads the canonical encoding.
    ///
    /// # Errors
    /// [`DecodeError`] for anything else, when the threshold is missing or impossible, and when the verifying shares do not
    /// belong to the key.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        const WHAT: &str = "group key";
        if bytes.len() > Self::BYTES_MAX {
            return Err(DecodeError::Length { what: WHAT, found: bytes.len(), limit: Self::BYTES_MAX });
        }
        let package = PublicKeyPackage::deserialize(bytes).map_err(|_| DecodeError::Malformed { what: WHAT })?;
        let read = Self::wrap(package)?;
        if read.as_bytes() != bytes {
            return Err(DecodeError::NotCanonical { what: WHAT });
        }
        let threshold = read.threshold();
        if !is_one_polynomial(read.inner(), threshold, bytes) {
            return Err(DecodeError::VerifyingShares { what: WHAT, threshold });
        }
        Ok(read)
    }

    /// The canonical encoding.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0.bytes
    }

    /// The name of the key group: its verifying key.
    pub fn id(&self) -> KeyGroupId {
        self.0.id
    }

    /// Members that must sign together.
    pub fn threshold(&self) -> u16 {
        self.0.threshold
    }

    /// All members, ascending.
    pub fn members(&self) -> &[Member] {
        &self.0.members
    }

    /// The verifying share of `member`, 33 bytes, if it is one of the group.
    pub fn verifying_share(&self, member: Member) -> Option<[u8; 33]> {
        self.0.package.verifying_shares().get(&identifier(member)).map(point)
    }

    /// The x-only BIP-341 internal key: what a `tr()` descriptor names.
    pub fn internal_key(&self) -> [u8; 32] {
        x_only(self.0.id.as_bytes())
    }

    /// The x-only BIP-341 output key for a Merkle root, or for none.
    pub fn output_key(&self, root: Option<&MerkleRoot>) -> [u8; 32] {
        let key = self.output(root).serialize().ok().and_then(|bytes| <[u8; 33]>::try_from(bytes).ok());
        x_only(
            &key.expect(
                "the output key is the identity only for a hash that is the negated discrete logarithm of the key",
            ),
        )
    }

    /// Verifies a signature of `message` under the output key, with libsecp256k1.
    ///
    /// # Errors
    /// [`SignatureInvalid`].
    pub fn verify(
        &self,
        message: Message,
        root: Option<&MerkleRoot>,
        signature: &Signature,
    ) -> Result<(), SignatureInvalid> {
        let output_key = self.output_key(root);
        let verified = XOnlyPublicKey::from_slice(&output_key).and_then(|key| {
            let signature = schnorr::Signature::from_slice(signature.as_bytes())?;
            SECP.verify_schnorr(&signature, &secp256k1::Message::from_digest(*message.as_bytes()), &key)
        });
        verified.map_err(|_| SignatureInvalid { output_key })
    }

    /// Verifies the share of `member` for `package` under the output key.
    ///
    /// # Errors
    /// [`ShareInvalid`]; only [`ShareInvalid::Wrong`] is the member's fault, and only if share and package are proved to be
    /// the member's own.
    pub fn verify_share(
        &self,
        member: Member,
        package: &SigningPackage,
        share: &SignatureShare,
        root: Option<&MerkleRoot>,
    ) -> Result<(), ShareInvalid> {
        package.check_against(self)?;
        let id = identifier(member);
        let verifying_share = self.0.package.verifying_shares().get(&id);
        let Some(verifying_share) = verifying_share.filter(|_| package.includes(member)) else {
            return Err(ShareInvalid::NotIncluded { member });
        };
        // Only this member's verifying share is tweaked: the others do not enter.
        let one =
            PublicKeyPackage::new(BTreeMap::from([(id, *verifying_share)]), *self.0.package.verifying_key(), None)
                .tweak(root.map(MerkleRoot::as_bytes));
        let tweaked = one.verifying_shares().get(&id).ok_or(ShareInvalid::NotIncluded { member })?;
        frost_core::verify_signature_share(id, tweaked, share.inner(), package.inner(), one.verifying_key())
            .map_err(|_| ShareInvalid::Wrong { member })
    }

    /// The signature that these shares make: their sum, verified once through libsecp256k1. Share by share only when that
    /// fails, and then every culprit is named.
    ///
    /// # Errors
    /// [`AggregateError`].
    pub fn aggregate(
        &self,
        package: &SigningPackage,
        shares: &[(Member, SignatureShare)],
        root: Option<&MerkleRoot>,
    ) -> Result<Signature, AggregateError> {
        package.check_against(self)?;
        let mut by_id = BTreeMap::new();
        for (member, share) in shares {
            if !package.includes(*member) {
                return Err(AggregateError::NotIncluded { member: *member });
            }
            if by_id.insert(identifier(*member), *share.inner()).is_some() {
                return Err(AggregateError::Repeated { member: *member });
            }
        }
        if let Some(member) = package.members().find(|member| !by_id.contains_key(&identifier(*member))) {
            return Err(AggregateError::Missing { member });
        }
        if let Some(signature) = self.sum(package, shares, root)
            && self.verify(package.message(), root, &signature).is_ok()
        {
            return Ok(signature);
        }
        let tweaked = self.0.package.clone().tweak(root.map(MerkleRoot::as_bytes));
        match aggregate_custom(package.inner(), &by_id, &tweaked, CheaterDetection::AllCheaters) {
            Err(error) if !error.culprits().is_empty() => {
                Err(AggregateError::Invalid { culprits: error.culprits().iter().filter_map(member).collect() })
            }
            _ => Err(AggregateError::Disagreement),
        }
    }

    /// R and the sum of the shares (RFC 9591, 5.3); none when R is the identity.
    fn sum(
        &self,
        package: &SigningPackage,
        shares: &[(Member, SignatureShare)],
        root: Option<&MerkleRoot>,
    ) -> Option<Signature> {
        let key = self.output(root).into_even_y(None);
        let factors = compute_binding_factor_list(package.inner(), &key, &[]).ok()?;
        let commitment = compute_group_commitment(package.inner(), &factors).ok()?;
        let r = Secp256K1Group::serialize(&commitment.to_element()).ok()?;
        let mut z = Secp256K1ScalarField::zero();
        for (_, share) in shares {
            z += Secp256K1ScalarField::deserialize(&share.to_bytes()).ok()?;
        }
        let mut bytes = [0; 64];
        let (left, right) = bytes.split_at_mut(32);
        left.copy_from_slice(&x_only(&r));
        right.copy_from_slice(&Secp256K1ScalarField::serialize(&z));
        Some(Signature::new(bytes))
    }

    /// The BIP-341 output key with its parity.
    fn output(&self, root: Option<&MerkleRoot>) -> tr::VerifyingKey {
        *PublicKeyPackage::new(BTreeMap::new(), *self.0.package.verifying_key(), None)
            .tweak(root.map(MerkleRoot::as_bytes))
            .verifying_key()
    }

    pub(super) fn inner(&self) -> &PublicKeyPackage {
        &self.0.package
    }
}

/// The x coordinate of a compressed point.
fn x_only(compressed: &[u8; 33]) -> [u8; 32] {
    let [_, x @ ..] = *compressed;
    x
}

impl PartialEq for GroupKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.bytes == other.0.bytes
    }
}

impl Eq for GroupKey {}

impl fmt::Debug for GroupKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GroupKey({}, {} of {})", self.id(), self.threshold(), self.members().len())
    }
}

serde_as_bytes!(GroupKey, GroupKey::as_bytes, GroupKey::from_bytes);
