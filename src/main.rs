//! The `frostkeep` command.

use std::alloc::System;
use std::process::ExitCode;

use zeroizing_alloc::ZeroAlloc;

/// Wipes every block that is freed: the FROST crates leave copies of secrets in theirs (I10).
#[global_allocator]
static ALLOCATOR: ZeroAlloc<System> = ZeroAlloc(System);

fn main() -> ExitCode {
    let hardening = frostkeep::process::harden();
    frostkeep::cli::main(std::env::args_os(), &hardening)
}
