//! Many things at once, in an order that nobody has thought of.

use super::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeSet;

/// All that a consumer may do, checked against what was confirmed and acknowledged.
#[tokio::test]
async fn whatever_happens_nothing_is_lost_and_nothing_comes_after_its_acknowledgement() {
    for seed in 0..3 {
        let directory = Directory::new(&format!("model-{seed}"));
        let mut random = StdRng::seed_from_u64(seed);
        let mut what = subscription("one");
        what.prefetch = random.random_range(1..40);
        let mut broker = directory.open();
        let mut source = broker.consume(&what).await.unwrap();
        let (mut open, mut held, mut next) = (BTreeSet::new(), Vec::new(), 0);
        for _ in 0..400 {
            match random.random_range(0..100) {
                0..30 => {
                    let count = random.random_range(1..80);
                    let messages = numbered(next..next + count);
                    next += count;
                    publish_all(&broker, &to(), &messages).await;
                    open.extend(messages.into_iter().map(|message| message.id));
                }
                30..60 => {
                    while let Ok(taken) = tokio::time::timeout(Duration::from_millis(1), source.next()).await {
                        let taken = taken.unwrap();
                        assert!(open.contains(&taken.message.id), "{} was acknowledged", taken.message.id);
                        held.push(taken);
                        assert!(held.len() <= what.prefetch as usize);
                    }
                }
                60..90 if !held.is_empty() => {
                    let taken: Taken = held.swap_remove(random.random_range(0..held.len()));
                    open.remove(&taken.message.id);
                    taken.receipt.ack().await.unwrap();
                }
                90..94 if !held.is_empty() => held.swap_remove(0).receipt.release().await,
                94..96 if !held.is_empty() => {
                    let taken = held.swap_remove(0);
                    taken.receipt.failed(1, now() + Duration::from_millis(random.random_range(0..50))).await;
                }
                96..98 => {
                    drop(source);
                    held.clear();
                    source = broker.consume(&what).await.unwrap();
                }
                98 => {
                    drop((source, broker));
                    held.clear();
                    broker = directory.open();
                    source = broker.consume(&what).await.unwrap();
                }
                _ => {}
            }
        }
        assert_eq!(broker.backlog(&what).await.unwrap().messages, Some(open.len() as u64));
        held.clear();
        let mut acks = Vec::new();
        while !open.is_empty() {
            let taken = take(&mut source).await;
            assert!(open.remove(&taken.message.id), "{} came again", taken.message.id);
            acks.push(tokio::spawn(taken.receipt.ack()));
        }
        assert!(join_all(acks).await.into_iter().all(|ack| ack.unwrap().is_ok()));
        silence(&mut source).await;
        assert_eq!((rows(&broker, "message").await, rows(&broker, "entry").await), (0, 0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn large_messages_come_in_order_and_not_all_at_once_into_memory() {
    let directory = Directory::new("large");
    let broker = directory.open();
    let mut source = broker.consume(&subscription("one")).await.unwrap();
    let body = Bytes::from(vec![1; 3 << 20]);
    for number in 0..15 {
        let message = Message { body: body.clone(), ..message(number.to_string()) };
        broker.publish(&to(), &message).await.unwrap();
    }
    for number in 0..15 {
        let taken = take(&mut source).await;
        assert_eq!((taken.message.id, taken.message.body.len()), (number.to_string(), body.len()));
        taken.receipt.ack().await.unwrap();
    }
    until_empty(&broker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_is_far_behind_gets_all_in_order_while_more_is_published() {
    let directory = Directory::new("behind");
    let broker = Arc::new(directory.open());
    drop(broker.consume(&subscription("one")).await.unwrap());
    publish_all(&broker, &to(), &numbered(0..2000)).await;
    let publisher = tokio::spawn({
        let broker = Arc::clone(&broker);
        async move {
            for number in 2000..2500 {
                publish(&broker, format!("{number:04}")).await;
            }
        }
    });
    let mut source = broker.consume(&subscription("one")).await.unwrap();
    let mut acks = Vec::new();
    let mut last = String::new();
    for _ in 0..2500 {
        let taken = take(&mut source).await;
        assert!(taken.message.id > last, "{} came after {last}", taken.message.id);
        last = taken.message.id.clone();
        acks.push(tokio::spawn(taken.receipt.ack()));
    }
    publisher.await.unwrap();
    for ack in acks {
        ack.await.unwrap().unwrap();
    }
    until_empty(&broker).await;
}
