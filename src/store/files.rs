//! The one place that changes files: modes, syncs, directories, the lock.
//!
//! Directories are 0700, files 0600. A name is durable when its directory was synced, so every change of a name ends
//! with that.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use zeroize::Zeroizing;

use super::core::FreeSpace;

/// The directory that holds `path`; a bare name is in the current one (trap 20).
pub(in crate::store) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

pub(in crate::store) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Makes a directory, mode 0700, unless it is there; its parent must be. Its name is durable in both cases: who made it
/// may have been killed before that.
pub(in crate::store) fn ensure_directory(path: &Path) -> io::Result<()> {
    ensure_directory_with(path, sync_directory)
}

fn ensure_directory_with(path: &Path, sync: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => sync(parent(path)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => match sync(parent(path)) {
            // A parent that we may not read, or that cannot be written: the name in it is not ours to sync.
            Err(error) if is_foreign(error.kind()) => Ok(()),
            synced => synced,
        },
        Err(error) => Err(error),
    }
}

const fn is_foreign(kind: io::ErrorKind) -> bool {
    matches!(kind, io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::InvalidInput)
}

/// Whether a name is taken: by anything, a dangling link included (trap 6).
///
/// # Errors
/// What the system says.
pub fn is_taken(path: &Path) -> io::Result<bool> {
    match path.symlink_metadata() {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// A new, empty file for reading and writing, mode 0600. A leftover of the same temporary name goes first: no reader
/// ever saw it.
pub(in crate::store) fn fresh_temporary(path: &Path) -> io::Result<File> {
    if is_taken(path)? {
        unlink(path)?;
    }
    OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)
}

/// An existing file for reading and writing; nothing is created.
pub(in crate::store) fn open_existing(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(path)
}

/// Gives a synced temporary file its name.
#[allow(clippy::disallowed_methods, reason = "the one place: both directories are synced here")]
pub(in crate::store) fn publish(temporary: &Path, name: &Path) -> io::Result<()> {
    File::open(temporary)?.sync_all()?;
    std::fs::rename(temporary, name)?;
    sync_directory(parent(name))
}

#[allow(clippy::disallowed_methods, reason = "the one place: callers sync the directory")]
fn unlink(path: &Path) -> io::Result<()> {
    std::fs::remove_file(path)
}

/// Removes the name of a Unix socket. It holds nothing, so nothing is synced.
///
/// # Errors
/// What the system says.
pub fn remove_socket(path: &Path) -> io::Result<()> {
    unlink(path)
}

/// Removes files, then syncs their directory. One that is gone already is no error.
pub(in crate::store) fn remove(directory: &Path, names: &[PathBuf]) -> io::Result<()> {
    for name in names {
        match unlink(name) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    sync_directory(directory)
}

/// Writes a small file so that after a crash it is there whole or not at all.
pub(in crate::store) fn write_whole(temporary: &Path, name: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = fresh_temporary(temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    publish(temporary, name)
}

/// Writes a small file beside the store, mode 0600, whole or not at all. What had the name is replaced.
///
/// # Errors
/// What the system says; the name is as it was then, or its new file is there and only its durability is in doubt.
pub fn write_synced(name: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut temporary = name.as_os_str().to_owned();
    temporary.push(".new");
    write_whole(Path::new(&temporary), name, bytes)
}

/// Writes a new file, mode 0600, and syncs it with its name. What has the name already stays as it is.
///
/// # Errors
/// `AlreadyExists`, and what the system says; nothing is left behind then.
pub fn write_new(name: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(name)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all()).and_then(|()| sync_directory(parent(name)));
    if written.is_err() {
        let _ = unlink(name);
    }
    written
}

/// The bytes of a small file in a wiped buffer, and its permission bits. None when it holds more than `bytes_max`.
///
/// # Errors
/// What the system says; a thing that is no regular file.
pub fn read_bounded(name: &Path, bytes_max: usize) -> io::Result<Option<(Zeroizing<Vec<u8>>, u32)>> {
    // Without waiting: a pipe of that name must not hold a start up.
    let file = OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(name)?;
    let status = file.metadata()?;
    if !status.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    // Room for all that is read: a vector that grows leaves copies.
    let mut bytes = Zeroizing::new(Vec::with_capacity(bytes_max.saturating_add(2)));
    file.take(bytes_max as u64 + 1).read_to_end(&mut bytes)?;
    Ok((bytes.len() <= bytes_max).then_some((bytes, status.mode() & 0o7777)))
}

/// One process at a time: an advisory lock on a file that is never removed. A stale file locks nothing (trap 22); a
/// removed one is made again.
pub(in crate::store) struct DirectoryLock {
    _held: Flock<File>,
}

/// A node that was killed while it started a child leaves the lock to that child until its `exec`, which closes it: a restart at
/// that moment is not a second node. One second in all.
const LOCK_TRIES: u32 = 50;
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// Why the lock is not ours.
pub(in crate::store) enum LockError {
    Busy,
    Io(io::Error),
}

impl DirectoryLock {
    pub(in crate::store) fn take(path: &Path) -> Result<Self, LockError> {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(LockError::Io)?;
        let mut file = file;
        for _ in 0..LOCK_TRIES {
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(held) => return Ok(Self { _held: held }),
                Err((same, nix::errno::Errno::EWOULDBLOCK)) => file = same,
                Err((_, errno)) => return Err(LockError::Io(errno.into())),
            }
            std::thread::sleep(LOCK_PAUSE);
        }
        Err(LockError::Busy)
    }
}

/// Room as `statvfs` tells it for unprivileged users.
pub struct VolumeSpace(PathBuf);

impl VolumeSpace {
    /// The volume that holds `path`.
    pub fn of(path: &Path) -> Self {
        Self(path.to_path_buf())
    }
}

impl FreeSpace for VolumeSpace {
    fn free_bytes(&self) -> io::Result<u64> {
        let volume = nix::sys::statvfs::statvfs(&self.0)?;
        Ok(volume.blocks_available().saturating_mul(volume.fragment_size()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_directory_is_synced_also_when_it_is_there() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("state");
        let ensured = |answer: Option<io::ErrorKind>| {
            let mut synced = None;
            let ensured = ensure_directory_with(&path, |path| {
                synced = Some(path.to_owned());
                answer.map_or(Ok(()), |kind| Err(kind.into()))
            });
            assert_eq!(synced.as_deref(), Some(root.path()));
            ensured.is_ok()
        };
        assert!(!ensured(Some(io::ErrorKind::PermissionDenied)), "who can make a name can sync it");
        for (answer, expected) in [
            (None, true),
            (Some(io::ErrorKind::PermissionDenied), true),
            (Some(io::ErrorKind::ReadOnlyFilesystem), true),
            (Some(io::ErrorKind::StorageFull), false),
        ] {
            assert_eq!(ensured(answer), expected, "{answer:?}");
        }
    }
}
