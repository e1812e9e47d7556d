//! The node that is soaked: the built binary with a configuration and plugins of its own, which change while it runs.

use std::fs;
use std::io::{BufReader, Read};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::thread::JoinHandle;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use super::health::Proc;
use crate::client;
use crate::guests::Chameleon;
use crate::keys::RsaKey;
use crate::process::{Process, written};
use crate::weir::Setup;

/// The plugin on the main route, and the one on the other routes.
pub const PLUGIN: &str = "chameleon";
pub const GUARD: &str = "guard";
/// The first versions of plugins and of the configuration.
pub const WORD: &str = "v0";
pub const TAG: &str = "0";

pub struct Node {
    process: Process,
    pub proc: Proc,
    pub address: SocketAddr,
    admin: SocketAddr,
    directory: TempDir,
    /// Of compiled plugins: an empty one of its own, so that what is new here is new to the node.
    _cache: TempDir,
    /// The configuration with words for what changes.
    template: String,
    records: JoinHandle<u64>,
}

impl Node {
    /// Starts it in front of two endpoints.
    pub async fn start(endpoints: [SocketAddr; 2], chameleon: &Chameleon) -> Result<Self> {
        let cache = tempfile::tempdir()?;
        let (directory, config) = written(&setup(endpoints, chameleon).cache(&cache.path().join("compiled")))?;
        let key = RsaKey::generate("soak")?;
        let keys = directory.path().join("keys");
        fs::create_dir(&keys)?;
        fs::write(keys.join("private.pem"), key.private_pem()?)?;
        fs::write(keys.join("public.pem"), key.public_pem()?)?;
        let template = fs::read_to_string(&config)?;
        let template = template.replace("<KEYS>", &keys.display().to_string());
        fs::write(&config, configuration(&template, 0))?;

        let mut process = Process::start(&config, Stdio::piped())?;
        let output = process.child.stdout.take().context("weir has no output")?;
        let records = std::thread::spawn(move || count_lines(output));
        let (address, admin) = process.addresses().await?;
        let proc = Proc::new(process.child.id());
        Ok(Self { process, proc, address, admin, directory, _cache: cache, template, records })
    }

    pub fn process_id(&self) -> u32 {
        self.process.child.id()
    }

    /// Puts a version of a plugin in place as an operator should: written beside it, then renamed.
    pub fn rename(&self, plugin: &str, bytes: &[u8]) -> Result<()> {
        let beside = self.directory.path().join("plugins").join(format!(".{plugin}.new"));
        fs::write(&beside, bytes)?;
        Ok(fs::rename(beside, self.place(plugin))?)
    }

    pub fn place(&self, plugin: &str) -> PathBuf {
        self.directory.path().join("plugins").join(plugin).with_extension("wasm")
    }

    /// Puts the configuration with this number in place.
    pub fn reconfigure(&self, number: usize) -> Result<()> {
        let file = self.directory.path().join("config.toml");
        let beside = file.with_extension("new");
        fs::write(&beside, configuration(&self.template, number))?;
        Ok(fs::rename(beside, file)?)
    }

    /// The value of a metric by its exact name and labels; 0 before it is first counted.
    pub async fn metric(&self, series: &str) -> Result<f64> {
        let page = client::fetch(self.admin, "admin", "/metrics").await?;
        let text = page.text();
        let value = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        value.map_or(Ok(0.0), |value| Ok(value.trim().parse()?))
    }

    /// Stops it as a service manager does, and returns how many records it has written.
    pub async fn stop(mut self) -> Result<u64> {
        self.process.terminate()?;
        let code = self.process.exit_code().await?;
        ensure!(code == Some(0), "weir ends with {code:?} on SIGTERM");
        self.records.join().map_err(|_| anyhow::anyhow!("the records could not be counted"))
    }
}

/// The configuration number `number`: what the policies of the plugin are given changes each time, and by turns the weight
/// of an endpoint, and whether there is another route.
fn configuration(template: &str, number: usize) -> String {
    let route = "[[route]]\nmatch = { host = \"main\", path-prefix = \"/now-and-then\" }\nservice = \"service\"\n";
    template
        .replace("<TAG>", &number.to_string())
        .replace("<WEIGHT>", &(1 + number % 3).to_string())
        .replace("# <ROUTE>", if number % 2 == 1 { route } else { "" })
}

/// All reference policies on the route `main`, and twice the plugin that is swapped. `<WEIGHT>` and such are for
/// [`configuration`] to fill in.
fn setup(endpoints: [SocketAddr; 2], chameleon: &Chameleon) -> Setup {
    let [one, two] = endpoints;
    let mut setup = Setup::new()
        .listener("identity = \"soak\"")
        .with_plugin_file(&chameleon.version(WORD), PLUGIN)
        .with_plugin_file(&chameleon.version(WORD), GUARD)
        .toml(&format!(
            "[[service]]\nname = \"service\"\nendpoints = [{{ address = \"{one}\", weight = <WEIGHT> }}, {{ address = \"{two}\" }}]"
        ))
        .toml("# <ROUTE>")
        .toml("[key.mint]\nalgorithm = \"RS256\"\nprivate = { file = \"<KEYS>/private.pem\" }")
        .toml("[key.verify]\nalgorithm = \"RS256\"\npublic = { file = \"<KEYS>/public.pem\" }")
        .toml("[chain]\nstrict = [\"strict\"]\nlenient = [\"lenient\"]")
        .toml("main = [\"trace\", \"marker\", \"a\", \"mint\", \"verify\", \"breaker\", \"retry\", \"b\", \"balance\"]")
        .policy("trace", "trace", "{ sample = 0.01, dialects = [\"w3c\"] }")
        .policy("marker", "headers", "{ response = { set = { \"x-policy-marker\" = \"v1\" } } }")
        .policy("mint", "token-mint", "{ key = \"mint\", issuer = \"weir\", ttl = \"1h\", field = \"authorization\" }")
        .toml("allow = [\"crypto:mint\"]")
        .policy("verify", "token-verify", "{ key = \"verify\", algorithms = [\"RS256\"], issuer = \"weir\", audience = \"service\" }")
        .toml("allow = [\"crypto:verify\"]")
        .policy("breaker", "circuit-breaker", "{ scope = \"endpoint\", trip = { consecutive-failures = 5 }, open-for = \"10s\", half-open = { max-calls = 1, successes = 1 } }")
        .policy("retry", "retry", "{ max-attempts = 3, backoff = { kind = \"fixed\", delay = \"5ms\" }, retry-on = { statuses = [503] } }")
        .policy("balance", "load-balance", "{ algorithm = \"weighted-round-robin\" }");
    for (policy, plugin, tag, on_error) in [
        ("a", PLUGIN, "<TAG>", "skip"),
        ("b", PLUGIN, "<TAG>", "skip"),
        ("strict", GUARD, TAG, "reject"),
        ("lenient", GUARD, TAG, "skip"),
    ] {
        setup = setup.toml(&format!(
            "[policy.{policy}]\nplugin = \"{plugin}\"\non-error = \"{on_error}\"\nconfig = {{ name = \"{policy}.{tag}:\" }}"
        ));
    }
    for host in ["main", "strict", "lenient"] {
        setup = setup.toml(&format!(
            "[[route]]\nmatch = {{ host = \"{host}\" }}\nservice = \"service\"\nchain = \"{host}\"\ntimeout = \"20s\""
        ));
    }
    setup
}

/// Reads to the end: what nobody reads is dropped.
fn count_lines(output: impl Read) -> u64 {
    let (mut output, mut buffer, mut lines) = (BufReader::new(output), [0; 64 * 1024], 0);
    while let Ok(read @ 1..) = output.read(&mut buffer) {
        lines += buffer.iter().take(read).filter(|byte| **byte == b'\n').count() as u64;
    }
    lines
}
