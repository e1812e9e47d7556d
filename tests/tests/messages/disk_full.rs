//! The disk of the embedded broker fills up: publishes are refused, and nothing else happens.

use anyhow::Result;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use weir_tests::messages::{Consumer, embedded, publish, setup};
use weir_tests::process::{Process, written};

const DISK: u64 = 16 * 1024 * 1024;

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_publishes_loses_nothing_and_heals_by_itself() -> Result<()> {
    let (disk, consumer) = (tempfile::tempdir()?, Consumer::start(|_| 503).await?);
    let keys = "max-attempts = 1000\nconcurrency = 4\nbackoff = { initial = \"100ms\", max = \"100ms\" }";
    let setup = setup(&embedded(&disk.path().join("events")), consumer.address(), "", keys);
    let (_kept, config) = written(&setup)?;
    let node = Process::start_on_disk_of(DISK, disk.path(), &config)?;
    let (address, admin) = node.addresses().await?;
    let filler = node.inside(disk.path()).join("filler");
    std::fs::write(&filler, vec![1; 6 * 1024 * 1024])?;

    let (mut confirmed, mut number) = (BTreeSet::new(), 0);
    // A body of 65 kB that begins with its number.
    let body = |number: u32| format!("{number:<65000}");
    let refused = loop {
        number += 1;
        let answer = publish(address, body(number), &[]).await?;
        if answer.status != 200 {
            break answer;
        }
        confirmed.insert(number.to_string());
        assert!(number < 1000, "64 MiB are more than fit");
    };
    assert_eq!((refused.status.as_u16(), refused.header("x-weir-error")), (503, Some("broker-full")), "{refused:?}");
    let why = refused.json()?["message"].as_str().unwrap_or_default().to_owned();
    assert!(why.contains("disk") || why.contains("space"), "{why}");
    let again = publish(address, body(0), &[]).await?;
    assert_eq!(again.header("x-weir-error"), Some("broker-full"), "as long as it is full: {again:?}");

    std::fs::remove_file(&filler)?;
    let until = Instant::now() + Duration::from_secs(30);
    while publish(address, "room again", &[]).await?.status != 200 {
        assert!(Instant::now() < until, "there is space, and it takes nothing");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    confirmed.insert("room again".to_owned());
    consumer.answers(|_| 200);
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        let seen: BTreeSet<String> = consumer.bodies().iter().map(|body| body.trim().to_owned()).collect();
        if confirmed.is_subset(&seen) {
            break;
        }
        assert!(Instant::now() < until, "lost: {:?}", confirmed.difference(&seen).collect::<Vec<_>>());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(weir_tests::client::fetch(admin, "admin", "/healthz").await?.status, 200);
    Ok(())
}
