//! Flags, environment variables and the config file of the operator. A flag wins over its variable, that over the file.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::Context;
use api::PoolKey;
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

/// Where a replica is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PeerSpec {
    /// Its number.
    pub(crate) ordinal: u32,
    /// `host:port`.
    pub(crate) address: String,
}

impl FromStr for PeerSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once('=');
        let parsed = parts.and_then(|(ordinal, address)| {
            let ordinal = ordinal.trim().parse().ok()?;
            let (host, port) = address.rsplit_once(':')?;
            let is_address = !host.is_empty() && port.parse::<u16>().is_ok();
            is_address.then(|| Self {
                ordinal,
                address: address.to_owned(),
            })
        });
        parsed.ok_or_else(|| format!("{text:?} is not NUMBER=HOST:PORT"))
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

    /// Controller name of this installation: GatewayClasses that name it are served. Another one lets several installations
    /// serve side by side [default: shardway.dev/gateway-controller]
    #[arg(long, env = "SHARDWAY_CONTROLLER_NAME", value_name = "NAME")]
    pub(crate) controller_name: Option<String>,

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

    /// Address that the other replicas of the operator reach this one at; without it, this replica is the only one. Port 0
    /// is of no use: the others are told the port
    #[arg(long, env = "SHARDWAY_PEER", value_name = "ADDR")]
    pub(crate) peer: Option<SocketAddr>,

    /// Replicas of the operator, count: 1, 3 or 5. A majority of them must run for changes to go on
    #[arg(long, env = "SHARDWAY_REPLICAS", value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..=9))]
    pub(crate) replicas: u32,

    /// Number of this replica, from 0 [default: what --pod-name ends in, or 0]
    #[arg(long, env = "SHARDWAY_ORDINAL", value_name = "N")]
    pub(crate) ordinal: Option<u32>,

    /// Addresses of all replicas, NUMBER=HOST:PORT, comma-separated [default: by --peers-service]
    #[arg(
        long,
        env = "SHARDWAY_PEERS",
        value_name = "LIST",
        value_delimiter = ','
    )]
    pub(crate) peers: Vec<PeerSpec>,

    /// Headless Service of the replicas: number N is POD-N.SERVICE.NAMESPACE.svc
    #[arg(long, env = "SHARDWAY_PEERS_SERVICE", value_name = "NAME")]
    pub(crate) peers_service: Option<String>,

    /// Name of this pod
    #[arg(long, env = "SHARDWAY_POD_NAME", value_name = "NAME")]
    pub(crate) pod_name: Option<String>,

    /// Namespace of this pod: of the ShardPool, of shards, of the pool's certificates
    #[arg(long, env = "SHARDWAY_POD_NAMESPACE", value_name = "NAME")]
    pub(crate) pod_namespace: Option<String>,

    /// With source kube: the ShardPool that is served, in the pod's namespace. Shards are made from it, and each Gateway gets
    /// a Service; without it, Gateways are served on this machine as with a folder
    #[arg(long, env = "SHARDWAY_POOL", value_name = "NAME")]
    pub(crate) pool: Option<String>,

    /// Image of the shards
    #[arg(
        long,
        env = "SHARDWAY_SHARD_IMAGE",
        value_name = "IMAGE",
        default_value = "shardway/shard-proxy:dev"
    )]
    pub(crate) shard_image: String,

    /// Service account of the shards
    #[arg(
        long,
        env = "SHARDWAY_SHARD_SERVICE_ACCOUNT",
        value_name = "NAME",
        default_value = "shardway-shard"
    )]
    pub(crate) shard_service_account: String,

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

    /// Folder for certificates; replicas on one machine share it [default: DATA/tls]
    #[arg(long, env = "SHARDWAY_TLS_DIR", value_name = "DIR")]
    pub(crate) tls_dir: Option<PathBuf>,

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

impl Config {
    /// Folder for certificates.
    pub(crate) fn tls_dir(&self) -> PathBuf {
        let own = || self.data.join("tls");
        self.tls_dir.clone().unwrap_or_else(own)
    }

    /// The ShardPool that is served, in a cluster.
    pub(crate) fn pool_key(&self) -> anyhow::Result<Option<PoolKey>> {
        let (SourceSpec::Kube, Some(pool)) = (&self.source, &self.pool) else {
            return Ok(None);
        };
        Ok(Some(PoolKey::new(self.namespace()?, pool)))
    }

    /// Where shards reach the replicas.
    pub(crate) fn stream_of_replicas(&self) -> anyhow::Result<String> {
        let service = self.peers_service.as_deref();
        let service = service.context("--peers-service is needed with --pool")?;
        let port = self.stream.port();
        Ok(format!("{service}.{}.svc:{port}", self.namespace()?))
    }

    /// Namespace of this pod.
    pub(crate) fn namespace(&self) -> anyhow::Result<&str> {
        let namespace = self.pod_namespace.as_deref();
        namespace.context("--pod-namespace is needed with --pool")
    }

    /// The number of this replica.
    pub(crate) fn ordinal(&self) -> u32 {
        let of_pod = || {
            let name = self.pod_name.as_deref()?;
            name.rsplit_once('-')?.1.parse().ok()
        };
        self.ordinal.or_else(of_pod).unwrap_or(0)
    }

    /// The StatefulSet of this pod.
    pub(crate) fn stateful_set(&self) -> Option<&str> {
        Some(self.pod_name.as_deref()?.rsplit_once('-')?.0)
    }

    /// Where a replica is reached, if that is told.
    pub(crate) fn peer_address(&self, ordinal: u32) -> Option<String> {
        if let Some(peer) = self.peers.iter().find(|peer| peer.ordinal == ordinal) {
            return Some(peer.address.clone());
        }
        let service = self.peers_service.as_deref()?;
        let set = self.stateful_set()?;
        let namespace = self.pod_namespace.as_deref()?;
        let port = self.peer?.port();
        Some(format!("{set}-{ordinal}.{service}.{namespace}.svc:{port}"))
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

    #[test]
    fn a_source_of_another_kind_names_those_there_are() {
        let error = "kubes".parse::<SourceSpec>().unwrap_err();
        assert_eq!(error, "unknown source \"kubes\"; use dir:FOLDER or kube");
        assert_eq!("kube".parse(), Ok(SourceSpec::Kube));
    }

    #[test]
    fn replicas_are_found_by_a_list_or_by_their_service() {
        let parse = |flags: &[&str]| {
            let all = ["operator", "--source", "kube"].iter().chain(flags);
            Config::try_parse_from(all).unwrap()
        };
        let listed = parse(&["--peers", "0=127.0.0.1:7101,1=[::1]:7102"]);
        assert_eq!(listed.peer_address(1).as_deref(), Some("[::1]:7102"));
        assert_eq!((listed.peer_address(2), listed.ordinal()), (None, 0));
        let pod = parse(&[
            "--pod-name",
            "shardway-operator-2",
            "--pod-namespace",
            "system",
            "--peers-service",
            "peers",
            "--peer",
            "[::]:7001",
        ]);
        assert_eq!(pod.ordinal(), 2);
        assert_eq!(
            pod.peer_address(0).as_deref(),
            Some("shardway-operator-0.peers.system.svc:7001")
        );
        assert!("1=nowhere".parse::<PeerSpec>().is_err());
    }
}
