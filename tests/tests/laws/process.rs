//! The process: it starts, says what is wrong, idles, and stops when it is told to.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;
use weir_tests::client::{self, Client};
use weir_tests::guests::Chameleon;
use weir_tests::process::{Process, written};
use weir_tests::upstream::{Behaviour, Upstream};
use weir_tests::weir::Setup;

type Result<T = ()> = anyhow::Result<T>;

#[tokio::test]
async fn a_node_whose_output_nobody_reads_serves_all_the_same() -> Result {
    let upstream = Upstream::start(200).await?;
    let (_directory, config) = written(&Setup::new().service("service", &[upstream.address()]))?;
    let mut process = Process::start(&config, Stdio::piped())?;
    let (address, _) = process.addresses().await?;
    drop(process.child.stdout.take());
    let mut client = Client::http1(address).await?;
    for _ in 0..200 {
        assert_eq!(client.send(client::get("service", "/")?).await?.status, 200);
    }
    process.terminate()?;
    assert_eq!(process.exit_code().await?, Some(0));
    Ok(())
}

#[tokio::test]
async fn sigterm_lets_exchanges_end_and_exits_with_0() -> Result {
    let upstream = Upstream::start(Behaviour::mirror().delayed(Duration::from_secs(1))).await?;
    let (_directory, config) = written(&Setup::new().service("service", &[upstream.address()]))?;
    let mut process = Process::start(&config, Stdio::piped())?;
    let (address, admin) = process.addresses().await?;
    assert_eq!(client::fetch(admin, "admin", "/readyz").await?.status, 200);
    let mut records = BufReader::new(process.child.stdout.take().expect("a pipe"));
    let mut client = Client::http1(address).await?;
    let begun = tokio::spawn(async move { client.send(client::post("service", "/", "kept")?).await });
    let until = Instant::now() + Duration::from_secs(10);
    while upstream.request_count() == 0 {
        assert!(Instant::now() < until, "the exchange does not begin");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    process.terminate()?;
    process.logged("draining", |line| line["message"] == "draining").await;
    let response = begun.await??;
    assert_eq!((response.status.as_u16(), &*response.text(), &response.broken), (200, "kept", &None));
    assert_eq!(process.exit_code().await?, Some(0));
    assert!(Client::http1(address).await.is_err(), "nobody listens any more");
    let mut record = String::new();
    records.read_line(&mut record)?;
    let record: Value = serde_json::from_str(&record)?;
    assert_eq!((&record["status"], &record["service"]), (&200.into(), &"service".into()), "{record}");
    Ok(())
}

#[tokio::test]
async fn a_node_says_which_plugins_are_missing_and_takes_them_up_later() -> Result {
    let upstream = Upstream::start(Behaviour::echo()).await?;
    let chameleon = Chameleon::default();
    let setup = Setup::new()
        .service_with("service", &[upstream.address()], "http1", "chain = \"main\"")
        .toml("[policy.guard]\nplugin = \"chameleon\"\n[chain]\nmain = [\"guard\"]");
    let (directory, config) = written(&setup)?;
    let plugins = directory.path().join("plugins");
    std::fs::remove_dir_all(&plugins)?;
    let process = Process::start(&config, Stdio::null())?;
    let (address, admin) = process.addresses().await?;
    process.logged("the directory", |line| line["message"].to_string().contains("plugin directory")).await;
    process.logged("the plugin", |line| line["message"].to_string().contains("there is no plugin")).await;
    let refused = client::fetch(address, "service", "/").await?;
    assert_eq!((refused.status.as_u16(), refused.header("x-weir-error")), (503, Some("policy")), "{refused:?}");

    // The directory appears, first with half a file.
    std::fs::create_dir(&plugins)?;
    let whole = chameleon.bytes("v1");
    std::fs::write(plugins.join("chameleon.wasm"), &whole[..whole.len() / 2])?;
    let line = process.logged("the refusal", |line| line["plugin"] == "chameleon" && line["level"] == "ERROR").await;
    assert!(line["message"].to_string().contains("not a WebAssembly component"), "{line}");
    std::fs::write(plugins.join("chameleon.wasm"), &whole)?;
    let line = process.logged("the reload", |line| line["message"] == "plugin reloaded").await;
    assert_eq!(line["plugin"], "chameleon");
    assert_eq!(client::fetch(address, "service", "/").await?.header("x-version"), Some("v1"));
    // The page is written after the log.
    let last_error = async || -> anyhow::Result<Value> {
        Ok(client::fetch(admin, "admin", "/plugins").await?.json()?["plugins"][0]["last-error"].clone())
    };
    for _ in 0..100 {
        if last_error().await?.is_null() {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the page says {}", last_error().await?)
}

#[tokio::test]
async fn an_idle_node_looks_for_changes_now_and_then_and_not_all_the_time() -> Result {
    let (_directory, config) = written(&Setup::new().with_plugin("headers"))?;
    let process = Process::start(&config, Stdio::null())?;
    process.addresses().await?;
    // So that what was just written has been read again.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = wake_ups(process.child.id())?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let woken = wake_ups(process.child.id())? - before;
    assert!(woken < 50, "woken {woken} times in 3 s");
    Ok(())
}

/// How often the thread that reloads has waited for something.
fn wake_ups(process: u32) -> Result<u64> {
    for task in std::fs::read_dir(format!("/proc/{process}/task"))? {
        let task = task?.path();
        if std::fs::read_to_string(task.join("comm"))?.trim() == "weir-reload" {
            let status = std::fs::read_to_string(task.join("status"))?;
            let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
            return Ok(line.unwrap_or_default().trim().parse()?);
        }
    }
    anyhow::bail!("there is no thread that reloads")
}
