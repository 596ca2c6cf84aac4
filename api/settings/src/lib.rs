//! How our programs read their settings: a flag wins over its environment variable, that over the config file, that
//! over the default.
//!
//! **Invariants**
//! - Each flag is an environment variable and a key of the config file, by the same name.
//! - An unknown key is an error that names it; nothing is ignored in silence.
//!
//! It deliberately does not know what the settings mean.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Parser;
use serde_json::Value;

/// The settings cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SettingsError {
    /// The config file.
    #[error("read config file {}", file.display())]
    Read {
        /// Which.
        file: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// It is no YAML mapping.
    #[error("parse config file {}: {message}", file.display())]
    Parse {
        /// Which.
        file: PathBuf,
        /// Line and reason.
        message: String,
    },
    /// A key that no flag has.
    #[error("config file {}: unknown setting {name:?}; --help has the names", file.display())]
    Unknown {
        /// Which file.
        file: PathBuf,
        /// Which key.
        name: String,
    },
}

/// Reads the command line of this process; `--config FILE` (or its variable) names a YAML file of further settings.
/// Ends the process, as clap does, on `--help` and on arguments that cannot be read.
///
/// # Errors
/// [`SettingsError`] about the config file.
pub fn parse<C: Parser>() -> Result<C, SettingsError> {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let variable = C::command()
        .get_arguments()
        .find(|argument| argument.get_long() == Some("config"))
        .and_then(|argument| argument.get_env())
        .and_then(std::env::var_os);
    let Some(file) = file_named(&arguments).or(variable.map(PathBuf::from)) else {
        return Ok(C::parse_from(arguments));
    };
    Ok(C::parse_from(merge::<C>(arguments, file)?))
}

fn merge<C: Parser>(
    arguments: Vec<OsString>,
    file: PathBuf,
) -> Result<Vec<OsString>, SettingsError> {
    let text = std::fs::read_to_string(&file).map_err(|source| SettingsError::Read {
        file: file.clone(),
        source,
    })?;
    let settings: std::collections::BTreeMap<String, Value> = serde_saphyr::from_str(&text)
        .map_err(|error| SettingsError::Parse {
            file: file.clone(),
            message: error.to_string(),
        })?;
    let command = C::command();
    let mut merged = arguments.clone();
    for (name, value) in settings {
        let Some(known) = command
            .get_arguments()
            .find(|argument| argument.get_long() == Some(&name))
        else {
            return Err(SettingsError::Unknown { file, name });
        };
        let flag = format!("--{name}");
        let prefix = format!("{flag}=");
        let on_line = arguments
            .iter()
            .filter_map(|argument| argument.to_str())
            .any(|argument| argument == flag || argument.starts_with(&prefix));
        let in_environment = known
            .get_env()
            .is_some_and(|name| std::env::var_os(name).is_some());
        if on_line || in_environment {
            continue;
        }
        let values = match value {
            Value::Array(values) => values,
            one => vec![one],
        };
        for value in values {
            match value {
                Value::Bool(true) if !known.get_action().takes_values() => {
                    merged.push(flag.clone().into());
                }
                Value::Bool(false) if !known.get_action().takes_values() => {}
                Value::Null => {}
                Value::String(text) => merged.push(format!("{prefix}{text}").into()),
                other => merged.push(format!("{prefix}{other}").into()),
            }
        }
    }
    Ok(merged)
}

fn file_named(arguments: &[OsString]) -> Option<PathBuf> {
    let mut arguments = arguments.iter().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.to_str() {
            Some("--config") => return arguments.next().map(PathBuf::from),
            Some(text) => {
                if let Some(file) = text.strip_prefix("--config=") {
                    return Some(file.into());
                }
            }
            None => {}
        }
    }
    None
}

/// Ends this process when the one that started it ends, however that happens (Linux).
///
/// # Errors
/// When the kernel refuses.
pub fn exit_with_parent() -> std::io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a failed unwrap is a failed test
    use super::*;

    #[derive(Debug, Parser)]
    struct Flags {
        #[arg(long)]
        shards: Option<u32>,
        #[arg(long)]
        operator: Vec<String>,
        #[arg(long)]
        insecure: bool,
        #[arg(long)]
        config: Option<PathBuf>,
    }

    fn parse_with(file: &str, line: &[&str]) -> Result<Flags, String> {
        let path = std::env::temp_dir().join(format!(
            "settings-{}-{}.yaml",
            std::process::id(),
            line.len()
        ));
        std::fs::write(&path, file).unwrap();
        let mut arguments: Vec<OsString> =
            vec!["program".into(), "--config".into(), path.clone().into()];
        arguments.extend(line.iter().map(Into::into));
        let merged = merge::<Flags>(arguments, path).map_err(|error| error.to_string())?;
        Flags::try_parse_from(merged).map_err(|error| error.to_string())
    }

    #[test]
    fn the_line_wins_over_the_file_and_an_unknown_key_is_named() {
        let flags = parse_with(
            "shards: 3\noperator: [a, b]\ninsecure: true\n",
            &["--shards", "5"],
        )
        .unwrap();
        assert_eq!(flags.shards, Some(5));
        assert_eq!(flags.operator, ["a", "b"]);
        assert!(flags.insecure && flags.config.is_some());
        let error = parse_with("shard: 3\n", &[]).unwrap_err();
        assert!(error.contains("unknown setting \"shard\""), "{error}");
    }
}
