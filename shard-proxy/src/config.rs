//! Flags of the shard.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use api_telemetry::LogFormat;
use clap::Parser;
use shard_proxy_forward::ForwardConfig;
use shard_proxy_subscribe::{Certificates, ClientTls, FileTls, TokenTls};

/// One shard of the pool: serves the Gateways that the operator places on it.
#[derive(Debug, Parser)]
#[command(name = "shard-proxy", version, about)]
pub(crate) struct Config {
    /// Operators' delta streams, host:port, comma-separated; names are resolved for each round, and all their addresses
    /// tried in turn, beginning at one that depends on the shard's number
    #[arg(
        long,
        env = "SHARDWAY_OPERATOR",
        value_name = "ADDR",
        required = true,
        value_delimiter = ','
    )]
    pub(crate) operator: Vec<String>,

    /// Number of this shard in the pool, from 0; or the name of a pod that ends in -N
    #[arg(long, env = "SHARDWAY_ID", value_name = "N", value_parser = shard_number)]
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

    /// Address of this shard's own, on which target ports are bound; :: for all, IPv4 too [default: 127.0.2.(N+1)]
    #[arg(long, env = "SHARDWAY_TARGET_ADDRESS", value_name = "IP")]
    pub(crate) target_address: Option<IpAddr>,

    /// Threads that serve traffic, count [default: one for each core]
    #[arg(long, env = "SHARDWAY_WORKERS", value_name = "N")]
    pub(crate) workers: Option<usize>,

    /// Folder with ca.pem, shard-N.pem and shard-N.key for the delta stream [default: DATA/tls]
    #[arg(long, env = "SHARDWAY_TLS_DIR", value_name = "DIR")]
    pub(crate) tls_dir: Option<PathBuf>,

    /// Token of the pod's service account, for the audience shardway.dev. With it the shard gets its certificate from the
    /// operator and renews it; tls-dir is not used
    #[arg(
        long,
        env = "SHARDWAY_TOKEN_FILE",
        value_name = "FILE",
        requires = "trust"
    )]
    pub(crate) token_file: Option<PathBuf>,

    /// Certificates of the CAs that the operator's certificate may be signed by (PEM); with token-file
    #[arg(long, env = "SHARDWAY_TRUST", value_name = "FILE")]
    pub(crate) trust: Option<PathBuf>,

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

    /// Zone that this shard runs in: endpoints of it come first where a Service asks for that; empty for none
    #[arg(long, env = "SHARDWAY_ZONE", value_name = "NAME")]
    pub(crate) zone: Option<String>,

    /// Node that this shard runs on, as the zone
    #[arg(long, env = "SHARDWAY_NODE", value_name = "NAME")]
    pub(crate) node: Option<String>,

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
            zone: self.zone.clone(),
            node: self.node.clone(),
            ..defaults
        }
    }

    /// Folder for what this shard keeps.
    pub(crate) fn folder(&self) -> PathBuf {
        self.data.join(format!("shard-{}", self.id))
    }

    /// What protects the delta stream.
    pub(crate) fn tls(&self) -> Option<ClientTls> {
        if self.insecure_stream {
            return None;
        }
        if let (Some(token), Some(trust)) = (&self.token_file, &self.trust) {
            let certificates = Certificates::open(TokenTls {
                token: token.clone(),
                trust: trust.clone(),
                folder: self.folder(),
            });
            return Some(ClientTls::Token(Arc::new(certificates)));
        }
        let folder = self
            .tls_dir
            .clone()
            .unwrap_or_else(|| self.data.join("tls"));
        Some(ClientTls::Files(FileTls {
            ca: folder.join("ca.pem"),
            certificate: folder.join(format!("shard-{}.pem", self.id)),
            key: folder.join(format!("shard-{}.key", self.id)),
        }))
    }
}

/// Reads a number, or what stands behind the last dash of a pod's name.
fn shard_number(text: &str) -> Result<u32, String> {
    let digits = match text.rsplit_once('-') {
        Some((name, digits)) if !name.is_empty() => digits,
        _ => text,
    };
    let wrong = || format!("{text:?} is neither a number nor a name that ends in -N");
    // `parse` takes a sign as well.
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    digits.parse().map_err(|_| wrong())
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
    fn a_shard_is_a_number_or_a_pod() {
        let number = |id: &str| {
            let flags = ["shard-proxy", "--operator", "o.ns.svc:7000", "--id", id];
            Config::try_parse_from(flags).map(|config| config.id)
        };
        for (text, expected) in [
            ("0", 0),
            ("17", 17),
            ("default-shard-3", 3),
            ("a-2-shard-10", 10),
        ] {
            assert_eq!(number(text).unwrap(), expected, "{text}");
        }
        for text in [
            "",
            "shard",
            "shard-",
            "shard-x",
            "+1",
            "shard-1x",
            "99999999999",
        ] {
            assert!(number(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_pods_addresses_are_understood() {
        let flags = [
            "shard-proxy",
            "--operator=o.ns.svc:7000",
            "--id=default-shard-1",
            "--target-address=::",
            "--admin=[::]:7002",
        ];
        let config = Config::try_parse_from(flags).unwrap();
        assert!(config.target_address().is_unspecified() && config.target_address().is_ipv6());
        assert_eq!(config.admin, "[::]:7002".parse().unwrap());
    }
}
