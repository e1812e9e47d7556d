//! A version that does harm gives its place back to the one before it, by itself or because an operator says so.

use std::time::Duration;

use serde_json::Value;
use weir_tests::client::{self, Client, Response};
use weir_tests::guests::{Chameleon, write_in_place};
use weir_tests::raw;
use weir_tests::traffic::{self, Traffic, call, marks, until_live, versions};
use weir_tests::upstream::{Behaviour, Upstream};
use weir_tests::weir::{Setup, Weir};

type Result<T = ()> = anyhow::Result<T>;

const ROLLED_BACK: &str = "weir_rollbacks_total{plugin=\"chameleon\",result=\"ok\"}";
const NOT_ROLLED_BACK: &str = "weir_rollbacks_total{plugin=\"chameleon\",result=\"refused\"}";
/// More than three failures are too many; a share never is.
const BY_COUNT: &str = "{ within = \"1h\", failures = 3, percent = 100 }";

/// A node in which a service runs through the policies `a` and `b`, both of this version of the chameleon.
fn node(chameleon: &Chameleon, word: &str, upstream: &Upstream, rollback: &str, on_error: &str) -> Setup {
    let policies = format!("on-error = \"{on_error}\"");
    chameleon.setup_with(word, upstream.address(), &policies).of_plugins(&format!("rollback = {rollback}"))
}

/// A call that bad versions fail in this way: `trap`, `overrun`, `lie` or `error`.
async fn provoke(client: &mut Client, how: &str) -> Result<Response> {
    let mut request = client::get("service", "/")?;
    request.headers_mut().insert("x-trap", how.parse()?);
    client.send(request).await
}

/// A command as `curl -X POST` gives it: its status and what is answered.
async fn command(weir: &Weir, path: &str) -> Result<(u16, Value)> {
    let request = client::post(&weir.admin().to_string(), &format!("/plugins/{path}"), "")?;
    let answer = Client::http1(weir.admin()).await?.send(request).await?;
    Ok((answer.status.as_u16(), answer.json()?))
}

/// Returns when the thread that reloads has taken notice of everything so far, and looked at the files.
async fn settled(weir: &Weir) -> Result<Value> {
    let (status, answer) = command(weir, "chameleon/unpin").await?;
    assert_eq!(status, 200, "{answer}");
    // What was noticed by then is judged after the answer, and before the next.
    Ok(command(weir, "chameleon/unpin").await?.1["plugin"].clone())
}

fn starts_with(value: &Value, text: &str) -> bool {
    value.as_str().is_some_and(|value| value.starts_with(text))
}

async fn go_live(weir: &Weir, client: &mut Client, chameleon: &Chameleon, word: &str) -> Result {
    let before = weir.plugin().await["digest"].clone();
    weir.drop_plugin(&chameleon.version(word), "chameleon");
    until_live(weir, client, word).await?;
    weir.until("the page follows", async || weir.plugin().await["digest"] != before).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_fails_too_often_is_rolled_back() -> Result {
    let upstream = Upstream::start(Behaviour::echo()).await?;
    let chameleon = Chameleon::default();
    for how in ["trap", "overrun", "lie"] {
        let weir = node(&chameleon, "good", &upstream, BY_COUNT, "reject").start();
        let mut client = Client::http1(weir.address()).await?;
        until_live(&weir, &mut client, "good").await?;
        let good = weir.plugin().await["digest"].clone();
        go_live(&weir, &mut client, &chameleon, "bad").await?;
        for _ in 0..3 {
            assert_eq!(provoke(&mut client, how).await?.status, 503, "{how}");
        }
        let bad = settled(&weir).await?;
        assert_ne!(bad["digest"], good, "{how}: three failures are not more than three");

        let generation = weir.generation();
        assert_eq!(provoke(&mut client, how).await?.status, 503, "{how}");
        until_live(&weir, &mut client, "good").await?;
        assert_eq!(weir.generation(), generation + 1, "{how}: one generation");
        assert_eq!(provoke(&mut client, how).await?.status, 200, "{how}");
        let now = settled(&weir).await?;
        assert_eq!((&now["digest"], &now["traps"]), (&good, &0.into()), "{how}");
        assert!(starts_with(&now["last-error"], "rolled back: 4 of "), "{how}: {now}");
        assert_eq!(weir.metric(ROLLED_BACK).await, Some(1.0), "{how}");
        let swap = &now["history"][0];
        assert!(starts_with(&swap["why"], "rolled-back: 4 of "), "{how}: {swap}");
        assert_eq!((&swap["from"], &swap["to"]), (&bad["digest"], &good), "{how}");
        assert_eq!(swap["generation"].as_u64(), Some(generation + 1), "{how}");
        let why = |at: usize| now["history"][at]["why"].clone();
        assert_eq!((why(1), why(2)), ("file".into(), "start".into()), "{how}");
        assert_eq!(now["can-revert-to"], Value::Array(Vec::new()), "a bad version is nothing to go back to");
        weir.until("the bad version is freed", async || weir.metric("weir_live_generations").await == Some(1.0)).await;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_share_counts_once_there_were_enough_calls() -> Result {
    let upstream = Upstream::start(Behaviour::echo()).await?;
    let chameleon = Chameleon::default();
    let rollback = "{ within = \"1h\", failures = 1000000, percent = 10 }";
    let weir = node(&chameleon, "good", &upstream, rollback, "skip").start();
    let mut client = Client::http1(weir.address()).await?;
    go_live(&weir, &mut client, &chameleon, "bad").await?;
    // A failed exchange is four calls, of which two fail; that the version is live was seen in another one.
    for _ in 0..5 {
        assert_eq!(provoke(&mut client, "trap").await?.status, 200);
    }
    let bad = settled(&weir).await?;
    assert!(bad["traps"] == 10 && bad["last-error"].is_null(), "fewer than fifty calls say nothing: {bad}");
    for _ in 0..10 {
        assert_eq!(call(&mut client).await?.status, 200);
    }
    // The share is looked at with the next failure at the latest.
    provoke(&mut client, "trap").await?;
    until_live(&weir, &mut client, "good").await?;
    // Counted right after the version is live.
    settled(&weir).await?;
    assert_eq!(weir.metric(ROLLED_BACK).await, Some(1.0));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_costs_no_instance_is_no_failure() -> Result {
    let upstream = Upstream::start(Behaviour::echo()).await?;
    let chameleon = Chameleon::default();
    let rollback = "{ within = \"1h\", failures = 0, percent = 0 }";
    let weir = node(&chameleon, "good", &upstream, rollback, "reject").start();
    let mut client = Client::http1(weir.address()).await?;
    go_live(&weir, &mut client, &chameleon, "bad").await?;
    let digest = weir.plugin().await["digest"].clone();
    for _ in 0..100 {
        assert_eq!(call(&mut client).await?.status, 200);
        assert_eq!(provoke(&mut client, "error").await?.status, 503, "the policy returns an error");
    }
    let now = settled(&weir).await?;
    assert_eq!((&now["digest"], &now["traps"]), (&digest, &0.into()));
    assert_eq!(weir.metric(ROLLED_BACK).await, None);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_has_served_long_enough_stays() -> Result {
    let upstream = Upstream::start(Behaviour::echo()).await?;
    let chameleon = Chameleon::default();
    let within = Duration::from_millis(200);
    for rollback in ["{ within = \"200ms\", failures = 0 }", "\"off\""] {
        let weir = node(&chameleon, "good", &upstream, rollback, "reject").start();
        let mut client = Client::http1(weir.address()).await?;
        go_live(&weir, &mut client, &chameleon, "bad").await?;
        tokio::time::sleep(within).await;
        for _ in 0..30 {
            assert_eq!(provoke(&mut client, "trap").await?.status, 503);
        }
        let now = settled(&weir).await?;
        assert!(now["traps"] == 30 && now["last-error"].is_null(), "{rollback}: {now}");
        until_live(&weir, &mut client, "bad").await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rules_are_live() -> Result {
    let upstream = Upstream::start(Behaviour::echo()).await?;
    let chameleon = Chameleon::default();
    let weir =
        node(&chameleon, "good", &upstream, "{ within = \"1h\", failures = 1000, percent = 100 }", "reject").start();
    let mut client = Client::http1(weir.address()).await?;
    go_live(&weir, &mut client, &chameleon, "bad").await?;
    for _ in 0..10 {
        provoke(&mut client, "trap").await?;
    }
    assert_eq!(settled(&weir).await?["traps"], 10);
    weir.edit("failures = 1000", "failures = 5");
    until_live(&weir, &mut client, "good").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn there_is_no_going_back_and_forth() -> Result {
    let upstream = Upstream::start(Behaviour::echo()).await?;
    let chameleon = Chameleon::default();
    let weir = node(&chameleon, "bad-0", &upstream, BY_COUNT, "reject").start();
    let mut client = Client::http1(weir.address()).await?;
    until_live(&weir, &mut client, "bad-0").await?;
    for _ in 0..10 {
        assert_eq!(provoke(&mut client, "trap").await?.status, 503);
    }
    assert!(settled(&weir).await?["last-error"].is_null(), "nothing served before the first version");

    // The version that comes back fails as well: it stays, though an older one is at hand.
    go_live(&weir, &mut client, &chameleon, "bad-1").await?;
    go_live(&weir, &mut client, &chameleon, "bad-2").await?;
    for _ in 0..4 {
        provoke(&mut client, "trap").await?;
    }
    until_live(&weir, &mut client, "bad-1").await?;
    for _ in 0..10 {
        assert_eq!(provoke(&mut client, "trap").await?.status, 503);
    }
    settled(&weir).await?;
    until_live(&weir, &mut client, "bad-1").await?;
    assert_eq!((weir.metric(ROLLED_BACK).await, weir.metric(NOT_ROLLED_BACK).await), (Some(1.0), None));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_was_replaced_before_it_was_judged_is_none_to_go_back_to() -> Result {
    let upstream = Upstream::start(Behaviour::echo()).await?;
    let chameleon = Chameleon::default();
    let weir = node(&chameleon, "good", &upstream, BY_COUNT, "reject").start();
    let mut client = Client::http1(weir.address()).await?;
    until_live(&weir, &mut client, "good").await?;
    go_live(&weir, &mut client, &chameleon, "bad-1").await?;
    assert_eq!(provoke(&mut client, "trap").await?.status, 503);
    go_live(&weir, &mut client, &chameleon, "bad-2").await?;
    for _ in 0..4 {
        provoke(&mut client, "trap").await?;
    }
    until_live(&weir, &mut client, "good").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_bytes_do_not_come_back_and_the_next_version_does() -> Result {
    let upstream = Upstream::start(Behaviour::echo()).await?;
    let chameleon = Chameleon::default();
    let weir = node(&chameleon, "good", &upstream, BY_COUNT, "reject").start();
    let mut client = Client::http1(weir.address()).await?;
    let place = weir.plugins().join("chameleon.wasm");
    go_live(&weir, &mut client, &chameleon, "bad").await?;
    let bad = weir.plugin().await["digest"].as_str().expect("a digest").to_owned();
    for _ in 0..4 {
        provoke(&mut client, "trap").await?;
    }
    until_live(&weir, &mut client, "good").await?;

    let stays = async |client: &mut Client, how: &str| -> Result {
        let now = settled(&weir).await?;
        assert!(starts_with(&now["last-error"], "rolled back: "), "{how}: {now}");
        assert_eq!(versions(&call(client).await?), marks("good"), "{how}");
        Ok(())
    };
    weir.drop_plugin(&chameleon.version("bad"), "chameleon");
    stays(&mut client, "the same file again").await?;
    std::fs::remove_file(&place)?;
    weir.until("it is told that the file is gone", async || {
        starts_with(&weir.plugin().await["last-error"], "the file is gone")
    })
    .await;
    write_in_place(&place, &chameleon.bytes("bad"));
    stays(&mut client, "deleted and made again").await?;
    write_in_place(&place, &chameleon.bytes("bad")[..1000]);
    weir.until("half a file is told", async || starts_with(&weir.plugin().await["last-error"], "not a")).await;
    write_in_place(&place, &chameleon.bytes("bad"));
    stays(&mut client, "written over by half of it, and by all of it").await?;

    // An operator may insist, by its name; it is on trial again.
    let (status, answer) = command(&weir, "chameleon/unpin?digest=00000000").await?;
    assert_eq!((status, &answer["error"]), (409, &"conflict".into()), "{answer}");
    let (status, answer) = command(&weir, &format!("chameleon/unpin?digest={}", &bad[..12])).await?;
    assert_eq!((status, answer["plugin"]["digest"].as_str()), (200, Some(&*bad)), "{answer}");
    until_live(&weir, &mut client, "bad").await?;
    for _ in 0..4 {
        provoke(&mut client, "trap").await?;
    }
    until_live(&weir, &mut client, "good").await?;

    go_live(&weir, &mut client, &chameleon, "better").await?;
    assert!(settled(&weir).await?["last-error"].is_null());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_whose_predecessor_does_not_fit_the_configuration_stays() -> Result {
    let upstream = Upstream::start(Behaviour::echo()).await?;
    let chameleon = Chameleon::default();
    let weir = node(&chameleon, "good", &upstream, BY_COUNT, "reject").start();
    let mut client = Client::http1(weir.address()).await?;
    until_live(&weir, &mut client, "good").await?;
    // Neither fits the other alone: they come together, or as soon as both are there.
    weir.edit(":\" }", ":\", colour = \"red\" }");
    weir.drop_plugin(&chameleon.version("red"), "chameleon");
    let is_red = |response: &Response| versions(response).first().is_some_and(|mark| mark == "a:redred");
    weir.until("both are live", async || {
        is_red(&client::fetch(weir.address(), "service", "/").await.expect("no exchange fails"))
    })
    .await;
    for _ in 0..20 {
        assert_eq!(provoke(&mut client, "trap").await?.status, 503);
    }
    let now = settled(&weir).await?;
    assert!(now["last-error"].as_str().is_some_and(|error| error.contains("does not fit the configuration")), "{now}");
    assert_eq!((weir.metric(ROLLED_BACK).await, weir.metric(NOT_ROLLED_BACK).await), (None, Some(1.0)), "once");
    assert!(is_red(&call(&mut client).await?));
    let (status, answer) = command(&weir, "chameleon/revert").await?;
    assert_eq!(status, 409, "{answer}");
    assert!(answer["message"].as_str().is_some_and(|message| message.contains("colour")), "{answer}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_costs_no_exchange_where_the_policy_may_be_skipped_and_cells_survive_it() -> Result {
    let upstream = Upstream::start(Behaviour::echo()).await?;
    let chameleon = Chameleon::default();
    let weir = node(&chameleon, "good", &upstream, BY_COUNT, "skip").start();
    let mut client = Client::http1(weir.address()).await?;
    let count = |response: &Response| response.header("x-count").and_then(|count| count.parse::<u64>().ok());
    until_live(&weir, &mut client, "good").await?;
    let before = count(&call(&mut client).await?);
    let address = weir.address();
    let traffic = Traffic::of(3, |_, tally| async move {
        let mut client = Client::http1(address).await?;
        while tally.goes_on() {
            let response = provoke(&mut client, "trap").await?;
            anyhow::ensure!(response.status == 200 && response.broken.is_none(), "{response:?}");
            tally.answered();
        }
        Ok(())
    });
    for round in 1..=5 {
        // Other bytes each time: the same ones would not be taken.
        weir.drop_plugin(&chameleon.version(&format!("bad-{round}")), "chameleon");
        weir.until("it is rolled back", async || weir.metric(ROLLED_BACK).await == Some(f64::from(round))).await;
    }
    traffic.more(100).await;
    traffic.stop().await?;
    until_live(&weir, &mut client, "good").await?;
    assert!(count(&call(&mut client).await?) > before, "cells began anew");
    weir.until("bad versions are freed", async || weir.metric("weir_live_generations").await == Some(1.0)).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_reverts_pins_and_unpins_under_traffic() -> Result {
    let upstream = Upstream::start(Behaviour::echo()).await?;
    let chameleon = Chameleon::default();
    let weir = node(&chameleon, "v1", &upstream, BY_COUNT, "reject").start();
    let mut client = Client::http1(weir.address()).await?;
    let traffic = traffic::start(&weir);
    until_live(&weir, &mut client, "v1").await?;
    assert_eq!(command(&weir, "chameleon/revert").await?.0, 409, "nothing served before");
    go_live(&weir, &mut client, &chameleon, "v2").await?;
    let v2 = weir.plugin().await["digest"].clone();

    let (status, answer) = command(&weir, "chameleon/revert").await?;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(versions(&call(&mut client).await?), marks("v1"), "it is in effect when it is answered");
    let told = &answer["plugin"];
    assert_eq!((&told["pinned"], &told["waiting"]["digest"], &told["last-error"]), (&true.into(), &v2, &Value::Null));
    assert_eq!((&told["history"][0]["why"], &told["history"][0]["from"]), (&"reverted".into(), &v2), "{told}");

    // A new file waits, and one that does not fit says so.
    weir.drop_plugin(&chameleon.version("v3"), "chameleon");
    weir.until("v3 waits", async || weir.plugin().await["waiting"]["digest"] != v2).await;
    weir.drop_plugin(&chameleon.version("refuse"), "chameleon");
    weir.until("a problem shows", async || weir.plugin().await["last-error"].to_string().contains("likes no name"))
        .await;
    weir.drop_plugin(&chameleon.version("v4"), "chameleon");
    weir.until("v4 waits", async || {
        let now = weir.plugin().await;
        now["last-error"].is_null() && now["waiting"]["digest"].is_string()
    })
    .await;
    assert_eq!(versions(&call(&mut client).await?), marks("v1"), "pinned");
    let (status, answer) = command(&weir, "chameleon/unpin").await?;
    assert_eq!((status, &answer["plugin"]["pinned"], &answer["plugin"]["waiting"]), (200, &false.into(), &Value::Null));
    assert_eq!(versions(&call(&mut client).await?), marks("v4"));

    let (status, answer) = command(&weir, "chameleon/pin").await?;
    assert_eq!((status, &answer["plugin"]["pinned"]), (200, &true.into()), "{answer}");
    weir.drop_plugin(&chameleon.version("v5"), "chameleon");
    weir.until("v5 waits", async || weir.plugin().await["waiting"].is_object()).await;
    assert_eq!(versions(&call(&mut client).await?), marks("v4"));

    // By its digest an operator has any of those in memory.
    let (status, answer) =
        command(&weir, &format!("chameleon/revert?digest={}", v2.as_str().unwrap_or_default())).await?;
    assert_eq!((status, &answer["plugin"]["digest"]), (200, &v2), "{answer}");
    assert_eq!(versions(&call(&mut client).await?), marks("v2"));
    let answered = traffic.stop().await?;
    assert!(answered > 50, "{answered}");
    weir.until("old versions are freed", async || weir.metric("weir_live_generations").await == Some(1.0)).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_pinned_is_not_rolled_back() -> Result {
    let upstream = Upstream::start(Behaviour::echo()).await?;
    let chameleon = Chameleon::default();
    let weir = node(&chameleon, "good", &upstream, BY_COUNT, "reject").start();
    let mut client = Client::http1(weir.address()).await?;
    go_live(&weir, &mut client, &chameleon, "bad").await?;
    assert_eq!(command(&weir, "chameleon/pin").await?.0, 200);
    for _ in 0..10 {
        assert_eq!(provoke(&mut client, "trap").await?.status, 503);
    }
    assert_eq!(command(&weir, "chameleon/pin").await?.0, 200);
    until_live(&weir, &mut client, "bad").await?;
    assert_eq!(weir.metric(ROLLED_BACK).await, None);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn history_and_earlier_versions_are_bounded() -> Result {
    let upstream = Upstream::start(Behaviour::echo()).await?;
    let chameleon = Chameleon::default();
    let weir = node(&chameleon, "v0", &upstream, BY_COUNT, "reject").start();
    let mut client = Client::http1(weir.address()).await?;
    let mut digests = Vec::new();
    for version in 1..=12 {
        go_live(&weir, &mut client, &chameleon, &format!("v{version}")).await?;
        digests.push(settled(&weir).await?["digest"].clone());
    }
    let now = weir.plugin().await;
    let to: Vec<&Value> = now["history"].as_array().into_iter().flatten().map(|swap| &swap["to"]).collect();
    assert_eq!(to, digests.iter().rev().take(10).collect::<Vec<_>>(), "the last ten, the newest first");
    let earlier: Vec<&Value> =
        now["can-revert-to"].as_array().into_iter().flatten().map(|version| &version["digest"]).collect();
    assert_eq!(earlier, digests.iter().rev().skip(1).take(3).collect::<Vec<_>>(), "the last three, the newest first");
    // Whoever goes on reverting goes back further.
    for word in ["v11", "v10", "v9"] {
        assert_eq!(command(&weir, "chameleon/revert").await?.0, 200);
        assert_eq!(versions(&call(&mut client).await?), marks(word));
    }
    assert_eq!(
        command(&weir, &format!("chameleon/revert?digest={}", digests[0].as_str().unwrap_or_default())).await?.0,
        409
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_web_page_gives_no_commands() -> Result {
    let upstream = Upstream::start(Behaviour::echo()).await?;
    let chameleon = Chameleon::default();
    let weir = node(&chameleon, "v1", &upstream, BY_COUNT, "reject").start();
    let admin = weir.admin();
    let send = async |head: String| -> Result<String> {
        let answer = raw::exchange(admin, format!("{head}connection: close\r\ncontent-length: 0\r\n\r\n")).await?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    };
    let pin = format!("POST /plugins/chameleon/pin HTTP/1.1\r\nhost: {admin}\r\n");
    let from_pages = [
        format!("{pin}origin: http://evil.example\r\n"),
        format!("{pin}origin: null\r\n"),
        format!("{pin}sec-fetch-site: cross-site\r\n"),
        // A name that its owner has pointed at this machine.
        format!("POST /plugins/chameleon/pin HTTP/1.1\r\nhost: rebound.example:{}\r\n", admin.port()),
    ];
    for head in from_pages {
        let answer = send(head.clone()).await?;
        assert!(answer.starts_with("HTTP/1.1 403 ") && answer.contains("\"forbidden\""), "{head}{answer}");
    }
    assert_eq!(weir.plugin().await["pinned"], false);
    let answer = send(pin).await?;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert_eq!(weir.plugin().await["pinned"], true);

    for (head, status, said) in [
        ("GET /plugins/chameleon/pin", "405", "allow: POST"),
        ("PUT /plugins", "405", "allow: GET, HEAD"),
        ("POST /plugins/nobody/pin", "404", "there is no plugin"),
        ("POST /plugins/chameleon/revert?digest=z", "400", "?digest="),
        ("POST /plugins/chameleon/pin?digest=ab", "400", "revert"),
        ("POST /plugins/chameleon/rewind", "404", "POST /plugins/{name}/revert"),
    ] {
        let answer = send(format!("{head} HTTP/1.1\r\nhost: {admin}\r\n")).await?;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")) && answer.contains(said), "{head}: {answer}");
    }
    Ok(())
}
