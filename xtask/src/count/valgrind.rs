//! The program that runs scenarios, under valgrind.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::cargo::Workspace;

/// Instructions of one run, by the scenario's name, in the program's order.
pub type Counts = Vec<(String, u64)>;

const CALLGRIND: &str = "--tool=callgrind";
/// The program says when: it would take too long to start.
const LATER: &str = "--instr-atstart=no";
/// Where a processor can copy by `rep movsb`, callgrind counts an instruction for each byte. It is not to be used, so that
/// copies count alike, and for what they cost.
const TUNABLES: &str = "glibc.cpu.x86_rep_movsb_threshold=1073741824:glibc.cpu.x86_rep_stosb_threshold=1073741824";
/// Where callgrind collects.
const COUNTED: &str = "count::counted";
/// How often each scenario is counted, and run in a round. Where other threads decide how much comes at a time, as with
/// requests, some rounds take more; the least of them is much the same whenever it is counted.
const ROUNDS: u64 = 5;
const TIMES: u64 = 40;
/// How often the plugins may be loaded: on a slow machine one that takes too long is left for the next.
const LOADS: usize = 5;

const MISSING: &str = "valgrind does not run";

pub struct Program<'a> {
    workspace: &'a Workspace,
    /// For what callgrind writes.
    directory: PathBuf,
}

impl<'a> Program<'a> {
    pub fn new(workspace: &'a Workspace) -> Result<Self> {
        let directory = workspace.output("count");
        if directory.exists() {
            fs::remove_dir_all(&directory)?;
        }
        fs::create_dir_all(&directory)?;
        Ok(Self { workspace, directory })
    }

    /// Fills the cache of compiled plugins. They are compiled for the processor that valgrind shows, by a valgrind that does
    /// nothing else.
    pub fn compile_plugins(&self) -> Result<()> {
        for load in 1..=LOADS {
            let mut prepare = self.command(["--tool=none"], 1, 0, &["chain/five".into()]);
            let output = prepare.stdout(Stdio::null()).output().context(MISSING)?;
            if output.status.success() {
                break;
            }
            ensure!(load < LOADS, "the scenarios cannot be prepared:\n{}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    }

    /// Counts scenarios by the beginning of their names, or all.
    pub fn count(&self, names: &[String]) -> Result<Counts> {
        let dump = format!("--dump-after={COUNTED}");
        let out = self.directory.join("out");
        let options = [CALLGRIND, LATER, &collect(), &dump, &out_file(&out)];
        let output = self.command(options, ROUNDS, TIMES, names).stderr(Stdio::inherit()).output().context(MISSING)?;
        ensure!(output.status.success(), "a scenario failed");
        let shown = String::from_utf8(output.stdout)?;
        let mut counts = Counts::new();
        // A name for each round, and a dump for each time that the function was left.
        for (at, name) in shown.lines().enumerate() {
            let dump = out.with_extension((at + 1).to_string());
            let text = fs::read_to_string(&dump)
                .with_context(|| format!("no dump for {name}: has {COUNTED} no symbol, or another name?"))?;
            let total = text.lines().find_map(|line| line.strip_prefix("totals: ")?.parse::<u64>().ok());
            let count = total.with_context(|| format!("{}: no total", dump.display()))? / TIMES;
            match counts.last_mut().filter(|(last, _)| last == name) {
                Some((_, least)) => *least = count.min(*least),
                None => counts.push((name.to_owned(), count)),
            }
        }
        ensure!(!counts.is_empty(), "no scenario has such a name: {}", names.join(", "));
        Ok(counts)
    }

    /// Prints the functions in which most instructions are.
    pub fn show_functions(&self, names: &[String]) -> Result<()> {
        let out = self.directory.join("functions");
        // Without dumps in between, which would lose who has called whom.
        let options = [CALLGRIND, LATER, &collect(), &out_file(&out)];
        let status = self.command(options, 1, ROUNDS * TIMES, names).status().context(MISSING)?;
        ensure!(status.success(), "a scenario failed");
        println!("{} times each; 0x… is compiled Wasm", ROUNDS * TIMES);
        let mut annotate = Command::new("callgrind_annotate");
        let status = annotate.args(["--threshold=90", "--auto=no"]).arg(&out).status();
        ensure!(status.context(MISSING)?.success(), "callgrind_annotate failed");
        println!("more of it: callgrind_annotate --tree=both --inclusive=yes {}", self.workspace.shown(&out));
        Ok(())
    }

    fn command<const N: usize>(&self, options: [&str; N], rounds: u64, times: u64, names: &[String]) -> Command {
        let workspace = self.workspace;
        let mut command = Command::new("valgrind");
        command
            .arg("--quiet")
            .args(options)
            .arg(workspace.target.join("release/count"))
            .args(["--rounds", &rounds.to_string(), "--times", &times.to_string()])
            .args(names)
            .current_dir(&workspace.root)
            .env("GLIBC_TUNABLES", TUNABLES)
            .env("WEIR_PLUGINS_DIR", workspace.output("plugins"))
            .env("WEIR_GUESTS_DIR", workspace.output("guests"))
            .env("WEIR_CACHE_DIR", workspace.output("count-cache"));
        command
    }
}

fn collect() -> String {
    format!("--toggle-collect={COUNTED}")
}

fn out_file(path: &Path) -> String {
    format!("--callgrind-out-file={}", path.display())
}
