//! The built binary as a process of its own.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde_json::Value;
use tempfile::TempDir;
use tokio::signal::unix::{SignalKind, signal};

use crate::weir::Setup;

/// A built binary: cargo puts it beside other programs, and beside `deps`, where tests are.
pub fn program(name: &str) -> PathBuf {
    let own = std::env::current_exe().expect("this program has a path");
    let mut places = own.ancestors().skip(1).take(2).map(|directory| directory.join(name));
    let binary = places.find(|place| place.exists());
    binary.unwrap_or_else(|| panic!("no {name} near {}: `cargo xtask test` builds it", own.display()))
}

/// Does what a program is there for, until it is done or somebody ends it: what it started ends with it either way.
///
/// # Errors
/// What went wrong, or the signal.
pub async fn unless_stopped<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        done = work => done,
        _ = terminate.recv() => bail!("stopped by SIGTERM"),
        _ = interrupt.recv() => bail!("interrupted"),
    }
}

/// `weir`, to be told what to do.
pub fn command() -> Command {
    let mut command = Command::new(program("weir"));
    command.env_remove("WEIR_LOG").stdin(Stdio::null());
    command
}

/// Writes a configuration and returns its file; the directory keeps it.
pub fn written(setup: &Setup) -> Result<(TempDir, PathBuf)> {
    let directory = tempfile::tempdir()?;
    let config = setup.write(directory.path())?;
    Ok((directory, config))
}

/// Resident memory of this process, in bytes.
pub fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).expect("a number") * 4096
}

/// `weir run`, killed when it is dropped.
pub struct Process {
    pub child: Child,
    log: Arc<Mutex<Vec<Value>>>,
}

impl Process {
    pub fn start(config: &Path, stdout: Stdio) -> Result<Self> {
        let mut command = command();
        command.args(["run", "--config"]).arg(config);
        Self::spawn(command, stdout)
    }

    /// The same with a directory that is a file system of its own, of so many bytes, which nobody else sees: as [`inside`]
    /// shows it.
    ///
    /// [`inside`]: Self::inside
    pub fn start_on_disk_of(bytes: u64, directory: &Path, config: &Path) -> Result<Self> {
        const MOUNT: &str = r#"mount -t tmpfs -o size="$0" tmpfs "$1" && exec "$2" run --config "$3""#;
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount", "sh", "-c", MOUNT, &bytes.to_string()]);
        command.args([directory, &program("weir"), config]).env_remove("WEIR_LOG").stdin(Stdio::null());
        Self::spawn(command, Stdio::null())
    }

    /// A path as this process sees it.
    pub fn inside(&self, path: &Path) -> PathBuf {
        let root = format!("/proc/{}/root", self.child.id());
        Path::new(&root).join(path.strip_prefix("/").unwrap_or(path))
    }

    fn spawn(mut command: Command, stdout: Stdio) -> Result<Self> {
        let mut child = command.stdout(stdout).stderr(Stdio::piped()).spawn()?;
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
    pub async fn logged(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(line) = self.log.lock().unwrap().iter().find(|line| wanted(line)) {
                return line.clone();
            }
            assert!(Instant::now() < until, "waited for {what}: {:?}", self.log.lock().unwrap());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// How many lines of the log satisfy a condition so far.
    pub fn count(&self, wanted: impl Fn(&Value) -> bool) -> usize {
        self.log.lock().unwrap().iter().filter(|line| wanted(line)).count()
    }

    /// What is found in the lines of the log so far.
    pub fn find<T>(&self, find: impl Fn(&Value) -> Option<T>) -> Vec<T> {
        self.log.lock().unwrap().iter().filter_map(find).collect()
    }

    /// The addresses of the listener and of the admin pages, once it is ready.
    pub async fn addresses(&self) -> Result<(SocketAddr, SocketAddr)> {
        let address = |line: Value| line["address"].as_str().unwrap_or_default().parse();
        let listener = self.logged("a listener", |line| line["message"] == "listening").await;
        let admin = self.logged("readiness", |line| line["message"] == "ready; admin pages").await;
        Ok((address(listener)?, address(admin)?))
    }

    pub fn terminate(&self) -> Result<()> {
        let sent = Command::new("kill").arg("-TERM").arg(self.child.id().to_string()).status()?;
        assert!(sent.success());
        Ok(())
    }

    pub async fn exit_code(&mut self) -> Result<Option<i32>> {
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
