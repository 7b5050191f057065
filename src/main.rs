//! The `frostkeep` command.

use std::alloc::System;
use std::process::ExitCode;

use zeroizing_alloc::ZeroAlloc;

/// Wipes every block that is freed: the FROST crates leave copies of secrets in theirs (I10).
#[global_allocator]
static ALLOCATOR: ZeroAlloc<System> = ZeroAlloc(System);

fn main() -> ExitCode {
    let hardening = frostkeep::process::harden();
    // The node starts this program again as its token agent, which parses nothing and prints nothing.
    if std::env::args_os().nth(1).is_some_and(|verb| verb == "token-agent") {
        return frostkeep::hsm::agent::main();
    }
    frostkeep::cli::main(std::env::args_os(), &hardening)
}
