//! The scenarios by name. Each is prepared, and run once, before it is measured.

use std::hint::black_box;
use std::time::Duration;

use http::{HeaderMap, HeaderName, Method};
use weir::plugin::bindings::types;
use weir::route::{RouteSpec, Routes};

use super::head::Head;
use super::node::{ALGORITHMS, ENDPOINTS, FIVE, rig};
use super::request;
use super::rig::answered;

/// Does once what is measured.
pub type Run = Box<dyn FnMut()>;

/// Everything but what is done once for many exchanges.
pub fn names() -> Vec<String> {
    let mut names = vec!["hook/native".to_owned()];
    names.extend([0, 2, 8].map(|fields| format!("hook/{fields}-fields")));
    names.extend(HOOKS.map(|(policy, hook)| format!("hook/{policy}/{hook}")));
    names.extend(["chain/empty", "chain/five", "chain/ten"].map(str::to_owned));
    names.extend(FIVE.map(|policy| format!("chain/{policy}")));
    names.extend(ALGORITHMS.iter().flat_map(|algorithm| ENDPOINTS.map(|count| format!("pick/{algorithm}/{count}"))));
    names.extend([10, 10_000].map(|count| format!("route/{count}")));
    for protocol in ["http1", "http2"] {
        names.extend(["empty", "five"].map(|chain| format!("request/{protocol}/{chain}")));
    }
    names
}

/// The hooks that an exchange without failures calls, and the one that a failure does. A token is verified, or minted, by
/// the first exchange and then for as long as it is good.
const HOOKS: [(&str, &str); 8] = [
    ("trace", "on-request"),
    ("verify", "on-request"),
    ("breaker", "on-attempt"),
    ("breaker", "on-outcome"),
    ("retry", "on-outcome"),
    ("balance", "pick"),
    ("mint", "on-request"),
    ("marker", "on-response"),
];

/// Makes what a scenario needs, and does it twice: caches are filled, instances are there.
///
/// # Panics
/// There is no such scenario, or it does not do what it should.
pub fn prepare(name: &str) -> Run {
    let parts: Vec<&str> = name.split('/').collect();
    let mut run = match parts[..] {
        ["hook", "native"] => native(),
        ["hook", chain] => on_request(chain, None),
        ["hook", policy, hook] => hook_of(policy, hook),
        ["chain", chain] => walk(chain),
        ["pick", algorithm, count] => pick(algorithm, count),
        ["request", protocol, chain] => request::run(rig(), &format!("{chain}-{protocol}"), protocol == "http2"),
        ["route", count] => route(count.parse().expect("a number")),
        _ => panic!("no such scenario: {name}"),
    };
    run();
    run();
    run
}

/// What a hook that is compiled in would cost: a call of a function that nobody could inline.
fn native() -> Run {
    #[inline(never)]
    fn hook(exchange: &types::Exchange, values: &[Option<&[u8]>]) -> types::Answer {
        black_box(values);
        types::Answer { verdict: types::Verdict::Proceed, memo: exchange.memo }
    }
    let exchange = types::Exchange {
        id: 1,
        kind: types::ExchangeKind::Call,
        route: 0,
        service: 0,
        attempt: 0,
        deadline: u64::MAX,
        memo: 0,
    };
    let hook: fn(&types::Exchange, &[Option<&[u8]>]) -> types::Answer = black_box(hook);
    Box::new(move || drop(black_box(hook(black_box(&exchange), &[Some(b"7301"), None]))))
}

/// The next run begins as this one did, without the field that is added.
fn on_request(name: &str, added: Option<&'static str>) -> Run {
    let rig = rig();
    let route = rig.route(name);
    let chain = rig.chain(&route);
    let (mut exchange, mut head) = (rig.exchange(&route, &chain), Head::request());
    let added = added.map(HeaderName::from_static);
    Box::new(move || {
        chain.on_request(&mut exchange, &mut head).expect("no reply");
        if let Some(added) = &added {
            head.remove(added);
        }
        exchange.recording.record.acted.clear();
        exchange.recording.record.attributes.clear();
    })
}

fn hook_of(policy: &str, hook: &str) -> Run {
    let rig = rig();
    let route = rig.route(policy);
    let chain = rig.chain(&route);
    let (mut exchange, mut request) = (rig.exchange(&route, &chain), Head::request());
    let mut answer = Head::answer();
    let first = route.service.endpoints().iter().next().expect("an endpoint").id;
    match hook {
        "on-request" => on_request(policy, (policy == "trace").then_some("traceparent")),
        "pick" => Box::new(move || {
            let picked = chain.pick(&mut exchange, &request, &[]).expect("a pick");
            assert!(matches!(picked, Some(Some(_))));
        }),
        "on-attempt" => Box::new(move || drop(chain.on_attempt(&mut exchange, first, &mut request).expect("no reply"))),
        "on-outcome" => {
            // What retry is for: it is not called after a success.
            let status = if policy == "retry" { 503 } else { 200 };
            exchange.attempt = 1;
            let outcome = answered(first, status, Duration::from_millis(1));
            Box::new(move || {
                black_box(chain.on_outcome(&mut exchange, 1, &outcome, &answer));
                exchange.recording.record.acted.clear();
            })
        }
        "on-response" => {
            chain.on_request(&mut exchange, &mut request).expect("no reply");
            Box::new(move || {
                chain.on_response(&mut exchange, &mut answer).expect("no reply");
                exchange.recording.record.acted.clear();
            })
        }
        _ => panic!("no such hook: {hook}"),
    }
}

fn walk(name: &str) -> Run {
    let rig = rig();
    let route = rig.route(name);
    let chain = rig.chain(&route);
    let (request, answer) = (Head::request(), Head::answer());
    Box::new(move || rig.walk(&route, &chain, &request, &answer))
}

fn pick(algorithm: &str, count: &str) -> Run {
    let rig = rig();
    let route = rig.route(&format!("pick-{algorithm}"));
    let chain = rig.chain(&route);
    let (mut exchange, request) = (rig.exchange(&route, &chain), Head::request());
    exchange.service = rig.worker.node.services.named(&format!("of-{count}")).expect("a service");
    Box::new(move || {
        let picked = chain.pick(&mut exchange, &request, &[]).expect("a pick");
        assert!(matches!(picked, Some(Some(_))));
    })
}

/// Services with four routes each: their root, two prefixes, and one for writing.
fn route(count: usize) -> Run {
    let spec = |number: usize| {
        let path = ["/", "/users", "/users/admin", "/orders"][number % 4];
        RouteSpec {
            host: Some(format!("service-{}.internal", number / 4)),
            path_prefix: Some(path.into()),
            methods: if number % 4 == 3 { vec![Method::POST] } else { Vec::new() },
            ..RouteSpec::default()
        }
    };
    let routes = Routes::build((0..count).map(spec).collect()).expect("routes");
    let (host, headers) = (format!("service-{}.internal", count / 8), HeaderMap::new());
    Box::new(move || {
        let found = routes.find("in", black_box(&host), black_box("/users/7301"), &Method::GET, &headers);
        assert!(black_box(found).is_some());
    })
}
