//! Gives addresses to Services of type LoadBalancer; started by `shardway-cluster up`.

#![allow(clippy::print_stdout)] // its log

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Parser;
use perf_cluster::api::Api;
use perf_cluster::load_balancer;

/// Gives addresses to Services of type LoadBalancer.
#[derive(Debug, Parser)]
#[command(name = "shardway-cluster-load-balancer")]
struct Flags {
    /// The API server
    #[arg(long)]
    server: SocketAddr,

    /// Folder with ca.crt, load-balancer.crt and load-balancer.key
    #[arg(long, value_name = "DIR")]
    pki: PathBuf,

    /// Range to give from; repeat for more
    #[arg(long = "range", value_name = "CIDR", required = true)]
    ranges: Vec<ipnet::IpNet>,
}

fn main() -> anyhow::Result<()> {
    let flags = Flags::parse();
    let api = Api::new(flags.server, &flags.pki, "load-balancer")?;
    load_balancer::run(&api, &flags.ranges, |text| println!("{text}"));
    Ok(())
}
