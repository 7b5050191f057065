//! One nonce pair, one signature share (I6).

use frost_secp256k1_tr as tr;
use rand_core::{CryptoRng, RngCore};

use super::{Commitments, GroupKey, KeyShare, PackageError, SignatureShare, SigningPackage, identifier};
use crate::ids::{KeyGroupId, Member, MerkleRoot};

/// A nonce pair that signs at most one signing package: [`sign`] takes it by value, and there is no other use (I6).
///
/// # Security
/// Boxed, wiped on drop. No `Clone`, no `Debug`, no encoding: it lives in RAM and dies there (I10).
pub struct Nonces {
    member: Member,
    key_group: KeyGroupId,
    commitments: Commitments,
    nonces: Box<tr::round1::SigningNonces>,
}

impl Nonces {
    /// The member that made the pair.
    pub fn member(&self) -> Member {
        self.member
    }

    /// The commitments to the pair.
    pub fn commitments(&self) -> &Commitments {
        &self.commitments
    }
}

/// Why a member does not sign. Whatever the reason, the nonces are spent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// The package is not one that this group can sign.
    #[error(transparent)]
    Package(#[from] PackageError),
    /// Key share and group key do not belong together.
    #[error("key share of member {member} is not one of key group {key_group} with threshold {threshold}")]
    ShareOfAnotherGroup {
        /// The member.
        member: Member,
        /// The key group.
        key_group: KeyGroupId,
        /// Its threshold.
        threshold: u16,
    },
    /// The nonces were made with another key share.
    #[error("nonces of member {found} for key share of member {expected}")]
    NoncesOfAnother {
        /// The member of the key share.
        expected: Member,
        /// The member of the nonces; the same number in another key group.
        found: Member,
    },
    /// The package does not include this member.
    #[error("member {member} is not included in the signing package")]
    NotIncluded {
        /// The member.
        member: Member,
    },
    /// The package holds other commitments of this member than those of its nonces.
    #[error("the signing package holds other commitments of member {member} than its own")]
    CommitmentsDiffer {
        /// The member.
        member: Member,
    },
    /// Our fault: the share that was made does not verify.
    #[error("the signature share of member {member} does not verify under its own verifying share")]
    SelfCheck {
        /// The member.
        member: Member,
    },
}

/// FROST round one: a fresh nonce pair from `entropy`, hedged with the signing share (RFC 9591, 4.1), and its commitments.
pub fn commit<R: RngCore + CryptoRng>(share: &KeyShare, entropy: &mut R) -> (Nonces, Commitments) {
    let (nonces, commitments) = tr::round1::commit(share.inner().signing_share(), entropy);
    let nonces = Box::new(nonces);
    let commitments = Commitments::wrap(commitments)
        .expect("a nonce is zero, and its commitment the identity, only for a broken hash");
    (
        Nonces { member: share.member(), key_group: share.key_group(), commitments: commitments.clone(), nonces },
        commitments,
    )
}

/// FROST round two: this member's share of the signature of `package` under the output key for `root`. Everything is checked
/// before the nonces are used, and the share is verified before it is handed out.
///
/// # Errors
/// [`SignError`].
///
/// # Security
/// Consumes the nonces, also when it fails (I6). Check first what should not cost a pair.
pub fn sign(
    nonces: Nonces,
    share: &KeyShare,
    group: &GroupKey,
    package: &SigningPackage,
    root: Option<&MerkleRoot>,
) -> Result<SignatureShare, SignError> {
    let member = share.member();
    let own = group.inner().verifying_shares().get(&identifier(member));
    if share.key_group() != group.id()
        || share.threshold() != group.threshold()
        || own != Some(share.inner().verifying_share())
    {
        return Err(SignError::ShareOfAnotherGroup { member, key_group: group.id(), threshold: group.threshold() });
    }
    if nonces.member != member || nonces.key_group != group.id() {
        return Err(SignError::NoncesOfAnother { expected: member, found: nonces.member });
    }
    package.check_against(group)?;
    match package.commitments_of(member) {
        None => return Err(SignError::NotIncluded { member }),
        Some(included) if *included != nonces.commitments => {
            return Err(SignError::CommitmentsDiffer { member });
        }
        Some(_) => {}
    }
    let root_bytes = root.map(|root| root.as_bytes().as_slice());
    let made = tr::round2::sign_with_tweak(package.inner(), &nonces.nonces, share.inner(), root_bytes)
        .map_err(|_| SignError::SelfCheck { member })?;
    drop(nonces);
    let made = SignatureShare::wrap(made);
    group.verify_share(member, package, &made, root).map_err(|_| SignError::SelfCheck { member })?;
    Ok(made)
}
