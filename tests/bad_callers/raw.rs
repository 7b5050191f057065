//! HTTP/2 by hand (RFC 9113), for what no library would send.

use frostkeep::tls::TlsKey;
use tokio::io::{AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::net::NetNode;
use crate::scene::closed;

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const END_HEADERS: u8 = 4;

/// Why an HTTP/2 connection ends (RFC 9113, section 7).
pub(crate) const PROTOCOL_ERROR: u32 = 1;
pub(crate) const FRAME_SIZE_ERROR: u32 = 6;
pub(crate) const ENHANCE_YOUR_CALM: u32 = 11;

/// One frame.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The headers of a gRPC call to this path, none of them indexed (RFC 7541).
pub(crate) fn call(path: &str) -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    let fields = [
        // POST and http, of the static table.
        vec![0x83, 0x86],
        [vec![0x04], text(path)].concat(),
        [vec![0x01], text("frostkeep")].concat(),
        [vec![0x0f, 0x10], text("application/grpc")].concat(),
        [vec![0x00], text("te"), text("trailers")].concat(),
    ];
    fields.concat()
}

/// Headers that mean nothing, 103 bytes each.
pub(crate) fn fillers(count: usize) -> Vec<u8> {
    [&[0x00, 1, b'x', 99][..], &[b'x'; 99]].concat().repeat(count)
}

/// A connection on which the test says whatever it likes.
pub(crate) struct Raw {
    pub(crate) reads: ReadHalf<TlsStream<TcpStream>>,
    pub(crate) writes: WriteHalf<TlsStream<TcpStream>>,
}

impl Raw {
    /// After TLS, before a byte of HTTP/2.
    pub(crate) async fn silent(node: &NetNode, key: &TlsKey) -> Self {
        let (reads, writes) = tokio::io::split(node.tls(key).await.unwrap());
        Self { reads, writes }
    }

    /// After the preface and the settings.
    pub(crate) async fn open(node: &NetNode, key: &TlsKey) -> Self {
        let mut raw = Self::silent(node, key).await;
        assert!(raw.say(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await);
        raw
    }

    /// Whether the bytes could be written.
    pub(crate) async fn say(&mut self, bytes: &[u8]) -> bool {
        self.writes.write_all(bytes).await.is_ok() && self.writes.flush().await.is_ok()
    }

    /// Says all this, for as long as it is listened to, and hears what the node says at the end: the error code of its GOAWAY.
    /// None when it closes without a word.
    pub(crate) async fn tell(&mut self, bytes: &[u8]) -> Option<u32> {
        let Self { reads, writes } = self;
        let talk = async {
            // It may be shown out before it is done.
            let _ = writes.write_all(bytes).await;
            let _ = writes.flush().await;
        };
        let ((), said) = tokio::join!(talk, closed(reads));
        let (mut rest, mut code) = (&said[..], None);
        while let Some((head, after)) = rest.split_first_chunk::<9>() {
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let Some((payload, after)) = after.split_at_checked(length) else { break };
            if head[3] == GOAWAY {
                code = Some(u32::from_be_bytes(payload[4..8].try_into().unwrap()));
            }
            rest = after;
        }
        code
    }

    /// Says a byte every `pause` until the node has closed.
    pub(crate) async fn drip(mut self, bytes: Vec<u8>, pause: std::time::Duration) {
        let Self { reads, writes } = &mut self;
        let talk = async {
            for byte in bytes {
                if writes.write_all(&[byte]).await.is_err() || writes.flush().await.is_err() {
                    return;
                }
                tokio::time::sleep(pause).await;
            }
            std::future::pending().await
        };
        tokio::select! {
            () = talk => {}
            _ = closed(reads) => {}
        }
    }
}
