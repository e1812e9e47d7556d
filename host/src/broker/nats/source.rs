//! Messages of a durable consumer, asked for as there is room for them.

use super::super::{BrokerError, BrokerFailure, Consumption, Receipt, Source, Taken};
use super::session::Session;
use super::{convert, lost, stream};
use async_nats::jetstream::consumer::PullConsumer;
use async_nats::jetstream::consumer::pull::BatchConfig;
use async_nats::jetstream::{self, AckKind, Context};
use async_nats::{Client, Request, StatusCode, Subject, Subscriber};
use async_trait::async_trait;
use futures_util::{FutureExt, StreamExt};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::unconstrained;
use tokio::time::Instant;

/// How long a server keeps a request for messages; then it says how many it has not sent.
const EXPIRES: Duration = Duration::from_secs(30);
/// How much later to believe that it has forgotten it, and to ask again.
const FORGOTTEN: Duration = Duration::from_secs(5);
/// How long an acknowledgement may take.
const ACK: Duration = Duration::from_secs(30);
const PENDING: &str = "Nats-Pending-Messages";

/// A durable consumer.
pub struct Pull {
    consumer: PullConsumer,
    context: Context,
    about: String,
    inbox: Subject,
    subscriber: Option<Subscriber>,
    prefetch: usize,
    /// Messages that were asked for and have not come, and when that was last.
    asked: usize,
    asked_at: Instant,
    held: Arc<Held>,
    runtime: Handle,
}

/// Messages that were handed out, by the order they came in, and where to answer.
struct Held {
    client: Client,
    replies: Mutex<(u64, HashMap<u64, Subject>)>,
    /// Told when there is room.
    room: Notify,
}

impl Held {
    fn lock(&self) -> MutexGuard<'_, (u64, HashMap<u64, Subject>)> {
        self.replies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, reply: Subject) -> u64 {
        let (last, replies) = &mut *self.lock();
        *last += 1;
        replies.insert(*last, reply);
        *last
    }

    fn take(&self, number: u64) -> Option<Subject> {
        let reply = self.lock().1.remove(&number);
        self.room.notify_one();
        reply
    }

    /// Where nothing comes back: the connection has ended, or it comes again once the server has waited for long enough.
    async fn say(&self, reply: Subject, what: AckKind) {
        let _ = self.client.publish(reply, what.into()).await;
    }
}

impl Pull {
    pub async fn open(session: &Session, what: &Consumption, runtime: &Handle) -> Result<Self, BrokerError> {
        let about = format!("subscription {:?} to {:?}", what.name, what.from.address);
        let consumer = stream::subscribe(session.context(), what).await?;
        let client = session.client().clone();
        let inbox = Subject::from(client.new_inbox());
        let subscriber = client.subscribe(inbox.clone()).await.map_err(|error| lost(error, &about))?;
        Ok(Self {
            consumer,
            context: session.context().clone(),
            about,
            inbox,
            subscriber: Some(subscriber),
            prefetch: what.prefetch.max(1) as usize,
            asked: 0,
            asked_at: Instant::now(),
            held: Arc::new(Held { client, replies: Mutex::default(), room: Notify::new() }),
            runtime: runtime.clone(),
        })
    }

    /// Asks for as many as there is room for. Not for each one alone: half of what there may be is soon enough.
    async fn ask(&mut self) -> Result<(), BrokerError> {
        if self.asked > 0 && self.asked_at.elapsed() > EXPIRES + FORGOTTEN {
            self.asked = 0;
        }
        let room = self.prefetch.saturating_sub(self.held.lock().1.len() + self.asked);
        if room == 0 || self.asked > room {
            return Ok(());
        }
        let batch = BatchConfig { batch: room, expires: Some(EXPIRES), ..Default::default() };
        let asked = self.consumer.request_batch(batch, self.inbox.clone()).await;
        asked.map_err(|error| lost(error, &self.about))?;
        self.asked += room;
        self.asked_at = Instant::now();
        Ok(())
    }

    /// What a message of the server's own says; an error is the end.
    fn heed(&mut self, status: StatusCode, message: &async_nats::Message) -> Result<(), BrokerError> {
        let unsent = message.headers.as_ref().and_then(|headers| headers.get_last(PENDING));
        let unsent = unsent.and_then(|unsent| unsent.as_str().parse::<usize>().ok());
        match (status, unsent) {
            (StatusCode::IDLE_HEARTBEAT, _) => {}
            (_, Some(unsent)) => self.asked = self.asked.saturating_sub(unsent),
            (StatusCode::TIMEOUT | StatusCode::NOT_FOUND, None) => self.asked = 0,
            _ => {
                let said = message.description.as_deref().unwrap_or("it does not say why");
                return Err(lost(format!("the server ends it: {status} {said}"), &self.about));
            }
        }
        Ok(())
    }
}

#[async_trait]
impl Source for Pull {
    async fn next(&mut self) -> Result<Taken, BrokerError> {
        loop {
            self.ask().await?;
            let Some(subscriber) = &mut self.subscriber else { return Err(lost("it has ended", &self.about)) };
            // None of these loses anything when it is dropped.
            let message = tokio::select! {
                message = subscriber.next() => message.ok_or_else(|| lost("the connection broke", &self.about))?,
                () = self.held.room.notified() => continue,
                () = tokio::time::sleep(EXPIRES + FORGOTTEN) => continue,
            };
            match message.status {
                None | Some(StatusCode::OK) => {}
                Some(status) => {
                    self.heed(status, &message)?;
                    continue;
                }
            }
            self.asked = self.asked.saturating_sub(1);
            // What is not the stream's has no place to answer to.
            let Some(reply) = message.reply.clone() else { continue };
            let delivery = jetstream::Message { context: self.context.clone(), message };
            let message = convert::message(&delivery);
            // Also deliveries that never got far count here: to a node that was lost, or that gave the message back.
            let attempts = delivery.info().map_or(0, |info| info.delivered.saturating_sub(1));
            let number = self.held.add(reply);
            let receipt = Open { number: Some(number), held: self.held.clone(), runtime: self.runtime.clone() };
            let attempts = u32::try_from(attempts).unwrap_or(0);
            return Ok(Taken { message, attempts, receipt: Box::new(receipt) });
        }
    }
}

impl Drop for Pull {
    fn drop(&mut self) {
        // From now on all receipts are void.
        let mut replies: Vec<_> = std::mem::take(&mut self.held.lock().1).into_values().collect();
        if let Some(mut subscriber) = self.subscriber.take() {
            while let Some(Some(message)) = unconstrained(subscriber.next()).now_or_never() {
                replies.extend(message.reply.filter(|_| message.status.is_none()));
            }
            // The server hears of its end before anything is given back, or that would come here again. What crosses that on
            // its way waits for the server to miss it.
        }
        let (held, consumer) = (self.held.clone(), self.consumer.clone());
        self.runtime.spawn(async move {
            // Has the server throw away requests that nobody listens for any more. Up to 2.9 it may otherwise take a message
            // for one of them, notice then, and hand out another twice instead.
            let _ = consumer.get_info().await;
            // Once each: it may also hand out again what was acknowledged, when that is given back later.
            for reply in replies {
                held.say(reply, AckKind::Nak(None)).await;
            }
        });
    }
}

/// A delivery that the server waits to hear about.
struct Open {
    number: Option<u64>,
    held: Arc<Held>,
    runtime: Handle,
}

impl Open {
    fn take(&mut self) -> Option<Subject> {
        self.held.take(self.number.take()?)
    }
}

#[async_trait]
impl Receipt for Open {
    async fn ack(mut self: Box<Self>) -> Result<(), BrokerError> {
        const ABOUT: &str = "acknowledgement";
        let Some(reply) = self.take() else {
            return Err(BrokerError::new(BrokerFailure::Lost, format!("{ABOUT}: its source has ended")));
        };
        let request = Request::new().payload(AckKind::Ack.into()).timeout(Some(ACK));
        self.held.client.send_request(reply, request).await.map(|_| ()).map_err(|error| lost(error, ABOUT))
    }

    async fn release(mut self: Box<Self>) {
        if let Some(reply) = self.take() {
            self.held.say(reply, AckKind::Nak(None)).await;
        }
    }

    async fn keep(&self) {
        let reply = self.number.and_then(|number| self.held.lock().1.get(&number).cloned());
        if let Some(reply) = reply {
            self.held.say(reply, AckKind::Progress).await;
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Some(reply) = self.take() {
            let held = self.held.clone();
            self.runtime.spawn(async move { held.say(reply, AckKind::Nak(None)).await });
        }
    }
}
