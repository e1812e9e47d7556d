//! What becomes of messages when the broker dies under them.

use super::Fixture;
use super::kit::*;
use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use weir::broker::BrokerFailure;

pub async fn a_restart_while_publishing_loses_nothing_confirmed(fixture: &impl Fixture) {
    let to = fixture.destination("mid-publish");
    let what = subscription("mid-publish", &to);
    drop(open(&*fixture.broker(), &what).await);
    let confirmed = Mutex::new(BTreeSet::new());
    let over = AtomicBool::new(false);
    let count = || confirmed.lock().unwrap().len();
    let publisher = async |name: usize| {
        let mut number = 0;
        while !over.load(Ordering::Relaxed) {
            let message = message(format!("{name}-{number}"));
            number += 1;
            let broker = fixture.broker();
            match tokio::time::timeout(Duration::from_secs(2), broker.publish(&to, &message)).await {
                Ok(Ok(())) => _ = confirmed.lock().unwrap().insert(message.id),
                // Not known, or surely not there: both are no confirm.
                Ok(Err(_)) | Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    };
    let restarts = async {
        for round in 1..=2 {
            let before = count();
            until("confirms", async || count() >= before + 50).await;
            fixture.kill().await;
            fixture.start().await;
            let before = count();
            until(&format!("confirms after restart {round}"), async || count() >= before + 50).await;
        }
        over.store(true, Ordering::Relaxed);
    };
    tokio::join!(publisher(0), publisher(1), publisher(2), publisher(3), restarts);
    let confirmed = confirmed.into_inner().unwrap();
    let seen = Reopened::new(fixture, what).drain(&confirmed).await;
    assert!(seen.is_superset(&confirmed));
}

pub async fn a_restart_while_delivering_loses_nothing_unacknowledged(fixture: &impl Fixture) {
    let (broker, to) = (fixture.broker(), fixture.destination("mid-delivery"));
    let mut what = subscription("mid-delivery", &to);
    what.prefetch = 20;
    let mut source = open(&*broker, &what).await;
    let all = ids("mid-delivery", 100);
    publish_all(&*broker, &to, &all).await;
    let mut acked = BTreeSet::new();
    let mut held = Vec::new();
    for number in 0..30 {
        let taken = take(&mut source).await;
        if number % 2 == 0 {
            acked.insert(taken.message.id.clone());
            ack(taken).await;
        } else {
            held.push(taken);
        }
    }
    fixture.kill().await;
    // What is held is void now: it must not be possible to lose a message by an acknowledgement that nobody heard.
    for taken in held.drain(..5) {
        let id = taken.message.id.clone();
        if let Ok(Ok(())) = tokio::time::timeout(Duration::from_secs(2), taken.receipt.ack()).await {
            acked.insert(id);
        }
    }
    fixture.start().await;
    drop((source, held));
    let wanted: BTreeSet<_> = all.into_iter().filter(|id| !acked.contains(id)).collect();
    let mut seen = Reopened::new(fixture, what).drain(&wanted).await;
    if !fixture.has().acks_survive {
        seen.retain(|id| !acked.contains(id));
    }
    assert_eq!(seen, wanted);
}

/// Quickly: nobody waits for the network's time limits to learn that there is no connection.
pub async fn a_broker_that_is_down_says_so_and_recovers(fixture: &impl Fixture) {
    const QUICKLY: Duration = Duration::from_secs(5);
    let (broker, to) = (fixture.broker(), fixture.destination("down"));
    let what = subscription("down", &to);
    let mut source = open(&*broker, &what).await;
    publish(&*broker, &to, &message("before")).await;
    assert_eq!(broker.trouble(), None);
    fixture.kill().await;
    until("trouble", async || broker.trouble().is_some()).await;
    let (mut refusals, mut reason) = (0, String::new());
    until("a refusal", async || {
        // The first may be lost on the way.
        let answer = tokio::time::timeout(QUICKLY, broker.publish(&to, &message("while down"))).await;
        let error = answer.expect("a quick answer").expect_err("a refusal");
        refusals += usize::from(error.kind == BrokerFailure::Unreachable);
        reason = error.message;
        refusals >= 3
    })
    .await;
    assert!(!reason.is_empty(), "the reason is told");
    let answer = tokio::time::timeout(QUICKLY, broker.consume(&what)).await.expect("a quick answer");
    let error = answer.map(|_| ()).expect_err("a refusal");
    assert_eq!(error.kind, BrokerFailure::Unreachable, "{error}");
    // It had one message at most, and has ended after that.
    within("the end of the source", async { while source.next().await.is_ok() {} }).await;
    fixture.start().await;
    let broker = fixture.broker();
    until("the end of the trouble", async || broker.trouble().is_none()).await;
    // As a node does: a publish has as long as its deadline allows, and is then given up.
    let limit = Instant::now() + LONG;
    loop {
        match tokio::time::timeout(QUICKLY, broker.publish(&to, &message("after"))).await {
            Ok(Ok(())) => break,
            answer => assert!(Instant::now() < limit, "not confirmed after {LONG:?}: {answer:?}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let wanted = ["before", "after"].map(str::to_owned).into();
    let seen = Reopened::new(fixture, what).drain(&wanted).await;
    assert!(seen.is_superset(&wanted));
}
