//! The PIN: read from its file at each login, handed over, wiped.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::uri::PinSource;

/// Longest PIN, bytes. PKCS#11 tokens take at most 255.
pub const PIN_BYTES_MAX: usize = 255;

/// A PIN. Wiped on drop, never printed.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct Pin(Box<[u8]>);

impl Pin {
    /// The bytes.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

/// Why there is no PIN. Never repeats one.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// `$CREDENTIALS_DIRECTORY` is not set or not absolute.
    #[error(
        "pin credential {0:?} needs $CREDENTIALS_DIRECTORY, which is not set; start the service with LoadCredential="
    )]
    NoCredentials(String),
    /// The file cannot be opened or read.
    #[error("pin file {path:?} cannot be read")]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Not a regular file.
    #[error("pin file {0:?} is not a regular file")]
    NotAFile(PathBuf),
    /// Others can read or change it.
    #[error("pin file {path:?} has mode {mode:04o}, at most 0640 is allowed; others must not read it")]
    Mode {
        /// Which file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Somebody else owns it, and could change it.
    #[error("pin file {path:?} belongs to user {owner}, not to this user or root")]
    Owner {
        /// Which file.
        path: PathBuf,
        /// Its owner.
        owner: u32,
    },
    /// Empty, too long, or more than one line.
    #[error("pin file {path:?} must hold one line of 1 to {PIN_BYTES_MAX} bytes")]
    Content {
        /// Which file.
        path: PathBuf,
    },
}

/// Reads the PIN. `credentials_directory` is the value of `$CREDENTIALS_DIRECTORY`.
///
/// # Errors
/// [`PinError`].
pub fn read(source: &PinSource, credentials_directory: Option<&Path>) -> Result<Pin, PinError> {
    match source {
        PinSource::File(path) => read_file(path),
        PinSource::Credential(name) => {
            let directory = credentials_directory
                .filter(|directory| directory.is_absolute())
                .ok_or_else(|| PinError::NoCredentials(name.clone()))?;
            read_file(&directory.join(name))
        }
    }
}

fn read_file(path: &Path) -> Result<Pin, PinError> {
    let unreadable = |source| PinError::Unreadable { path: path.to_owned(), source };
    // Not blocking: a FIFO in its place must not hang the open.
    let mut file =
        File::options().read(true).custom_flags(nix::fcntl::OFlag::O_NONBLOCK.bits()).open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(PinError::NotAFile(path.to_owned()));
    }
    let mode = metadata.mode() & 0o7777;
    if mode & 0o137 != 0 {
        return Err(PinError::Mode { path: path.to_owned(), mode });
    }
    let owner = metadata.uid();
    if owner != 0 && owner != nix::unistd::geteuid().as_raw() {
        return Err(PinError::Owner { path: path.to_owned(), owner });
    }
    // A byte for the newline, one more to see that the file goes on.
    let mut buffer = Zeroizing::new(vec![0u8; PIN_BYTES_MAX + 2].into_boxed_slice());
    let mut length = 0;
    while let Some(room @ [_, ..]) = buffer.get_mut(length..) {
        match file.read(room) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(unreadable(error)),
        }
    }
    let line = buffer.get(..length).unwrap_or_default();
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    if line.is_empty() || line.len() > PIN_BYTES_MAX || line.iter().any(|byte| matches!(byte, b'\n' | b'\r' | 0)) {
        return Err(PinError::Content { path: path.to_owned() });
    }
    Ok(Pin(Box::from(line)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods, reason = "test files")]
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn file(content: &[u8], mode: u32) -> (tempfile::TempDir, PinSource) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pin");
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        (directory, PinSource::File(path))
    }

    #[test]
    fn one_trailing_newline_is_no_part_of_the_pin() {
        for content in [b"1234".as_slice(), b"1234\n"] {
            let (_directory, source) = file(content, 0o600);
            assert_eq!(read(&source, None).unwrap().expose(), b"1234");
        }
        let (_directory, source) = file(&[b'x'; PIN_BYTES_MAX], 0o440);
        assert_eq!(read(&source, None).unwrap().expose().len(), PIN_BYTES_MAX);
    }

    #[test]
    fn a_file_that_cannot_be_one_pin_is_refused() {
        let long = [b'x'; PIN_BYTES_MAX + 1];
        for content in [b"".as_slice(), b"\n", b"1234\n\n", b"1234\r\n", b"12\n34", b"12\0", &long, &[b'x'; 5_000]] {
            let (_directory, source) = file(content, 0o600);
            assert!(matches!(read(&source, None), Err(PinError::Content { .. })), "{} bytes", content.len());
        }
    }

    #[test]
    fn a_file_that_others_can_read_or_change_is_refused() {
        for mode in [0o604, 0o602, 0o620, 0o644, 0o700] {
            let (_directory, source) = file(b"1234", mode);
            assert!(matches!(read(&source, None), Err(PinError::Mode { mode: seen, .. }) if seen == mode));
        }
    }

    #[test]
    fn only_a_regular_file_is_read_and_nothing_hangs() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("fifo");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRUSR).unwrap();
        assert!(matches!(read(&PinSource::File(path), None), Err(PinError::NotAFile(_))));
        let source = PinSource::File(directory.path().to_owned());
        assert!(matches!(read(&source, None), Err(PinError::NotAFile(_))));
        let source = PinSource::File(directory.path().join("absent"));
        assert!(matches!(read(&source, None), Err(PinError::Unreadable { .. })));
    }

    #[test]
    fn a_credential_is_found_below_its_directory() {
        let (directory, _) = file(b"1234", 0o400);
        let source = PinSource::Credential("pin".into());
        assert_eq!(read(&source, Some(directory.path())).unwrap().expose(), b"1234");
        assert!(matches!(read(&source, None), Err(PinError::NoCredentials(_))));
        assert!(matches!(read(&source, Some(Path::new("relative"))), Err(PinError::NoCredentials(_))));
    }
}
