//! The workspace as cargo describes it, and calls of cargo.

use std::env;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

pub struct Workspace {
    pub root: PathBuf,
    /// `target`, or wherever cargo was told to put it.
    pub target: PathBuf,
    metadata: Value,
}

/// A crate that becomes a WebAssembly component.
pub struct Component {
    pub package: String,
    /// File name of what cargo builds, without `.wasm`.
    pub artifact: String,
}

impl Workspace {
    pub fn load() -> Result<Self> {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
        let root = manifest.parent().context("xtask lies in no workspace")?.to_path_buf();
        let mut command = command(&root);
        command.args(["metadata", "--no-deps", "--format-version", "1"]).stderr(Stdio::inherit());
        let output = command.output().context("cannot start cargo")?;
        ensure!(output.status.success(), "cargo metadata failed: is a Cargo.toml broken?");
        let metadata: Value = serde_json::from_slice(&output.stdout)?;
        let target = metadata.get("target_directory").and_then(Value::as_str);
        let target = PathBuf::from(target.context("cargo metadata names no target directory")?);
        Ok(Self { root, target, metadata })
    }

    /// The member crates in a directory of the workspace, which all have to be components; sorted.
    pub fn components(&self, directory: &str) -> Result<Vec<Component>> {
        let directory = self.root.join(directory);
        let packages = self.metadata.get("packages").and_then(Value::as_array);
        let mut components = Vec::new();
        for package in packages.context("cargo metadata lists no packages")? {
            let text = |key| package.get(key).and_then(Value::as_str).unwrap_or_default();
            let manifest = Path::new(text("manifest_path"));
            if manifest.ancestors().nth(2) != Some(&directory) {
                continue;
            }
            let artifact = dynamic_library(package).with_context(|| {
                let manifest = self.shown(manifest);
                format!("{manifest}: a component needs [lib] crate-type = [\"cdylib\"]")
            })?;
            components.push(Component { package: text("name").to_owned(), artifact });
        }
        components.sort_by(|one, other| one.package.cmp(&other.package));
        Ok(components)
    }

    /// Runs cargo in the workspace; fails as cargo does.
    pub fn cargo<A: AsRef<str>>(&self, arguments: &[A]) -> Result<()> {
        let arguments: Vec<&str> = arguments.iter().map(AsRef::as_ref).collect();
        let status = self.cargo_command().args(&arguments).status().context("cannot start cargo")?;
        if !status.success() {
            bail!("cargo {} failed ({status})", arguments.join(" "));
        }
        Ok(())
    }

    /// Builds the release binary and a program that measures it; the command is to be told what else it needs.
    pub fn measuring(&self, program: &str) -> Result<Command> {
        self.cargo(&["build", "--release", "--workspace", "--bin", "weir", "--bin", program])?;
        let mut command = Command::new(self.target.join("release").join(program));
        command.current_dir(&self.root);
        Ok(command)
    }

    pub fn cargo_command(&self) -> Command {
        command(&self.root)
    }

    /// A directory for what we make: always below the repository's `target`, where config.toml looks for
    /// plugins, also if cargo builds elsewhere.
    pub fn output(&self, name: &str) -> PathBuf {
        self.root.join("target").join(name)
    }

    /// A path as one reads it from the root of the repository.
    pub fn shown<'a>(&self, path: &'a Path) -> std::path::Display<'a> {
        path.strip_prefix(&self.root).unwrap_or(path).display()
    }
}

/// Becomes a program, so that a signal finds nobody else. Returns only if that cannot be started.
pub fn become_program(command: &mut Command) -> Result<()> {
    let failed = command.exec();
    Err(anyhow::Error::from(failed).context(format!("cannot start {}", command.get_program().display())))
}

fn dynamic_library(package: &Value) -> Option<String> {
    let targets = package.get("targets")?.as_array()?;
    let is_dynamic = |target: &&Value| {
        let kinds = target.get("kind").and_then(Value::as_array);
        kinds.is_some_and(|kinds| kinds.iter().any(|kind| kind == "cdylib"))
    };
    let name = targets.iter().find(is_dynamic)?.get("name")?.as_str()?;
    Some(name.replace('-', "_"))
}

fn command(root: &Path) -> Command {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut command = Command::new(cargo);
    command.current_dir(root);
    command
}
