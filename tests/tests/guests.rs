//! A policy that traps, loops or lies costs its own exchange at most: the node lives and the next exchange is served.

use std::time::Duration;

use weir_tests::client::{self, Body, Client, Response};
use weir_tests::guests::{Chameleon, rogue};
use weir_tests::raw::Raw;
use weir_tests::upstream::{Behaviour, Upstream};
use weir_tests::weir::{Setup, Weir};

type Result<T = ()> = anyhow::Result<T>;

/// What goes wrong inside a hook, whatever the hook would have answered.
const ACTS: [&str; 6] = ["trap", "panic", "exit", "loop", "memory", "recurse"];
const HOOKS: [&str; 8] =
    ["on-request", "on-endpoints", "pick", "on-attempt", "on-outcome", "on-response", "on-body", "on-complete"];
/// Answers that break the contract, by the hooks that can give them.
const ANSWERS: [(&str, &[&str]); 6] = [
    ("on-request", &["many-headers", "bad-header", "bad-name", "framing", "huge-reply", "bad-status", "out-of-range"]),
    ("pick", &["out-of-range"]),
    ("on-attempt", &["many-headers", "bad-header", "bad-name", "framing", "huge-reply"]),
    ("on-outcome", &["huge-reply"]),
    ("on-response", &["many-headers", "bad-header", "bad-name", "framing", "huge-reply", "bad-status", "out-of-range"]),
    ("on-body", &["huge-reply", "bad-status"]),
];

/// One policy of the rogue with a chain and a route of its own, which is the host to call.
#[derive(Clone, Copy)]
struct Case {
    hook: &'static str,
    deed: &'static str,
    on_error: &'static str,
}

impl Case {
    fn all() -> Vec<Self> {
        let acts = HOOKS.into_iter().flat_map(|hook| ACTS.map(|deed| (hook, deed)));
        let answers = ANSWERS.into_iter().flat_map(|(hook, deeds)| deeds.iter().map(move |deed| (hook, *deed)));
        let each = acts.chain(answers).flat_map(|(hook, deed)| ["reject", "skip"].map(|on_error| Self { hook, deed, on_error }));
        each.collect()
    }

    fn name(&self) -> String {
        format!("{}-{}-{}", self.hook, self.deed, self.on_error)
    }

    /// When the policy may not be skipped: after the outcome there is nothing left to refuse.
    fn is_refused(&self) -> bool {
        self.on_error == "reject" && !matches!(self.hook, "on-outcome" | "on-complete")
    }

    fn toml(&self) -> String {
        let (name, Self { hook, deed, on_error }) = (self.name(), self);
        // What is huge gets the room to be made: it is to fail at the boundary, and not for want of memory.
        let limits = if *deed == "huge-reply" { "cpu = \"5s\", memory = \"256MiB\"" } else { "cpu = \"100ms\", memory = \"16MiB\"" };
        format!(
            "[policy.{name}]\nplugin = \"rogue\"\non-error = \"{on_error}\"\nlimits = {{ {limits} }}\nconfig = {{ in = \"{hook}\", do = \"{deed}\" }}\n\
             [[route]]\nmatch = {{ host = \"{name}\" }}\nservice = \"service\"\nchain = \"{name}\"\n"
        )
    }
}

fn node(cases: &[Case], upstream: &Upstream, workers: usize) -> Setup {
    let policies: String = cases.iter().map(Case::toml).collect();
    let chains: String = cases.iter().map(|case| format!("{} = [\"{}\"]\n", case.name(), case.name())).collect();
    Setup::new()
        .workers(workers)
        .with_plugin_file(&rogue(), "rogue")
        .service("service", &[upstream.address()])
        .toml(&policies)
        .toml(&format!("[chain]\n{chains}"))
}

fn call(case: &Case, rogue: bool) -> Result<http::Request<Body>> {
    let mut request = client::post(&case.name(), "/", "body")?;
    if rogue {
        request.headers_mut().insert("x-rogue", "now".parse()?);
    }
    Ok(request)
}

async fn traps(weir: &Weir) -> u64 {
    weir.page("/plugins").await["plugins"][0]["traps"].as_u64().expect("a number")
}

fn is_refusal(response: &Response) -> bool {
    let explained = response.json().is_ok_and(|json| json["error"] == "policy" && json["message"].is_string());
    response.status == 503 && response.header("x-weir-error") == Some("policy") && explained
}

#[tokio::test]
async fn a_broken_hook_costs_its_exchange_at_most_and_one_instance() -> Result {
    let upstream = Upstream::start(Behaviour::mirror()).await?;
    let cases = Case::all();
    let weir = node(&cases, &upstream, 1).start();
    let mut client = Client::http1(weir.address()).await?;
    let mut before = traps(&weir).await;
    for case in &cases {
        let name = case.name();
        upstream.forget();
        let response = client.send(call(case, true)?).await?;
        if case.is_refused() {
            assert!(is_refusal(&response), "{name}: {response:?}");
        } else {
            assert_eq!((response.status.as_u16(), &*response.text(), &response.broken), (200, "body", &None), "{name}: {response:?}");
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
        let after = traps(&weir).await;
        match case.hook {
            // Before picking and before the attempt, in both exchanges.
            "on-endpoints" => assert!(after > before, "{name}: {after} traps after {before}"),
            // Where the body of the request costs an instance, that of the answer does too.
            "on-body" if !case.is_refused() => assert_eq!(after, before + 2, "{name}"),
            _ => assert_eq!(after, before + 1, "{name}"),
        }
        before = after;
    }
    let last = weir.page("/plugins").await["plugins"][0]["last-trap"].clone();
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
    let cases: Vec<Case> =
        hooks.into_iter().flat_map(|hook| ["reject", "skip"].map(|on_error| Case { hook, deed: "error", on_error })).collect();
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
    assert_eq!(traps(&weir).await, 0);
    Ok(())
}

#[tokio::test]
async fn a_guest_that_asks_for_everything_gets_no_more_than_its_share() -> Result {
    let upstream = Upstream::start(200).await?;
    let cases = ["print", "flood"].map(|deed| Case { hook: "on-request", deed, on_error: "skip" });
    let weir = node(&cases, &upstream, 1).start();
    for case in &cases {
        for _ in 0..3 {
            let response = Client::http1(weir.address()).await?.send(call(case, true)?).await?;
            assert_eq!(response.status, 200, "{}: {response:?}", case.name());
            assert_eq!(Client::http1(weir.address()).await?.send(call(case, false)?).await?.status, 200);
        }
    }
    let services = weir.page("/services").await;
    assert!(services.to_string().len() < 8 << 20, "the pages stay readable: {} bytes", services.to_string().len());
    assert!(weir.metric("weir_cells").await.unwrap_or(0.0) <= 100_000.0 * 2.0);
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
            let mut client = if number % 2 == 0 { Client::http1(address).await? } else { Client::http2(address).await? };
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
    assert!(traps(&weir).await >= u64::from(refused));
    Ok(())
}

#[tokio::test]
async fn a_tick_that_breaks_costs_no_exchange() -> Result {
    let upstream = Upstream::start(200).await?;
    let cases = ["trap", "loop", "memory"].map(|deed| Case { hook: "tick", deed, on_error: "reject" });
    let weir = node(&cases, &upstream, 1).start();
    weir.until("ticks trap", async || traps(&weir).await >= 6).await;
    for case in &cases {
        let response = Client::http1(weir.address()).await?.send(call(case, true)?).await?;
        assert_eq!(response.status, 200, "{response:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_caller_that_leaves_while_a_hook_runs_does_no_harm() -> Result {
    let upstream = Upstream::start(200).await?;
    let cases: Vec<Case> = HOOKS
        .into_iter()
        .filter(|hook| *hook != "on-endpoints")
        .flat_map(|hook| ["reject", "skip"].map(|on_error| Case { hook, deed: "loop", on_error }))
        .collect();
    let weir = node(&cases, &upstream, 1).start();
    for case in &cases {
        let mut raw = Raw::connect(weir.address()).await?;
        raw.send(format!("POST / HTTP/1.1\r\nhost: {}\r\nx-rogue: now\r\ncontent-length: 4\r\n\r\nbody", case.name())).await?;
        // The hook runs for 100 ms of CPU time.
        tokio::time::sleep(Duration::from_millis(30)).await;
        raw.reset()?;
    }
    for case in &cases {
        let response = Client::http1(weir.address()).await?.send(call(case, false)?).await?;
        assert_eq!(response.status, 200, "{}: {response:?}", case.name());
    }
    let records = weir.records(cases.len() * 2, |record| record["service"] == "service").await;
    assert_eq!(records.len(), cases.len() * 2, "each exchange leaves one record");
    Ok(())
}

#[tokio::test]
async fn a_deadline_that_passes_while_a_hook_runs_is_a_timeout() -> Result {
    let upstream = Upstream::start(200).await?;
    let case = Case { hook: "on-request", deed: "loop", on_error: "skip" };
    let weir = node(&[case], &upstream, 1).start();
    let mut client = Client::http1(weir.address()).await?;
    let mut request = call(&case, true)?;
    request.headers_mut().insert("x-weir-timeout", "20ms".parse()?);
    let response = client.send(request).await?;
    assert_eq!((response.status.as_u16(), response.header("x-weir-error")), (504, Some("timeout")), "{response:?}");
    assert_eq!(client.send(call(&case, false)?).await?.status, 200);
    Ok(())
}

#[tokio::test]
async fn a_retry_that_would_wait_for_ever_is_not_waited_for() -> Result {
    let upstream = Upstream::start(503).await?;
    let case = Case { hook: "on-outcome", deed: "out-of-range", on_error: "skip" };
    let weir = node(&[case], &upstream, 1).start();
    let mut request = client::get(&case.name(), "/")?;
    request.headers_mut().insert("x-rogue", "now".parse()?);
    let response = Client::http1(weir.address()).await?.send(request).await?;
    assert_eq!((response.status.as_u16(), response.header("x-weir-error")), (503, None), "the service's own: {response:?}");
    assert_eq!(upstream.request_count(), 1);
    Ok(())
}

#[tokio::test]
async fn memory_bombs_leave_no_memory_behind() -> Result {
    let upstream = Upstream::start(200).await?;
    let case = Case { hook: "on-request", deed: "memory", on_error: "skip" };
    let weir = node(&[case], &upstream, 1).start();
    let mut client = Client::http1(weir.address()).await?;
    let mut bomb = async || anyhow::Ok(assert_eq!(client.send(call(&case, true)?).await?.status, 200));
    bomb().await?;
    let before = resident();
    for _ in 0..100 {
        bomb().await?;
    }
    // 100 instances of 16 MiB; other tests of this file run at the same time.
    let grown = resident().saturating_sub(before);
    assert!(grown < 800 << 20, "{} MiB more", grown >> 20);
    assert_eq!(traps(&weir).await, 101);
    Ok(())
}

/// Resident memory of this process, in bytes.
fn resident() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    pages.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).expect("a number") * 4096
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
    let error = weir.page("/plugins").await["plugins"][0]["last-error"].clone();
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
    for (plugin, file) in [("missing", None), ("half", Some(&whole[..whole.len() / 2])), ("empty", Some(&[][..])), ("trapping", Some(&*chameleon.bytes("trap")))] {
        if let Some(bytes) = file {
            setup = setup.with_plugin_file(&chameleon.file(plugin, bytes), plugin);
        }
        for on_error in ["reject", "skip"] {
            let name = format!("{plugin}-{on_error}");
            setup = setup.toml(&format!("[policy.{name}]\nplugin = \"{plugin}\"\non-error = \"{on_error}\""));
            setup = setup.toml(&format!("[[route]]\nmatch = {{ host = \"{name}\" }}\nservice = \"service\"\nchain = \"{name}\""));
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
        weir.until("the plugin serves", async || client::fetch(weir.address(), &name, "/").await.is_ok_and(|response| response.status == 200)).await;
    }
    Ok(())
}
