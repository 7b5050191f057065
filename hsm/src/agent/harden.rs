//! What the agent does to itself before it loads a module: cannot be traced or dumped, holds nothing but its pipes. It dies with
//! its parent, which holds their only other ends.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Descriptors looked at where `/proc` is not mounted.
const DESCRIPTORS_TRIED_MAX: u64 = 65_536;

/// The agent's ends of its two pipes.
pub(super) struct Pipes {
    pub(super) requests: File,
    pub(super) replies: File,
}

/// Hardens this process and moves its pipes away from stdin and stdout, where a vendor's module could print into them.
pub(super) fn harden() -> io::Result<Pipes> {
    prctl::set_dumpable(false)?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    close_inherited()?;
    let requests: OwnedFd = io::stdin().as_fd().try_clone_to_owned()?;
    let replies: OwnedFd = io::stdout().as_fd().try_clone_to_owned()?;
    let null = File::options().read(true).write(true).open("/dev/null")?;
    nix::unistd::dup2_stdin(&null)?;
    nix::unistd::dup2_stdout(&null)?;
    nix::unistd::dup2_stderr(&null)?;
    Ok(Pipes { requests: File::from(requests), replies: File::from(replies) })
}

/// Closes every descriptor above 2. The parent's are close-on-exec; a launcher's may not be.
fn close_inherited() -> io::Result<()> {
    let listed: Option<Vec<RawFd>> = std::fs::read_dir("/proc/self/fd")
        .ok()
        .map(|entries| entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect());
    let descriptors = match listed {
        Some(listed) => listed,
        None => {
            let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE)?;
            let end = RawFd::try_from(soft.min(DESCRIPTORS_TRIED_MAX)).unwrap_or(RawFd::MAX);
            (3..end).collect()
        }
    };
    for descriptor in descriptors.into_iter().filter(|descriptor| *descriptor > 2) {
        // The listing's own descriptor is in the list and closed already.
        match nix::unistd::close(descriptor) {
            Ok(()) | Err(Errno::EBADF) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
