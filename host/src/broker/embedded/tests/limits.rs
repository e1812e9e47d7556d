//! What channels and subscriptions ask for.

use super::*;

fn delayed(id: impl Into<String>, delay: Duration) -> Message {
    Message { due: Some(now() + delay), ..message(id) }
}

#[tokio::test]
async fn a_message_that_all_have_had_is_gone() {
    let directory = Directory::new("gone");
    let broker = directory.open();
    let mut one = broker.consume(&subscription("one")).await.unwrap();
    let mut two = broker.consume(&subscription("two")).await.unwrap();
    let mut expires = message("expires");
    expires.expires = Some(now() + LONG);
    broker.publish(&to(), &expires).await.unwrap();
    take_ids(&mut one, 1).await;
    assert_eq!(rows(&broker, "message").await, 1, "one of two still needs it");
    take_ids(&mut two, 1).await;
    assert_eq!((rows(&broker, "message").await, rows(&broker, "entry").await), (0, 0));
}

#[tokio::test]
async fn a_retained_message_is_there_for_those_who_come_later() {
    let directory = Directory::new("retained");
    let broker = directory.open();
    let retention = Some(Duration::from_secs(3));
    let kept = channel(ChannelOptions { retention, ..ChannelOptions::default() });
    let what = |name: &str| Consumption { from: kept.clone(), ..subscription(name) };
    let mut early = broker.consume(&what("early")).await.unwrap();
    broker.publish(&kept, &message("kept")).await.unwrap();
    assert_eq!(take_ids(&mut early, 1).await, ["kept"]);
    drop(early);
    drop(broker);
    let broker = directory.open();
    let mut late = broker.consume(&what("late")).await.unwrap();
    assert_eq!(take_ids(&mut late, 1).await, ["kept"], "also after a restart");
    until_empty(&broker).await;
    let mut last = broker.consume(&what("last")).await.unwrap();
    silence(&mut last).await;
}

#[tokio::test]
async fn without_a_subscriber_messages_wait_for_one() {
    let directory = Directory::new("nobody");
    let broker = directory.open();
    let retention = Some(Duration::from_secs(1));
    let short = channel(ChannelOptions { retention, ..ChannelOptions::default() });
    broker.publish(&short, &message("short")).await.unwrap();
    until_empty(&broker).await;
    let two = channel(ChannelOptions { max_length: Some(2), ..ChannelOptions::default() });
    broker.publish(&two, &message("a")).await.unwrap();
    broker.publish(&two, &message("b")).await.unwrap();
    assert_eq!(broker.publish(&two, &message("c")).await.unwrap_err().kind, BrokerFailure::Full);
    let mut first = broker.consume(&subscription("first")).await.unwrap();
    assert_eq!(take_ids(&mut first, 2).await, ["a", "b"]);
    assert_eq!(rows(&broker, "message").await, 0, "they were for the first who comes, and not retained for others");
    broker.publish(&two, &message("c")).await.unwrap();
}

#[tokio::test]
async fn an_expired_message_leaves_the_disk() {
    let directory = Directory::new("expired");
    let broker = directory.open();
    let ttl = Some(Duration::from_millis(300));
    let short = channel(ChannelOptions { ttl, retention: Some(LONG), ..ChannelOptions::default() });
    let mut source = broker.consume(&subscription("one")).await.unwrap();
    broker.publish(&short, &message("held")).await.unwrap();
    let held = take(&mut source).await;
    assert!(held.message.expires.is_some(), "whoever delivers it can tell");
    publish_all(&broker, &short, &numbered(0..600)).await;
    until_empty(&broker).await;
    assert_eq!(broker.backlog(&subscription("one")).await.unwrap().messages, Some(0));
    silence(&mut source).await;
    held.receipt.ack().await.expect("there is nothing to do, which is fine");
}

#[tokio::test]
async fn priority_comes_before_order_however_much_waits() {
    let directory = Directory::new("priority");
    let broker = directory.open();
    let ranked = channel(ChannelOptions { max_priority: 5, ..ChannelOptions::default() });
    let what = Consumption { from: ranked.clone(), prefetch: 1, ..subscription("one") };
    drop(broker.consume(&what).await.unwrap());
    let ranked_message = |number: usize| {
        let priority = u8::try_from(number * 7 % 10).unwrap();
        Message { priority, ..message(format!("{number:04}")) }
    };
    // 6 and more count as 5.
    let place = |message: &Message| (5 - message.priority.min(5), message.id.clone());
    // More than are in memory at once, and more while they are taken.
    let first: Vec<_> = (0..1500).map(ranked_message).collect();
    publish_all(&broker, &ranked, &first).await;
    let mut waiting: std::collections::BTreeSet<_> = first.iter().map(place).collect();
    let mut source = broker.consume(&what).await.unwrap();
    for number in 1500..2000 {
        let taken = take(&mut source).await;
        assert_eq!(taken.message.id, waiting.pop_first().unwrap().1);
        taken.receipt.ack().await.unwrap();
        if number % 3 == 0 {
            let more = ranked_message(number);
            broker.publish(&ranked, &more).await.unwrap();
            waiting.insert(place(&more));
        }
    }
    drop(source);
    let mut source = broker.consume(&Consumption { prefetch: 2000, ..what }).await.unwrap();
    let mut held = Vec::new();
    for (_, id) in waiting {
        held.push(take(&mut source).await);
        assert_eq!(held.last().map(|taken| &taken.message.id), Some(&id));
    }
}

#[tokio::test]
async fn what_is_due_together_comes_together() {
    let directory = Directory::new("due");
    let broker = directory.open();
    let mut source = broker.consume(&subscription("one")).await.unwrap();
    let due = now() + Duration::from_secs(2);
    let mut all = numbered(0..700);
    all.iter_mut().for_each(|message| message.due = Some(due));
    all.push(delayed("never mind", Duration::from_secs(600)));
    publish_all(&broker, &to(), &all).await;
    let mut held = Vec::new();
    for _ in 0..700 {
        held.push(take(&mut source).await);
        assert!(now() >= due);
    }
    let ids: std::collections::BTreeSet<_> = held.iter().map(|taken| &taken.message.id).collect();
    assert_eq!(ids.len(), 700);
    silence(&mut source).await;
    assert_eq!(broker.backlog(&subscription("one")).await.unwrap().messages, Some(701));
}

#[tokio::test]
async fn a_failed_delivery_waits_unless_it_is_released() {
    let directory = Directory::new("failed");
    let broker = directory.open();
    let mut source = broker.consume(&subscription("one")).await.unwrap();
    publish(&broker, "failed").await;
    let taken = take(&mut source).await;
    let due = now() + Duration::from_secs(2);
    taken.receipt.failed(1, due).await;
    drop(taken);
    let taken = take(&mut source).await;
    assert!(now() >= due, "dropped, it comes when it is due");
    assert_eq!(taken.attempts, 1);
    taken.receipt.failed(2, now() + Duration::from_secs(3600)).await;
    taken.receipt.release().await;
    let taken = take(&mut source).await;
    assert_eq!(taken.attempts, 2, "released, it comes at once");
    drop((taken, source));
    drop(broker);
    let broker = directory.open();
    let mut source = broker.consume(&subscription("one")).await.unwrap();
    assert_eq!(take(&mut source).await.attempts, 2, "and the disk knows that as well");
}

#[tokio::test]
async fn an_id_is_known_for_as_long_as_was_asked() {
    let directory = Directory::new("known");
    let broker = directory.open();
    let mut what = subscription("one");
    what.dedup = Some(Duration::from_secs(3));
    let mut source = broker.consume(&what).await.unwrap();
    // Both are in memory, and then on disk behind many others.
    for id in ["same", "same", "x"] {
        publish(&broker, id).await;
    }
    publish_all(&broker, &to(), &numbered(0..1000)).await;
    publish(&broker, "same").await;
    assert_eq!(take_ids(&mut source, 2).await, ["same", "x"]);
    let published = now();
    let mut acks = Vec::new();
    for _ in 0..1000 {
        acks.push(take(&mut source).await.receipt.ack());
    }
    assert!(join_all(acks).await.iter().all(Result::is_ok));
    // On a slow machine the window may be over by now.
    if now() < published + Duration::from_secs(2) {
        silence(&mut source).await;
        until_empty(&broker).await;
    }
    let forgotten = async {
        while rows(&broker, "known").await > 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(LONG, forgotten).await.expect("ids are forgotten");
    drop(source);
    drop(broker);
    let broker = directory.open();
    let mut source = broker.consume(&what).await.unwrap();
    publish(&broker, "same").await;
    assert_eq!(take_ids(&mut source, 1).await, ["same"], "it is new again");
}
