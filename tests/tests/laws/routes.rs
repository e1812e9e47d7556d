//! A call takes the most specific of the routes that fit, and one without a route is told so.

use http::{Method, Request, StatusCode};
use weir_tests::client::{self, Client, full};
use weir_tests::raw::Raw;
use weir_tests::upstream::{Behaviour, Reply, Upstream};
use weir_tests::weir::Setup;

type Result = anyhow::Result<()>;

#[tokio::test]
async fn the_most_specific_route_wins() -> Result {
    let mut setup = Setup::new();
    let mut upstreams = Vec::new();
    let routes = [
        ("host", "match = { host = \"shop\" }"),
        ("below", "match = { host = \"*.shop\" }"),
        ("prefix", "match = { host = \"shop\", path-prefix = \"/users\" }"),
        ("longer", "match = { host = \"shop\", path-prefix = \"/users/old\" }"),
        ("canary", "match = { host = \"shop\", path-prefix = \"/users\", headers = { \"x-canary\" = \"1\" } }"),
        ("writes", "match = { host = \"shop\", path-prefix = \"/users\", methods = [\"POST\", \"PUT\"] }"),
    ];
    for (name, route) in routes {
        let upstream = Upstream::start(Reply::new(200).body(name)).await?;
        let service =
            format!("[[service]]\nname = \"{name}\"\nendpoints = [{{ address = \"{}\" }}]", upstream.address());
        setup = setup.toml(&format!("{service}\n[[route]]\n{route}\nservice = \"{name}\""));
        upstreams.push(upstream);
    }
    let weir = setup.start();
    for mut client in [Client::http1(weir.address()).await?, Client::http2(weir.address()).await?] {
        for (method, host, path, canary, taken) in [
            ("GET", "shop", "/", "", "host"),
            ("GET", "SHOP:80", "/usersx", "", "host"),
            ("GET", "eu.shop", "/users", "", "below"),
            ("GET", "shop", "/users", "", "prefix"),
            ("GET", "shop", "/users/1?x", "2", "prefix"),
            ("GET", "shop", "/users/1", "1", "canary"),
            ("PUT", "shop", "/users/1", "1", "canary"),
            ("PUT", "shop", "/users/1", "", "writes"),
            ("DELETE", "shop", "/users/1", "", "prefix"),
            ("PUT", "shop", "/users/old/1", "1", "longer"),
        ] {
            let mut request = client::request(method.parse()?, host, path, "")?;
            if !canary.is_empty() {
                request.headers_mut().insert("x-canary", canary.parse()?);
            }
            assert_eq!(client.send(request).await?.text(), taken, "{method} {host} {path} {canary}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_call_without_a_route_is_told_so_in_json() -> Result {
    let upstream = Upstream::start(200).await?;
    let weir = Setup::new().workers(1).service("one", &[upstream.address()]).start();
    for mut client in [Client::http1(weir.address()).await?, Client::http2(weir.address()).await?] {
        let response = client.send(client::get("nobody", "/x?secret=1")?).await?;
        assert_eq!((response.status, response.header("x-weir-error")), (StatusCode::NOT_FOUND, Some("no-route")));
        assert_eq!(response.header("content-type"), Some("application/json"));
        let explanation = response.json()?;
        assert_eq!(explanation["error"], "no-route");
        assert!(explanation["message"].as_str().unwrap().contains("nobody"), "{explanation}");
        let id = response.header("x-request-id").unwrap().to_owned();
        assert_eq!(explanation["exchange"], *id);
        let records = weir.records(1, |record| record["id"] == *id).await;
        assert_eq!(
            (&records[0]["outcome"], &records[0]["error"], &records[0]["path"]),
            (&"error".into(), &"no-route".into(), &"/x".into())
        );
        let head = client.send(client::request(Method::HEAD, "nobody", "/", "")?).await?;
        assert_eq!(
            (head.status, head.header("x-weir-error"), &*head.text()),
            (StatusCode::NOT_FOUND, Some("no-route"), "")
        );
        // The connection is as good as before.
        assert_eq!(client.send(client::get("one", "/")?).await?.status, 200);
    }
    assert_eq!(upstream.request_count(), 2);
    Ok(())
}

#[tokio::test]
async fn a_prefix_is_taken_off_in_whole_segments() -> Result {
    let upstream = Upstream::start(Behaviour::echo()).await?;
    let rewrite = "rewrite = { strip-prefix = \"/users\" }";
    let endpoints = [upstream.address()];
    let setup = Setup::new()
        .service_with("one", &endpoints, "http1", rewrite)
        .service_with("two", &endpoints, "http2", rewrite);
    let weir = setup.start();
    let mut client = Client::http1(weir.address()).await?;
    for service in ["one", "two"] {
        for (path, left) in [
            ("/users/1?x=2", "/1?x=2"),
            ("/users", "/"),
            ("/users?x", "/?x"),
            ("/usersx", "/usersx"),
            ("/other", "/other"),
        ] {
            assert_eq!(client.send(client::get(service, path)?).await?.json()?["target"], left, "{path}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn connect_is_refused_and_its_connection_closed() -> Result {
    let upstream = Upstream::start(200).await?;
    let address = upstream.address();
    let weir = Setup::new().workers(1).service("127.0.0.1", &[address]).start();
    let mut raw = Raw::connect(weir.address()).await?;
    raw.send(format!("CONNECT {address} HTTP/1.1\r\nhost: {address}\r\n\r\nGET / HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"))
        .await?;
    let response = raw.read_response().await?;
    assert_eq!((response.status, response.header("x-weir-error")), (405, Some("connect-refused")), "{response:?}");
    assert!(response.header("allow").is_some_and(|allow| !allow.contains("CONNECT")));
    assert_eq!(raw.read_to_end().await?, "");

    let request = Request::builder().method(Method::CONNECT).uri(address.to_string()).body(full(""))?;
    let response = Client::http2(weir.address()).await?.send(request).await?;
    assert_eq!(
        (response.status, response.header("x-weir-error")),
        (StatusCode::METHOD_NOT_ALLOWED, Some("connect-refused"))
    );
    assert_eq!(weir.records(2, |record| record["error"] == "connect-refused").await.len(), 2);
    assert_eq!((upstream.request_count(), upstream.connection_count()), (0, 0));
    Ok(())
}
