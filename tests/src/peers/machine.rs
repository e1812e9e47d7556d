//! The machine that is measured on: which CPUs, how fast just now, and what else runs.

use std::fs;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Open files of this program: the connections of all proxies end here.
const FILES: u64 = 16 * 1024;

/// A CPU for the proxies and one for the load and the services; none where there are not two.
#[derive(Clone, Copy, Debug)]
pub struct Placement(Option<[usize; 2]>);

impl Placement {
    /// The first two CPUs that this program may use.
    pub fn find() -> Result<Self> {
        let allowed = sched_getaffinity(None).context("cannot tell which CPUs there are")?;
        let mut cpus = (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu));
        Ok(Self(cpus.next().zip(cpus.next()).map(|(proxy, load)| [proxy, load])))
    }

    /// Puts this thread, and those that it will start, where the load is made.
    pub fn enter(self) -> Result<()> {
        self.0.map_or(Ok(()), |[_, load]| pin(load))
    }

    /// Does something where the proxies run. A process that is started there stays there.
    pub fn with_proxies<T: Send>(self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let Some([proxy, _]) = self.0 else { return Ok(work()) };
        let on_proxy_cpu = || pin(proxy).map(|()| work());
        thread::scope(|scope| scope.spawn(on_proxy_cpu).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    pub fn describe(self) -> String {
        match self.0 {
            Some([proxy, load]) => format!("proxies on CPU {proxy}, load and services on CPU {load}"),
            None => "proxies, load and services on one CPU: the figures are of little use".into(),
        }
    }
}

fn pin(cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set).with_context(|| format!("cannot run on CPU {cpu}"))
}

/// Lets this process, and those that it will start, open as many files as they may and need.
pub fn allow_files() -> Result<()> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = maximum.map_or(FILES, |maximum| maximum.min(FILES));
    if current.is_none_or(|current| current >= wanted) {
        return Ok(());
    }
    setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum })
        .context("cannot raise the limit of open files")
}

/// CPU time of a process so far, in nanoseconds; that of threads which have ended is left out.
pub fn cpu_time(process: u32) -> Result<u64> {
    let mut nanoseconds = 0;
    let gone = || format!("process {process} is gone");
    for task in fs::read_dir(format!("/proc/{process}/task")).with_context(gone)?.flatten() {
        // A thread may end while one looks.
        let Ok(schedstat) = fs::read_to_string(task.path().join("schedstat")) else { continue };
        let on_cpu = schedstat.split(' ').next().and_then(|number| number.parse::<u64>().ok());
        nanoseconds += on_cpu.context("/proc/…/schedstat has no CPU time: the kernel lacks CONFIG_SCHED_INFO")?;
    }
    Ok(nanoseconds)
}

/// How long all CPUs together were busy since the machine started, in steps of 10 ms.
pub fn busy() -> Result<Duration> {
    let stat = fs::read_to_string("/proc/stat")?;
    // user, nice, system, idle, iowait, irq, softirq (proc(5)).
    let fields: Vec<u64> = stat.split_whitespace().skip(1).take(7).filter_map(|field| field.parse().ok()).collect();
    let [user, nice, system, _, _, irq, softirq] = fields[..] else { anyhow::bail!("/proc/stat has no line of CPUs") };
    Ok(Duration::from_millis(10 * (user + nice + system + irq + softirq)))
}

/// How long a fixed piece of work takes on this CPU, just now.
pub fn canary() -> Duration {
    let begun = Instant::now();
    let (mut table, mut number) = (vec![0_u64; 4096], 1_u64);
    for step in 0..4_000_000_u64 {
        number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        table[(number >> 52) as usize] ^= step;
    }
    std::hint::black_box(table);
    begun.elapsed()
}

/// The commit that is checked out, if there is a repository to ask.
pub fn commit() -> Option<String> {
    let mut git = Command::new("git");
    let described = git.args(["-C", env!("CARGO_MANIFEST_DIR"), "describe", "--always", "--dirty"]).output().ok()?;
    described.status.success().then(|| format!("repository: {}", String::from_utf8_lossy(&described.stdout).trim()))
}

/// CPUs and kernel.
pub fn describe() -> String {
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let count = cpus.lines().filter(|line| line.starts_with("processor")).count();
    let model = model.map_or("unknown CPU", |(_, name)| name);
    format!("{count} × {model}, Linux {}", kernel.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_seen_as_cpu_time_and_as_a_busy_machine() -> Result<()> {
        let (own, all) = (cpu_time(std::process::id())?, busy()?);
        let mut worked = Duration::ZERO;
        while worked < Duration::from_millis(50) {
            worked += canary();
        }
        // Nothing of what other tests use can be taken away from it.
        assert!(cpu_time(std::process::id())? > own);
        assert!(busy()? > all);
        Ok(())
    }

    #[test]
    fn what_runs_where_the_proxies_are_leaves_this_thread_where_it_was() -> Result<()> {
        let placement = Placement::find()?;
        let allowed = || sched_getaffinity(None).map(|set| set.count());
        let before = allowed()?;
        let there = placement.with_proxies(allowed)??;
        assert!(there == 1 || before == 1, "{there} CPUs");
        assert_eq!(allowed()?, before);
        Ok(())
    }
}
