//! Listeners come, go, move and change under traffic.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, ensure};
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_tungstenite::tungstenite::Message;
use weir_tests::client::{self, Client, websocket};
use weir_tests::process::{Process, written};
use weir_tests::raw::Raw;
use weir_tests::traffic::Traffic;
use weir_tests::upstream::{Answer, Behaviour, Upstream, WebSocketUpstream};
use weir_tests::weir::{Setup, Weir, edit_file};

type Result<T = ()> = anyhow::Result<T>;

/// Where a listener can be put that is certain to be free: nobody else uses this address of the loopback.
fn beside(address: SocketAddr) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::new(127, 0, 0, 2), address.port()))
}

/// A `[[listener]]` with a route of its own to a service.
fn listener(name: &str, address: SocketAddr, service: &str) -> String {
    format!(
        "[[listener]]\nname = \"{name}\"\nlisten = \"{address}\"\n[[route]]\nlistener = \"{name}\"\nmatch = {{ host = \"{name}.test\" }}\nservice = \"{service}\"\n"
    )
}

/// Adds to the configuration, where [`remove`] finds it.
fn add(weir: &Weir, toml: &str) {
    weir.edit("[[service]]\nname = \"one\"", &format!("{toml}[[service]]\nname = \"one\""));
}

fn remove(weir: &Weir, toml: &str) {
    weir.edit(toml, "");
}

/// Not while it closes: who comes just then hears nothing, and is refused when the kernel asks again.
async fn refuses(address: SocketAddr) -> bool {
    let connected = tokio::time::timeout(Duration::from_millis(100), TcpStream::connect(address)).await;
    connected.is_ok_and(|connected| connected.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused))
}

/// Exchanges on live and on fresh connections, at whichever of some addresses takes them.
fn traffic_at(addresses: &[SocketAddr]) -> Traffic {
    Traffic::of(5, |number, tally| {
        let addresses = addresses.to_vec();
        async move {
            let mut client = connect(&addresses, number == 0).await?;
            let mut is_fresh = true;
            while tally.goes_on() {
                match client.send(client::get("one", "/")?).await {
                    Ok(response) => {
                        ensure!(response.status == 200 && response.broken.is_none(), "{response:?}");
                        tally.answered();
                        is_fresh = false;
                    }
                    // A connection that was kept may be closed before the next request, as always. HTTP/2 says so,
                    // with GOAWAY, and sends none; then a fresh one is no different.
                    Err(error) => {
                        ensure!(
                            !is_fresh || (number == 0 && unsent(&error)),
                            "on the fresh connection of task {number}: {error:#}"
                        )
                    }
                }
                if number > 1 || client.is_closed() {
                    client = connect(&addresses, number == 0).await?;
                    is_fresh = true;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            Ok(())
        }
    })
}

/// Whether an HTTP/2 request was kept back, since the other side goes away.
fn unsent(error: &anyhow::Error) -> bool {
    let error = format!("{error:#}");
    ["channel closed", "connection closed", "not a result of an error"].iter().any(|said| error.contains(said))
}

/// A connection to the first address that takes one.
async fn connect(addresses: &[SocketAddr], http2: bool) -> Result<Client> {
    for _ in 0..1000 {
        for address in addresses {
            match if http2 { Client::http2(*address).await } else { Client::http1(*address).await } {
                Ok(client) => return Ok(client),
                Err(error) => {
                    let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
                    // Reset: it closed while the kernels were still shaking hands.
                    let closed = [io::ErrorKind::ConnectionRefused, io::ErrorKind::ConnectionReset];
                    ensure!(kind.is_some_and(|kind| closed.contains(&kind)), "{address}: {error:#}");
                }
            }
        }
    }
    anyhow::bail!("none of {addresses:?} takes connections")
}

/// A service that answers the first half and keeps the second until it is told to end.
async fn halting() -> Result<(SocketAddr, watch::Sender<bool>)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let (end, ended) = watch::channel(false);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut ended = ended.clone();
            tokio::spawn(async move {
                let _ = stream.read(&mut [0; 4096]).await?;
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nhalf").await?;
                let _ = ended.wait_for(|ended| *ended).await;
                stream.write_all(b"half").await
            });
        }
    });
    Ok((address, end))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_and_its_routes_come_at_one_instant() -> Result {
    let upstream = Upstream::start(200).await?;
    let weir = Setup::new().service("one", &[upstream.address()]).start();
    let address = beside(weir.address());
    assert!(refuses(address).await);
    add(&weir, &listener("new", address, "one"));
    // Whoever is first over the new listener has its route.
    let mut fresh = Vec::new();
    weir.until("it accepts", async || !refuses(address).await).await;
    for _ in 0..50 {
        fresh.push(client::fetch(address, "new.test", "/").await?.status);
    }
    assert!(fresh.iter().all(|status| *status == 200), "{fresh:?}");
    assert_eq!(weir.listener("new"), Some(address));
    assert_eq!(weir.page("/config").await["listening"]["new"], address.to_string());
    assert_eq!(client::fetch(weir.address(), "new.test", "/").await?.status, 404, "the route is for that listener");
    let accepted = weir.metric("weir_downstream_connections_accepted_total{listener=\"new\"}").await;
    assert!(accepted >= Some(50.0), "{accepted:?}");
    let record = weir.records(50, |record| record["listener"] == "new").await;
    assert!(record.len() >= 50);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_listener_accepts_no_more_and_ends_what_it_has_begun() -> Result {
    let upstream = Upstream::start(200).await?;
    let (slow, end) = halting().await?;
    let chat = WebSocketUpstream::start().await?;
    let service =
        |name: &str, address| format!("[[service]]\nname = \"{name}\"\nendpoints = [{{ address = \"{address}\" }}]\n");
    let toml = service("slow", slow) + &service("chat", chat.address());
    let weir = Setup::new().toml(&toml).service("one", &[upstream.address()]).start();
    let address = beside(weir.address());
    let other = listener("other", address, "slow")
        + "[[route]]\nlistener = \"other\"\nmatch = { host = \"chat\" }\nservice = \"chat\"\n";
    add(&weir, &other);
    weir.until("it accepts", async || !refuses(address).await).await;

    let mut idle = Raw::connect(address).await?;
    idle.send("GET / HTTP/1.1\r\nhost: nobody\r\n\r\n").await?;
    assert_eq!(idle.read_response().await?.status, 404);
    let mut pipelined = Raw::connect(address).await?;
    pipelined.send("GET /a HTTP/1.1\r\nhost: other.test\r\n\r\n").await?;
    let (mut socket, _) = websocket(address, "chat", "/").await?;
    let (mut http1, mut http2) = (Client::http1(address).await?, Client::http2(address).await?);
    let over_http1 = http1.open(client::get("other.test", "/")?).await?;
    let over_http2 = http2.open(client::get("other.test", "/")?).await?;
    assert_eq!((over_http1.status(), over_http2.status()), (http::StatusCode::OK, http::StatusCode::OK));

    remove(&weir, &other);
    weir.until("it refuses", async || refuses(address).await).await;
    assert_eq!(weir.listener("other"), None);
    // It has nothing to end.
    assert_eq!(idle.read_to_end().await?, "");
    // HTTP/2 is told to go elsewhere with its next request, while the one in progress goes on.
    weir.until("the connection takes no new stream", async || {
        let mut another = http2.another().expect("it is HTTP/2");
        let request = client::get("nobody", "/").expect("a request");
        another.send(request).await.is_err()
    })
    .await;
    socket.send(Message::text("still there?")).await?;
    assert_eq!(socket.next().await.context("open")??, Message::text("still there?"));

    end.send_replace(true);
    for response in [over_http1, over_http2] {
        let response = client::Response::read(response, std::time::Instant::now()).await;
        assert_eq!((response.text().as_str(), &response.broken), ("halfhalf", &None));
    }
    let last = pipelined.read_response().await?;
    assert_eq!((last.status, &last.body[..]), (200, &b"halfhalf"[..]));
    assert_eq!(pipelined.read_to_end().await?, "", "the connection closes after its exchange");
    weir.until("both connections are closed", async || http1.is_closed() && http2.is_closed()).await;
    socket.send(Message::text("and now?")).await?;
    assert_eq!(socket.next().await.context("open")??, Message::text("and now?"), "a tunnel lasts as long as its ends");
    socket.close(None).await?;
    while socket.next().await.transpose()?.is_some() {}
    drop(socket);
    let records = weir.records(4, |record| record["listener"] == "other" && record["status"] != 404).await;
    assert!(records.len() >= 4 && records.iter().all(|record| record["outcome"] == "ok"), "{records:?}");
    assert_eq!(weir.metric("weir_downstream_connections{listener=\"other\"}").await, None);
    weir.until("its generation is freed", async || weir.metric("weir_live_generations").await == Some(1.0)).await;
    assert_eq!(client::fetch(weir.address(), "one", "/").await?.status, 200);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_moves_under_traffic_and_no_exchange_fails() -> Result {
    let upstream = Upstream::start(200).await?;
    let weir = Setup::new().service("one", &[upstream.address()]).start();
    let kept = traffic_at(&[weir.address()]);
    let (here, there) = (beside(weir.address()), SocketAddr::from(([127, 0, 0, 3], weir.address().port())));
    add(&weir, &listener("moving", here, "one"));
    weir.until("it accepts", async || !refuses(here).await).await;
    let traffic = traffic_at(&[here, there]);
    for _ in 0..10 {
        for (from, to) in [(here, there), (there, here)] {
            traffic.more(50).await;
            weir.edit(&format!("listen = \"{from}\""), &format!("listen = \"{to}\""));
            weir.until("it has moved", async || !refuses(to).await && refuses(from).await).await;
            assert_eq!(weir.listener("moving"), Some(to));
        }
    }
    traffic.more(50).await;
    traffic.stop().await?;
    kept.stop().await?;
    assert_eq!(weir.config_error().await, "");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_that_stays_keeps_its_socket_and_its_connections() -> Result {
    let upstream = Upstream::start(200).await?;
    let weir = Setup::new().service("one", &[upstream.address()]).start();
    let (address, accepted) = (weir.address(), "weir_downstream_connections_accepted_total{listener=\"in\"}");
    let mut clients = Vec::new();
    for _ in 0..10 {
        clients.extend(weir.clients().await?);
    }
    let other = listener("other", beside(address), "one");
    for _ in 0..5 {
        add(&weir, &other);
        weir.until("it accepts", async || weir.listener("other").is_some()).await;
        for client in &mut clients {
            assert_eq!(client.send(client::get("one", "/")?).await?.status, 200);
        }
        remove(&weir, &other);
        weir.until("it is gone", async || weir.listener("other").is_none()).await;
        for client in &mut clients {
            assert_eq!(client.send(client::get("one", "/")?).await?.status, 200);
        }
    }
    // Port 0 is a wish that was granted, and so is the number that came of it.
    weir.edit_live("listen = \"127.0.0.1:0\"\n[[", &format!("listen = \"{address}\"\n[[")).await;
    for client in &mut clients {
        assert_eq!(client.send(client::get("one", "/")?).await?.status, 200);
    }
    assert_eq!((weir.address(), weir.metric(accepted).await), (address, Some(20.0)));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_identity_holds_for_the_next_exchange_of_a_live_connection() -> Result {
    let upstream = Upstream::start(Behaviour::echo()).await?;
    let weir = Setup::new().listener("identity = \"first\"").service("one", &[upstream.address()]).start();
    let mut clients = weir.clients().await?;
    let seen = async |client: &mut Client, field: &str| -> Result<String> {
        let mut request = client::get("one", "/")?;
        request.headers_mut().insert("x-forwarded-for", "203.0.113.9".parse()?);
        let json = client.send(request).await?.json()?;
        let mut fields = json["headers"].as_array().into_iter().flatten();
        let value = fields.find(|pair| pair[0] == field).and_then(|pair| pair[1].as_str());
        Ok(value.unwrap_or_default().to_owned())
    };
    for client in &mut clients {
        assert_eq!(seen(client, "x-service-name").await?, "first");
        assert_eq!(seen(client, "x-forwarded-for").await?, "127.0.0.1");
    }
    let connect = "CONNECT one:80 HTTP/1.1\r\nhost: one:80\r\n\r\n";
    let refused = async || -> Result<bool> {
        let mut raw = Raw::connect(weir.address()).await?;
        raw.send(connect).await?;
        Ok(!raw.read_head().await?.starts_with("HTTP/1.1 200"))
    };
    assert!(refused().await?);
    weir.edit_live("identity = \"first\"", "identity = \"second\"\ntrust-forwarded = true\nconnect = true").await;
    for client in &mut clients {
        assert_eq!(seen(client, "x-service-name").await?, "second");
        assert_eq!(seen(client, "x-forwarded-for").await?, "203.0.113.9, 127.0.0.1");
    }
    assert!(!refused().await?);
    let accepted = weir.metric("weir_downstream_connections_accepted_total{listener=\"in\"}").await;
    assert_eq!(accepted, Some(4.0), "two clients and two CONNECTs");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_cannot_be_had_refuses_the_whole_configuration() -> Result {
    let upstream = Upstream::start(200).await?;
    let setup = Setup::new().listener("identity = \"first\"").service("one", &[upstream.address()]);
    let weir = setup.start();
    let traffic = traffic_at(&[weir.address()]);
    let taken = std::net::TcpListener::bind("127.0.0.4:0")?;
    let address = taken.local_addr()?;
    let (generation, free) = (weir.generation(), beside(weir.address()));
    let text = std::fs::read_to_string(weir.config_file())?;
    let both = listener("free", free, "one") + &listener("mine", address, "one");
    let changed = text.replace("\"first\"", "\"second\"").replace("[[service]]", &format!("{both}[[service]]"));
    weir.edit(&text, &changed);
    weir.until("it is told", async || !weir.config_error().await.is_empty()).await;
    let error = weir.config_error().await;
    let line =
        std::fs::read_to_string(weir.config_file())?.lines().position(|line| line.contains(&address.to_string()));
    let place = format!("config.toml:{}:10: ", line.context("it is in the file")? + 1);
    for said in [&place, "listener \"mine\"", &format!("cannot listen on {address}"), "hint"] {
        assert!(error.contains(said), "{said}: {error}");
    }
    traffic.more(100).await;
    assert_eq!((weir.generation(), weir.listener("free"), weir.listener("mine")), (generation, None, None));
    assert!(refuses(free).await, "nothing of it is there");
    assert_eq!(weir.page("/config").await["config"]["listener"][0]["identity"], "first");
    // Nobody has to touch the file once the address is free.
    drop(taken);
    weir.until("it is live", async || weir.listener("mine") == Some(address) && weir.listener("free") == Some(free))
        .await;
    assert_eq!(client::fetch(address, "mine.test", "/").await?.status, 200);
    weir.until("the error is forgotten", async || weir.config_error().await.is_empty()).await;
    traffic.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_file_takes_no_listener_away() -> Result {
    let upstream = Upstream::start(200).await?;
    let weir = Setup::new().service("one", &[upstream.address()]).start();
    std::fs::write(weir.config_file(), "\n")?;
    weir.until("it is told", async || weir.config_error().await.contains("is empty")).await;
    assert_eq!(client::fetch(weir.address(), "one", "/").await?.status, 200);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn thirty_changes_in_a_row_leave_no_sockets_behind() -> Result {
    let upstream = Upstream::start(200).await?;
    let (_directory, config) = written(&Setup::new().service("one", &[upstream.address()]))?;
    let process = Process::start(&config, Stdio::null())?;
    let (address, _) = process.addresses().await?;
    let other = beside(address);
    let traffic = traffic_at(&[address]);
    traffic.more(200).await;
    let files = || std::fs::read_dir(format!("/proc/{}/fd", process.child.id())).map_or(0, Iterator::count);
    let text = std::fs::read_to_string(&config)?;
    let with = text.replace("[[service]]", &format!("{}[[service]]", listener("other", other, "one")));
    let mut callers = Vec::new();
    let round = async |callers: &mut Vec<Client>| -> Result {
        std::fs::write(&config, &with)?;
        let mut client = connect(&[other], false).await;
        while client.is_err() {
            tokio::time::sleep(Duration::from_millis(1)).await;
            client = connect(&[other], false).await;
        }
        let mut client = client?;
        assert_eq!(client.send(client::get("other.test", "/")?).await?.status, 200);
        callers.push(client);
        std::fs::write(&config, &text)?;
        while !refuses(other).await {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    };
    round(&mut callers).await?;
    traffic.stop().await?;
    let mut before = files();
    for _ in 0..30 {
        round(&mut callers).await?;
    }
    // Connections to the service come and go with the traffic; sockets of listeners are two for each change.
    let until = std::time::Instant::now() + Duration::from_secs(20);
    while files() > before + 4 {
        assert!(std::time::Instant::now() < until, "{before} files have become {}", files());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    before = callers.iter().filter(|client| !client.is_closed()).count();
    assert_eq!(before, 0, "connections of listeners that left are closed");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_and_the_time_to_drain_change_live() -> Result {
    let upstream = Upstream::start(Answer::hang()).await?;
    let setup = Setup::new().toml("[log]\nexchanges = \"none\"");
    let weir = setup.service_with("one", &[upstream.address()], "http1", "timeout = \"none\"").start();
    let mut client = Client::http1(weir.address()).await?;
    assert_eq!(client.send(client::get("nobody", "/before")?).await?.status, 404);
    weir.edit_live("exchanges = \"none\"", "exchanges = \"all\"").await;
    assert_eq!(client.send(client::get("nobody", "/after")?).await?.status, 404);
    assert_eq!(weir.records(1, |record| record["path"] == "/after").await.len(), 1);

    // It would wait for an hour otherwise.
    weir.edit_live("drain-timeout = \"2s\"", "drain-timeout = \"1h\"").await;
    weir.edit_live("drain-timeout = \"1h\"", "drain-timeout = \"0s\"").await;
    let address = weir.address();
    let hanging = tokio::spawn(async move { client::fetch(address, "one", "/").await });
    weir.until("the call is under way", async || upstream.request_count() == 1).await;
    let records = tokio::task::spawn_blocking(move || weir.stop()).await?;
    assert!(hanging.await?.is_err());
    let paths: Vec<_> = records.iter().map(|record| record["path"].clone()).collect();
    assert_eq!(paths, ["/after", "/"]);
    Ok(())
}

#[tokio::test]
async fn the_level_of_the_hosts_own_log_changes_live() -> Result {
    let upstream = Upstream::start(200).await?;
    let setup = Setup::new().toml("[log]\nlevel = \"info\"").service("one", &[upstream.address()]);
    let (_directory, config) = written(&setup)?;
    let process = Process::start(&config, Stdio::null())?;
    let (address, _) = process.addresses().await?;
    let ended = |line: &serde_json::Value| line["level"] == "DEBUG";
    edit_file(&config, "level = \"info\"", "level = \"debug\"");
    process.logged("the reload", |line| line["message"] == "configuration reloaded").await;
    // What is refused over HTTP/2 is told in detail only.
    let mut raw = Raw::connect(address).await?;
    raw.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nnonsense, and more of it").await?;
    raw.read_to_end().await?;
    process.logged("an event of the new level", ended).await;
    edit_file(&config, "level = \"debug\"", "level = \"error\"\n# nothing more is told");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_set_up_at_start_is_named_when_it_changes() -> Result {
    let upstream = Upstream::start(200).await?;
    let weir = Setup::new().service("one", &[upstream.address()]).start();
    let text = std::fs::read_to_string(weir.config_file())?;
    let changes: [(&str, &str, &[&str]); 3] = [
        ("workers = 2", "workers = 3\nname = \"n\"\ndrain-timeout = \"3s\"\n#", &["[node] workers", "[node] name"]),
        ("[admin]\nlisten = \"127.0.0.1:0\"", "[admin]\nlisten = \"127.0.0.1:1\"", &["[admin] listen"]),
        ("[admin]", "[trace]\nqueue = 4096\n[admin]", &["[trace]"]),
    ];
    for (from, to, named) in changes {
        let changed = text.replace(from, to).replace("#\ndrain-timeout = \"2s\"", "#");
        weir.edit(&text, &changed);
        weir.until("it is told", async || weir.config_error().await.contains("at the next start")).await;
        let error = weir.config_error().await;
        for part in ["[admin] listen", "[node] workers", "[node] name", "[trace]", "[log]", "drain"] {
            assert_eq!(error.contains(part), named.contains(&part), "{part}: {error}");
        }
        weir.edit(&changed, &text);
        weir.until("the error is forgotten", async || weir.config_error().await.is_empty()).await;
    }
    Ok(())
}
