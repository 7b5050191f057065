//! The token agent. Started by the node, speaks over its pipes, prints nothing.

use std::alloc::System;
use std::process::ExitCode;

use zeroizing_alloc::ZeroAlloc;

/// What `cryptoki` frees of PIN and outputs is wiped too; what the module itself frees is the module's.
#[global_allocator]
static ALLOCATOR: ZeroAlloc<System> = ZeroAlloc(System);

fn main() -> ExitCode {
    frostkeep_hsm::agent::main()
}
