use super::{Greeting, Helper, Server, free_port, program};
use std::path::Path;
use std::process::{Command, Stdio};

/// Debian's `rabbitmq-server` on the path becomes user `rabbitmq` first; this one stays who it is.
const SERVER: &str = "/usr/lib/rabbitmq/bin/rabbitmq-server";
const CONTROL: &str = "/usr/lib/rabbitmq/bin/rabbitmqctl";

/// A RabbitMQ node without plugins; `guest` may do anything.
pub struct RabbitMq;

impl RabbitMq {
    pub async fn start() -> Server {
        let wrapper = program("rabbitmq-server");
        let directory = tempfile::tempdir().expect("a directory");
        let (port, names) = (free_port(), free_port());
        // Erlang's names have a server of their own, or the node would start one for the whole machine and leave it.
        let mut epmd = Command::new(program("epmd"));
        epmd.args(["-address", "127.0.0.1", "-port", &names.to_string()]);
        epmd.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let epmd = Helper(epmd.spawn().expect("epmd"));

        let at = |name: &str| directory.path().join(name);
        std::fs::create_dir(at("home")).expect("a directory");
        let config = format!("listeners.tcp.1 = 127.0.0.1:{port}\nlog.console = true\nlog.file = false\n");
        std::fs::write(at("rabbitmq.conf"), config).expect("a file");

        let mut command = Command::new(if Path::new(SERVER).exists() { Path::new(SERVER) } else { &wrapper });
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("RABBITMQ_")) {
            command.env_remove(name);
        }
        command
            // Has the script become the node, so that the one that is killed is the node.
            .env("detached", "true")
            // Its cookie is made here.
            .env("HOME", at("home"))
            .env("ERL_EPMD_PORT", names.to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_NODENAME", format!("weir-{port}@localhost"))
            .env("RABBITMQ_DIST_PORT", free_port().to_string())
            .env("RABBITMQ_CONF_ENV_FILE", "/dev/null")
            .env("RABBITMQ_CONFIG_FILE", at("rabbitmq.conf"))
            .env("RABBITMQ_ADVANCED_CONFIG_FILE", at("advanced.config"))
            .env("RABBITMQ_GENERATED_CONFIG_DIR", at("config"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", at("plugins"))
            .env("RABBITMQ_MNESIA_BASE", at("data"))
            .env("RABBITMQ_LOG_BASE", at("log"))
            .env("RABBITMQ_PID_FILE", at("pid"))
            .env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "-kernel inet_dist_use_interface {127,0,0,1}");
        // A method frame of channel 0: Connection.Start.
        let greeting = Greeting { ask: b"AMQP\0\0\x09\x01", answer: b"\x01\0\0" };
        Server::start("amqp", port, directory, command, greeting, Some(epmd)).await
    }

    /// Has the node write to its disk what it was told to declare. By itself it does so up to two seconds late, so that a
    /// node that is alone and dies before has lost a queue that it said was there, and what was confirmed in it.
    pub async fn write_down(server: &Server) {
        let printed = Self::eval(server, "[dets:sync(Table) || Table <- dets:all()], disk_log:sync(latest_log).").await;
        assert_eq!(printed.trim(), "ok");
    }

    /// Has the node evaluate an Erlang expression, and returns what it prints.
    pub async fn eval(server: &Server, expression: &str) -> String {
        let control = if Path::new(CONTROL).exists() { Path::new(CONTROL).into() } else { program("rabbitmqctl") };
        let mut command = Command::new(control);
        command.args(["eval", expression]).stdin(Stdio::null());
        for (name, value) in server.command.get_envs().filter(|(name, _)| *name != "detached") {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        let output = tokio::task::spawn_blocking(move || command.output());
        let output = output.await.expect("no panic").expect("rabbitmqctl");
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "rabbitmqctl eval: {printed}{}", String::from_utf8_lossy(&output.stderr));
        printed
    }
}
