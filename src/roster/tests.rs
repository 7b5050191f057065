//! What a roster says, and what no roster may say. Method: whole files, and one wrong value in each.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::identity::NodeIdentity;
use crate::limits;

fn identity(of: u8) -> IdentityKey {
    NodeIdentity::from_seed(&[of; 32]).public()
}

fn node(of: u8) -> NodeLine {
    NodeLine {
        name: format!("node-{of}"),
        address: format!("node-{of}.example:7450"),
        identity: identity(of),
        serving_pin: Pin::new([of; 32]),
        client_pin: Pin::new([of ^ 0x80; 32]),
        members: vec![Member::new(u16::from(of)).unwrap()],
        roles: vec![Role::Coordinator, Role::Peer],
    }
}

fn client(of: u8) -> ClientLine {
    ClientLine { name: format!("client-{of}"), pin: Pin::of_spki(&[of]), roles: vec![Role::Admin] }
}

fn text() -> String {
    let nodes = (1..=3).map(|of| node(of).to_toml());
    nodes.chain((1..=2).map(|of| client(of).to_toml())).collect::<Vec<_>>().join("\n")
}

fn member(number: u16) -> Member {
    Member::new(number).unwrap()
}

/// The error of the valid text with `old` replaced once.
fn refused(old: &str, new: &str) -> String {
    let valid = text();
    assert!(valid.contains(old), "{old}");
    Roster::parse(&valid.replacen(old, new, 1)).unwrap_err().to_string()
}

#[test]
fn lines_that_were_written_are_read_again() {
    let roster = Roster::parse(&text()).unwrap();
    assert_eq!(roster.nodes(), [node(1), node(2), node(3)]);
    assert_eq!(roster.clients(), [client(1), client(2)]);
    assert_eq!(roster.hash(), crate::hash::sha256(text().as_bytes()));
    let quiet = NodeLine { members: Vec::new(), roles: Vec::new(), ..node(1) };
    assert_eq!(Roster::parse(&quiet.to_toml()).unwrap().nodes(), [quiet]);
}

#[test]
fn members_and_roles_are_none_unless_they_are_given() {
    let stripped: String = text()
        .lines()
        .filter(|line| !line.starts_with("members") && !line.starts_with("roles"))
        .map(|line| format!("{line}\n"))
        .collect();
    let roster = Roster::parse(&stripped).unwrap();
    assert!(roster.nodes().iter().all(|node| node.members.is_empty() && node.roles.is_empty()));
    assert!(roster.clients().iter().all(|client| client.roles.is_empty()));
}

#[test]
fn a_caller_is_who_has_the_client_key_and_nobody_by_a_serving_key() {
    let roster = Roster::parse(&text()).unwrap();
    let caller = roster.caller(&node(2).client_pin).unwrap();
    assert_eq!((caller.name.as_str(), caller.identity), ("node-2", Some(identity(2))));
    assert_eq!(caller.roles, [Role::Coordinator, Role::Peer]);
    let operator = roster.caller(&client(1).pin).unwrap();
    assert_eq!((operator.name.as_str(), operator.identity), ("client-1", None));
    assert_eq!(operator.roles, [Role::Admin]);
    for stranger in [node(2).serving_pin, Pin::new([0; 32])] {
        assert!(roster.caller(&stranger).is_none(), "{stranger}");
    }
}

#[test]
fn nodes_are_found_by_identity_name_and_member() {
    let roster = Roster::parse(&text()).unwrap();
    assert_eq!(roster.node_of(&identity(3)), Some(&node(3)));
    assert_eq!(roster.node_named("node-1"), Some(&node(1)));
    assert_eq!(roster.node_of_member(member(2)), Some(&node(2)));
    assert_eq!(roster.node_of(&identity(9)), None);
    assert_eq!(roster.node_named("client-1"), None, "a client is no node");
    assert_eq!(roster.node_of_member(member(9)), None);
}

#[test]
fn a_roster_contradicts_a_key_group_by_what_it_says_and_never_by_what_it_leaves_out() {
    let roster = Roster::parse(&text()).unwrap();
    let seats = |pairs: &[(u16, u8)]| -> BTreeMap<Member, IdentityKey> {
        pairs.iter().map(|(number, of)| (member(*number), identity(*of))).collect()
    };
    assert_eq!(roster.disagreements(&seats(&[(1, 1), (2, 2), (3, 3)])), []);
    assert_eq!(roster.disagreements(&seats(&[(1, 1), (9, 9)])), [], "a node that left contradicts nothing");
    assert_eq!(roster.disagreements(&seats(&[(1, 1), (2, 9)])), [member(2)], "another node holds the member here");
    assert_eq!(roster.disagreements(&seats(&[(1, 2), (2, 1)])), [member(1), member(2)]);
    assert_eq!(roster.disagreements(&seats(&[(1, 1), (9, 1)])), [member(9)], "node 1 is here, without member 9");
}

#[test]
fn what_is_given_twice_is_refused_and_both_places_are_named() {
    let line_of = |needle: &str| 1 + text().lines().position(|line| line.contains(needle)).unwrap();
    let (ours, other) = (node(1), node(2));
    let cases: Vec<(&str, String, String)> = vec![
        ("name", "\"node-2\"".into(), "\"node-1\"".into()),
        ("name", "\"client-1\"".into(), "\"node-1\"".into()),
        ("address", other.address.clone(), ours.address.to_uppercase()),
        ("identity", other.identity.to_string(), ours.identity.to_string()),
        ("serving_pin", other.serving_pin.to_string(), ours.serving_pin.to_string()),
        ("serving_pin", other.client_pin.to_string(), ours.serving_pin.to_string()),
        ("client_pin", other.serving_pin.to_string(), ours.client_pin.to_string()),
        ("serving_pin", ours.client_pin.to_string(), ours.serving_pin.to_string()),
        ("client_pin", client(2).pin.to_string(), ours.client_pin.to_string()),
        ("serving_pin", client(2).pin.to_string(), ours.serving_pin.to_string()),
        ("members", "[2]".into(), "[1]".into()),
        ("members", "[2]".into(), "[2, 1]".into()),
    ];
    for (field, old, new) in cases {
        let error = refused(&old, &new);
        assert!(error.contains("given twice"), "{error}");
        assert!(error.contains("node \"node-1\"") && error.contains(field), "{error}");
        let second = line_of(&old);
        assert!(error.contains(&format!("(line {second})")), "line {second}: {error}");
        assert_eq!(error.matches("(line ").count(), 2, "{error}");
    }
    let error = refused("[2]", "[2, 2]");
    assert!(error.contains("member 2 is given twice"), "{error}");
}

#[test]
fn a_wrong_value_is_refused_with_its_line_field_and_value() {
    let long_name = "n".repeat(limits::ROSTER_NAME_BYTES_MAX + 1);
    let long_host = format!("{}:1", "h".repeat(limits::ADDRESS_BYTES_MAX));
    let mut neutral = "01".to_string();
    neutral.push_str(&"0".repeat(62));
    let identity_text = identity(2).to_string();
    let cases: Vec<(&str, &str, &str)> = vec![
        ("\"node-2\"", "\"\"", "name"),
        ("\"node-2\"", "\"a b\"", "name"),
        ("\"node-2\"", "\"a\\u0007\"", "name"),
        ("\"node-2\"", "\"n\u{f8}rth\"", "name"),
        ("node-2.example:7450", "node-2.example", "address"),
        ("node-2.example:7450", ":7450", "address"),
        ("node-2.example:7450", "a/b:7450", "address"),
        ("node-2.example:7450", "user@host:7450", "address"),
        ("node-2.example:7450", "host:0", "address"),
        ("node-2.example:7450", "host:65536", "address"),
        ("node-2.example:7450", "host:+1", "address"),
        ("node-2.example:7450", "::1:7450", "address"),
        ("node-2.example:7450", "[::1:7450", "address"),
        ("node-2.example:7450", "[host]:7450", "address"),
        ("node-2.example:7450", &long_host, "address"),
        (&identity_text, &neutral, "identity"),
        (&identity_text, "02", "identity"),
    ];
    for (old, new, field) in cases {
        let error = refused(old, new);
        let line = 1 + text().lines().position(|line| line.contains(old)).unwrap();
        assert!(error.starts_with(&format!("{field} of node")), "{error}");
        assert!(error.contains(&format!("(line {line})")), "{error}");
    }
    assert!(refused("node-2", &long_name).contains("65 bytes"));
    let pin = node(2).serving_pin.to_string();
    assert!(refused(&pin, "zz").starts_with("serving_pin of node \"node-2\""));
    assert!(refused(&client(2).pin.to_string(), "").starts_with("pin of client \"client-2\""));
}

#[test]
fn addresses_are_names_and_numbers_of_both_kinds() {
    for address in ["localhost:1", "10.0.0.1:65535", "[2001:db8::1]:7450", "a_b-c.example:7450"] {
        let line = NodeLine { address: address.into(), ..node(1) };
        assert_eq!(Roster::parse(&line.to_toml()).unwrap().nodes(), [line]);
    }
}

#[test]
fn unknown_missing_and_misspelt_things_are_refused_with_their_line() {
    let second = 1 + text().lines().position(|line| line.contains("\"node-2\"")).unwrap();
    for (old, new, says) in [
        ("name = \"node-2\"", "name = \"node-2\"\nweight = 1", "unknown field `weight`"),
        ("name = \"node-2\"", "nick = \"node-2\"", "unknown field `nick`"),
        ("name = \"node-2\"", "", "missing field `name`"),
        ("name = \"node-2\"", "name = 2", "expected a string"),
        ("name = \"node-2\"", "name = \"node-2\"\nname = \"node-2\"", "duplicate key"),
    ] {
        let error = refused(old, new);
        assert!(error.contains(says), "{error}");
        let near = (second - 1..=second + 1).any(|line| error.starts_with(&format!("roster line {line}: ")));
        assert!(near, "{error}");
    }
    assert!(refused("\"peer\"", "\"king\"").contains("unknown variant `king`"));
    assert!(refused("[2]", "[0]").contains("member number 0 is not valid"));
    assert!(refused("[2]", "[65536]").contains("65536"));
    assert!(Roster::parse("[[nodes]]\n").unwrap_err().to_string().contains("unknown field `nodes`"));
    assert!(Roster::parse("node = 1\n").is_err());
}

#[test]
fn a_roster_has_bounds() {
    let many = |count: usize, write: &dyn Fn(usize) -> String| (0..count).map(write).collect::<Vec<_>>().join("\n");
    let a_node = |at: usize| {
        let mut seed = [7; 32];
        seed[0] = at as u8;
        seed[1] = (at >> 8) as u8;
        let line = NodeLine {
            name: format!("n{at}"),
            address: format!("h{at}:1"),
            identity: NodeIdentity::from_seed(&seed).public(),
            serving_pin: Pin::of_spki(&[&seed[..], b"s"].concat()),
            client_pin: Pin::of_spki(&[&seed[..], b"c"].concat()),
            members: vec![member(at as u16 + 1)],
            roles: Vec::new(),
        };
        line.to_toml()
    };
    let a_client = |at: usize| {
        let line = ClientLine { name: format!("c{at}"), pin: Pin::of_spki(&at.to_be_bytes()), roles: Vec::new() };
        line.to_toml()
    };
    let full = format!("{}\n{}", many(limits::ROSTER_NODES_MAX, &a_node), many(limits::ROSTER_CLIENTS_MAX, &a_client));
    assert!(full.len() < limits::ROSTER_BYTES_MAX / 2, "a full roster fits its file: {}", full.len());
    Roster::parse(&full).unwrap();
    let error = Roster::parse(&many(limits::ROSTER_NODES_MAX + 1, &a_node)).unwrap_err().to_string();
    assert!(error.contains("256 nodes: at most 255"), "{error}");
    let error = Roster::parse(&many(limits::ROSTER_CLIENTS_MAX + 1, &a_client)).unwrap_err().to_string();
    assert!(error.contains("256 clients: at most 255"), "{error}");
    let seats: Vec<_> = (1..=limits::MEMBERS_MAX as u16 + 1).map(member).collect();
    let error = Roster::parse(&NodeLine { members: seats, ..node(1) }.to_toml()).unwrap_err().to_string();
    assert!(error.contains("256 members: at most 255"), "{error}");
    let padded = format!("{}#{}", text(), " ".repeat(limits::ROSTER_BYTES_MAX));
    assert!(matches!(Roster::parse(&padded), Err(RosterError::TooLarge)));
    assert!(matches!(Roster::parse(&"[".repeat(100_000)), Err(RosterError::Syntax { .. })));
}

#[test]
fn a_file_is_read_as_its_text_is() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("roster.toml");
    assert!(matches!(Roster::read(&path), Err(RosterError::Unreadable { .. })));
    let write = |bytes: &[u8]| crate::store::files::write_synced(&path, bytes).unwrap();
    write(text().as_bytes());
    assert_eq!(Roster::read(&path).unwrap().hash(), Roster::parse(&text()).unwrap().hash());
    write(b"# caf\xc3\xa9 \xff");
    assert!(matches!(Roster::read(&path), Err(RosterError::NotText { offset: 8 })));
    write(&vec![b'#'; limits::ROSTER_BYTES_MAX + 1]);
    assert!(matches!(Roster::read(&path), Err(RosterError::TooLarge)));
}

proptest! {
    #[test]
    fn arbitrary_bytes_are_refused_or_read_and_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..2_000)) {
        let _ = Roster::parse(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn a_damaged_roster_is_refused_or_read_and_never_panics(
        at in 0..2_000usize, cut in 0..40usize, put in "[\\PC\\n\"\\[\\]=#]{0,8}",
    ) {
        let valid: Vec<char> = text().chars().collect();
        let at = at % valid.len();
        let damaged: String =
            valid.iter().take(at).copied().chain(put.chars()).chain(valid.iter().skip(at + cut).copied()).collect();
        match Roster::parse(&damaged) {
            Ok(roster) => prop_assert!(roster.nodes().len() <= 3 && roster.clients().len() <= 3),
            Err(error) => prop_assert!(error.to_string().len() < 1_000, "{}", error),
        }
    }

    #[test]
    fn a_line_of_any_words_is_read_again(
        name in "[!-~]{1,64}", port in 1..=u16::MAX, seats in prop::collection::btree_set(1..=u16::MAX, 0..20),
    ) {
        let line = NodeLine {
            name,
            address: format!("[::1]:{port}"),
            members: seats.into_iter().map(member).collect(),
            ..node(1)
        };
        let read = Roster::parse(&line.to_toml()).unwrap();
        prop_assert_eq!(read.nodes(), [line]);
    }
}
