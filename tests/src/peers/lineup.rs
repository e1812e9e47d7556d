//! The proxies that are measured, each with what it is told.

mod envoy;
mod peers;
mod weir;

use std::ffi::OsString;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::endpoints::Endpoints;
use super::load::Asked;
use super::options::Options;
use crate::process;

/// What the others are compared with, in the order of the tables.
pub const REFERENCES: [&str; 4] = [FLOOR, NGINX, ENVOY_POLICIES, WEIR_EMPTY];

pub const FLOOR: &str = "floor";
pub const NGINX: &str = "nginx";
const HAPROXY: &str = "haproxy";
const ENVOY: &str = "envoy";
const ENVOY_POLICIES: &str = "envoy-policies";
pub const WEIR_EMPTY: &str = "weir-empty";
const WEIR_FIVE: &str = "weir-five";

/// A proxy of one process.
#[derive(Debug)]
pub struct Proxy {
    pub name: String,
    pub program: PathBuf,
    pub arguments: Vec<OsString>,
    pub http1: SocketAddr,
    /// None if it cannot forward HTTP/2 as HTTP/2.
    pub http2: Option<SocketAddr>,
}

#[derive(Debug, Default)]
pub struct LineUp {
    pub proxies: Vec<Proxy>,
    /// Of each program, with what it is told in words.
    pub versions: Vec<String>,
    /// What is not there, and how to get it.
    pub absent: Vec<String>,
}

/// What configurations are made from.
struct Scene<'a> {
    directory: &'a Path,
    endpoints: &'a Endpoints,
    asked: &'a Asked,
    ports: Ports,
}

impl LineUp {
    /// All that are installed, or those of them that are asked for; their configurations are written to the directory.
    pub fn find(options: &Options, directory: &Path, endpoints: &Endpoints, asked: &Asked) -> Result<Self> {
        let scene = Scene { directory, endpoints, asked, ports: Ports::default() };
        let mut all = Self::default();
        all.add_floor(&scene)?;
        all.add_peers(&scene, options)?;
        all.add_weir(&scene, options)?;
        let known: Vec<&str> = all.proxies.iter().map(|proxy| &*proxy.name).collect();
        for name in &options.only {
            ensure!(known.contains(&&**name), "--only {name}: there is {}", known.join(", "));
        }
        all.proxies.retain(|proxy| options.only.is_empty() || options.only.contains(&proxy.name));
        Ok(all)
    }

    fn add_floor(&mut self, scene: &Scene) -> Result<()> {
        let [http1, http2] = scene.ports.two()?;
        let addresses = [http1, http2].into_iter().chain(scene.endpoints.addresses);
        let arguments = std::iter::once("floor".into()).chain(addresses.map(|address| address.to_string().into()));
        self.proxies.push(Proxy {
            name: FLOOR.into(),
            program: process::program("peers"),
            arguments: arguments.collect(),
            http1,
            http2: Some(http2),
        });
        self.versions.push("floor: the least that a proxy made of hyper does; part of this program".into());
        Ok(())
    }

    fn add_peers(&mut self, scene: &Scene, options: &Options) -> Result<()> {
        if let Some(nginx) = self.find_program(NGINX, "apt-get install nginx-light") {
            self.proxies.push(peers::nginx(scene, nginx)?);
        }
        if let Some(haproxy) = self.find_program(HAPROXY, "apt-get install haproxy") {
            self.proxies.push(peers::haproxy(scene, haproxy)?);
        }
        let envoy = match &options.envoy {
            Some(path) => {
                ensure!(path.is_file(), "--envoy {}: there is no such file", path.display());
                self.has_version(ENVOY, path);
                Some(path.clone())
            }
            None => {
                self.find_program(ENVOY, "not in Debian, see https://www.envoyproxy.io/docs; `--envoy PATH` names it")
            }
        };
        if let Some(envoy) = envoy {
            self.proxies.push(envoy::plain(scene, &envoy)?);
            self.proxies.push(envoy::with_policies(scene, &envoy)?);
            self.versions.push("envoy-policies: jwt_authn with its cache, retry policy, circuit breakers, outlier detection, 1 % of traces".into());
        }
        Ok(())
    }

    fn add_weir(&mut self, scene: &Scene, options: &Options) -> Result<()> {
        let own = process::program("weir");
        let builds = [("weir", Some(&own)), ("other", options.against.as_ref())];
        for (prefix, program) in builds.into_iter().filter_map(|(prefix, program)| Some((prefix, program?))) {
            ensure!(program.is_file(), "--against {}: there is no such file", program.display());
            self.has_version(prefix, program);
            self.proxies.push(weir::with(scene, program, format!("{prefix}-empty"), &[])?);
            self.proxies.push(weir::with(scene, program, format!("{prefix}-five"), &weir::FIVE)?);
            for policy in weir::FIVE.iter().filter(|_| options.each) {
                let name = format!("{prefix}-{}", policy.plugin);
                self.proxies.push(weir::with(scene, program, name, std::slice::from_ref(policy))?);
            }
        }
        let five = weir::FIVE.map(|policy| policy.plugin).join(", ");
        self.versions.push(format!("{WEIR_EMPTY}: no policies; {WEIR_FIVE}: {five}"));
        Ok(())
    }

    /// A program in PATH, or where Debian has what it puts in root's PATH only.
    fn find_program(&mut self, name: &str, how_to_get_it: &str) -> Option<PathBuf> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let directories = std::env::split_paths(&path).chain(["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from));
        let found = directories.map(|directory| directory.join(name)).find(|file| file.is_file());
        match &found {
            Some(program) => self.has_version(name, program),
            None => self.absent.push(format!("{name} is not installed ({how_to_get_it})")),
        }
        found
    }

    fn has_version(&mut self, name: &str, program: &Path) {
        // nginx knows only the short form, and writes to stderr; the others know both.
        let flag = if name == NGINX { "-v" } else { "--version" };
        let output = Command::new(program).arg(flag).output();
        let text = output.map(|output| [output.stdout, output.stderr].concat()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        let line = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("unknown version");
        let version = line.rsplit_once("version: ").map_or(line, |(_, version)| version);
        self.versions.push(format!("{name}: {version}"));
    }
}

impl Scene<'_> {
    /// Writes a file and returns its path.
    fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.directory.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }
}

/// Ports that are free, below those that the system gives to connections: between two starts of a proxy nobody else gets
/// its port.
struct Ports(std::cell::Cell<u16>);

impl Default for Ports {
    fn default() -> Self {
        // Two that run at once look in different places.
        let first = 20_000 + 10 * (std::process::id() % 1000);
        Self(std::cell::Cell::new(first as u16))
    }
}

impl Ports {
    fn one(&self) -> Result<SocketAddr> {
        while self.0.get() < 32_000 {
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.0.replace(self.0.get() + 1)));
            if TcpListener::bind(address).is_ok() {
                return Ok(address);
            }
        }
        anyhow::bail!("no free port below 32000")
    }

    fn two(&self) -> Result<[SocketAddr; 2]> {
        Ok([self.one()?, self.one()?])
    }
}
