//! The snapshot for people: typed, ordered, without secrets. Goldens, `shardway translate` and `/dump` print it.

use std::collections::BTreeMap;

use api::{GatewayKey, Revision};
use serde::Serialize;

use crate::{
    DecodeError, EntrySet, Fact, FactKey, GatewayEntry, GatewayEntryKey, RoutingSnapshot, decode,
};

/// All facts and Gateways, decoded.
#[derive(Debug, Serialize)]
pub struct SnapshotView {
    /// Facts in canonical order.
    pub facts: Vec<(FactKey, Fact)>,
    /// Gateways by `namespace/name`.
    pub gateways: BTreeMap<String, GatewayView>,
}

/// One Gateway, decoded.
#[derive(Debug, Serialize)]
pub struct GatewayView {
    /// Revision that serves.
    pub revision: Revision,
    /// Entries in canonical order.
    pub entries: Vec<(GatewayEntryKey, GatewayEntry)>,
}

/// Decodes the entries of a Gateway.
///
/// # Errors
/// [`DecodeError`] at the first entry that this version does not know.
pub fn gateway_entries(
    entries: &EntrySet,
) -> Result<Vec<(GatewayEntryKey, GatewayEntry)>, DecodeError> {
    entries
        .iter()
        .map(|(k, v)| Ok((decode("entry key", k)?, decode("entry", v)?)))
        .collect()
}

/// Decodes facts.
///
/// # Errors
/// [`DecodeError`] at the first fact that this version does not know.
pub fn facts(entries: &EntrySet) -> Result<Vec<(FactKey, Fact)>, DecodeError> {
    entries
        .iter()
        .map(|(k, v)| Ok((decode("fact key", k)?, decode("fact", v)?)))
        .collect()
}

impl SnapshotView {
    /// Decodes what serves.
    ///
    /// # Errors
    /// [`DecodeError`] at the first entry that this version does not know.
    pub fn of(snapshot: &RoutingSnapshot) -> Result<Self, DecodeError> {
        Ok(Self {
            facts: facts(snapshot.facts())?,
            gateways: snapshot
                .gateways()
                .map(|(key, chain): (&GatewayKey, _)| {
                    let view = GatewayView {
                        revision: chain.active(),
                        entries: gateway_entries(chain.entries())?,
                    };
                    Ok((key.to_string(), view))
                })
                .collect::<Result<_, DecodeError>>()?,
        })
    }
}
