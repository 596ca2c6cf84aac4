//! Generates the delta stream's messages and service. Needs `protoc` and its include files.

fn main() -> std::io::Result<()> {
    tonic_prost_build::configure().compile_protos(&["proto/delivery.proto"], &["proto"])
}
