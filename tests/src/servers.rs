//! Message brokers as processes of their own: real ones, on free loopback ports, with data in a temporary directory.

mod nats;
mod rabbitmq;
mod redis;

pub use nats::Nats;
pub use rabbitmq::RabbitMq;
pub use redis::Redis;

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Debian packages, each of which has a program of the same name. `cargo xtask test` installs them.
pub const PACKAGES: &str = include_str!("../servers.txt");

/// Long enough for an Erlang node on a machine that is busy with other tests.
const START: Duration = Duration::from_secs(180);
const SERVER_LOG: &str = "server.log";

/// A server that answers. Killed when it is dropped, and its data is gone then.
pub struct Server {
    scheme: &'static str,
    port: u16,
    command: Command,
    child: Option<Child>,
    greeting: Greeting,
    /// What it cannot do without; outlives it.
    _helper: Option<Helper>,
    directory: TempDir,
}

/// What is said to a server, and how its answer begins once it is ready.
struct Greeting {
    ask: &'static [u8],
    answer: &'static [u8],
}

/// A process that another needs.
struct Helper(Child);

impl Server {
    /// Starts what `command` says, which listens on the port.
    async fn start(
        scheme: &'static str,
        port: u16,
        directory: TempDir,
        mut command: Command,
        greeting: Greeting,
        helper: Option<Helper>,
    ) -> Self {
        let log = File::create(directory.path().join(SERVER_LOG)).expect("a file in a new directory");
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a handle")).stderr(log);
        let mut server = Self { scheme, port, command, child: None, greeting, _helper: helper, directory };
        server.restart().await;
        server
    }

    /// Without user and password.
    pub fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.address())
    }

    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub fn runs(&self) -> bool {
        self.child.is_some()
    }

    /// By SIGKILL: whatever it has not written by now is lost.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts it again with the data it had, on the same port; kills it first if it runs.
    pub async fn restart(&mut self) {
        self.kill();
        let program = self.command.get_program().to_owned();
        self.child =
            Some(self.command.spawn().unwrap_or_else(|error| panic!("cannot start {}: {error}", program.display())));
        let until = Instant::now() + START;
        while !self.greets() {
            let ended = self.child.as_mut().and_then(|child| child.try_wait().expect("a child"));
            if ended.is_some() || Instant::now() > until {
                let log = std::fs::read_to_string(self.directory.path().join(SERVER_LOG)).unwrap_or_default();
                panic!("{} does not answer ({ended:?}):\n{log}", program.display());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn greets(&self) -> bool {
        let greet = || {
            let mut stream = TcpStream::connect(self.address())?;
            stream.set_read_timeout(Some(Duration::from_secs(2)))?;
            stream.write_all(self.greeting.ask)?;
            let mut answer = vec![0; self.greeting.answer.len()];
            stream.read_exact(&mut answer)?;
            Ok::<_, std::io::Error>(answer == self.greeting.answer)
        };
        greet().unwrap_or(false)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A program of one of the packages; Debian has daemons where the path of users does not lead.
fn program(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places = std::env::split_paths(&path).chain(["/usr/sbin".into()]).map(|place| place.join(name));
    places.find(|place| place.is_file()).unwrap_or_else(|| {
        let package = PACKAGES.lines().find(|package| *package == name).unwrap_or("erlang-base");
        panic!("no {name} is installed, and nothing goes without: `apt-get install {package}`, or `cargo xtask test` as root")
    })
}

/// A port that nobody listens on. Not one of those that connections begin at, or the next to connect could take it while
/// its server is down.
fn free_port() -> u16 {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let first: u16 = range.split_whitespace().next().and_then(|first| first.parse().ok()).unwrap_or(32768);
    for _ in 0..1000 {
        let port = rand::random_range(10_000..first.max(20_000));
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
    panic!("no port is free below {first}");
}
