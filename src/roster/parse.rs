//! From text to lines and back. The text's shape is a set of serde types; what a value may be is checked after, with its line at hand.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use toml::Spanned;

use super::error::{Place, RosterError};
use super::{ClientLine, NodeLine};
use crate::engine::Role;
use crate::ids::Member;
use crate::limits::{
    ADDRESS_BYTES_MAX, MEMBERS_MAX, ROSTER_BYTES_MAX, ROSTER_CLIENTS_MAX, ROSTER_NAME_BYTES_MAX, ROSTER_NODES_MAX,
};

/// Bytes of a wrong value that an error shows.
const SHOWN_BYTES_MAX: usize = 80;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileText {
    #[serde(default)]
    node: Vec<NodeText>,
    #[serde(default)]
    client: Vec<ClientText>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NodeText {
    name: Spanned<String>,
    address: Spanned<String>,
    identity: Spanned<String>,
    serving_pin: Spanned<String>,
    client_pin: Spanned<String>,
    #[serde(default)]
    members: Vec<Spanned<Member>>,
    #[serde(default)]
    roles: Vec<Role>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ClientText {
    name: Spanned<String>,
    pin: Spanned<String>,
    #[serde(default)]
    roles: Vec<Role>,
}

/// What must not be given twice, and where it was given.
#[derive(Default)]
struct Given(BTreeMap<(&'static str, String), Place>);

impl Given {
    fn take(&mut self, kind: &'static str, value: String, place: Place) -> Result<(), RosterError> {
        let shown = format!("{kind} {value}");
        match self.0.insert((kind, value), place.clone()) {
            None => Ok(()),
            Some(first) => Err(RosterError::Twice { value: shown, first, second: place }),
        }
    }
}

/// One entry under way: where it stands, for errors.
struct Entry<'a> {
    text: &'a str,
    label: String,
}

impl Entry<'_> {
    fn place<T>(&self, field: &'static str, value: &Spanned<T>) -> Place {
        Place { line: line_at(self.text, value.span().start), entry: self.label.clone(), field }
    }

    fn checked(
        &self,
        field: &'static str,
        value: &Spanned<String>,
        check: impl Fn(&str) -> Result<(), String>,
    ) -> Result<String, RosterError> {
        check(value.get_ref()).map_err(|problem| self.wrong(field, value, problem))?;
        Ok(value.get_ref().clone())
    }

    fn parsed<T: FromStr<Err: ToString>>(
        &self,
        field: &'static str,
        value: &Spanned<String>,
    ) -> Result<T, RosterError> {
        value.get_ref().parse().map_err(|error: T::Err| self.wrong(field, value, error.to_string()))
    }

    fn wrong(&self, field: &'static str, value: &Spanned<String>, problem: String) -> RosterError {
        RosterError::Value { place: self.place(field, value), value: clipped(value.get_ref()), problem }
    }
}

pub(super) fn parse(text: &str) -> Result<(Vec<NodeLine>, Vec<ClientLine>), RosterError> {
    if text.len() > ROSTER_BYTES_MAX {
        return Err(RosterError::TooLarge);
    }
    let file: FileText = toml::from_str(text).map_err(|error| RosterError::Syntax {
        line: line_at(text, error.span().map_or(text.len(), |span| span.start)),
        problem: clipped(error.message()),
    })?;
    at_most("nodes", file.node.len(), ROSTER_NODES_MAX)?;
    at_most("clients", file.client.len(), ROSTER_CLIENTS_MAX)?;
    at_most("members", file.node.iter().map(|node| node.members.len()).sum(), MEMBERS_MAX)?;
    let mut given = Given::default();
    let nodes = file.node.into_iter().map(|node| node_line(text, &node, &mut given)).collect::<Result<_, _>>()?;
    let clients =
        file.client.into_iter().map(|client| client_line(text, &client, &mut given)).collect::<Result<_, _>>()?;
    Ok((nodes, clients))
}

fn at_most(what: &'static str, found: usize, limit: usize) -> Result<(), RosterError> {
    if found > limit { Err(RosterError::TooMany { what, found, limit }) } else { Ok(()) }
}

fn node_line(text: &str, node: &NodeText, given: &mut Given) -> Result<NodeLine, RosterError> {
    let entry = Entry { text, label: format!("node {:?}", clipped(node.name.get_ref())) };
    let line = NodeLine {
        name: entry.checked("name", &node.name, check_name)?,
        address: entry.checked("address", &node.address, check_address)?,
        identity: entry.parsed("identity", &node.identity)?,
        serving_pin: entry.parsed("serving_pin", &node.serving_pin)?,
        client_pin: entry.parsed("client_pin", &node.client_pin)?,
        members: node.members.iter().map(|member| *member.get_ref()).collect(),
        roles: node.roles.clone(),
    };
    given.take("name", line.name.clone(), entry.place("name", &node.name))?;
    given.take("address", line.address.to_ascii_lowercase(), entry.place("address", &node.address))?;
    given.take("identity", line.identity.to_string(), entry.place("identity", &node.identity))?;
    given.take("pin", line.serving_pin.to_string(), entry.place("serving_pin", &node.serving_pin))?;
    given.take("pin", line.client_pin.to_string(), entry.place("client_pin", &node.client_pin))?;
    for member in &node.members {
        given.take("member", member.get_ref().to_string(), entry.place("members", member))?;
    }
    Ok(line)
}

fn client_line(text: &str, client: &ClientText, given: &mut Given) -> Result<ClientLine, RosterError> {
    let entry = Entry { text, label: format!("client {:?}", clipped(client.name.get_ref())) };
    let line = ClientLine {
        name: entry.checked("name", &client.name, check_name)?,
        pin: entry.parsed("pin", &client.pin)?,
        roles: client.roles.clone(),
    };
    given.take("name", line.name.clone(), entry.place("name", &client.name))?;
    given.take("pin", line.pin.to_string(), entry.place("pin", &client.pin))?;
    Ok(line)
}

/// Names stand in logs and commands.
pub(crate) fn check_name(name: &str) -> Result<(), String> {
    if name.is_empty() || name.len() > ROSTER_NAME_BYTES_MAX {
        return Err(format!("a name of {} bytes: 1 to {ROSTER_NAME_BYTES_MAX} are allowed", name.len()));
    }
    if !name.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("a name is printable ASCII without spaces".into());
    }
    Ok(())
}

pub(crate) fn check_address(address: &str) -> Result<(), String> {
    if address.len() > ADDRESS_BYTES_MAX {
        return Err(format!("an address of {} bytes: at most {ADDRESS_BYTES_MAX} are allowed", address.len()));
    }
    let (host, port) = address.rsplit_once(':').ok_or("an address is host:port")?;
    match host.strip_prefix('[').map(|host| host.strip_suffix(']')) {
        Some(inner) if inner.is_some_and(|inner| inner.parse::<Ipv6Addr>().is_ok()) => {}
        Some(_) => return Err("brackets hold an IPv6 address".into()),
        None if host.is_empty() => return Err("the host is missing".into()),
        None if !host.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_')) => {
            return Err("a host is a name, an IPv4 address, or an IPv6 address in brackets".into());
        }
        None => {}
    }
    match port.parse::<u16>() {
        // `parse` takes a plus sign.
        Ok(1..) if port.bytes().all(|byte| byte.is_ascii_digit()) => Ok(()),
        _ => Err("a port is 1 to 65535".into()),
    }
}

/// The line, from 1, that holds this byte.
fn line_at(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|byte| *byte == b'\n').count()
}

fn clipped(value: &str) -> String {
    match value.char_indices().nth(SHOWN_BYTES_MAX) {
        Some((cut, _)) => format!("{}...", value.get(..cut).unwrap_or_default()),
        None => value.into(),
    }
}

#[derive(Serialize)]
struct Lines<T> {
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<[T; 1]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client: Option<[T; 1]>,
}

#[derive(Serialize)]
struct NodeOut<'a> {
    name: &'a str,
    address: &'a str,
    identity: String,
    serving_pin: String,
    client_pin: String,
    members: &'a [Member],
    roles: &'a [Role],
}

#[derive(Serialize)]
struct ClientOut<'a> {
    name: &'a str,
    pin: String,
    roles: &'a [Role],
}

fn written<T: Serialize>(lines: &Lines<T>) -> String {
    toml::to_string(lines).expect("strings, numbers and lists of both are TOML")
}

impl NodeLine {
    /// The node's entry as a roster has it.
    pub fn to_toml(&self) -> String {
        let node = NodeOut {
            name: &self.name,
            address: &self.address,
            identity: self.identity.to_string(),
            serving_pin: self.serving_pin.to_string(),
            client_pin: self.client_pin.to_string(),
            members: &self.members,
            roles: &self.roles,
        };
        written(&Lines { node: Some([node]), client: None })
    }
}

impl ClientLine {
    /// The client's entry as a roster has it.
    pub fn to_toml(&self) -> String {
        let client = ClientOut { name: &self.name, pin: self.pin.to_string(), roles: &self.roles };
        written(&Lines { node: None, client: Some([client]) })
    }
}
