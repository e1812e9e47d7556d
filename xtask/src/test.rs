//! `cargo xtask test`: everything that CI runs.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::cargo::Workspace;
use crate::{packages, wasm};

pub fn run(workspace: &Workspace, arguments: &[String]) -> Result<()> {
    let started = Instant::now();
    // Tests of single crates go without, or say what they lack.
    if !selects_packages(arguments) {
        packages::servers()?;
    }
    wasm::build_all(workspace)?;
    // Tests drive these programs too; built with the same packages selected, they share everything with the tests.
    workspace.cargo(&["build", "--workspace", "--bins"])?;

    let mut command = workspace.cargo_command();
    command.args(["test", "--no-fail-fast"]);
    if !selects_packages(arguments) {
        command.arg("--workspace");
    }
    command
        .args(arguments)
        .env("WEIR_PLUGINS_DIR", workspace.output("plugins"))
        .env("WEIR_GUESTS_DIR", workspace.output("guests"))
        .env("WEIR_CACHE_DIR", workspace.output("test-cache"))
        .stdout(Stdio::piped());
    let mut tests = command.spawn().context("cannot start cargo")?;
    let mut totals = Totals::default();
    if let Some(output) = tests.stdout.take() {
        for line in BufReader::new(output).lines() {
            let line = line?;
            totals.add(&line);
            println!("{line}");
        }
    }
    let status = tests.wait()?;
    let Totals { passed, failed, ignored } = totals;
    let seconds = started.elapsed().as_secs();
    println!("xtask test: {passed} passed, {failed} failed, {ignored} ignored, {seconds} s with building");
    if !status.success() {
        bail!("the tests failed ({status})");
    }
    if passed == 0 {
        bail!("no test ran: does a filter match?");
    }
    Ok(())
}

fn selects_packages(arguments: &[String]) -> bool {
    let for_cargo = arguments.iter().take_while(|argument| *argument != "--");
    let mut names = for_cargo.map(|argument| argument.split_once('=').map_or(argument.as_str(), |(name, _)| name));
    names.any(|name| matches!(name, "-p" | "--package" | "--manifest-path"))
}

/// Sums of the lines that every test binary ends with.
#[derive(Debug, Default, PartialEq, Eq)]
struct Totals {
    passed: u64,
    failed: u64,
    ignored: u64,
}

impl Totals {
    /// Adds a line such as `test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; …`; others count nothing.
    fn add(&mut self, line: &str) {
        let Some(counts) = line.strip_prefix("test result: ") else {
            return;
        };
        let counts = counts.split_once(". ").map_or("", |(_, counts)| counts);
        for (number, what) in counts.split("; ").filter_map(|count| count.split_once(' ')) {
            let number: u64 = number.parse().unwrap_or(0);
            match what {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.ignored += number,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_are_sums_over_the_binaries() {
        let mut totals = Totals::default();
        for line in [
            "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.10s",
            "test some_test ... ok",
            "test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.10s",
        ] {
            totals.add(line);
        }
        assert_eq!(totals, Totals { passed: 14, failed: 1, ignored: 1 });
    }

    #[test]
    fn arguments_of_the_test_binaries_select_no_packages() {
        let selects = |arguments: &[&str]| {
            let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
            selects_packages(&arguments)
        };
        assert!(selects(&["-p", "weir-sdk"]));
        assert!(selects(&["--package=weir-sdk"]));
        assert!(!selects(&["some_test", "--", "-p"]));
    }
}
