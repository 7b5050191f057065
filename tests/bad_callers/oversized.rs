//! Frames, headers and messages that are too large, too short, too many or not what they say.

use frostkeep::reasons::Reason;
use tokio::time::timeout;
use tonic::Code;

use crate::calls::{START, STATUS, WINDOW, framed, http2, post, reason_of, say};
use crate::raw::{
    CONTINUATION, DATA, END_HEADERS, ENHANCE_YOUR_CALM, FRAME_SIZE_ERROR, HEADERS, PROTOCOL_ERROR, RST_STREAM, Raw,
    WINDOW_UPDATE, call, fillers, frame,
};
use crate::scene::{END, Scene};
use crate::stage::status_over;

/// The limit of these tests, bytes of one message.
const LIMIT: u32 = 65_536;

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_not_what_its_prefix_says_is_refused_and_counted() {
    let scene = Scene::new(&format!("message_bytes = {LIMIT}\nbody_ms = 60000\n")).await;
    let net = &scene.stage.net;
    let requests = http2(&net.nodes[0], &net.clients["coordinator"], WINDOW).await;
    // A fresh round that would be given, were it asked for properly.
    let good = framed(&scene.fresh().await);
    let prefix = |flag: u8, length: u32| [&[flag], &length.to_be_bytes()[..]].concat();
    let (longest, above, flag_1, flag_2) = (prefix(0, u32::MAX), prefix(0, LIMIT + 1), prefix(1, 0), prefix(2, 0));
    let short = prefix(0, 100);
    let compressed = [&[1], &good[1..]].concat();
    let cases: [(&str, &[&[u8]], bool); 12] = [
        ("4 GiB, before it has come", &[&longest], false),
        ("4 GiB, with what there is of it", &[&longest, &[0; 1_000]], true),
        ("a byte above the limit, before it has come", &[&above], false),
        ("more than it says, at once", &[&[&good[..], &[0]].concat()], true),
        ("more than it says, in a frame of its own", &[&good, &[0]], true),
        ("two messages", &[&good, &good], true),
        ("nothing at all", &[], true),
        ("a part of a prefix", &[&[0, 0, 0]], true),
        ("less than it says", &[&short, &[0; 99]], true),
        ("compressed by nothing", &[&flag_1], true),
        ("a good message, said to be compressed", &[&compressed], true),
        ("a flag that nobody knows", &[&flag_2], true),
    ];
    let before = net.nodes[0].engine().status().durable;
    for (number, (what, pieces, done)) in (1..).zip(cases) {
        let status = say(&requests, post(START), pieces, done).await;
        assert_eq!(reason_of(status.as_ref()), Some(Reason::InvalidRequest), "{what}: {status:?}");
        assert_eq!(scene.calls_refused(Reason::InvalidRequest), number, "{what} is counted");
    }
    let mut zipped = post(START);
    zipped.headers_mut().insert("grpc-encoding", "gzip".parse().unwrap());
    let status = say(&requests, zipped, &[&compressed], true).await.unwrap();
    assert_eq!(status.code(), Code::Unimplemented, "{status:?}");
    assert_eq!(net.nodes[0].engine().status().durable, before, "none of them did anything");
    let told = status_over(net.channel(0, "operator").await).await.counters.unwrap();
    let invalid = told.refused.iter().find(|refused| refused.reason == Reason::InvalidRequest.name());
    assert_eq!(invalid.map(|refused| refused.count), Some(12));
    // The connection is as good as ever.
    let status = say(&requests, post(START), &[&good], true).await.unwrap();
    assert_eq!(status.code(), Code::Ok, "{status:?}");
    drop(requests);
    scene.nothing_lost().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_above_the_limit_get_no_answer_but_a_refusal() {
    let scene = Scene::new("header_bytes = 4096\n").await;
    let net = &scene.stage.net;
    let requests = http2(&net.nodes[0], &net.clients["observer"], WINDOW).await;
    let mut large = post(STATUS);
    for number in 0..40 {
        let name = http::HeaderName::try_from(format!("x-{number}")).unwrap();
        large.headers_mut().insert(name, "x".repeat(100).parse().unwrap());
    }
    let mut sender = requests.clone().ready().await.unwrap();
    let (reply, body) = sender.send_request(large, true).unwrap();
    match timeout(END, reply).await.unwrap() {
        Ok(reply) => assert_eq!(reply.status(), http::StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE),
        Err(reset) => assert!(reset.is_reset() || reset.is_go_away(), "{reset}"),
    }
    let status = say(&requests, post(STATUS), &[&[0; 5]], true).await.unwrap();
    assert_eq!(status.code(), Code::Ok, "the connection is as good as ever: {status:?}");
    drop((requests, sender, body));
    scene.nothing_lost().await;
}

/// What breaks the rules of HTTP/2 or wears the node out, and how the node says so.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_floods_or_breaks_the_rules_is_ended_and_counted() {
    let scene = Scene::new("").await;
    let net = &scene.stage.net;
    let fields = call(STATUS);
    let open = |stream: u32| frame(HEADERS, END_HEADERS, 2 * stream + 1, &fields);
    let each = |after: &dyn Fn(u32) -> Vec<u8>| -> Vec<u8> {
        (0..20_000).flat_map(|stream| [open(stream), after(2 * stream + 1)].concat()).collect()
    };
    // CVE-2023-44487.
    let opened_and_reset = each(&|stream| frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]));
    // CVE-2025-8671: it makes the node reset them, by windows that overflow.
    let opened_and_broken = each(&|stream| frame(WINDOW_UPDATE, 0, stream, &[0x7f, 0xff, 0xff, 0xff]));
    let endless = [frame(HEADERS, 0, 1, &fields), frame(CONTINUATION, 0, 1, &fillers(9)).repeat(1_000)].concat();
    let huge = [&[0xff, 0xff, 0xff, DATA, 0, 0, 0, 0, 1][..], &[0; 100]].concat();
    let cases: [(&str, Vec<u8>, u32); 5] = [
        ("streams opened and reset", opened_and_reset, ENHANCE_YOUR_CALM),
        ("streams opened and broken", opened_and_broken, ENHANCE_YOUR_CALM),
        ("headers without an end", endless, ENHANCE_YOUR_CALM),
        ("a frame of 16 MiB", huge, FRAME_SIZE_ERROR),
        ("data of no stream", frame(DATA, 0, 1, &[0; 100]), PROTOCOL_ERROR),
    ];
    for (number, (what, says, expected)) in (1..).zip(cases) {
        let mut raw = Raw::open(&net.nodes[0], &net.clients["observer"]).await;
        let code = raw.tell(&says).await;
        // It may be closed before that is heard.
        assert!(code.is_none_or(|code| code == expected), "{what}: {code:?}");
        scene.counted("http2", number).await;
        scene.honest().await;
    }
    scene.nothing_lost().await;
}
