//! Whom a broker hands messages to, and in which order.

use super::Fixture;
use super::kit::*;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub async fn a_released_message_comes_again(fixture: &impl Fixture) {
    let (broker, to) = (fixture.broker(), fixture.destination("released"));
    let mut source = open(&*broker, &subscription("released", &to)).await;
    publish(&*broker, &to, &message("released")).await;
    for _ in 0..3 {
        let taken = take(&mut source).await;
        assert_eq!(taken.message.id, "released");
        within("the release", taken.receipt.release()).await;
    }
    assert_eq!(take_ids(&mut source, 1).await, ["released"]);
    silence(&mut source).await;
}

pub async fn messages_come_in_the_order_of_their_publishing(fixture: &impl Fixture) {
    let (broker, to) = (fixture.broker(), fixture.destination("order"));
    let what = subscription("order", &to);
    let mut source = open(&*broker, &what).await;
    // Some to a consumer that waits, some that lie there when it comes.
    let first = ids("waited-for", 100);
    publish_all(&*broker, &to, &first).await;
    assert_eq!(take_ids(&mut source, 100).await, first);
    drop(source);
    let second = ids("lying-there", 200);
    publish_all(&*broker, &to, &second).await;
    let mut source = open(&*broker, &what).await;
    assert_eq!(take_ids(&mut source, 200).await, second);
}

pub async fn two_subscriptions_each_get_every_message(fixture: &impl Fixture) {
    let (broker, to) = (fixture.broker(), fixture.destination("each"));
    let mut one = open(&*broker, &subscription("one", &to)).await;
    let mut two = open(&*broker, &subscription("two", &to)).await;
    let all = ids("each", 20);
    publish_all(&*broker, &to, &all).await;
    assert_eq!(take_ids(&mut one, 20).await, all);
    assert_eq!(take_ids(&mut two, 20).await, all);
    silence(&mut one).await;
}

pub async fn two_sources_of_a_subscription_never_hold_the_same_message(fixture: &impl Fixture) {
    let (broker, to) = (fixture.broker(), fixture.destination("share"));
    let mut what = subscription("share", &to);
    what.prefetch = 5;
    let held = Arc::new(Mutex::new(BTreeSet::new()));
    let done = Arc::new(Mutex::new(BTreeSet::new()));
    let all = ids("share", 200);
    let workers: Vec<_> = [open(&*broker, &what).await, open(&*broker, &what).await]
        .into_iter()
        .map(|mut source| {
            let (held, done, total) = (Arc::clone(&held), Arc::clone(&done), all.len());
            tokio::spawn(async move {
                let mut mine = 0;
                while done.lock().unwrap().len() < total {
                    // The other one may get the last.
                    let Ok(taken) = tokio::time::timeout(Duration::from_millis(200), source.next()).await else {
                        continue;
                    };
                    let taken = taken.expect("a message, not the end of the source");
                    let id = taken.message.id.clone();
                    assert!(held.lock().unwrap().insert(id.clone()), "{id} is held by both");
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    // It may come to the other as soon as it is not held here, but only if it is not acknowledged.
                    held.lock().unwrap().remove(&id);
                    ack(taken).await;
                    done.lock().unwrap().insert(id);
                    mine += 1;
                }
                mine
            })
        })
        .collect();
    publish_all(&*broker, &to, &all).await;
    let mut shares = Vec::new();
    for worker in workers {
        shares.push(within("all messages", worker).await.expect("a worker that ends well"));
    }
    assert_eq!(shares.iter().sum::<usize>(), all.len(), "no message came twice");
    if fixture.has().shares {
        assert!(!shares.contains(&0), "both have worked: {shares:?}");
    }
}

pub async fn no_more_messages_are_held_than_prefetch(fixture: &impl Fixture) {
    let (broker, to) = (fixture.broker(), fixture.destination("prefetch"));
    let mut what = subscription("prefetch", &to);
    what.prefetch = 3;
    let mut source = open(&*broker, &what).await;
    let all = ids("prefetch", 20);
    publish_all(&*broker, &to, &all).await;
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(take(&mut source).await);
    }
    silence(&mut source).await;
    // Each that is settled makes room for one, in whatever order.
    ack(held.remove(1)).await;
    held.push(take(&mut source).await);
    silence(&mut source).await;
    for taken in held {
        ack(taken).await;
    }
    assert_eq!(take_ids(&mut source, 16).await, all[4..]);
}

/// The host waits for a message and for other things at once.
pub async fn dropping_next_loses_nothing(fixture: &impl Fixture) {
    let (broker, to) = (fixture.broker(), fixture.destination("cancel"));
    let mut what = subscription("cancel", &to);
    what.prefetch = 4;
    let mut source = open(&*broker, &what).await;
    let all = ids("cancel", 300);
    let publisher = tokio::spawn({
        let (broker, to, all) = (Arc::clone(&broker), to.clone(), all.clone());
        async move { publish_all(&*broker, &to, &all).await }
    });
    let mut seen = Vec::new();
    within("all messages", async {
        let mut turn = 0;
        while seen.len() < all.len() {
            // Also polled once and dropped at the first wait.
            turn = (turn + 1) % 4;
            let limit = Duration::from_micros(turn * 700);
            if let Ok(taken) = tokio::time::timeout(limit, source.next()).await {
                let taken = taken.expect("a message, not the end of the source");
                seen.push(taken.message.id.clone());
                ack(taken).await;
            }
        }
    })
    .await;
    publisher.await.unwrap();
    assert_eq!(seen, all);
}

pub async fn many_publishes_at_once_are_all_delivered(fixture: &impl Fixture) {
    let (broker, to) = (fixture.broker(), fixture.destination("many"));
    let what = subscription("many", &to);
    let mut source = open(&*broker, &what).await;
    let publishers: Vec<_> = (0..16)
        .map(|task| {
            let (broker, to, ids) = (Arc::clone(&broker), to.clone(), ids(&format!("many-{task}"), 32));
            tokio::spawn(async move {
                publish_all(&*broker, &to, &ids).await;
                ids
            })
        })
        .collect();
    let mut wanted = BTreeSet::new();
    let mut seen = BTreeSet::new();
    for _ in 0..16 * 32 {
        let taken = take(&mut source).await;
        assert!(seen.insert(taken.message.id.clone()), "{} came twice", taken.message.id);
        ack(taken).await;
    }
    for publisher in publishers {
        wanted.extend(publisher.await.unwrap());
    }
    assert_eq!(seen, wanted);
}
