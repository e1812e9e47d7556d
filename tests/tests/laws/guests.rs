//! A policy that traps, loops or lies costs its own exchange at most: the node lives and the next exchange is served.

use weir_tests::client::{self, Client};
use weir_tests::guests::Chameleon;
use weir_tests::rogue::{Case, call, is_refusal, node};
use weir_tests::upstream::{Behaviour, Upstream};
use weir_tests::weir::Setup;

type Result<T = ()> = anyhow::Result<T>;

#[tokio::test]
async fn a_broken_hook_costs_its_exchange_at_most_and_one_instance() -> Result {
    let upstream = Upstream::start(Behaviour::mirror()).await?;
    let cases = Case::all();
    let weir = node(&cases, &upstream, 1).start();
    let mut client = Client::http1(weir.address()).await?;
    let mut before = weir.traps().await;
    for case in &cases {
        let name = case.name();
        upstream.forget();
        let response = client.send(call(case, true)?).await?;
        if case.is_refused() {
            assert!(is_refusal(&response), "{name}: {response:?}");
        } else {
            assert_eq!(
                (response.status.as_u16(), &*response.text(), &response.broken),
                (200, "body", &None),
                "{name}: {response:?}"
            );
            assert_eq!(response.header("x-weir-error"), None, "{name}: {response:?}");
            let arrived = upstream.last().unwrap();
            assert_eq!(&arrived.body[..], b"body", "{name}");
            assert!(arrived.header("x-injected").is_none() && arrived.header("x-bad").is_none(), "{name}: {arrived:?}");
        }
        assert!(response.header("x-injected").is_none() && response.header("x-bad").is_none(), "{name}: {response:?}");

        // On the same connection: nothing of the last exchange is left behind. Endpoints are no exchange's own.
        let next = client.send(call(case, false)?).await?;
        match case.hook {
            "on-endpoints" => assert_eq!(is_refusal(&next), case.is_refused(), "{name}: {next:?}"),
            _ => assert_eq!((next.status.as_u16(), &*next.text()), (200, "body"), "{name}: {next:?}"),
        }
        let after = weir.traps().await;
        match case.hook {
            // Before picking and before the attempt, in both exchanges.
            "on-endpoints" => assert!(after > before, "{name}: {after} traps after {before}"),
            // Where the body of the request costs an instance, that of the answer does too.
            "on-body" if !case.is_refused() => assert_eq!(after, before + 2, "{name}"),
            _ => assert_eq!(after, before + 1, "{name}"),
        }
        before = after;
    }
    let last = weir.plugin().await["last-trap"].clone();
    assert!(last.as_str().is_some_and(|trap| !trap.is_empty()), "{last}");
    assert_eq!(weir.metric("weir_plugin_traps_total{plugin=\"rogue\"}").await, Some(before as f64));
    // One record each, which names the policy.
    let records = weir.records(cases.len() * 2, |record| record["service"] == "service").await;
    assert_eq!(records.len(), cases.len() * 2);
    let failed = records.iter().filter(|record| record["acted"].to_string().contains("failed")).count();
    assert!(failed >= cases.len(), "{failed} of {} exchanges name the policy that failed", cases.len());
    Ok(())
}

#[tokio::test]
async fn an_error_is_told_and_costs_no_instance() -> Result {
    let upstream = Upstream::start(200).await?;
    let hooks = ["on-request", "on-endpoints", "pick", "on-attempt", "on-response", "on-body"];
    let cases: Vec<Case> = hooks
        .into_iter()
        .flat_map(|hook| ["reject", "skip"].map(|on_error| Case { hook, deed: "error", on_error }))
        .collect();
    let weir = node(&cases, &upstream, 1).start();
    for case in &cases {
        let response = Client::http1(weir.address()).await?.send(call(case, true)?).await?;
        assert_eq!(is_refusal(&response), case.is_refused(), "{}: {response:?}", case.name());
        if case.is_refused() {
            assert!(response.text().contains("no luck today"), "{response:?}");
        } else {
            assert_eq!(response.status, 200, "{response:?}");
        }
    }
    assert_eq!(weir.traps().await, 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trap_fails_only_its_exchange_among_many() -> Result {
    let upstream = Upstream::start(Behaviour::mirror()).await?;
    let hooks = ["on-request", "pick", "on-attempt", "on-response", "on-complete"];
    let cases = hooks.map(|hook| Case { hook, deed: "trap", on_error: "reject" });
    let weir = node(&cases, &upstream, 2).start();
    let clients = (0..20).map(|number| {
        let address = weir.address();
        async move {
            let mut client =
                if number % 2 == 0 { Client::http1(address).await? } else { Client::http2(address).await? };
            let mut refused = 0;
            for round in 0..25 {
                let case = &cases[(number + round) % cases.len()];
                let guilty = (number + round) % 3 == 0;
                let response = client.send(call(case, guilty)?).await?;
                let expected = guilty && case.is_refused();
                assert_eq!(is_refusal(&response), expected, "{} {guilty}: {response:?}", case.name());
                assert!(expected || response.status == 200, "{response:?}");
                refused += u32::from(expected);
            }
            anyhow::Ok(refused)
        }
    });
    let refused: u32 = futures_util::future::try_join_all(clients).await?.into_iter().sum();
    assert!(refused > 50, "{refused}");
    assert!(weir.traps().await >= u64::from(refused));
    Ok(())
}

#[tokio::test]
async fn a_tick_that_breaks_costs_no_exchange() -> Result {
    let upstream = Upstream::start(200).await?;
    let cases = ["trap", "loop", "memory"].map(|deed| Case { hook: "tick", deed, on_error: "reject" });
    let weir = node(&cases, &upstream, 1).start();
    weir.until("ticks trap", async || weir.traps().await >= 6).await;
    for case in &cases {
        let response = Client::http1(weir.address()).await?.send(call(case, true)?).await?;
        assert_eq!(response.status, 200, "{response:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_plugin_that_breaks_while_it_is_configured_is_handled_by_on_error() -> Result {
    let upstream = Upstream::start(200).await?;
    let cases: Vec<Case> = ["trap", "loop", "memory"]
        .into_iter()
        .flat_map(|deed| ["reject", "skip"].map(|on_error| Case { hook: "configure", deed, on_error }))
        .collect();
    let weir = node(&cases, &upstream, 1).start();
    for case in &cases {
        let response = Client::http1(weir.address()).await?.send(call(case, false)?).await?;
        assert_eq!(is_refusal(&response), case.is_refused(), "{}: {response:?}", case.name());
        assert!(case.is_refused() || response.status == 200, "{response:?}");
    }
    let error = weir.plugin().await["last-error"].clone();
    assert!(error.as_str().is_some_and(|error| error.contains("configure")), "{error}");
    Ok(())
}

#[tokio::test]
async fn a_missing_or_broken_plugin_at_start_is_handled_by_on_error() -> Result {
    let upstream = Upstream::start(200).await?;
    let chameleon = Chameleon::default();
    let whole = chameleon.bytes("v1");
    let mut setup = Setup::new().service("service", &[upstream.address()]);
    let mut chains = String::new();
    for (plugin, file) in [
        ("missing", None),
        ("half", Some(&whole[..whole.len() / 2])),
        ("empty", Some(&[][..])),
        ("trapping", Some(&*chameleon.bytes("trap"))),
    ] {
        if let Some(bytes) = file {
            setup = setup.with_plugin_file(&chameleon.file(plugin, bytes), plugin);
        }
        for on_error in ["reject", "skip"] {
            let name = format!("{plugin}-{on_error}");
            setup = setup.toml(&format!("[policy.{name}]\nplugin = \"{plugin}\"\non-error = \"{on_error}\""));
            setup = setup.toml(&format!(
                "[[route]]\nmatch = {{ host = \"{name}\" }}\nservice = \"service\"\nchain = \"{name}\""
            ));
            chains += &format!("{name} = [\"{name}\"]\n");
        }
    }
    let weir = setup.toml(&format!("[chain]\n{chains}")).start();
    for plugin in ["missing", "half", "empty", "trapping"] {
        let refused = client::fetch(weir.address(), &format!("{plugin}-reject"), "/").await?;
        assert!(is_refusal(&refused), "{plugin}: {refused:?}");
        assert_eq!(client::fetch(weir.address(), &format!("{plugin}-skip"), "/").await?.status, 200);
    }
    // What comes later is taken up.
    for plugin in ["missing", "half", "empty", "trapping"] {
        weir.drop_plugin(&chameleon.version("v1"), plugin);
        let name = format!("{plugin}-reject");
        weir.until("the plugin serves", async || {
            client::fetch(weir.address(), &name, "/").await.is_ok_and(|response| response.status == 200)
        })
        .await;
    }
    Ok(())
}
