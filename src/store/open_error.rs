//! Why a store does not open (I7).

use std::path::PathBuf;

use frostkeep_hsm::health::Outage;

use super::frame::FORMAT_VERSION;
use super::frames::FramesError;
use super::recovery::CONTAINER;
use super::rows::RowError;
use crate::reasons::Reason;

/// Why a store does not open. None of these starts empty.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is no store.
    #[error("no store at {path}")]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// A row, the chain or the container is damaged.
    #[error("store corrupt: {place} {what}")]
    Corrupt {
        /// Which row or position.
        place: String,
        /// What is wrong with it.
        what: String,
    },
    /// Whole and consistent, but older than what the token knows, or another branch of it.
    #[error("store rolled back: the disk ends at position {disk}, the token's anchor is at {anchor}: {what}")]
    RolledBack {
        /// Last position on disk.
        disk: u64,
        /// Position of the anchor.
        anchor: u64,
        /// How they differ.
        what: &'static str,
    },
    /// The state names an anchor, and the token holds none of this store.
    #[error("anchor missing: the state was anchored at position {confirmed}, the token holds {found}")]
    AnchorMissing {
        /// The last confirmed position.
        confirmed: u64,
        /// What the token holds instead.
        found: String,
    },
    /// The key that the state names is not the one that answers.
    #[error("wrong key: the state needs {needed}; {found}")]
    WrongKey {
        /// The keys that the state names.
        needed: String,
        /// What answered.
        found: String,
    },
    /// Another process has the store open.
    #[error("store busy: another process has {path} open")]
    Busy {
        /// The lock.
        path: PathBuf,
    },
    /// Written by a newer release.
    #[error("store version {found}: this release reads up to {supported}")]
    UnsupportedVersion {
        /// The version found.
        found: u16,
        /// The newest version that this release reads.
        supported: u16,
    },
    /// The key provider cannot open it now: a sealed node, which waits.
    #[error("store sealed: key provider unavailable: {} ({})", .0.class.name(), .0.detail)]
    Outage(Outage),
    /// The disk failed.
    #[error("disk: {what}")]
    Io {
        /// What failed.
        what: String,
    },
}

impl OpenError {
    /// The stable reason.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Missing { .. } => Reason::StateMissing,
            Self::Corrupt { .. } => Reason::StateCorrupt,
            Self::RolledBack { .. } => Reason::StateRolledBack,
            Self::AnchorMissing { .. } => Reason::AnchorMissing,
            Self::WrongKey { .. } => Reason::WrongKey,
            Self::Busy { .. } => Reason::Busy,
            Self::UnsupportedVersion { .. } => Reason::UnsupportedVersion,
            Self::Outage(_) => Reason::KeyProviderUnavailable,
            Self::Io { .. } => Reason::StorageFailed,
        }
    }
}

pub(in crate::store) fn corrupt(place: impl Into<String>, what: impl ToString) -> OpenError {
    OpenError::Corrupt { place: place.into(), what: what.to_string() }
}

pub(in crate::store) fn row_error(place: impl Into<String>, error: RowError) -> OpenError {
    match error {
        RowError::Version { found } => OpenError::UnsupportedVersion { found, supported: FORMAT_VERSION },
        other => corrupt(place, other),
    }
}

pub(in crate::store) fn frames_error(error: FramesError) -> OpenError {
    match error {
        FramesError::Missing => corrupt("container", "is empty"),
        FramesError::Busy => OpenError::Busy { path: PathBuf::from(CONTAINER) },
        FramesError::Io(what) => OpenError::Io { what },
        FramesError::Damaged(what) => corrupt("container", what),
        FramesError::HeadMoved => corrupt("head", "moved"),
    }
}
