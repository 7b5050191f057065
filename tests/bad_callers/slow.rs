//! Callers that take their time: to send, and to read.

use std::time::{Duration, Instant};

use frostkeep::reasons::Reason;
use frostkeep::wire::v1;
use frostkeep::wire::v1::admin_client::AdminClient;
use hyper::body::Bytes;
use tokio::time::{sleep, timeout};

use crate::calls::{START, STATUS, WINDOW, ended, framed, http2, post, reason_of};
use crate::raw::{CONTINUATION, END_HEADERS, HEADERS, PING, Raw, call, fillers, frame};
use crate::scene::{END, SOON, Scene, closed};

/// Between two bytes of a caller that drips.
const DRIP: Duration = Duration::from_millis(20);

#[tokio::test(flavor = "multi_thread")]
async fn headers_that_drip_end_their_connection() {
    let scene = Scene::new("ping_ms = 300\nping_timeout_ms = 300\n").await;
    let node = &scene.stage.net.nodes[0];
    let key = &scene.stage.net.clients["observer"];
    let fields = call(STATUS);
    let whole = frame(HEADERS, END_HEADERS, 1, &[&fields[..], &fillers(80)].concat());
    // The same as frames of one byte each: nothing else may come between them, not the answer to a ping.
    let parts: Vec<u8> = [frame(HEADERS, 0, 1, &fields)]
        .into_iter()
        .chain(fillers(10).iter().map(|byte| frame(CONTINUATION, 0, 1, &[*byte])))
        .flatten()
        .collect();
    let begun = Instant::now();
    let (one, other) = (Raw::open(node, key).await, Raw::open(node, key).await);
    let slow = tokio::spawn(async move { tokio::join!(one.drip(whole, DRIP), other.drip(parts, DRIP)) });
    scene.honest().await;
    timeout(END, slow).await.unwrap().unwrap();
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    scene.counted("ping_timeout", 2).await;
    scene.nothing_lost().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_drip_and_replies_that_nobody_reads_end_in_time_and_delay_no_round_and_no_freeze() {
    let scene = Scene::new("body_ms = 1500\nreply_ms = 1500\ncalls = 64\n").await;
    let net = &scene.stage.net;
    let node = &net.nodes[0];
    let begun = Instant::now();
    let mut slow = tokio::task::JoinSet::new();
    for _ in 0..16 {
        // Alive, by their answers to pings, and well-mannered but for the pace.
        let mut requests = http2(node, &net.clients["coordinator"], WINDOW).await;
        let message = framed(&scene.request);
        slow.spawn(async move {
            let (reply, mut body) = requests.send_request(post(START), false).unwrap();
            let drips = async {
                for byte in message {
                    if body.send_data(Bytes::copy_from_slice(&[byte]), false).is_err() {
                        break;
                    }
                    sleep(DRIP).await;
                }
                std::future::pending::<()>().await;
            };
            tokio::select! {
                () = drips => unreachable!("it drips until it is told to stop"),
                reply = reply => reason_of(ended(reply.unwrap()).await.as_ref()),
            }
        });
    }
    let mut unread = Vec::new();
    let mut stingy = http2(node, &net.clients["coordinator"], 0).await;
    for _ in 0..16 {
        stingy = stingy.ready().await.unwrap();
        let (reply, mut body) = stingy.send_request(post(START), false).unwrap();
        body.send_data(framed(&scene.request).into(), true).unwrap();
        // Its head has come: the share is encoded, and waits for room.
        unread.push(timeout(END, reply).await.unwrap().unwrap());
    }
    scene.honest().await;
    let mut admin = AdminClient::new(net.channel(0, "admin").await);
    let key_group = scene.stage.key_group().as_bytes().to_vec();
    let now = Instant::now();
    let freeze = v1::FreezeRequest { key_group: key_group.clone(), reason: "slow callers".into() };
    let frozen = admin.freeze(freeze).await.unwrap().into_inner();
    assert!(frozen.durable && now.elapsed() < Duration::from_secs(2), "a freeze took {:?}", now.elapsed());
    admin.thaw(v1::ThawRequest { key_group, freezes: vec![frozen.freeze] }).await.unwrap();
    drop(admin);

    while let Some(reason) = timeout(END, slow.join_next()).await.unwrap() {
        assert_eq!(reason.unwrap(), Some(Reason::InvalidRequest));
    }
    for reply in unread {
        let mut body = reply.into_body();
        let first = timeout(END, body.data()).await.unwrap();
        assert!(first.is_none_or(|data| data.is_err()), "the stream was reset");
    }
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    assert_eq!(scene.calls_refused(Reason::InvalidRequest), 16);
    scene.counted("reply_timeout", 16).await;
    drop(stingy);
    scene.nothing_lost().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_asks_and_asks_and_never_reads_a_byte_loses_its_connection() {
    let scene = Scene::new("reply_ms = 1000\nping_ms = 300\nping_timeout_ms = 300\n").await;
    let node = &scene.stage.net.nodes[0];
    let mut raw = Raw::open(node, &scene.stage.net.clients["observer"]).await;
    // Every ping has to be answered; what the sockets between hold is full some time, and the node cannot even say goodbye.
    let pings = frame(PING, 0, 0, b"are you?").repeat(1_000);
    let talks = async { while raw.say(&pings).await {} };
    tokio::select! {
        () = talks => {}
        () = sleep(Duration::from_secs(4)) => {}
    }
    scene.honest().await;
    let begun = Instant::now();
    while scene.open() > 0 {
        assert!(begun.elapsed() < SOON, "its connection is held for ever");
        sleep(DRIP).await;
    }
    scene.counted("reply_timeout", 1).await;
    closed(&mut raw.reads).await;
    scene.nothing_lost().await;
}
