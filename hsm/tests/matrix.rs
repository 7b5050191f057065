//! One suite on every kind of token: what seals, what is refused, and that every outage heals by itself. A kind that this machine
//! lacks is skipped by name; `scripts/setup-tokens` installs it.
#![allow(missing_docs, clippy::unwrap_used)]

use std::path::Path;

use frostkeep_fixtures::Kind;
use frostkeep_token_suite::{conforms, present};

fn on(kind: Kind) {
    let directory = tempfile::tempdir().unwrap();
    let Some(mut token) = present(kind, directory.path(), "matrix") else { return };
    conforms(token.as_mut(), Path::new(env!("CARGO_BIN_EXE_frostkeep-token-agent")));
}

#[test]
fn softhsm_seals_and_heals_from_every_outage() {
    on(Kind::SoftHsm);
}

#[test]
fn softhsm_behind_p11_kit_seals_and_heals_from_every_outage() {
    on(Kind::P11Kit);
}

#[test]
fn kryoptic_seals_and_heals_from_every_outage() {
    on(Kind::Kryoptic);
}

#[test]
fn a_tpm_seals_and_heals_from_every_outage() {
    on(Kind::Tpm);
}

#[test]
fn opencryptoki_seals_and_heals_from_every_outage() {
    on(Kind::OpenCryptoki);
}

#[test]
fn nss_seals_and_heals_from_every_outage() {
    on(Kind::Nss);
}
