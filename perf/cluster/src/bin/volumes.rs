//! Makes folders for claims of the StorageClass `local`; started by `shardway-cluster up`.

#![allow(clippy::print_stdout)] // its log

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Parser;
use perf_cluster::api::Api;
use perf_cluster::volumes;

/// Makes folders for claims of the StorageClass `local`.
#[derive(Debug, Parser)]
#[command(name = "shardway-cluster-volumes")]
struct Flags {
    /// The API server
    #[arg(long)]
    server: SocketAddr,

    /// Folder with ca.crt, volumes.crt and volumes.key
    #[arg(long, value_name = "DIR")]
    pki: PathBuf,

    /// Folder below which folders are made
    #[arg(long, value_name = "DIR")]
    root: PathBuf,
}

fn main() -> anyhow::Result<()> {
    let flags = Flags::parse();
    let api = Api::new(flags.server, &flags.pki, "volumes")?;
    volumes::run(&api, &flags.root, |text| println!("{text}"));
    Ok(())
}
