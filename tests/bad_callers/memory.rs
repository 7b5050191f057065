//! What bad callers can make a node hold.

use std::time::Duration;

use frostkeep::limits::{CONNECTION_WINDOW_BYTES, SEND_BUFFER_BYTES_MAX};
use frostkeep::reasons::Reason;
use h2::client::SendRequest;
use h2::{RecvStream, SendStream};
use hyper::body::Bytes;
use tokio::time::{sleep, timeout};

use crate::calls::{START, STATUS, WINDOW, framed, http2, post};
use crate::kit::eventually;
use crate::raw::{CONTINUATION, HEADERS, Raw, call, fillers, frame};
use crate::scene::{END, Scene};

const MIB: usize = 1 << 20;

/// The limits of this test, which the bad callers use to the full.
const CONNECTIONS: usize = 40;
const CALLS: usize = 256;
const CALLS_PER_CONNECTION: usize = 16;
const BUFFERED: usize = 8 * MIB;
const HEADERS_MAX: usize = 16 << 10;

/// A large request, bytes; eight fit.
const LARGE: usize = MIB;

/// What both ends of one connection take beside what is counted below: records of TLS (16 KiB) on their way in and out, frames
/// of HTTP/2 (16 KiB) on theirs, and the states of both.
const CONNECTION: usize = 128 << 10;

/// A call: its task, its headers, what it says.
const CALL: usize = 16 << 10;

/// All that the limits allow:
///
/// ```text
///  40 connections x (256 KiB window + 16 KiB headers + 128 KiB)   16 MiB
///  256 calls x (16 KiB send buffer + 16 KiB)                       8 MiB
///  8 MiB of requests, twice: in frames and in the message         16 MiB
///                                                                 40 MiB
/// ```
///
/// Without the budget of requests alone, 256 calls would hold 256 MiB.
const BOUND: usize = CONNECTIONS * (CONNECTION_WINDOW_BYTES as usize + HEADERS_MAX + CONNECTION)
    + CALLS * (SEND_BUFFER_BYTES_MAX + CALL)
    + 2 * BUFFERED;

/// Memory of this process, bytes.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches("kB").trim().parse::<usize>().unwrap() << 10
}

/// Connections with everything that they have under way.
#[derive(Default)]
struct Attack {
    callers: Vec<SendRequest<Bytes>>,
    sent: Vec<SendStream<Bytes>>,
    replies: Vec<h2::client::ResponseFuture>,
    unread: Vec<RecvStream>,
    raw: Vec<Raw>,
}

impl Attack {
    /// `connections` in all, in equal parts: requests that lack their last byte, replies that nobody reads, headers without an
    /// end, and connections that only ever open and reset.
    async fn begin(scene: &Scene, connections: usize, large: &Bytes) -> Self {
        let node = &scene.stage.net.nodes[0];
        let key = &scene.stage.net.clients["coordinator"];
        let mut attack = Self::default();
        for number in 0..connections {
            match number % 4 {
                0 | 1 => attack.send(http2(node, key, WINDOW).await, large).await,
                2 => attack.ask(scene, http2(node, key, 0).await).await,
                _ => {
                    let mut raw = Raw::open(node, key).await;
                    let more = frame(CONTINUATION, 0, 1, &fillers(100));
                    raw.say(&[frame(HEADERS, 0, 1, &call(STATUS)), more].concat()).await;
                    attack.raw.push(raw);
                }
            }
        }
        attack
    }

    async fn send(&mut self, mut requests: SendRequest<Bytes>, large: &Bytes) {
        for _ in 0..CALLS_PER_CONNECTION {
            let Ok(Ok(ready)) = timeout(Duration::from_secs(1), requests.clone().ready()).await else { break };
            requests = ready;
            let (reply, mut body) = requests.send_request(post(START), false).unwrap();
            // The bytes are shared: what is sent costs this end nothing.
            body.send_data(large.clone(), false).unwrap();
            self.sent.push(body);
            self.replies.push(reply);
        }
        self.callers.push(requests);
    }

    async fn ask(&mut self, scene: &Scene, mut requests: SendRequest<Bytes>) {
        let message = Bytes::from(framed(&scene.request));
        for _ in 0..CALLS_PER_CONNECTION {
            let Ok(Ok(ready)) = timeout(Duration::from_secs(1), requests.clone().ready()).await else { break };
            requests = ready;
            let (reply, mut body) = requests.send_request(post(START), false).unwrap();
            body.send_data(message.clone(), true).unwrap();
            if let Ok(Ok(reply)) = timeout(END, reply).await {
                self.unread.push(reply.into_body());
            }
        }
        self.callers.push(requests);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_memory_of_a_node_stays_within_what_its_limits_say_whatever_its_callers_do() {
    let scene = Scene::new(&format!(
        "connections = {}\nhandshakes = 8\nconnections_per_pin = {CONNECTIONS}\ncalls = {CALLS}\n\
         calls_per_connection = {CALLS_PER_CONNECTION}\nbuffered_bytes = {BUFFERED}\nheader_bytes = {HEADERS_MAX}\n\
         body_ms = 60000\nreply_ms = 60000\n",
        CONNECTIONS + 4
    ))
    .await;
    let length = u32::try_from(LARGE).unwrap().to_be_bytes();
    let large: Bytes = [&[0], &length[..], &vec![0x5a; LARGE - 1]].concat().into();
    // What is made once, by whoever comes first.
    drop(Attack::begin(&scene, 4, &large).await);
    eventually("the first have left", || scene.open() == 0).await;

    let before = resident();
    for round in 0..3 {
        let attack = Attack::begin(&scene, CONNECTIONS, &large).await;
        let mut most = 0;
        for _ in 0..50 {
            most = most.max(resident());
            sleep(Duration::from_millis(20)).await;
        }
        let grown = most.saturating_sub(before);
        assert!(grown < BOUND, "round {round}: {} KiB more, the limits allow {} KiB", grown >> 10, BOUND >> 10);
        assert_eq!(scene.open() as usize, CONNECTIONS, "they are all there");
        assert!(attack.unread.len() >= CALLS_PER_CONNECTION, "{} replies are unread", attack.unread.len());
        assert!(scene.calls_refused(Reason::CapacityExceeded) > 0, "they asked for more than there is");
        // Administration has room of its own all the while.
        crate::stage::status_over(scene.stage.net.nodes[0].socket().await.unwrap()).await;
        drop(attack);
        eventually("they have left", || scene.open() == 0).await;
        scene.honest().await;
    }
    scene.nothing_lost().await;
}
