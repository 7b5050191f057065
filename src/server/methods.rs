//! Every method of the interface: who may call it, and when. It is looked up before a byte of the request's body is read.

use crate::engine::Role;

/// Who gets an answer while the state is not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sealed {
    /// Everybody who may call the method.
    Answers,
    /// Callers on the Unix socket.
    OnSocket,
    /// Nobody: the refusal says why the state is not open.
    Refuses,
}

/// One method.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Method {
    /// `/package.Service/Method`.
    pub(super) path: &'static str,
    /// The roles that may call it: one of them is enough.
    pub(super) roles: &'static [Role],
    /// Whether it is answered while the state is not open.
    pub(super) sealed: Sealed,
    /// Whether it is answered while the node stops: what only looks, and what only denies.
    pub(super) while_stopping: bool,
}

impl Method {
    /// Whether a call changes what the node does or holds beyond one session: such calls are in the log by name.
    pub(super) fn is_noted(&self) -> bool {
        match self.path.split_once(".v1.").map(|(_, method)| method) {
            Some(method) if method.starts_with("Admin/") => true,
            Some(method) => matches!(
                method,
                "KeyGeneration/Begin" | "KeyGeneration/Finish" | "KeyGeneration/Certify" | "KeyGeneration/Abandon"
            ),
            None => false,
        }
    }
}

const ANY: &[Role] = &[Role::Coordinator, Role::Peer, Role::Admin, Role::Observer];
const COORDINATOR: &[Role] = &[Role::Coordinator];
const ADMIN: &[Role] = &[Role::Admin];
const CEREMONY: &[Role] = &[Role::Admin, Role::Peer];

const fn method(path: &'static str, roles: &'static [Role]) -> Method {
    Method { path, roles, sealed: Sealed::Refuses, while_stopping: false }
}

/// What only looks: answered at any time.
const fn look(path: &'static str) -> Method {
    Method { path, roles: ANY, sealed: Sealed::Answers, while_stopping: true }
}

static METHODS: &[Method] = &[
    method("/frostkeep.v1.Signer/StartSignRound", COORDINATOR),
    method("/frostkeep.v1.Signer/Commit", COORDINATOR),
    method("/frostkeep.v1.Signer/FinalizeSignRound", COORDINATOR),
    method("/frostkeep.v1.Signer/GetSession", COORDINATOR),
    method("/frostkeep.v1.Signer/AbortSession", COORDINATOR),
    method("/frostkeep.v1.Signer/BuildTaprootTx", COORDINATOR),
    method("/frostkeep.v1.Signer/DeriveAttemptContext", ANY),
    method("/frostkeep.v1.Signer/VerifySignatureShare", &[Role::Coordinator, Role::Peer, Role::Observer]),
    method("/frostkeep.v1.Signer/VoteTimeout", &[Role::Coordinator, Role::Peer]),
    method("/frostkeep.v1.KeyGeneration/Preflight", CEREMONY),
    method("/frostkeep.v1.KeyGeneration/Begin", CEREMONY),
    method("/frostkeep.v1.KeyGeneration/Receive", CEREMONY),
    method("/frostkeep.v1.KeyGeneration/Advance", CEREMONY),
    method("/frostkeep.v1.KeyGeneration/Finish", CEREMONY),
    method("/frostkeep.v1.KeyGeneration/Certify", &[Role::Admin, Role::Peer, Role::Coordinator]),
    method("/frostkeep.v1.KeyGeneration/Abandon", CEREMONY),
    method("/frostkeep.v1.KeyGeneration/Stage", CEREMONY),
    method("/frostkeep.v1.KeyGeneration/Unfinished", CEREMONY),
    look("/frostkeep.v1.Node/Status"),
    method("/frostkeep.v1.Node/ListKeyGroups", ANY),
    method("/frostkeep.v1.Node/GetKeyGroup", ANY),
    // Until the process is over a round that is under way can leave: a freeze stops it.
    Method { sealed: Sealed::OnSocket, while_stopping: true, ..method("/frostkeep.v1.Admin/Freeze", ADMIN) },
    method("/frostkeep.v1.Admin/Thaw", ADMIN),
    method("/frostkeep.v1.Admin/SetPolicy", ADMIN),
    method("/frostkeep.v1.Admin/ReplaceIdentity", ADMIN),
    method("/frostkeep.v1.Admin/RetireKeyGroup", ADMIN),
    method("/frostkeep.v1.Admin/DangerDropPrepared", ADMIN),
    method("/frostkeep.v1.Admin/BeginDrill", ADMIN),
    // Whatever has become of the node meanwhile, a drill can be ended.
    Method { while_stopping: true, ..method("/frostkeep.v1.Admin/EndDrill", ADMIN) },
    // It touches no state, and a signal does the same.
    Method { sealed: Sealed::OnSocket, ..method("/frostkeep.v1.Admin/ReloadRoster", ADMIN) },
    method("/frostkeep.v1.Coordination/Sign", COORDINATOR),
    method("/frostkeep.v1.Coordination/Drive", COORDINATOR),
    look("/grpc.health.v1.Health/Check"),
    look("/grpc.health.v1.Health/Watch"),
];

/// The method at this path.
pub(super) fn find(path: &str) -> Option<&'static Method> {
    METHODS.iter().find(|method| method.path == path)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The paths of the proto file's methods.
    fn described() -> BTreeSet<String> {
        let mut service = "";
        let mut paths = BTreeSet::new();
        for line in include_str!("../wire/frostkeep.proto").lines() {
            let mut words = line.split([' ', '(']).filter(|word| !word.is_empty());
            match (words.next(), words.next()) {
                (Some("service"), Some(name)) => service = name,
                (Some("rpc"), Some(name)) => {
                    paths.insert(format!("/frostkeep.v1.{service}/{name}"));
                }
                _ => {}
            }
        }
        paths
    }

    #[test]
    fn every_method_of_the_proto_file_has_its_callers_and_no_other_has() {
        let listed: BTreeSet<String> = METHODS.iter().map(|method| method.path.to_owned()).collect();
        assert_eq!(listed.len(), METHODS.len(), "a method is listed twice");
        let own: BTreeSet<String> = listed.into_iter().filter(|path| path.starts_with("/frostkeep.")).collect();
        assert!(described().len() > 25);
        assert_eq!(own, described());
    }

    #[test]
    fn what_changes_a_node_is_in_the_log_and_what_a_ceremony_relays_is_not() {
        let noted = |path| find(path).unwrap().is_noted();
        assert!(noted("/frostkeep.v1.Admin/Thaw") && noted("/frostkeep.v1.KeyGeneration/Begin"));
        assert!(!noted("/frostkeep.v1.KeyGeneration/Receive") && !noted("/frostkeep.v1.Signer/Commit"));
    }

    #[test]
    fn a_sealed_node_answers_the_network_status_and_health_alone() {
        let answered = METHODS.iter().filter(|method| method.sealed == Sealed::Answers).map(|method| method.path);
        let status = ["/frostkeep.v1.Node/Status", "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"];
        assert_eq!(answered.collect::<Vec<_>>(), status);
    }
}
