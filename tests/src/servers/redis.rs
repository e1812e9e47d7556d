use super::{Greeting, Server, free_port, program};
use std::process::Command;

/// A Redis server that answers once what it was told is on the disk.
pub struct Redis;

impl Redis {
    pub async fn start() -> Server {
        let directory = tempfile::tempdir().expect("a directory");
        let port = free_port();
        let mut command = Command::new(program("redis-server"));
        command.args(["--bind", "127.0.0.1", "--port", &port.to_string()]).arg("--dir").arg(directory.path());
        command.args(["--appendonly", "yes", "--appendfsync", "always", "--save", ""]);
        // While it reads its data in, it says so instead.
        let greeting = Greeting { ask: b"PING\r\n", answer: b"+PONG" };
        Server::start("redis", port, directory, command, greeting, None).await
    }
}
