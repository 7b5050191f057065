//! The `frostkeep` command.

fn main() {}
