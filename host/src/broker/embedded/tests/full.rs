//! A disk without room.

use super::*;

fn large(id: &str) -> Message {
    Message { body: Bytes::from(vec![7; 100_000]), ..message(id) }
}

/// No page more than there are.
async fn fill(broker: &Embedded) {
    on_writer(broker, |store| {
        let pages = store.number("PRAGMA page_count");
        store.tell(&format!("PRAGMA max_page_count = {pages}"));
    })
    .await;
}

#[tokio::test]
async fn a_full_disk_refuses_publishes_and_nothing_else() {
    let directory = Directory::new("full");
    let broker = directory.open();
    drop(broker.consume(&subscription("one")).await.unwrap());
    for number in 0..10 {
        broker.publish(&to(), &large(&format!("before-{number}"))).await.unwrap();
    }
    fill(&broker).await;
    let error = broker.publish(&to(), &large("refused")).await.unwrap_err();
    assert_eq!(error.kind, BrokerFailure::Full, "{error}");
    assert!(error.message.contains("is full") && error.message.contains(directory.0.to_str().unwrap()), "{error}");
    assert_eq!(broker.trouble(), None, "it can be reached");
    let backlog = broker.backlog(&subscription("one")).await.unwrap();
    assert_eq!(backlog.messages, Some(10), "what was refused does not count");
    // What is there is delivered and acknowledged, and makes room.
    let mut source = broker.consume(&subscription("one")).await.unwrap();
    let ids: Vec<_> = (0..10).map(|number| format!("before-{number}")).collect();
    assert_eq!(take_ids(&mut source, 10).await, ids);
    broker.publish(&to(), &large("after")).await.unwrap();
    assert_eq!(take_ids(&mut source, 1).await, ["after"]);
}

#[tokio::test]
async fn one_too_many_takes_no_acknowledgement_with_it() {
    let directory = Directory::new("mixed");
    let broker = directory.open();
    publish(&broker, "held").await;
    let mut source = broker.consume(&subscription("one")).await.unwrap();
    let held = take(&mut source).await;
    fill(&broker).await;
    // Both in one transaction.
    let go = hold(&broker).await;
    let (to, large) = (to(), large("refused"));
    let (refused, acked, ()) =
        tokio::join!(broker.publish(&to, &large), held.receipt.ack(), async { go.send(()).unwrap() });
    assert_eq!(refused.unwrap_err().kind, BrokerFailure::Full);
    acked.unwrap();
    until_empty(&broker).await;
}

#[tokio::test]
async fn what_is_owed_is_written_when_there_is_room_again() {
    let directory = Directory::new("owed");
    let broker = directory.open();
    for id in ["acked", "failed", "released", "unread"] {
        publish(&broker, id).await;
    }
    let mut delayed = message("delayed");
    delayed.due = Some(now() + Duration::from_secs(1));
    let mut source = broker.consume(&subscription("one")).await.unwrap();
    broker.publish(&to(), &delayed).await.unwrap();
    let (acked, failed, released) = (take(&mut source).await, take(&mut source).await, take(&mut source).await);
    // Not even an acknowledgement can be written.
    on_writer(&broker, |store| store.tell("PRAGMA query_only = on")).await;
    let mut ack = acked.receipt.ack();
    assert!(tokio::time::timeout(QUIET, &mut ack).await.is_err(), "it is not on disk, so it must not return");
    let noted = failed.receipt.failed(1, now() + Duration::from_secs(600));
    tokio::time::timeout(LONG, noted).await.expect("a note is not waited for");
    released.receipt.release().await;
    let error = broker.publish(&to(), &message("refused")).await.unwrap_err();
    assert_eq!(error.kind, BrokerFailure::Full);
    let mut went_on = Vec::new();
    for _ in 0..3 {
        went_on.push(take(&mut source).await);
    }
    let mut ids: Vec<_> = went_on.iter().map(|taken| &taken.message.id).collect();
    ids.sort();
    assert_eq!(ids, ["delayed", "released", "unread"], "deliveries go on, also of what becomes due meanwhile");
    on_writer(&broker, |store| store.tell("PRAGMA query_only = off")).await;
    tokio::time::timeout(LONG, ack).await.expect("written by itself").unwrap();
    publish(&broker, "after").await;
    drop((source, failed, went_on));
    drop(broker);
    let broker = directory.open();
    let mut source = broker.consume(&subscription("one")).await.unwrap();
    assert_eq!(take_ids(&mut source, 4).await, ["released", "unread", "delayed", "after"]);
    silence(&mut source).await;
    assert_eq!(broker.backlog(&subscription("one")).await.unwrap().messages, Some(1), "the failed one is due later");
}
