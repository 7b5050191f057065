//! One bit of one answer is another. The output of a call is its data, then its lengths; bits count from the lowest of the first byte.

use frostkeep_fixtures::{What, When};
use frostkeep_hsm::health::OutageClass;

use crate::cells::{Cell, State, sites};
use crate::documented::End;
use crate::sites::{Operation, Site};

const BYTE: u64 = 8;
const WORD: u64 = 64;

/// A length that no process has room for.
const HUGE: u64 = 62;

// CK_TOKEN_INFO: where its fields begin.
const MANUFACTURER: u64 = 32 * BYTE;
const MODEL: u64 = 64 * BYTE;
const SERIAL: u64 = 80 * BYTE;
const FLAGS: u64 = 96 * BYTE;
const SESSIONS: u64 = 104 * BYTE;
const TIME: u64 = 192 * BYTE;

// The attributes that are asked for, in the order in which they are: two of any length, two that are one byte.
const ID_BYTES: u64 = 16;
const LABEL_BYTES: u64 = "frostkeep".len() as u64;

/// Site, bit, and the documented end with the first words of the outage.
type Flip = (&'static str, u64, End, &'static str);

const INTEGRITY: End = End::Out(OutageClass::Integrity);
const TOKEN: End = End::Out(OutageClass::Token);
const MODULE: End = End::Out(OutageClass::Module);
const CHANGED_FIND: &str = "find: answers_differ";
const CHANGED_INFO: &str = "find_token: answers_differ";
const NOT_FOUND: &str = "find_token: token_not_found";
const NO_OBJECT: &str = "C_GetAttributeValue: CKR_OBJECT_HANDLE_INVALID";
const SHORT: &str = "C_Sign: output_length";
const TOO_SMALL: &str = "C_Sign: CKR_BUFFER_TOO_SMALL";
const PANICKED: &str = "find: agent_ended: exit code 101";
const NO_ROOM: &str = "find: agent_ended: ended by signal 6";

const FLIPS: &[Flip] = &[
    // Two slots: more is harmless, fewer is asked again.
    ("number of slots", 0, End::Nothing, ""),
    ("number of slots", 1, End::Nothing, ""),
    ("number of slots", HUGE, MODULE, "connect: agent_ended: exit code 101"),
    ("slots", 0, End::Out(OutageClass::Usage), "C_GetTokenInfo: CKR_SLOT_ID_INVALID"),
    ("slots", WORD, End::Nothing, ""),
    ("slots", 2 * WORD, End::Nothing, ""),
    ("slots", 2 * WORD + 1, TOKEN, NOT_FOUND),
    // What selects the token, what tells it apart, what says of its PIN, and what nobody reads.
    ("token info", 0, TOKEN, NOT_FOUND),
    ("token info", 7, TOKEN, NOT_FOUND),
    ("token info", MANUFACTURER, INTEGRITY, CHANGED_INFO),
    ("token info", MODEL, INTEGRITY, CHANGED_INFO),
    ("token info", SERIAL, INTEGRITY, CHANGED_INFO),
    ("token info", FLAGS + 1, End::Nothing, ""),
    ("token info", FLAGS + 10, TOKEN, NOT_FOUND),
    ("token info", FLAGS + 16, INTEGRITY, CHANGED_INFO),
    ("token info", FLAGS + 17, INTEGRITY, CHANGED_INFO),
    ("token info", FLAGS + 18, INTEGRITY, CHANGED_INFO),
    ("token info", SESSIONS, End::Nothing, ""),
    ("token info", TIME, End::Nothing, ""),
    ("token info again", 0, INTEGRITY, CHANGED_INFO),
    ("token info again", SERIAL, INTEGRITY, CHANGED_INFO),
    ("token info again", FLAGS + 10, INTEGRITY, CHANGED_INFO),
    ("token info again", FLAGS + 18, INTEGRITY, CHANGED_INFO),
    ("token info again", SESSIONS, End::Nothing, ""),
    ("other token info", 0, End::Nothing, ""),
    ("other token info", FLAGS + 10, End::Nothing, ""),
    // Handles.
    ("open session", 0, End::Out(OutageClass::Session), "C_Login: CKR_SESSION_HANDLE_INVALID"),
    ("open session", 63, End::Out(OutageClass::Session), "C_Login: CKR_SESSION_HANDLE_INVALID"),
    ("search", 0, TOKEN, NO_OBJECT),
    ("search", 63, TOKEN, NO_OBJECT),
    ("search", WORD, INTEGRITY, CHANGED_FIND),
    ("search", WORD + 1, TOKEN, NO_OBJECT),
    ("search", WORD + HUGE, MODULE, PANICKED),
    // Sensitive, not extractable, and the lengths of id and label.
    ("attribute lengths 1", 0, INTEGRITY, CHANGED_FIND),
    ("attribute lengths 1", BYTE, INTEGRITY, CHANGED_FIND),
    ("attribute lengths 1", 2 * BYTE, End::Nothing, ""),
    ("attribute lengths 1", 2 * BYTE + HUGE, MODULE, NO_ROOM),
    ("attribute lengths 1", 2 * BYTE + WORD, INTEGRITY, "C_GetAttributeValue: CKR_BUFFER_TOO_SMALL"),
    ("attribute lengths 2", 0, INTEGRITY, CHANGED_FIND),
    ("attribute lengths 2", BYTE, INTEGRITY, CHANGED_FIND),
    ("attributes 1", 0, INTEGRITY, CHANGED_FIND),
    ("attributes 1", ID_BYTES * BYTE - 1, INTEGRITY, CHANGED_FIND),
    ("attributes 1", ID_BYTES * BYTE, INTEGRITY, CHANGED_FIND),
    ("attributes 1", (ID_BYTES + LABEL_BYTES) * BYTE + 4, INTEGRITY, CHANGED_FIND),
    ("attributes 2", 0, INTEGRITY, CHANGED_FIND),
    ("attributes 2", ID_BYTES * BYTE, INTEGRITY, CHANGED_FIND),
    // The check value is eight bytes of the answer: what is behind them is nobody's.
    ("check value, length 1", 0, End::Nothing, ""),
    ("check value, length 1", 5, INTEGRITY, TOO_SMALL),
    ("check value, length 1", HUGE, MODULE, NO_ROOM),
    ("check value 1", 0, INTEGRITY, CHANGED_FIND),
    ("check value 1", 8 * BYTE - 1, INTEGRITY, CHANGED_FIND),
    ("check value 1", 8 * BYTE, End::Nothing, ""),
    ("check value 1", 32 * BYTE + 5, INTEGRITY, SHORT),
    ("check value 1", 32 * BYTE + 6, End::Nothing, ""),
    ("check value 2", 0, INTEGRITY, CHANGED_FIND),
    ("check value 2", 32 * BYTE + 5, INTEGRITY, SHORT),
    // Nothing is sealed under an answer that does not come twice.
    ("seal, length 1", 0, End::Nothing, ""),
    ("seal, length 1", 5, INTEGRITY, TOO_SMALL),
    ("seal 1", 0, INTEGRITY, "wrap: answers_differ"),
    ("seal 1", 32 * BYTE - 1, INTEGRITY, "wrap: answers_differ"),
    ("seal 1", 32 * BYTE + 5, INTEGRITY, SHORT),
    ("seal 2", 0, INTEGRITY, "wrap: answers_differ"),
    ("seal 2", 32 * BYTE - 1, INTEGRITY, "wrap: answers_differ"),
    // The tag of what was sealed tells, and the second answer opens it.
    ("open, length", 5, INTEGRITY, TOO_SMALL),
    ("open", 0, End::Nothing, ""),
    ("open", 32 * BYTE - 1, End::Nothing, ""),
    ("open", 32 * BYTE + 5, INTEGRITY, SHORT),
    // What is damaged is called so only after the token has said the same thing twice.
    ("damaged", 0, End::Nothing, ""),
    ("known answer", 0, End::Cured, ""),
    ("known answer", 8 * BYTE, End::Nothing, ""),
    ("damaged again", 0, End::Nothing, ""),
    ("damaged again", 32 * BYTE + 5, INTEGRITY, SHORT),
    ("open session read-only", 0, End::Out(OutageClass::Session), "C_Login: CKR_SESSION_HANDLE_INVALID"),
    // Another check value is a session that has lost its meaning, until a re-initialisation says more.
    ("health, length", 5, INTEGRITY, TOO_SMALL),
    ("health", 0, End::Cured, ""),
    ("health", 8 * BYTE - 1, End::Cured, ""),
    ("health", 8 * BYTE, End::Nothing, ""),
    ("health", 32 * BYTE + 5, INTEGRITY, SHORT),
];

/// Every flip where it stands; those of an opening in a process that starts as well, with the keys that its state names and with none.
pub fn flips() -> Vec<Cell> {
    let mut cells = Vec::new();
    for (name, bit, end, told) in FLIPS {
        let site = named(name);
        let cell = |state| {
            let (end, told) = (*end, (*told).to_owned());
            let ends_agent = end == MODULE;
            Cell { state, site, when: When::After, what: What::Flip(*bit), end, told, ends_agent }
        };
        cells.push(cell(State::Open));
        if site.operation == Operation::Reopen && site.first.len() == 1 {
            cells.push(cell(State::Starting));
            cells.push(nameless(cell(State::Naming)));
        }
    }
    cells
}

/// A key that is found by its label alone has nothing to be missed by.
fn nameless(cell: Cell) -> Cell {
    match (cell.site.name, cell.end) {
        ("search", INTEGRITY) => {
            Cell { end: End::Fenced(OutageClass::Key), told: "find: key_missing".to_owned(), ..cell }
        }
        _ => cell,
    }
}

fn named(name: &str) -> Site {
    sites().find(|site| site.name == name).unwrap_or_else(|| panic!("there is no site {name}"))
}
