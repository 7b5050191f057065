//! The cells: which fault strikes where, and the documented end of each.

use frostkeep_fixtures::{What, When};
use frostkeep_hsm::health::OutageClass;

use crate::documented::{self, CODES, Class, End};
use crate::sites::{DAMAGED, DETOURS, HEALTH, Kind, OPENING, Operation, Site, UNWRAP, WRAP};

/// What the provider is doing when the fault strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It is connected, and asked for the operation of the site.
    Open,
    /// It is out, and probes.
    Out,
    /// It is a new process that connects for the first time, to the keys that its state names.
    Starting,
    /// It is a new process without a state, that connects to the key of the configured name.
    Naming,
}

/// One fault at one call.
#[derive(Debug, Clone)]
pub struct Cell {
    pub state: State,
    pub site: Site,
    pub when: When,
    pub what: What,
    pub end: End,
    /// What the outage says first.
    pub told: String,
    /// Whether the agent ends with it.
    pub ends_agent: bool,
}

/// Many times what a call takes, and far below every deadline.
const DELAY_MS: u64 = 30;

const BOTH: [When; 2] = [When::Before, When::After];

/// Every call that the provider makes.
pub fn sites() -> impl Iterator<Item = Site> {
    [OPENING, DETOURS, WRAP, UNWRAP, DAMAGED, HEALTH].into_iter().flatten().copied()
}

/// Those of a connection that is opened by a probe: a session that was lost is not closed, and only a live agent finalizes.
fn sites_of_a_start() -> impl Iterator<Item = Site> {
    OPENING.iter().filter(|site| !matches!(site.kind, Kind::Close | Kind::Finalize)).copied()
}

fn coded(state: State, site: Site, class: Class, code: documented::Code, when: When) -> Cell {
    let (end, told) = documented::end(&site, class, code, when);
    let ends_agent = match end {
        End::Out(class) => class == OutageClass::Module,
        End::Cured => class == Class::Module,
        End::Nothing | End::Fenced(_) | End::Latched => false,
    };
    Cell { state, site, when, what: What::Rv(code.0), end, told, ends_agent }
}

/// Every code before and after every call, and every step of an opening once more in a probe and, with one code of each class,
/// in a process that starts.
pub fn codes() -> Vec<Cell> {
    let mut cells = Vec::new();
    for (class, codes) in CODES {
        for (number, code) in codes.iter().enumerate() {
            for when in BOTH {
                cells.extend(sites().map(|site| coded(State::Open, site, *class, *code, when)));
                cells.extend(sites_of_a_start().map(|site| coded(State::Out, site, *class, *code, when)));
                if number == 0 {
                    cells.extend(sites_of_a_start().map(|site| coded(State::Starting, site, *class, *code, when)));
                }
            }
        }
    }
    cells
}

/// The process of the module aborts, before and after every call.
pub fn aborts() -> Vec<Cell> {
    let mut cells = Vec::new();
    for when in BOTH {
        let aborted = |state, site: Site| {
            let end = if site.kind == Kind::Keyed { End::Cured } else { End::Out(OutageClass::Module) };
            let told = format!("{}: agent_ended: ended by signal 6", request(&site));
            Cell { state, site, when, what: What::Abort, end, told, ends_agent: true }
        };
        cells.extend(sites().map(|site| aborted(State::Open, site)));
        cells.extend(sites_of_a_start().map(|site| aborted(State::Out, site)));
        cells.extend(sites_of_a_start().map(|site| aborted(State::Starting, site)));
    }
    cells
}

/// Every call hangs, before and after the real one.
pub fn hangs() -> Vec<Cell> {
    BOTH.into_iter().flat_map(|when| sites().map(move |site| late(site, when, What::Hang))).collect()
}

/// Every call is late: below the deadline nobody sees it.
pub fn delays() -> Vec<Cell> {
    let delayed = |site: Site| {
        let (end, told) = match site.kind {
            // The login had failed before.
            Kind::CloseAfterLogin => (End::Out(OutageClass::Token), "C_Login: CKR_DEVICE_ERROR".to_owned()),
            _ => (End::Nothing, String::new()),
        };
        Cell { state: State::Open, site, when: When::After, what: What::Delay(DELAY_MS), end, told, ends_agent: false }
    };
    sites().map(delayed).collect()
}

/// One call of each request is late by more than its deadline: a hang, whatever comes after.
pub fn late_answers(ms: u64) -> Vec<Cell> {
    let wanted = ["initialize", "login", "search", "seal 1", "open", "known answer", "health"];
    sites().filter(|site| wanted.contains(&site.name)).map(|site| late(site, When::After, What::Delay(ms))).collect()
}

fn late(site: Site, when: When, what: What) -> Cell {
    let told = format!("{}: deadline: no answer within ", request(&site));
    Cell { state: State::Open, site, when, what, end: End::Out(OutageClass::Deadline), told, ends_agent: true }
}

/// The request to the agent in which the call is made: an agent that does not answer can tell no more.
fn request(site: &Site) -> &'static str {
    match (site.operation, site.function) {
        _ if site.kind == Kind::CloseAfterLogin => "login",
        (Operation::Reopen, "C_OpenSession" | "C_Login") => "login",
        (Operation::Reopen, "C_CloseSession" | "C_Finalize" | "C_Initialize" | "C_GetSlotList" | "C_GetTokenInfo") => {
            "connect"
        }
        (Operation::Reopen, _) => "find",
        (_, _) => "derive",
    }
}
