//! Why a file is no roster: the line, the field, the value.

use std::fmt;
use std::path::PathBuf;

use crate::limits::ROSTER_BYTES_MAX;

/// A value's place in a roster file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The line of the file, from 1.
    pub line: usize,
    /// What the value is of: `node "a"`, `client "b"`.
    pub entry: String,
    /// The field that holds it.
    pub field: &'static str,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} (line {})", self.field, self.entry, self.line)
    }
}

/// Why text or a file is no roster.
#[derive(Debug, thiserror::Error)]
pub enum RosterError {
    /// The file cannot be read.
    #[error("roster {}: it cannot be read", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// More bytes than a roster may have.
    #[error("a roster of more than {ROSTER_BYTES_MAX} bytes")]
    TooLarge,
    /// Bytes that are no text.
    #[error("the roster is not UTF-8 from byte {offset} on")]
    NotText {
        /// The first byte that is not, from 0.
        offset: usize,
    },
    /// Not TOML, a field that is unknown or missing, or a value of another kind.
    #[error("roster line {line}: {problem}")]
    Syntax {
        /// The line, from 1.
        line: usize,
        /// What is wrong there.
        problem: String,
    },
    /// A value that its field does not allow.
    #[error("{place}: {value:?}: {problem}")]
    Value {
        /// Where it stands.
        place: Place,
        /// The value; a long one is cut.
        value: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A value that must be given once.
    #[error("{value} is given twice: {first}, and {second}")]
    Twice {
        /// The value.
        value: String,
        /// Where it stands first.
        first: Place,
        /// Where it stands again.
        second: Place,
    },
    /// More entries than a roster may have.
    #[error("a roster of {found} {what}: at most {limit} are allowed")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many there are.
        found: usize,
        /// How many are allowed.
        limit: usize,
    },
}
