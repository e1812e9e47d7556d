//! The configuration changes under traffic, alone and together with a plugin.

use weir_tests::client::{self, Client};
use weir_tests::guests::{Chameleon, with_section};
use weir_tests::traffic::{self, call, versions};
use weir_tests::upstream::{Behaviour, Upstream};
use weir_tests::weir::{Setup, plugins_directory};

type Result<T = ()> = anyhow::Result<T>;

const CONFIG_FAILED: &str = "weir_reloads_total{what=\"config\",result=\"failed\"}";

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_of_the_configuration_is_live_and_a_broken_one_is_told() -> Result {
    let upstream = Upstream::start(Behaviour::echo()).await?;
    let chameleon = Chameleon::default();
    let weir = chameleon.setup("v1", upstream.address()).start();
    let mut client = Client::http1(weir.address()).await?;
    let first = weir.config_file();
    let first = std::fs::read_to_string(first)?;
    let name = async |name: &str| {
        let response = client::fetch(weir.address(), "service", "/").await.expect("no exchange fails");
        assert_eq!(response.status, 200, "{response:?}");
        versions(&response).first().cloned() == Some(format!("{name}:v1"))
    };
    weir.edit("name = \"a:\"", "name = \"c:\"");
    weir.until("the edit is live", async || name("c").await).await;
    assert_eq!(versions(&call(&mut client).await?)[0], "c:v1", "on a connection from before, too");

    let broken = [
        ("not TOML", "[chain]", "[chain", ""),
        ("an unknown key", "[chain]", "[chains]", "chains"),
        ("an unknown plugin", "plugin = \"chameleon\"", "plugin = \"camelion\"", "camelion"),
        ("against the schema", "name = \"c:\"", "name = 5", "5"),
        (
            "what is set up at start",
            "workers = 2",
            "workers = 1",
            "[node] workers changed, which takes effect at the next start",
        ),
    ];
    let mut failed = 0.0;
    for (what, from, to, said) in broken {
        let good = std::fs::read_to_string(weir.config_file())?;
        weir.edit(from, to);
        weir.until(&format!("{what} is refused"), async || weir.metric(CONFIG_FAILED).await > Some(failed)).await;
        failed += 1.0;
        assert_eq!(weir.metric(CONFIG_FAILED).await, Some(failed), "{what}");
        weir.until(what, async || weir.config_error().await.contains(said)).await;
        assert!(name("c").await, "{what}");
        std::fs::write(weir.config_file(), good)?;
        weir.until("the error is forgotten", async || weir.config_error().await.is_empty()).await;
    }

    // Gone and back.
    std::fs::remove_file(weir.config_file())?;
    weir.until("it is told", async || weir.config_error().await.contains("cannot be read")).await;
    assert!(name("c").await);
    std::fs::write(weir.config_file(), first)?;
    weir.until("the first one is live again", async || name("a").await).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_and_a_configuration_that_need_each_other_go_live_together() -> Result {
    let upstream = Upstream::start(Behaviour::echo()).await?;
    let chameleon = Chameleon::default();
    let weir = chameleon.setup("v1", upstream.address()).start();
    let traffic = traffic::start(&weir);
    let live = async |mark: &str| {
        let response = client::fetch(weir.address(), "service", "/").await.expect("no exchange fails");
        versions(&response).first().cloned() == Some(mark.to_owned())
    };
    // The plugin first: it needs a key that the configuration does not have, and that v1 would not know.
    weir.drop_plugin(&chameleon.version("blue"), "chameleon");
    weir.until("it is refused", async || weir.plugin_error().await.contains("colour")).await;
    assert!(live("a:v1").await);
    traffic.stop().await?;
    weir.edit(":\" }", ":\", colour = \"blue\" }");
    weir.until("both are live", async || live("a:blueblue").await).await;
    // The configuration first.
    weir.edit("colour = \"blue\"", "colour = \"red\"");
    weir.until("it is refused", async || !weir.config_error().await.is_empty()).await;
    assert!(live("a:blueblue").await);
    weir.drop_plugin(&chameleon.version("red"), "chameleon");
    weir.until("both are live", async || live("a:redred").await).await;
    weir.until("no error is left", async || {
        weir.config_error().await.is_empty() && weir.plugin_error().await.is_empty()
    })
    .await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_behaviour_under_another_digest_is_another_version() -> Result {
    let upstream = Upstream::start(200).await?;
    let file = plugins_directory().join("headers.wasm");
    let weir = Setup::new()
        .policy("marker", "headers", "{ response = { set = { x-policy-marker = \"v1\" } } }")
        .toml("[chain]\nmain = [\"marker\"]")
        .service_with("service", &[upstream.address()], "http1", "chain = \"main\"")
        .start();
    let before = weir.plugin().await["digest"].clone();
    let other = Chameleon::default();
    weir.drop_plugin(&other.file("headers", &with_section(&std::fs::read(file)?, "built again")), "headers");
    weir.until("it is taken over", async || weir.plugin().await["digest"] != before).await;
    let response = client::fetch(weir.address(), "service", "/").await?;
    assert_eq!(response.header("x-policy-marker"), Some("v1"));
    Ok(())
}
