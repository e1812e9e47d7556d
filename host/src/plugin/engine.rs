//! From bytes to something that can be instantiated.

use super::bindings::{Exports, Hook, Hooks, PACKAGE, VERSION};
use super::cache::{self, Cache};
use super::compiler::{self, Compiler, NoResult};
use super::imports::{self, State};
use super::wasi;
use super::{Description, Load, Plugin, Source, capability, shortcut};
use crate::config::{CapabilityKind, PolicyLimits};
use sha2::{Digest, Sha256};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};
use thiserror::Error;
use wasmtime::component::types::ComponentItem;
use wasmtime::component::{Component, InstancePre, Linker};
use wasmtime::{Config, Engine, ModuleVersionStrategy, OptLevel, Store};

/// How often the epoch advances: the grain of the CPU limit.
pub const TICK: Duration = Duration::from_millis(1);

/// The version of wasmtime. By itself it counts only its major version as one that compiles in another way; a version
/// that mends the compiler must not run what the one before has compiled.
const WASMTIME: &str = "48.0.8";

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
    #[error("{0}")]
    NotCompiled(#[from] NoResult),
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
    compiler: Arc<Compiler<Result<Component, String>>>,
    /// Keeps what was compiled.
    pub cache: Arc<Cache>,
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
            .max_wasm_stack(STACK)
            .module_version(ModuleVersionStrategy::Custom(format!("{WASMTIME} with {}", shortcut::NAME)))?;
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
        let (compiler, cache) = (Arc::new(Compiler::new(compiler::LIMIT)), Arc::new(Cache::new(&engine)));
        Ok(Self { engine, linker, compiler, cache })
    }

    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Compiles, checks, links and describes a component. Takes tens of milliseconds, or a few if it was compiled before:
    /// not for a worker's thread. Who has no more `patience` may ask again later.
    ///
    /// # Errors
    /// It is not a plugin that can be used; or not yet.
    pub fn load(&self, name: &str, bytes: &[u8], generation: u64, patience: Duration) -> Result<Plugin, LoadError> {
        let begun = Instant::now();
        if bytes.len() > MAX_FILE {
            return Err(LoadError::TooLarge { size: bytes.len() });
        }
        // The layer field of the preamble tells a core module from a component (Component Model, binary format).
        if bytes.starts_with(b"\0asm") && bytes.get(6..8) == Some(&[0, 0]) {
            return Err(LoadError::CoreModule);
        }
        let digest = digest(bytes);
        let (component, source) = self.component(&digest, bytes, patience)?;
        let (imports, asks) = self.check_names(&component)?;
        let (exports, hooks) = Exports::find(&component);
        for hook in [Hook::Describe, Hook::Configure] {
            if !hooks.has(hook) {
                return Err(LoadError::Missing(format!("{PACKAGE}/{}@{VERSION}", hook.name())));
            }
        }
        let mut linker = self.linker.clone();
        linker.define_unknown_imports_as_traps(&component).map_err(|error| LoadError::Contract(one_line(&error)))?;
        let pre = linker.instantiate_pre(&component).map_err(|error| LoadError::Contract(one_line(&error)))?;
        let loaded = Loaded { pre, exports };
        let description = self.describe(&loaded)?;
        Ok(Plugin {
            name: name.into(),
            digest,
            generation,
            loaded_at: SystemTime::now(),
            load: Load { source, took: begun.elapsed() },
            description,
            hooks,
            imports,
            asks,
            traps: AtomicU64::new(0),
            last_trap: Mutex::default(),
            alarm: super::alarm::Alarm::default(),
            loaded,
        })
    }

    /// The compiled component: kept from before, or compiled now.
    fn component(&self, digest: &str, bytes: &[u8], patience: Duration) -> Result<(Component, Source), LoadError> {
        if let Some(component) = self.cache.get(&self.engine, digest) {
            return Ok((component, Source::Cache));
        }
        let (engine, bytes) = (self.engine.clone(), bytes.to_vec());
        let work = move || {
            let shortened = shortcut::shortened(&bytes).map(|shortened| Component::from_binary(&engine, &shortened));
            // What is wrong with a plugin is told of the plugin.
            let compiled = shortened.and_then(Result::ok).map_or_else(|| Component::from_binary(&engine, &bytes), Ok);
            compiled.map_err(|error| first_line(&error))
        };
        let component = self.compiler.run(digest, patience, work)?.map_err(LoadError::Invalid)?;
        self.cache.keep(digest, &component);
        Ok((component, Source::Compiled))
    }

    /// Refuses what the host does not know, by name and version. What the component imports, and what it so asks for.
    fn check_names(&self, component: &Component) -> Result<(Vec<String>, Vec<CapabilityKind>), LoadError> {
        let ty = component.component_type();
        let foreign_version = |name: &str| {
            let (package, version) = name
                .split_once('/')
                .map(|(package, rest)| (package, rest.split_once('@').map_or("", |(_, version)| version)))?;
            (package == PACKAGE && version != VERSION)
                .then(|| LoadError::Version { found: format!("{PACKAGE}@{version}") })
        };
        let (mut imports, mut asks) = (Vec::new(), Vec::new());
        for (name, item) in ty.imports(&self.engine) {
            if let Some(error) = foreign_version(name) {
                return Err(error);
            }
            let known = name.starts_with("wasi:") || imports::is_known(name);
            if !known {
                return Err(LoadError::Import(name.to_owned()));
            }
            if let ComponentItem::ComponentInstance(interface) = &item.ty {
                asks.extend(capability::asked(name, interface.exports(&self.engine).map(|(function, _)| function)));
            }
            imports.push(name.to_owned());
        }
        for (name, _) in ty.exports(&self.engine) {
            if let Some(error) = foreign_version(name) {
                return Err(error);
            }
        }
        asks.sort();
        Ok((imports, asks))
    }

    /// Asks the component who it is, in an instance that is granted nothing and is thrown away.
    fn describe(&self, loaded: &Loaded) -> Result<Description, LoadError> {
        let fail = |error: wasmtime::Error| LoadError::Describe(super::instance::reason(&error));
        let limits = PolicyLimits { cpu: imports::SETUP_CPU, memory: 16 * 1024 * 1024 };
        let mut store = Store::new(&self.engine, State::new(None, limits));
        State::limit(&mut store);
        let instance = loaded.pre.instantiate(&mut store).map_err(fail)?;
        let hooks = Hooks::bind(&loaded.exports, &instance, &mut store)
            .map_err(|error| LoadError::Contract(one_line(&error)))?;
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

/// Of an error that shows the bytes around it, the line that says what it is. It may quote the file, which may have any
/// characters.
fn first_line(error: &wasmtime::Error) -> String {
    let line = error.root_cause().to_string();
    line.lines().next().unwrap_or_default().replace(char::is_control, " ")
}

/// All of an error, which may quote what a plugin says of itself.
fn one_line(error: &wasmtime::Error) -> String {
    format!("{error:#}").replace(char::is_control, " ")
}

/// SHA-256 in hexadecimal: what tells one version of a plugin from another.
pub fn digest(bytes: &[u8]) -> String {
    cache::hex(&Sha256::digest(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::directory::{Directory, Pace};
    use std::sync::mpsc::channel;

    #[test]
    fn a_plugin_that_cannot_be_compiled_now_is_tried_again_and_one_that_takes_too_long_is_not() {
        let path = std::env::temp_dir().join(format!("weir-engine-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        // A component that exports nothing: that it does not serve is found out after it was compiled.
        std::fs::write(path.join("a.wasm"), b"\0asm\x0d\0\x01\0").unwrap();
        let scan = |directory: &mut Directory, engine: &PluginEngine| -> Vec<String> {
            let looked = directory.scan(engine, &path, Pace::Live).unwrap();
            looked.errors.into_iter().map(|(_, error)| error).collect()
        };

        let engine = PluginEngine::new().unwrap();
        let (mut directory, mut ends) = (Directory::default(), Vec::new());
        let mut begin = || {
            let (end, ended) = channel::<()>();
            let work = move || ended.recv().map_err(|error| error.to_string()).and(Err(String::new()));
            let begun = engine.compiler.run(&ends.len().to_string(), Duration::ZERO, work);
            ends.push(end);
            begun.err()
        };
        while begin() == Some(NoResult::NotYet) {}
        assert_eq!(scan(&mut directory, &engine), [NoResult::Busy.to_string()]);
        assert!(scan(&mut directory, &engine).is_empty(), "it is told once");
        drop(ends);
        let until = Instant::now() + Duration::from_secs(60);
        let told = loop {
            let told = scan(&mut directory, &engine);
            if !told.is_empty() {
                break told;
            }
            assert!(Instant::now() < until, "it is not tried again");
        };
        assert!(told[0].starts_with("it does not export"), "{told:?}");

        let impatient = PluginEngine { compiler: Arc::new(Compiler::new(Duration::ZERO)), ..engine };
        let mut directory = Directory::default();
        assert_eq!(scan(&mut directory, &impatient), [NoResult::TooSlow(Duration::ZERO).to_string()]);
        let patient = PluginEngine { compiler: Arc::new(Compiler::new(compiler::LIMIT)), ..impatient };
        assert!(scan(&mut directory, &patient).is_empty(), "the same file would take as long again");
        std::fs::remove_dir_all(&path).unwrap();
    }

    #[test]
    fn what_another_version_of_the_compiler_made_is_not_run() {
        let wanted = format!("name = \"wasmtime\"\nversion = \"{}\"\n", super::WASMTIME);
        assert!(include_str!("../../../Cargo.lock").contains(&wanted), "WASMTIME is not the version in Cargo.lock");
    }
}
