//! The calls of outage drills, of the service `Admin`.

use frostkeep_hsm::drill::DrillKind;

use super::error::ClientError;
use super::node::{Client, call};
use super::read::{make_plain, present, same};
use crate::ids::DrillId;
use crate::wire::{drill, v1};

/// What a drill is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DrillOrder {
    /// Its id, never used before.
    pub drill: DrillId,
    /// What is played.
    pub kind: DrillKind,
    /// How long, milliseconds.
    pub duration_ms: u64,
    /// Begin although others sign on the node.
    pub danger_live_traffic: bool,
}

/// A drill as a node tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DrillView {
    /// Its id.
    pub drill: DrillId,
    /// What is played.
    pub kind: DrillKind,
    /// Who began it.
    pub by: String,
    /// When, seconds since 1970-01-01 UTC.
    pub since_unix: u64,
    /// How long it has lasted, milliseconds.
    pub lasted_ms: u64,
    /// When it is over, milliseconds from then; 0 when it is.
    pub left_ms: u64,
}

impl DrillView {
    /// What a message says of a drill.
    ///
    /// # Errors
    /// [`ClientError::Nonsense`].
    pub(super) fn read(mut message: v1::Drill) -> Result<Self, ClientError> {
        make_plain([&mut message.by]);
        Ok(Self {
            drill: drill::drill_id(&message.id).map_err(ClientError::nonsense)?,
            kind: drill::kind(message.kind).map_err(ClientError::nonsense)?,
            by: message.by,
            since_unix: message.since_unix,
            lasted_ms: message.lasted_ms,
            left_ms: message.left_ms,
        })
    }
}

/// The token of a node, as it names itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenView {
    /// Its label.
    pub label: String,
    /// Its serial number.
    pub serial: String,
    /// Who made it.
    pub manufacturer: String,
    /// What it is.
    pub model: String,
}

/// A drill that is on, and what the node's own settings promise of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DrillBegun {
    /// The drill.
    pub drill: DrillView,
    /// The token that the node would call.
    pub token: TokenView,
    /// The longest that the first request waits for its refusal, milliseconds.
    pub refused_within_ms: u64,
    /// How soon after the end the node is ready by itself, milliseconds.
    pub healed_within_ms: u64,
    /// How often the node calls the token by itself, milliseconds.
    pub health_interval_ms: u64,
    /// How late a slow token answers, milliseconds.
    pub slow_ms: u64,
}

impl Client {
    /// `BeginDrill`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn begin_drill(&self, order: &DrillOrder) -> Result<DrillBegun, ClientError> {
        let message = v1::BeginDrillRequest {
            drill: order.drill.as_bytes().to_vec(),
            kind: v1::DrillKind::from(order.kind).into(),
            duration_ms: order.duration_ms,
            danger_live_traffic: order.danger_live_traffic,
        };
        let reply = call!(self, admin_client::AdminClient::begin_drill, message)?;
        let drill = DrillView::read(present("drill", reply.drill)?)?;
        same("drill", &drill.drill, &order.drill)?;
        same("kind", &drill.kind, &order.kind)?;
        let mut token = reply.token.unwrap_or_default();
        make_plain([&mut token.label, &mut token.serial, &mut token.manufacturer, &mut token.model]);
        let v1::Token { label, serial, manufacturer, model } = token;
        Ok(DrillBegun {
            drill,
            token: TokenView { label, serial, manufacturer, model },
            refused_within_ms: reply.refused_within_ms,
            healed_within_ms: reply.healed_within_ms,
            health_interval_ms: reply.health_interval_ms,
            slow_ms: reply.slow_ms,
        })
    }

    /// `EndDrill`: of this drill, or of whichever is on. The drill that was ended, if one was on.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn end_drill(&self, drill: Option<&DrillId>) -> Result<Option<DrillView>, ClientError> {
        let message = v1::EndDrillRequest { drill: drill.map(|id| id.as_bytes().to_vec()).unwrap_or_default() };
        let reply = call!(self, admin_client::AdminClient::end_drill, message)?;
        reply.drill.map(DrillView::read).transpose()
    }
}
