//! The programs of the demo: started, watched, and stopped however the demo ends.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::cargo::Workspace;

/// Time to drain after SIGTERM, before SIGKILL.
const PATIENCE: Duration = Duration::from_secs(10);

/// A program of this workspace, built with the dev profile.
pub fn command(workspace: &Workspace, program: &str) -> Command {
    let mut command = Command::new(workspace.target.join("debug").join(program));
    command.current_dir(&workspace.root).stdin(Stdio::null());
    command
}

/// Running programs, stopped in the reverse order of their start when this is dropped.
#[derive(Default)]
pub struct Processes {
    running: Vec<(String, Child)>,
}

impl Processes {
    pub fn start(&mut self, name: &str, mut command: Command) -> Result<()> {
        // A group of its own: Ctrl-C in the terminal reaches the demo only, which stops all in order.
        let child = command.process_group(0).spawn();
        let child = child.with_context(|| format!("cannot start {name} ({:?})", command.get_program()))?;
        self.running.push((name.to_owned(), child));
        Ok(())
    }

    /// Fails when a program has ended by itself.
    pub fn require_alive(&mut self) -> Result<()> {
        for (name, child) in &mut self.running {
            if let Some(status) = child.try_wait()? {
                bail!("{name} ended ({status})");
            }
        }
        Ok(())
    }

    /// The last one started, the proxy, drains while the services behind it still answer.
    pub fn stop(&mut self) {
        while let Some((name, mut child)) = self.running.pop() {
            if let Err(error) = stop(&mut child) {
                eprintln!("xtask: {name} (process {}) could not be stopped: {error}", child.id());
            }
        }
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        self.stop();
    }
}

fn stop(child: &mut Child) -> std::io::Result<()> {
    if child.try_wait()?.is_some() {
        return Ok(());
    }
    kill_process(Pid::from_child(child), Signal::TERM)?;
    let asked = Instant::now();
    while asked.elapsed() < PATIENCE {
        if child.try_wait()?.is_some() {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(20));
    }
    child.kill()?;
    child.wait().map(drop)
}
