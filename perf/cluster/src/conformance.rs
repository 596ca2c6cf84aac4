//! The official conformance suite of the Gateway API against what is installed.

#![allow(clippy::print_stdout)] // a table of results is what this is for

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Instant;

use anyhow::{Context, bail};

use crate::Cluster;
use crate::install::Package;

/// Name of the report as the suite's repository wants it.
const REPORT: &str = "experimental-v0.1.0-default-report.yaml";
/// The suite gives up after it.
const WITHIN: &str = "90m";

/// Result of one test.
#[derive(Debug, Clone, PartialEq)]
struct Outcome {
    word: String,
    seconds: f64,
    /// Parts of it that failed.
    failed: Vec<String>,
}

/// Runs the suite, or one test of it, and prints a table; tells whether all passed. The report is written for the whole suite
/// alone; what the suite said is in the cluster's logs.
///
/// # Errors
/// When the suite cannot be started, or ends before it has run a test.
pub fn run(cluster: &Cluster, package: &Package, only: Option<&str>) -> anyhow::Result<bool> {
    let root = fs::canonicalize(&package.root).context("find the checkout")?;
    let folder = root.join("operator/conformance");
    let report = match only {
        None => folder.join("reports").join(REPORT),
        Some(_) => cluster.state().join("log").join(REPORT),
    };
    if let Some(folder) = report.parent() {
        fs::create_dir_all(folder).context("make the folder of the report")?;
    }
    let log = cluster.log("conformance");
    let mut command = cluster.command(cluster.bin().join("conformance.test"));
    command
        .args(["-test.v", "-test.run=^TestConformance$"])
        .arg(format!("-test.timeout={WITHIN}"))
        .arg(argument(
            "conformance-options-file",
            &folder.join("options.yaml"),
        ))
        .arg(argument("report-output", &report));
    if let Some(name) = only {
        command.arg(format!("--run-test={name}"));
    }
    println!("conformance: {command:?}");
    println!("conformance: what it says is in {}", log.display());
    let began = Instant::now();
    let mut child = command
        .current_dir(cluster.state())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(File::create(&log).context("make the log")?)
        .spawn()
        .context("start the suite")?;
    let mut file = File::options().append(true).open(&log)?;
    let mut outcomes = BTreeMap::new();
    let output = child.stdout.take().context("read what the suite says")?;
    for line in BufReader::new(output).split(b'\n') {
        let line = line.context("read what the suite says")?;
        let line = String::from_utf8_lossy(&line);
        writeln!(file, "{line}")?;
        if let Some(name) = note(&mut outcomes, &line)
            && let Some(outcome) = outcomes.get(name)
            && outcome.word != "SKIP"
        {
            println!("{:6} {:7.1} s  {name}", outcome.word, outcome.seconds);
        }
    }
    let status = child.wait().context("wait for the suite")?;
    if outcomes.is_empty() {
        bail!("the suite ran no test ({status}); see {}", log.display());
    }
    table(&outcomes, only.is_some());
    println!(
        "conformance: {status} after {:.0} s; report: {}",
        began.elapsed().as_secs_f64(),
        report.display()
    );
    if let Some(name) = only
        && outcomes
            .get(name)
            .is_none_or(|outcome| outcome.word != "PASS")
    {
        println!("conformance: {name} did not pass");
        return Ok(false);
    }
    Ok(status.success())
}

fn argument(name: &str, path: &std::path::Path) -> String {
    format!("--{name}={}", PathBuf::from(path).display())
}

/// Takes in a line such as `    --- PASS: TestConformance/Name (1.23s)`; gives the name when it is that of a whole test.
fn note<'a>(outcomes: &mut BTreeMap<String, Outcome>, line: &'a str) -> Option<&'a str> {
    let (word, rest) = line.trim_start().strip_prefix("--- ")?.split_once(": ")?;
    let (path, time) = rest.rsplit_once(" (")?;
    let seconds = time.strip_suffix("s)")?.parse().ok()?;
    let path = path.strip_prefix("TestConformance/")?;
    let (name, part) = path.split_once('/').unwrap_or((path, ""));
    let outcome = outcomes.entry(name.to_owned()).or_insert_with(|| Outcome {
        word: String::new(),
        seconds: 0.0,
        failed: Vec::new(),
    });
    if !part.is_empty() {
        if word == "FAIL" {
            outcome.failed.push(part.to_owned());
        }
        return None;
    }
    outcome.word = word.to_owned();
    outcome.seconds = seconds;
    Some(name)
}

/// All results by name, then counts. With one test alone, the others are not worth a line.
fn table(outcomes: &BTreeMap<String, Outcome>, one: bool) {
    println!("\n{:7}{:>8}  TEST", "RESULT", "SECONDS");
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for (name, outcome) in outcomes {
        let word = outcome.word.as_str();
        *counts.entry(word).or_default() += 1;
        if one && word == "SKIP" {
            continue;
        }
        println!("{word:7}{:8.1}  {name}", outcome.seconds);
        for part in &outcome.failed {
            println!("{:17}failed: {part}", "");
        }
    }
    let counts: Vec<String> = counts
        .iter()
        .map(|(word, count)| format!("{count} {word}"))
        .collect();
    println!(
        "\n{} (SKIP: of features that are not claimed)",
        counts.join(", ")
    );
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a failed unwrap is a failed test
mod tests {
    use super::*;

    #[test]
    fn results_of_tests_and_their_parts_are_read() {
        let mut outcomes = BTreeMap::new();
        for (line, whole) in [
            ("=== RUN   TestConformance/A", None),
            (
                "        --- FAIL: TestConformance/A/0_request (0.10s)",
                None,
            ),
            ("    --- FAIL: TestConformance/A (1.25s)", Some("A")),
            ("    --- SKIP: TestConformance/B (0.00s)", Some("B")),
            ("--- FAIL: TestConformance (9.00s)", None),
        ] {
            assert_eq!(note(&mut outcomes, line), whole, "{line}");
        }
        assert_eq!(outcomes["A"].failed, ["0_request"]);
        assert_eq!(
            (outcomes["A"].word.as_str(), outcomes["A"].seconds),
            ("FAIL", 1.25)
        );
        assert_eq!(outcomes["B"].word, "SKIP");
    }
}
