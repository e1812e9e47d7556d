//! What a single value may be.

use super::{assert_one_problem, problems, read};

#[test]
fn wrong_types_say_what_was_expected_and_what_was_found() {
    for (text, parts) in [
        (
            "[node]\nworkers = \"2\"",
            ["[node] workers: expected a whole number, found a string", "2:11", "without quotes"],
        ),
        ("[node]\ndrain-timeout = 5", ["expected a duration, found an integer", "2:17", "with a unit"]),
        ("[limits]\nmax-header-bytes = true", ["expected a size, found a boolean", "2:20", "64KiB"]),
        ("admin = 1", ["[admin]: expected a table, found an integer", "1:9", ""]),
        ("[chain]\na = \"b\"", ["[chain] a: expected an array of policy names, found a string", "2:5", "[\"trace\""]),
        ("[key.a]\nsecret = \"hunter2\"", ["[key.a] secret: expected a table, found a string", "2:10", ""]),
        ("[policy.a]\nplugin = \"a\"\nconfig = []", ["expected a table, found an array", "3:10", ""]),
        ("[listener]\nname = \"a\"", ["listener: expected an array of tables, found a table", "1:1", "[[listener]]"]),
    ] {
        assert_one_problem(text, &parts);
    }
}

#[test]
fn what_stands_where_a_key_file_should_is_never_repeated() {
    for text in ["[key.a]\nsecret = \"hunter2\"", "[key.a]\nprivate = { file = \"\"\"hun\nhunter2\"\"\" }"] {
        let found = problems(text);
        assert!(!found[0].contains("hunter2"), "{found:?}");
    }
}

#[test]
fn the_cache_is_a_directory_or_off() {
    let cache = |text: &str| read(&format!("[plugins]\n{text}")).unwrap().plugins.cache;
    assert_eq!(cache("cache = \"off\""), None);
    assert_eq!(cache("cache = \"a/b\""), Some("a/b".into()));
    assert_eq!(cache("cache = \"./off\""), Some("./off".into()));
    assert_eq!(cache(""), crate::config::Plugins::default().cache);
    assert_one_problem("[plugins]\ncache = false", &["[plugins] cache: expected a string, found a boolean"]);
    assert_one_problem("[plugins]\ncache = \"\"", &["not a path"]);
}

#[test]
fn the_cache_is_the_service_s_or_else_the_user_s() {
    let default = |set: &[(&str, &str)]| {
        let value = |name: &str| set.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into());
        crate::config::settings::default_cache(value)
    };
    let (home, xdg) = (("HOME", "/home/a"), ("XDG_CACHE_HOME", "/caches"));
    assert_eq!(default(&[home, xdg, ("CACHE_DIRECTORY", "/var/cache/weir")]), Some("/var/cache/weir/plugins".into()));
    assert_eq!(default(&[("CACHE_DIRECTORY", "/var/cache/weir:/b")]), Some("/var/cache/weir/plugins".into()));
    assert_eq!(default(&[home, xdg]), Some("/caches/weir".into()));
    assert_eq!(default(&[home]), Some("/home/a/.cache/weir".into()));
    assert_eq!(default(&[home, ("XDG_CACHE_HOME", ""), ("CACHE_DIRECTORY", "")]), Some("/home/a/.cache/weir".into()));
    assert_eq!(default(&[("XDG_CACHE_HOME", "relative"), ("HOME", "")]), None);
    assert_eq!(default(&[]), None);
}

#[test]
fn values_out_of_their_range_are_problems() {
    for (text, part) in [
        ("[node]\nworkers = 0", "from 1 to 255"),
        ("[node]\nworkers = -1", "out of range"),
        ("[node]\nworkers = 99999999999999999999", "out of range"),
        ("[node]\ndrain-timeout = \"31days\"", "too long"),
        ("[node]\ndrain-timeout = \"18446744073709551615s 1000ms\"", "is not a duration"),
        ("[node]\ndrain-timeout = \"0\"", "is not a duration"),
        ("[node]\ndrain-timeout = \"5\"", "is not a duration"),
        ("[node]\nname = \"two words\"", "not allowed"),
        ("[limits]\nmax-header-bytes = \"1KiB\"", "from 8.0 KiB to 16.0 MiB"),
        ("[limits]\nmax-header-bytes = \"many\"", "is not a size"),
        ("[limits]\nmax-header-bytes = 10000000000000000000000", "out of range"),
        ("[trace]\nqueue = 10\nbatch = 11", "never fits"),
        ("[trace]\notlp-endpoint = \"127.0.0.1:4317\"", "http://"),
        ("[log]\nlevel = \"inof\"", "did you mean \"info\"?"),
        ("[policy.a]\nplugin = \"a\"\nlimits = { cpu = \"0s\" }", "zero"),
        ("[policy.a]\nplugin = \"a\"\nlimits = { cpu = \"1h\" }", "the longest is \"1m\""),
        ("[policy.\"a b\"]\nplugin = \"a\"", "not allowed"),
        ("[[listener]]\nname = \"a\"\nlisten = \"localhost:80\"", "is not an address"),
    ] {
        assert_one_problem(text, &[part]);
    }
}

#[test]
fn an_address_of_an_endpoint_is_host_and_port() {
    let service = |address: &str| format!("[[service]]\nname = \"a\"\nendpoints = [{{ address = \"{address}\" }}]");
    for address in ["127.0.0.1:80", "[::1]:80", "users.local:80", "user_service:8080", "a:65535"] {
        assert!(read(&service(address)).is_ok(), "{address}");
    }
    for address in ["", "a", ":80", "a:", "a:0", "a:65536", "[::1]", "::1:80", "127.0.0.1:0", "a b:80", "http://a:80"] {
        assert_one_problem(&service(address), &["is not host:port", " | "]);
    }
}

#[test]
fn a_match_refuses_what_could_never_match() {
    let route = |part: &str| {
        format!("[[service]]\nname = \"a\"\nendpoints = []\n[[route]]\nservice = \"a\"\nmatch = {{ {part} }}")
    };
    for part in ["host = \"a\"", "host = \"[::1]\"", "host = \"*.A.b\"", "path-prefix = \"/\"", "methods = [\"PURGE\"]"]
    {
        assert!(read(&route(part)).is_ok(), "{part}");
    }
    for (part, told) in [
        ("host = \"a:80\"", "write \"a\", without a port"),
        ("host = \"\"", "is not a host"),
        ("host = \"a.*\"", "is not a host"),
        ("host = \"*\"", "is not a host"),
        ("host = \"u@a\"", "is not a host"),
        ("host = \"a/b\"", "is not a host"),
        ("path-prefix = \"users\"", "write \"/users\""),
        ("path-prefix = \"/a?b\"", "no query"),
        ("methods = []", "leave the key out"),
        ("methods = [\"get\"]", "did you mean \"GET\"?"),
        ("methods = [\"G T\"]", "is not a method"),
        ("headers = { \"a b\" = \"1\" }", "is not a header name"),
        ("headers = { \"a\" = \"\\u0000\" }", "not a header value"),
        ("headers = { \"a\" = \"1\", \"A\" = \"2\" }", "header a is matched twice"),
    ] {
        assert_one_problem(&route(part), &[told]);
    }
}

#[test]
fn a_key_has_exactly_one_source_that_suits_its_algorithm() {
    for (text, told) in [
        ("[key.a]", "the key has no source"),
        ("[key.a]\nprivate = { file = \"p\" }\njwks = { file = \"j\" }", "3:8 the key has both private and jwks"),
        ("[key.a]\nalgorithm = \"RS256\"\nsecret = { file = \"s\" }", "a secret is for HS256 only"),
        ("[key.a]\nalgorithm = \"HS256\"\npublic = { file = \"s\" }", "HS256 has no private and public key"),
        ("[key.a]\nalgorithm = \"rs256\"\npublic = { file = \"s\" }", "did you mean \"RS256\"?"),
        ("[key.a]\npublic = { fiel = \"s\", file = \"s\" }", "did you mean \"file\"?"),
        ("[key.a]\npublic = { file = \"\" }", "not a path"),
    ] {
        assert_one_problem(text, &[told]);
    }
}

#[test]
fn a_broker_has_the_place_that_its_kind_needs() {
    for (rest, told) in [
        ("kind = \"embedded\"", "missing key \"directory\""),
        ("kind = \"nats\"", "missing key \"url\""),
        ("kind = \"nats\"\nurl = \"nats://a\"\ndirectory = \"d\"", "unknown key \"directory\""),
        ("kind = \"amqp\"\nurl = \"amqp://user:pass@a\"", "no place for secrets"),
        ("kind = \"embedded\"\ndirectory = \"d\"\nuser = \"u\"", "unknown key \"user\""),
        ("kind = \"kafak\"\nurl = \"kafka://a\"", "did you mean \"kafka\"?"),
    ] {
        assert_one_problem(&format!("[[broker]]\nname = \"a\"\n{rest}"), &[told]);
    }
}

#[test]
fn a_subscription_is_named_by_its_channel_and_knows_where_to_post() {
    let broker = "[[broker]]\nname = \"b\"\nkind = \"embedded\"\ndirectory = \"d\"\n[[channel]]\nname = \"c\"\nbroker = \"b\"\ndestination = \"c\"\n[[service]]\nname = \"s\"\nendpoints = []\n";
    for (keys, told) in [
        ("service = \"s\"", "missing key \"path\""),
        ("path = \"/\"", "unknown key \"path\""),
        ("backoff = { initial = \"5s\", max = \"1s\" }", "shorter than the first, 5s"),
        ("concurrency = 0", "out of range"),
        ("max-attempts = 1001", "out of range"),
        ("[[subscription]]\nchannel = \"c\"", "a second subscription named \"c\""),
    ] {
        assert_one_problem(&format!("{broker}[[subscription]]\nchannel = \"c\"\n{keys}"), &[told]);
    }
    let config = read(&format!("{broker}[[subscription]]\nchannel = \"c\"\nconcurrency = 100")).unwrap();
    let subscription = &config.subscriptions[0];
    assert_eq!((subscription.name.as_str(), subscription.prefetch, &subscription.service), ("c", 400, &None));
}

#[test]
fn rollback_has_rules_or_is_off() {
    for (rollback, told) in [
        ("\"never\"", "a table or \"off\""),
        ("true", "a table or \"off\""),
        ("{ within = \"0s\" }", "timeout of zero"),
        ("{ percent = 101 }", "from 0 to 100"),
        ("{ failures = -1 }", "out of range"),
        ("{ fialures = 1 }", "did you mean \"failures\"?"),
    ] {
        assert_one_problem(&format!("[plugins]\nrollback = {rollback}"), &[told]);
    }
    let shown = |rollback: &str| {
        read(&format!("[plugins]\nrollback = {rollback}")).unwrap().to_json()["plugins"]["rollback"].clone()
    };
    assert_eq!(shown("\"off\""), "off");
    assert_eq!(shown("{ failures = 0 }"), serde_json::json!({ "within": "1m", "failures": 0, "percent": 5 }));
}
