//! Signing with nodes that fail in the middle and nodes that lie, through the command as a user runs it.

use frostkeep::client::Client;
use frostkeep::wire::v1;
use serde_json::Value;

use crate::group::Group;
use crate::liar;
use crate::nodes::{ready, until};
use crate::spend::{Spend, funding};
use crate::tell::Tell;
use crate::tool::{Ran, text};
use crate::world::{Desk, World};
use crate::{Failed, judge};

/// Inputs of the transaction in whose middle a node is killed: enough to have a middle.
const INPUTS: usize = 24;

fn rounds(message: &v1::StatusReply) -> u64 {
    message.counters.as_ref().map_or(0, |counters| counters.rounds_fresh)
}

/// Signs every input of a spend through the command.
pub(crate) async fn sign_psbt(desk: &Desk, group: &Group, spend: &Spend, name: &str) -> Result<Ran, Failed> {
    let file = desk.directory.join(format!("{name}.psbt"));
    tokio::fs::write(&file, spend.psbt(&group.internal_key())?).await?;
    let (id, file) = (group.id().to_string(), file.display().to_string());
    desk.run(&["sign", "--key-group", &id, "--psbt", &file, "--finalize"]).await
}

/// The signatures in the witnesses of the final transaction.
pub(crate) fn signatures(ran: &Ran) -> Result<Vec<[u8; 64]>, Failed> {
    if ran.exit != 0 {
        return Err(format!("sign: exit {}: {}", ran.exit, ran.object).into());
    }
    let transaction: bitcoin::Transaction =
        bitcoin::consensus::encode::deserialize_hex(text(&ran.object, "transaction")?)?;
    let witnesses = transaction.input.iter().map(|input| input.witness.nth(0).unwrap_or_default());
    witnesses.map(|witness| Ok(<[u8; 64]>::try_from(witness)?)).collect()
}

/// A node dies of SIGKILL when some of its rounds are answered and others are not.
pub(crate) async fn node_killed(world: &mut World, group: &Group, tell: &Tell, number: u16) -> Result<(), Failed> {
    let spend = Spend::of(&funding(&group.script(), &[50_000; INPUTS], 3), &group.script());
    let client: Client = group.client(number)?.clone();
    let before = rounds(&client.status().await?.message);
    let desk = world.desk();
    let (answered, ran) = {
        let mut signing = std::pin::pin!(sign_psbt(&desk, group, &spend, "killed"));
        let answered = until("the node has answered a round", &client, |status| rounds(&status.message) > before);
        let status = tokio::select! {
            early = &mut signing => return Err(format!("over before a node was killed: {}", early?.object).into()),
            status = answered => status?,
        };
        world.node(number)?.kill().await?;
        (rounds(&status.message) - before, signing.await?)
    };
    let detail = format!("killed when it had answered {answered} of {INPUTS} inputs");
    tell.check("the signing that was under way", "exit 0", &format!("exit {}", ran.exit), &detail)?;
    judge(tell, &spend, &signatures(&ran)?)?;
    world.node(number)?.start()?;
    let status = ready(&client).await?;
    tell.fact("restarted", &format!("node {number}, epoch {}", status.message.epoch))
}

/// A member answers with shares that are wrong, in a group where every honest node is needed.
pub(crate) async fn node_lies(world: &mut World, tell: &Tell) -> Result<(), Failed> {
    let honest = world.nodes().len();
    let seat = honest + 1;
    let line = world.start_liar(seat).await?;
    world.write_roster(&line).await?;
    let desk = world.desk();
    for number in 1..=honest {
        desk.answer(&["roster", "reload", "--node", &format!("node-{number}")]).await?;
    }
    tell.fact("roster", "one node more, read again by the others without a restart")?;

    let policy = desk.directory.join("any-message.json");
    let mut any_message = frostkeep::policy::SigningPolicy::standard();
    any_message.danger_sign_any_message = true;
    tokio::fs::write(&policy, serde_json::to_string(&any_message)?).await?;
    let (threshold, policy) = (honest.to_string(), policy.display().to_string());
    let made = desk
        .answer(&["keygen", "--threshold", &threshold, "--signing-policy", &policy, "--network", "regtest"])
        .await?;
    let id = text(&made, "key_group")?;
    tell.fact("key group", &format!("{id}, {honest} of {seat}"))?;
    let blamed = |object: &Value| {
        let blamed = object.get("blamed").and_then(Value::as_array).cloned().unwrap_or_default();
        let of = |one: &Value| one.get("member").and_then(Value::as_u64).unwrap_or_default().to_string();
        blamed.iter().map(of).collect::<Vec<_>>().join(", ")
    };
    let expected = format!("exit 0, member {seat} blamed");
    let saw = |ran: &Ran| format!("exit {}, member {} blamed", ran.exit, blamed(&ran.object));
    let fault =
        |ran: &Ran| ran.object.pointer("/blamed/0/fault").and_then(Value::as_str).unwrap_or_default().to_owned();

    // One honest node stands still, so that the first attempt cannot do without the liar.
    let paused = u16::try_from(honest)?;
    let group = Group::new(id, world.clients()?).await?;
    let client = group.client(1)?.clone();
    let before = rounds(&client.status().await?.message);
    let message = frostkeep::hash::sha256(b"a message that the policy allows");
    let message = frostkeep::ids::to_hex(&message);
    world.node(paused)?.pause()?;
    let signing = tokio::spawn({
        let (desk, id) = (desk.clone(), id.to_owned());
        async move { desk.run(&["sign", "--key-group", &id, "--message", &message]).await }
    });
    let answered = until("node 1 has answered the first attempt", &client, |status| rounds(&status.message) > before);
    let answered = answered.await;
    world.node(paused)?.go_on()?;
    answered?;
    let ran = signing.await??;
    tell.check(&format!("the signing, with {} in it", liar::NAME), &expected, &saw(&ran), &fault(&ran))?;
    let proved = if ran.object.pointer("/blamed/0/proof").is_some() { "proved" } else { "NOT proved" };
    tell.check("the blame", "proved", proved, "the bad share, signed by the identity of its member's node")?;
    let verified = text(&ran.object, "signature").is_ok_and(|signature| group.verifies(signature, message_of(&ran)));
    let saw = if verified { "verifies" } else { "does NOT verify" };
    tell.check("its signature, under the group's output key", "verifies", saw, "libsecp256k1")
}

fn message_of(ran: &Ran) -> &str {
    ran.object.get("message").and_then(Value::as_str).unwrap_or_default()
}
