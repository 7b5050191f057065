//! The token agent. Started by the node, speaks over its pipes, prints nothing.

use std::process::ExitCode;

fn main() -> ExitCode {
    frostkeep_hsm::agent::main()
}
