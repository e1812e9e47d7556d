//! Builds crates to WebAssembly components and puts them where the proxy and the tests look for them.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::cargo::{Component, Workspace};

const TARGET: &str = "wasm32-wasip2";
const PROFILE: &str = "policy";

/// Builds the reference plugins.
pub fn build_plugins(workspace: &Workspace) -> Result<()> {
    build(workspace, &[("plugins", workspace.components("plugins")?)])
}

/// Builds the reference plugins and the misbehaving guests that tests load.
pub fn build_all(workspace: &Workspace) -> Result<()> {
    let plugins = workspace.components("plugins")?;
    let guests = workspace.components("tests/guests")?;
    build(workspace, &[("plugins", plugins), ("guests", guests)])
}

/// Builds all in one call of cargo, which so compiles what they share once.
fn build(workspace: &Workspace, groups: &[(&str, Vec<Component>)]) -> Result<()> {
    install_target()?;
    let mut arguments = vec!["build", "--target", TARGET, "--profile", PROFILE];
    for (_, components) in groups {
        arguments.extend(components.iter().flat_map(|component| ["--package", &component.package]));
    }
    workspace.cargo(&arguments)?;
    let built = workspace.target.join(TARGET).join(PROFILE);
    for (name, components) in groups {
        let directory = workspace.output(name);
        fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
        for component in components {
            let from = built.join(&component.artifact).with_extension("wasm");
            let to = directory.join(component.package.replace('_', "-")).with_extension("wasm");
            if replace(&from, &to)? {
                println!("built {}", workspace.shown(&to));
            }
        }
    }
    Ok(())
}

/// Puts a file in place by rename, so that a proxy that watches the directory never sees half of it. Returns
/// false if it was there already: a proxy need not look at what did not change.
fn replace(from: &Path, to: &Path) -> Result<bool> {
    let bytes = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
    if fs::read(to).is_ok_and(|present| present == bytes) {
        return Ok(false);
    }
    let temporary = to.with_extension("wasm.new");
    let replaced = fs::write(&temporary, bytes).and_then(|()| fs::rename(&temporary, to));
    replaced.with_context(|| format!("cannot write {}", to.display()))?;
    Ok(true)
}

/// Installs the standard library for components if the toolchain lacks it.
fn install_target() -> Result<()> {
    const MISSING: &str = "rustc has no standard library for wasm32-wasip2, and rustup, which could add it, does \
        not run; install it with your toolchain's package manager";
    let mut rustc = Command::new("rustc");
    let output = rustc.args(["--print", "target-libdir", "--target", TARGET]).output();
    let output = output.context("cannot start rustc")?;
    let library = String::from_utf8_lossy(&output.stdout);
    if output.status.success() && Path::new(library.trim()).exists() {
        return Ok(());
    }
    let status = Command::new("rustup").args(["target", "add", TARGET]).status().context(MISSING)?;
    ensure!(status.success(), "rustup target add {TARGET} failed");
    Ok(())
}
