//! What channels and subscriptions ask for. A broker that lacks a thing must still hand the message out with all that the
//! host needs to do it.

use super::Fixture;
use super::kit::*;
use std::time::Duration;
use weir::broker::BrokerFailure;
use weir::broker::message::now;

pub async fn a_new_subscription_gets_what_the_channel_holds(fixture: &impl Fixture) {
    if !fixture.has().retains {
        return;
    }
    let (broker, to) = (fixture.broker(), fixture.destination("retained"));
    let all = ids("retained", 10);
    publish_all(&*broker, &to, &all[..5]).await;
    let mut one = open(&*broker, &subscription("one", &to)).await;
    publish_all(&*broker, &to, &all[5..]).await;
    let mut two = open(&*broker, &subscription("two", &to)).await;
    assert_eq!(take_ids(&mut two, 10).await, all);
    assert_eq!(take_ids(&mut one, 10).await, all);
    silence(&mut one).await;
}

pub async fn a_higher_priority_comes_first(fixture: &impl Fixture) {
    let (broker, mut to) = (fixture.broker(), fixture.destination("priority"));
    if fixture.has().priorities {
        to.options.max_priority = 9;
    }
    let mut what = subscription("priority", &to);
    what.prefetch = 1;
    drop(open(&*broker, &what).await);
    for (id, priority) in [("a", 0), ("b", 0), ("c", 5), ("d", 9), ("e", 5), ("f", 9)] {
        let mut message = message(id);
        message.priority = priority;
        publish(&*broker, &to, &message).await;
    }
    let mut source = open(&*broker, &what).await;
    let mut came = Vec::new();
    for _ in 0..6 {
        let taken = take(&mut source).await;
        came.push((taken.message.id.clone(), taken.message.priority));
        ack(taken).await;
    }
    let expected = if fixture.has().priorities {
        [("d", 9), ("f", 9), ("c", 5), ("e", 5), ("a", 0), ("b", 0)]
    } else {
        [("a", 0), ("b", 0), ("c", 5), ("d", 9), ("e", 5), ("f", 9)]
    };
    assert_eq!(came, expected.map(|(id, priority)| (id.to_owned(), priority)));
}

pub async fn a_delayed_message_waits_for_its_time(fixture: &impl Fixture) {
    let (broker, to) = (fixture.broker(), fixture.destination("delayed"));
    let mut source = open(&*broker, &subscription("delayed", &to)).await;
    let mut delayed = message("delayed");
    let due = now() + Duration::from_secs(2);
    delayed.due = Some(due);
    publish(&*broker, &to, &delayed).await;
    publish(&*broker, &to, &message("not")).await;
    let mut came = Vec::new();
    for _ in 0..2 {
        let taken = take(&mut source).await;
        if taken.message.id == "delayed" {
            assert_eq!(taken.message.due, Some(due));
            assert!(!fixture.has().delays || now() >= due, "it came early");
        }
        came.push(taken.message.id.clone());
        ack(taken).await;
    }
    let expected = if fixture.has().delays { ["not", "delayed"] } else { ["delayed", "not"] };
    assert_eq!(came, expected);
    silence(&mut source).await;
}

/// Whether the message or its channel says when.
pub async fn an_expired_message_is_not_delivered(fixture: &impl Fixture) {
    let broker = fixture.broker();
    let has = fixture.has().ttl;
    for ttl in [None, has.then_some(Duration::from_millis(500))] {
        let mut to = fixture.destination("expired");
        to.options.ttl = ttl;
        let what = subscription("expired", &to);
        drop(open(&*broker, &what).await);
        let mut short = message("short");
        let expires = ttl.is_none().then(|| now() + Duration::from_millis(500));
        short.expires = expires;
        publish(&*broker, &to, &short).await;
        tokio::time::sleep(Duration::from_millis(1500)).await;
        let mut long = message("long");
        // Longer than the channel says.
        long.expires = Some(now() + Duration::from_secs(3600));
        publish(&*broker, &to, &long).await;
        let mut source = open(&*broker, &what).await;
        let mut taken = take(&mut source).await;
        if !has && taken.message.id == "short" {
            assert_eq!(taken.message.expires, expires, "the host can tell");
            ack(taken).await;
            taken = take(&mut source).await;
        }
        assert_eq!(taken.message.id, "long");
        ack(taken).await;
        silence(&mut source).await;
    }
}

pub async fn a_full_channel_refuses_and_takes_again(fixture: &impl Fixture) {
    if !fixture.has().max_length {
        return;
    }
    let (broker, mut to) = (fixture.broker(), fixture.destination("full"));
    to.options.max_length = Some(5);
    let what = subscription("full", &to);
    drop(open(&*broker, &what).await);
    // Servers may take a few more than they were told.
    let (mut confirmed, mut refused) = (Vec::new(), None);
    while refused.is_none() && confirmed.len() < 50 {
        let id = format!("full-{}", confirmed.len());
        match within("an answer", broker.publish(&to, &message(&id))).await {
            Ok(()) => confirmed.push(id),
            Err(error) => refused = Some(error),
        }
    }
    assert!(confirmed.len() >= 5, "only {} were taken", confirmed.len());
    let refused = refused.expect("a refusal");
    assert_eq!(refused.kind, BrokerFailure::Full, "{refused}");
    let mut source = open(&*broker, &what).await;
    assert_eq!(take_ids(&mut source, confirmed.len()).await, confirmed);
    until("room", async || broker.publish(&to, &message("later")).await.is_ok()).await;
    assert_eq!(take_ids(&mut source, 1).await, ["later"]);
}

pub async fn a_failed_delivery_is_remembered(fixture: &impl Fixture) {
    if !fixture.has().failures {
        return;
    }
    let (broker, to) = (fixture.broker(), fixture.destination("failed"));
    let what = subscription("failed", &to);
    let mut source = open(&*broker, &what).await;
    publish(&*broker, &to, &message("failed")).await;
    let taken = take(&mut source).await;
    let due = now() + Duration::from_secs(3);
    within("the note", taken.receipt.failed(2, due)).await;
    fixture.kill().await;
    fixture.start().await;
    drop((taken, source));
    let again = within("the message", Reopened::new(fixture, what).next()).await;
    assert_eq!((again.message.id.as_str(), again.attempts), ("failed", 2));
    assert!(!fixture.has().delays || now() >= due, "it came early");
}

pub async fn an_acknowledged_id_is_not_delivered_twice(fixture: &impl Fixture) {
    if !fixture.has().dedup {
        return;
    }
    let (broker, to) = (fixture.broker(), fixture.destination("dedup"));
    let mut what = subscription("dedup", &to);
    what.dedup = Some(Duration::from_secs(3600));
    let mut source = open(&*broker, &what).await;
    let mut all = open(&*broker, &subscription("all", &to)).await;
    publish(&*broker, &to, &message("same")).await;
    assert_eq!(take_ids(&mut source, 1).await, ["same"]);
    publish(&*broker, &to, &message("same")).await;
    publish(&*broker, &to, &message("other")).await;
    assert_eq!(take_ids(&mut source, 1).await, ["other"]);
    assert_eq!(take_ids(&mut all, 3).await, ["same", "same", "other"], "nobody else is concerned");
    fixture.kill().await;
    fixture.start().await;
    drop((source, all));
    let broker = fixture.broker();
    publish(&*broker, &to, &message("same")).await;
    publish(&*broker, &to, &message("last")).await;
    let mut source = open(&*broker, &what).await;
    assert_eq!(take_ids(&mut source, 1).await, ["last"]);
    silence(&mut source).await;
}

/// Also what is being worked on. A broker that cannot tell says so.
pub async fn the_backlog_counts_what_is_not_acknowledged(fixture: &impl Fixture) {
    let (broker, to) = (fixture.broker(), fixture.destination("backlog"));
    let what = subscription("backlog", &to);
    let mut source = open(&*broker, &what).await;
    let count = async |expected| {
        until("the backlog", async || {
            let backlog = within("the backlog", broker.backlog(&what)).await.expect("a backlog");
            backlog.messages.is_none_or(|messages| messages == expected)
        })
        .await;
    };
    count(0).await;
    publish_all(&*broker, &to, &ids("backlog", 3)).await;
    count(3).await;
    let taken = take(&mut source).await;
    count(3).await;
    ack(taken).await;
    count(2).await;
    take_ids(&mut source, 2).await;
    count(0).await;
    let backlog = within("the backlog", broker.backlog(&what)).await.expect("a backlog");
    assert_eq!(backlog.oldest, None);
}
