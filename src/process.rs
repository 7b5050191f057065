//! Hardening of the process that holds key shares (I10): no core dumps, no tracing, no swap where that can be had.
//!
//! Done first thing, before arguments are read and before a thread exists. None of it can fail the start: what could not
//! be had is reported by [`Hardening`], and `status` shows it.

use std::fmt;

use nix::errno::Errno;
use nix::libc;
use nix::sys::mman::{MlockAllFlags, mlockall};
use nix::sys::prctl;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};
use nix::sys::stat::{Mode, umask};

/// The bit of `CAP_IPC_LOCK` (capabilities(7)).
const CAP_IPC_LOCK_BIT: u32 = 14;

/// What was had of the hardening, read back from the system where it can be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hardening {
    /// `RLIMIT_CORE` is zero, soft and hard.
    pub core_dumps_off: bool,
    /// `PR_GET_DUMPABLE` is zero: no dump, no tracing by others of the same user, `/proc/PID/mem` closed.
    pub undumpable: bool,
    /// Whether pages can go to swap.
    pub memory_locked: MemoryLock,
}

impl Hardening {
    /// Whether everything was had.
    pub fn is_complete(&self) -> bool {
        self.core_dumps_off && self.undumpable && self.memory_locked == MemoryLock::Locked
    }
}

/// Whether the memory of the process can go to swap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemoryLock {
    /// Every page, now and later, stays in RAM once it was touched.
    Locked,
    /// Pages can go to swap.
    NotLocked {
        /// Why, and what would change it.
        reason: NotLocked,
    },
}

/// Why memory is not locked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotLocked {
    /// A finite limit without the capability. Locking under it would make a later allocation fail and abort the node.
    Limit {
        /// Soft `RLIMIT_MEMLOCK`, bytes.
        bytes: u64,
    },
    /// The system refused the call.
    Refused(Errno),
}

impl fmt::Display for NotLocked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Limit { bytes } => write!(
                f,
                "RLIMIT_MEMLOCK is {bytes} bytes and CAP_IPC_LOCK is absent: set LimitMEMLOCK=infinity, or encrypt swap"
            ),
            Self::Refused(errno) => write!(f, "mlockall was refused: {errno}"),
        }
    }
}

/// Hardens this process. Idempotent.
pub fn harden() -> Hardening {
    // Files are private whatever the caller's shell says; the store sets modes by itself as well.
    umask(Mode::S_IRWXG | Mode::S_IRWXO);
    let core_dumps_off =
        setrlimit(Resource::RLIMIT_CORE, 0, 0).is_ok() && getrlimit(Resource::RLIMIT_CORE) == Ok((0, 0));
    let undumpable = prctl::set_dumpable(false).is_ok() && prctl::get_dumpable() == Ok(false);
    Hardening { core_dumps_off, undumpable, memory_locked: lock_memory() }
}

fn lock_memory() -> MemoryLock {
    if let Err(reason) = lock_allowed() {
        return MemoryLock::NotLocked { reason };
    }
    // On fault: reserved but untouched stacks and arenas cost no RAM.
    let flags =
        MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE | MlockAllFlags::from_bits_retain(libc::MCL_ONFAULT);
    match mlockall(flags) {
        Ok(()) => MemoryLock::Locked,
        Err(errno) => MemoryLock::NotLocked { reason: NotLocked::Refused(errno) },
    }
}

fn lock_allowed() -> Result<(), NotLocked> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_MEMLOCK).map_err(NotLocked::Refused)?;
    if soft == RLIM_INFINITY {
        return Ok(());
    }
    if hard == RLIM_INFINITY && setrlimit(Resource::RLIMIT_MEMLOCK, hard, hard).is_ok() {
        return Ok(());
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let uid_map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    if has_ipc_lock(&status) && is_initial_user_namespace(&uid_map) {
        return Ok(());
    }
    Err(NotLocked::Limit { bytes: soft })
}

/// Whether `/proc/self/status` shows `CAP_IPC_LOCK` as effective.
fn has_ipc_lock(status: &str) -> bool {
    status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .is_some_and(|bits| bits >> CAP_IPC_LOCK_BIT & 1 == 1)
}

/// The kernel honours `CAP_IPC_LOCK` in the initial user namespace only; there the map is the identity.
fn is_initial_user_namespace(uid_map: &str) -> bool {
    uid_map.split_ascii_whitespace().eq(["0", "0", "4294967295"])
}

#[cfg(test)]
mod tests {
    use super::*;

    // `harden` changes the whole process: tests/cli.rs observes it on the real binary. Here are the readers.

    #[test]
    fn the_capability_is_read_from_the_effective_set_only() {
        assert!(has_ipc_lock("Name:\tx\nCapPrm:\t0\nCapEff:\t0000000000004000\n"));
        assert!(has_ipc_lock("CapEff:\t000001ffffffffff\n"));
        assert!(!has_ipc_lock("CapPrm:\t0000000000004000\nCapEff:\t0000000000000000\n"));
        assert!(!has_ipc_lock("CapEff:\t0000000000002000\n"));
        assert!(!has_ipc_lock("CapEff:\tnonsense\n"));
        assert!(!has_ipc_lock(""));
    }

    #[test]
    fn a_capability_inside_a_user_namespace_does_not_count() {
        assert!(is_initial_user_namespace("         0          0 4294967295\n"));
        assert!(!is_initial_user_namespace("         0     100000      65536\n"));
        assert!(!is_initial_user_namespace(""));
    }

    #[test]
    fn the_reason_for_unlocked_memory_names_the_limit_and_the_cure() {
        let text = NotLocked::Limit { bytes: 65_536 }.to_string();
        assert!(text.contains("65536") && text.contains("LimitMEMLOCK"), "{text}");
    }
}
