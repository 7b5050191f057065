//! Callers that come and say nothing.

use std::time::{Duration, Instant};

use frostkeep::wire::v1;
use frostkeep::wire::v1::node_client::NodeClient;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::kit::eventually;
use crate::raw::{PREFACE, Raw};
use crate::scene::{END, SOON, Scene, closed};
use crate::stage::status_over;

#[tokio::test(flavor = "multi_thread")]
async fn silence_is_ended_by_a_deadline_wherever_it_begins() {
    let scene = Scene::new("handshake_ms = 1500\nping_ms = 300\nping_timeout_ms = 300\n").await;
    let node = &scene.stage.net.nodes[0];
    let key = &scene.stage.net.clients["observer"];
    let begun = Instant::now();
    let mut before_tls = TcpStream::connect(node.address()).await.unwrap();
    let mut in_hello = TcpStream::connect(node.address()).await.unwrap();
    in_hello.write_all(&[22, 3, 1, 1, 0, 1]).await.unwrap();
    let mut after_tls = Raw::silent(node, key).await;
    let mut in_preface = Raw::silent(node, key).await;
    assert!(in_preface.say(&PREFACE[..20]).await);
    let mut after_preface = Raw::silent(node, key).await;
    assert!(after_preface.say(PREFACE).await);
    // It is asked whether it lives, and does not say.
    let mut after_settings = Raw::open(node, key).await;
    tokio::join!(
        closed(&mut before_tls),
        closed(&mut in_hello),
        closed(&mut after_tls.reads),
        closed(&mut in_preface.reads),
        closed(&mut after_preface.reads),
        closed(&mut after_settings.reads),
    );
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    scene.counted("handshake_timeout", 4).await;
    scene.counted("ping_timeout", 2).await;
    scene.nothing_lost().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_come_in_than_may_and_an_honest_caller_finds_its_place() {
    let scene = Scene::new("connections = 6\nconnections_per_pin = 4\nhandshakes = 2\nhandshake_ms = 60000\n").await;
    let net = &scene.stage.net;
    let node = &net.nodes[0];
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(Raw::open(node, &net.clients["observer"]).await);
    }
    eventually("one key has its share", || scene.open() == 4).await;
    for number in 1..=3 {
        let mut above = Raw::silent(node, &net.clients["observer"]).await;
        closed(&mut above.reads).await;
        scene.counted("pin_limit", number).await;
    }
    assert_eq!(scene.open(), 4);
    scene.honest().await;
    eventually("it has left", || scene.open() == 4).await;

    // Another key takes the rest. Who is in already does not notice.
    let mut signer = scene.stage.signer(0).await;
    scene.is_served(&mut signer).await;
    held.push(Raw::open(node, &net.clients["peer"]).await);
    eventually("all places are taken", || scene.open() == 6).await;
    for number in 1..=3 {
        let mut above = TcpStream::connect(node.address()).await.unwrap();
        closed(&mut above).await;
        scene.counted("connection_limit", number).await;
    }
    assert_eq!(scene.open(), 6);
    scene.is_served(&mut signer).await;
    status_over(node.socket().await.unwrap()).await;
    drop(signer);
    held.truncate(3);
    drop(held);
    eventually("their places are free again", || scene.open() == 0).await;
    scene.nothing_lost().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_strangers_holds_the_handshakes_for_their_time_and_never_the_connections() {
    let scene = Scene::new("connections = 16\nhandshakes = 4\nhandshake_ms = 1000\n").await;
    let net = &scene.stage.net;
    let node = &net.nodes[0];
    // Who is in already does not notice.
    let mut known = scene.stage.signer(0).await;
    scene.is_served(&mut known).await;
    let mut strangers = Vec::new();
    for _ in 0..64 {
        strangers.push(TcpStream::connect(node.address()).await.unwrap());
    }
    eventually("all but four are sent away", || scene.count("handshake_limit") >= 60).await;
    scene.is_served(&mut known).await;
    // Who comes now has to come again, for as long as one handshake may take.
    let begun = Instant::now();
    let comes_in = async {
        loop {
            if let Ok(channel) = node.channel(&net.clients["operator"]).await
                && NodeClient::new(channel).status(v1::StatusRequest {}).await.is_ok()
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(END, comes_in).await.expect("an honest caller gets in");
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    for stranger in &mut strangers {
        closed(stranger).await;
    }
    eventually("every one of them is counted", || {
        scene.count("handshake_timeout") + scene.count("handshake_limit") >= 64
    })
    .await;
    assert_eq!(scene.count("handshake_timeout"), 4);
    assert_eq!(scene.count("connection_limit"), 0);
    drop(known);
    scene.nothing_lost().await;
}
