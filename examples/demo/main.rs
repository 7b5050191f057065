//! The main job on real input: three nodes with a SoftHSM token each make a 2-of-3 key without a dealer, spend two Taproot
//! outputs, and live through an outage. Prints what must happen and what did, and fails when they differ.
//!
//! Nothing is recorded or staged: tokens, agents, seals, disks, signatures and Bitcoin Core's script engine are the real ones.
//! Only the outputs that are spent are on no chain.

mod group;
mod load;
mod nodes;
mod outage;
mod spend;
mod tell;

use std::io::IsTerminal;
use std::process::ExitCode;

use bitcoin::{Network, Transaction};
use clap::Parser;
use frostkeep::cli::{Colour, Output};
use frostkeep::hsm::clock::{Clock, SystemClock};
use nix::sys::signal::{SigSet, Signal};

use crate::group::Group;
use crate::nodes::{DemoNode, agent_program};
use crate::outage::{INPUTS, Play, Sessions};
use crate::spend::{Spend, Verdict, flipped, funding};
use crate::tell::Tell;

/// Why the story could not go on. A difference between expected and seen is no such thing: it is counted.
type Failed = Box<dyn std::error::Error + Send + Sync>;

/// Ended by a signal, as shells count it.
const EXIT_INTERRUPTED: u8 = 130;

/// Three nodes, three tokens, a key without a dealer, a Taproot spend, and an outage.
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
}

fn main() -> ExitCode {
    let args = Args::parse();
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let out = Output::new(Box::new(std::io::stdout()), args.json, !plain && std::io::stdout().is_terminal());
    let errors = Output::new(Box::new(std::io::stderr()), false, !plain && std::io::stderr().is_terminal());
    match run(&Tell::new(out)) {
        Ok(code) => code,
        Err(error) => {
            // There is nowhere to say that standard error is gone.
            let _ = errors.line(format!("{} {error}", errors.paint(Colour::Red, "error:")));
            ExitCode::FAILURE
        }
    }
}

/// Tells the story, or ends early at a signal; servers, nodes and files go when the story is dropped, either way.
fn run(tell: &Tell) -> Result<ExitCode, Failed> {
    let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect();
    // Before any other thread, so that all inherit it and the one below gets the signal.
    signals.thread_block()?;
    let (interrupt, interrupted) = tokio::sync::oneshot::channel();
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        let _ = interrupt.send(signals.wait());
    })?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_time().build()?;
    runtime.block_on(async {
        tokio::select! {
            told = story(tell) => Ok(if told? { ExitCode::SUCCESS } else { ExitCode::FAILURE }),
            _ = interrupted => Ok(ExitCode::from(EXIT_INTERRUPTED)),
        }
    })
}

async fn story(tell: &Tell) -> Result<bool, Failed> {
    let clock = SystemClock::new();
    let directory = tempfile::Builder::new().prefix("frostkeep-demo-").tempdir()?;
    let agent = agent_program()?;

    tell.act("Three nodes, each with a token, a sealed state and an engine")?;
    let mut nodes = Vec::new();
    for number in 1..=3 {
        // The outage is played on node 2.
        let (mut node, report) = DemoNode::new(directory.path(), &agent, number, number == 2)?;
        node.start()?;
        node.ready().await?;
        let (token, key) = (&report.token, &report.key);
        let not_copied_out = key.sensitive == Some(true) && key.extractable == Some(false);
        let saw = if not_copied_out { "sensitive, not extractable" } else { "can be COPIED OUT" };
        let detail =
            format!("{} {}, serial {}, check value {}", token.manufacturer, token.model, token.serial, key.check_value);
        tell.check(&format!("the sealing key of node {number}"), "sensitive, not extractable", saw, &detail)?;
        nodes.push(node);
    }

    tell.act("A 2-of-3 key without a dealer")?;
    let mut group = Group::generate(nodes, tell).await?;
    tell.fact("key group", &group.id().to_string())?;
    tell.fact("descriptor", &group.confirmed().descriptor())?;
    tell.fact("address", &group.confirmed().address(Network::Regtest).to_string())?;

    tell.act("A Taproot spend of two outputs, signed by two different pairs")?;
    let spend = Spend::of(&funding(&group.script(), &[600_000, 400_000], 1), &group.script());
    tell.fact("txid", &spend.unsigned()?.id().to_string())?;
    let messages = group.approve(&spend).await?;
    let mut signatures = Vec::new();
    for ((input, message), pair) in messages.iter().enumerate().zip([[1, 2], [2, 3]]) {
        let job = group.job(&format!("spend-input-{input}"), *message, pair)?;
        signatures.push(group.finish(&job).await?);
        tell.fact(&format!("input {input}"), &format!("signed by members {} and {}", pair[0], pair[1]))?;
    }
    judge(tell, &spend, &signatures)?;

    let held_up = Spend::of(&funding(&group.script(), &[250_000; INPUTS], 2), &group.script());
    let messages = group.approve(&held_up).await?;
    let mut sessions = Sessions::open(&group, &messages)?;
    let mut play = Play::begin(&mut group, tell, &mut sessions).await?;
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
    tell.end(std::time::Duration::from_millis(clock.now().0).as_secs_f64())
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
