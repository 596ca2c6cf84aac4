//! Loopback addresses that no other `up` on this machine uses. Shards bind with SO_REUSEPORT, so two that bind the same
//! address and port would share its connections without an error; a plain socket held beside tells who is there.

use std::net::{Ipv4Addr, TcpListener};

use anyhow::{Context, bail};

/// Port of the socket that holds a claim.
const CLAIM_PORT: u16 = 1999;

/// A claimed block; freed with the process.
pub(crate) struct Claim {
    /// The number that was chosen.
    pub(crate) block: u8,
    _held: TcpListener,
}

/// Claims `127.0.BLOCK.0/24` for the shards' own addresses: 2, or the next free one from 20.
pub(crate) fn targets() -> anyhow::Result<Claim> {
    first([2].into_iter().chain(20..60), |block| {
        Ipv4Addr::new(127, 0, block, 254)
    })
    .context("find loopback addresses for the shards")
}

/// Claims `127.BLOCK.0.0/16` for Gateways: 1, or the next free one from 20.
pub(crate) fn gateways() -> anyhow::Result<Claim> {
    first([1].into_iter().chain(20..60), |block| {
        Ipv4Addr::new(127, block, 255, 254)
    })
    .context("find loopback addresses for gateways")
}

fn first(
    blocks: impl Iterator<Item = u8>,
    address: impl Fn(u8) -> Ipv4Addr,
) -> anyhow::Result<Claim> {
    for block in blocks {
        if let Ok(held) = TcpListener::bind((address(block), CLAIM_PORT)) {
            return Ok(Claim { block, _held: held });
        }
    }
    bail!("all are taken; stop another up")
}
