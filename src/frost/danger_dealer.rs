//! Trusted-dealer generation: one process knows the whole key. For tests alone; no release build has it.

use frost_secp256k1_tr as tr;
use rand_core::{CryptoRng, RngCore};

use super::{DecodeError, GroupKey, KeyShare, identifier};
use crate::ids::Member;

/// A key group whose shares were all made here.
///
/// # Errors
/// [`DecodeError`] when the threshold is not valid for this many members, or a member is named twice.
///
/// # Security
/// The dealer could sign alone.
pub fn deal<R: RngCore + CryptoRng>(
    members: &[Member],
    threshold: u16,
    entropy: &mut R,
) -> Result<(Vec<KeyShare>, GroupKey), DecodeError> {
    let invalid = || DecodeError::Threshold { what: "dealt group", found: threshold, members: members.len() };
    let ids: Vec<_> = members.iter().map(|&member| identifier(member)).collect();
    let count = u16::try_from(ids.len()).map_err(|_| invalid())?;
    let list = tr::keys::IdentifierList::Custom(&ids);
    let (shares, package) =
        tr::keys::generate_with_dealer(count, threshold, list, &mut *entropy).map_err(|_| invalid())?;
    let shares = shares
        .into_values()
        .map(|share| KeyShare::wrap(Box::new(share.try_into().map_err(|_| invalid())?)))
        .collect::<Result<_, _>>()?;
    Ok((shares, GroupKey::wrap(package)?))
}
