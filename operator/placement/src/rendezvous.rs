//! Rendezvous (highest random weight) hashing of Gateways onto shards.

use api::{GatewayKey, ShardId};

/// The `k` shards of a pool of `pool` that serve a Gateway, ascending; all of them when `k >= pool`.
///
/// Deterministic. Adding or removing a shard moves only the Gateways that gain or lose it. Cost: O(pool).
pub fn shards_of(gateway: &GatewayKey, pool: u32, k: usize) -> Vec<ShardId> {
    let mut shards = by_weight(gateway, pool);
    shards.truncate(k);
    shards.sort_unstable();
    shards
}

/// All shards of a pool, the one that is to serve a Gateway first of all first.
pub(crate) fn by_weight(gateway: &GatewayKey, pool: u32) -> Vec<ShardId> {
    let mut weighted: Vec<(u64, ShardId)> = (0..pool)
        .map(|n| (weight(gateway, n), ShardId(n)))
        .collect();
    weighted.sort_unstable_by(|a, b| b.cmp(a));
    weighted.into_iter().map(|(_, shard)| shard).collect()
}

/// First choice of a target port's offset; spreads Gateways so that probing is short.
pub(crate) fn port_seed(gateway: &GatewayKey, port: u16) -> u64 {
    hash(gateway, b"port", u32::from(port))
}

fn weight(gateway: &GatewayKey, shard: u32) -> u64 {
    hash(gateway, b"shard", shard)
}

fn hash(gateway: &GatewayKey, purpose: &[u8], number: u32) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(purpose);
    for part in [&gateway.namespace, &gateway.name] {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    hasher.update(&number.to_le_bytes());
    let digest = hasher.finalize();
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&digest.as_bytes()[..8]);
    u64::from_le_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gateways() -> impl Iterator<Item = GatewayKey> {
        (0..1000).map(|n| GatewayKey::new(&format!("team-{n}"), "web"))
    }

    #[test]
    fn one_more_shard_moves_only_gateways_onto_it() {
        let mut moved = 0;
        for gateway in gateways() {
            let before = shards_of(&gateway, 8, 2);
            let after = shards_of(&gateway, 9, 2);
            assert_eq!(before.len(), 2);
            for shard in &after {
                assert!(before.contains(shard) || *shard == ShardId(8));
            }
            moved += usize::from(before != after);
        }
        // Expected: 1000 * 2/9 = 222.
        assert!((150..300).contains(&moved), "{moved} of 1000 moved");
    }

    #[test]
    fn gateways_spread_evenly() {
        let mut load = [0_u32; 8];
        for gateway in gateways() {
            for shard in shards_of(&gateway, 8, 2) {
                load[shard.0 as usize] += 1;
            }
        }
        assert!(load.iter().all(|n| (180..320).contains(n)), "{load:?}");
    }

    #[test]
    fn parts_of_a_name_do_not_run_together() {
        let one: Vec<_> = (0..64)
            .map(|p| port_seed(&GatewayKey::new("a-b", "c"), p))
            .collect();
        let other: Vec<_> = (0..64)
            .map(|p| port_seed(&GatewayKey::new("a", "b-c"), p))
            .collect();
        assert_ne!(one, other);
    }
}
