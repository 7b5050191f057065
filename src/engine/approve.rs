//! `BuildTaprootTx`: approves a transaction for a key group. Sessions may then sign its signature hashes.

use super::Engine;
use super::caller::{Caller, Role};
use super::checks::facts;
use super::core::{Core, Env, encode, not_durable, stop_reason};
use super::record::Record;
use super::refusal::Refusal;
use super::reply::ApprovalReply;
use super::state::{Approval, approval_key};
use crate::bitcoin::UnsignedTransaction;
use crate::ids::{KeyGroupId, MerkleRoot};
use crate::limits;
use crate::store::{Durable, Position, SlotKind};

/// `BuildTaprootTx`: a transaction with its prevouts, from parts or from a PSBT.
#[derive(Debug, Clone)]
pub struct BuildRequest {
    /// The key group.
    pub key_group: KeyGroupId,
    /// The transaction.
    pub transaction: UnsignedTransaction,
    /// The Taproot roots of the group's outputs that it spends; outputs without a root need none.
    pub roots: Vec<MerkleRoot>,
}

enum BuildStep {
    Serve(Durable<Approval>),
    Wait(Position),
}

impl Engine {
    /// `BuildTaprootTx`: checked against the policy, recorded, durable. Repeats are served from memory after the policy is
    /// checked again, rate limits apart.
    ///
    /// # Errors
    /// [`Refusal`]; `policy_denied` names the rule, the value and the limit.
    pub async fn build_taproot_tx(&self, caller: &Caller, request: &BuildRequest) -> Result<ApprovalReply, Refusal> {
        let answer = self.build(caller, request).await;
        self.inner.tally.note("BuildTaprootTx", answer)
    }

    async fn build(&self, caller: &Caller, request: &BuildRequest) -> Result<ApprovalReply, Refusal> {
        caller.require(&[Role::Coordinator])?;
        if request.roots.len() > limits::APPROVAL_ROOTS_MAX {
            return Err(Refusal::InvalidRequest(format!(
                "{} taproot roots: at most {} are allowed",
                request.roots.len(),
                limits::APPROVAL_ROOTS_MAX
            )));
        }
        let group_key = self.facts(&request.key_group)?.group_key;
        let roots = request.roots.iter().map(Some);
        let keys: Vec<[u8; 32]> = std::iter::once(None).chain(roots).map(|root| group_key.output_key(root)).collect();
        let mut in_flight = false;
        loop {
            let step = {
                let env = self.env();
                self.core().admit_build(&env, request, &keys, &mut in_flight)?
            };
            match step {
                BuildStep::Serve(approval) => {
                    return self.hand_over(&request.key_group, || ApprovalReply::new(&approval));
                }
                BuildStep::Wait(position) => self.await_durable(position, in_flight).await?,
            }
        }
    }
}

impl Core {
    fn admit_build(
        &mut self,
        env: &Env<'_>,
        request: &BuildRequest,
        keys: &[[u8; 32]],
        in_flight: &mut bool,
    ) -> Result<BuildStep, Refusal> {
        self.settle(env.line)?;
        let group = self.durable_group(&request.key_group)?;
        env.check_release(&request.key_group)?;
        let policy = env.config.effective_policy(&group.policy)?;
        let asked = facts(&request.transaction, keys);
        let key = approval_key(&request.transaction);
        if let Some(approval) = group.approvals.get(&key) {
            policy.check_transaction(&asked)?;
            let approval = env.line.durable().prove(approval.clone());
            return approval.map(BuildStep::Serve).map_err(|above| not_durable(&env.status, env.now, above.position));
        }
        let group = self.admitted_group(&request.key_group)?;
        if let Some(pending) = group.approvals.get(&key) {
            if stop_reason(&env.status, env.now, false).is_some() {
                return Err(not_durable(&env.status, env.now, pending.position));
            }
            return Ok(BuildStep::Wait(pending.position));
        }
        let policy = env.config.effective_policy(&group.policy)?;
        let charge = policy.check(&asked, &group.usage, env.unix)?;
        if group.approvals.len() >= limits::APPROVALS_MAX && !group.forgets_at(charge.at_unix_s) {
            return Err(Refusal::CapacityExceeded {
                what: "approved transactions of the key group",
                limit: limits::APPROVALS_MAX as u64,
            });
        }
        env.admit_work()?;
        let record = Record::Approved {
            key_group: request.key_group,
            raw: request.transaction.raw(),
            prevouts: request.transaction.prevouts(),
            keys: keys.to_vec(),
            charge,
        };
        let encoded = encode(&record)?;
        let slot = env.reserve(SlotKind::Round, encoded.size_bytes())?;
        *in_flight = true;
        self.install(env.line, slot, record, encoded).map(BuildStep::Wait)
    }
}
