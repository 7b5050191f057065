//! The main job on real input: nodes, each a process with a SoftHSM token, make a key without a dealer over mutual TLS, spend
//! Taproot outputs, and live through an outage, a death and a liar. Prints what must happen and what did, and fails when they
//! differ.
//!
//! Nothing is recorded or staged: processes, tokens, agents, seals, disks, signatures and Bitcoin Core's script engine are the
//! real ones. Only the outputs that are spent are on no chain.

mod group;
mod liar;
mod load;
mod nodes;
mod outage;
mod signing;
mod spend;
mod tell;
mod tool;
mod world;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use bitcoin::Transaction;
use clap::{CommandFactory, Parser};
use frostkeep::cli::{Colour, Output};
use frostkeep::client::view::GroupPhase;
use frostkeep::hsm::clock::{Clock, SystemClock};
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};

use crate::group::Group;
use crate::nodes::{DemoNode, ready};
use crate::outage::{INPUTS, Play, Sessions};
use crate::spend::{Spend, Verdict, flipped, funding};
use crate::tell::Tell;
use crate::tool::text;
use crate::world::World;

/// Why the story could not go on. A difference between expected and seen is no such thing: it is counted.
type Failed = Box<dyn std::error::Error + Send + Sync>;

/// Ended by a signal, as shells count it.
const EXIT_INTERRUPTED: u8 = 130;

/// Nodes as processes, a token each, a key without a dealer, a Taproot spend, an outage, a death and a liar.
#[derive(Debug, Parser)]
#[command(
    name = "demo",
    after_help = "With --json, one object a line:
  {\"kind\":\"act\",\"title\":..}
  {\"kind\":\"fact\",\"act\":..,\"name\":..,\"value\":..}
  {\"kind\":\"check\",\"act\":..,\"what\":..,\"expected\":..,\"saw\":..,\"detail\":..,\"ok\":true|false}
  {\"kind\":\"end\",\"checks\":N,\"differences\":N}            always the last line of a story that was told to its end

Exit codes:
  0    everything was as expected
  1    something was not, or the story could not be told to its end
  2    the command line is wrong
  130  interrupted"
)]
struct Args {
    /// Print one JSON object a line for machines instead of text for people.
    #[arg(long)]
    json: bool,
    /// Honest nodes; the liar comes on top.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(3..=15))]
    nodes: u16,
    /// Members that sign together: at most one less than there are nodes, since the story takes one away.
    #[arg(long, value_name = "T", default_value_t = 2, value_parser = clap::value_parser!(u16).range(2..=14))]
    threshold: u16,
    /// Be the node that lies, to those in this roster.
    #[arg(long, value_name = "ROSTER", hide = true)]
    liar: Option<PathBuf>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let out = Output::new(Box::new(std::io::stdout()), args.json, !plain && std::io::stdout().is_terminal());
    let errors = Output::new(Box::new(std::io::stderr()), false, !plain && std::io::stderr().is_terminal());
    if args.threshold >= args.nodes {
        let problem = format!("--threshold {}: at most {} of {} nodes", args.threshold, args.nodes - 1, args.nodes);
        Args::command().error(clap::error::ErrorKind::ValueValidation, problem).exit();
    }
    match run(&args, &Tell::new(out)) {
        Ok(code) => code,
        Err(error) => {
            // There is nowhere to say that standard error is gone.
            let _ = errors.line(format!("{} {error}", errors.paint(Colour::Red, "error:")));
            ExitCode::FAILURE
        }
    }
}

/// Tells the story, or ends early at a signal; processes and files go when the story is dropped, either way.
fn run(args: &Args, tell: &Tell) -> Result<ExitCode, Failed> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        if let Some(roster) = &args.liar {
            liar::run(roster).await?;
        }
        let mut interrupted = signal(SignalKind::interrupt())?;
        let mut terminated = signal(SignalKind::terminate())?;
        let mut hung_up = signal(SignalKind::hangup())?;
        let told = async {
            let mut world = World::new().await?;
            let told = story(args, &mut world, tell).await;
            told.map_err(|error| format!("{error}\n{}", world.last_words()).into())
        };
        tokio::select! {
            told = told => told.map(|told| if told { ExitCode::SUCCESS } else { ExitCode::FAILURE }),
            _ = interrupted.recv() => Ok(ExitCode::from(EXIT_INTERRUPTED)),
            _ = terminated.recv() => Ok(ExitCode::from(EXIT_INTERRUPTED)),
            _ = hung_up.recv() => Ok(ExitCode::from(EXIT_INTERRUPTED)),
        }
    })
}

async fn story(args: &Args, world: &mut World, tell: &Tell) -> Result<bool, Failed> {
    let clock = SystemClock::new();
    let nodes = args.nodes;
    tell.act("Nodes, each a process with a token, a sealed state and a line in the roster")?;
    for number in 1..=nodes {
        // The outage is played on node 2.
        let (node, report) = DemoNode::new(world.path(), world.tool(), number, number == 2).await?;
        let of_key = |name: &str| report.pointer(&format!("/key/{name}"));
        let not_copied_out =
            of_key("sensitive") == Some(&Value::Bool(true)) && of_key("extractable") == Some(&Value::Bool(false));
        let saw = if not_copied_out { "sensitive, not extractable" } else { "can be COPIED OUT" };
        let check_value = of_key("check_value").and_then(Value::as_str).unwrap_or_default();
        let detail = format!("check value {check_value}; the node listens on {}", node.address());
        tell.check(&format!("the sealing key of node {number}"), "sensitive, not extractable", saw, &detail)?;
        world.add(node);
    }
    world.write_roster("").await?;
    for node in world.nodes() {
        node.start()?;
    }
    let clients = world.clients()?;
    for client in &clients {
        ready(client).await?;
    }

    tell.act("A key without a dealer, over mutual TLS")?;
    let group = generate(args, world, tell).await?;

    tell.act("A Taproot spend of two outputs, from a PSBT")?;
    let spend = Spend::of(&funding(&group.script(), &[600_000, 400_000], 1), &group.script());
    tell.fact("txid", &spend.unsigned()?.id().to_string())?;
    let ran = signing::sign_psbt(&world.desk(), &group, &spend, "spend").await?;
    judge(tell, &spend, &signing::signatures(&ran)?)?;

    let held_up = Spend::of(&funding(&group.script(), &[250_000; INPUTS], 2), &group.script());
    let messages = group.approve(&held_up).await?;
    let mut sessions = Sessions::open(&group, &messages).await?;
    let mut play = Play::begin(world, group.clone(), tell, &mut sessions).await?;
    play.token_killed().await?;
    play.token_back().await?;
    play.other_node_restarts().await?;
    play.start_without_token().await?;
    play.token_hangs().await?;

    tell.act("The transaction that the outage held up")?;
    tell.fact("txid", &held_up.unsigned()?.id().to_string())?;
    let mut signatures = Vec::new();
    for job in sessions.all() {
        signatures.push(group.finish(job).await?);
    }
    judge(tell, &held_up, &signatures)?;

    tell.act("A node is killed in the middle of a signing")?;
    signing::node_killed(world, &group, tell, nodes).await?;

    tell.act("A node lies")?;
    signing::node_lies(world, tell).await?;
    tell.end(std::time::Duration::from_millis(clock.now().0).as_secs_f64())
}

/// Key generation by the command: refused while a node is away, and done when all are there.
async fn generate(args: &Args, world: &mut World, tell: &Tell) -> Result<Group, Failed> {
    let desk = world.desk();
    let threshold = args.threshold.to_string();
    let keygen = ["keygen", "--threshold", &threshold, "--policy", "roast", "--network", "regtest"];
    world.node(args.nodes)?.stop().await?;
    let ran = desk.run(&keygen).await?;
    let named = ran.object.to_string().contains(&format!("node-{}", args.nodes));
    let saw = format!("exit {}, {}", ran.exit, if named { "the node is named" } else { "the node is NOT named" });
    let problem = ran.object.pointer("/error/problem").and_then(Value::as_str).unwrap_or_default();
    tell.check("with one node away", "exit 4, the node is named", &saw, problem)?;
    world.node(args.nodes)?.start()?;
    let clients = world.clients()?;
    for client in &clients {
        ready(client).await?;
    }

    let made = desk.answer(&keygen).await?;
    let id = text(&made, "key_group")?;
    tell.fact("key group", id)?;
    tell.fact("descriptor", text(&made, "descriptor")?)?;
    tell.fact("address", text(&made, "address")?)?;
    let mut active = 0;
    for client in &clients {
        active += usize::from(client.key_groups().await?.iter().any(|group| group.phase == GroupPhase::Active));
    }
    let all = format!("active on {} of {} nodes", clients.len(), clients.len());
    let saw = format!("active on {active} of {} nodes", clients.len());
    tell.check("the key group", &all, &saw, "certified, and proved by a trial signature")?;
    Group::new(id, clients).await
}

/// Bitcoin Core's script engine on every input, and on every input with one bit of its signature flipped.
fn judge(tell: &Tell, spend: &Spend, signatures: &[[u8; 64]]) -> Result<(), Failed> {
    let signed: Transaction = spend.signed(signatures);
    tell.fact("weight", &format!("{} ({} virtual bytes)", signed.weight(), signed.vsize()))?;
    let (mut whole, mut tampered) = (0, 0);
    for input in 0..signatures.len() {
        whole += u32::from(spend.judge(&signed, input)? == Verdict::Accepted);
        let others = signatures.iter().enumerate();
        let one_flipped: Vec<_> =
            others.map(|(at, signature)| if at == input { flipped(signature) } else { *signature }).collect();
        tampered += u32::from(spend.judge(&spend.signed(&one_flipped), input)? == Verdict::Accepted);
    }
    let inputs = signatures.len();
    let (all, none) = (format!("{inputs} of {inputs} inputs accepted"), format!("0 of {inputs} inputs accepted"));
    let saw = |accepted: u32| format!("{accepted} of {inputs} inputs accepted");
    tell.check("Bitcoin Core's script engine", &all, &saw(whole), "the spent outputs passed, Taproot rules on")?;
    tell.check("the same, one bit of the input's signature flipped", &none, &saw(tampered), "")
}
