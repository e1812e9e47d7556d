//! What a broker keeps, and for how long.

use super::Fixture;
use super::kit::*;
use bytes::Bytes;
use http::HeaderValue;
use std::time::Duration;
use weir::broker::message::now;

/// Id, key, headers and all, and the body whatever it is.
pub async fn a_confirmed_message_is_delivered_whole(fixture: &impl Fixture) {
    let (broker, to) = (fixture.broker(), fixture.destination("whole"));
    let mut source = open(&*broker, &subscription("whole", &to)).await;
    let binary: Vec<u8> = (0..=255).collect();
    let large: Vec<u8> = (0..1 << 20).map(|at: u32| at.to_le_bytes()[(at % 3) as usize]).collect();
    for (number, body) in [Vec::new(), b"{}".to_vec(), binary, large].into_iter().enumerate() {
        let mut sent = message(format!("whole/{number} ä"));
        sent.key = (number > 0).then(|| format!("kunde ä {number}"));
        sent.headers.append("content-type", HeaderValue::from_static("application/json"));
        sent.headers.append("ce-subject", HeaderValue::from_bytes("größe".as_bytes()).unwrap());
        sent.headers.append("x-two", HeaderValue::from_static("1"));
        sent.headers.append("x-two", HeaderValue::from_static("2"));
        sent.expires = Some(now() + Duration::from_secs(3600));
        sent.body = Bytes::from(body);
        publish(&*broker, &to, &sent).await;
        let taken = take(&mut source).await;
        let came = &taken.message;
        assert!(came.body == sent.body, "{} bytes were sent, {} others came", sent.body.len(), came.body.len());
        assert_eq!((&came.id, &came.key, &came.headers), (&sent.id, &sent.key, &sent.headers));
        assert_eq!((came.published, came.expires, came.due), (sent.published, sent.expires, None));
        assert_eq!((came.priority, taken.attempts), (0, 0));
        ack(taken).await;
    }
}

pub async fn an_acknowledged_message_never_comes_again(fixture: &impl Fixture) {
    let (broker, to) = (fixture.broker(), fixture.destination("acked"));
    let what = subscription("acked", &to);
    let mut source = open(&*broker, &what).await;
    let all = ids("acked", 10);
    publish_all(&*broker, &to, &all).await;
    assert_eq!(take_ids(&mut source, 10).await, all);
    drop(source);
    let mut source = open(&*broker, &what).await;
    publish(&*broker, &to, &message("later")).await;
    assert_eq!(take_ids(&mut source, 1).await, ["later"]);
    silence(&mut source).await;
}

pub async fn an_unacknowledged_message_comes_again_when_its_source_is_dropped(fixture: &impl Fixture) {
    let (broker, to) = (fixture.broker(), fixture.destination("dropped"));
    let what = subscription("dropped", &to);
    let mut source = open(&*broker, &what).await;
    publish_all(&*broker, &to, &ids("dropped", 3)).await;
    // One is done with, one is held by its receipt, one nobody has asked for yet.
    let (first, held) = (take(&mut source).await, take(&mut source).await);
    assert_eq!(first.message.id, "dropped-0");
    ack(first).await;
    drop(source);
    drop(held);
    let mut source = open(&*broker, &what).await;
    let mut again = take_ids(&mut source, 2).await;
    again.sort();
    assert_eq!(again, ["dropped-1", "dropped-2"]);
    silence(&mut source).await;
}

pub async fn a_restart_keeps_what_is_unacknowledged_and_nothing_else(fixture: &impl Fixture) {
    let (broker, to) = (fixture.broker(), fixture.destination("restart"));
    let what = subscription("restart", &to);
    let mut source = open(&*broker, &what).await;
    publish_all(&*broker, &to, &ids("restart", 4)).await;
    let done = take_ids(&mut source, 2).await;
    let held = take(&mut source).await;
    fixture.kill().await;
    fixture.start().await;
    drop(held);
    drop(source);
    let wanted = ["restart-2", "restart-3"].map(str::to_owned).into();
    let mut seen = Reopened::new(fixture, what).drain(&wanted).await;
    if !fixture.has().acks_survive {
        seen.retain(|id| !done.contains(id));
    }
    assert_eq!(seen, wanted);
}

/// However long: the broker is told that somebody works on it.
pub async fn a_message_that_is_kept_stays_where_it_is(fixture: &impl Fixture) {
    let (broker, to) = (fixture.broker(), fixture.destination("kept"));
    let what = subscription("kept", &to);
    let mut source = open(&*broker, &what).await;
    publish(&*broker, &to, &message("kept")).await;
    let taken = take(&mut source).await;
    let begun = tokio::time::Instant::now();
    while begun.elapsed() < Duration::from_secs(4) {
        taken.receipt.keep().await;
        if let Ok(again) = tokio::time::timeout(Duration::from_millis(300), source.next()).await {
            panic!("it is being worked on, and still there is {:?}", again.map(|taken| taken.message.id));
        }
    }
    ack(taken).await;
    silence(&mut source).await;
}
