//! The outage, played on node 2: its token is killed, hangs, and is away at a start. Each act says what must happen.

use frostkeep::engine::{Refusal, RoundReply};
use frostkeep::hsm::clock::{Clock, Millis, SystemClock};
use frostkeep::hsm::health::Outage;
use frostkeep::ids::Message;

use crate::Failed;
use crate::group::{Group, Job, admin};
use crate::load;
use crate::nodes::{CALL_MS, until};
use crate::tell::Tell;

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
    pub(crate) fn open(group: &Group, messages: &[Message]) -> Result<Self, Failed> {
        let job = |input: usize, pair: [u16; 2]| {
            let message = messages.get(input).ok_or("an input without a message")?;
            group.job(&format!("outage-input-{input}"), *message, pair)
        };
        Ok(Self {
            durable: job(0, [1, 2])?,
            caught: job(1, [2, 3])?,
            fresh: job(2, [1, 2])?,
            others: job(3, [1, 3])?,
            restart: job(4, [1, 3])?,
            hung: job(5, [2, 3])?,
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
    fn of(reply: &RoundReply) -> Self {
        Self(reply.durable_part())
    }
}

/// The answer in the words of the checks.
fn seen(answer: &Result<RoundReply, Refusal>, before: Option<&Kept>) -> String {
    match answer {
        Ok(reply) => match before {
            None => "served".into(),
            Some(kept) if kept.0 == reply.durable_part() => SAME.into(),
            Some(_) => "served, OTHER bytes".into(),
        },
        Err(Refusal::KeyProviderUnavailable { pending: true, .. }) => CAUGHT.into(),
        Err(refusal) => format!("refused: {}", refusal.reason()),
    }
}

fn outage_of(refusal: &Refusal) -> Option<(&Outage, Millis)> {
    match refusal {
        Refusal::KeyProviderUnavailable { outage, now, .. } => Some((outage, *now)),
        Refusal::RoundNotDurable { outage, now, .. } => outage.as_deref().map(|outage| (outage, *now)),
        _ => None,
    }
}

/// Class, since when, next try, and what the token said.
fn told(answer: &Result<RoundReply, Refusal>) -> String {
    let Some((outage, now)) = answer.as_ref().err().and_then(outage_of) else {
        return String::new();
    };
    let retry = outage.next_try.map_or("none".to_owned(), |at| format!("in {} ms", at.since(now)));
    format!("class {}, since {} ms, next try {retry}: {}", outage.class.name(), now.since(outage.since), outage.detail)
}

/// Whether a refusal says the class, a time since when that lies after `from`, and when the next try is.
fn tells(answer: &Result<RoundReply, Refusal>, from: Millis) -> String {
    match answer.as_ref().err().and_then(outage_of) {
        Some((outage, now)) => {
            let since = if from <= outage.since && outage.since <= now { "since" } else { "WRONG since" };
            let retry = if outage.next_try.is_some() { "next try" } else { "NO next try" };
            format!("class {}, {since}, {retry}", outage.class.name())
        }
        None => "nothing".into(),
    }
}

/// What the acts know of what went before.
pub(crate) struct Play<'a> {
    group: &'a mut Group,
    tell: &'a Tell,
    sessions: &'a mut Sessions,
    durable: Kept,
    caught: Option<Kept>,
}

impl<'a> Play<'a> {
    /// Node 2 answers the first session, and its token still stands.
    pub(crate) async fn begin(
        group: &'a mut Group,
        tell: &'a Tell,
        sessions: &'a mut Sessions,
    ) -> Result<Self, Failed> {
        let durable = Kept::of(&group.round(&sessions.durable, 2).await??);
        Ok(Self { group, tell, sessions, durable, caught: None })
    }

    pub(crate) async fn token_killed(&mut self) -> Result<(), Failed> {
        self.tell.act("Node 2's token is killed")?;
        let (tell, from) = (self.tell, self.group.node(2)?.now());
        self.group.node(2)?.server()?.kill();

        let answer = self.group.round(&self.sessions.durable, 2).await?;
        tell.check("a durable round is asked for again", SAME, &seen(&answer, Some(&self.durable)), "")?;

        let caught = self.group.round(&self.sessions.caught, 2).await?;
        tell.check("a round that was in flight when the token went", CAUGHT, &seen(&caught, None), &told(&caught))?;

        let (session, before) =
            (&self.sessions.fresh.session, self.group.commitments(&self.sessions.fresh.session, 2)?);
        let fresh = self.group.round(&self.sessions.fresh, 2).await?;
        tell.check("a fresh round, now that the outage is known", REFUSED, &seen(&fresh, None), "")?;
        tell.check("what the refusal says", "class token, since, next try", &tells(&fresh, from), &told(&fresh))?;
        let after = self.group.commitments(session, 2)?;
        let saw = if before == after { "unspent" } else { "SPENT" };
        tell.check("the nonces of the fresh round", "unspent", saw, "the same commitments before and after")?;

        let replay = self.group.round(&self.sessions.caught, 2).await?;
        tell.check("the round in flight is asked for again", NOT_DURABLE, &seen(&replay, None), &told(&replay))?;
        let answer = self.group.round(&self.sessions.durable, 2).await?;
        tell.check("the durable round, behind a line that stands", SAME, &seen(&answer, Some(&self.durable)), "")?;

        let others =
            [self.group.round(&self.sessions.others, 1).await?, self.group.round(&self.sessions.others, 3).await?];
        let saw = if others.iter().all(Result::is_ok) { "both served" } else { "refused" };
        tell.check("nodes 1 and 3 meanwhile", "both served", saw, "2 of 3 is enough")
    }

    pub(crate) async fn token_back(&mut self) -> Result<(), Failed> {
        self.tell.act("The token is back; nobody tells the node")?;
        let (tell, clock) = (self.tell, SystemClock::new());
        self.group.node(2)?.server()?.restart()?;
        let engine = self.group.engine(2)?;
        let healed = until("the provider is back", || engine.status().health.admits_work()).await;
        let saw = if healed.is_ok() { "ready by itself" } else { "still OUT" };
        tell.check("node 2", "ready by itself", saw, &format!("after {} ms", clock.now().0))?;

        let reply = self.group.round(&self.sessions.caught, 2).await??;
        let saw = if self.group.is_the_share_of(&self.sessions.caught, &reply)? {
            "served, the share of the package in flight"
        } else {
            "served, ANOTHER share"
        };
        let detail =
            format!("round {}, position {}; its nonces have exactly one share", reply.round_id(), reply.position());
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
        let node = self.group.node(1)?;
        node.stop();
        node.start()?;
        let epoch = node.ready().await?.status().epoch;
        let answer = self.group.round(&self.sessions.durable, 1).await?;
        let detail = format!("epoch {epoch}");
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
        self.sessions.restart = self.group.job(old.session.as_str(), message, old.pair)?;
        let answer = self.group.round(&self.sessions.restart, 1).await?;
        self.tell.check("a package of new commitments", "served", &seen(&answer, None), "")
    }

    pub(crate) async fn start_without_token(&mut self) -> Result<(), Failed> {
        self.tell.act("Node 2 is started without its token")?;
        let (tell, key_group) = (self.tell, self.group.id());
        let node = self.group.node(2)?;
        node.stop();
        node.server()?.kill();
        node.start()?;
        node.sealed().await?;
        let refusal = node.refusal()?;
        let saw = refusal.as_ref().map_or("OPEN".to_owned(), |refusal| format!("sealed, {}", refusal.reason()));
        let detail = refusal.map(|refusal| refusal.to_string()).unwrap_or_default();
        tell.check("the node", "sealed, key_provider_unavailable", &saw, &detail)?;
        let report = node.node()?.freeze(&admin(), &key_group, "a drill on a sealed node").await?;
        tell.fact("frozen", &format!("freeze {}, its deny file is synced", report.freeze))?;

        node.server()?.restart()?;
        let clock = SystemClock::new();
        let opened = node.ready().await;
        let saw = if opened.is_ok() { "opened by itself" } else { "still SEALED" };
        tell.check("the token is back", "opened by itself", saw, &format!("after {} ms", clock.now().0))?;
        let engine = opened?;
        let answer = self.group.round(&self.sessions.caught, 2).await?;
        tell.check("the round in flight, from the frozen key group", "refused: frozen", &seen(&answer, None), "")?;
        let left = engine.thaw(&admin(), &key_group, &[report.freeze]).await?;
        tell.check("a thaw that names the freeze", "0 freezes left", &format!("{} freezes left", left.len()), "")?;
        for (what, job, kept) in [
            ("the round in flight, after the restart", &self.sessions.caught, self.caught.as_ref()),
            ("the durable round, after the restart", &self.sessions.durable, Some(&self.durable)),
        ] {
            let answer = self.group.round(job, 2).await?;
            tell.check(what, SAME, &seen(&answer, kept), "")?;
        }
        // The restart took the nonces with it: the session gets a new package.
        let old = &self.sessions.hung;
        self.sessions.hung = self.group.job(old.session.as_str(), old.subject.message, old.pair)?;
        Ok(())
    }

    pub(crate) async fn token_hangs(&mut self) -> Result<(), Failed> {
        self.tell.act("Node 2's token hangs: every call to it takes for ever")?;
        let (tell, from) = (self.tell, self.group.node(2)?.now());
        let engine = self.group.engine(2)?;
        let request = self.group.request(&self.sessions.durable, 2)?;
        let healthy = load::measure(&engine, &request, &self.durable.0).await?;
        tell.fact("healthy", &healthy.to_string())?;

        self.group.node(2)?.server()?.stop()?;
        // At once: the call that hangs, and the clients that must not notice.
        let (caught, hung) =
            tokio::join!(self.group.round(&self.sessions.hung, 2), load::measure(&engine, &request, &self.durable.0));
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
            &tells(&caught, from),
            &format!("a call may take {CALL_MS} ms"),
        )?;
        let replay = self.group.round(&self.sessions.hung, 2).await?;
        tell.check("asked for again", NOT_DURABLE, &seen(&replay, None), &told(&replay))?;

        let clock = SystemClock::new();
        self.group.node(2)?.server()?.resume()?;
        let healed = until("the provider is back", || engine.status().health.admits_work()).await;
        let saw = if healed.is_ok() { "ready by itself" } else { "still OUT" };
        tell.check("the token goes on", "ready by itself", saw, &format!("after {} ms", clock.now().0))?;
        let reply = self.group.round(&self.sessions.hung, 2).await??;
        let saw = if self.group.is_the_share_of(&self.sessions.hung, &reply)? {
            "served, its one share"
        } else {
            "ANOTHER share"
        };
        let detail = format!("token agents started: {}", engine.status().health.agents_started);
        tell.check("the round in flight", "served, its one share", saw, &detail)
    }
}
