//! Flags, environment variables and the config file of the operator. A flag wins over its variable, that over the file.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use api_telemetry::LogFormat;
use clap::Parser;
use operator_placement::AddressRange;

/// Where objects come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SourceSpec {
    /// A folder of manifests.
    Dir(PathBuf),
    /// The cluster of the pod's service account or of KUBECONFIG.
    Kube,
}

impl FromStr for SourceSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("dir", folder)) if !folder.is_empty() => Ok(Self::Dir(folder.into())),
            None if text == "kube" => Ok(Self::Kube),
            _ => Err(format!("unknown source {text:?}; use dir:FOLDER or kube")),
        }
    }
}

/// Whether ports below 1024 may be bound by the shards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum PrivilegedPorts {
    /// Ask the kernel on this machine.
    Auto,
    /// They may.
    Yes,
    /// They may not: such ports move up by 10,000.
    No,
}

/// The Shardway operator: reads Gateways and routes, commits each change as a revision, rolls it out to the shards.
#[derive(Debug, Parser)]
#[command(name = "operator", version, about)]
pub(crate) struct Config {
    /// Where objects come from: dir:FOLDER, a folder of YAML and JSON manifests, watched; or kube, the cluster of the
    /// pod's service account or of KUBECONFIG, where statuses are written too
    #[arg(long, env = "SHARDWAY_SOURCE", value_name = "SOURCE")]
    pub(crate) source: SourceSpec,

    /// With source kube: read objects of these namespaces alone, comma-separated [default: all]
    #[arg(
        long,
        env = "SHARDWAY_NAMESPACES",
        value_name = "NAMES",
        value_delimiter = ','
    )]
    pub(crate) namespaces: Vec<String>,

    /// Folder for the state that must survive a restart: Raft log, certificates, ages of objects, statuses
    #[arg(
        long,
        env = "SHARDWAY_DATA",
        value_name = "DIR",
        default_value = ".shardway"
    )]
    pub(crate) data: PathBuf,

    /// Address of the delta stream that shards connect to; port 0 takes a free one
    #[arg(
        long,
        env = "SHARDWAY_STREAM",
        value_name = "ADDR",
        default_value = "127.0.0.1:0"
    )]
    pub(crate) stream: SocketAddr,

    /// Address of the admin endpoint (/healthz, /readyz, /metrics, /dump, /api); port 0 takes a free one
    #[arg(
        long,
        env = "SHARDWAY_ADMIN",
        value_name = "ADDR",
        default_value = "127.0.0.1:0"
    )]
    pub(crate) admin: SocketAddr,

    /// Range that Gateways without spec.addresses take an address from
    #[arg(
        long,
        env = "SHARDWAY_ADDRESS_RANGE",
        value_name = "CIDR",
        default_value = "127.1.0.0/16"
    )]
    pub(crate) address_range: AddressRange,

    /// Shards in the pool, count
    #[arg(long, env = "SHARDWAY_SHARDS", value_name = "N", default_value_t = 2,
          value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) shards: u32,

    /// Shards that serve each Gateway, count; at most the pool
    #[arg(long, env = "SHARDWAY_SHARDS_PER_GATEWAY", value_name = "K", default_value_t = 2,
          value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(crate) shards_per_gateway: u16,

    /// Whether shards may bind ports below 1024
    #[arg(long, env = "SHARDWAY_PRIVILEGED_PORTS", value_enum, default_value_t = PrivilegedPorts::Auto)]
    pub(crate) privileged_ports: PrivilegedPorts,

    /// Serve the delta stream without TLS. Only for experiments on a loopback address
    #[arg(long, env = "SHARDWAY_INSECURE_STREAM", default_value_t = false)]
    pub(crate) insecure_stream: bool,

    /// How long a shard may take to prepare a revision before the rollout goes on without it, milliseconds
    #[arg(long, env = "SHARDWAY_PREPARE_DEADLINE_MS", value_name = "MS", default_value_t = 500,
          value_parser = clap::value_parser!(u64).range(10..=60_000))]
    pub(crate) prepare_deadline_ms: u64,

    /// Look of log lines on standard error: text or json
    #[arg(
        long,
        env = "SHARDWAY_LOG_FORMAT",
        value_name = "FORMAT",
        default_value = "text"
    )]
    pub(crate) log_format: LogFormat,

    /// End when the process that started this one ends (Linux)
    #[arg(long, env = "SHARDWAY_EXIT_WITH_PARENT", default_value_t = false)]
    pub(crate) exit_with_parent: bool,

    /// YAML file with any of these settings by their long names (`shards-per-gateway: 3`)
    #[arg(long, env = "SHARDWAY_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a failed unwrap is a failed test
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn every_flag_is_an_environment_variable_and_says_what_it_is() {
        let command = Config::command();
        command.clone().debug_assert();
        for argument in command.get_arguments() {
            let long = argument.get_long().unwrap();
            if ["help", "version"].contains(&long) {
                continue;
            }
            let variable = format!("SHARDWAY_{}", long.replace('-', "_").to_uppercase());
            assert_eq!(argument.get_env().unwrap(), variable.as_str());
            assert!(argument.get_help().is_some(), "{long} has no help");
        }
    }

    #[test]
    fn a_source_of_another_kind_names_those_there_are() {
        let error = "kubes".parse::<SourceSpec>().unwrap_err();
        assert_eq!(error, "unknown source \"kubes\"; use dir:FOLDER or kube");
        assert_eq!("kube".parse(), Ok(SourceSpec::Kube));
    }
}
