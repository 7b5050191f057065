//! Calls of gRPC over HTTP/2, with bodies as the test wants them.

use std::time::Duration;

use frostkeep::reasons::Reason;
use frostkeep::tls::TlsKey;
use frostkeep::wire::status::Problem;
use h2::RecvStream;
use h2::client::SendRequest;
use hyper::body::Bytes;
use prost::Message;
use tokio::time::timeout;
use tonic::Status;

use crate::net::NetNode;
use crate::scene::END;

pub(crate) const STATUS: &str = "/frostkeep.v1.Node/Status";
pub(crate) const START: &str = "/frostkeep.v1.Signer/StartSignRound";

/// The window of a caller that reads what it gets.
pub(crate) const WINDOW: u32 = 65_535;

/// A connection that answers pings, and grants each reply this many bytes before it reads.
pub(crate) async fn http2(node: &NetNode, key: &TlsKey, window: u32) -> SendRequest<Bytes> {
    let tls = node.tls(key).await.unwrap();
    let handshake = h2::client::Builder::new().initial_window_size(window).handshake(tls).await;
    let (requests, connection) = handshake.unwrap();
    tokio::spawn(connection);
    requests.ready().await.unwrap()
}

pub(crate) fn post(path: &str) -> http::Request<()> {
    let request = http::Request::post(format!("http://frostkeep{path}"));
    request.header("content-type", "application/grpc").header("te", "trailers").body(()).unwrap()
}

/// A message as gRPC frames it.
pub(crate) fn framed(message: &impl Message) -> Vec<u8> {
    let length = u32::try_from(message.encoded_len()).unwrap();
    [&[0], &length.to_be_bytes()[..], &message.encode_to_vec()].concat()
}

/// How a call ended: a status in the head or in the trailers, or no status at all.
pub(crate) async fn ended(reply: http::Response<RecvStream>) -> Option<Status> {
    if let Some(status) = Status::from_header_map(reply.headers()) {
        return Some(status);
    }
    let mut body = reply.into_body();
    while let Some(Ok(data)) = body.data().await {
        let _ = body.flow_control().release_capacity(data.len());
    }
    let trailers = body.trailers().await.ok()??;
    Status::from_header_map(&trailers)
}

/// Calls with this body, piece by piece; the caller says that it is done, or leaves the end open.
pub(crate) async fn say(
    requests: &SendRequest<Bytes>,
    request: http::Request<()>,
    pieces: &[&[u8]],
    done: bool,
) -> Option<Status> {
    let mut requests = requests.clone().ready().await.ok()?;
    let (reply, mut body) = requests.send_request(request, done && pieces.is_empty()).ok()?;
    for (number, piece) in (1..).zip(pieces) {
        if body.send_data(Bytes::copy_from_slice(piece), done && number == pieces.len()).is_err() {
            break;
        }
        // A frame of its own.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let reply = timeout(END, reply).await.expect("an answer, or the end").ok()?;
    ended(reply).await
}

/// The reason in a status.
pub(crate) fn reason_of(status: Option<&Status>) -> Option<Reason> {
    Problem::from_status(status?).map(|found| found.reason)
}
