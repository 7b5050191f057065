//! The outage, played on node 2: its token is killed, hangs, and is away at a start. Each act says what must happen.

use frostkeep::client::view::NodePhase;
use frostkeep::client::{ClientError, ServedRound};
use frostkeep::hsm::clock::{Clock, SystemClock};
use frostkeep::ids::Message;
use frostkeep::reasons::Reason;
use frostkeep::wire::status::Problem;
use serde_json::Value;

use crate::Failed;
use crate::group::{Group, Job};
use crate::load;
use crate::nodes::{CALL_MS, ready, until};
use crate::tell::Tell;
use crate::world::World;

type Answer = Result<ServedRound, ClientError>;

/// Inputs that the acts sign.
pub(crate) const INPUTS: usize = 6;

const SAME: &str = "served, the same bytes";
const CAUGHT: &str = "refused: key_provider_unavailable, the round is pending";
const REFUSED: &str = "refused: key_provider_unavailable";
const NOT_DURABLE: &str = "refused: round_not_durable";

/// The sessions of the story, one an input of the transaction that the outage holds up.
pub(crate) struct Sessions {
    /// Answered by node 2 before anything happens.
    pub(crate) durable: Job,
    /// In flight at node 2 when its token is killed.
    pub(crate) caught: Job,
    /// Asked for while the token is away.
    pub(crate) fresh: Job,
    /// Of the two nodes that lack nothing.
    pub(crate) others: Job,
    /// Of node 1 around its restart.
    pub(crate) restart: Job,
    /// In flight at node 2 when its token hangs.
    pub(crate) hung: Job,
}

impl Sessions {
    pub(crate) async fn open(group: &Group, messages: &[Message]) -> Result<Self, Failed> {
        let job = async |input: usize, first: [u16; 2], without: u16| {
            let message = messages.get(input).ok_or("an input without a message")?;
            group.job(&format!("outage-input-{input}"), *message, group.members(&first, without)).await
        };
        Ok(Self {
            durable: job(0, [1, 2], 0).await?,
            caught: job(1, [2, 3], 1).await?,
            fresh: job(2, [1, 2], 0).await?,
            others: job(3, [1, 3], 2).await?,
            restart: job(4, [1, 3], 2).await?,
            hung: job(5, [2, 3], 1).await?,
        })
    }

    /// In the order of the inputs.
    pub(crate) fn all(&self) -> [&Job; INPUTS] {
        [&self.durable, &self.caught, &self.fresh, &self.others, &self.restart, &self.hung]
    }
}

/// What was kept of a round, to compare with.
struct Kept(Vec<u8>);

impl Kept {
    fn of(served: &ServedRound) -> Self {
        Self(served.durable_part())
    }
}

/// The answer in the words of the checks.
fn seen(answer: &Answer, before: Option<&Kept>) -> String {
    match answer {
        Ok(served) => match before {
            None => "served".into(),
            Some(kept) if kept.0 == served.durable_part() => SAME.into(),
            Some(_) => "served, OTHER bytes".into(),
        },
        Err(ClientError::Refused(problem)) if problem.reason == Reason::KeyProviderUnavailable && problem.pending => {
            CAUGHT.into()
        }
        Err(ClientError::Refused(problem)) => format!("refused: {}", problem.reason),
        Err(other) => other.to_string(),
    }
}

fn problem(answer: &Answer) -> Option<&Problem> {
    match answer {
        Err(ClientError::Refused(problem)) => Some(problem),
        _ => None,
    }
}

/// Class, since when, next try, and what the token said.
fn told(answer: &Answer) -> String {
    let Some((class, detail)) = problem(answer).and_then(|problem| problem.outage.as_ref()) else {
        return String::new();
    };
    let number = |of: fn(&Problem) -> Option<u64>| problem(answer).and_then(of);
    let since = number(|problem| problem.outage_since_ms).map_or("?".to_owned(), |ms| ms.to_string());
    let retry = number(|problem| problem.next_try_ms).map_or("none".to_owned(), |ms| format!("in {ms} ms"));
    format!("class {class}, since {since} ms, next try {retry}: {detail}")
}

/// Whether a refusal says the class, a time since when that lies within the last `elapsed_ms`, and when the next try is.
fn tells(answer: &Answer, elapsed_ms: u64) -> String {
    let Some(problem) = problem(answer) else { return "nothing".into() };
    let Some((class, _)) = &problem.outage else { return "nothing".into() };
    let since = match problem.outage_since_ms {
        Some(since_ms) if since_ms <= elapsed_ms => "since",
        _ => "WRONG since",
    };
    let retry = if problem.next_try_ms.is_some() { "next try" } else { "NO next try" };
    format!("class {class}, {since}, {retry}")
}

/// What the acts know of what went before.
pub(crate) struct Play<'a> {
    world: &'a mut World,
    group: Group,
    tell: &'a Tell,
    sessions: &'a mut Sessions,
    durable: Kept,
    caught: Option<Kept>,
}

impl<'a> Play<'a> {
    /// Node 2 answers the first session, and its token still stands.
    pub(crate) async fn begin(
        world: &'a mut World,
        group: Group,
        tell: &'a Tell,
        sessions: &'a mut Sessions,
    ) -> Result<Self, Failed> {
        let durable = Kept::of(&group.round(&sessions.durable, 2).await??);
        Ok(Self { world, group, tell, sessions, durable, caught: None })
    }

    pub(crate) async fn token_killed(&mut self) -> Result<(), Failed> {
        self.tell.act("Node 2's token is killed")?;
        let (tell, clock) = (self.tell, SystemClock::new());
        self.world.node(2)?.server()?.kill();

        let answer = self.group.round(&self.sessions.durable, 2).await?;
        tell.check("a durable round is asked for again", SAME, &seen(&answer, Some(&self.durable)), "")?;

        let caught = self.group.round(&self.sessions.caught, 2).await?;
        tell.check("a round that was in flight when the token went", CAUGHT, &seen(&caught, None), &told(&caught))?;

        let (session, before) =
            (&self.sessions.fresh.session, self.group.commitments(&self.sessions.fresh.session, 2).await?);
        let fresh = self.group.round(&self.sessions.fresh, 2).await?;
        tell.check("a fresh round, now that the outage is known", REFUSED, &seen(&fresh, None), "")?;
        tell.check(
            "what the refusal says",
            "class token, since, next try",
            &tells(&fresh, clock.now().0),
            &told(&fresh),
        )?;
        let after = self.group.commitments(session, 2).await?;
        let saw = if before == after { "unspent" } else { "SPENT" };
        tell.check("the nonces of the fresh round", "unspent", saw, "the same commitments before and after")?;

        let replay = self.group.round(&self.sessions.caught, 2).await?;
        tell.check("the round in flight is asked for again", NOT_DURABLE, &seen(&replay, None), &told(&replay))?;
        let answer = self.group.round(&self.sessions.durable, 2).await?;
        tell.check("the durable round, behind a line that stands", SAME, &seen(&answer, Some(&self.durable)), "")?;

        let mut served = true;
        for &number in &self.sessions.others.members {
            served &= self.group.round(&self.sessions.others, number).await?.is_ok();
        }
        let saw = if served { "all served" } else { "refused" };
        let detail = format!("members {:?} are enough", self.sessions.others.members);
        tell.check("the other nodes meanwhile", "all served", saw, &detail)
    }

    pub(crate) async fn token_back(&mut self) -> Result<(), Failed> {
        self.tell.act("The token is back; nobody tells the node")?;
        let (tell, clock) = (self.tell, SystemClock::new());
        self.world.node(2)?.server()?.restart()?;
        let healed = ready(self.group.client(2)?).await;
        let saw = if healed.is_ok() { "ready by itself" } else { "still OUT" };
        tell.check("node 2", "ready by itself", saw, &format!("after {} ms", clock.now().0))?;

        let reply = self.group.round(&self.sessions.caught, 2).await??;
        let saw = if self.group.is_the_share_of(&self.sessions.caught, &reply)? {
            "served, the share of the package in flight"
        } else {
            "served, ANOTHER share"
        };
        let detail = format!("round {}, position {}; its nonces have exactly one share", reply.round, reply.position);
        tell.check("the round that was in flight", "served, the share of the package in flight", saw, &detail)?;
        let kept = Kept::of(&reply);
        for time in ["asked for again", "and once more"] {
            let replay = self.group.round(&self.sessions.caught, 2).await?;
            tell.check(time, SAME, &seen(&replay, Some(&kept)), "")?;
        }
        self.caught = Some(kept);
        let answer = self.group.round(&self.sessions.fresh, 2).await?;
        tell.check(
            "the refused request, unchanged",
            "served",
            &seen(&answer, None),
            "no nonce was taken, so it still fits",
        )?;
        // Node 1 answers its half while it still has the nonces: the next act restarts it.
        self.group.round(&self.sessions.fresh, 1).await??;
        Ok(())
    }

    pub(crate) async fn other_node_restarts(&mut self) -> Result<(), Failed> {
        self.tell.act("Node 1 is restarted")?;
        let kept = Kept::of(&self.group.round(&self.sessions.durable, 1).await??);
        let node = self.world.node(1)?;
        let exit = node.stop().await?;
        self.tell.check("SIGTERM", "exit 0", &exit.map_or("a signal".into(), |code| format!("exit {code}")), "")?;
        node.start()?;
        let status = ready(self.group.client(1)?).await?;
        let answer = self.group.round(&self.sessions.durable, 1).await?;
        let detail = format!("epoch {}", status.message.epoch);
        self.tell.check("a durable round from before", SAME, &seen(&answer, Some(&kept)), &detail)?;
        let stale = self.group.round(&self.sessions.restart, 1).await?;
        let expected = "refused: commitments_unknown";
        self.tell.check(
            "a package made before the restart",
            expected,
            &seen(&stale, None),
            "nonces live in memory only",
        )?;
        let old = &self.sessions.restart;
        let message = old.subject.message;
        self.sessions.restart = self.group.job(old.session.as_str(), message, old.members.clone()).await?;
        let answer = self.group.round(&self.sessions.restart, 1).await?;
        self.tell.check("a package of new commitments", "served", &seen(&answer, None), "")
    }

    pub(crate) async fn start_without_token(&mut self) -> Result<(), Failed> {
        self.tell.act("Node 2 is started without its token")?;
        let (tell, key_group) = (self.tell, self.group.id().to_string());
        let node = self.world.node(2)?;
        node.stop().await?;
        node.server()?.kill();
        node.start()?;
        let client = self.group.client(2)?;
        let status = until("the node is sealed", client, |status| status.phase == NodePhase::Sealed).await?;
        let saw = format!("sealed, {}", status.message.reason);
        tell.check("its status, over the network", "sealed, key_provider_unavailable", &saw, &status.message.problem)?;
        let answer = self.group.round(&self.sessions.durable, 2).await?;
        tell.check("a round is asked for", REFUSED, &seen(&answer, None), &told(&answer))?;
        let socket = self.world.node(2)?.socket().display().to_string();
        let freeze = ["freeze", &key_group, "--reason", "a drill on a sealed node", "--socket", &socket];
        let frozen = self.world.tool().answer(&freeze).await?;
        let freeze = frozen.pointer("/nodes/0/freeze").and_then(Value::as_str).ok_or("no freeze")?.to_owned();
        tell.fact("frozen", &format!("freeze {freeze}, through the Unix socket; its deny file is synced"))?;

        self.world.node(2)?.server()?.restart()?;
        let clock = SystemClock::new();
        let opened = ready(client).await;
        let saw = if opened.is_ok() { "opened by itself" } else { "still SEALED" };
        tell.check("the token is back", "opened by itself", saw, &format!("after {} ms", clock.now().0))?;
        let answer = self.group.round(&self.sessions.caught, 2).await?;
        tell.check("the round in flight, from the frozen key group", "refused: frozen", &seen(&answer, None), "")?;
        let thaw = ["thaw", &key_group, "--freeze", &freeze, "--socket", &socket];
        let thawed = self.world.tool().answer(&thaw).await?;
        let left = thawed.pointer("/nodes/0/in_force").and_then(Value::as_array).map_or(usize::MAX, Vec::len);
        tell.check("a thaw that names the freeze", "0 freezes left", &format!("{left} freezes left"), "")?;
        for (what, job, kept) in [
            ("the round in flight, after the restart", &self.sessions.caught, self.caught.as_ref()),
            ("the durable round, after the restart", &self.sessions.durable, Some(&self.durable)),
        ] {
            let answer = self.group.round(job, 2).await?;
            tell.check(what, SAME, &seen(&answer, kept), "")?;
        }
        // The restart took the nonces with it: the session gets a new package.
        let old = &self.sessions.hung;
        let members = old.members.clone();
        self.sessions.hung = self.group.job(old.session.as_str(), old.subject.message, members).await?;
        Ok(())
    }

    pub(crate) async fn token_hangs(&mut self) -> Result<(), Failed> {
        self.tell.act("Node 2's token hangs: every call to it takes for ever")?;
        let tell = self.tell;
        let client = self.group.client(2)?;
        let request = self.group.request(&self.sessions.durable, 2)?;
        let healthy = load::measure(client, &request, &self.durable.0).await?;
        tell.fact("healthy", &healthy.to_string())?;

        let clock = SystemClock::new();
        self.world.node(2)?.server()?.stop()?;
        // At once: the call that hangs, and the clients that must not notice.
        let (caught, hung) =
            tokio::join!(self.group.round(&self.sessions.hung, 2), load::measure(client, &request, &self.durable.0));
        let (caught, hung) = (caught?, hung?);
        tell.fact("hanging", &hung.to_string())?;
        let expected = "every one the same bytes, none waited for the token, no tail of its own";
        tell.check(
            "durable rounds from 4 clients, hung against healthy",
            expected,
            &hung.against(&healthy),
            &hung.ratio(&healthy),
        )?;
        tell.check("a round in flight", CAUGHT, &seen(&caught, None), &told(&caught))?;
        tell.check(
            "what the refusal says",
            "class deadline, since, next try",
            &tells(&caught, clock.now().0),
            &format!("a call may take {CALL_MS} ms"),
        )?;
        let replay = self.group.round(&self.sessions.hung, 2).await?;
        tell.check("asked for again", NOT_DURABLE, &seen(&replay, None), &told(&replay))?;

        let clock = SystemClock::new();
        self.world.node(2)?.server()?.resume()?;
        let healed = ready(client).await;
        let saw = if healed.is_ok() { "ready by itself" } else { "still OUT" };
        tell.check("the token goes on", "ready by itself", saw, &format!("after {} ms", clock.now().0))?;
        let reply = self.group.round(&self.sessions.hung, 2).await??;
        let saw = if self.group.is_the_share_of(&self.sessions.hung, &reply)? {
            "served, its one share"
        } else {
            "ANOTHER share"
        };
        let provider = client.status().await?.message.provider.unwrap_or_default();
        let detail = format!("token agents started: {}", provider.agents_started);
        tell.check("the round in flight", "served, its one share", saw, &detail)
    }
}
