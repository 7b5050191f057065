//! Goal: with two tokens, losing one refuses nothing; losing both is an outage; either one ends it; and the one that comes
//! back is caught up, so that it opens the state alone.
//!
//! Method: two SoftHSM tokens behind `p11-kit server`s that are killed and stopped under load.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, clippy::disallowed_methods)]

mod kit;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use frostkeep::engine::{Engine, Refusal, SignRequest};
use frostkeep::hsm::health::ProviderState;
use kit::{Cluster, Kind, Plan, Token, durable_part, eventually, member, session, start, subject};

fn request(cluster: &Cluster, name: &str) -> SignRequest {
    let (name, what) = (session(name), subject(7));
    let package = cluster.package(&name, &what, &[member(1), member(2)]);
    cluster.request(&name, &what, 1, &package, member(1))
}

/// Requests, and the durable part of their replies.
type Rounds = Vec<(SignRequest, Vec<u8>)>;

/// Clients that ask for fresh rounds until they are told to stop. No one may be refused.
struct Load {
    stop: Arc<AtomicBool>,
    served: Arc<AtomicU64>,
    clients: Vec<tokio::task::JoinHandle<Rounds>>,
}

impl Load {
    fn begin(cluster: &Arc<Cluster>, phase: &'static str) -> Self {
        let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let client = |number: usize| {
            let (cluster, stop, served) = (Arc::clone(cluster), Arc::clone(&stop), Arc::clone(&served));
            tokio::spawn(async move {
                let engine = cluster.nodes[0].engine();
                let mut rounds = Vec::new();
                while !stop.load(Ordering::SeqCst) {
                    let request = request(&cluster, &format!("{phase}-{number}-{}", rounds.len()));
                    let reply = start(&engine, &request).await.unwrap();
                    served.fetch_add(1, Ordering::SeqCst);
                    rounds.push((request, durable_part(&reply)));
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                rounds
            })
        };
        let clients = (0..3).map(client).collect();
        Self { stop, served, clients }
    }

    async fn serves(&self, more: u64) {
        let seen = self.served.load(Ordering::SeqCst);
        eventually("fresh rounds are served", || self.served.load(Ordering::SeqCst) >= seen + more).await;
    }

    async fn end(self) -> Rounds {
        self.stop.store(true, Ordering::SeqCst);
        let mut rounds = Vec::new();
        for client in self.clients {
            rounds.extend(client.await.unwrap());
        }
        rounds
    }
}

fn token_state(engine: &Engine, number: usize) -> ProviderState {
    engine.status().tokens[number].health.state
}

fn current(engine: &Engine) -> Vec<bool> {
    engine.status().tokens.iter().map(|token| token.current).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_of_two_tokens_may_go_and_what_comes_back_is_caught_up() {
    let mut cluster = Cluster::new(Plan::two_of_three(Kind::TwoRemote)).await;
    // The servers, so that the cluster can be shared with the clients.
    let take = |token: &mut Token| std::mem::replace(token, Token::scripted("taken"));
    let [mut one, mut two] = [0, 1].map(|number| take(cluster.nodes[0].token.of_two(number)));
    let engine = cluster.nodes[0].engine();
    eventually("both are current", || current(&engine) == [true, true]).await;
    let cluster_shared = Arc::new(cluster);

    // Killed, then stopped: nobody notices.
    let load = Load::begin(&cluster_shared, "degraded");
    load.serves(30).await;
    one.take_away();
    eventually("the first is out", || token_state(&engine, 0) == ProviderState::Out).await;
    load.serves(30).await;
    assert_eq!(token_state(&engine, 1), ProviderState::Ready);
    assert!(engine.status().admits_work() && current(&engine) == [false, true]);
    one.bring_back();
    eventually("the first is caught up", || current(&engine) == [true, true]).await;
    two.hang();
    eventually("the second is out", || token_state(&engine, 1) == ProviderState::Out).await;
    load.serves(30).await;
    two.go_on();
    eventually("the second is caught up", || current(&engine) == [true, true]).await;
    let rounds = load.end().await;

    // Both.
    one.take_away();
    two.take_away();
    eventually("an outage", || !engine.status().admits_work()).await;
    let begun = Instant::now();
    let fresh = request(&cluster_shared, "fresh");
    let refusal = start(&engine, &fresh).await.unwrap_err();
    let Refusal::KeyProviderUnavailable { outage, .. } = &refusal else { panic!("{refusal}") };
    assert!(outage.detail.contains("kit-0-b"), "it names the other one as well: {}", outage.detail);
    assert!(begun.elapsed() < Duration::from_secs(5));
    for (request, bytes) in &rounds {
        assert_eq!(durable_part(&start(&engine, request).await.unwrap()), *bytes);
    }

    // The second alone, then the first as well.
    two.bring_back();
    eventually("the second alone is enough", || engine.status().admits_work()).await;
    start(&engine, &fresh).await.unwrap();
    assert_ne!(token_state(&engine, 0), ProviderState::Ready);
    one.bring_back();
    eventually("both are current again", || current(&engine) == [true, true]).await;

    // A start with the first alone.
    let mut cluster = Arc::into_inner(cluster_shared).unwrap();
    drop(engine);
    cluster.nodes[0].stop();
    two.take_away();
    *cluster.nodes[0].token.of_two(0) = one;
    *cluster.nodes[0].token.of_two(1) = two;
    let engine = cluster.nodes[0].start_open().await;
    for (request, bytes) in &rounds {
        assert_eq!(durable_part(&start(&engine, request).await.unwrap()), *bytes);
    }
    assert!(rounds.len() >= 90);
}
