//! What scenarios cost when somebody last looked, and what is dearer now.

use std::fmt::Write as _;
use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::valgrind::Counts;
use crate::cargo::Workspace;

const FILE: &str = "tests/benches/instructions.txt";
const HEAD: &str =
    "# Instructions of one run of each scenario. `cargo xtask count` fails where they become more than a little
# more, and `cargo xtask count --save` writes them here.
";
/// What begins the line of the compiler.
const BY: &str = "# Counted with ";

/// Percent that may change unnoticed: what was not touched is laid out and inlined in another way now and then.
const PERCENT: u64 = 3;
/// More of it for whole requests, where other threads decide how much comes at a time.
const OF_REQUESTS: u64 = 3;
/// And with another compiler.
const OTHER_COMPILER: u64 = 10;
/// And so many instructions in any case, for scenarios that have few.
const INSTRUCTIONS: u64 = 20;

#[derive(Debug, Default)]
pub struct Baseline {
    /// As `rustc --version` says it.
    compiler: String,
    /// The one that is here now.
    here: String,
    counts: Counts,
}

/// What became of the scenarios.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Judged {
    pub table: String,
    pub failures: Vec<String>,
}

impl Baseline {
    pub fn read(workspace: &Workspace) -> Result<Self> {
        let rustc = Command::new("rustc").arg("--version").output().context("cannot start rustc")?;
        ensure!(rustc.status.success(), "rustc --version failed");
        let here = String::from_utf8_lossy(&rustc.stdout).trim().to_owned();
        // Without the file all is new, and `--save` writes it.
        let text = fs::read_to_string(workspace.root.join(FILE)).unwrap_or_default();
        Ok(Self::parse(&text, here))
    }

    fn parse(text: &str, here: String) -> Self {
        let compiler = text.lines().find_map(|line| line.strip_prefix(BY)).unwrap_or_default().to_owned();
        let counts = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
            let (name, count) = line.split_once(' ')?;
            Some((name.to_owned(), count.trim().parse().ok()?))
        });
        Self { compiler, here, counts: counts.collect() }
    }

    /// Takes over what was counted: in place of all that was there, or only of the same scenarios.
    pub fn save(&mut self, workspace: &Workspace, counted: Counts, all: bool) -> Result<()> {
        if all {
            self.counts = counted;
        } else {
            for (name, count) in counted {
                match self.counts.iter_mut().find(|(known, _)| *known == name) {
                    Some((_, known)) => *known = count,
                    None => self.counts.push((name, count)),
                }
            }
        }
        let mut text = format!("{HEAD}{BY}{}\n", self.here);
        for (name, count) in &self.counts {
            writeln!(text, "{name:<32}{count:>8}")?;
        }
        fs::write(workspace.root.join(FILE), text).with_context(|| format!("cannot write {FILE}"))?;
        println!("wrote {FILE}");
        Ok(())
    }

    /// Compares. Where `all` scenarios were counted, none of the baseline may be missing.
    pub fn judge(&self, counted: &Counts, all: bool) -> Judged {
        let mut judged = Judged::default();
        let mut tell = |line: String| judged.table.push_str(&(line + "\n"));
        tell(format!("{:<32}{:>8}{:>10}", "scenario", "now", "baseline"));
        for (name, now) in counted {
            let Some((_, before)) = self.counts.iter().find(|(known, _)| known == name) else {
                tell(format!("{name:<32}{now:>8}{:>10}", "none"));
                judged.failures.push(format!("{name} has no baseline"));
                continue;
            };
            let mut percent = PERCENT;
            if name.starts_with("request/") {
                percent += OF_REQUESTS;
            }
            if self.compiler != self.here {
                percent += OTHER_COMPILER;
            }
            let allowed = (before * percent / 100).max(INSTRUCTIONS);
            let change = (*now as f64 / (*before).max(1) as f64 - 1.0) * 100.0;
            let mut verdict = "";
            if *now > before + allowed {
                verdict = "  dearer";
                judged.failures.push(format!("{name} takes {now} instructions, {change:.1} % more than {before}"));
            } else if now + allowed < *before {
                verdict = "  cheaper: keep it so with --save";
            }
            tell(format!("{name:<32}{now:>8}{before:>10}{change:>+7.1} %{verdict}"));
        }
        for (name, _) in self.counts.iter().filter(|_| all) {
            if !counted.iter().any(|(known, _)| known == name) {
                judged.failures.push(format!("{name} has a baseline, and is no scenario"));
            }
        }
        if self.compiler != self.here {
            tell(format!(
                "the baseline is of another compiler, {}: up to {OTHER_COMPILER} % more than otherwise pass",
                self.compiler
            ));
        }
        judged
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn baseline(here: &str) -> Baseline {
        let text = format!("{HEAD}{BY}rustc 1.95.0\nhook/native    46\nchain/five    1000\n");
        Baseline::parse(&text, here.to_owned())
    }

    fn failures(here: &str, native: u64, five: u64) -> Vec<String> {
        let counted = vec![("hook/native".to_owned(), native), ("chain/five".to_owned(), five)];
        baseline(here).judge(&counted, true).failures
    }

    #[test]
    fn more_instructions_than_the_baseline_fail() {
        assert_eq!(failures("rustc 1.95.0", 66, 1030), [""; 0]);
        assert_eq!(
            failures("rustc 1.95.0", 67, 1031),
            [
                "hook/native takes 67 instructions, 45.7 % more than 46",
                "chain/five takes 1031 instructions, 3.1 % more than 1000"
            ]
        );
        assert_eq!(failures("rustc 1.96.0", 46, 1130), [""; 0]);
        assert_eq!(failures("rustc 1.96.0", 46, 1131).len(), 1);
    }

    #[test]
    fn fewer_instructions_are_told() {
        let counted = vec![("hook/native".to_owned(), 46), ("chain/five".to_owned(), 900)];
        let judged = baseline("rustc 1.95.0").judge(&counted, true);
        assert!(judged.failures.is_empty());
        assert!(judged.table.contains("chain/five                           900      1000  -10.0 %  cheaper"));
    }

    #[test]
    fn scenarios_and_baseline_are_the_same_set() {
        let counted = vec![("hook/native".to_owned(), 46), ("hook/new".to_owned(), 1)];
        let judge = |all| baseline("rustc 1.95.0").judge(&counted, all).failures;
        assert_eq!(judge(true), ["hook/new has no baseline", "chain/five has a baseline, and is no scenario"]);
        assert_eq!(judge(false), ["hook/new has no baseline"]);
    }
}
