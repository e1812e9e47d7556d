//! The configuration changes under traffic, alone and together with a plugin.

use weir_tests::client::{self, Client};
use weir_tests::guests::{Chameleon, with_section};
use weir_tests::traffic::{Traffic, call, versions};
use weir_tests::upstream::{Behaviour, Upstream};
use weir_tests::weir::{Setup, Weir, plugins_directory};

type Result<T = ()> = anyhow::Result<T>;

const CONFIG_FAILED: &str = "weir_reloads_total{what=\"config\",result=\"failed\"}";

async fn plugin(weir: &Weir) -> serde_json::Value {
    weir.page("/plugins").await["plugins"][0].clone()
}

/// Changes the configuration as an editor does.
fn edit(weir: &Weir, from: &str, to: &str) {
    let file = weir.config_file();
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.contains(from), "{from:?} is not in {text}");
    std::fs::write(file.with_extension("new"), text.replace(from, to)).unwrap();
    std::fs::rename(file.with_extension("new"), file).unwrap();
}

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
    edit(&weir, "name = \"a:\"", "name = \"c:\"");
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
        edit(&weir, from, to);
        weir.until(&format!("{what} is refused"), async || weir.metric(CONFIG_FAILED).await > Some(failed)).await;
        failed += 1.0;
        assert_eq!(weir.metric(CONFIG_FAILED).await, Some(failed), "{what}");
        weir.until(what, async || {
            weir.page("/config").await["last-error"].as_str().is_some_and(|error| error.contains(said))
        })
        .await;
        assert!(name("c").await, "{what}");
        std::fs::write(weir.config_file(), good)?;
        weir.until("the error is forgotten", async || weir.page("/config").await["last-error"].is_null()).await;
    }

    // Gone and back.
    std::fs::remove_file(weir.config_file())?;
    weir.until("it is told", async || {
        weir.page("/config").await["last-error"].as_str().is_some_and(|error| error.contains("cannot be read"))
    })
    .await;
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
    let traffic = Traffic::start(&weir);
    let live = async |mark: &str| {
        let response = client::fetch(weir.address(), "service", "/").await.expect("no exchange fails");
        versions(&response).first().cloned() == Some(mark.to_owned())
    };
    // The plugin first: it needs a key that the configuration does not have, and that v1 would not know.
    weir.drop_plugin(&chameleon.version("blue"), "chameleon");
    weir.until("it is refused", async || {
        plugin(&weir).await["last-error"].as_str().is_some_and(|error| error.contains("colour"))
    })
    .await;
    assert!(live("a:v1").await);
    traffic.stop().await?;
    edit(&weir, ":\" }", ":\", colour = \"blue\" }");
    weir.until("both are live", async || live("a:blueblue").await).await;
    // The configuration first.
    edit(&weir, "colour = \"blue\"", "colour = \"red\"");
    weir.until("it is refused", async || weir.page("/config").await["last-error"].is_string()).await;
    assert!(live("a:blueblue").await);
    weir.drop_plugin(&chameleon.version("red"), "chameleon");
    weir.until("both are live", async || live("a:redred").await).await;
    weir.until("no error is left", async || {
        weir.page("/config").await["last-error"].is_null() && plugin(&weir).await["last-error"].is_null()
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
    let before = plugin(&weir).await["digest"].clone();
    let other = Chameleon::default();
    weir.drop_plugin(&other.file("headers", &with_section(&std::fs::read(file)?, "built again")), "headers");
    weir.until("it is taken over", async || plugin(&weir).await["digest"] != before).await;
    let response = client::fetch(weir.address(), "service", "/").await?;
    assert_eq!(response.header("x-policy-marker"), Some("v1"));
    Ok(())
}
