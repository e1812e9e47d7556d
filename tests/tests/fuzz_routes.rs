//! Whatever the routes and the request, the call takes the route of a plain reading of the rules, and the path that was
//! matched is the path that the service gets.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use anyhow::ensure;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use proptest::collection::vec;
use proptest::option::weighted;
use proptest::prelude::{Strategy, prop_oneof};
use proptest::sample::select;
use tokio::runtime::Runtime;
use weir::route::{RouteSpec, Routes};
use weir_tests::fuzz::{fuzz, toml};
use weir_tests::raw::Raw;
use weir_tests::upstream::{Behaviour, Reply, Upstream};
use weir_tests::weir::Setup;

/// Services, and so the most routes of a table through a whole node.
const SERVICES: usize = 6;

#[derive(Debug, Clone)]
struct Route {
    listener: Option<&'static str>,
    host: Option<String>,
    prefix: Option<String>,
    methods: Vec<&'static str>,
    headers: Vec<(&'static str, &'static str)>,
    /// Through a node only.
    strip: Option<String>,
}

#[derive(Debug, Clone)]
struct Request {
    host: String,
    path: String,
    query: &'static str,
    method: &'static str,
    headers: Vec<(&'static str, &'static str)>,
}

fn name() -> impl Strategy<Value = String> {
    let label = select(&["a", "b", "shop", "x-y", "1"][..]);
    vec(label, 1..4).prop_map(|labels| labels.join("."))
}

/// The same name in other letters, and with a dot at the end.
fn spelled(name: String, upper: bool, dot: bool) -> String {
    let name = if upper { name.to_ascii_uppercase() } else { name };
    if dot { format!("{name}.") } else { name }
}

const SEGMENTS: &[&str] = &["a", "b", "ab", "A", "%61", "%2F", "%2e%2e", "..", ".", "", "a;b", "~", "a%00"];

fn path() -> impl Strategy<Value = String> {
    vec(select(SEGMENTS), 0..5).prop_map(|segments| format!("/{}", segments.join("/")))
}

fn route() -> impl Strategy<Value = Route> {
    let host = (name(), proptest::bool::ANY, proptest::bool::ANY)
        .prop_map(|(name, below, upper)| spelled(if below { format!("*.{name}") } else { name }, upper, false));
    let address = select(&["[::1]", "127.0.0.1"][..]).prop_map(str::to_owned);
    let methods = vec(select(&["GET", "POST", "PURGE"][..]), 0..3);
    let headers = vec(select(&[("x-a", "1"), ("x-b", "1"), ("x-c", "")][..]), 0..3);
    (
        weighted(0.3, select(&["in", "other"][..])),
        weighted(0.8, prop_oneof![10 => host, 1 => address]),
        weighted(0.8, path()),
        prop_oneof![vec(select(&["GET"][..]), 0..1), methods],
        headers,
        weighted(0.3, path()),
    )
        .prop_map(|(listener, host, prefix, methods, mut headers, strip)| {
            headers.sort_unstable();
            headers.dedup_by_key(|(name, _)| *name);
            Route { listener, host, prefix, methods, headers, strip }
        })
}

fn request() -> impl Strategy<Value = Request> {
    let host =
        (name(), proptest::bool::ANY, proptest::bool::ANY).prop_map(|(name, upper, dot)| spelled(name, upper, dot));
    let odd = select(&["[::1]", "127.0.0.1", "", ".shop", "a..shop"][..]).prop_map(str::to_owned);
    let headers = vec(select(&[("x-a", "1"), ("x-a", "2"), ("x-b", "1"), ("x-c", ""), ("x-b", "1 ")][..]), 0..4);
    let query = select(&["", "", "?", "?/a/b", "?x=/../a"][..]);
    (prop_oneof![10 => host, 1 => odd], path(), query, select(&["GET", "POST", "PURGE", "get"][..]), headers)
        .prop_map(|(host, path, query, method, headers)| Request { host, path, query, method, headers })
}

/// The number of the route that the rules of the documentation say, tried on every route one by one.
fn taken(routes: &[Route], listener: &str, request: &Request) -> Option<usize> {
    let host = request.host.to_ascii_lowercase();
    let host = host.strip_suffix('.').unwrap_or(&host);
    let mut best = None;
    for (number, route) in routes.iter().enumerate() {
        let pattern = route.host.as_deref().map(str::to_ascii_lowercase);
        let by_host = match pattern.as_deref().map(|pattern| (pattern, pattern.strip_prefix('*'))) {
            None => (0, 0),
            // `*.shop` is for all below shop, not for shop.
            Some((_, Some(suffix))) if host.ends_with(suffix) => (1, suffix.len()),
            Some((name, None)) if host == name => (2, 0),
            Some(_) => continue,
        };
        let Some(depth) = depth(route.prefix.as_deref().unwrap_or("/"), &request.path) else { continue };
        let by_method = route.methods.is_empty() || route.methods.contains(&request.method);
        let by_headers = route
            .headers
            .iter()
            .all(|(name, value)| request.headers.iter().any(|(given, with)| given == name && with.trim() == *value));
        if !by_method || !by_headers || route.listener.is_some_and(|name| name != listener) {
            continue;
        }
        let rank =
            (by_host, depth, route.headers.len(), !route.methods.is_empty(), route.listener.is_some(), Reverse(number));
        if best.is_none_or(|(other, _)| rank > other) {
            best = Some((rank, number));
        }
    }
    best.map(|(_, number)| number)
}

/// How many segments a prefix has, if the path begins with all of them.
fn depth(prefix: &str, path: &str) -> Option<usize> {
    let prefix = prefix.trim_end_matches('/');
    let rest = path.strip_prefix(prefix)?;
    (rest.is_empty() || rest.starts_with('/')).then(|| prefix.matches('/').count())
}

#[test]
fn a_call_takes_the_route_that_the_rules_say() {
    let table = (vec(route(), 0..12), vec(request(), 1..30));
    fuzz("routes", &table, |(routes, requests)| {
        let built =
            Routes::build(routes.iter().map(spec).collect()).map_err(|problems| anyhow::anyhow!("{problems:?}"))?;
        for request in requests {
            let headers: HeaderMap = request
                .headers
                .iter()
                .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value.trim())))
                .fold(HeaderMap::new(), |mut headers, (name, value)| {
                    headers.append(name, value);
                    headers
                });
            let method: Method = request.method.parse()?;
            for listener in ["in", "other", "third"] {
                let found = built.find(listener, &request.host, &request.path, &method, &headers);
                ensure!(found == taken(routes, listener, request), "route {found:?} on {listener} for {request:?}");
            }
        }
        Ok(())
    });
}

fn spec(route: &Route) -> RouteSpec {
    let header =
        |(name, value): &(&'static str, &'static str)| (HeaderName::from_static(name), HeaderValue::from_static(value));
    RouteSpec {
        listener: route.listener.map(str::to_owned),
        host: route.host.clone(),
        path_prefix: route.prefix.clone(),
        methods: route.methods.iter().map(|method| method.parse().expect("a method")).collect(),
        headers: route.headers.iter().map(header).collect(),
    }
}

impl Route {
    fn toml(&self, number: usize) -> String {
        let Self { listener, host, prefix, methods, headers, strip } = self;
        let mut parts = Vec::new();
        parts.extend(host.as_deref().map(|host| format!("host = {}", toml::string(host))));
        parts.extend(prefix.as_deref().map(|prefix| format!("path-prefix = {}", toml::string(prefix))));
        if !methods.is_empty() {
            parts.push(format!("methods = {methods:?}"));
        }
        let headers: Vec<_> = headers.iter().map(|(name, value)| format!("{name} = {value:?}")).collect();
        parts.push(format!("headers = {{ {} }}", headers.join(", ")));
        let listener = listener.map(|name| format!("listener = \"{name}\"\n")).unwrap_or_default();
        let strip = strip.as_deref().map(|strip| format!("rewrite = {{ strip-prefix = {} }}\n", toml::string(strip)));
        format!(
            "[[route]]\n{listener}match = {{ {} }}\nservice = \"{number}\"\n{}",
            parts.join(", "),
            strip.unwrap_or_default()
        )
    }
}

#[test]
fn what_was_matched_is_what_the_service_gets() {
    let runtime = Runtime::new().expect("a runtime");
    let upstreams: Vec<Upstream> = (0..SERVICES)
        .map(|number| {
            let say = move |received: &weir_tests::upstream::Received| {
                let host = received.header("host").unwrap_or_default();
                Reply::new(200)
                    .header("x-service", number.to_string())
                    .header("x-target", &received.target)
                    .header("x-host", host)
                    .into()
            };
            runtime.block_on(Upstream::start(Behaviour::new(say))).expect("a service")
        })
        .collect();
    let table = (vec(route(), 1..=SERVICES), vec(request(), 10..30));
    fuzz("routes", &table, |(routes, requests)| {
        let mut setup = Setup::new().workers(1).toml("[[listener]]\nname = \"other\"\nlisten = \"127.0.0.1:0\"");
        for (number, upstream) in upstreams.iter().enumerate() {
            let address = upstream.address();
            setup =
                setup.toml(&format!("[[service]]\nname = \"{number}\"\nendpoints = [{{ address = \"{address}\" }}]"));
        }
        for (number, route) in routes.iter().enumerate() {
            setup = setup.toml(&route.toml(number));
        }
        let weir = setup.start();
        runtime.block_on(async {
            let mut raw = Raw::connect(weir.address()).await?;
            for (number, request) in requests.iter().enumerate() {
                let Request { host, path, query, method, headers } = request;
                // Every other one as a client sends it to its proxy: what it says there counts, and not the field.
                let absolute = number % 2 == 1 && !host.is_empty();
                let target = if absolute { format!("http://{host}:80{path}{query}") } else { format!("{path}{query}") };
                let field = if absolute { "elsewhere" } else { host };
                let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
                raw.send(format!("{method} {target} HTTP/1.1\r\nhost: {field}\r\n{headers}\r\n")).await?;
                let answer = raw.read_response().await?;
                let Some(taken) = taken(routes, "in", request) else {
                    ensure!(answer.status == 404, "{answer:?} to {request:?}");
                    continue;
                };
                ensure!(
                    answer.header("x-service") == Some(&taken.to_string()),
                    "{answer:?} and not {taken} to {request:?}"
                );
                let strip = routes[taken].strip.as_deref().unwrap_or("/");
                let stripped = depth(strip, path).map_or(path.as_str(), |_| &path[strip.trim_end_matches('/').len()..]);
                let slash = if stripped.starts_with('/') { "" } else { "/" };
                let wanted = format!("{slash}{stripped}{query}");
                ensure!(answer.header("x-target") == Some(&wanted), "{answer:?} and not {wanted} to {request:?}");
            }
            Ok(())
        })
    });
    let targets: BTreeSet<String> =
        upstreams.iter().flat_map(|upstream| upstream.requests()).map(|request| request.target).collect();
    assert!(!targets.is_empty());
}
