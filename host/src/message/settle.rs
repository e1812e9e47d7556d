//! A message that is held, and what becomes of it where it is given up.

use super::queue::Keyed;
use crate::broker::message::millis;
use crate::broker::{Message, Receipt};
use crate::snapshot::messages::Subscription;
use http::{HeaderName, HeaderValue};
use std::time::SystemTime;

/// A message that a subscription has taken and not settled.
pub struct Held {
    pub message: Message,
    /// That were made.
    pub attempts: u32,
    pub receipt: Box<dyn Receipt>,
    /// The number of the source that it came from.
    pub source: u64,
    /// The endpoint that had better not be tried again.
    pub avoid: Option<u32>,
    /// It is given up, for this reason.
    pub dead: Option<String>,
}

impl Keyed for Held {
    fn key(&self) -> Option<&str> {
        self.message.key.as_deref()
    }
}

/// The longest reason that goes with a dead letter, in bytes.
const MAX_REASON: usize = 1024;

/// The message as it goes where dead letters go: as it came, with what became of it in fields beside its own.
pub fn dead_letter(held: &Held, subscription: &Subscription) -> Message {
    const REASON: HeaderName = HeaderName::from_static("x-weir-dead-letter-reason");
    const ATTEMPTS: HeaderName = HeaderName::from_static("x-weir-dead-letter-attempts");
    const CHANNEL: HeaderName = HeaderName::from_static("x-weir-dead-letter-channel");
    const SUBSCRIPTION: HeaderName = HeaderName::from_static("x-weir-dead-letter-subscription");
    const TIME: HeaderName = HeaderName::from_static("x-weir-dead-letter-time");
    // Neither too old nor too early to be looked at.
    let mut letter = Message { expires: None, due: None, ..held.message.clone() };
    let time = millis(SystemTime::now()).to_string();
    let attempts = held.attempts.to_string();
    for (name, value) in [
        (REASON, held.dead.as_deref().unwrap_or_default()),
        (ATTEMPTS, &attempts),
        (CHANNEL, &subscription.channel.name),
        (SUBSCRIPTION, &subscription.name),
        (TIME, &time),
    ] {
        letter.headers.insert(name, printable(value));
    }
    letter
}

/// Text of any origin as a value that every broker and protocol can carry.
fn printable(text: &str) -> HeaderValue {
    let visible = |c: char| if c == ' ' || c.is_ascii_graphic() { c } else { '?' };
    let text: String = text.chars().take(MAX_REASON).map(visible).collect();
    HeaderValue::from_str(text.trim()).unwrap_or(HeaderValue::from_static(""))
}
