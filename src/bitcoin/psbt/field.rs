//! The fields of one map of a PSBT, byte for byte (BIP-174).

use ::bitcoin::VarInt;
use ::bitcoin::consensus::{Decodable, Encodable};

use super::error::InputField;

/// One key-value map: its fields in the order in which they came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FieldMap(Vec<Field>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Field {
    /// The type, and the key data after it. Never empty: an empty key ends the map.
    key: Box<[u8]>,
    value: Box<[u8]>,
}

impl FieldMap {
    /// Takes a map off the front of `bytes`. `None`: it is cut short, or a length is not in its shortest form, so that it
    /// could not be written back as it was.
    pub(super) fn read(bytes: &mut &[u8]) -> Option<Self> {
        let mut fields = Vec::new();
        loop {
            let key = read_bytes(bytes)?;
            if key.is_empty() {
                return Some(Self(fields));
            }
            fields.push(Field { key, value: read_bytes(bytes)? });
        }
    }

    pub(super) fn write(&self, bytes: &mut Vec<u8>) {
        for field in &self.0 {
            write_bytes(&field.key, bytes);
            write_bytes(&field.value, bytes);
        }
        bytes.push(0);
    }

    /// The value of a field that has no key data.
    pub(super) fn value(&self, field: InputField) -> Option<&[u8]> {
        self.0.iter().find(|found| *found.key == [field.key_type()]).map(|found| &*found.value)
    }

    /// Whether there is a field of this type, whatever its key data.
    pub(super) fn holds(&self, field: InputField) -> bool {
        self.0.iter().any(|found| found.key.first() == Some(&field.key_type()))
    }

    /// Adds a field that is not there yet, in the order of types if the fields are in it.
    pub(super) fn add(&mut self, field: InputField, value: Vec<u8>) {
        let key_type = field.key_type();
        let after = |found: &Field| found.key.first().is_some_and(|found| *found > key_type);
        let place = self.0.iter().position(after).unwrap_or(self.0.len());
        self.0.insert(place, Field { key: Box::new([key_type]), value: value.into() });
    }

    /// Keeps the fields whose type is one that `keep` accepts.
    pub(super) fn retain(&mut self, keep: impl Fn(u8) -> bool) {
        self.0.retain(|field| field.key.first().is_some_and(|key_type| keep(*key_type)));
    }
}

fn read_bytes(bytes: &mut &[u8]) -> Option<Box<[u8]>> {
    let VarInt(length) = VarInt::consensus_decode(bytes).ok()?;
    let (taken, rest) = bytes.split_at_checked(usize::try_from(length).ok()?)?;
    *bytes = rest;
    Some(taken.into())
}

fn write_bytes(part: &[u8], bytes: &mut Vec<u8>) {
    VarInt::from(part.len()).consensus_encode(bytes).expect("a vector takes every byte");
    bytes.extend_from_slice(part);
}
