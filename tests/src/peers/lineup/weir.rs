//! Weir with any of the five policies that most nodes have.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::super::load::Asked;
use super::{Proxy, Scene};
use crate::weir::plugins_directory;

/// A policy by its plugin, and an inline table for it.
pub struct Policy {
    pub plugin: &'static str,
    config: &'static str,
}

/// In the order of their chain.
pub const FIVE: [Policy; 5] = [
    Policy { plugin: "trace", config: "{ sample = 0.01, dialects = [\"w3c\"] }" },
    Policy {
        plugin: "token-verify",
        config: "{ key = \"issuer\", algorithms = [\"RS256\"], issuer = \"<ISSUER>\", audience = \"<AUDIENCE>\" }",
    },
    Policy {
        plugin: "circuit-breaker",
        config: "{ scope = \"endpoint\", trip = { consecutive-failures = 5 }, open-for = \"10s\" }",
    },
    Policy {
        plugin: "retry",
        config: "{ max-attempts = 3, backoff = { kind = \"exponential\", initial = \"50ms\", max = \"1s\" } }",
    },
    Policy { plugin: "load-balance", config: "{ algorithm = \"round-robin\" }" },
];

/// One worker, no lines for exchanges. Nothing is there that is not used: neither plugins nor keys nor a place for spans.
pub fn with(scene: &Scene, program: &Path, name: String, policies: &[Policy]) -> Result<Proxy> {
    let [http1, http2] = scene.ports.two()?;
    let directory = scene.directory.join(&name);
    let plugins = directory.join("plugins");
    fs::create_dir_all(&plugins)?;
    for Policy { plugin, .. } in policies {
        let file = plugins_directory().join(plugin).with_extension("wasm");
        fs::copy(&file, plugins.join(plugin).with_extension("wasm"))
            .with_context(|| format!("{}: `cargo xtask plugins` builds it", file.display()))?;
    }
    let config =
        scene.write(&format!("{name}/config.toml"), &configuration(scene, &plugins, policies, [http1, http2])?)?;
    let arguments = vec!["run".into(), "--config".into(), config.into()];
    Ok(Proxy { name, program: program.into(), arguments, http1, http2: Some(http2) })
}

fn configuration(
    scene: &Scene,
    plugins: &Path,
    policies: &[Policy],
    listen: [std::net::SocketAddr; 2],
) -> Result<String> {
    // All nodes share what one has compiled.
    let cache = std::env::var_os("WEIR_CACHE_DIR").map_or_else(|| scene.directory.join("compiled"), Into::into);
    let mut text = format!(
        "[admin]\nlisten = \"127.0.0.1:0\"\n[plugins]\ndirectory = {plugins:?}\ncache = {cache:?}\n\
         [node]\nworkers = 1\n[log]\nexchanges = \"none\"\nlevel = \"warn\"\n"
    );
    let endpoints = scene.endpoints.addresses.map(|address| format!("{{ address = \"{address}\" }}")).join(", ");
    for (protocol, listen) in ["http1", "http2"].into_iter().zip(listen) {
        let chain = if policies.is_empty() { "" } else { "chain = \"policies\"\n" };
        write!(
            text,
            "[[listener]]\nname = \"{protocol}\"\nlisten = \"{listen}\"\n\
             [[service]]\nname = \"{protocol}\"\nprotocol = \"{protocol}\"\nendpoints = [{endpoints}]\n\
             [[route]]\nlistener = \"{protocol}\"\nservice = \"{protocol}\"\n{chain}"
        )?;
    }
    if !policies.is_empty() {
        let names: Vec<&str> = policies.iter().map(|policy| policy.plugin).collect();
        writeln!(text, "[chain]\npolicies = {names:?}")?;
    }
    for Policy { plugin, config } in policies {
        let config = config.replace("<ISSUER>", Asked::ISSUER).replace("<AUDIENCE>", Asked::AUDIENCE);
        writeln!(text, "[policy.{plugin}]\nplugin = \"{plugin}\"\nconfig = {config}")?;
        match *plugin {
            "trace" => writeln!(text, "[trace]\notlp-endpoint = \"http://{}\"", scene.endpoints.collector())?,
            "token-verify" => {
                let file = scene.write("jwks.json", &scene.asked.jwks)?;
                writeln!(text, "[key.issuer]\njwks = {{ file = {file:?} }}")?;
            }
            _ => {}
        }
    }
    Ok(text)
}
