//! What every case begins and ends with: nodes that hold a key group with a durable round, and an honest caller who gets it.

use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use frostkeep::ids::AttemptPolicy;
use frostkeep::reasons::Reason;
use frostkeep::wire::v1;
use frostkeep::wire::v1::signer_client::SignerClient;
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

use crate::kit::{eventually, member};
use crate::net::NetPlan;
use crate::stage::{Stage, bytes, refused, status_over};

/// The longest that an honest caller may wait for a connection and an answer, whatever others do. A cached serve takes
/// milliseconds; the rest is for busy machines.
pub(crate) const SOON: Duration = Duration::from_secs(8);

/// The longest that anything in these tests may take to end.
pub(crate) const END: Duration = Duration::from_secs(20);

pub(crate) struct Scene {
    pub(crate) stage: Stage,
    /// The request of the durable round, and the round.
    pub(crate) request: v1::StartSignRoundRequest,
    round: Vec<u8>,
    subjects: AtomicU8,
}

impl Scene {
    /// Nodes with these lines in `[limits]`.
    pub(crate) async fn new(limits: &str) -> Self {
        Self::of(AttemptPolicy::Roast, limits).await
    }

    async fn of(attempts: AttemptPolicy, limits: &str) -> Self {
        let plan = NetPlan { settings: format!("[limits]\n{limits}"), ..NetPlan::of(2) };
        let stage = Stage::of(plan, attempts).await;
        let (request, round) = stage.durable_round("durable", 7).await;
        Self { stage, request, round: bytes(&round), subjects: AtomicU8::new(100) }
    }

    /// How often node 0 refused or closed connections for this cause.
    pub(crate) fn count(&self, cause: &str) -> u64 {
        let counters = self.stage.net.nodes[0].server().counters();
        counters.refused.iter().find(|(found, _)| found.name() == cause).map_or(0, |(_, count)| *count)
    }

    /// How many connections of this cause node 0 comes to have counted.
    pub(crate) async fn counted(&self, cause: &str, count: u64) {
        eventually(&format!("{cause} is counted {count} times"), || self.count(cause) >= count).await;
        assert_eq!(self.count(cause), count, "{cause}");
    }

    /// How many calls node 0 refused for this reason before they reached the engine.
    pub(crate) fn calls_refused(&self, reason: Reason) -> u64 {
        let counters = self.stage.net.nodes[0].server().counters();
        counters.calls_refused.iter().find(|(found, _)| *found == reason).map_or(0, |(_, count)| *count)
    }

    /// Connections of node 0 that are open.
    pub(crate) fn open(&self) -> u64 {
        self.stage.net.nodes[0].server().counters().open
    }

    /// A request for a round that nobody has asked for, of member 1.
    pub(crate) async fn fresh(&self) -> v1::StartSignRoundRequest {
        let subject = self.subjects.fetch_add(1, Ordering::Relaxed);
        let session = self.stage.session(&format!("fresh-{subject}"), subject).await;
        self.stage.request(&session, member(1))
    }

    /// The durable round, byte for byte.
    pub(crate) async fn is_served(&self, signer: &mut SignerClient<tonic::transport::Channel>) {
        let begun = Instant::now();
        let served = timeout(END, signer.start_sign_round(self.request.clone())).await.unwrap().unwrap().into_inner();
        assert!(served.durable && bytes(&served.round.unwrap()) == self.round, "byte for byte");
        assert!(begun.elapsed() < SOON, "the durable round took {:?}", begun.elapsed());
    }

    /// An honest caller comes in anew, gets the durable round byte for byte and a fresh round, in bounded time.
    pub(crate) async fn honest(&self) {
        let begun = Instant::now();
        let mut signer = timeout(END, self.stage.signer(0)).await.unwrap();
        self.is_served(&mut signer).await;
        let request = timeout(END, self.fresh()).await.unwrap();
        let fresh = timeout(END, signer.start_sign_round(request)).await.unwrap().unwrap().into_inner();
        assert!(fresh.durable && fresh.round.is_some());
        assert!(begun.elapsed() < SOON, "an honest caller waited {:?}", begun.elapsed());
    }

    /// The end of every case: nothing is lost, the status tells what was counted, and no connection is left.
    pub(crate) async fn nothing_lost(&self) {
        self.honest().await;
        let told = status_over(self.stage.net.channel(0, "operator").await).await;
        for (cause, count) in self.stage.net.nodes[0].server().counters().refused {
            assert_eq!(refused(&told, cause.name()), count, "{}", cause.name());
        }
        eventually("no connection is left", || self.open() == 0).await;
    }
}

/// Reads until the other side has closed; what it said.
pub(crate) async fn closed(stream: &mut (impl AsyncReadExt + Unpin)) -> Vec<u8> {
    let mut said = Vec::new();
    let end = async {
        let mut buffer = [0; 4_096];
        while let Ok(read) = stream.read(&mut buffer).await {
            if read == 0 {
                break;
            }
            said.extend_from_slice(&buffer[..read]);
        }
    };
    timeout(END, end).await.expect("the connection is closed");
    said
}
