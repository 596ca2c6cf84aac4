//! `shardway`: asks a running operator, and translates manifests without one.

mod client;
mod cluster;
mod explain;
mod get;
mod notes;
mod objects;
mod status;
mod table;
mod translate;
mod wait;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};

use crate::client::{Client, Finder};
use crate::get::Output;

/// Looks into Shardway: what is served, why, and by which revision.
#[derive(Debug, Parser)]
#[command(name = "shardway", version)]
struct Flags {
    /// Data folder of the operator, by which it is found
    #[arg(
        long,
        env = "SHARDWAY_DATA",
        value_name = "DIR",
        default_value = ".shardway",
        global = true
    )]
    data: PathBuf,

    /// Admin address of the operator, instead of finding it by its data folder
    #[arg(
        long,
        env = "SHARDWAY_OPERATOR_ADMIN",
        value_name = "ADDR",
        global = true
    )]
    operator: Option<SocketAddr>,

    /// Ask the operator in the kubeconfig's cluster, also where a data folder is here
    #[arg(long, global = true)]
    cluster: bool,

    /// Context of the kubeconfig (KUBECONFIG, ~/.kube/config)
    #[arg(long, value_name = "NAME", global = true)]
    context: Option<String>,

    /// Namespace that the operator runs in, where several do
    #[arg(long, value_name = "NAMESPACE", global = true)]
    system_namespace: Option<String>,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// How the operator and its shards are
    Status,
    /// Objects with their status, as kubectl shows them
    Get {
        /// Kinds, separated by commas: gatewayclass, gateway, httproute, ...
        kinds: String,
        /// Name of one object
        name: Option<String>,
        /// Namespace; all when left out
        #[arg(short, long, value_name = "NAMESPACE")]
        namespace: Option<String>,
        /// Form of the output
        #[arg(short, long, value_enum)]
        output: Option<Output>,
    },
    /// Waits until an object has a condition in the form that it has in the folder or the cluster now
    Wait {
        /// Kind
        kind: String,
        /// Name
        name: String,
        /// Namespace; default when left out
        #[arg(short, long, value_name = "NAMESPACE")]
        namespace: Option<String>,
        /// Condition that must be True on the object, or at each parent of a route; when left out, Accepted of a gatewayclass,
        /// Programmed of a gateway, shardway.dev/Propagated of a route
        #[arg(long = "for", value_name = "CONDITION")]
        condition: Option<String>,
        /// How long to wait, seconds
        #[arg(long, value_name = "S", default_value_t = 30)]
        timeout: u64,
    },
    /// Manifests to snapshot and conditions, without an operator
    Translate {
        /// Folder of manifests
        #[arg(short, long, value_name = "FOLDER")]
        folder: PathBuf,
        /// Form of the output
        #[arg(short, long, value_enum, default_value_t = Output::Yaml)]
        output: Output,
    },
    /// Which listener, route, rule and backend a request takes, and why the near misses lost
    Explain {
        /// Method
        method: String,
        /// URL; host and port find the Gateway
        url: String,
        /// Header, NAME: VALUE; several times
        #[arg(short = 'H', long = "header", value_name = "HEADER")]
        headers: Vec<String>,
        /// Gateway, NAMESPACE/NAME, when the URL's host and port are not enough to tell
        #[arg(short, long, value_name = "GATEWAY")]
        gateway: Option<String>,
    },
    /// Revisions, newest last
    Revisions {
        /// How many
        #[arg(long, value_name = "N", default_value_t = 20)]
        last: usize,
    },
    /// Shards of the pool
    Shards,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let flags = Flags::parse();
    if let Command::Translate { folder, output } = &flags.command {
        return translate::run(folder, *output);
    }
    // One provider for the process, named: with two in the dependency graph rustls would refuse to choose.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let is_in_cluster =
        flags.cluster || flags.context.is_some() || flags.system_namespace.is_some();
    let finder = Finder {
        address: flags.operator,
        data: flags.data,
        is_in_cluster,
        context: flags.context,
        namespace: flags.system_namespace,
    };
    let client = Client::find(&finder).await?;
    let text = match flags.command {
        Command::Status => status::status(&client).await?,
        Command::Get {
            kinds,
            name,
            namespace,
            output,
        } => {
            get::get(
                &client,
                &kinds,
                name.as_deref(),
                namespace.as_deref(),
                output,
            )
            .await?
        }
        Command::Wait {
            kind,
            name,
            namespace,
            condition,
            timeout,
        } => {
            wait::wait(
                &client,
                &kind,
                namespace.as_deref(),
                &name,
                condition.as_deref(),
                Duration::from_secs(timeout),
            )
            .await?
        }
        Command::Explain {
            method,
            url,
            headers,
            gateway,
        } => explain::explain(&client, &method, &url, &headers, gateway.as_deref()).await?,
        Command::Revisions { last } => status::revisions(&client, last).await?,
        Command::Shards => status::shards(&client).await?,
        Command::Translate { .. } => String::new(), // answered above
    };
    print(&text);
    Ok(())
}

/// Writes to standard output; a reader that has gone (`| head`) is no error.
fn print(text: &str) {
    use std::io::Write;
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
}
