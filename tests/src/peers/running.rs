//! A proxy as a process: started where proxies run, waited for, and ended whatever happens.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use super::lineup::Proxy;
use super::load::{self, Asked};
use super::machine::Placement;

/// A node may have to compile its plugins.
const READY_WITHIN: Duration = Duration::from_secs(120);
/// What does not end by itself is killed.
const ENDED_WITHIN: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// Ended when it is dropped.
pub struct Running {
    child: Child,
    log: PathBuf,
    /// From the start to the first good answer.
    pub ready_after: Duration,
}

impl Running {
    pub async fn start(proxy: &Proxy, asked: &Asked, placement: Placement, directory: &Path) -> Result<Self> {
        let log = directory.join(&proxy.name).with_extension("log");
        let output = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let mut command = Command::new(&proxy.program);
        command.args(&proxy.arguments).current_dir(directory).env_remove("WEIR_LOG");
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let started = Instant::now();
        let child = placement.with_proxies(|| command.spawn())?;
        let child = child.with_context(|| format!("cannot start {}", proxy.program.display()))?;
        let mut running = Self { child, log, ready_after: Duration::ZERO };
        running.await_ready(proxy, asked, started).await?;
        running.ready_after = started.elapsed();
        Ok(running)
    }

    pub fn process_id(&self) -> u32 {
        self.child.id()
    }

    async fn await_ready(&mut self, proxy: &Proxy, asked: &Asked, started: Instant) -> Result<()> {
        while let Err(error) = load::once(proxy.http1, asked).await {
            let log = || std::fs::read_to_string(&self.log).unwrap_or_default();
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended at its start ({status}): {}", proxy.name, log().trim());
            }
            if started.elapsed() > READY_WITHIN {
                bail!("{} is not ready after {READY_WITHIN:?}: {error:#}; {}", proxy.name, log().trim());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }
}

impl Drop for Running {
    /// Politely at first: a build that takes notes for the next one writes them when it ends.
    fn drop(&mut self) {
        if let Some(process) = Pid::from_raw(self.child.id().cast_signed()) {
            let _ = kill_process(process, Signal::TERM);
        }
        let until = Instant::now() + ENDED_WITHIN;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < until {
            std::thread::sleep(LOOK_EVERY);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
