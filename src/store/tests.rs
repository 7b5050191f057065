//! Decoders over arbitrary bytes.
