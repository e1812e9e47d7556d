//! Runs scenarios so that their instructions can be counted: see `cargo xtask count`.

use std::io::{Write, stdout};

use clap::Parser;
use weir_tests::bench::scenario::{self, Run};

/// The host's own: an exchange allocates a few dozen times.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[derive(Parser)]
struct Options {
    /// Scenarios by the beginning of their names; without any, all
    names: Vec<String>,
    /// How often to count each. What varies from run to run adds instructions, so the least is the truth
    #[arg(long, default_value_t = 1)]
    rounds: u32,
    /// How often to run it in a round; 0 prepares only
    #[arg(long, default_value_t = 100)]
    times: u32,
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let wanted = |name: &String| options.names.is_empty() || options.names.iter().any(|part| name.starts_with(part));
    let scenarios = scenario::names().into_iter().filter(wanted);
    let mut scenarios: Vec<(String, Run)> = scenarios.map(|name| (name.clone(), scenario::prepare(&name))).collect();
    if options.times == 0 {
        return Ok(());
    }
    instrument();
    for (name, run) in &mut scenarios {
        for _ in 0..options.rounds {
            // What the scenarios before have pushed out of caches comes back.
            run();
            counted(run, options.times);
            writeln!(stdout(), "{name}")?;
        }
    }
    Ok(())
}

/// All that is counted: callgrind begins where this is entered, and writes down where it is left.
#[inline(never)]
fn counted(run: &mut dyn FnMut(), times: u32) {
    for _ in 0..times {
        run();
    }
}

/// Asks callgrind to look from now on. Looking at what comes before would take ten times as long, more than plugins may
/// take to load.
#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "valgrind is asked by instructions that do nothing elsewhere")]
fn instrument() {
    /// `CALLGRIND_START_INSTRUMENTATION` of callgrind.h: the tool "CT", its fifth request.
    const START: u64 = (b'C' as u64) << 24 | (b'T' as u64) << 16 | 4;
    let request: [u64; 6] = [START, 0, 0, 0, 0, 0];
    // SAFETY: `rdi` is turned by 128 bits in all, which leaves it as it was, and `rbx` is exchanged with itself. valgrind
    // reads the request, and puts an answer into `rdx`.
    unsafe {
        std::arch::asm!(
            "rol rdi, 3",
            "rol rdi, 13",
            "rol rdi, 61",
            "rol rdi, 51",
            "xchg rbx, rbx",
            in("rax") request.as_ptr(),
            inout("rdx") 0_u64 => _,
        );
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn instrument() {}
