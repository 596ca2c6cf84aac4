//! `cargo xtask cluster`: a real Kubernetes of one node on this machine.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Parser, Subcommand};
use perf_cluster::install::{self, Package};
use perf_cluster::process::Ending;
use perf_cluster::{Cluster, conformance, containerd, down, images, process, status, up};

/// Runs a real Kubernetes of one node on this machine, in namespaces of its own.
#[derive(Debug, Parser)]
#[command(name = "shardway-cluster", version)]
struct Flags {
    /// Name of the cluster; several may be up
    #[arg(long, default_value = "shardway", global = true)]
    name: String,

    /// Folder for tools and state [default: cluster below the folder that cargo builds to]
    #[arg(long, value_name = "DIR", global = true)]
    home: Option<PathBuf>,

    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Start it; a cluster that is up stays as it is
    Up,
    /// End it and leave nothing
    Down,
    /// Print processes, nodes and pods; ends with 1 when not all runs
    Status,
    /// Make an image of programs and import it; the first program is what it runs
    LoadImage {
        /// Name of the image with its tag
        #[arg(value_name = "NAME:TAG")]
        image: String,
        /// Programs that cargo built
        #[arg(required = true, value_name = "BINARY")]
        programs: Vec<PathBuf>,
    },
    /// Write such an image to a file, for docker load and kind; needs no root
    SaveImage {
        /// File to write
        file: PathBuf,
        /// Name of the image with its tag
        #[arg(value_name = "NAME:TAG")]
        image: String,
        /// Programs that cargo built
        #[arg(required = true, value_name = "BINARY")]
        programs: Vec<PathBuf>,
    },
    /// Print the names of the images
    Images,
    /// Make images of operator and shard-proxy and import them, shardway/NAME:dev
    LoadOwn {
        /// Folder with operator and shard-proxy [default: the one with this program]
        #[arg(long, value_name = "DIR")]
        programs: Option<PathBuf>,
    },
    /// Install Shardway: CRDs, images, the chart; what is there is upgraded
    Install {
        #[command(flatten)]
        package: PackageFlags,
    },
    /// Take Shardway away; CRDs stay
    Uninstall,
    /// Install Shardway and run the Gateway API's conformance suite; ends with 1 when a test fails
    Conformance {
        #[command(flatten)]
        package: PackageFlags,
        /// One test alone, by its name
        #[arg(long = "run", value_name = "TEST")]
        only: Option<String>,
        /// Take what is installed as it is
        #[arg(long)]
        installed: bool,
    },
    /// Run a command in the cluster's network, with kubectl and helm in the path
    Exec {
        /// Command and its arguments
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<OsString>,
    },
    /// End one process of the cluster, by its name in `status`
    Stop {
        /// Name of the process
        process: String,
        /// Kill it at once
        #[arg(long)]
        kill: bool,
    },
    /// Kill the program of a pod's container; kubelet starts the container again
    KillContainer {
        /// Namespace of the pod
        namespace: String,
        /// Name of the pod
        pod: String,
        /// Name of the container
        container: String,
    },
    /// Start a process that was stopped
    Start {
        /// Name of the process
        process: String,
    },
}

/// Where what is installed comes from.
#[derive(Debug, clap::Args)]
struct PackageFlags {
    /// The checkout
    #[arg(long, value_name = "DIR", default_value = ".")]
    root: PathBuf,
    /// Folder with operator and shard-proxy [default: the one with this program]
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
    /// A value of the chart, KEY=VALUE; may be given several times
    #[arg(long = "set", value_name = "KEY=VALUE")]
    values: Vec<String>,
}

impl PackageFlags {
    fn package(&self, own: &Path) -> Package {
        Package {
            root: self.root.clone(),
            programs: self.programs.clone().unwrap_or_else(|| own.to_owned()),
            values: self.values.clone(),
        }
    }
}

fn main() -> ExitCode {
    match run(&Flags::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("cluster: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(flags: &Flags) -> anyhow::Result<ExitCode> {
    if let Task::SaveImage {
        file,
        image,
        programs,
    } = &flags.task
    {
        images::save(file, image, programs)?;
        return Ok(ExitCode::SUCCESS);
    }
    if !rustix::process::geteuid().is_root() {
        bail!("needs root: it makes namespaces, mounts and cgroups");
    }
    let program = std::env::current_exe().context("find this program")?;
    let programs = program.parent().context("find this program's folder")?;
    let home = match &flags.home {
        Some(home) => home.clone(),
        // Programs are in a folder that is named as the profile.
        None => programs
            .parent()
            .context("find the folder that cargo builds to")?
            .join("cluster"),
    };
    let cluster = Cluster::new(&flags.name, &home)?;
    match &flags.task {
        Task::Up => {
            up::up(&cluster, programs)?;
            status::status(&cluster)?;
        }
        Task::Down => down::down(&cluster)?,
        Task::Status => {
            if !status::status(&cluster)? {
                return Ok(ExitCode::from(1));
            }
        }
        Task::LoadImage { image, programs } => images::load(&cluster, image, programs)?,
        Task::SaveImage { .. } => {}
        Task::Images => print_lines(&images::list(&cluster)?),
        Task::LoadOwn { programs: from } => {
            let from = from.as_deref().unwrap_or(programs);
            install::load_images(&cluster, from, install::TAG)?;
        }
        Task::Install { package } => {
            up::up(&cluster, programs)?;
            install::install(&cluster, &package.package(programs))?;
        }
        Task::Uninstall => install::uninstall(&cluster)?,
        Task::Conformance {
            package,
            only,
            installed,
        } => {
            up::up(&cluster, programs)?;
            let package = package.package(programs);
            if !installed {
                install::install(&cluster, &package)?;
            }
            if !conformance::run(&cluster, &package, only.as_deref())? {
                return Ok(ExitCode::from(1));
            }
        }
        Task::Exec { command } => {
            let mut line = cluster.command(&command[0]);
            line.args(&command[1..]);
            return Err(line.exec()).context("enter the cluster's network");
        }
        Task::Stop { process, kill } => {
            let ending = if *kill { Ending::Killed } else { Ending::Asked };
            process::stop(&cluster, process, ending)?;
        }
        Task::KillContainer {
            namespace,
            pod,
            container,
        } => containerd::kill(&cluster, namespace, pod, container)?,
        Task::Start { process } => process::start_again(&cluster, process)?,
    }
    Ok(ExitCode::SUCCESS)
}

#[allow(clippy::print_stdout)] // what was asked for
fn print_lines(lines: &[String]) {
    for line in lines {
        println!("{line}");
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a failed unwrap is a failed test
mod tests {
    use super::*;

    #[test]
    fn the_image_and_the_cluster_have_names_of_their_own() {
        let flags = Flags::try_parse_from(["x", "load-image", "a/b:1", "--name", "c", "/bin/ls"]);
        let flags = flags.unwrap();
        assert_eq!(flags.name, "c");
        assert!(matches!(flags.task, Task::LoadImage { image, .. } if image == "a/b:1"));
    }

    #[test]
    fn flags_of_a_command_are_its_own() {
        let flags =
            Flags::try_parse_from(["x", "exec", "kubectl", "get", "-n", "a", "--name", "b"]);
        let flags = flags.unwrap();
        assert_eq!(flags.name, "shardway");
        assert!(matches!(flags.task, Task::Exec { command } if command.len() == 6));
    }
}
