//! `BuildTaprootTx`, both ways.

use super::{key_group, root};
use crate::bitcoin::{OutputKeys, Prevout, ScriptBytes, UnsignedTransaction};
use crate::engine::{BuildRequest, Refusal};
use crate::ids::{KeyGroupId, MerkleRoot};
use crate::limits::{APPROVAL_ROOTS_MAX, TRANSACTION_INPUTS_MAX};
use crate::wire::field::{FieldError, at_most, present};
use crate::wire::v1;

impl From<&BuildRequest> for v1::BuildTaprootTxRequest {
    fn from(request: &BuildRequest) -> Self {
        let prevouts = request.transaction.prevouts();
        let unsigned = v1::UnsignedTransaction {
            raw: request.transaction.raw(),
            prevouts: prevouts.iter().map(Into::into).collect(),
        };
        Self {
            key_group: request.key_group.as_bytes().to_vec(),
            transaction: Some(v1::build_taproot_tx_request::Transaction::Unsigned(unsigned)),
            taproot_merkle_roots: request.roots.iter().map(|root| root.as_bytes().to_vec()).collect(),
        }
    }
}

impl From<&Prevout> for v1::Prevout {
    fn from(prevout: &Prevout) -> Self {
        Self { value_sat: prevout.value_sat, script_pubkey: prevout.script.as_bytes().to_vec() }
    }
}

/// Reads a `BuildTaprootTx`. `own` gives the output keys of a key group under these roots: inputs of a PSBT that spend one
/// must ask for nothing that is not signed here.
///
/// # Errors
/// [`Refusal`] of `own`; `invalid_request` naming what is wrong with the transaction.
pub fn build_request(
    request: v1::BuildTaprootTxRequest,
    own: impl FnOnce(&KeyGroupId, &[MerkleRoot]) -> Result<OutputKeys, Refusal>,
) -> Result<BuildRequest, Refusal> {
    use v1::build_taproot_tx_request::Transaction as Wire;
    let key_group = key_group(&request.key_group)?;
    at_most("taproot_merkle_roots", &request.taproot_merkle_roots, APPROVAL_ROOTS_MAX)?;
    let roots = request.taproot_merkle_roots.iter().map(|bytes| root(Some(bytes)));
    let roots: Vec<MerkleRoot> = roots.filter_map(Result::transpose).collect::<Result<_, _>>()?;
    let transaction = match present("transaction", request.transaction)? {
        Wire::Unsigned(unsigned) => {
            at_most("prevouts", &unsigned.prevouts, TRANSACTION_INPUTS_MAX)?;
            let prevouts = unsigned.prevouts.into_iter();
            let prevouts: Vec<Prevout> = prevouts
                .map(|prevout| Prevout {
                    value_sat: prevout.value_sat,
                    script: ScriptBytes::new(prevout.script_pubkey),
                })
                .collect();
            UnsignedTransaction::from_parts(&unsigned.raw, &prevouts)
        }
        Wire::Psbt(bytes) => UnsignedTransaction::from_psbt(&bytes, &own(&key_group, &roots)?),
    };
    let transaction = transaction.map_err(|error| FieldError::value("transaction", &error))?;
    Ok(BuildRequest { key_group, transaction, roots })
}
