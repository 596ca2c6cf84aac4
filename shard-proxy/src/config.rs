//! Flags of the shard.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use api_telemetry::LogFormat;
use clap::Parser;
use shard_proxy_forward::ForwardConfig;
use shard_proxy_subscribe::ClientTls;

/// One shard of the pool: serves the Gateways that the operator places on it.
#[derive(Debug, Parser)]
#[command(name = "shard-proxy", version, about)]
pub(crate) struct Config {
    /// Operator's delta stream, host:port; given several times, they are tried in turn
    #[arg(
        long,
        env = "SHARDWAY_OPERATOR",
        value_name = "ADDR",
        required = true,
        value_delimiter = ','
    )]
    pub(crate) operator: Vec<String>,

    /// Number of this shard in the pool, from 0
    #[arg(long, env = "SHARDWAY_ID", value_name = "N")]
    pub(crate) id: u32,

    /// Folder for the last activated table; a folder shard-N in it is used
    #[arg(
        long,
        env = "SHARDWAY_DATA",
        value_name = "DIR",
        default_value = ".shardway"
    )]
    pub(crate) data: PathBuf,

    /// Address of the admin endpoint (/healthz, /readyz, /metrics, /dump); port 0 takes a free one
    #[arg(
        long,
        env = "SHARDWAY_ADMIN",
        value_name = "ADDR",
        default_value = "127.0.0.1:0"
    )]
    pub(crate) admin: SocketAddr,

    /// Address of this shard's own, on which target ports are bound [default: 127.0.2.(N+1)]
    #[arg(long, env = "SHARDWAY_TARGET_ADDRESS", value_name = "IP")]
    pub(crate) target_address: Option<IpAddr>,

    /// Threads that serve traffic, count [default: one for each core]
    #[arg(long, env = "SHARDWAY_WORKERS", value_name = "N")]
    pub(crate) workers: Option<usize>,

    /// Folder with ca.pem, shard-N.pem and shard-N.key for the delta stream [default: DATA/tls]
    #[arg(long, env = "SHARDWAY_TLS_DIR", value_name = "DIR")]
    pub(crate) tls_dir: Option<PathBuf>,

    /// Open the delta stream without TLS. Only for experiments on a loopback address
    #[arg(long, env = "SHARDWAY_INSECURE_STREAM", default_value_t = false)]
    pub(crate) insecure_stream: bool,

    /// How long to go on as before after a signal to stop, milliseconds: not ready any more, but accepting, until load
    /// balancers have seen it. Then sockets close and the drain timeout begins
    #[arg(
        long,
        env = "SHARDWAY_DRAIN_WAIT_MS",
        value_name = "MS",
        default_value_t = 0
    )]
    pub(crate) drain_wait_ms: u64,

    /// How long open connections may go on once sockets are closed, seconds
    #[arg(
        long,
        env = "SHARDWAY_DRAIN_TIMEOUT_S",
        value_name = "S",
        default_value_t = 10
    )]
    pub(crate) drain_timeout_s: u64,

    /// Whether each request is logged (target `access`)
    #[arg(long, env = "SHARDWAY_ACCESS_LOG", value_name = "BOOL", default_value_t = true,
          action = clap::ArgAction::Set)]
    pub(crate) access_log: bool,

    /// Open client connections, count; one more is closed at once
    #[arg(
        long,
        env = "SHARDWAY_CONNECTIONS_MAX",
        value_name = "N",
        default_value_t = 50_000
    )]
    pub(crate) connections_max: usize,

    /// Size of a request's head, bytes; a larger one gets 431
    #[arg(
        long,
        env = "SHARDWAY_HEAD_BYTES_MAX",
        value_name = "BYTES",
        default_value_t = 65_536
    )]
    pub(crate) head_bytes_max: usize,

    /// Time for a request's head, also that of an idle keep-alive connection, seconds
    #[arg(
        long,
        env = "SHARDWAY_HEAD_TIMEOUT_S",
        value_name = "S",
        default_value_t = 60
    )]
    pub(crate) head_timeout_s: u64,

    /// Time for a connect to an endpoint, milliseconds
    #[arg(
        long,
        env = "SHARDWAY_CONNECT_TIMEOUT_MS",
        value_name = "MS",
        default_value_t = 3000
    )]
    pub(crate) connect_timeout_ms: u64,

    /// Time without a byte from an endpoint, seconds
    #[arg(
        long,
        env = "SHARDWAY_UPSTREAM_IDLE_TIMEOUT_S",
        value_name = "S",
        default_value_t = 60
    )]
    pub(crate) upstream_idle_timeout_s: u64,

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

    /// YAML file with any of these settings by their long names (`workers: 4`)
    #[arg(long, env = "SHARDWAY_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

impl Config {
    /// This shard's own address.
    pub(crate) fn target_address(&self) -> IpAddr {
        self.target_address.unwrap_or_else(|| {
            let host = u32::from(Ipv4Addr::new(127, 0, 2, 1)) + self.id;
            IpAddr::V4(Ipv4Addr::from(host))
        })
    }

    /// Settings of the request path.
    pub(crate) fn forward(&self) -> ForwardConfig {
        let defaults = ForwardConfig::new(self.target_address());
        ForwardConfig {
            workers: self.workers.unwrap_or(defaults.workers),
            connections_max: self.connections_max,
            head_bytes_max: self.head_bytes_max,
            head_timeout: Duration::from_secs(self.head_timeout_s),
            connect_timeout: Duration::from_millis(self.connect_timeout_ms),
            upstream_idle_timeout: Duration::from_secs(self.upstream_idle_timeout_s),
            access_log: self.access_log,
            ..defaults
        }
    }

    /// Files for the delta stream's TLS.
    pub(crate) fn tls(&self) -> Option<ClientTls> {
        if self.insecure_stream {
            return None;
        }
        let folder = self
            .tls_dir
            .clone()
            .unwrap_or_else(|| self.data.join("tls"));
        Some(ClientTls {
            ca: folder.join("ca.pem"),
            certificate: folder.join(format!("shard-{}.pem", self.id)),
            key: folder.join(format!("shard-{}.key", self.id)),
            server_name: "operator.shardway.internal".into(),
        })
    }
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
}
