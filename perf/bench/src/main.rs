//! `cargo xtask bench NAME`: measures, prints figures with the ratio to a peer of the same run, and a verdict.
//!
//! **Invariants**
//! - Peers run in the same run, interleaved; CPU seconds, bytes and counts are what is compared.
//! - Everything is on loopback, bounded in count and time, and ends with this program.

#![allow(clippy::print_stdout)] // figures are what this prints

mod change;
mod proc;
mod propagation;
mod proxy;
mod run;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// Measures Shardway.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask bench")]
struct Flags {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Debug, Subcommand)]
enum Bench {
    /// Memory at 10,000 host names, and what a change of one host costs the proxy
    Hosts {
        /// Host names, one route each
        #[arg(long, default_value_t = 10_000)]
        hosts: usize,
        /// Changes that are measured
        #[arg(long, default_value_t = 200)]
        samples: usize,
    },
    /// Time from a new route file to a 200 on each shard
    Propagation {
        /// Routes that are there already
        #[arg(long, num_args = 1.., default_values_t = [1000, 5000])]
        routes: Vec<usize>,
        /// Routes that are created and measured
        #[arg(long, default_value_t = 200)]
        samples: usize,
    },
    /// Rules and backends rewritten under traffic
    Change {
        /// How often a rule is rewritten
        #[arg(long, default_value_t = 1000)]
        changes: usize,
        /// Seconds of traffic
        #[arg(long, default_value_t = 30)]
        seconds: u64,
    },
    /// CPU for each proxied request, beside HAProxy and Envoy
    Proxy {
        /// Envoy's program; `cargo xtask bench proxy` gets it
        #[arg(long, value_name = "FILE")]
        envoy: Option<PathBuf>,
        /// Seconds of each round
        #[arg(long, default_value_t = 6)]
        seconds: u64,
        /// Rounds, interleaved
        #[arg(long, default_value_t = 3)]
        rounds: usize,
    },
}

fn main() -> anyhow::Result<()> {
    match Flags::parse().bench {
        Bench::Hosts { hosts, samples } => propagation::hosts(hosts, samples),
        Bench::Propagation { routes, samples } => propagation::propagation(&routes, samples),
        Bench::Change { changes, seconds } => change::change(changes, seconds),
        Bench::Proxy {
            envoy,
            seconds,
            rounds,
        } => proxy::proxy(seconds, rounds, envoy.as_deref()),
    }
}

/// The verdict on a figure.
fn verdict(name: &str, figure: f64, limit: f64) {
    let word = if figure <= limit { "PASS" } else { "MISS" };
    println!("{word}  {name}: {figure:.3} (must be <= {limit})");
}
