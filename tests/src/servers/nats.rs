use super::{Greeting, Server, free_port, program};
use std::process::Command;

/// A NATS server with JetStream.
pub struct Nats;

impl Nats {
    pub async fn start() -> Server {
        let directory = tempfile::tempdir().expect("a directory");
        let port = free_port();
        let mut command = Command::new(program("nats-server"));
        command.args(["--addr", "127.0.0.1", "--jetstream", "--port", &port.to_string()]);
        command.arg("--store_dir").arg(directory.path());
        let greeting = Greeting { ask: b"", answer: b"INFO {" };
        Server::start("nats", port, directory, command, greeting, None).await
    }
}
