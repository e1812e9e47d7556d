//! The command line: what `weir` prints, how it exits, and how it stops.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;
use weir_tests::client::{self, Client};
use weir_tests::guests::Chameleon;
use weir_tests::upstream::{Behaviour, Upstream};
use weir_tests::weir::{Setup, guests_directory, plugins_directory};

type Result<T = ()> = anyhow::Result<T>;

/// The built binary: tests are in `deps`, beside which cargo puts it.
fn weir() -> Command {
    let test = std::env::current_exe().expect("this test has a path");
    let binary = test.ancestors().nth(2).expect("a target directory").join("weir");
    assert!(binary.exists(), "{}: `cargo xtask test` builds it", binary.display());
    let mut command = Command::new(binary);
    command.env_remove("WEIR_LOG").stdin(Stdio::null());
    command
}

fn run(arguments: &[&str]) -> Output {
    weir().args(arguments).output().expect("weir starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Writes a configuration and returns its file; the directory keeps it.
fn written(setup: &Setup) -> Result<(TempDir, PathBuf)> {
    let directory = tempfile::tempdir()?;
    let config = setup.write(directory.path())?;
    Ok((directory, config))
}

/// The line of the file that holds this text, from 1.
fn line_of(config: &Path, wanted: &str) -> Result<usize> {
    let text = std::fs::read_to_string(config)?;
    let at = text.lines().position(|line| line.contains(wanted));
    Ok(at.unwrap_or_else(|| panic!("{wanted:?} is not in {text}")) + 1)
}

/// `weir run`, killed when it is dropped.
struct Process {
    child: Child,
    log: Arc<Mutex<Vec<Value>>>,
}

impl Process {
    fn start(config: &Path, stdout: Stdio) -> Result<Self> {
        let mut child = weir().args(["run", "--config"]).arg(config).stdout(stdout).stderr(Stdio::piped()).spawn()?;
        let log = Arc::new(Mutex::new(Vec::new()));
        let (lines, kept) = (BufReader::new(child.stderr.take().expect("a pipe")).lines(), log.clone());
        std::thread::spawn(move || {
            for line in lines.map_while(std::io::Result::ok) {
                kept.lock().unwrap().push(serde_json::from_str(&line).unwrap_or(Value::String(line)));
            }
        });
        Ok(Self { child, log })
    }

    /// The first line of the log that satisfies a condition, waited for.
    async fn logged(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(line) = self.log.lock().unwrap().iter().find(|line| wanted(line)) {
                return line.clone();
            }
            assert!(Instant::now() < until, "waited for {what}: {:?}", self.log.lock().unwrap());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The addresses of the listener and of the admin pages, once it is ready.
    async fn addresses(&self) -> Result<(SocketAddr, SocketAddr)> {
        let address = |line: Value| line["address"].as_str().unwrap_or_default().parse();
        let listener = self.logged("a listener", |line| line["message"] == "listening").await;
        let admin = self.logged("readiness", |line| line["message"] == "ready; admin pages").await;
        Ok((address(listener)?, address(admin)?))
    }

    fn terminate(&self) -> Result {
        let sent = Command::new("kill").arg("-TERM").arg(self.child.id().to_string()).status()?;
        assert!(sent.success());
        Ok(())
    }

    async fn exit_code(&mut self) -> Result<Option<i32>> {
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status.code());
            }
            assert!(Instant::now() < until, "it does not stop");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn help_and_version_are_printed_and_nonsense_is_not_accepted() {
    let help = run(&["--help"]);
    assert!(help.status.success());
    for command in ["run", "check", "inspect"] {
        assert!(text(&help.stdout).contains(command), "{}", text(&help.stdout));
        assert!(run(&[command, "--help"]).status.success());
    }
    let version = run(&["--version"]);
    assert_eq!((version.status.code(), text(&version.stdout)), (Some(0), format!("weir {}\n", env!("CARGO_PKG_VERSION"))));
    for nonsense in [&[][..], &["rum"], &["run", "--conf"], &["inspect"]] {
        let output = run(nonsense);
        assert_eq!(output.status.code(), Some(2), "{nonsense:?}");
        assert!(text(&output.stderr).contains("Usage"), "{nonsense:?}: {}", text(&output.stderr));
    }
}

#[test]
fn check_prints_every_problem_of_the_file_with_its_line_and_a_hint() -> Result {
    let setup = Setup::new()
        .toml("[[service]]\nname = \"users\"\nendpoint = []\nendpoints = [{ address = \"127.0.0.1\" }]")
        .toml("[[route]]\nmatch = { host = \"users\" }\nservice = \"user\"\ntimeout = \"5 parsecs\"")
        .toml("[chain]\nmain = [\"retri\"]\n[policy.retry]\nplugin = \"retry\"\non-error = \"ignore\"");
    let (_directory, config) = written(&setup)?;
    for command in ["check", "run"] {
        let output = run(&[command, "--config", config.to_str().unwrap()]);
        let said = text(&output.stderr);
        assert_eq!((output.status.code(), &*text(&output.stdout)), (Some(1), ""), "{said}");
        for wrong in ["endpoint = []", "\"127.0.0.1\" }", "service = \"user\"", "5 parsecs", "retri\"", "ignore"] {
            let place = format!("{}:{}:", config.display(), line_of(&config, wrong)?);
            assert!(said.contains(&place), "{command} does not name {place} ({wrong}):\n{said}");
        }
        assert!(said.matches("hint:").count() >= 6, "{said}");
        assert!(!said.contains("panicked"), "{said}");
    }
    Ok(())
}

#[test]
fn check_tells_what_plugins_say_and_run_refuses_what_breaks_a_schema() -> Result {
    let good = |name: &str, plugin: &str, config: &str| format!("[policy.{name}]\nplugin = \"{plugin}\"\nconfig = {config}");
    let setup = Setup::new()
        .with_plugin("headers")
        .with_plugin("retry")
        .toml(&good("marker", "headers", "{ response = { sett = { a = \"b\" } } }"))
        .toml("[policy.again]\nplugin = \"retry\"\nconfig.max-attempts = \"many\"\nconfig.backoff = { kind = \"linear\" }");
    let (directory, config) = written(&setup)?;
    for command in ["check", "run"] {
        let output = run(&[command, "--config", config.to_str().unwrap()]);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{command}: {said}");
        for wrong in ["sett", "max-attempts", "linear"] {
            let place = format!("{}:{}:", config.display(), line_of(&config, wrong)?);
            assert!(said.contains(&place), "{command} does not name {place} ({wrong}):\n{said}");
        }
        assert!(said.contains("hint: weir inspect shows the schema"), "{said}");
    }

    // Plugins that are missing or broken, also those that nobody uses: for `check` all of that is wrong.
    let setup = Setup::new().with_plugin("headers").toml(&good("a", "headers", "{}")).toml(&good("b", "header", "{}")).toml(&good("c", "broken", "{}"));
    let config = setup.write(directory.path())?;
    std::fs::write(directory.path().join("plugins/broken.wasm"), b"\0asm\x01\0\0\0")?;
    std::fs::write(directory.path().join("plugins/unused.wasm"), "nothing")?;
    let output = run(&["check", "--config", config.to_str().unwrap()]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    let mut expected = String::new();
    write!(expected, "{}:{}:", config.display(), line_of(&config, "plugin = \"header\"")?)?;
    assert!(said.contains(&expected) && said.contains("there is no plugin \"header\"") && said.contains("hint: put header.wasm there"), "{said}");
    assert!(said.contains("--target wasm32-wasip2") && said.contains("plugins/unused.wasm: not a WebAssembly component"), "{said}");

    std::fs::remove_file(directory.path().join("plugins/unused.wasm"))?;
    let config = Setup::new().with_plugin("headers").toml(&good("a", "headers", "{}")).write(directory.path())?;
    std::fs::remove_file(directory.path().join("plugins/broken.wasm"))?;
    std::fs::remove_file(directory.path().join("plugins/retry.wasm"))?;
    let output = run(&["check", "--config", config.to_str().unwrap()]);
    assert_eq!((output.status.code(), &*text(&output.stderr)), (Some(0), ""));
    assert!(text(&output.stdout).contains(": ok: 1 listeners, 0 services, 0 routes, 1 policies"), "{}", text(&output.stdout));
    Ok(())
}

#[test]
fn inspect_says_what_a_component_is_or_why_it_is_none() -> Result {
    let chameleon = Chameleon::default();
    let inspected = |file: &Path| {
        let output = weir().arg("inspect").arg(file).output().expect("weir starts");
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let (code, out, _) = inspected(&plugins_directory().join("retry.wasm"));
    assert_eq!(code, Some(0));
    for part in ["retry 0.1.0", "digest", "describe, configure", "on-outcome", "weir:policy/random@0.1.0", "max-body", "\"max-attempts\""] {
        assert!(out.contains(part), "{part}: {out}");
    }
    assert!(inspected(&guests_directory().join("rogue.wasm")).1.contains("tick     every 50ms"));

    let bad = [
        ("core.wasm", b"\0asm\x01\0\0\0".to_vec(), "--target wasm32-wasip2"),
        ("noise.wasm", vec![7; 1000], "not a WebAssembly component"),
        ("newer.wasm", chameleon.of_contract("0.9.0"), "built for weir:policy@0.9.0, and this node speaks weir:policy@0.1.0"),
        ("trap.wasm", chameleon.bytes("trap"), "`describe` failed"),
    ];
    for (name, bytes, said) in bad {
        let (code, out, error) = inspected(&chameleon.file(name, &bytes));
        assert_eq!((code, &*out), (Some(1), ""), "{error}");
        assert!(error.contains(name) && error.contains(said), "{error}");
    }
    let (code, _, error) = inspected(Path::new("nowhere.wasm"));
    assert!(code == Some(1) && error.contains("nowhere.wasm"), "{error}");
    Ok(())
}

#[test]
fn a_reader_that_has_read_enough_is_no_error() -> Result {
    let (_directory, config) = written(&Setup::new())?;
    let retry = plugins_directory().join("retry.wasm");
    for arguments in [&["--help"][..], &["inspect", retry.to_str().unwrap()], &["check", "--config", config.to_str().unwrap()]] {
        let mut child = weir().args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        drop(child.stdout.take());
        let mut said = String::new();
        child.stderr.take().expect("a pipe").read_to_string(&mut said)?;
        assert_eq!((child.wait()?.code(), &*said), (Some(0), ""), "{arguments:?}");
    }
    // And one who does not read errors: the code is what counts.
    let mut child = weir().args(["inspect", "nowhere.wasm"]).stderr(Stdio::piped()).spawn()?;
    drop(child.stderr.take());
    assert_eq!(child.wait()?.code(), Some(1));
    Ok(())
}

#[tokio::test]
async fn a_node_whose_output_nobody_reads_serves_all_the_same() -> Result {
    let upstream = Upstream::start(200).await?;
    let (_directory, config) = written(&Setup::new().service("service", &[upstream.address()]))?;
    let mut process = Process::start(&config, Stdio::piped())?;
    let (address, _) = process.addresses().await?;
    drop(process.child.stdout.take());
    let mut client = Client::http1(address).await?;
    for _ in 0..200 {
        assert_eq!(client.send(client::get("service", "/")?).await?.status, 200);
    }
    process.terminate()?;
    assert_eq!(process.exit_code().await?, Some(0));
    Ok(())
}

#[tokio::test]
async fn sigterm_lets_exchanges_end_and_exits_with_0() -> Result {
    let upstream = Upstream::start(Behaviour::mirror().delayed(Duration::from_secs(1))).await?;
    let (_directory, config) = written(&Setup::new().service("service", &[upstream.address()]))?;
    let mut process = Process::start(&config, Stdio::piped())?;
    let (address, admin) = process.addresses().await?;
    assert_eq!(client::fetch(admin, "admin", "/readyz").await?.status, 200);
    let mut records = BufReader::new(process.child.stdout.take().expect("a pipe"));
    let mut client = Client::http1(address).await?;
    let begun = tokio::spawn(async move { client.send(client::post("service", "/", "kept")?).await });
    let until = Instant::now() + Duration::from_secs(10);
    while upstream.request_count() == 0 {
        assert!(Instant::now() < until, "the exchange does not begin");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    process.terminate()?;
    process.logged("draining", |line| line["message"] == "draining").await;
    let response = begun.await??;
    assert_eq!((response.status.as_u16(), &*response.text(), &response.broken), (200, "kept", &None));
    assert_eq!(process.exit_code().await?, Some(0));
    assert!(Client::http1(address).await.is_err(), "nobody listens any more");
    let mut record = String::new();
    records.read_line(&mut record)?;
    let record: Value = serde_json::from_str(&record)?;
    assert_eq!((&record["status"], &record["service"]), (&200.into(), &"service".into()), "{record}");
    Ok(())
}

#[tokio::test]
async fn a_node_says_which_plugins_are_missing_and_takes_them_up_later() -> Result {
    let upstream = Upstream::start(Behaviour::echo()).await?;
    let chameleon = Chameleon::default();
    let setup = Setup::new()
        .service_with("service", &[upstream.address()], "http1", "chain = \"main\"")
        .toml("[policy.guard]\nplugin = \"chameleon\"\n[chain]\nmain = [\"guard\"]");
    let (directory, config) = written(&setup)?;
    let plugins = directory.path().join("plugins");
    std::fs::remove_dir_all(&plugins)?;
    let process = Process::start(&config, Stdio::null())?;
    let (address, admin) = process.addresses().await?;
    process.logged("the directory", |line| line["message"].to_string().contains("plugin directory")).await;
    process.logged("the plugin", |line| line["message"].to_string().contains("there is no plugin")).await;
    let refused = client::fetch(address, "service", "/").await?;
    assert_eq!((refused.status.as_u16(), refused.header("x-weir-error")), (503, Some("policy")), "{refused:?}");

    // The directory appears, first with half a file.
    std::fs::create_dir(&plugins)?;
    let whole = chameleon.bytes("v1");
    std::fs::write(plugins.join("chameleon.wasm"), &whole[..whole.len() / 2])?;
    let line = process.logged("the refusal", |line| line["plugin"] == "chameleon" && line["level"] == "ERROR").await;
    assert!(line["message"].to_string().contains("not a WebAssembly component"), "{line}");
    std::fs::write(plugins.join("chameleon.wasm"), &whole)?;
    let line = process.logged("the reload", |line| line["message"] == "plugin reloaded").await;
    assert_eq!(line["plugin"], "chameleon");
    assert_eq!(client::fetch(address, "service", "/").await?.header("x-version"), Some("v1"));
    assert_eq!(client::fetch(admin, "admin", "/plugins").await?.json()?["plugins"][0]["last-error"], Value::Null);
    Ok(())
}

#[tokio::test]
async fn an_idle_node_looks_for_changes_now_and_then_and_not_all_the_time() -> Result {
    let (_directory, config) = written(&Setup::new().with_plugin("headers"))?;
    let process = Process::start(&config, Stdio::null())?;
    process.addresses().await?;
    // So that what was just written has been read again.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = wake_ups(process.child.id())?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let woken = wake_ups(process.child.id())? - before;
    assert!(woken < 50, "woken {woken} times in 3 s");
    Ok(())
}

/// How often the thread that reloads has waited for something.
fn wake_ups(process: u32) -> Result<u64> {
    for task in std::fs::read_dir(format!("/proc/{process}/task"))? {
        let task = task?.path();
        if std::fs::read_to_string(task.join("comm"))?.trim() == "weir-reload" {
            let status = std::fs::read_to_string(task.join("status"))?;
            let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
            return Ok(line.unwrap_or_default().trim().parse()?);
        }
    }
    anyhow::bail!("there is no thread that reloads")
}
