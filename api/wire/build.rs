//! Generates the messages and services of delta streams, of certificates and of replicas. Needs `protoc` and its include files.

fn main() -> std::io::Result<()> {
    tonic_prost_build::configure()
        // Raft's messages and snapshots are large: they are shared, not copied.
        .bytes(".shardway.peer.v1")
        .compile_protos(
            &[
                "proto/delivery.proto",
                "proto/identity.proto",
                "proto/peer.proto",
            ],
            &["proto"],
        )
}
