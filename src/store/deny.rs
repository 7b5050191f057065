//! Deny files: one plain, synced file per freeze, beside the store. No token is needed, and it can only deny (I8).
//!
//! Name: key group (66 hex digits), `-`, freeze id (32 hex digits). Text: six lines, the last a SHA-256 over those
//! before it, so that damage is seen; names that begin with `.` are unfinished and were acknowledged to nobody.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::files;
use crate::hash::sha256;
use crate::ids::{FreezeId, KeyGroupId, to_hex};
use crate::limits::{DENY_FILES_MAX, DENY_REASON_BYTES_MAX};

const TITLE: &str = "frostkeep deny 1";

/// Bytes of a deny file: title, key group, id, time, reason and checksum with their words.
const FILE_BYTES_MAX: u64 = 1_024;

/// One freeze.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    /// The frozen key group.
    pub key_group: KeyGroupId,
    /// The freeze.
    pub freeze: FreezeId,
    /// When, seconds since 1970-01-01 UTC.
    pub since_unix: u64,
    /// Why: at most [`DENY_REASON_BYTES_MAX`] bytes without control characters.
    pub reason: String,
}

/// Why deny files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DenyError {
    /// A file that cannot be read or understood: every key group counts as frozen.
    #[error("deny file {file} is unreadable: {what}")]
    Unreadable {
        /// Its name.
        file: String,
        /// What is wrong.
        what: String,
    },
    /// The reason is too long or holds control characters.
    #[error("reason of {found} bytes: at most {DENY_REASON_BYTES_MAX} without control characters are allowed")]
    Reason {
        /// Bytes found.
        found: usize,
    },
    /// Too many deny files.
    #[error("{found} deny files: at most {DENY_FILES_MAX} are allowed")]
    Full {
        /// Files found.
        found: usize,
    },
    /// The disk failed: the freeze is not durable.
    #[error("deny files below {path}")]
    Io {
        /// The directory.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

/// How deny files get to the disk: an argument, because a disk can hang, fill and fail.
pub trait DenyDisk: Send + Sync {
    /// Writes `bytes` as the file `name`, whole or not at all, and syncs it with its directory. `temporary` is a name that
    /// no reader looks at.
    ///
    /// # Errors
    /// Those of the disk; the file may be there or not.
    fn write(&self, temporary: &Path, name: &Path, bytes: &[u8]) -> io::Result<()>;
}

struct SystemDisk;

impl DenyDisk for SystemDisk {
    fn write(&self, temporary: &Path, name: &Path, bytes: &[u8]) -> io::Result<()> {
        files::write_whole(temporary, name, bytes)
    }
}

/// The deny files of one node.
#[derive(Clone)]
pub struct DenyFiles {
    directory: PathBuf,
    disk: Arc<dyn DenyDisk>,
}

impl DenyFiles {
    /// Those of the state directory `state`, which must exist; works while the store itself is sealed or locked.
    ///
    /// # Errors
    /// [`DenyError::Io`].
    pub fn open(state: &Path) -> Result<Self, DenyError> {
        Self::over(state, Arc::new(SystemDisk))
    }

    /// The same over another disk.
    ///
    /// # Errors
    /// [`DenyError::Io`].
    pub fn over(state: &Path, disk: Arc<dyn DenyDisk>) -> Result<Self, DenyError> {
        let directory = state.join("deny");
        match files::ensure_directory(&directory) {
            Ok(()) => Ok(Self { directory, disk }),
            Err(source) => Err(DenyError::Io { path: directory, source }),
        }
    }

    /// Writes and syncs one. When this has returned the freeze survives a crash.
    ///
    /// # Errors
    /// [`DenyError::Reason`], [`DenyError::Full`], [`DenyError::Io`]; the freeze is then not durable.
    pub fn write(&self, denial: &Denial) -> Result<(), DenyError> {
        if denial.reason.len() > DENY_REASON_BYTES_MAX || denial.reason.chars().any(char::is_control) {
            return Err(DenyError::Reason { found: denial.reason.len() });
        }
        let found = self.names()?.len();
        if found >= DENY_FILES_MAX {
            return Err(DenyError::Full { found });
        }
        let name = file_name(&denial.key_group, &denial.freeze);
        let temporary = self.directory.join(format!(".{name}"));
        self.disk
            .write(&temporary, &self.directory.join(name), text(denial).as_bytes())
            .map_err(|source| self.io(source))
    }

    /// All freezes on disk.
    ///
    /// # Errors
    /// [`DenyError::Unreadable`] for the first file that is not one of ours, whole: the caller freezes every key group.
    pub fn list(&self) -> Result<Vec<Denial>, DenyError> {
        self.names()?.into_iter().map(|name| self.read(&name)).collect()
    }

    /// Removes the files of these freezes, and syncs. Only after the record that lifts them is durable.
    ///
    /// # Errors
    /// [`DenyError::Io`]; some may be gone then.
    pub fn remove(&self, freezes: &[FreezeId]) -> Result<(), DenyError> {
        let endings: Vec<String> = freezes.iter().map(|freeze| format!("-{freeze}")).collect();
        let gone: Vec<PathBuf> = self
            .names()?
            .into_iter()
            .filter(|name| endings.iter().any(|ending| name.ends_with(ending.as_str())))
            .map(|name| self.directory.join(name))
            .collect();
        files::remove(&self.directory, &gone).map_err(|source| self.io(source))
    }

    fn io(&self, source: io::Error) -> DenyError {
        DenyError::Io { path: self.directory.clone(), source }
    }

    fn names(&self) -> Result<Vec<String>, DenyError> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.directory).map_err(|source| self.io(source))? {
            let name = entry.map_err(|source| self.io(source))?.file_name();
            let name = name.to_string_lossy().into_owned();
            if !name.starts_with('.') {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn read(&self, name: &str) -> Result<Denial, DenyError> {
        let unreadable = |what: String| DenyError::Unreadable { file: name.into(), what };
        let path = self.directory.join(name);
        let metadata = path.metadata().map_err(|error| unreadable(error.to_string()))?;
        if !metadata.is_file() || metadata.len() > FILE_BYTES_MAX {
            return Err(unreadable("not a file of ours".into()));
        }
        let bytes = fs::read(&path).map_err(|error| unreadable(error.to_string()))?;
        let denial = parse(&bytes).ok_or_else(|| unreadable("malformed or damaged".into()))?;
        if file_name(&denial.key_group, &denial.freeze) != name {
            return Err(unreadable("its text is of another freeze".into()));
        }
        Ok(denial)
    }
}

fn file_name(key_group: &KeyGroupId, freeze: &FreezeId) -> String {
    format!("{key_group}-{freeze}")
}

fn text(denial: &Denial) -> String {
    let Denial { key_group, freeze, since_unix, reason } = denial;
    let body = format!("{TITLE}\nkey_group {key_group}\nfreeze {freeze}\nsince_unix {since_unix}\nreason {reason}\n");
    let sum = to_hex(&sha256(body.as_bytes()));
    format!("{body}sha256 {sum}\n")
}

/// The freeze that a deny file's bytes tell.
pub(in crate::store) fn parse(bytes: &[u8]) -> Option<Denial> {
    let mut lines = std::str::from_utf8(bytes).ok()?.lines();
    if lines.next()? != TITLE {
        return None;
    }
    let mut field = |name: &str| lines.next()?.strip_prefix(name)?.strip_prefix(' ');
    let denial = Denial {
        key_group: field("key_group")?.parse().ok()?,
        freeze: field("freeze")?.parse().ok()?,
        since_unix: field("since_unix")?.parse().ok()?,
        reason: field("reason")?.into(),
    };
    // One text per freeze: whatever differs from it in any byte, checksum included, is damage.
    (text(&denial).as_bytes() == bytes).then_some(denial)
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)]
mod tests {
    use super::*;

    fn denial(byte: u8) -> Denial {
        let mut group = [byte; 33];
        group[0] = 2;
        Denial {
            key_group: KeyGroupId::new(group).unwrap(),
            freeze: FreezeId::new([byte; 16]),
            since_unix: 1_700_000_000,
            reason: "somebody shouted: stop".into(),
        }
    }

    #[test]
    fn a_freeze_is_listed_until_its_id_is_lifted() {
        let state = tempfile::tempdir().unwrap();
        let files = DenyFiles::open(state.path()).unwrap();
        assert_eq!(files.list().unwrap(), []);
        files.write(&denial(1)).unwrap();
        files.write(&denial(2)).unwrap();
        let files = DenyFiles::open(state.path()).unwrap();
        assert_eq!(files.list().unwrap(), [denial(1), denial(2)]);
        files.remove(&[FreezeId::new([1; 16]), FreezeId::new([9; 16])]).unwrap();
        assert_eq!(files.list().unwrap(), [denial(2)]);
    }

    #[test]
    fn any_flipped_bit_or_cut_makes_a_deny_file_unreadable() {
        let whole = text(&denial(3)).into_bytes();
        assert_eq!(parse(&whole), Some(denial(3)));
        for cut in 0..whole.len() {
            assert_eq!(parse(&whole[..cut]), None, "cut at {cut}");
        }
        for bit in 0..whole.len() * 8 {
            let mut broken = whole.clone();
            broken[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(parse(&broken), None, "bit {bit}");
        }
    }

    #[test]
    fn garbage_beside_the_deny_files_is_unreadable_and_an_unfinished_one_is_not_there() {
        let state = tempfile::tempdir().unwrap();
        let files = DenyFiles::open(state.path()).unwrap();
        files.write(&denial(1)).unwrap();
        fs::write(state.path().join("deny/.unfinished"), b"half").unwrap();
        assert_eq!(files.list().unwrap(), [denial(1)]);
        fs::write(state.path().join("deny/readme"), b"hello").unwrap();
        assert!(matches!(files.list(), Err(DenyError::Unreadable { .. })));
    }

    #[test]
    fn a_reason_that_could_forge_a_line_is_refused() {
        let state = tempfile::tempdir().unwrap();
        let files = DenyFiles::open(state.path()).unwrap();
        for reason in ["a\nsha256 00".to_string(), "x".repeat(DENY_REASON_BYTES_MAX + 1)] {
            let denial = Denial { reason, ..denial(1) };
            assert!(matches!(files.write(&denial), Err(DenyError::Reason { .. })));
        }
    }
}
