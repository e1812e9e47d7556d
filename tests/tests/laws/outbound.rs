//! Policies that make calls of their own: what works, what is refused, and who is never held up by it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use weir_tests::asking::call;
use weir_tests::guests::with_section;
use weir_tests::upstream::{Answer, Behaviour, Received, Reply, Upstream, closed_address};
use weir_tests::weir::{Setup, Weir, guests_directory};

type Result = anyhow::Result<()>;

const GRANTED: &str = "allow = [\"outbound:flags\"]\nlimits = { cpu = \"100ms\" }\n";

/// The service `s` behind the policy that asks the service `flags`.
fn setup(service: &Upstream, flags: SocketAddr, protocol: &str, policy: &str) -> Setup {
    Setup::new()
        .with_plugin_file(&guests_directory().join("flags.wasm"), "guest")
        .toml(&format!("[chain]\nc = [\"p\"]\n[policy.p]\nplugin = \"guest\"\n{policy}"))
        .service_with("s", &[service.address()], "http1", "chain = \"c\"")
        .service_with("flags", &[flags], protocol, "")
}

/// What the service is told in a field by the policy; each call also is one that has to succeed.
async fn told(weir: &Weir, service: &Upstream, field: &str) -> String {
    let response = call(weir, &[]).await.expect("no exchange fails");
    assert_eq!(response.status, 200, "{response:?}");
    service.last().expect("it was called").header(field).unwrap_or_default().to_owned()
}

async fn outcomes(weir: &Weir, outcome: &str) -> f64 {
    weir.metric(&format!("weir_outbound_calls_total{{policy=\"p\",outcome=\"{outcome}\"}}")).await.unwrap_or(0.0)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_policy_fetches_in_tick_reaches_every_exchange() -> Result {
    for protocol in ["http1", "http2"] {
        let (service, flags) =
            (Upstream::start(Behaviour::echo()).await?, Upstream::start(Reply::new(200).body("on")).await?);
        let policy = format!("{GRANTED}config = {{ service = \"flags\" }}");
        let weir = setup(&service, flags.address(), protocol, &policy).workers(3).start();
        weir.until("the flag is there", async || told(&weir, &service, "x-flag").await == "on").await;
        for _ in 0..20 {
            assert_eq!(told(&weir, &service, "x-flag").await, "on", "on every worker");
        }
        flags.set(Reply::new(200).body("off"));
        weir.until("the flag has changed", async || told(&weir, &service, "x-flag").await == "off").await;
        assert_eq!(told(&weir, &service, "x-fetched").await, "200");
        let asked = flags.last().expect("it was asked");
        assert_eq!((&*asked.method, &*asked.target, asked.header("x-asked-by")), ("GET", "/flag", Some("flags")));
        assert_eq!(asked.authority.as_deref(), Some(&*flags.address().to_string()));
        assert!(outcomes(&weir, "ok").await >= 2.0);
        assert_eq!(weir.traps().await, 0);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_instance_of_the_node_calls_out_and_one_call_at_a_time() -> Result {
    let service = Upstream::start(Behaviour::echo()).await?;
    let flags =
        Upstream::start(Behaviour::from(Reply::new(200).body("on")).delayed(Duration::from_millis(100))).await?;
    let policy = format!("{GRANTED}config = {{ service = \"flags\" }}");
    let weir = setup(&service, flags.address(), "http1", &policy).workers(4).start();
    weir.until("there were some calls", async || flags.request_count() >= 6).await;
    assert!(flags.open_connections() <= 1, "{}", flags.open_connections());
    let times: Vec<Instant> = flags.requests().iter().map(|request: &Received| request.at).collect();
    assert!(times.windows(2).all(|two| two[1] - two[0] >= Duration::from_millis(100)), "{times:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_out_of_another_hook_is_an_error_and_no_trap() -> Result {
    let (service, flags) = (Upstream::start(Behaviour::echo()).await?, Upstream::start(200).await?);
    let policy = format!("{GRANTED}config = {{ service = \"flags\" }}");
    let weir = setup(&service, flags.address(), "http1", &policy).start();
    let response = call(&weir, &[("x-call-out", "1")]).await?;
    assert_eq!(response.status, 200);
    assert_eq!(service.last().expect("it was called").header("x-refused"), Some("OnlyInTick"));
    assert_eq!(weir.traps().await, 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_out_are_made_only_where_they_are_granted() -> Result {
    let (service, flags) =
        (Upstream::start(Behaviour::echo()).await?, Upstream::start(Reply::new(200).body("on")).await?);
    // Never by default, even if the configuration names the service.
    let config = "config = { service = \"flags\" }";
    let weir = setup(&service, flags.address(), "http1", config).start();
    weir.until("it was refused", async || told(&weir, &service, "x-fetched").await.starts_with("Denied: ")).await;
    let why = told(&weir, &service, "x-fetched").await;
    assert!(
        why.contains("policy \"p\" is not allowed outbound:flags: give it allow = [\"endpoints\", \"outbound:flags\"]"),
        "{why}"
    );
    assert_eq!((flags.connection_count(), weir.traps().await), (0, 0));
    let denials = async || weir.metric("weir_capability_denied_total{policy=\"p\",capability=\"outbound\"}").await;
    assert!(denials().await > Some(0.0));

    // A grant is of one service, and can be given and taken live.
    weir.edit(config, &format!("allow = [\"outbound:flags\"]\n{config}"));
    weir.until("it is granted", async || told(&weir, &service, "x-flag").await == "on").await;
    weir.edit("allow = [\"outbound:flags\"]", "allow = [\"outbound:s\"]");
    weir.until("it is taken", async || told(&weir, &service, "x-fetched").await.starts_with("Denied: ")).await;
    let count = flags.request_count();
    let before = denials().await;
    weir.until("it ticks on", async || denials().await > before.map(|before| before + 5.0)).await;
    assert_eq!(flags.request_count(), count, "nothing is sent any more");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_calls_out_is_refused_where_nothing_of_the_kind_is_granted() -> Result {
    let (service, flags) = (Upstream::start(Behaviour::echo()).await?, Upstream::start(200).await?);
    let policy = "on-error = \"skip\"\nallow = []\nconfig = { service = \"flags\" }";
    let weir = setup(&service, flags.address(), "http1", policy).start();
    assert_eq!(told(&weir, &service, "x-flag").await, "");
    let why = weir.plugin_error().await;
    assert!(
        why.contains(
            "plugin \"guest\" 0.1.0 asks for outbound, which [policy.p] does not allow: add \"outbound:<service>\""
        ),
        "{why}"
    );
    assert_eq!(flags.connection_count(), 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_the_service_does_the_policy_is_told_and_exchanges_go_on() -> Result {
    const MIB: u64 = 1024 * 1024;
    let fields = |count: usize| (0..count).fold(Reply::new(200), |reply, n| reply.header(format!("x-{n}"), "v"));
    let trickle = Reply::new(200).body("a slow answer").trickle(1, Duration::from_millis(200));
    let cases: Vec<(&str, Behaviour, &str)> = vec![
        ("as much as there may be", Reply::new(200).huge(MIB).into(), "a value is at most 65536 bytes long"),
        ("too much", Reply::new(200).huge(MIB + 1).into(), "TooLarge: "),
        ("much too much, unannounced", Reply::new(200).huge(64 * MIB).chunked().into(), "TooLarge: "),
        ("no answer", Answer::hang().into(), "Timeout: "),
        ("a slow one", trickle.into(), "Timeout: "),
        ("half of one", Reply::new(200).body("0123456789").truncate_after(5).into(), "Broken: "),
        ("a body that stalls", Reply::new(200).body("0123456789").stall_after(5).into(), "Timeout: "),
        ("a reset", Answer::reset().into(), "Broken: "),
        ("a close", Answer::close().into(), "Broken: "),
        ("no HTTP", Answer::raw("SSH-2.0-OpenSSH\r\n\r\n").into(), "Broken: "),
        ("too many fields", fields(300).into(), "Broken: "),
        ("a huge field", Reply::new(200).header("x-long", "v".repeat(200_000)).into(), "Broken: "),
        ("a redirect", Reply::new(302).header("location", "/elsewhere").into(), "302"),
        ("a failure", 503.into(), "503"),
        (
            "an upgrade",
            Answer::raw("HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n").into(),
            "Broken: ",
        ),
        ("an answer again", Reply::new(200).body("on").into(), "200"),
    ];
    let (service, flags) = (Upstream::start(Behaviour::echo()).await?, Upstream::start(200).await?);
    let policy = format!("{GRANTED}config = {{ service = \"flags\", timeout = \"500ms\" }}");
    let weir = setup(&service, flags.address(), "http1", &policy).start();
    for (what, behaviour, said) in cases {
        flags.set(behaviour);
        weir.until(what, async || told(&weir, &service, "x-fetched").await.contains(said)).await;
        let why = told(&weir, &service, "x-fetched").await;
        assert!(!said.ends_with(": ") || why.contains("service \"flags\": "), "{what}: {why}");
    }
    assert_eq!(weir.traps().await, 0, "nothing that a service does costs an instance");
    assert!(flags.requests().iter().all(|request| request.target == "/flag"), "redirects are not followed");
    for outcome in ["ok", "too-large", "timeout", "broken"] {
        assert!(outcomes(&weir, outcome).await > 0.0, "{outcome}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_is_not_there_and_a_request_that_cannot_be_sent_are_told() -> Result {
    let service = Upstream::start(Behaviour::echo()).await?;
    let policy = |config: &str| format!("{GRANTED}config = {{ service = \"flags\", {config} }}");
    let there = Upstream::start(200).await?;
    for (address, config, said) in [
        (closed_address()?, "", "Unavailable: service \"flags\": no connection to 127.0.0.1:"),
        (there.address(), "path = \"flag\"", "Invalid: service \"flags\": the path does not begin"),
        (there.address(), "path = \"/a b\"", "Invalid: service \"flags\": the path"),
        (there.address(), "path = \"/a\\r\\nhost: b\"", "Invalid: service \"flags\": the path"),
        (
            there.address(),
            "body = 1048577",
            "Invalid: service \"flags\": the body has 1048577 bytes; 1048576 are the most",
        ),
    ] {
        let weir = setup(&service, address, "http1", &policy(config)).start();
        weir.until(said, async || told(&weir, &service, "x-fetched").await.starts_with(said)).await;
        assert_eq!(weir.traps().await, 0, "{said}");
    }
    assert_eq!(there.connection_count(), 0);
    let weir = setup(&service, there.address(), "http1", &policy("body = 1048576")).start();
    weir.until("the longest body is sent", async || there.last().is_some_and(|last| last.body.len() == 1 << 20)).await;
    drop(weir);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_hangs_holds_up_no_exchange_no_other_policy_no_reload_and_no_stop() -> Result {
    let (service, hanging) = (Upstream::start(Behaviour::echo()).await?, Upstream::start(Answer::hang()).await?);
    let flags = Upstream::start(Reply::new(200).body("on")).await?;
    let policy = format!("{GRANTED}config = {{ service = \"flags\" }}");
    let other = format!(
        "[[service]]\nname = \"fine\"\nendpoints = [{{ address = \"{}\" }}]\n[policy.q]\nplugin = \"guest\"\nallow = [\"outbound:fine\"]\nconfig = {{ service = \"fine\" }}",
        flags.address()
    );
    let weir = setup(&service, hanging.address(), "http1", &policy).workers(1).toml(&other).start();
    weir.until("it hangs", async || hanging.request_count() == 1).await;
    for _ in 0..20 {
        assert_eq!(call(&weir, &[]).await?.status, 200);
    }
    weir.until("the other policy ticks on", async || flags.request_count() > 10).await;
    assert_eq!(hanging.request_count(), 1, "it has waited all the while");

    // A new version stops the call of the old one, and makes its own.
    let same = std::fs::read(guests_directory().join("flags.wasm"))?;
    let files = tempfile::tempdir()?;
    std::fs::write(files.path().join("new.wasm"), with_section(&same, "another"))?;
    weir.drop_plugin(&files.path().join("new.wasm"), "guest");
    weir.until("the new version calls", async || hanging.request_count() == 2).await;
    weir.until("the old call is gone", async || hanging.open_connections() == 1).await;

    // So does a stop, which waits for none. Its limit is far above what it takes, and below a call's.
    let begun = Instant::now();
    tokio::task::spawn_blocking(move || weir.stop()).await?;
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    let until = Instant::now() + Duration::from_secs(8);
    while hanging.open_connections() > 0 {
        assert!(Instant::now() < until, "the call goes on after the stop");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trap_after_a_call_costs_that_tick_alone() -> Result {
    let (service, flags) = (Upstream::start(Behaviour::echo()).await?, Upstream::start(200).await?);
    let policy = format!("{GRANTED}config = {{ service = \"flags\", trap = true }}");
    let weir = setup(&service, flags.address(), "http1", &policy).start();
    weir.until("it trapped, and called again", async || flags.request_count() >= 3 && weir.traps().await >= 2).await;
    for _ in 0..20 {
        assert_eq!(call(&weir, &[]).await?.status, 200);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_is_removed_calls_no_more() -> Result {
    let (service, flags) = (Upstream::start(Behaviour::echo()).await?, Upstream::start(200).await?);
    let policy = format!("{GRANTED}config = {{ service = \"flags\" }}");
    let weir = setup(&service, flags.address(), "http1", &policy).start();
    weir.until("it calls", async || flags.request_count() > 2).await;
    weir.edit_live(&format!("c = [\"p\"]\n[policy.p]\nplugin = \"guest\"\n{policy}"), "c = []").await;
    // Ten ticks' time without a call: it is over.
    weir.until("it calls no more", async || {
        let count = flags.request_count();
        tokio::time::sleep(Duration::from_millis(200)).await;
        flags.request_count() == count
    })
    .await;
    assert_eq!(told(&weir, &service, "x-flag").await, "");
    Ok(())
}
