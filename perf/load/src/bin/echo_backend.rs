//! Backends that say what they got, one for each `NAME=ADDRESS`.

use anyhow::Context;
use clap::Parser;
use tokio::net::TcpListener;

/// Backends that answer with what they got; see the library for the paths.
#[derive(Debug, Parser)]
#[command(name = "echo-backend", version)]
struct Flags {
    /// Backends, NAME=IP:PORT
    #[arg(required = true, value_name = "NAME=ADDRESS")]
    backends: Vec<String>,

    /// End when the process that started this one ends (Linux)
    #[arg(long, default_value_t = false)]
    exit_with_parent: bool,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let flags = Flags::parse();
    if flags.exit_with_parent {
        api_settings::exit_with_parent().context("tie this process to its parent")?;
    }
    let mut serving = Vec::new();
    for backend in &flags.backends {
        let (name, address) = backend
            .split_once('=')
            .with_context(|| format!("{backend:?} is not NAME=ADDRESS"))?;
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("bind {address}"))?;
        serving.push(tokio::spawn(perf_load::echo::serve(
            listener,
            name.to_owned(),
        )));
    }
    for backend in serving {
        backend.await??;
    }
    Ok(())
}
