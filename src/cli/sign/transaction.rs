//! All inputs of a key group in one PSBT, a session each, side by side.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::blamed::Shown;
use super::{Args, Course};
use crate::bitcoin::{GroupInput, PsbtError, PsbtFile};
use crate::cli::progress::Reporter;
use crate::cli::{CliError, Output};
use crate::client::Signed;
use crate::engine::{BuildRequest, Subject};
use crate::ids::to_hex;
use crate::limits::SESSIONS_AT_ONCE_MAX;
use crate::reasons::Reason;
use crate::store::files;

/// Has the PSBT approved, and every input of the key group signed.
pub(super) async fn sign(course: Arc<Course>, mut file: PsbtFile, args: &Args) -> Result<Report, CliError> {
    let id = course.group.id();
    let own = file.group_inputs(&id).map_err(|error| refused(&error))?;
    if own.is_empty() {
        let text = format!("no input spends an output of key group {id}");
        let hint = "is it the right key group? an output with a script tree needs its root: --root, or PSBT_IN_TAP_MERKLE_ROOT";
        return Err(CliError::refused(Reason::InvalidRequest, text).with_hint(hint));
    }
    let open: Vec<GroupInput> = own.iter().filter(|input| input.signature.is_none()).cloned().collect();
    let mut signed = BTreeMap::new();
    if !open.is_empty() {
        let roots: BTreeSet<_> = own.iter().filter_map(|input| input.root).collect();
        let roots = roots.into_iter().collect();
        let request = BuildRequest { key_group: id, transaction: file.transaction().clone(), roots };
        course.approve(&request).await?;
        signed = sessions(&course, &open).await?;
        let signatures = signed.iter().map(|(input, signed)| (*input, signed.signature)).collect();
        file.put_signatures(&id, &signatures).map_err(|error| refused(&error))?;
    }
    Report::of(&course, &file, &own, &signed, args)
}

fn refused(error: &PsbtError) -> CliError {
    CliError::refused(Reason::InvalidRequest, error.to_string())
}

/// A session for each input, some of them at one time. All come to their end, so that a second run has less to do.
async fn sessions(course: &Arc<Course>, inputs: &[GroupInput]) -> Result<BTreeMap<usize, Signed>, CliError> {
    let room = Arc::new(Semaphore::new(SESSIONS_AT_ONCE_MAX));
    let mut under_way = JoinSet::new();
    for input in inputs {
        let (course, room) = (Arc::clone(course), Arc::clone(&room));
        let (number, subject) = (input.input, Subject { message: input.message, root: input.root });
        under_way.spawn(async move {
            let _room = room.acquire_owned().await;
            (number, course.session(&format!("input {number}"), subject).await)
        });
    }
    let (mut signed, mut failed) = (BTreeMap::new(), BTreeMap::new());
    while let Some(ended) = under_way.join_next().await {
        match ended {
            Ok((input, Ok(session))) => drop(signed.insert(input, session)),
            Ok((input, Err(error))) => drop(failed.insert(input, error)),
            Err(error) => return Err(CliError::surroundings("a session ended early").caused_by(&error)),
        }
    }
    match failed.into_iter().next() {
        None => Ok(signed),
        Some((_, first)) => Err(first),
    }
}

/// What came out.
#[derive(Serialize)]
pub(super) struct Report {
    key_group: String,
    txid: String,
    inputs: Vec<Input>,
    blamed: Vec<Shown>,
    already_signed: Vec<usize>,
    other_inputs: Vec<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    psbt: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    transaction: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    out: Option<PathBuf>,
    #[serde(skip)]
    file: Vec<u8>,
}

#[derive(Serialize)]
struct Input {
    input: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    taproot_merkle_root: Option<String>,
    message: String,
    session: String,
    signature: String,
    unconfirmed: Vec<u16>,
}

impl Report {
    fn of(
        course: &Course,
        file: &PsbtFile,
        own: &[GroupInput],
        signed: &BTreeMap<usize, Signed>,
        args: &Args,
    ) -> Result<Self, CliError> {
        let input = |input: &GroupInput| {
            let session = signed.get(&input.input)?;
            Some(Input {
                input: input.input,
                taproot_merkle_root: input.root.map(|root| root.to_string()),
                message: input.message.to_string(),
                session: session.session.to_string(),
                signature: to_hex(&session.signature),
                unconfirmed: session.unconfirmed.iter().map(|member| member.number()).collect(),
            })
        };
        let ours: BTreeSet<usize> = own.iter().map(|input| input.input).collect();
        let (mut transaction, mut txid) = (None, file.transaction().id());
        // A transaction that came as one goes as one, if it can.
        if args.finalize || args.transaction.is_some() {
            match file.finalize() {
                Ok(finalized) => (transaction, txid) = (Some(finalized.hex()), finalized.id()),
                Err(PsbtError::Incomplete { .. }) if args.transaction.is_some() => {}
                Err(error) => {
                    return Err(
                        refused(&error).with_hint("leave --finalize out, and hand the PSBT to the other signers")
                    );
                }
            }
        }
        Ok(Self {
            key_group: course.group.id().to_string(),
            txid: txid.to_string(),
            inputs: own.iter().filter_map(input).collect(),
            blamed: course.blamed(signed.values()),
            already_signed: own.iter().filter(|input| input.signature.is_some()).map(|input| input.input).collect(),
            other_inputs: (0..file.transaction().input_count()).filter(|input| !ours.contains(input)).collect(),
            psbt: transaction.is_none().then(|| file.to_base64()),
            transaction,
            out: args.out.clone(),
            file: file.to_bytes(),
        })
    }

    /// Prints the result alone; what it is goes to those who read along.
    pub(super) fn show(mut self, reporter: &Reporter, out: &Output) -> Result<(), CliError> {
        let written = match (&self.out, &self.transaction) {
            (None, _) => None,
            (Some(path), None) => Some((path, self.file.clone())),
            (Some(path), Some(transaction)) => Some((path, format!("{transaction}\n").into_bytes())),
        };
        if let Some((path, bytes)) = written {
            files::write_synced(path, &bytes).map_err(|error| {
                CliError::surroundings(format!("{} cannot be written", path.display())).caused_by(&error)
            })?;
            (self.psbt, self.transaction) = (None, None);
        }
        if out.is_json() {
            return out.object(&self);
        }
        let list = |inputs: &[usize]| inputs.iter().map(usize::to_string).collect::<Vec<_>>().join(", ");
        let signed: Vec<usize> = self.inputs.iter().map(|input| input.input).collect();
        for (inputs, what) in [
            (&signed, "signed"),
            (&self.already_signed, "signed before, and left as they are"),
            (&self.other_inputs, "of others, and left alone"),
        ] {
            if !inputs.is_empty() {
                reporter.note(&format!("inputs {what}: {}", list(inputs)));
            }
        }
        self.blamed.iter().for_each(|one| reporter.note(&one.to_string()));
        reporter.note(&format!("transaction {}", self.txid));
        match (&self.out, self.transaction, self.psbt) {
            (Some(path), _, _) => reporter.note(&format!("written to {}", path.display())),
            (None, Some(transaction), _) => out.line(transaction)?,
            (None, None, Some(psbt)) => out.line(psbt)?,
            (None, None, None) => {}
        }
        Ok(())
    }
}
