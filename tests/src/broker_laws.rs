//! What every broker has to do: one function for each law, run over a fixture of each kind by [`broker_laws!`].
//!
//! Laws wait for what has to happen, for longer than any server takes, and never measure how fast it did.

mod failing;
mod handing;
mod keeping;
pub mod kit;
mod limits;

pub use failing::*;
pub use handing::*;
pub use keeping::*;
pub use limits::*;

use futures_util::FutureExt;
use std::sync::Arc;
use weir::broker::{Broker, Destination};

/// A broker to try the laws on, with its server where it has one. Dropped, it stops the server and removes its data.
pub trait Fixture: Send + Sync + 'static {
    /// The broker, ready to use when the fixture has just been made or `start` has returned. Where there is a server, it is
    /// the same one all the time and finds its way back by itself; the embedded one is another after `start`.
    fn broker(&self) -> Arc<dyn Broker>;

    /// A place that nobody has used before, in which things are declared.
    fn destination(&self, name: &str) -> Destination;

    fn has(&self) -> Has;

    /// The server dies, without a chance to tidy up.
    fn kill(&self) -> impl Future<Output = ()> + Send;

    /// The server is there again, with the data and at the address it had. Does nothing where it runs.
    fn start(&self) -> impl Future<Output = ()> + Send;
}

/// What brokers may differ in. Where one lacks a thing, the host does it, or nobody.
#[derive(Debug, Clone, Copy)]
pub struct Has {
    /// Messages of a higher priority come first.
    pub priorities: bool,
    /// Messages that have expired are not handed out. Others hand them out with their `expires`.
    pub ttl: bool,
    /// `due` is waited for. Others hand the message out at once, with its `due`.
    pub delays: bool,
    /// A publish is refused when as many messages wait as the channel may have.
    pub max_length: bool,
    /// A channel keeps messages that nobody has subscribed to yet.
    pub retains: bool,
    /// Two sources of one subscription share the messages of one channel one by one, not by partitions.
    pub shares: bool,
    /// What `Receipt::failed` was told is known to whoever gets the message next.
    pub failures: bool,
    /// An acknowledgement that has returned survives a crash of the server.
    pub acks_survive: bool,
    /// `Consumption::dedup` is honoured.
    pub dedup: bool,
}

impl Has {
    pub const ALL: Self = Self {
        priorities: true,
        ttl: true,
        delays: true,
        max_length: true,
        retains: true,
        shares: true,
        failures: true,
        acks_survive: true,
        dedup: true,
    };
}

/// Whether a law ends without a panic.
pub async fn holds(law: impl Future<Output = ()>) -> bool {
    std::panic::AssertUnwindSafe(law).catch_unwind().await.is_ok()
}

/// Makes a test of each law. The function makes a fixture: `async fn setup() -> impl Fixture`. With `in one` before it, all
/// laws are tried one after the other over a single fixture, for servers that take long to start.
#[macro_export]
macro_rules! broker_laws {
    ($setup:ident) => { $crate::broker_laws!(@list each $setup); };
    (in one $setup:ident) => { $crate::broker_laws!(@list one $setup); };
    (@list $how:ident $setup:ident) => {
        $crate::broker_laws! { @ $how $setup:
            a_confirmed_message_is_delivered_whole
            an_acknowledged_message_never_comes_again
            an_unacknowledged_message_comes_again_when_its_source_is_dropped
            a_restart_keeps_what_is_unacknowledged_and_nothing_else
            a_released_message_comes_again
            a_message_that_is_kept_stays_where_it_is
            messages_come_in_the_order_of_their_publishing
            two_subscriptions_each_get_every_message
            two_sources_of_a_subscription_never_hold_the_same_message
            no_more_messages_are_held_than_prefetch
            dropping_next_loses_nothing
            many_publishes_at_once_are_all_delivered
            a_new_subscription_gets_what_the_channel_holds
            a_higher_priority_comes_first
            a_delayed_message_waits_for_its_time
            an_expired_message_is_not_delivered
            a_full_channel_refuses_and_takes_again
            a_failed_delivery_is_remembered
            an_acknowledged_id_is_not_delivered_twice
            the_backlog_counts_what_is_not_acknowledged
            a_restart_while_publishing_loses_nothing_confirmed
            a_restart_while_delivering_loses_nothing_unacknowledged
            a_broker_that_is_down_says_so_and_recovers
        }
    };
    (@ each $setup:ident: $($law:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $law() {
                $crate::broker_laws::$law(&$setup().await).await;
            }
        )*
    };
    (@ one $setup:ident: $($law:ident)*) => {
        #[tokio::test(flavor = "multi_thread")]
        async fn every_law_holds() {
            let fixture = $setup().await;
            let mut broken = Vec::new();
            $(
                eprintln!("law: {}", stringify!($law));
                if !$crate::broker_laws::holds($crate::broker_laws::$law(&fixture)).await {
                    broken.push(stringify!($law));
                    // The law may have ended while the server was down.
                    $crate::broker_laws::Fixture::start(&fixture).await;
                }
            )*
            assert!(broken.is_empty(), "these laws do not hold: {broken:?}");
        }
    };
}
