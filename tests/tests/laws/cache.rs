//! Compiled plugins are kept on disk: a version is compiled once, and nothing runs that we did not make ourselves.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::Value;
use tempfile::TempDir;
use weir_tests::client::{self, Client};
use weir_tests::guests::Chameleon;
use weir_tests::process::{Process, command, written};
use weir_tests::traffic::{call, marks, until_live, versions};
use weir_tests::upstream::{Behaviour, Upstream};
use weir_tests::weir::{Setup, Weir};

type Result<T = ()> = anyhow::Result<T>;

/// How many plugins were compiled and how many came from the cache.
async fn loads(weir: &Weir) -> (u64, u64) {
    let count = async |source: &str| {
        let series = format!("weir_plugin_loads_total{{source=\"{source}\"}}");
        weir.metric(&series).await.unwrap_or(0.0) as u64
    };
    (count("compiled").await, count("cache").await)
}

fn entries(cache: &Path) -> Vec<PathBuf> {
    let paths = fs::read_dir(cache).unwrap().map(|entry| entry.unwrap().path());
    paths.filter(|path| path.extension().is_some_and(|extension| extension == "compiled")).collect()
}

/// A directory with `cache` in it for the taking.
fn place() -> Result<(TempDir, PathBuf)> {
    let directory = tempfile::tempdir()?;
    let cache = directory.path().join("cache");
    Ok((directory, cache))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_is_compiled_once() -> Result {
    let upstream = Upstream::start(Behaviour::echo()).await?;
    let (_directory, cache) = place()?;
    let chameleon = Chameleon::default();
    let setup = chameleon.setup("v1", upstream.address()).with_plugin("headers").cache(&cache);

    // By `check`, which is how an operator can have it done before the start.
    let (_written, config) = written(&setup)?;
    let checked = command().args(["check", "--config"]).arg(&config).output()?;
    assert!(checked.status.success(), "{checked:?}");
    assert_eq!(entries(&cache).len(), 2);
    let weir = setup.start();
    assert_eq!(loads(&weir).await, (0, 2));
    let mut client = Client::http1(weir.address()).await?;
    assert_eq!(versions(&call(&mut client).await?), marks("v1"));

    // While it runs, and again for a version that was here before.
    for (word, expected) in [("v2", (1, 2)), ("v1", (1, 3)), ("v2", (1, 4)), ("v3", (2, 4))] {
        weir.drop_plugin(&chameleon.version(word), "chameleon");
        until_live(&weir, &mut client, word).await?;
        assert_eq!(loads(&weir).await, expected, "{word}");
    }
    // The page follows the swap.
    weir.until("the page shows how it was loaded", async || weir.plugin().await["load"]["source"] == "compiled").await;
    let load = weir.plugin().await["load"].clone();
    assert!(load["ms"].as_f64().is_some_and(|ms| ms > 0.0), "{load}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_tampered_with_is_compiled_anew_and_replaced() -> Result {
    let upstream = Upstream::start(Behaviour::echo()).await?;
    let (_directory, cache) = place()?;
    let chameleon = Chameleon::default();
    let setup = chameleon.setup("v1", upstream.address()).cache(&cache);
    let started = async |expected: (u64, u64), what: &str| -> Result {
        let weir = setup.start();
        assert_eq!(loads(&weir).await, expected, "{what}");
        assert_eq!(versions(&client::fetch(weir.address(), "service", "/").await?), marks("v1"), "{what}");
        drop(weir);
        Ok(())
    };
    started((1, 0), "nothing is kept yet").await?;
    let file = entries(&cache).remove(0);
    let whole = fs::read(&file)?;
    for at in [0, whole.len() / 3, whole.len() / 2, whole.len() - 40, whole.len() - 1] {
        let mut changed = whole.clone();
        changed[at] ^= 0x20;
        fs::write(&file, changed)?;
        started((1, 0), &format!("byte {at} is another")).await?;
        started((0, 1), "what is kept is good again").await?;
    }
    fs::write(&file, &whole[..whole.len() / 2])?;
    started((1, 0), "torn").await?;
    fs::remove_file(cache.join("key"))?;
    started((1, 0), "made with a key that is gone").await?;
    started((0, 1), "with the new key").await?;

    // Code of another plugin, which was made here and is authentic, but not for this one.
    let other = Chameleon::default().setup("v2", upstream.address()).cache(&cache).start();
    drop(other);
    let of_other = entries(&cache).into_iter().find(|path| *path != file).expect("another entry");
    fs::rename(of_other, &file)?;
    started((1, 0), "of another plugin").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_a_usable_cache_says_so_once_and_works() -> Result {
    let upstream = Upstream::start(200).await?;
    let (directory, cache) = place()?;
    let (open, link) = (directory.path().join("open"), directory.path().join("link"));
    fs::create_dir(&open)?;
    fs::set_permissions(&open, fs::Permissions::from_mode(0o777))?;
    symlink(&cache, &link)?;
    for (unusable, why) in [
        (open.as_path(), "others may use it (mode 777)"),
        (link.as_path(), "symbolic link"),
        (Path::new("/proc/weir-cache"), ""),
    ] {
        let setup = Setup::new()
            .policy("marker", "headers", "{ response = { set = { \"x-mark\" = \"a\" } } }")
            .with_plugin("retry")
            .with_plugin("trace")
            .toml("[chain]\nmain = [\"marker\"]")
            .service_with("service", &[upstream.address()], "http1", "chain = \"main\"")
            .cache(unusable);
        let (_written, config) = written(&setup)?;
        let process = Process::start(&config, Stdio::null())?;
        let (address, admin) = process.addresses().await?;
        assert_eq!(client::fetch(address, "service", "/").await?.header("x-mark"), Some("a"));
        let is_warning = |line: &Value| line["message"].to_string().contains("not kept in");
        let warning = process.logged("a warning", is_warning).await;
        let message = warning["message"].as_str().unwrap_or_default();
        assert!(
            warning["level"] == "WARN" && message.contains(why) && message.contains("[plugins] cache"),
            "{warning}"
        );
        assert!(message.contains(&unusable.display().to_string()), "{warning}");
        assert_eq!(process.count(is_warning), 1, "{why}");
        let metrics = client::fetch(admin, "admin", "/metrics").await?.text();
        assert!(metrics.contains("weir_plugin_loads_total{source=\"compiled\"} 3"), "{metrics}");
    }
    assert_eq!(fs::read_dir(&open)?.count(), 0, "nothing is written where others could");
    assert!(!cache.exists());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_share_a_directory() -> Result {
    let upstream = Upstream::start(Behaviour::echo()).await?;
    let (_directory, cache) = place()?;
    let chameleon = Chameleon::default();
    let setup = chameleon.setup("v1", upstream.address()).with_plugin("headers").cache(&cache);
    let nodes: Vec<Weir> = std::thread::scope(|scope| {
        let started: Vec<_> = (0..3).map(|_| scope.spawn(|| setup.start())).collect();
        started.into_iter().map(|node| node.join().expect("it starts")).collect()
    });
    for node in &nodes {
        assert_eq!(versions(&client::fetch(node.address(), "service", "/").await?), marks("v1"));
    }
    assert_eq!(entries(&cache).len(), 2);
    assert_eq!(loads(&setup.start()).await, (0, 2));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_compile_is_not_kept() -> Result {
    let (_directory, cache) = place()?;
    let chameleon = Chameleon::default();
    let whole = chameleon.bytes("v1");
    let file = chameleon.file("half", &whole[..whole.len() / 2]);
    let setup = Setup::new().with_plugin_file(&file, "half").cache(&cache);
    for _ in 0..2 {
        let weir = setup.start();
        let plugin = weir.plugin().await.clone();
        assert!(plugin["last-error"].to_string().contains("not a WebAssembly component"), "{plugin}");
        assert_eq!(loads(&weir).await, (0, 0));
        assert!(entries(&cache).is_empty());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cache_is_moved_and_turned_off_while_the_node_runs() -> Result {
    let upstream = Upstream::start(Behaviour::echo()).await?;
    let (directory, cache) = place()?;
    let chameleon = Chameleon::default();
    let weir = chameleon.setup("v1", upstream.address()).cache(&cache).start();
    let mut client = Client::http1(weir.address()).await?;
    let (first, second) = (format!("cache = {cache:?}"), format!("cache = {:?}", directory.path().join("second")));
    weir.edit_live(&first, &second).await;
    weir.drop_plugin(&chameleon.version("v2"), "chameleon");
    until_live(&weir, &mut client, "v2").await?;
    assert_eq!((entries(&cache).len(), entries(&directory.path().join("second")).len()), (1, 1));

    weir.edit_live(&second, "cache = \"off\"").await;
    assert_eq!(weir.page("/config").await["config"]["plugins"]["cache"], "off");
    for word in ["v1", "v2", "v3"] {
        weir.drop_plugin(&chameleon.version(word), "chameleon");
        until_live(&weir, &mut client, word).await?;
    }
    assert_eq!(loads(&weir).await, (5, 0));
    assert_eq!((entries(&cache).len(), entries(&directory.path().join("second")).len()), (1, 1));
    assert!(!Path::new("off").exists());
    Ok(())
}
