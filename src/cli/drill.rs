//! `frostkeep drill`: plays an outage of the token on a node, on purpose, and shows what the node does in it.

mod report;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use frostkeep_hsm::clock::{Clock, SystemClock};
use frostkeep_hsm::config::TokenConfig;
use frostkeep_hsm::drill::DrillKind;
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use self::report::Kept;
use super::init::read_config;
use super::keygroup::{not_known, patience};
use super::progress::Reporter;
use super::reach::{
    LocalArgs, NETWORK_HELP, NetworkArgs, NodeArgs, Trouble, all_done, ask_all, block_on, failed, failed_here, named,
    on_runtime_within,
};
use super::token::{environment, variable};
use super::{CliError, Output};
use crate::client::{Client, ClientError, DrillView};
use crate::drill::{Course, CourseError, Drilled, Plan, Remote, Report, Scratch, ScratchError, Seat, Stand};
use crate::ids::{KeyGroupId, Member};
use crate::limits::{DRILL_MS, DRILL_MS_MAX};
use crate::reasons::Reason;

const OUTAGE_HELP: &str = "The outage is played by the node's token agent: nothing reaches the token, its PIN or its latch. The node ends the drill by itself
when its time is over, also when this command is gone; ^C ends it at once.

Before, during and after it the command asks the node for rounds of a message that spends nothing, holds what comes of them
against what the manual promises for an outage, and writes a report. The exit code is 0 only if every expectation was met.

A node is refused that is in an outage, that somebody has signed on during the last 30 seconds (--danger-live-traffic), or whose
drill is on. Rounds need --node, a key group with the attempt policy roast, and the roles admin and coordinator; otherwise
status, counters and the end are shown alone, and the report says so.

  unplug  the token is pulled           hang  no call returns        crash  the module takes its process down
  pin     a login is refused            slow  answers come late      all    one after the other

With --scratch the drill is on a node of this process: a fresh store in a directory for temporary files, sealed under the key of the
configured token, and a key of its own. It works beside the running node, and nothing of it is left.
Its own login before the drill is a real one: it uses the real PIN file and the token's real latch. A PIN file that is wrong counts
as one refused login, and latches the running node's next login too.

Examples:
  frostkeep drill outage --node north --report north.json
  frostkeep drill outage --node north --kind all --seconds 20
  frostkeep drill outage --scratch --config /etc/frostkeep/node.toml --kind hang";

const END_HELP: &str = "Examples:
  frostkeep drill end --node north
  frostkeep drill end --config /etc/frostkeep/node.toml";

/// How long a scratch node has for its end when nobody waits for its drill any more, milliseconds: a call of it runs into its deadline.
const SCRATCH_END_MS: u64 = 30_000;

/// The verbs of `frostkeep drill`.
#[derive(Debug, Subcommand)]
pub enum DrillCommand {
    /// Play an outage on a node, and report what it does
    #[command(after_help = OUTAGE_HELP, after_long_help = format!("{NETWORK_HELP}\n\n{OUTAGE_HELP}"))]
    Outage(Box<OutageArgs>),
    /// End a drill before its time
    #[command(after_help = END_HELP, after_long_help = format!("{NETWORK_HELP}\n\n{END_HELP}"))]
    End(EndArgs),
}

/// What is played.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kinds {
    Unplug,
    Hang,
    Crash,
    Pin,
    Slow,
    All,
}

impl Kinds {
    fn kinds(self) -> Vec<DrillKind> {
        match self {
            Self::Unplug => vec![DrillKind::Unplug],
            Self::Hang => vec![DrillKind::Hang],
            Self::Crash => vec![DrillKind::Crash],
            Self::Pin => vec![DrillKind::Pin],
            Self::Slow => vec![DrillKind::Slow],
            Self::All => DrillKind::ALL.to_vec(),
        }
    }
}

/// The arguments of `frostkeep drill outage`.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("where").required(true).multiple(true).args(["node", "socket", "config", "scratch"]))]
pub struct OutageArgs {
    #[command(flatten)]
    network: NetworkArgs,
    /// This node of the roster
    #[arg(long, value_name = "NAME", conflicts_with_all = ["socket", "config", "scratch"])]
    node: Option<String>,
    #[command(flatten)]
    local: LocalArgs,
    /// A node of this process, on the token of --config or --uri
    #[arg(long, conflicts_with = "socket")]
    scratch: bool,
    /// RFC 7512 URI of a scratch node's token: token, key, module and pin-source
    #[arg(long, value_name = "URI", requires_all = ["scratch", "latch_directory"], conflicts_with = "config")]
    uri: Option<String>,
    /// Directory of the credential latches: the same as that of the node on this token
    #[arg(long, value_name = "DIR", requires = "uri")]
    latch_directory: Option<PathBuf>,
    /// A variable of the token agent's environment; may be repeated. Never a secret
    #[arg(long = "env", value_name = "NAME=VALUE", value_parser = variable, requires = "uri")]
    environment: Vec<(String, String)>,
    /// The outage
    #[arg(long, value_enum, value_name = "KIND", default_value = "unplug")]
    kind: Kinds,
    /// How long each, seconds
    #[arg(long, value_name = "SECONDS", default_value_t = DRILL_MS / 1_000, value_parser = clap::value_parser!(u64).range(1..=(DRILL_MS_MAX / 1_000)))]
    seconds: u64,
    /// The key group whose rounds are asked for; without it the first that the node holds
    #[arg(long, value_name = "ID", conflicts_with = "scratch")]
    key_group: Option<KeyGroupId>,
    /// Drill although others sign on the node: their fresh rounds are refused meanwhile
    #[arg(long, conflicts_with = "scratch")]
    danger_live_traffic: bool,
    /// Where the report goes, JSON, mode 0600; an existing file is never replaced
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

/// The arguments of `frostkeep drill end`.
#[derive(Debug, Args)]
pub struct EndArgs {
    #[command(flatten)]
    nodes: NodeArgs,
}

/// Runs a verb of `frostkeep drill`.
///
/// # Errors
/// [`CliError`]; exit code 4 when an expectation was not met.
pub fn run(command: DrillCommand, out: &Output) -> Result<(), CliError> {
    match command {
        DrillCommand::Outage(args) => outage(&args, out),
        DrillCommand::End(args) => end(args, out),
    }
}

fn outage(args: &OutageArgs, out: &Output) -> Result<(), CliError> {
    let kept = args.report.as_deref().map(Kept::at).transpose()?;
    let reporter = Arc::new(Reporter::new(out.is_json()));
    let (stop, stopped) = watch::channel(false);
    let end = if args.scratch { Duration::from_millis(SCRATCH_END_MS) } else { Duration::ZERO };
    let drilled = on_runtime_within(end, async {
        tokio::select! {
            // Listening comes first: a signal before it ends the process, and leaves a scratch node's directory.
            biased;
            () = interrupted(&stop, &reporter, args.scratch) => Err(CliError::surroundings("interrupted twice")
                .with_hint(if args.scratch {
                    "the scratch node is taken down, with its drill and its directory"
                } else {
                    "the node ends the drill by itself; `frostkeep drill end` ends it now"
                })),
            report = drill(args, &reporter, stopped) => report,
        }
    });
    reporter.clear();
    report::show(&drilled?, kept, out)
}

/// The first interrupt ends the drill, the second the command.
async fn interrupted(stop: &watch::Sender<bool>, reporter: &Reporter, scratch: bool) {
    // One listener for both: what comes between two of them is nobody's.
    let Ok(mut interrupts) = signal(SignalKind::interrupt()) else { return std::future::pending().await };
    interrupts.recv().await;
    stop.send_replace(true);
    reporter.note(if scratch {
        "the drill is ended; once more takes the scratch node down without a report"
    } else {
        "the drill is ended; once more leaves without waiting for the node"
    });
    interrupts.recv().await;
}

async fn drill(args: &OutageArgs, reporter: &Arc<Reporter>, stop: watch::Receiver<bool>) -> Result<Report, CliError> {
    let told = Arc::clone(reporter);
    let tell: crate::drill::course::Watch = Arc::new(move |who: &str, what: &str| told.at(who, what));
    let plan = Plan {
        kinds: args.kind.kinds(),
        duration_ms: args.seconds.saturating_mul(1_000),
        danger_live_traffic: args.danger_live_traffic,
        seat: None,
    };
    let clock = Arc::new(SystemClock::new());
    if args.scratch {
        let (configs, min_wraps) = scratch_tokens(args)?;
        tell("scratch", "making a node of its own, with a key");
        let scratch = Arc::new(Scratch::make(&configs, min_wraps).await.map_err(|error| no_scratch(&error))?);
        let plan = Plan { seat: Some(scratch.seat().clone()), ..plan };
        let drilled = with_seat(scratch.describe(), plan.seat.as_ref());
        let course = Course { stand: Arc::clone(&scratch), plan, clock, tell, stop };
        let report = reported(&course, drilled, "scratch node").await;
        // Threads are joined: not on one that serves.
        let _ = tokio::task::spawn_blocking(move || scratch.close()).await;
        return report;
    }
    if let Some(target) = args.local.target()? {
        let remote = Remote::new(&target.client, None, None);
        let why = "the Unix socket asks for no rounds: --node does, with a roster and a key";
        let drilled = remote.describe(&target.name).await.map_err(|error| failed_here(&target.name, &error))?;
        let danger_live_traffic = args.danger_live_traffic;
        let drilled = Drilled { no_rounds: Some(why.to_owned()), danger_live_traffic, ..drilled };
        let course = Course { stand: Arc::new(remote), plan, clock, tell, stop };
        return reported(&course, drilled, &target.name).await;
    }
    let name = args.node.as_deref().ok_or_else(|| CliError::usage("which node?").with_hint("give --node NAME"))?;
    over_network(args, name, plan, (clock, tell, stop)).await
}

/// What a course has beside its node and its plan.
type Surroundings = (Arc<SystemClock>, crate::drill::course::Watch, watch::Receiver<bool>);

async fn over_network(
    args: &OutageArgs,
    name: &str,
    plan: Plan,
    (clock, tell, stop): Surroundings,
) -> Result<Report, CliError> {
    let network = args.network.network()?;
    let node = named(&network, name)?;
    let chosen = Remote::choose(&node.client, args.key_group.as_ref()).await;
    let (seat, no_rounds) = match chosen.map_err(|error| failed(name, &error))? {
        Err(why) => (None, Some(why)),
        Ok(info) => {
            let known = network.key_group(&info.id, patience()).await.map_err(|error| not_known(&error))?;
            let own = |member: &&Member| known.seats.get(member) == Some(&node.identity);
            let member = info.local_members.iter().find(own).copied();
            match member {
                Some(member) => {
                    let group = known.certificate.group().clone();
                    (Some(Seat { group, identities: known.seats, member }), None)
                }
                None => {
                    (None, Some(format!("no seat of key group {} has the identity of {name} in the roster", info.id)))
                }
            }
        }
    };
    let remote = Remote::new(&node.client, Some(&network), seat.as_ref());
    let drilled = remote.describe(name).await.map_err(|error| failed(name, &error))?;
    let danger_live_traffic = args.danger_live_traffic;
    let drilled = Drilled { no_rounds, danger_live_traffic, ..with_seat(drilled, seat.as_ref()) };
    let course = Course { stand: Arc::new(remote), plan: Plan { seat, ..plan }, clock, tell, stop };
    reported(&course, drilled, name).await
}

fn with_seat(drilled: Drilled, seat: Option<&Seat>) -> Drilled {
    Drilled {
        key_group: seat.map(|seat| seat.key_group().to_string()),
        member: seat.map(|seat| seat.member.number()),
        ..drilled
    }
}

async fn reported<S: Stand>(course: &Course<S>, drilled: Drilled, name: &str) -> Result<Report, CliError> {
    let (seen, left) = course.run().await.map_err(|error| not_begun(name, &error))?;
    let missing = course.plan.kinds.len().saturating_sub(seen.len());
    let unfinished = match left {
        Some(error) => Some(error.to_string()),
        None if missing > 0 => {
            Some(format!("{missing} kinds were not drilled: the node was not ready, or was not to go on"))
        }
        None => None,
    };
    Ok(Report::new(drilled, &seen, unfinished, course.clock.unix_seconds()))
}

/// The tokens of a scratch node, and how many of them have to be there for a seal.
fn scratch_tokens(args: &OutageArgs) -> Result<(Vec<TokenConfig>, usize), CliError> {
    match (&args.uri, &args.latch_directory, args.local.config()) {
        (Some(uri), Some(latches), _) => {
            let latches = std::path::absolute(latches).map_err(|error| {
                CliError::usage(format!("--latch-directory {latches:?} names no directory")).caused_by(&error)
            })?;
            Ok((vec![TokenConfig::new(uri, environment(&args.environment), latches)], 1))
        }
        (_, _, Some(path)) => read_config(path).map(|config| (config.tokens, config.min_wraps)),
        _ => Err(CliError::usage("a scratch node on which token?")
            .with_hint("give --config FILE, or --uri and --latch-directory")),
    }
}

fn not_begun(name: &str, error: &CourseError) -> CliError {
    let error = match error {
        CourseError::Call { error, .. } => error,
        CourseError::TokenAway(_) => {
            return CliError::surroundings(format!("{name}: {error}"))
                .with_hint("nothing was begun: bring the token back, or take it out of the node's configuration");
        }
        CourseError::TooShort { least_ms, .. } => {
            return CliError::usage(format!("{name}: {error}"))
                .with_hint(format!("nothing was begun: --seconds {}", least_ms.div_ceil(1_000)));
        }
        CourseError::Interrupted => {
            return CliError::surroundings(format!("{name}: {error}")).with_hint("run it again");
        }
    };
    let refused = failed(name, error);
    match error.reason() {
        Some(Reason::LiveTraffic) => refused.with_hint(
            "wait until it is quiet; --danger-live-traffic drills all the same, and refuses fresh rounds of others meanwhile",
        ),
        Some(Reason::DrillOn) => refused.with_hint("wait, or end it: `frostkeep drill end`"),
        Some(Reason::KeyProviderUnavailable) => {
            refused.with_hint("the outage is real: there is nothing to play; `frostkeep status` says what it is")
        }
        Some(Reason::PermissionDenied) => {
            refused.with_hint("a drill needs the role admin, and its rounds the role coordinator on every member's node")
        }
        _ => refused,
    }
}

fn no_scratch(error: &ScratchError) -> CliError {
    let text = format!("no scratch node: {error}");
    let token = "is the token there, and has it the key? `frostkeep token show` looks";
    match error {
        ScratchError::Create(error) => CliError::refused(error.reason(), text).with_hint(token),
        ScratchError::Open(error) => CliError::refused(error.reason(), text).with_hint(token),
        ScratchError::Config(error) => {
            CliError::usage(text).caused_by(error).with_hint("mend --uri, --env or the [[token]] of the configuration")
        }
        ScratchError::Directory(error) => {
            CliError::surroundings(text).caused_by(error).with_hint("TMPDIR names the directory for temporary files")
        }
        ScratchError::NotReady(_) | ScratchError::Key(_) => CliError::surroundings(text).with_hint(token),
    }
}

#[derive(Serialize)]
struct Ended {
    nodes: Vec<Row>,
}

#[derive(Default, Serialize)]
struct Row {
    node: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    ended: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    begun_by: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Trouble>,
}

fn end(args: EndArgs, out: &Output) -> Result<(), CliError> {
    let here = args.nodes.is_here();
    let work = async {
        let ask = |client: Client| async move { client.end_drill(None).await };
        Ok(ask_all(args.nodes.targets()?, ask).await)
    };
    let answers: Vec<(String, Result<Option<DrillView>, ClientError>)> = block_on(work, "run it again")?;
    let row = |(node, answer): &(String, Result<Option<DrillView>, ClientError>)| match answer {
        Ok(drill) => Row {
            node: node.clone(),
            ended: drill.as_ref().map(|drill| drill.kind.to_string()),
            begun_by: drill.as_ref().map(|drill| drill.by.clone()),
            error: None,
        },
        Err(error) => Row { node: node.clone(), error: Some(error.into()), ..Row::default() },
    };
    if out.is_json() {
        out.object(&Ended { nodes: answers.iter().map(row).collect() })?;
    } else {
        for (node, answer) in &answers {
            match answer {
                Ok(Some(drill)) => out.line(format!("{node}: ended {}, begun by {}", drill.kind, drill.by))?,
                Ok(None) => out.line(format!("{node}: no drill was on"))?,
                Err(_) => {}
            }
        }
    }
    match answers.as_slice() {
        [(node, Err(error))] if here => Err(failed_here(node, error)),
        _ => all_done(&answers),
    }
}
