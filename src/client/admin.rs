//! The calls of the service `Admin`.

use std::sync::atomic::{AtomicBool, Ordering};

use super::error::ClientError;
use super::node::{Client, call};
use super::patience::{Again, Patience};
use super::read::{at_most, exact, plain};
use crate::identity::IdentityKey;
use crate::ids::{FreezeId, KeyGroupId, Member};
use crate::limits::{DENY_FILES_MAX, KEY_GROUPS_MAX};
use crate::policy::SigningPolicy;
use crate::reasons::Reason;
use crate::wire::ceremony::policy_json;
use crate::wire::request::key_group;
use crate::wire::v1;

/// A key group is frozen on a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FreezeReply {
    /// The freeze's id, which a thaw names.
    pub freeze: FreezeId,
    /// What happened to the deny file, when a restart would lose the freeze.
    pub not_durable: Option<String>,
}

/// The roster that a node has in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RosterReply {
    /// The SHA-256 of the file.
    pub hash: [u8; 32],
    /// Nodes in it.
    pub nodes: u32,
    /// Clients in it.
    pub clients: u32,
    /// Key groups of the node whose seats it contradicts.
    pub disagreeing: Vec<KeyGroupId>,
}

impl Client {
    /// `Freeze`. A freeze whose answer was lost is made again: the key group has two then, and a thaw has to name both.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn freeze(&self, key_group: &KeyGroupId, reason: &str) -> Result<FreezeReply, ClientError> {
        let message = v1::FreezeRequest { key_group: key_group.as_bytes().to_vec(), reason: reason.to_owned() };
        let reply = call!(self, admin_client::AdminClient::freeze, message)?;
        let freeze = FreezeId::new(exact("freeze", &reply.freeze)?);
        Ok(FreezeReply { freeze, not_durable: (!reply.durable).then(|| plain(&reply.problem)) })
    }

    /// `Thaw`: the freezes that are still in force.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn thaw(&self, key_group: &KeyGroupId, freezes: &[FreezeId]) -> Result<Vec<FreezeId>, ClientError> {
        let freezes = freezes.iter().map(|freeze| freeze.as_bytes().to_vec()).collect();
        let message = v1::ThawRequest { key_group: key_group.as_bytes().to_vec(), freezes };
        let reply = call!(self, admin_client::AdminClient::thaw, message)?;
        at_most("freezes", &reply.freezes, DENY_FILES_MAX)?;
        reply.freezes.iter().map(|freeze| exact("freezes", freeze).map(FreezeId::new)).collect()
    }

    /// `SetPolicy`: the position of the record.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn set_policy(&self, key_group: &KeyGroupId, policy: &SigningPolicy) -> Result<u64, ClientError> {
        let (key_group, signing_policy) = (key_group.as_bytes().to_vec(), policy_json(policy));
        let message = v1::SetPolicyRequest { key_group, signing_policy };
        call!(self, admin_client::AdminClient::set_policy, message).map(|reply| reply.position)
    }

    /// `ReplaceIdentity`: the position of the record.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn replace_identity(
        &self,
        key_group: &KeyGroupId,
        member: Member,
        identity: &IdentityKey,
    ) -> Result<u64, ClientError> {
        let message = v1::ReplaceIdentityRequest {
            key_group: key_group.as_bytes().to_vec(),
            member: member.number().into(),
            identity: identity.as_bytes().to_vec(),
        };
        call!(self, admin_client::AdminClient::replace_identity, message).map(|reply| reply.position)
    }

    /// `RetireKeyGroup`: the position of the record.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn retire_key_group(&self, key_group: &KeyGroupId) -> Result<u64, ClientError> {
        let message = v1::RetireKeyGroupRequest { key_group: key_group.as_bytes().to_vec() };
        call!(self, admin_client::AdminClient::retire_key_group, message).map(|reply| reply.position)
    }

    /// `DangerDropPrepared`: the position of the record. 0 when an answer was lost, and the node that was asked again knows
    /// the key group no longer.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn danger_drop_prepared(&self, key_group: &KeyGroupId) -> Result<u64, ClientError> {
        let message = v1::DangerDropPreparedRequest { key_group: key_group.as_bytes().to_vec() };
        let once = self.with(Patience { again: Again::Never, ..*self.patience() });
        let lost = AtomicBool::new(false);
        let drop_it = || async {
            let asked = call!(once, admin_client::AdminClient::danger_drop_prepared, message.clone());
            match asked {
                Err(error) if error.reason() == Some(Reason::KeyGroupUnknown) && lost.load(Ordering::Relaxed) => Ok(0),
                Err(error @ ClientError::Unreachable(_)) => {
                    lost.store(true, Ordering::Relaxed);
                    Err(error)
                }
                answer => answer.map(|reply| reply.position),
            }
        };
        self.patience().insist(drop_it).await
    }

    /// `ReloadRoster`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn reload_roster(&self) -> Result<RosterReply, ClientError> {
        let reply = call!(self, admin_client::AdminClient::reload_roster, v1::ReloadRosterRequest {})?;
        at_most("disagreeing", &reply.disagreeing, KEY_GROUPS_MAX)?;
        let disagreeing = reply.disagreeing.iter().map(|id| key_group(id).map_err(ClientError::nonsense));
        Ok(RosterReply {
            hash: exact("roster_hash", &reply.roster_hash)?,
            nodes: reply.nodes,
            clients: reply.clients,
            disagreeing: disagreeing.collect::<Result<_, _>>()?,
        })
    }
}
