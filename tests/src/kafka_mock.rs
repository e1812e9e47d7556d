//! librdkafka's mock of a Kafka cluster, which speaks Kafka's protocol in this process.

use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use std::sync::mpsc;
use tokio::sync::oneshot;

pub type Mock = MockCluster<'static, DefaultProducerContext>;
type Task = Box<dyn FnOnce(&Mock) + Send>;

/// A cluster of one server. It is no other thread's than its own, and is asked to do things there.
pub struct KafkaMock {
    tasks: mpsc::Sender<Task>,
    servers: String,
}

impl KafkaMock {
    pub async fn start() -> Self {
        let (tasks, todo) = mpsc::channel::<Task>();
        let (sender, servers) = oneshot::channel();
        std::thread::spawn(move || {
            let mock = MockCluster::new(1).expect("a mock");
            sender.send(mock.bootstrap_servers()).expect("somebody who asked");
            todo.into_iter().for_each(|task| task(&mock));
        });
        Self { tasks, servers: servers.await.expect("its address") }
    }

    pub fn url(&self) -> String {
        format!("kafka://{}", self.servers)
    }

    pub async fn ask<T: Send + 'static>(&self, task: impl FnOnce(&Mock) -> T + Send + 'static) -> T {
        let (sender, done) = oneshot::channel();
        self.tasks.send(Box::new(move |mock| _ = sender.send(task(mock)))).expect("the mock's thread");
        done.await.expect("an answer")
    }

    /// Makes a topic, before whatever is asked next.
    pub fn make(&self, topic: &str, partitions: i32) {
        let topic = topic.to_owned();
        let make: Task = Box::new(move |mock| mock.create_topic(&topic, partitions, 1).expect("a topic"));
        self.tasks.send(make).expect("the mock's thread");
    }

    /// No server answers any more.
    pub async fn kill(&self) {
        self.ask(|mock| mock.broker_down(-1)).await.expect("it is down");
    }

    /// They do again, with all that they had.
    pub async fn revive(&self) {
        self.ask(|mock| mock.broker_up(-1)).await.expect("it is up");
    }
}
