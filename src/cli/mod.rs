//! The verbs of the command line, one file each. A verb takes its arguments and returns its output.

pub mod attempt;
