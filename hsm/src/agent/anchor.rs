//! Anchor objects: a small value under a fixed name, kept by the token in one of three ways.
//!
//! An object is found by its name in every request, never by a handle of an earlier one. None found is no reason to make one: a
//! token that is away looks empty. So `Create` is a request of its own, and `Write` refuses when there is nothing to replace.

use serde::{Deserialize, Serialize};

use super::protocol::Reply;
use crate::pkcs11::Module;
use crate::token::TokenError;

/// Longest value, bytes: store, epoch, position and chain head are 64, an authentication is 32, the rest is room.
pub const ANCHOR_BYTES_MAX: usize = 112;

/// What a write of an anchor changes on the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum AnchorKind {
    /// `CKA_VALUE` of a data object is set.
    UpdateData,
    /// A new data object is created, then the old one is destroyed. Cut off in between, it leaves both: the reader judges.
    ReplaceData,
    /// `CKA_ID` of a secret key that can do nothing is set.
    SetId,
}

/// Which objects are meant: exactly these texts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnchorName {
    /// `CKA_LABEL`.
    pub label: String,
    /// `CKA_APPLICATION` of a data object; a key has none.
    pub application: String,
}

/// From the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnchorRequest {
    /// Which kind of object.
    pub kind: AnchorKind,
    /// Which ones.
    pub name: AnchorName,
    /// What to do.
    pub act: AnchorAct,
}

/// What is done to an anchor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum AnchorAct {
    /// All values under the name.
    Read,
    /// Makes an object, whatever is there. The value is the request's tail.
    Create,
    /// Replaces the value that is there. The new one is the request's tail.
    Write,
    /// Destroys all objects of the name.
    Destroy,
}

impl AnchorAct {
    /// Its name in errors.
    pub const fn operation(self) -> &'static str {
        match self {
            Self::Read => "anchor_read",
            Self::Create => "anchor_create",
            Self::Write => "anchor_write",
            Self::Destroy => "anchor_destroy",
        }
    }
}

/// From the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Anchored {
    /// `Read`: at most [`super::protocol::KEYS_FOUND_MAX`].
    Values(Vec<Vec<u8>>),
    /// `Create` and `Write` are done.
    Done,
    /// `Destroy`: how many.
    Destroyed(u32),
}

pub(super) fn answer(module: &Module, request: &AnchorRequest, value: &[u8]) -> Result<Reply, TokenError> {
    let AnchorRequest { kind, name, act } = request;
    let answer = match act {
        AnchorAct::Read => Anchored::Values(module.anchor_read(*kind, name)?),
        AnchorAct::Create => module.anchor_create(*kind, name, value).map(|()| Anchored::Done)?,
        AnchorAct::Write => module.anchor_write(*kind, name, value).map(|()| Anchored::Done)?,
        AnchorAct::Destroy => Anchored::Destroyed(module.anchor_destroy(*kind, name)?),
    };
    Ok(Reply::Anchored(answer))
}
