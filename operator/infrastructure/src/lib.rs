//! Services and EndpointSlices of Gateways, and the shards.
