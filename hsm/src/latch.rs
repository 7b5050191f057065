//! The credential latch: a wrong PIN is tried once, not until the token locks.
//!
//! One plain, synced file per token serial. It holds nothing derived from the PIN:
//!
//! ```text
//! frostkeep-latch 1
//! latched no
//! succeeded yes
//! begun 0
//! ```
//!
//! `latched`: the token refused a PIN. `succeeded`: a login has succeeded since `init` or `unlatch`. `begun`: logins that were
//! begun and never answered, 0 to 2; they count, and are written, only while none has succeeded: a token that has been logged in
//! to needs no room on the disk. Within a process a PIN that differs from the refused one lifts the latch; for that a salted
//! hash of the refused PIN is kept in RAM.

use std::fs::{DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::entropy::Entropy;
use crate::pin::Pin;
use crate::token::{FaultClass, TokenError};

/// Between two looks at a lock that another holds, milliseconds.
pub(crate) const TURN_PAUSE_MS: u64 = 10;

/// Unanswered logins that latch while none has succeeded.
pub const UNANSWERED_MAX: u8 = 2;

const FILE_BYTES_MAX: u64 = 256;
const MAGIC: &str = "frostkeep-latch 1";

/// What the file says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LatchState {
    /// The token refused a PIN.
    pub latched: bool,
    /// A login has succeeded since `init` or `unlatch`.
    pub succeeded: bool,
    /// Logins begun and never answered.
    pub begun: u8,
}

impl LatchState {
    /// Whether unanswered logins alone latch: none has ever succeeded, so that each may have been a wrong PIN.
    pub const fn unanswered(&self) -> bool {
        !self.succeeded && self.begun >= UNANSWERED_MAX
    }
}

/// Why no login is tried.
#[derive(Debug, thiserror::Error)]
pub enum LatchError {
    /// The token refused this PIN.
    #[error("the token refused the pin; no login is tried until the pin file changes or `frostkeep token unlatch`")]
    Refused,
    /// Latched by an earlier process, or by a file that does not read.
    #[error("latched since an earlier refusal of a pin; correct the pin, then `frostkeep token unlatch`")]
    Latched,
    /// Logins were begun and never answered, and none has ever succeeded.
    #[error(
        "{UNANSWERED_MAX} logins were never answered and none has succeeded; check token and pin, then `frostkeep token unlatch`"
    )]
    Unanswered,
    /// The file cannot be read or written: no login without it.
    #[error("latch file {path:?} cannot be used: {cause}")]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
}

/// A PIN that was tried, recognisable in RAM alone.
struct Tried {
    salt: Zeroizing<[u8; 32]>,
    hash: Zeroizing<[u8; 32]>,
}

impl Tried {
    fn new(pin: &Pin, entropy: &mut dyn Entropy) -> Self {
        let mut salt = Zeroizing::new([0; 32]);
        entropy.fill_bytes(salt.as_mut_slice());
        let hash = hash(&salt, pin);
        Self { salt, hash }
    }

    fn is(&self, pin: &Pin) -> bool {
        *hash(&self.salt, pin) == *self.hash
    }
}

fn hash(salt: &[u8; 32], pin: &Pin) -> Zeroizing<[u8; 32]> {
    let mut hasher = Box::new(Sha256::new());
    hasher.update(salt);
    hasher.update(pin.expose());
    let hash = Zeroizing::new(hasher.finalize_reset().into());
    // The hasher's block buffer still holds the end of the PIN.
    hasher.update([0; 63]);
    hash
}

/// Where a latch is kept.
enum Kept {
    InFile,
    InRam(LatchState),
}

/// The latch of one token.
pub struct Latch {
    path: PathBuf,
    kept: Kept,
    refused: Option<Tried>,
    // What this process knows and the disk did not take: written at the next login.
    owed: Option<LatchState>,
}

impl Latch {
    /// The latch of the token with this serial number, in `directory`.
    pub fn new(directory: &Path, serial: &str) -> Self {
        let name: String = serial.bytes().map(|byte| format!("{byte:02x}")).collect();
        Self { path: directory.join(format!("token-{name}.latch")), kept: Kept::InFile, refused: None, owed: None }
    }

    /// A latch for one drill, of a token to which logins have succeeded: it acts as the other does, never touches a file, and is gone
    /// with the drill.
    pub fn of_drill() -> Self {
        let state = LatchState { latched: false, succeeded: true, begun: 0 };
        Self { path: PathBuf::new(), kept: Kept::InRam(state), refused: None, owed: None }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the file says; the default when there is none.
    ///
    /// # Errors
    /// [`LatchError::File`]; [`LatchError::Latched`] when it does not parse.
    pub fn state(&self) -> Result<LatchState, LatchError> {
        if let Kept::InRam(state) = &self.kept {
            return Ok(*state);
        }
        let file = match File::options().read(true).open(&self.path) {
            Ok(file) => file,
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => {
                return Ok(LatchState::default());
            }
            Err(cause) => return Err(self.unusable(cause)),
        };
        let mut text = String::new();
        match file.take(FILE_BYTES_MAX).read_to_string(&mut text) {
            Ok(_) => parse(&text).ok_or(LatchError::Latched),
            Err(cause) if cause.kind() == io::ErrorKind::InvalidData => Err(LatchError::Latched),
            Err(cause) => Err(self.unusable(cause)),
        }
    }

    /// Waits until no other node, command or thread is between its look at this latch and its note in it: two that look at once would
    /// both try a PIN that is refused. A drill's latch is nobody else's.
    ///
    /// # Errors
    /// Code `login_busy` after `tries` looks.
    pub(crate) fn turn(&self, tries: u64) -> Result<Option<Flock<File>>, TokenError> {
        if let Kept::InRam(_) = self.kept {
            return Ok(None);
        }
        if let Some(directory) = self.path.parent() {
            // Where it cannot be made there is no latch either, and `begin` says so.
            let _ = ensure_directory(directory, &mut sync_directory);
        }
        alone(&self.path.with_extension("turn"), tries)
    }

    /// Asked before a login with `pin`: whether it may be tried, with its mark synced if it counts.
    ///
    /// # Errors
    /// [`LatchError`]: it may not.
    pub fn begin(&mut self, pin: &Pin) -> Result<(), LatchError> {
        let known = self.known()?;
        let mut state = known;
        if state.latched {
            match &self.refused {
                None => return Err(LatchError::Latched),
                Some(refused) if refused.is(pin) => return Err(LatchError::Refused),
                // Another PIN: the operator has seen to it. Latched all the same until one succeeds, so that the refused one
                // stays out when it comes back.
                Some(_) => {}
            }
        }
        if state.unanswered() {
            return Err(LatchError::Unanswered);
        }
        if !state.succeeded {
            state.begun = state.begun.saturating_add(1).min(UNANSWERED_MAX);
        }
        // Which PIN was refused stays known until another one has succeeded: this write may fail.
        if state == known { Ok(()) } else { self.store(state) }
    }

    /// The token took the PIN.
    ///
    /// # Errors
    /// [`LatchError::File`]: the disk is owed this; it holds in this process.
    pub fn succeeded(&mut self) -> Result<(), LatchError> {
        self.refused = None;
        self.note(LatchState { latched: false, succeeded: true, begun: 0 })
    }

    /// The token refused the PIN: latches.
    ///
    /// # Errors
    /// [`LatchError::File`]: the disk is owed this; it holds in this process.
    pub fn refused(&mut self, pin: &Pin, entropy: &mut dyn Entropy) -> Result<(), LatchError> {
        self.refused = Some(Tried::new(pin, entropy));
        let succeeded = self.known().map(|state| state.succeeded).unwrap_or(false);
        self.note(LatchState { latched: true, succeeded, begun: 0 })
    }

    /// The token answered the login with something that says nothing of the PIN.
    ///
    /// # Errors
    /// [`LatchError::File`]: the disk is owed this; it holds in this process.
    pub fn answered(&mut self) -> Result<(), LatchError> {
        let state = self.known()?;
        self.note(LatchState { begun: state.begun.saturating_sub(1), ..state })
    }

    /// Forgets every refusal and every success: the operator says that the PIN is right now.
    ///
    /// # Errors
    /// [`LatchError::File`].
    pub fn unlatch(&mut self) -> Result<(), LatchError> {
        self.refused = None;
        self.owed = None;
        self.write(&LatchState::default())
    }

    /// The file's state, or what it is owed; that is written if the disk lets it.
    fn known(&mut self) -> Result<LatchState, LatchError> {
        let Some(owed) = self.owed else { return self.state() };
        if let Err(cause) = self.store(owed) {
            tracing::warn!(%cause, "the latch still cannot be written; it holds in this process");
        }
        Ok(owed)
    }

    /// In RAM first, so that a full disk does not undo it in this process.
    fn note(&mut self, state: LatchState) -> Result<(), LatchError> {
        self.owed = Some(state);
        self.store(state)
    }

    /// Makes the file say `state`; writes nothing when it does.
    fn store(&mut self, state: LatchState) -> Result<(), LatchError> {
        if self.state().ok() != Some(state) {
            self.write(&state)?;
        }
        self.owed = None;
        Ok(())
    }

    /// Replaces the file, synced, with its directory; of a drill's latch what is in RAM.
    fn write(&mut self, state: &LatchState) -> Result<(), LatchError> {
        if let Kept::InRam(kept) = &mut self.kept {
            *kept = *state;
            return Ok(());
        }
        replace(&self.path, render(state).as_bytes()).map_err(|cause| self.unusable(cause))
    }

    fn unusable(&self, cause: io::Error) -> LatchError {
        LatchError::File { path: self.path.clone(), cause }
    }
}

#[allow(
    clippy::disallowed_methods,
    reason = "the one place in this crate that replaces a file: synced, then renamed, then the directory synced"
)]
fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let directory = path.parent().ok_or_else(|| io::Error::other("no directory"))?;
    ensure_directory(directory, &mut sync_directory)?;
    let temporary = path.with_extension("latch.new");
    let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    sync_directory(directory)
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Makes a directory, mode 0700, with those above it, and each one's name durable before the next. Also when it is there: who made
/// it may have been killed before that.
fn ensure_directory(path: &Path, sync: &mut dyn FnMut(&Path) -> io::Result<()>) -> io::Result<()> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) => Path::new("."),
        // The root.
        None => return Ok(()),
    };
    let make = || DirBuilder::new().mode(0o700).create(path);
    let made = match make() {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => {
            ensure_directory(parent, sync)?;
            make()
        }
        made => made,
    };
    match made {
        Ok(()) => sync(parent),
        Err(cause) if path.is_dir() && cause.kind() == io::ErrorKind::AlreadyExists => match sync(parent) {
            // A parent that we may not read, or that cannot be written: the name in it is not ours to sync.
            Err(cause) if is_foreign(cause.kind()) => Ok(()),
            synced => synced,
        },
        Err(cause) => Err(cause),
    }
}

const fn is_foreign(kind: io::ErrorKind) -> bool {
    matches!(kind, io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::InvalidInput)
}

/// Nobody else has this file locked while what is returned lives. A file that cannot be made, on a full disk, locks nobody out.
///
/// # Errors
/// Code `login_busy` when somebody else has it after `tries` looks, [`TURN_PAUSE_MS`] apart.
pub(crate) fn alone(path: &Path, tries: u64) -> Result<Option<Flock<File>>, TokenError> {
    let Ok(mut file) = File::options().write(true).create(true).truncate(false).mode(0o600).open(path) else {
        return Ok(None);
    };
    for _ in 0..=tries {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(held) => return Ok(Some(held)),
            Err((same, _)) => file = same,
        }
        thread::sleep(Duration::from_millis(TURN_PAUSE_MS));
    }
    let detail = format!("another process is in a login of this token: {} is locked", path.display());
    Err(TokenError::new(FaultClass::Token, "login", "login_busy", detail))
}

fn render(state: &LatchState) -> String {
    let word = |yes| if yes { "yes" } else { "no" };
    format!("{MAGIC}\nlatched {}\nsucceeded {}\nbegun {}\n", word(state.latched), word(state.succeeded), state.begun)
}

/// Exactly what [`render`] writes; anything else is none.
fn parse(text: &str) -> Option<LatchState> {
    let word = |word| match word {
        "yes" => Some(true),
        "no" => Some(false),
        _ => None,
    };
    let mut lines = text.strip_suffix('\n')?.split('\n');
    (lines.next()? == MAGIC).then_some(())?;
    let latched = word(lines.next()?.strip_prefix("latched ")?)?;
    let succeeded = word(lines.next()?.strip_prefix("succeeded ")?)?;
    let begun = match lines.next()?.strip_prefix("begun ")? {
        "0" => 0,
        "1" => 1,
        "2" => 2,
        _ => return None,
    };
    lines.next().is_none().then_some(LatchState { latched, succeeded, begun })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods, reason = "test files")]
    use super::*;
    use crate::uri::PinSource;
    use proptest::prelude::*;
    use std::os::unix::fs::PermissionsExt;

    fn pin(directory: &Path, text: &str) -> Pin {
        let path = directory.join("pin");
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        crate::pin::read(&PinSource::File(path), None).unwrap()
    }

    /// A disk that takes no new file: a directory stands where it would be written.
    struct Full(PathBuf);

    impl Full {
        fn before(latch: &Latch) -> Self {
            let blocked = latch.path().with_extension("latch.new");
            std::fs::create_dir(&blocked).unwrap();
            Self(blocked)
        }

        fn ends(self) {
            std::fs::remove_dir(self.0).unwrap();
        }
    }

    #[test]
    fn one_refusal_stops_every_login_with_that_pin() {
        let directory = tempfile::tempdir().unwrap();
        let (wrong, right) = (pin(directory.path(), "wrong"), pin(directory.path(), "right"));
        let mut latch = Latch::new(directory.path(), "0123");
        latch.begin(&wrong).unwrap();
        latch.refused(&wrong, &mut crate::entropy::os()).unwrap();
        assert!(matches!(latch.begin(&wrong), Err(LatchError::Refused)));
        // Another process knows no PIN: only the operator helps it.
        let mut restarted = Latch::new(directory.path(), "0123");
        assert!(matches!(restarted.begin(&right), Err(LatchError::Latched)));
        // This one knows which PIN was wrong.
        latch.begin(&right).unwrap();
        latch.succeeded().unwrap();
        assert_eq!(latch.state().unwrap(), LatchState { latched: false, succeeded: true, begun: 0 });
        restarted.begin(&right).unwrap();
    }

    #[test]
    fn a_drill_s_latch_stops_every_login_with_that_pin_too_and_touches_no_file() {
        let directory = tempfile::tempdir().unwrap();
        let (one, other) = (pin(directory.path(), "one"), pin(directory.path(), "other"));
        let mut latch = Latch::of_drill();
        latch.begin(&one).unwrap();
        latch.refused(&one, &mut crate::entropy::os()).unwrap();
        assert!(matches!(latch.begin(&one), Err(LatchError::Refused)));
        latch.begin(&other).unwrap();
        latch.refused(&other, &mut crate::entropy::os()).unwrap();
        assert_eq!(latch.state().unwrap(), LatchState { latched: true, succeeded: true, begun: 0 });
        assert!(!latch.path().exists());
        assert!(matches!(Latch::of_drill().begin(&one), Ok(())), "the next drill knows nothing of it");
    }

    #[test]
    fn a_refusal_that_could_not_be_written_still_latches_in_its_process() {
        let directory = tempfile::tempdir().unwrap();
        let (wrong, right) = (pin(directory.path(), "wrong"), pin(directory.path(), "right"));
        let mut latch = Latch::new(directory.path(), "0123");
        latch.begin(&wrong).unwrap();
        let full = Full::before(&latch);
        assert!(latch.refused(&wrong, &mut crate::entropy::os()).is_err());
        assert!(matches!(latch.begin(&wrong), Err(LatchError::Refused)), "also while the disk fails");
        full.ends();
        assert!(matches!(latch.begin(&wrong), Err(LatchError::Refused)));
        assert!(latch.state().unwrap().latched, "written as soon as the disk lets it");
        latch.begin(&right).unwrap();
    }

    #[test]
    fn a_token_that_was_logged_in_to_needs_no_room_for_the_next_login() {
        let directory = tempfile::tempdir().unwrap();
        let (one, other) = (pin(directory.path(), "1234"), pin(directory.path(), "5678"));
        let mut latch = Latch::new(directory.path(), "0123");
        latch.begin(&one).unwrap();
        latch.succeeded().unwrap();
        let _full = Full::before(&latch);
        let mut restarted = Latch::new(directory.path(), "0123");
        for pin in [&one, &other] {
            restarted.begin(pin).unwrap();
            restarted.answered().unwrap();
            restarted.begin(pin).unwrap();
            restarted.succeeded().unwrap();
        }
    }

    #[test]
    fn a_first_login_is_not_tried_without_its_mark() {
        let directory = tempfile::tempdir().unwrap();
        let pin = pin(directory.path(), "1234");
        let mut latch = Latch::new(directory.path(), "0123");
        let full = Full::before(&latch);
        assert!(matches!(latch.begin(&pin), Err(LatchError::File { .. })));
        full.ends();
        latch.begin(&pin).unwrap();
    }

    #[test]
    fn the_name_of_the_directory_is_synced_each_time_and_every_one_above_it_that_is_made() {
        let root = tempfile::tempdir().unwrap();
        let (above, directory) = (root.path().join("above"), root.path().join("above/latches"));
        let synced = |answer: Option<io::ErrorKind>| {
            let mut synced = Vec::new();
            let ensured = ensure_directory(&directory, &mut |path| {
                synced.push((path.to_owned(), path.read_dir().unwrap().count()));
                answer.map_or(Ok(()), |kind| Err(kind.into()))
            });
            (synced, ensured.is_ok())
        };
        let made = vec![(root.path().to_owned(), 1), (above.clone(), 1)];
        assert_eq!(synced(None), (made, true), "each before the next is made");
        for (answer, expected) in [
            (None, true),
            (Some(io::ErrorKind::PermissionDenied), true),
            (Some(io::ErrorKind::ReadOnlyFilesystem), true),
            (Some(io::ErrorKind::StorageFull), false),
        ] {
            assert_eq!(synced(answer), (vec![(above.clone(), 1)], expected), "{answer:?}");
        }
    }

    #[test]
    fn which_pin_was_refused_is_known_also_after_a_lift_that_could_not_be_written() {
        let directory = tempfile::tempdir().unwrap();
        let (wrong, right) = (pin(directory.path(), "wrong"), pin(directory.path(), "right"));
        let mut latch = Latch::new(directory.path(), "0123");
        latch.begin(&wrong).unwrap();
        latch.refused(&wrong, &mut crate::entropy::os()).unwrap();
        let full = Full::before(&latch);
        assert!(matches!(latch.begin(&right), Err(LatchError::File { .. })));
        full.ends();
        assert!(matches!(latch.begin(&wrong), Err(LatchError::Refused)));
        latch.begin(&right).unwrap();
    }

    #[test]
    fn an_answer_that_could_not_be_written_holds_in_its_process_and_is_written_later() {
        let directory = tempfile::tempdir().unwrap();
        let pin = pin(directory.path(), "1234");
        let mut latch = Latch::new(directory.path(), "0123");
        latch.begin(&pin).unwrap();
        let full = Full::before(&latch);
        // Each answer took back its mark: none counts as unanswered.
        for _ in 0..5 {
            assert!(latch.answered().is_err());
            latch.begin(&pin).unwrap();
        }
        assert!(latch.succeeded().is_err());
        latch.begin(&pin).unwrap();
        full.ends();
        assert!(!latch.state().unwrap().succeeded);
        latch.begin(&pin).unwrap();
        assert_eq!(latch.state().unwrap(), LatchState { latched: false, succeeded: true, begun: 0 });
    }

    #[test]
    fn unlatching_forgets_the_refusal_also_in_a_running_process() {
        let directory = tempfile::tempdir().unwrap();
        let same = pin(directory.path(), "same");
        let mut latch = Latch::new(directory.path(), "0123");
        latch.begin(&same).unwrap();
        latch.refused(&same, &mut crate::entropy::os()).unwrap();
        Latch::new(directory.path(), "0123").unlatch().unwrap();
        latch.begin(&same).unwrap();
    }

    #[test]
    fn two_unanswered_logins_latch_only_while_none_has_succeeded() {
        let directory = tempfile::tempdir().unwrap();
        let pin = pin(directory.path(), "1234");
        let begin = || Latch::new(directory.path(), "0123").begin(&pin);
        begin().unwrap();
        begin().unwrap();
        assert!(matches!(begin(), Err(LatchError::Unanswered)));
        let mut latch = Latch::new(directory.path(), "0123");
        latch.unlatch().unwrap();
        latch.begin(&pin).unwrap();
        latch.succeeded().unwrap();
        for _ in 0..5 {
            begin().unwrap();
        }
    }

    #[test]
    fn an_answer_removes_the_mark_of_its_login() {
        let directory = tempfile::tempdir().unwrap();
        let pin = pin(directory.path(), "1234");
        for _ in 0..5 {
            let mut latch = Latch::new(directory.path(), "0123");
            latch.begin(&pin).unwrap();
            assert_eq!(latch.state().unwrap().begun, 1);
            latch.answered().unwrap();
            assert_eq!(latch.state().unwrap().begun, 0);
        }
    }

    #[test]
    fn the_file_holds_nothing_of_the_pin_and_is_for_its_owner_alone() {
        let directory = tempfile::tempdir().unwrap();
        let (one, other) = (pin(directory.path(), "1234"), pin(directory.path(), "999999"));
        let mut content = Vec::new();
        for (serial, pin) in [("a", &one), ("b", &other)] {
            let mut latch = Latch::new(directory.path(), serial);
            latch.begin(pin).unwrap();
            latch.refused(pin, &mut crate::entropy::os()).unwrap();
            content.push(std::fs::read(latch.path()).unwrap());
            assert_eq!(std::fs::metadata(latch.path()).unwrap().permissions().mode() & 0o777, 0o600);
        }
        assert_eq!(content[0], content[1], "the same bytes whatever the pin");
    }

    #[test]
    fn a_damaged_file_latches_and_an_unusable_directory_refuses() {
        let directory = tempfile::tempdir().unwrap();
        let pin = pin(directory.path(), "1234");
        let mut latch = Latch::new(directory.path(), "0123");
        std::fs::write(latch.path(), "frostkeep-latch 1\nlatched no\n").unwrap();
        assert!(matches!(latch.begin(&pin), Err(LatchError::Latched)));
        std::fs::write(latch.path(), [0xff; 20]).unwrap();
        assert!(matches!(latch.begin(&pin), Err(LatchError::Latched)));
        let mut latch = Latch::new(&directory.path().join("pin"), "0123");
        assert!(matches!(latch.begin(&pin), Err(LatchError::File { .. })));
    }

    proptest! {
        #[test]
        fn only_what_is_written_parses(text in ".{0,80}", latched in any::<bool>(), succeeded in any::<bool>(), begun in 0u8..=2) {
            let state = LatchState { latched, succeeded, begun };
            prop_assert_eq!(parse(&render(&state)), Some(state));
            if let Some(state) = parse(&text) {
                prop_assert_eq!(render(&state), text);
            }
        }
    }

    #[test]
    fn a_refused_pin_that_comes_back_after_another_one_is_not_tried_again() {
        let directory = tempfile::tempdir().unwrap();
        let (one, two) = (pin(directory.path(), "1111"), pin(directory.path(), "2222"));
        let mut latch = Latch::new(directory.path(), "1");
        latch.begin(&one).unwrap();
        latch.refused(&one, &mut crate::entropy::os()).unwrap();
        // The other one was never compared: the token was locked, gone, or hung.
        for answered in [true, false] {
            latch.begin(&two).unwrap();
            if answered {
                latch.answered().unwrap();
            }
            assert!(matches!(latch.begin(&one), Err(LatchError::Refused)));
        }
        // A restart knows no PIN, and takes none.
        assert!(matches!(Latch::new(directory.path(), "1").begin(&two), Err(LatchError::Latched)));
        latch.begin(&two).unwrap();
        latch.succeeded().unwrap();
        Latch::new(directory.path(), "1").begin(&one).unwrap();
    }

    #[test]
    fn one_at_a_time_is_between_its_look_at_the_latch_and_its_note_in_it() {
        let directory = tempfile::tempdir().unwrap();
        let deep = directory.path().join("latches");
        let (one, two) = (Latch::new(&deep, "1"), Latch::new(&deep, "1"));
        let turn = one.turn(0).unwrap();
        assert!(turn.is_some(), "also where the directory was not made yet");
        let busy = two.turn(2).unwrap_err();
        assert_eq!((busy.class, busy.code.as_str()), (FaultClass::Token, "login_busy"));
        assert!(Latch::new(&deep, "2").turn(0).unwrap().is_some(), "of another token");
        drop(turn);
        assert!(two.turn(0).unwrap().is_some());
        assert!(Latch::of_drill().turn(0).unwrap().is_none());
    }
}
