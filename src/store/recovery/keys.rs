//! Keys at an opening: bundle keys from the token, and which of an outage and a wrong key it is.

use frostkeep_hsm::health::{Outage, OutageClass};
use frostkeep_hsm::provider::{DataKey, KeyDescriptor, SealedObject, UnwrapError};

use super::super::open_error::{OpenError, corrupt, frames_error, row_error};
use super::super::rows::{RowError, RowKind, open_wraps};
use super::super::seal::{BundleKey, OBJECT_BUNDLE};
use super::Opening;
use crate::ids::to_hex;

impl Opening {
    pub(super) fn bundle_key(&mut self, number: u64) -> Result<BundleKey, OpenError> {
        let row = self.frames.bundle(number).map_err(frames_error)?;
        let place = format!("bundle {number}");
        let key = self.unwrap(OBJECT_BUNDLE, RowKind::BundleWraps, number, row, &place)?;
        Ok(BundleKey { number, key })
    }

    pub(super) fn unwrap(
        &mut self,
        kind: u8,
        row_kind: RowKind,
        id: u64,
        row: Option<Vec<u8>>,
        place: &str,
    ) -> Result<DataKey, OpenError> {
        let row = row.ok_or_else(|| corrupt(place, RowError::Missing))?;
        let wraps = open_wraps(row_kind, id, &row).map_err(|error| row_error(place, error))?;
        let object = SealedObject { store: self.store, kind, id };
        match self.provider.unwrap(&object, &wraps) {
            Ok(key) => Ok(key),
            Err(UnwrapError::Unavailable(error)) => Err(self.outage(error.0)),
            Err(UnwrapError::Corrupt) => Err(corrupt(place, "has a wrap that does not open")),
            Err(UnwrapError::NoReachableKey { .. }) => Err(self.unreachable_key()),
        }
    }

    pub(super) fn outage(&self, outage: Outage) -> OpenError {
        match outage.class {
            OutageClass::Key => OpenError::WrongKey { needed: self.key_names(), found: outage.detail },
            _ => OpenError::Outage(outage),
        }
    }

    /// No wrap is of a reachable key: another key where a healthy provider has none of ours, else an outage.
    pub(super) fn unreachable_key(&self) -> OpenError {
        let same =
            |a: &KeyDescriptor, b: &KeyDescriptor| (a.scheme, &a.id, a.check_value) == (b.scheme, &b.id, b.check_value);
        let present = self.provider.keys();
        let health = self.provider.health();
        let ours = present.iter().any(|key| self.keys.iter().any(|(_, named)| same(key, &named.descriptor)));
        if health.admits_work() && !ours {
            let found = present.iter().map(key_name).collect::<Vec<_>>().join(", ");
            return OpenError::WrongKey { needed: self.key_names(), found: format!("configured: {found}") };
        }
        let clock = &self.environment.clock;
        OpenError::Outage(health.outage.unwrap_or_else(|| Outage {
            class: OutageClass::Token,
            since: clock.now(),
            since_unix: clock.unix_seconds(),
            next_try: None,
            detail: format!("none of the tokens that hold a needed key is reachable: {}", self.key_names()),
            token: String::new(),
        }))
    }

    pub(super) fn key_names(&self) -> String {
        self.keys.iter().map(|(_, key)| key_name(&key.descriptor)).collect::<Vec<_>>().join(", ")
    }
}

fn key_name(key: &KeyDescriptor) -> String {
    format!(
        "key id {} (check value {}) on token {} serial {}",
        to_hex(&key.id),
        to_hex(&key.check_value),
        key.token_label,
        key.token_serial
    )
}
