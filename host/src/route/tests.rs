use rand::{Rng, SeedableRng, rngs::StdRng};

use super::*;

fn spec(host: &str, prefix: &str) -> RouteSpec {
    RouteSpec {
        host: (!host.is_empty()).then(|| host.to_owned()),
        path_prefix: (!prefix.is_empty()).then(|| prefix.to_owned()),
        ..RouteSpec::default()
    }
}

fn header(name: &'static str, value: &'static str) -> (HeaderName, HeaderValue) {
    (HeaderName::from_static(name), HeaderValue::from_static(value))
}

fn get(routes: &Routes, host: &str, path: &str) -> Option<usize> {
    routes.find("l", host, path, &Method::GET, &HeaderMap::new())
}

#[test]
fn the_most_specific_host_wins() {
    let hosts = ["", "*.com", "*.example.com", "api.example.com", "*.b.example.com"];
    let routes = Routes::build(hosts.iter().map(|host| spec(host, "")).collect()).unwrap();
    for (host, expected) in [
        ("api.example.com", 3),
        ("www.example.com", 2),
        ("a.b.example.com", 4),
        ("x.a.b.example.com", 4),
        ("b.example.com", 2),
        ("example.com", 1),
        ("com", 0),
        ("example.org", 0),
        ("xexample.com", 1),
        ("", 0),
        (".", 0),
        ("[::1]", 0),
    ] {
        assert_eq!(get(&routes, host, "/"), Some(expected), "{host}");
    }
}

#[test]
fn hosts_match_in_any_case_and_with_a_dot_at_the_end() {
    let routes = Routes::build(vec![spec("API.example.com.", ""), spec("*.Example.ORG", "")]).unwrap();
    for host in ["api.example.com", "Api.Example.Com", "api.example.com."] {
        assert_eq!(get(&routes, host, "/"), Some(0), "{host}");
    }
    assert_eq!(get(&routes, "WWW.example.org.", "/"), Some(1));
    assert_eq!(get(&routes, "api.example.com..", "/"), None);
}

#[test]
fn a_host_longer_than_names_can_be_fits_routes_for_any() {
    let routes = Routes::build(vec![spec("*.com", ""), spec("", "")]).unwrap();
    assert_eq!(get(&routes, &format!("{}.com", "a".repeat(249)), "/"), Some(0));
    assert_eq!(get(&routes, &format!("{}.com", "a".repeat(250)), "/"), Some(1));
    assert_eq!(get(&routes, &"a.".repeat(100_000), "/"), Some(1));
}

#[test]
fn the_longest_prefix_of_whole_segments_wins() {
    let prefixes = ["/users", "/users/1/", "/", "/users/1/a/b", "//x"];
    let routes = Routes::build(prefixes.iter().map(|prefix| spec("", prefix)).collect()).unwrap();
    for (path, expected) in [
        ("/users", 0),
        ("/users/", 0),
        ("/users/2", 0),
        ("/usersx", 2),
        ("/user", 2),
        ("/users/1", 1),
        ("/users/1/", 1),
        ("/users/1/a", 1),
        ("/users/1/a/b", 3),
        ("/users/1/a/b/c", 3),
        ("/users//1", 0),
        ("/", 2),
        ("//x/y", 4),
        ("//", 2),
        ("*", 2),
        ("", 2),
    ] {
        assert_eq!(get(&routes, "h", path), Some(expected), "{path}");
    }
}

#[test]
fn among_equal_paths_headers_then_methods_then_listener_then_order_decide() {
    let conditions = |headers: usize, method: bool, listener: bool| RouteSpec {
        headers: vec![header("a", "1"), header("b", "2")][..headers].to_vec(),
        methods: if method { vec![Method::GET] } else { vec![] },
        listener: listener.then(|| "l".to_owned()),
        ..RouteSpec::default()
    };
    // From the least specific to the most.
    let mut specs = Vec::new();
    for headers in 0..3 {
        for method in [false, true] {
            for listener in [false, true] {
                specs.push(conditions(headers, method, listener));
            }
        }
    }
    let headers: HeaderMap = [header("a", "1"), header("b", "2")].into_iter().collect();
    let find = |specs: &[RouteSpec]| {
        let routes = Routes::build(specs.to_vec()).unwrap();
        routes.find("l", "h", "/", &Method::GET, &headers)
    };
    for count in 1..=specs.len() {
        assert_eq!(find(&specs[..count]), Some(count - 1));
        let reversed: Vec<_> = specs[..count].iter().rev().cloned().collect();
        assert_eq!(find(&reversed), Some(0));
    }
    assert_eq!(find(&[specs[3].clone(), specs[3].clone()]), Some(0));
}

#[test]
fn less_specific_routes_have_their_turn_where_the_rest_does_not_fit() {
    let specs = vec![
        RouteSpec { methods: vec![Method::POST], ..spec("a.b.c", "/x/y") },
        RouteSpec { headers: vec![header("k", "v")], ..spec("a.b.c", "/x") },
        RouteSpec { listener: Some("other".to_owned()), ..spec("*.b.c", "/x/y") },
        RouteSpec { methods: vec![Method::PUT, Method::DELETE], ..spec("*.c", "") },
        spec("", "/x"),
    ];
    let routes = Routes::build(specs).unwrap();
    let mut headers = HeaderMap::new();
    let find = |listener, method, headers: &HeaderMap| routes.find(listener, "a.b.c", "/x/y/z", &method, headers);
    assert_eq!(find("l", Method::POST, &headers), Some(0));
    assert_eq!(find("other", Method::GET, &headers), Some(2));
    assert_eq!(find("l", Method::DELETE, &headers), Some(3));
    assert_eq!(find("l", Method::GET, &headers), Some(4));
    headers.append("k", HeaderValue::from_static("w"));
    assert_eq!(find("l", Method::GET, &headers), Some(4));
    headers.append("k", HeaderValue::from_static("v"));
    assert_eq!(find("l", Method::GET, &headers), Some(1));
    assert_eq!(routes.find("l", "a.b.c", "/y", &Method::GET, &headers), None);
}

#[test]
fn what_cannot_be_understood_is_told_by_route() {
    let bad = [
        spec("a:80", ""),
        spec("*", ""),
        spec("*.", ""),
        spec("a.*.b", ""),
        spec("*a", ""),
        spec("a/b", ""),
        spec(&"a".repeat(254), ""),
        spec("", "users"),
        spec("", "/a?b"),
        RouteSpec { host: Some(String::new()), ..RouteSpec::default() },
    ];
    let mut specs = vec![spec("a", "/"), spec("[::1]", "/")];
    specs.extend(bad);
    let problems = Routes::build(specs).unwrap_err();
    assert_eq!(problems.iter().map(|problem| problem.route).collect::<Vec<_>>(), (2..12).collect::<Vec<_>>());
    assert!(problems[0].to_string().starts_with("route 2: host \"a:80\" has to be"));
}

/// The same rules, written as a scan over all routes.
fn naive(specs: &[RouteSpec], query: &Query<'_>, host: &str) -> Option<usize> {
    let host = host.trim_end_matches('.').to_lowercase();
    let rank = |spec: &RouteSpec| {
        let host_rank = match &spec.host {
            None => Some((0, 0)),
            Some(pattern) => match pattern.to_lowercase().strip_prefix('*') {
                Some(suffix) => host.ends_with(suffix).then_some((1, suffix.len())),
                None => (host == pattern.to_lowercase()).then_some((2, 0)),
            },
        }?;
        let prefix = spec.path_prefix.as_deref().unwrap_or("/").trim_end_matches('/');
        let rest = query.path.strip_prefix(prefix)?;
        let methods = spec.methods.is_empty() || spec.methods.contains(query.method);
        let listener = spec.listener.as_deref().is_none_or(|name| name == query.listener);
        let headers =
            spec.headers.iter().all(|(name, value)| query.headers.get_all(name).iter().any(|given| given == value));
        let fits = (rest.is_empty() || rest.starts_with('/')) && methods && listener && headers;
        let rest = (spec.headers.len(), !spec.methods.is_empty(), spec.listener.is_some());
        fits.then_some((host_rank, prefix.len(), rest))
    };
    let ranked = specs.iter().enumerate().filter_map(|(route, spec)| Some((rank(spec)?, Reverse(route))));
    ranked.max().map(|(_, Reverse(route))| route)
}

#[test]
fn a_lookup_finds_what_a_scan_over_all_routes_finds() {
    let mut random = StdRng::seed_from_u64(3);
    let hosts = ["a.b.c", "b.c", "x.b.c", "c", "a.c", "*.b.c", "*.c", "*.a.b.c", "A.C"];
    let paths = ["/", "/a", "/a/", "/a/b", "/a/b/c", "/b", "/ab", "/a//b", "/a/b/c/d/e"];
    let methods = [Method::GET, Method::POST, Method::PUT];
    let values = [header("k", "1"), header("k", "2"), header("m", "1")];
    let mut found = 0;
    for _ in 0..300 {
        let count = random.random_range(0..40);
        let mut some = |share: u32| random.random_ratio(share, 10);
        let flags: Vec<_> = (0..count).map(|_| [some(8), some(8), some(3), some(3), some(2)]).collect();
        let specs: Vec<_> = flags
            .iter()
            .map(|flag| RouteSpec {
                host: flag[0].then(|| hosts[random.random_range(0..hosts.len())].to_owned()),
                path_prefix: flag[1].then(|| paths[random.random_range(0..paths.len())].to_owned()),
                methods: if flag[2] { vec![methods[random.random_range(0..3)].clone()] } else { vec![] },
                headers: if flag[3] { values[..random.random_range(0..3)].to_vec() } else { vec![] },
                listener: flag[4].then(|| ["l", "m"][random.random_range(0..2)].to_owned()),
            })
            .collect();
        let routes = Routes::build(specs.clone()).unwrap();
        for _ in 0..100 {
            let headers: HeaderMap = values.iter().filter(|_| random.random_bool(0.5)).cloned().collect();
            let query = Query {
                listener: ["l", "m", "n"][random.random_range(0..3)],
                path: paths[random.random_range(0..paths.len())],
                method: &methods[random.random_range(0..3)],
                headers: &headers,
            };
            let host = hosts[random.random_range(0..hosts.len())].trim_start_matches("*.");
            let route = routes.find(query.listener, host, query.path, query.method, query.headers);
            assert_eq!(route, naive(&specs, &query, host), "{specs:#?} {host} {}", query.path);
            found += usize::from(route.is_some());
        }
    }
    assert!(found > 10_000, "{found} of 30000");
}

#[test]
fn a_lookup_among_ten_thousand_routes_tries_only_those_of_its_host_and_path() {
    let specs = (0..10_000).map(|n| match n % 3 {
        0 => spec(&format!("service-{n}"), "/"),
        1 => spec(&format!("*.service-{n}"), "/a/b"),
        _ => spec("", &format!("/service-{n}/a")),
    });
    let routes = Routes::build(specs.collect()).unwrap();
    let all = routes.exact.values().chain(routes.below.values()).chain([&routes.any]);
    let most = all.flat_map(|paths| &paths.nodes).map(|node| node.candidates.len()).max();
    assert_eq!(most, Some(1));
    for n in [0, 4_500, 9_999] {
        assert_eq!(get(&routes, &format!("service-{n}"), "/x"), Some(n));
    }
    for n in [1, 4_501, 9_997] {
        assert_eq!(get(&routes, &format!("x.service-{n}"), "/a/b/c"), Some(n));
        assert_eq!(get(&routes, &format!("x.service-{n}"), "/a/c"), None);
    }
    assert_eq!(get(&routes, "none", "/service-5000/a/x"), Some(5_000));
    assert_eq!(get(&routes, "none", "/service-5000/b"), None);
}
