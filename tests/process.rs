//! Goal: the hardening that the node reports is the hardening that the kernel shows.
//! Method: one test in a process of its own, since hardening cannot be undone; it reads `/proc/self`.
#![allow(missing_docs, clippy::unwrap_used)]

use frostkeep::process::{MemoryLock, harden};

#[test]
fn a_hardened_process_leaves_no_core_and_reports_what_the_kernel_shows() {
    let hardening = harden();

    let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    let fields: Vec<_> = core.split_ascii_whitespace().skip(4).take(2).collect();
    assert_eq!(fields, ["0", "0"], "{core}");
    assert!(hardening.core_dumps_off);

    assert!(!nix::sys::prctl::get_dumpable().unwrap());
    assert!(hardening.undumpable);

    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_ascii_whitespace().nth(1).unwrap().to_owned()
    };
    assert_eq!(field("Umask:"), "0077");
    let locked_kib: u64 = field("VmLck:").parse().unwrap();
    match &hardening.memory_locked {
        MemoryLock::Locked => assert!(locked_kib > 0),
        MemoryLock::NotLocked { reason } => assert_eq!(locked_kib, 0, "{reason}"),
    }

    // Memory that comes later can still be had: a lock under a finite limit would abort here.
    let later = vec![1_u8; 64 << 20];
    assert_eq!(later.iter().map(|&byte| u64::from(byte)).sum::<u64>(), 64 << 20);

    assert_eq!(harden(), hardening, "hardening twice is hardening once");
}
