//! What nodes say of themselves and of key groups, read and checked as far as one answer can be.

use std::collections::BTreeMap;

use super::drill::DrillView;
use super::error::ClientError;
use super::read::{at_most, exact, exact_or_none, make_plain, member, present, same};
use crate::identity::IdentityKey;
use crate::ids::{AttemptPolicy, CeremonyId, FreezeId, KeyGroupId, Member};
use crate::keygen::Certificate;
use crate::limits::{DENY_FILES_MAX, KEY_GROUPS_MAX, MEMBERS_MAX};
use crate::policy::SigningPolicy;
use crate::roster::Pin;
use crate::wire::{ceremony, request, v1};

/// Where a node stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodePhase {
    /// Its state is being opened.
    Opening,
    /// Its state waits for the token.
    Sealed,
    /// Open.
    Open,
    /// It will not open in this process.
    Failed,
}

impl NodePhase {
    /// The name that tables and JSON show.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Opening => "opening",
            Self::Sealed => "sealed",
            Self::Open => "open",
            Self::Failed => "failed",
        }
    }
}

/// A node's status: what is parsed of it, and the message as it came.
pub struct NodeStatus {
    /// Where it stands.
    pub phase: NodePhase,
    /// Its identity, while the state is open.
    pub identity: Option<IdentityKey>,
    /// The pin of its serving key.
    pub serving_pin: Pin,
    /// The pin of its client key, while the state is open.
    pub client_pin: Option<Pin>,
    /// The SHA-256 of the roster file that it has in force.
    pub roster_hash: [u8; 32],
    /// The outage drill that is on.
    pub drill: Option<DrillView>,
    /// All of it, with texts that can be shown.
    pub message: v1::StatusReply,
}

impl NodeStatus {
    pub(super) fn read(mut reply: v1::StatusReply) -> Result<Self, ClientError> {
        make_plain(texts(&mut reply));
        let phase = match v1::Phase::try_from(reply.phase) {
            Ok(v1::Phase::Opening) => NodePhase::Opening,
            Ok(v1::Phase::Sealed) => NodePhase::Sealed,
            Ok(v1::Phase::Open) => NodePhase::Open,
            Ok(v1::Phase::Failed) => NodePhase::Failed,
            Ok(v1::Phase::Unspecified) | Err(_) => {
                return Err(ClientError::Nonsense(format!("{} is no phase of a node", reply.phase)));
            }
        };
        let drill = reply.provider.as_ref().and_then(|provider| provider.drill.clone());
        let identity = match reply.identity.as_slice() {
            [] => None,
            bytes => Some(ceremony::identity(bytes).map_err(ClientError::nonsense)?),
        };
        Ok(Self {
            phase,
            identity,
            serving_pin: Pin::new(exact("serving_pin", &reply.serving_pin)?),
            client_pin: exact_or_none("client_pin", &reply.client_pin)?.map(Pin::new),
            roster_hash: exact("roster_hash", &reply.roster_hash)?,
            drill: drill.map(DrillView::read).transpose()?,
            message: reply,
        })
    }
}

/// Every text of it.
fn texts(reply: &mut v1::StatusReply) -> Vec<&mut String> {
    let mut all = vec![&mut reply.name, &mut reply.version, &mut reply.reason, &mut reply.problem];
    if let Some(provider) = &mut reply.provider {
        all.push(&mut provider.state);
        all.extend(provider.drill.iter_mut().map(|it| &mut it.by));
        let outages = provider.outage.iter_mut();
        let mut outages: Vec<_> = outages.collect();
        for token in &mut provider.tokens {
            all.extend([&mut token.name, &mut token.state]);
            outages.extend(&mut token.outage);
        }
        all.extend(outages.into_iter().flat_map(|it| [&mut it.class, &mut it.detail, &mut it.token]));
    }
    all.extend(reply.storage.iter_mut().flat_map(|it| [&mut it.state, &mut it.detail, &mut it.releases]));
    all.extend(reply.anchor.iter_mut().map(|it| &mut it.strength));
    let counts = reply.counters.iter_mut().flat_map(|it| &mut it.refused);
    let counts = counts.chain(reply.connections.iter_mut().flat_map(|it| &mut it.refused));
    all.extend(counts.map(|count| &mut count.reason));
    all
}

/// How a key group stands on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupPhase {
    /// The shares are kept and refuse to sign.
    Prepared,
    /// It signs.
    Active,
    /// It has ended.
    Retired,
}

impl GroupPhase {
    /// The name that tables and JSON show.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Prepared => "prepared",
            Self::Active => "active",
            Self::Retired => "retired",
        }
    }
}

/// A key group as one node sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyGroupInfo {
    /// Its id.
    pub id: KeyGroupId,
    /// How it stands.
    pub phase: GroupPhase,
    /// The key generation that made it.
    pub ceremony: CeremonyId,
    /// Members that must sign together.
    pub threshold: u16,
    /// All members, with the identities in force on this node.
    pub seats: BTreeMap<Member, IdentityKey>,
    /// The node's own members.
    pub local_members: Vec<Member>,
    /// How attempts advance.
    pub attempt_policy: AttemptPolicy,
    /// The hash of the signing policy in force.
    pub signing_policy_hash: [u8; 32],
    /// The freezes in force.
    pub freezes: Vec<FreezeId>,
    /// Whether it is frozen; an unreadable deny file freezes without an id.
    pub frozen: bool,
    /// Open sessions.
    pub sessions: u64,
    /// Whether the node's roster agrees with the seats.
    pub roster_agrees: bool,
}

impl KeyGroupInfo {
    pub(super) fn read_all(reply: v1::ListKeyGroupsReply) -> Result<Vec<Self>, ClientError> {
        at_most("key_groups", &reply.key_groups, KEY_GROUPS_MAX)?;
        reply.key_groups.into_iter().map(Self::read).collect()
    }

    fn read(group: v1::KeyGroup) -> Result<Self, ClientError> {
        let phase = match v1::KeyGroupPhase::try_from(group.phase) {
            Ok(v1::KeyGroupPhase::Prepared) => GroupPhase::Prepared,
            Ok(v1::KeyGroupPhase::Active) => GroupPhase::Active,
            Ok(v1::KeyGroupPhase::Retired) => GroupPhase::Retired,
            Ok(v1::KeyGroupPhase::Unspecified) | Err(_) => {
                return Err(ClientError::Nonsense(format!("{} is no phase of a key group", group.phase)));
            }
        };
        at_most("local_members", &group.local_members, MEMBERS_MAX)?;
        at_most("freezes", &group.freezes, DENY_FILES_MAX)?;
        let local = group.local_members.iter().map(|&number| member("local_members", number));
        let freezes = group.freezes.iter().map(|freeze| exact("freezes", freeze).map(FreezeId::new));
        Ok(Self {
            id: request::key_group(&group.id).map_err(ClientError::nonsense)?,
            phase,
            ceremony: ceremony::ceremony(&group.ceremony).map_err(ClientError::nonsense)?,
            threshold: u16::try_from(group.threshold).map_err(ClientError::nonsense)?,
            seats: ceremony::read_seats(&group.seats).map_err(ClientError::nonsense)?,
            local_members: local.collect::<Result<_, _>>()?,
            attempt_policy: ceremony::attempt_policy(group.attempt_policy).map_err(ClientError::nonsense)?,
            signing_policy_hash: exact("signing_policy_hash", &group.signing_policy_hash)?,
            freezes: freezes.collect::<Result<_, _>>()?,
            frozen: group.frozen,
            sessions: group.sessions,
            roster_agrees: group.roster_agrees,
        })
    }
}

/// A key group as one node sees it, with its certificate and its policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyGroupDetail {
    /// What the list says of it.
    pub info: KeyGroupInfo,
    /// The certificate, which proves itself; none while the key group is only prepared.
    pub certificate: Option<Certificate>,
    /// The signing policy in force on the node. Its hash is the one that the node names.
    pub policy: SigningPolicy,
}

impl KeyGroupDetail {
    pub(super) fn read(asked: &KeyGroupId, reply: v1::GetKeyGroupReply) -> Result<Self, ClientError> {
        let info = KeyGroupInfo::read(present("key_group", reply.key_group)?)?;
        same("key_group", &info.id, asked)?;
        let certificate = match reply.certificate.as_slice() {
            [] => None,
            bytes => Some(Certificate::from_bytes(bytes).map_err(ClientError::nonsense)?),
        };
        if let Some(certificate) = &certificate {
            same("certificate", &certificate.group().id(), asked)?;
            same("certificate", &certificate.ceremony(), &info.ceremony)?;
            same("certificate", &certificate.group().threshold(), &info.threshold)?;
            let members = certificate.seats().keys();
            if !members.eq(info.seats.keys()) {
                return Err(ClientError::Nonsense("the certificate has other members than the seats".into()));
            }
        }
        let policy = ceremony::signing_policy(&reply.signing_policy).map_err(ClientError::nonsense)?;
        same("signing_policy", &policy.hash().map_err(ClientError::nonsense)?, &info.signing_policy_hash)?;
        Ok(Self { info, certificate, policy })
    }
}
