//! A node of the group whose operator cheats: it takes part in the key generation as it should, and answers every signing
//! package with a share that is wrong by one bit, under its own round signature. A process of its own, made of the public
//! parts alone; no release build has such a thing in it.

mod member;
mod services;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use frostkeep::hsm::entropy;
use frostkeep::identity::NodeIdentity;
use frostkeep::roster::Roster;
use frostkeep::tls::{self, TlsKey};
use frostkeep::wire::v1;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use self::member::Member;
use self::services::Services;
use crate::Failed;

/// The name of its roster line.
pub(crate) const NAME: &str = "liar";

/// Runs the node until its process ends. It prints its identity and the pins of its keys, then serves whoever is in the
/// roster at `roster`, which its operator writes after that.
///
/// # Errors
/// When it cannot listen.
pub(crate) async fn run(roster: &Path) -> Result<std::convert::Infallible, Failed> {
    let identity = Arc::new(NodeIdentity::generate(&mut entropy::os()));
    let serving = TlsKey::generate()?;
    let client = TlsKey::generate()?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let line = Line {
        address: listener.local_addr()?.to_string(),
        identity: identity.public().to_string(),
        serving_pin: serving.pin().to_string(),
        client_pin: client.pin().to_string(),
    };
    let mut text = serde_json::to_string(&line)?;
    text.push('\n');
    let mut out = tokio::io::stdout();
    out.write_all(text.as_bytes()).await?;
    out.flush().await?;

    let roster = roster.to_owned();
    let known =
        move |pin: &frostkeep::roster::Pin| Roster::read(&roster).is_ok_and(|roster| roster.caller(pin).is_some());
    let acceptor = TlsAcceptor::from(tls::server_config(&serving, Arc::new(known))?);
    let services = Services(Arc::new(Mutex::new(Member::new(identity))));
    loop {
        let (socket, _) = listener.accept().await?;
        let (acceptor, services) = (acceptor.clone(), services.clone());
        tokio::spawn(async move {
            let Ok(stream) = acceptor.accept(socket).await else { return };
            let routes = tonic::service::Routes::new(v1::signer_server::SignerServer::new(services.clone()))
                .add_service(v1::key_generation_server::KeyGenerationServer::new(services.clone()))
                .add_service(v1::node_server::NodeServer::new(services));
            let service = hyper_util::service::TowerToHyperService::new(routes.prepare());
            let connection = hyper::server::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new());
            // A caller that goes away is none of its business.
            let _ = connection.serve_connection(hyper_util::rt::TokioIo::new(stream), service).await;
        });
    }
}

/// What its operator needs for the roster.
#[derive(serde::Serialize, serde::Deserialize)]
pub(crate) struct Line {
    pub(crate) address: String,
    pub(crate) identity: String,
    pub(crate) serving_pin: String,
    pub(crate) client_pin: String,
}

fn held(member: &Mutex<Member>) -> std::sync::MutexGuard<'_, Member> {
    member.lock().unwrap_or_else(PoisonError::into_inner)
}
