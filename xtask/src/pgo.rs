//! `cargo xtask build --pgo`: the release binary, built with what an earlier build of it has counted under load.
//!
//! The load is that of `bench` (HTTP/1.1 and HTTP/2, with policies and without, plugins compiled at its start) and that of
//! `messages`. What they do not touch is compiled for size.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::cargo::Workspace;
use crate::{packages, wasm};

/// What is put under load, and what makes the load; each finds the first beside it.
const WEIR: &str = "weir";
const LOADS: [(&str, &[&str]); 2] = [
    ("peers", &["--quick", "--h2", "--only", "weir-empty,weir-five"]),
    ("messages", &["--rounds", "1", "--seconds", "3"]),
];

/// Returns the path of the binary.
pub fn build(workspace: &Workspace) -> Result<PathBuf> {
    let toolchain = Toolchain::find()?;
    packages::servers()?;
    wasm::build_plugins(workspace)?;
    workspace.cargo(&["build", "--release", "--workspace", "--bin", "peers", "--bin", "messages"])?;

    let directory = workspace.output("pgo");
    // Cargo does not look into a profile: with another one, nothing of an earlier build may be left.
    if directory.exists() {
        fs::remove_dir_all(&directory).with_context(|| format!("cannot remove {}", directory.display()))?;
    }
    let (counts, profile) = (directory.join("counts"), directory.join("weir.profdata"));
    let counting = compile(workspace, &toolchain, &directory, &format!("-Cprofile-generate={}", counts.display()))?;
    put_under_load(workspace, &counting, &directory.join("training"))?;
    let merged = Command::new(&toolchain.profdata).arg("merge").arg("-o").arg(&profile).arg(&counts).status()?;
    ensure!(merged.success(), "{} merge failed", toolchain.profdata.display());
    let built = compile(workspace, &toolchain, &directory, &format!("-Cprofile-use={}", profile.display()))?;
    let binary = directory.join(WEIR);
    fs::rename(built, &binary)?;
    // Gigabytes, of no use to the next build with its own counts.
    fs::remove_dir_all(directory.join("target"))?;
    Ok(binary)
}

/// Runs the binary under each load, from a directory of their own.
fn put_under_load(workspace: &Workspace, weir: &Path, directory: &Path) -> Result<()> {
    fs::create_dir_all(directory)?;
    fs::copy(weir, directory.join(WEIR))?;
    for (program, arguments) in LOADS {
        let copy = directory.join(program);
        fs::copy(workspace.target.join("release").join(program), &copy)?;
        let mut load = Command::new(copy);
        load.args(arguments).env("WEIR_PLUGINS_DIR", workspace.output("plugins")).env_remove("WEIR_CACHE_DIR");
        ensure!(load.status()?.success(), "{program} failed");
    }
    Ok(())
}

/// Builds the binary with one flag more than usual, and all it is made of; build scripts and macros without it.
fn compile(workspace: &Workspace, toolchain: &Toolchain, directory: &Path, flag: &str) -> Result<PathBuf> {
    let target = directory.join("target");
    let usual = env::var("RUSTFLAGS").unwrap_or_default();
    // As cargo takes them where a path may have spaces.
    let flags: Vec<&str> = usual.split_whitespace().chain([flag]).collect();
    let mut cargo = workspace.cargo_command();
    cargo.args(["build", "--release", "--workspace", "--bin", WEIR, "--target", &toolchain.host, "--target-dir"]);
    let status = cargo
        .arg(&target)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"))
        .status()
        .context("cannot start cargo")?;
    ensure!(status.success(), "cargo build failed ({status})");
    Ok(target.join(&toolchain.host).join("release").join(WEIR))
}

struct Toolchain {
    /// As in "x86_64-unknown-linux-gnu".
    host: String,
    /// Reads the counts; of the same version as the compiler.
    profdata: PathBuf,
}

impl Toolchain {
    /// Installs the tools of LLVM if the toolchain lacks them.
    fn find() -> Result<Self> {
        let version = rustc(&["-vV"])?;
        let host = version.lines().find_map(|line| line.strip_prefix("host: "));
        let host = host.context("rustc -vV names no host")?.to_owned();
        let sysroot = rustc(&["--print", "sysroot"])?;
        let profdata = Path::new(sysroot.trim()).join("lib/rustlib").join(&host).join("bin/llvm-profdata");
        if !profdata.exists() {
            let missing = format!("{} is missing: `rustup component add llvm-tools` adds it", profdata.display());
            let added = Command::new("rustup").args(["component", "add", "llvm-tools"]).status();
            ensure!(added.context(missing.clone())?.success() && profdata.exists(), missing);
        }
        Ok(Self { host, profdata })
    }
}

fn rustc(arguments: &[&str]) -> Result<String> {
    let output = Command::new("rustc").args(arguments).output().context("cannot start rustc")?;
    ensure!(output.status.success(), "rustc {} failed", arguments.join(" "));
    Ok(String::from_utf8(output.stdout)?)
}
