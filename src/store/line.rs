//! The line: records that are installed and wait for the persister, in one total order (I5), bounded.
