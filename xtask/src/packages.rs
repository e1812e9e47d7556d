//! Programs that Debian has in packages of the same name: installed where they are missing and we may.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail, ensure};

/// The message brokers that tests start, one in a line.
const SERVERS: &str = include_str!("../../tests/servers.txt");

/// Sees to it that the message brokers are there that tests start.
pub fn servers() -> Result<()> {
    install(&SERVERS.lines().collect::<Vec<_>>(), "Tests start these servers, and nothing goes without")
}

/// Sees to it that all of these are there. `why` says what they are needed for.
pub fn install(programs: &[&str], why: &str) -> Result<()> {
    let missing = missing(programs);
    if missing.is_empty() {
        return Ok(());
    }
    let names = missing.join(" ");
    let hint = format!("not installed: {names}. {why}: `apt-get install {names}`, or however your system names them");
    if !rustix::process::geteuid().is_root() || !is_there("apt-get") {
        bail!(hint);
    }
    let install = ["install", "-q", "--yes", "--no-install-recommends"];
    for arguments in [&["update", "-q"][..], &[&install[..], &missing[..]].concat()] {
        let status = Command::new("apt-get").args(arguments).env("DEBIAN_FRONTEND", "noninteractive").status()?;
        ensure!(status.success(), "{hint} (apt-get {} failed)", arguments.join(" "));
    }
    ensure!(self::missing(programs).is_empty(), hint);
    Ok(())
}

fn missing<'a>(programs: &[&'a str]) -> Vec<&'a str> {
    programs.iter().copied().filter(|program| !is_there(program)).collect()
}

/// Looks also where Debian keeps daemons, which the path of users does not lead to.
fn is_there(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places = std::env::split_paths(&path);
    places.any(|place| place.join(program).is_file()) || Path::new("/usr/sbin").join(program).is_file()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        assert_eq!(missing(&["sh", "no-such-program"]), ["no-such-program"]);
    }
}
