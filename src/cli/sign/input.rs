//! What is to be signed, as the command line says it.

use std::io::Read;
use std::path::Path;
use std::str::FromStr;

use super::Args;
use crate::bitcoin::{Prevout, PsbtFile, ScriptBytes, UnsignedTransaction};
use crate::cli::CliError;
use crate::engine::Subject;
use crate::limits::PSBT_BYTES_MAX;
use crate::reasons::Reason;
use crate::store::files;

/// A PSBT in base64, with white space around it.
const FILE_BYTES_MAX: usize = PSBT_BYTES_MAX.div_ceil(3) * 4 + 4_096;

/// What is to be signed.
pub(super) enum What {
    Message(Subject),
    Psbt(Box<PsbtFile>),
}

/// What an input spends, as an argument.
#[derive(Debug, Clone)]
pub(super) struct PrevoutArgument(Prevout);

impl FromStr for PrevoutArgument {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (value, script) = text.split_once(':').ok_or("give VALUE:SCRIPT, satoshi and hex")?;
        let value_sat = value.parse().map_err(|_| format!("{value:?} is no number of satoshi"))?;
        let script: ScriptBytes = script.parse().map_err(|error| format!("{error}"))?;
        Ok(Self(Prevout { value_sat, script }))
    }
}

pub(super) fn read(args: &Args) -> Result<What, CliError> {
    if let Some(message) = args.message {
        return match args.root.as_slice() {
            [] => Ok(What::Message(Subject { message, root: None })),
            [root] => Ok(What::Message(Subject { message, root: Some(*root) })),
            several => Err(CliError::usage(format!("{} roots for one message: at most one", several.len()))),
        };
    }
    if let Some(path) = &args.psbt {
        let bytes = if path == Path::new("-") { standard_input()? } else { file(path)? };
        let psbt = PsbtFile::parse(&bytes);
        let psbt =
            psbt.map_err(|error| CliError::refused(Reason::InvalidRequest, format!("{}: {error}", path.display())))?;
        return Ok(What::Psbt(Box::new(psbt)));
    }
    let Some(raw) = &args.transaction else {
        return Err(CliError::usage("give --message, --psbt or --transaction"));
    };
    let prevouts: Vec<Prevout> = args.prevout.iter().map(|PrevoutArgument(prevout)| prevout.clone()).collect();
    let refused = |error: String| CliError::refused(Reason::InvalidRequest, error);
    let transaction =
        UnsignedTransaction::from_parts(raw.as_bytes(), &prevouts).map_err(|error| refused(error.to_string()))?;
    let psbt = PsbtFile::of_transaction(transaction, &args.key_group, &args.root);
    Ok(What::Psbt(Box::new(psbt.map_err(|error| refused(error.to_string()))?)))
}

fn too_long(what: &str) -> CliError {
    CliError::refused(Reason::InvalidRequest, format!("{what}: a PSBT has at most {PSBT_BYTES_MAX} bytes"))
}

fn standard_input() -> Result<Vec<u8>, CliError> {
    let mut bytes = Vec::new();
    let read = std::io::stdin().take(FILE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes);
    read.map_err(|error| CliError::surroundings("standard input cannot be read").caused_by(&error))?;
    if bytes.len() > FILE_BYTES_MAX { Err(too_long("standard input")) } else { Ok(bytes) }
}

fn file(path: &Path) -> Result<Vec<u8>, CliError> {
    let read = files::read_bounded(path, FILE_BYTES_MAX);
    let read = read.map_err(|error| {
        CliError::surroundings(format!("{}: the PSBT cannot be read", path.display())).caused_by(&error)
    })?;
    let (bytes, _) = read.ok_or_else(|| too_long(&path.display().to_string()))?;
    Ok(bytes.to_vec())
}
