//! The built binary with a configuration of some size.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tempfile::TempDir;

use crate::process::{Process, command};
use crate::soak::health::Proc;
use crate::weir::Setup;

/// After this long a process has given back what it needed to start.
const SETTLED: Duration = Duration::from_millis(700);

/// A configuration in a directory of its own.
pub struct Files {
    directory: TempDir,
    config: PathBuf,
}

impl Files {
    pub fn write(setup: &Setup) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let config = setup.write(directory.path())?;
        Ok(Self { directory, config })
    }

    pub fn text(&self) -> Result<String> {
        Ok(fs::read_to_string(&self.config)?)
    }

    /// How long `weir check` takes.
    pub fn check(&self) -> Result<Duration> {
        let begun = Instant::now();
        let output = command().args(["check", "--config"]).arg(&self.config).output()?;
        ensure!(output.status.success(), "weir check: {}", String::from_utf8_lossy(&output.stderr));
        Ok(begun.elapsed())
    }

    /// Keeps a text beside the configuration, in a directory that nobody watches.
    pub fn keep(&self, name: &str, text: &str) -> Result<Kept> {
        let beside = self.directory.path().join("kept");
        fs::create_dir_all(&beside)?;
        let file = beside.join(name);
        fs::write(&file, text)?;
        Ok(Kept(file))
    }

    /// Puts a text in place, at one instant and without a copy, which would take time from what is measured.
    pub fn put(&self, kept: &Kept) -> Result<()> {
        let next = kept.0.with_extension("next");
        fs::hard_link(&kept.0, &next)?;
        Ok(fs::rename(next, &self.config)?)
    }
}

/// A text that may be put in place again and again.
pub struct Kept(PathBuf);

/// A running weir.
pub struct Node {
    process: Process,
    pub address: SocketAddr,
    pub ready_after: Duration,
}

impl Node {
    pub async fn start(files: &Files) -> Result<Self> {
        let begun = Instant::now();
        let process = Process::start(&files.config, Stdio::null())?;
        let (address, _) = process.addresses().await?;
        Ok(Self { process, address, ready_after: begun.elapsed() })
    }

    /// Bytes of resident memory, once the process has come to rest.
    pub async fn resident(&self) -> Result<f64> {
        self.resident_after(SETTLED).await
    }

    pub async fn resident_after(&self, time: Duration) -> Result<f64> {
        tokio::time::sleep(time).await;
        Ok(Proc::new(self.process.child.id()).sample(0)?.rss_kib as f64 * 1024.0)
    }

    /// How long each reload of the configuration so far took the thread that reloads, in milliseconds.
    pub fn reloads(&self) -> Vec<f64> {
        self.process.find(|line| (line["message"] == "configuration reloaded").then(|| line["ms"].as_f64())?)
    }
}
