//! From bytes to something that can be instantiated.

use super::bindings::{Exports, Hook, Hooks, PACKAGE, VERSION};
use super::imports::{self, State};
use super::wasi;
use super::{Description, Plugin};
use crate::config::PolicyLimits;
use sha2::{Digest, Sha256};
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime};
use thiserror::Error;
use wasmtime::component::{Component, InstancePre, Linker};
use wasmtime::{Config, Engine, OptLevel, Store};

/// How often the epoch advances: the grain of the CPU limit.
pub const TICK: Duration = Duration::from_millis(1);

/// The largest component that is compiled.
pub(super) const MAX_FILE: usize = 16 * 1024 * 1024;
/// The largest schema, name or summary that `describe` may give.
const MAX_DESCRIPTION: usize = 256 * 1024;
/// Wasm stack of one hook.
const STACK: usize = 256 * 1024;

/// Why a file is not a plugin that can be used.
#[derive(Debug, Error)]
pub enum LoadError {
    #[error("cannot read {file}: {source}")]
    Read { file: String, source: std::io::Error },
    #[error("the file is {size} bytes long; a plugin has at most {MAX_FILE}")]
    TooLarge { size: usize },
    #[error("this is a core WebAssembly module, not a component: build it with --target wasm32-wasip2")]
    CoreModule,
    #[error("not a WebAssembly component: {0}")]
    Invalid(String),
    #[error("it is built for {found}, and this node speaks {PACKAGE}@{VERSION}: build it against that version's SDK")]
    Version { found: String },
    #[error("it imports {0}, which this node does not offer to policies")]
    Import(String),
    #[error("it does not export {0}: a policy exports at least `describe` and `configure` of {PACKAGE}@{VERSION}")]
    Missing(String),
    #[error("{0}")]
    Contract(String),
    #[error("`describe` failed: {0}")]
    Describe(String),
}

/// The compiled and linked code of a plugin.
#[derive(Clone)]
pub struct Loaded {
    pub pre: InstancePre<State>,
    pub exports: Exports,
}

/// The one WebAssembly engine of the process.
#[derive(Clone)]
pub struct PluginEngine {
    engine: Engine,
    linker: Linker<State>,
}

impl std::fmt::Debug for PluginEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PluginEngine")
    }
}

impl PluginEngine {
    /// Starts the thread that advances the epoch; it ends with the engine.
    pub fn new() -> wasmtime::Result<Self> {
        let mut config = Config::new();
        config
            .wasm_component_model(true)
            // Hooks are plain synchronous calls, and without this each costs four times as much.
            .concurrency_support(false)
            .epoch_interruption(true)
            .cranelift_opt_level(OptLevel::Speed)
            .max_wasm_stack(STACK);
        let engine = Engine::new(&config)?;
        let mut linker = Linker::new(&engine);
        imports::add_to_linker(&mut linker)?;
        wasi::add_to_linker(&mut linker)?;
        let weak = engine.weak();
        std::thread::Builder::new().name("weir-epoch".into()).spawn(move || {
            while let Some(engine) = weak.upgrade() {
                engine.increment_epoch();
                drop(engine);
                std::thread::sleep(TICK);
            }
        })?;
        Ok(Self { engine, linker })
    }

    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Compiles, checks, links and describes a component. Takes tens of milliseconds: not for a worker's thread.
    pub fn load(&self, name: &str, bytes: &[u8], generation: u64) -> Result<Plugin, LoadError> {
        if bytes.len() > MAX_FILE {
            return Err(LoadError::TooLarge { size: bytes.len() });
        }
        // The layer field of the preamble tells a core module from a component (Component Model, binary format).
        if bytes.starts_with(b"\0asm") && bytes.get(6..8) == Some(&[0, 0]) {
            return Err(LoadError::CoreModule);
        }
        let component =
            Component::from_binary(&self.engine, bytes).map_err(|error| LoadError::Invalid(first_line(&error)))?;
        let imports = self.check_names(&component)?;
        let (exports, hooks) = Exports::find(&component);
        for hook in [Hook::Describe, Hook::Configure] {
            if !hooks.has(hook) {
                return Err(LoadError::Missing(format!("{PACKAGE}/{}@{VERSION}", hook.name())));
            }
        }
        let mut linker = self.linker.clone();
        linker
            .define_unknown_imports_as_traps(&component)
            .map_err(|error| LoadError::Contract(format!("{error:#}")))?;
        let pre = linker.instantiate_pre(&component).map_err(|error| LoadError::Contract(format!("{error:#}")))?;
        let loaded = Loaded { pre, exports };
        let description = self.describe(&loaded)?;
        Ok(Plugin {
            name: name.into(),
            digest: digest(bytes),
            generation,
            loaded_at: SystemTime::now(),
            description,
            hooks,
            imports,
            traps: AtomicU64::new(0),
            last_trap: Mutex::default(),
            loaded,
        })
    }

    /// Refuses what the host does not know, by name and version.
    fn check_names(&self, component: &Component) -> Result<Vec<String>, LoadError> {
        let ty = component.component_type();
        let foreign_version = |name: &str| {
            let (package, version) = name
                .split_once('/')
                .map(|(package, rest)| (package, rest.split_once('@').map_or("", |(_, version)| version)))?;
            (package == PACKAGE && version != VERSION)
                .then(|| LoadError::Version { found: format!("{PACKAGE}@{version}") })
        };
        let mut imports = Vec::new();
        for (name, _) in ty.imports(&self.engine) {
            if let Some(error) = foreign_version(name) {
                return Err(error);
            }
            let known = name.starts_with("wasi:") || imports::is_known(name);
            if !known {
                return Err(LoadError::Import(name.to_owned()));
            }
            imports.push(name.to_owned());
        }
        for (name, _) in ty.exports(&self.engine) {
            if let Some(error) = foreign_version(name) {
                return Err(error);
            }
        }
        Ok(imports)
    }

    /// Asks the component who it is, in an instance that is granted nothing and is thrown away.
    fn describe(&self, loaded: &Loaded) -> Result<Description, LoadError> {
        let fail = |error: wasmtime::Error| LoadError::Describe(super::instance::reason(&error));
        let limits = PolicyLimits { cpu: imports::SETUP_CPU, memory: 16 * 1024 * 1024 };
        let mut store = Store::new(&self.engine, State::new(None, limits));
        State::limit(&mut store);
        let instance = loaded.pre.instantiate(&mut store).map_err(fail)?;
        let hooks = Hooks::bind(&loaded.exports, &instance, &mut store)
            .map_err(|error| LoadError::Contract(format!("{error:#}")))?;
        let said = hooks.describe(wasmtime::AsContextMut::as_context_mut(&mut store)).map_err(fail)?;
        if said.schema.len() + said.name.len() + said.version.len() + said.summary.len() > MAX_DESCRIPTION {
            return Err(LoadError::Describe(format!("it describes itself in more than {MAX_DESCRIPTION} bytes")));
        }
        let schema = serde_json::from_str(&said.schema)
            .map_err(|error| LoadError::Describe(format!("its schema is not JSON: {error}")))?;
        jsonschema::validator_for(&schema)
            .map_err(|error| LoadError::Describe(format!("its schema is not a JSON Schema: {error}")))?;
        // People read these on a terminal.
        let line = |text: String| text.replace(char::is_control, " ");
        Ok(Description {
            name: line(said.name),
            version: line(said.version),
            summary: line(said.summary),
            schema,
            tick: (said.tick > 0).then(|| Duration::from_nanos(said.tick).max(Duration::from_millis(10))),
            max_body: (said.max_body as usize).min(1024 * 1024),
        })
    }
}

/// Of an error that shows the bytes around it, the line that says what it is.
fn first_line(error: &wasmtime::Error) -> String {
    error.root_cause().to_string().lines().next().unwrap_or_default().to_owned()
}

/// SHA-256 in hexadecimal: what tells one version of a plugin from another.
pub fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
