//! What a policy may use is shown, granted and enforced.

use serde_json::json;
use weir_tests::asking::{Asking, call};
use weir_tests::process::{command, written};
use weir_tests::upstream::{Behaviour, Upstream};
use weir_tests::weir::{Weir, guests_directory, plugins_directory};

type Result = anyhow::Result<()>;

/// What the service was sent in a field by a call with one of the guest's fields.
async fn answered(weir: &Weir, upstream: &Upstream, asked: (&'static str, &str), field: &str) -> String {
    let response = call(weir, &[asked]).await.expect("no exchange fails");
    assert_eq!(response.status, 200, "{response:?}");
    upstream.last().expect("it was called").header(field).unwrap_or_default().to_owned()
}

async fn opened(weir: &Weir, upstream: &Upstream, key: &str) -> String {
    answered(weir, upstream, ("x-open", key), "x-opened").await
}

async fn denials(weir: &Weir, capability: &str) -> Option<f64> {
    weir.metric(&format!("weir_capability_denied_total{{policy=\"p\",capability=\"{capability}\"}}")).await
}

async fn allowed(weir: &Weir) -> serde_json::Value {
    weir.plugin().await["policies"][0]["allow"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn without_allow_a_policy_uses_the_keys_that_its_configuration_names_and_no_others() -> Result {
    let upstream = Upstream::start(Behaviour::echo()).await?;
    let asking = Asking::default();
    let weir = asking.setup(&asking.version(""), &[upstream.address()], "config = { key = \"own\" }").start();
    assert_eq!(allowed(&weir).await, json!(["crypto:own", "endpoints"]));
    assert_eq!(opened(&weir, &upstream, "own").await, "opened");
    assert_eq!(denials(&weir, "crypto").await, None);
    let why = opened(&weir, &upstream, "other").await;
    assert!(why.contains("policy \"p\" is not allowed crypto:other"), "{why}");
    assert!(why.contains("allow = [\"crypto:own\", \"endpoints\", \"crypto:other\"]"), "{why}");
    assert_eq!(denials(&weir, "crypto").await, Some(1.0));
    // Who mistypes a name is told that there is no such key, and not to grant it.
    assert!(opened(&weir, &upstream, "othr").await.contains("there is no key \"othr\""));
    assert_eq!(denials(&weir, "crypto").await, Some(1.0));
    assert_eq!(weir.traps().await, 0, "a denial is an answer, not a trap");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn allow_is_exact_and_can_be_changed_live() -> Result {
    let upstream = Upstream::start(Behaviour::echo()).await?;
    let asking = Asking::default();
    let policy = "allow = [\"endpoints\", \"crypto:own\"]";
    let weir = asking.setup(&asking.version(""), &[upstream.address()], policy).start();
    assert_eq!(allowed(&weir).await, json!(["crypto:own", "endpoints"]));
    assert_eq!(opened(&weir, &upstream, "own").await, "opened");
    assert!(opened(&weir, &upstream, "other").await.contains("add \"crypto:other\" to its allow"));
    weir.edit("\"crypto:own\"]", "\"crypto:other\"]");
    weir.until("the grant is live", async || opened(&weir, &upstream, "other").await == "opened").await;
    assert!(opened(&weir, &upstream, "own").await.contains("not allowed"), "and the other one is gone");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_are_ejected_only_by_those_who_may() -> Result {
    let upstream = Upstream::start(Behaviour::echo()).await?;
    let other = Upstream::start(Behaviour::echo()).await?;
    let both = [upstream.address(), other.address()];
    let asking = Asking::default();
    // A component that imports these functions is refused where `allow` leaves them out. This one is granted them by
    // default, and loses them live: the change is refused too, and nothing happens to anyone.
    let weir = asking.setup(&asking.version(""), &both, "allow = [\"crypto:own\", \"endpoints\"]").start();
    weir.edit(", \"endpoints\"]", "]");
    weir.until("it is refused", async || {
        let error = weir.config_error().await;
        error.contains("asks for endpoints") && error.contains("add \"endpoints\"")
    })
    .await;
    let ejected = async |weir: &Weir| -> usize {
        let page = weir.page("/services").await;
        let endpoints = page["services"][0]["endpoints"].as_array().expect("a list").clone();
        endpoints.iter().filter(|endpoint| endpoint["health"] == "ejected").count()
    };
    assert_eq!(ejected(&weir).await, 0);
    let response = call(&weir, &[("x-eject", "1")]).await?;
    assert_eq!(response.status, 200);
    assert_eq!(ejected(&weir).await, 1);
    assert_eq!(denials(&weir, "endpoints").await, None);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_asks_for_an_ungranted_key_is_refused_and_the_old_one_stays() -> Result {
    let upstream = Upstream::start(Behaviour::echo()).await?;
    let asking = Asking::default();
    for policy in ["allow = [\"crypto:own\", \"endpoints\"]", "config = { key = \"own\" }"] {
        let weir = asking.setup(&asking.version("own"), &[upstream.address()], policy).start();
        if policy.starts_with("config") {
            assert_eq!(weir.plugin_error().await, "");
        }
        let serving = weir.plugin().await["digest"].clone();
        weir.drop_plugin(&asking.version("other"), "guest");
        weir.until("it is refused", async || !weir.plugin_error().await.is_empty()).await;
        let why = weir.plugin_error().await;
        let said = "plugin \"guest\" 0.1.0 asks for crypto:other, which [policy.p] does not allow: ";
        assert!(why.contains(said) && why.contains("\"crypto:other\""), "{why}");
        assert_eq!(weir.plugin().await["digest"], serving);
        assert_eq!(call(&weir, &[]).await?.status, 200);
        // What was refused may come once it is granted.
        let (from, to) = if policy.starts_with("allow") {
            ("\"endpoints\"]", "\"endpoints\", \"crypto:other\"]")
        } else {
            ("config = { key", "allow = [\"crypto:own\", \"crypto:other\", \"endpoints\"]\nconfig = { key")
        };
        weir.edit(from, to);
        weir.until("it serves", async || weir.plugin_error().await.is_empty()).await;
        assert_ne!(weir.plugin().await["digest"], serving);
        assert_eq!(opened(&weir, &upstream, "other").await, "opened");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_component_that_imports_what_is_not_granted_never_runs() -> Result {
    let upstream = Upstream::start(Behaviour::echo()).await?;
    let asking = Asking::default();
    let quiet = plugins_directory().join("headers.wasm");
    let weir = asking.setup(&quiet, &[upstream.address()], "allow = []").start();
    assert_eq!(weir.plugin().await["asks"], json!([]));
    let serving = weir.plugin().await["digest"].clone();
    weir.drop_plugin(&asking.version(""), "guest");
    weir.until("it is refused", async || weir.plugin_error().await.contains("asks for crypto, which [policy.p]")).await;
    assert!(weir.plugin_error().await.contains("add \"crypto:<key>\" to its allow"), "{}", weir.plugin_error().await);
    assert_eq!(weir.plugin().await["digest"], serving);
    assert_eq!(call(&weir, &[]).await?.status, 200);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn at_start_on_error_decides_what_a_policy_that_asks_too_much_means() -> Result {
    let upstream = Upstream::start(Behaviour::echo()).await?;
    let asking = Asking::default();
    for (guest, policy, said) in [
        (asking.version(""), "allow = []", "asks for crypto,"),
        (asking.version("other"), "allow = [\"crypto:own\", \"endpoints\"]", "asks for crypto:other,"),
        (asking.version("other"), "config = {}", "asks for crypto:other,"),
    ] {
        for (on_error, status) in [("reject", 503), ("skip", 200)] {
            let keys = format!("on-error = \"{on_error}\"\n{policy}");
            let weir = asking.setup(&guest, &[upstream.address()], &keys).start();
            let response = call(&weir, &[]).await?;
            assert_eq!(response.status.as_u16(), status, "{response:?}");
            if status == 503 {
                assert_eq!(response.header("x-weir-error"), Some("policy"));
            }
            assert!(weir.plugin_error().await.contains(said), "{}", weir.plugin_error().await);
        }
    }
    Ok(())
}

#[test]
fn check_names_the_place_of_allow() -> Result {
    let asking = Asking::default();
    for (policy, place) in
        [("allow = [\"crypto:own\", \"endpoints\"]", "allow = "), ("on-error = \"skip\"", "[policy.p]")]
    {
        let (_directory, config) = written(&asking.setup(&asking.version("other"), &[], policy))?;
        let output = command().args(["check", "--config"]).arg(&config).output()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        let text = std::fs::read_to_string(&config)?;
        let line = text.lines().position(|line| line.starts_with(place)).expect("it is there") + 1;
        assert!(said.contains(&format!("{}:{line}:", config.display())), "{place} is in line {line}: {said}");
        assert!(said.contains("asks for crypto:other, which [policy.p] does not allow"), "{said}");
    }
    Ok(())
}

#[test]
fn inspect_says_what_a_component_asks_for() -> Result {
    let asks = |file: &std::path::Path| -> anyhow::Result<String> {
        let output = command().arg("inspect").arg(file).output()?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let line = said.lines().find_map(|line| line.strip_prefix("asks     ")).map(str::to_owned);
        line.ok_or_else(|| anyhow::anyhow!("no line: {said}{}", String::from_utf8_lossy(&output.stderr)))
    };
    let keys = "crypto:<key> (use keys)";
    let ejecting = "endpoints (eject endpoints and report breakers)";
    assert_eq!(asks(&guests_directory().join("asker.wasm"))?, format!("{keys}, {ejecting}"));
    assert_eq!(asks(&guests_directory().join("flags.wasm"))?, "outbound:<service> (make calls of its own)");
    assert_eq!(asks(&plugins_directory().join("token-mint.wasm"))?, keys);
    assert_eq!(asks(&plugins_directory().join("circuit-breaker.wasm"))?, ejecting);
    // To look at the load of endpoints is free.
    assert_eq!(asks(&plugins_directory().join("load-balance.wasm"))?, "for nothing");
    Ok(())
}
