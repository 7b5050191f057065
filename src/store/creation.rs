//! Making a store: a temporary name, sync, rename, sync of the directory. A crash on the way leaves no store.

use std::io;
use std::path::{Path, PathBuf};

use frostkeep_hsm::health::Outage;
use frostkeep_hsm::provider::{AnchorRead, KeyDescriptor, KeyProvider, SealedObject};
use redb::StorageBackend;

use super::core::Environment;
use super::files::{self, DirectoryLock, LockError};
use super::frame::genesis;
use super::frames::{Genesis, RedbFrames};
use super::recovery::{CONTAINER, LOCK, file_backend};
use super::rows::{Head, KeyRow, KeyState, RowKind, head_row, key_row, keys_digest, meta_row, wraps_row};
use super::seal::{OBJECT_BUNDLE, each_opens_again, fresh_key};
use crate::ids::to_hex;
use crate::limits::STORE_KEYS_MAX;
use crate::reasons::Reason;

/// Why a store was not created.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// The name is taken, by whatever it is.
    #[error("{path} exists: nothing is overwritten")]
    Exists {
        /// The name.
        path: PathBuf,
    },
    /// Another process is at work there.
    #[error("another process holds {path}")]
    Busy {
        /// The lock.
        path: PathBuf,
    },
    /// The token keeps the anchor of another store.
    #[error("the token keeps the anchor of store {store}: give it to one store only")]
    AnchorHeld {
        /// That store's id.
        store: String,
    },
    /// The key provider cannot seal now.
    #[error("key provider unavailable: {} ({})", .0.class.name(), .0.detail)]
    Outage(Outage),
    /// The provider names no key, or gave wraps that cannot be stored.
    #[error("key provider: {what}")]
    Provider {
        /// What is wrong.
        what: String,
    },
    /// The disk failed; no store was made.
    #[error("disk: {what}")]
    Io {
        /// What failed.
        what: String,
    },
}

impl CreateError {
    /// The stable reason.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Exists { .. } | Self::AnchorHeld { .. } => Reason::StateExists,
            Self::Busy { .. } => Reason::Busy,
            Self::Outage(_) | Self::Provider { .. } => Reason::KeyProviderUnavailable,
            Self::Io { .. } => Reason::StorageFailed,
        }
    }
}

/// Whether the state directory `state` has a store, of whatever condition.
///
/// # Errors
/// The system's, when it cannot be seen.
pub fn is_made(state: &Path) -> io::Result<bool> {
    files::is_taken(&state.join(CONTAINER))
}

/// Makes an empty store in the state directory `state`, which is made if its parent exists. Open it afterwards.
///
/// # Errors
/// [`CreateError`]; no store was made then.
pub fn create(
    state: &Path,
    provider: &mut dyn KeyProvider,
    environment: &mut Environment,
) -> Result<[u8; 16], CreateError> {
    let path = state.join(CONTAINER);
    let io = |error: io::Error| CreateError::Io { what: format!("{}: {error}", path.display()) };
    files::ensure_directory(state).map_err(io)?;
    let lock_path = state.join(LOCK);
    let _lock = match DirectoryLock::take(&lock_path) {
        Ok(lock) => lock,
        Err(LockError::Busy) => return Err(CreateError::Busy { path: lock_path }),
        Err(LockError::Io(error)) => return Err(io(error)),
    };
    if files::is_taken(&path).map_err(io)? {
        return Err(CreateError::Exists { path });
    }
    let temporary = state.join(format!(".{CONTAINER}.new"));
    let file = files::fresh_temporary(&temporary).map_err(io)?;
    let backend = file_backend(file).map_err(|error| CreateError::Io { what: error.to_string() })?;
    let store = create_over(backend, provider, environment)?;
    files::publish(&temporary, &path).map_err(io)?;
    Ok(store)
}

/// The same over any empty container backend. What it holds before this has returned is no store.
///
/// # Errors
/// [`CreateError`].
pub fn create_over(
    backend: impl StorageBackend,
    provider: &mut dyn KeyProvider,
    environment: &mut Environment,
) -> Result<[u8; 16], CreateError> {
    provider.connect_all();
    // A token that is away now would have to be added later: the operator did not ask for a state without it.
    if let Some(outage) = provider.tokens().into_iter().find_map(|token| token.outage) {
        return Err(CreateError::Outage(outage));
    }
    let descriptors = provider.keys();
    if descriptors.is_empty() {
        return Err(match provider.health().outage {
            Some(outage) => CreateError::Outage(outage),
            None => CreateError::Provider { what: "it names no key that seals".into() },
        });
    }
    for (number, key) in descriptors.iter().enumerate() {
        // Every TPM has the same serial number; with the label it is a name.
        let same =
            |other: &KeyDescriptor| (&other.token_serial, &other.token_label) == (&key.token_serial, &key.token_label);
        if descriptors.iter().skip(number + 1).any(same) {
            let (label, serial) = (&key.token_label, &key.token_serial);
            return Err(CreateError::Provider {
                what: format!("token {label:?}, serial {serial:?}, is configured twice: once is enough"),
            });
        }
    }
    if descriptors.len() > STORE_KEYS_MAX {
        return Err(CreateError::Provider {
            what: format!("{} keys: at most {STORE_KEYS_MAX} are allowed", descriptors.len()),
        });
    }
    // A token keeps one anchor: taking it over would make the other store look as if it had lost its own.
    if let AnchorRead::Value(value) = provider.anchor_read().map_err(|error| CreateError::Outage(error.0))? {
        return Err(CreateError::AnchorHeld { store: to_hex(&value.store) });
    }
    let mut store = [0u8; 16];
    environment.entropy.fill_bytes(&mut store);
    let keys: Vec<(u64, Vec<u8>)> = (1..)
        .zip(descriptors)
        .map(|(number, descriptor)| (number, key_row(number, &KeyRow { state: KeyState::Active, descriptor })))
        .collect();
    let bundle = fresh_key(&mut *environment.entropy);
    let object = SealedObject { store, kind: OBJECT_BUNDLE, id: 1 };
    let wraps = provider.wrap(&object, &bundle).map_err(|error| CreateError::Outage(error.0))?;
    if !each_opens_again(provider, &object, &wraps, &bundle).map_err(|error| CreateError::Outage(error.0))? {
        return Err(CreateError::Provider { what: "its wrap of a new key does not open again".into() });
    }
    let wraps = wraps_row(RowKind::BundleWraps, 1, &wraps)
        .map_err(|error| CreateError::Provider { what: error.to_string() })?;
    let head = Head {
        epoch: 0,
        last: 0,
        chain: genesis(&store),
        bundle: 1,
        bundle_frames: 0,
        keys_digest: keys_digest(&keys),
        snapshot: None,
        anchors: Vec::new(),
    };
    let rows = Genesis {
        meta: &meta_row(&store),
        keys: &keys,
        bundle: (1, &wraps),
        head: &head_row(&store, &head, &bundle, &mut *environment.entropy),
    };
    RedbFrames::create(backend, &rows).map_err(|error| CreateError::Io { what: error.to_string() })?;
    Ok(store)
}
