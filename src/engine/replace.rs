//! Another node identity for a member, for one that is lost.

use std::collections::BTreeMap;

use super::Engine;
use super::caller::{Caller, Role};
use super::core::{Core, Env};
use super::record::Record;
use super::refusal::Refusal;
use super::state::{KeyGroup, Phase};
use crate::identity::IdentityKey;
use crate::ids::{KeyGroupId, Member};
use crate::store::Position;

impl Engine {
    /// Gives a member of a key group another node identity: from the record's durable position on, rounds and votes count under
    /// the new one alone, those that were signed before included. To be done on every node. A repeat returns the same position.
    ///
    /// # Errors
    /// [`Refusal`].
    pub async fn replace_identity(
        &self,
        caller: &Caller,
        key_group: &KeyGroupId,
        member: Member,
        identity: IdentityKey,
    ) -> Result<Position, Refusal> {
        caller.require(&[Role::Admin])?;
        let position = {
            let env = self.env();
            self.core().admit_replacement(&env, caller, key_group, (member, identity))?
        };
        self.await_durable(position, true).await?;
        Ok(position)
    }
}

impl Core {
    fn admit_replacement(
        &mut self,
        env: &Env<'_>,
        caller: &Caller,
        key_group: &KeyGroupId,
        seat: (Member, IdentityKey),
    ) -> Result<Position, Refusal> {
        let (member, identity) = seat;
        self.settle(env.line)?;
        let group = self.ledger.admitted().key_groups.get(key_group).ok_or(Refusal::KeyGroupUnknown(*key_group))?;
        // Another phase has a refusal of its own, below.
        if let Phase::Active { certificate, .. } = &group.phase {
            if group.identities.get(&member) == Some(&identity)
                && let Some(position) = group.replaced.get(&member)
            {
                return Ok(*position);
            }
            check_seat(group, certificate.transcript().parameters().seats(), member, identity)?;
            let own = self.identity()?.public();
            if group.seats.contains_key(&member) && identity != own {
                return Err(Refusal::InvalidRequest(format!(
                    "member {member} is a seat of this node, which signs as {own}: it can have no other identity here"
                )));
            }
        }
        let (unix, by) = (env.unix, caller.name.clone());
        self.admit_admin(env, Record::IdentityReplaced { key_group: *key_group, member, identity, unix, by })
    }
}

/// Two members have one identity only where the key generation gave them to one node: otherwise one node would speak for as
/// many members as were given to it, and the votes of several are what evidence counts. `first`: the seats of the certificate.
fn check_seat(
    group: &KeyGroup,
    first: &BTreeMap<Member, IdentityKey>,
    member: Member,
    identity: IdentityKey,
) -> Result<(), Refusal> {
    match group.identities.get(&member) {
        None => {
            return Err(Refusal::InvalidRequest(format!("member {member} is not one of this key group")));
        }
        Some(known) if *known == identity => {
            return Err(Refusal::InvalidRequest(format!("member {member} has the identity {identity} already")));
        }
        Some(_) => {}
    }
    let of_another_node = |other: &Member| first.get(other) != first.get(&member);
    let given =
        group.identities.iter().chain(first).find(|(other, known)| **known == identity && of_another_node(other));
    match given {
        None => Ok(()),
        Some((other, _)) => Err(Refusal::InvalidRequest(format!(
            "identity {identity} is that of member {other}, which another node holds than member {member}"
        ))),
    }
}
