//! A plugin changes under traffic: a good version is in effect at once on live connections, another leaves the last good
//! one serving and says why, and no exchange notices either.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use weir_tests::client::{Client, Response};
use weir_tests::guests::{Chameleon, write_in_place};
use weir_tests::traffic::{self, call, marks, until_live, versions};
use weir_tests::upstream::{Behaviour, Upstream};

type Result<T = ()> = anyhow::Result<T>;

const PLUGINS_FAILED: &str = "weir_reloads_total{what=\"plugin\",result=\"failed\"}";
const PLUGINS_OK: &str = "weir_reloads_total{what=\"plugin\",result=\"ok\"}";

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_arrives_in_any_way_is_live_on_open_connections() -> Result {
    let upstream = Upstream::start(Behaviour::echo()).await?;
    let chameleon = Chameleon::default();
    let weir = chameleon.setup("v1", upstream.address()).start();
    let mut client = Client::http1(weir.address()).await?;
    let traffic = traffic::start(&weir);
    let place = weir.plugins().join("chameleon.wasm");
    until_live(&weir, &mut client, "v1").await?;

    weir.drop_plugin(&chameleon.version("renamed"), "chameleon");
    until_live(&weir, &mut client, "renamed").await?;

    write_in_place(&place, &chameleon.bytes("in-place"));
    until_live(&weir, &mut client, "in-place").await?;

    std::fs::remove_file(&place)?;
    weir.until("it is told that the file is gone", async || {
        weir.plugin().await["last-error"].to_string().contains("gone")
    })
    .await;
    assert_eq!(versions(&call(&mut client).await?), marks("in-place"), "the last good version keeps serving");
    write_in_place(&place, &chameleon.bytes("created"));
    until_live(&weir, &mut client, "created").await?;

    // A file of the same length and with the same time of modification, as reproducible builds make them.
    let modified = std::fs::metadata(&place)?.modified()?;
    let twin = chameleon.version("twin");
    std::fs::File::options().write(true).open(&twin)?.set_modified(modified)?;
    weir.drop_plugin(&twin, "chameleon");
    std::fs::File::options().write(true).open(&place)?.set_modified(modified)?;
    until_live(&weir, &mut client, "twin").await?;

    // A burst: what counts is the last.
    for word in ["one", "two", "three", "four"] {
        write_in_place(&place, &chameleon.bytes(word));
    }
    until_live(&weir, &mut client, "four").await?;

    let answered = traffic.stop().await?;
    assert!(answered > 20, "{answered}");
    assert_eq!(weir.plugin().await["last-error"], serde_json::Value::Null);
    assert!(!client.is_closed());
    Ok(())
}

/// Swaps a symbolic link as Kubernetes does: made beside, then renamed.
fn swap(link: &Path, target: &Path) {
    let beside = link.with_file_name("beside");
    symlink(target, &beside).unwrap();
    std::fs::rename(&beside, link).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn links_may_be_swapped_and_the_directory_may_be_away_for_a_while() -> Result {
    let upstream = Upstream::start(Behaviour::echo()).await?;
    let chameleon = Chameleon::default();
    let weir = chameleon.setup("v1", upstream.address()).start();
    let mut client = Client::http1(weir.address()).await?;
    let traffic = traffic::start(&weir);
    let plugins = weir.plugins();
    let root = plugins.parent().unwrap().to_owned();
    let put = |directory: &Path, word: &str| {
        std::fs::create_dir_all(directory).unwrap();
        std::fs::write(directory.join("chameleon.wasm"), chameleon.bytes(word)).unwrap();
    };

    // As in a mounted ConfigMap: the file is a link into `..data`, which is a link to the current directory.
    for word in ["mount-1", "mount-2", "mount-3"] {
        put(&plugins.join(format!("..{word}")), word);
        swap(&plugins.join("..data"), Path::new(&format!("..{word}")));
        if word == "mount-1" {
            swap(&plugins.join("chameleon.wasm"), Path::new("..data/chameleon.wasm"));
        }
        until_live(&weir, &mut client, word).await?;
    }

    // The directory itself is away, is a link, and is swapped.
    std::fs::rename(&plugins, root.join("old"))?;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(versions(&call(&mut client).await?), marks("mount-3"));
    for word in ["release-1", "release-2", "release-3"] {
        put(&root.join(word), word);
        swap(&plugins, Path::new(word));
        until_live(&weir, &mut client, word).await?;
    }
    // And what is written where the link leads counts as well.
    write_in_place(&root.join("release-3/chameleon.wasm"), &chameleon.bytes("release-4"));
    until_live(&weir, &mut client, "release-4").await?;
    traffic.stop().await?;
    Ok(())
}

/// Files that are no usable version, and a part of what is said about each.
fn bad_files(chameleon: &Chameleon) -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let whole = chameleon.bytes("v9");
    let noise: Vec<u8> =
        (0..whole.len() as u64).map(|at| (at.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8).collect();
    let mut flipped = whole.clone();
    let middle = flipped.len() / 2;
    flipped[middle..middle + 64].iter_mut().for_each(|byte| *byte ^= 0x55);
    vec![
        ("half-written", whole[..whole.len() / 2].to_vec(), "not a WebAssembly component"),
        ("truncated", whole[..whole.len() - 100].to_vec(), ""),
        ("random", noise, "not a WebAssembly component"),
        ("damaged", flipped, ""),
        ("empty", Vec::new(), "not a WebAssembly component"),
        ("text", b"(component)".to_vec(), "not a WebAssembly component"),
        ("core-module", b"\0asm\x01\0\0\0".to_vec(), "--target wasm32-wasip2"),
        ("wrong-world", b"\0asm\x0d\0\x01\0".to_vec(), "does not export weir:policy/describe@0.1.0"),
        ("newer-contract", chameleon.of_contract("0.9.0"), "weir:policy@0.9.0"),
        ("too-large", [whole, vec![0; 17 << 20]].concat(), "at most"),
        ("describe-traps", chameleon.bytes("trap"), "`describe` failed"),
        ("describe-loops", chameleon.bytes("loop"), "longer than its CPU limit"),
        ("no-schema", chameleon.bytes("no-schema"), "not a JSON Schema"),
        ("long-schema", chameleon.bytes("long-schema"), "describes itself in more than"),
        ("schema-refuses", chameleon.bytes("blue"), "colour"),
        ("configure-refuses", chameleon.bytes("refuse"), "this version likes no name"),
        ("configure-traps", chameleon.bytes("broken"), "`configure` failed"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_file_leaves_the_last_good_version_serving_and_says_why() -> Result {
    let upstream = Upstream::start(Behaviour::echo()).await?;
    let chameleon = Chameleon::default();
    let weir = chameleon.setup("good", upstream.address()).start();
    let mut client = Client::http1(weir.address()).await?;
    let traffic = traffic::start(&weir);
    let serving = weir.plugin().await;
    let mut failed = 0.0;
    for (name, bytes, said) in bad_files(&chameleon) {
        weir.drop_plugin(&chameleon.file(name, &bytes), "chameleon");
        weir.until(&format!("{name} is refused"), async || weir.metric(PLUGINS_FAILED).await > Some(failed)).await;
        failed += 1.0;
        assert_eq!(weir.metric(PLUGINS_FAILED).await, Some(failed), "{name} is one failure");
        // The page follows the metric.
        weir.until(&format!("{name} is told"), async || {
            weir.plugin().await["last-error"].as_str().is_some_and(|error| error.contains(said))
        })
        .await;
        let now = weir.plugin().await;
        for key in ["digest", "generation", "loaded-at"] {
            assert_eq!(now[key], serving[key], "{name}");
        }
        assert_eq!(versions(&call(&mut client).await?), marks("good"), "{name}");
    }
    assert_eq!(weir.metric(PLUGINS_OK).await.unwrap_or(0.0), 0.0);

    weir.drop_plugin(&chameleon.version("better"), "chameleon");
    until_live(&weir, &mut client, "better").await?;
    weir.until("the error is forgotten", async || weir.plugin().await["last-error"].is_null()).await;
    assert_eq!(weir.metric(PLUGINS_OK).await, Some(1.0));
    let answered = traffic.stop().await?;
    assert!(answered > 50, "{answered}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_file_holds_nothing_up() -> Result {
    let upstream = Upstream::start(Behaviour::echo()).await?;
    let chameleon = Chameleon::default();
    let weir = chameleon.setup("v1", upstream.address()).start();
    let mut client = Client::http1(weir.address()).await?;
    let plugins = weir.plugins();
    assert!(std::process::Command::new("mkfifo").arg(plugins.join("pipe.wasm")).status()?.success());
    std::fs::create_dir(plugins.join("directory.wasm"))?;
    symlink("/dev/zero", plugins.join("endless.wasm"))?;
    symlink("nowhere", plugins.join("dangling.wasm"))?;
    symlink("circle.wasm", plugins.join("circle.wasm"))?;
    std::fs::write(plugins.join("notes.txt"), "not a plugin")?;
    std::fs::write(plugins.join(".hidden.wasm"), "not a plugin")?;
    weir.drop_plugin(&chameleon.version("v2"), "chameleon");
    until_live(&weir, &mut client, "v2").await?;
    weir.until("each is told", async || {
        let page = weir.page("/plugins").await;
        let failed: Vec<&str> = page["plugins"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|plugin| plugin["last-error"].is_string())
            .filter_map(|plugin| plugin["name"].as_str())
            .collect();
        failed == ["circle", "dangling", "directory", "endless", "pipe"]
    })
    .await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exchange_ends_with_the_generation_it_began_with() -> Result {
    let upstream = Upstream::start(Behaviour::echo()).await?;
    let chameleon = Chameleon::default();
    let weir = chameleon.setup("old", upstream.address()).start();
    let (mut slow, mut live) = (Client::http1(weir.address()).await?, Client::http1(weir.address()).await?);
    upstream.set(Behaviour::echo().delayed(Duration::from_secs(4)));
    let begun = tokio::spawn(async move { call(&mut slow).await });
    weir.until("the exchange has begun", async || upstream.request_count() == 1).await;
    upstream.set(Behaviour::echo());
    weir.drop_plugin(&chameleon.version("new"), "chameleon");
    until_live(&weir, &mut live, "new").await?;
    assert!(!begun.is_finished(), "the new version came too late for this test");
    assert_eq!(versions(&begun.await??), marks("old"));
    weir.until("the old generation is freed", async || weir.metric("weir_live_generations").await == Some(1.0)).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn cells_survive_a_reload() -> Result {
    let upstream = Upstream::start(Behaviour::echo()).await?;
    let chameleon = Chameleon::default();
    let weir = chameleon.setup("v1", upstream.address()).start();
    let mut client = Client::http1(weir.address()).await?;
    let count =
        |response: &Response| response.header("x-count").and_then(|count| count.parse::<u64>().ok()).expect("a count");
    let mut last = count(&call(&mut client).await?);
    for word in ["v2", "v3"] {
        weir.drop_plugin(&chameleon.version(word), "chameleon");
        loop {
            // Each exchange counts twice, whatever version and worker it runs on.
            let response = call(&mut client).await?;
            assert_eq!(count(&response), last + 2);
            last += 2;
            if versions(&response) == marks(word) {
                break;
            }
            assert!(last < 20_000, "{word} does not come");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
    Ok(())
}
