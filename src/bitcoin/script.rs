//! Output scripts as data.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::ids::{IdError, to_hex};

/// The bytes of an output script: hexadecimal in text and in files that people write, bytes in records.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ScriptBytes(Vec<u8>);

impl ScriptBytes {
    /// The script with these bytes.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl FromStr for ScriptBytes {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let wrong = || IdError::Hex { what: "script", expected: text.len() / 2, found: text.chars().count() };
        let digits: Vec<u8> = text
            .chars()
            .map(|digit| digit.to_digit(16).and_then(|digit| u8::try_from(digit).ok()).ok_or_else(wrong))
            .collect::<Result<_, _>>()?;
        let byte = |pair: &[u8]| match pair {
            [high, low] => Ok(high << 4 | low),
            _ => Err(wrong()),
        };
        digits.chunks(2).map(byte).collect::<Result<_, _>>().map(Self)
    }
}

impl fmt::Display for ScriptBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&to_hex(&self.0))
    }
}

impl fmt::Debug for ScriptBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ScriptBytes({self})")
    }
}

impl Serialize for ScriptBytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() { serializer.collect_str(self) } else { self.0.serialize(serializer) }
    }
}

impl<'de> Deserialize<'de> for ScriptBytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
        } else {
            Vec::deserialize(deserializer).map(Self)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn text_that_is_not_pairs_of_hex_digits_is_refused() {
        for text in ["0", "0g", "5120 ", "\u{e4}", "0x51"] {
            assert!(text.parse::<ScriptBytes>().is_err(), "{text}");
        }
        assert_eq!("51aB".parse(), Ok(ScriptBytes::new(vec![0x51, 0xab])));
    }

    proptest! {
        #[test]
        fn a_script_survives_text_and_records(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let script = ScriptBytes::new(bytes);
            let json = serde_json::to_string(&script).unwrap();
            prop_assert_eq!(&json, &format!("\"{script}\""));
            prop_assert_eq!(serde_json::from_str::<ScriptBytes>(&json).unwrap(), script.clone());
            let record = postcard::to_allocvec(&script).unwrap();
            prop_assert_eq!(postcard::from_bytes::<ScriptBytes>(&record).unwrap(), script);
        }
    }
}
