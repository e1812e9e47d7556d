use super::{Greeting, Server, free_port, program};
use std::process::Command;

/// A NATS server with JetStream.
pub struct Nats;

impl Nats {
    pub async fn start() -> Server {
        let directory = tempfile::tempdir().expect("a directory");
        let port = free_port();
        let config = directory.path().join("nats.conf");
        // By default messages have 1 MiB, headers included.
        std::fs::write(&config, "max_payload: 8MB\n").expect("a file");
        let mut command = Command::new(program("nats-server"));
        command.args(["--addr", "127.0.0.1", "--jetstream", "--port", &port.to_string()]);
        command.arg("--config").arg(config).arg("--store_dir").arg(directory.path());
        let greeting = Greeting { ask: b"", answer: b"INFO {" };
        Server::start("nats", port, directory, command, greeting, None).await
    }
}
