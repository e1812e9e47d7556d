//! What whole files mean, and what is told of files with problems.

mod document;
mod documented;
mod naming;
mod robust;
mod single_values;

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use serde_json::json;

use super::*;

const SAMPLE: &str = include_str!("../../../config.toml");

/// Uses every key of the format at least once.
const EVERYTHING: &str = r#"
[admin]
listen = "127.0.0.1:0"
[plugins]
directory = "plugins"
rollback = { within = "30s", failures = 5, percent = 50 }
[node]
workers = 2
drain-timeout = "0s"
name = "node-1"
[retry-budget]
percent = 50
min-per-second = 0
[log]
exchanges = "errors"
level = "debug"
[trace]
otlp-endpoint = "http://127.0.0.1:4317"
queue = 100
batch = 10
interval = "1m 30s"
[limits]
max-header-bytes = "32KiB"
max-headers = 50
max-target-bytes = 4096
max-connections = 100
max-streams = 10
max-body-buffer = "1MB"
header-timeout = "5s"
idle-timeout = "250ms"
write-timeout = "3s"
stream-idle-timeout = "none"
max-pending = 7
max-attempts = 3

[[listener]]
name = "in"
listen = "[::1]:15001"
identity = "orders"
connect = true
trust-forwarded = true
[[service]]
name = "users"
protocol = "http2"
endpoints = [{ address = "users.local:80", weight = 2, metadata = { version = "1.0.0" } }, { address = "[::1]:3201" }]
connect-timeout = "2s"
idle-timeout = "1h"
max-connections = 5
max-pending = 6
[[route]]
listener = "in"
match = { host = "*.Example.com", path-prefix = "/v1", methods = ["GET", "PURGE"], headers = { X-Canary = "1" } }
service = "users"
chain = "default"
rewrite = { strip-prefix = "/v1" }
timeout = "none"
attempt-timeout = "1s"
stream-idle-timeout = "1h"
[[route]]
service = "users"
[chain]
default = ["verify"]
empty = []
[policy.verify]
plugin = "token-verify"
on-error = "skip"
limits = { cpu = "1ms", memory = "1MiB" }
allow = ["crypto:issuer"]
config = { since = 2026-01-02, share = 0.5, leeway = 0x10, roles = { "DELETE /" = ["ADMIN"] }, strict = true }
[policy.unused]
plugin = "trace"
[key.issuer]
jwks = { file = "keys/jwks.json" }
[key.signing]
algorithm = "EdDSA"
private = { file = "keys/service.pem" }
kid = "2026"
[key.shared]
secret = { file = "keys/secret" }
[[broker]]
name = "events"
kind = "embedded"
directory = "data/events"
[[broker]]
name = "rabbit"
kind = "amqp"
url = "amqp://127.0.0.1:5672"
user = "weir"
password-file = "keys/rabbit"
[[channel]]
name = "order.created"
broker = "events"
destination = "order.created"
chain = "default"
timeout = "1s"
max-message = "2MiB"
declare = false
ttl = "1day"
retention = "7days"
max-length = 1000
max-priority = 9
quorum = false
[[subscription]]
channel = "order.created"
name = "notifications"
service = "users"
path = "/events"
chain = "default"
concurrency = 5
prefetch = 50
ordered = true
timeout = "10s"
max-attempts = 4
backoff = { initial = "2s", max = "1h" }
dead-letter = "order.dead"
dedup = "10m"
[[subscription]]
channel = "order.created"
"#;

fn read(text: &str) -> Result<Config, Problems> {
    parse(text, Path::new("config.toml"))
}

/// The problems of `text`, each as one line: `line:column message | hint`.
fn problems(text: &str) -> Vec<String> {
    let line = |p: Problem| {
        let hint = p.hint.map(|hint| format!(" | {hint}")).unwrap_or_default();
        format!("{}:{} {}{hint}", p.line, p.column, p.message)
    };
    read(text).unwrap_err().into_iter().map(line).collect()
}

/// Asserts that `text` has one problem, and that its line contains each of `parts`.
#[track_caller]
fn assert_one_problem(text: &str, parts: &[&str]) {
    let found = problems(text);
    assert_eq!(found.len(), 1, "{text}\n{found:#?}");
    for part in parts {
        assert!(found[0].contains(part), "{text}\n{part:?} is not in {found:?}");
    }
}

#[test]
fn the_sample_is_a_configuration() {
    let config = read(SAMPLE).unwrap_or_else(|problems| unreachable!("{problems}"));
    assert_eq!(config.admin.listen, SocketAddr::from(([127, 0, 0, 1], 9900)));
    assert_eq!(config.listeners[0].identity.as_deref(), Some("order-service"));
    let names: Vec<_> = config.services.iter().map(|service| service.name.as_str()).collect();
    assert_eq!(names, ["user-service", "order-service", "payment-service", "notification-service"]);
    assert_eq!(config.services[0].endpoints[0].weight, 2);
    assert_eq!(config.chains["default"], ["trace", "marker", "breaker", "retry", "balance"]);
    assert!(config.keys.values().all(|key| key.source.file().starts_with("keys")));
}

#[test]
fn an_empty_file_is_the_defaults() {
    let config = read("").unwrap();
    assert_eq!(config, Config::default());
    assert_eq!(config.limits.max_header_bytes, 65_536);
    assert_eq!(config.node.drain_timeout, Duration::from_secs(10));
}

#[test]
fn a_short_queue_of_spans_alone_is_no_problem() {
    let trace = read("[trace]\nqueue = 10").unwrap().trace;
    assert_eq!((trace.queue, trace.batch), (10, 10));
}

#[test]
fn every_key_lands_in_its_field() {
    let config = read(EVERYTHING).unwrap();
    assert_eq!(config.node.workers, Some(2));
    assert_eq!(config.trace.interval, Duration::from_secs(90));
    assert_eq!(config.limits.max_target_bytes, 4096);
    assert_eq!(config.limits.max_body_buffer, 1_000_000);
    let route = &config.routes[0];
    assert_eq!(route.matcher.host.as_deref(), Some("*.example.com"));
    assert_eq!(route.matcher.methods, ["GET", "PURGE"]);
    assert_eq!(route.matcher.headers[0].0, "x-canary");
    assert_eq!((route.timeout, route.attempt_timeout), (None, Some(Duration::from_secs(1))));
    assert_eq!(route.stream_idle_timeout, Some(Some(Duration::from_secs(3600))));
    assert_eq!((config.limits.stream_idle_timeout, config.routes[1].stream_idle_timeout), (None, None));
    assert_eq!(config.routes[1].timeout, Some(Duration::from_secs(15)));
    assert_eq!(config.routes[1].matcher, Match::default());
    let verify = &config.policies["verify"];
    assert_eq!((verify.name.as_str(), verify.on_error), ("verify", OnError::Skip));
    let expected = json!({
        "since": "2026-01-02", "share": 0.5, "leeway": 16, "roles": { "DELETE /": ["ADMIN"] }, "strict": true
    });
    assert_eq!(verify.config, expected);
    assert_eq!(config.policies["unused"].config, json!({}));
    assert_eq!(config.policies["unused"].limits.memory, 16 * 1024 * 1024);
    assert_eq!(config.keys["shared"].algorithm, Some(Algorithm::HS256));
    assert_eq!(config.brokers[1].url.as_deref(), Some("amqp://127.0.0.1:5672"));
    assert_eq!(config.subscriptions[0].dead_letter.as_deref(), Some("order.dead"));
}

#[test]
fn what_the_admin_page_shows_reads_back_as_the_same_configuration() {
    for text in ["", SAMPLE, EVERYTHING] {
        let config = read(text).unwrap();
        let shown = toml::to_string(&config.to_json()).unwrap();
        assert_eq!(read(&shown).unwrap_or_else(|p| unreachable!("{p}\n{shown}")), config);
    }
    let shown = read(EVERYTHING).unwrap().to_json();
    assert_eq!(shown["trace"]["interval"], "1m 30s");
}

#[test]
fn every_problem_is_told_at_once_and_in_order() {
    let text = r#"
colour = "blue"
[[listener]]
name = "in"
listen = 15001
[[service]]
name = "users"
endpoints = [{ address = "127.0.0.1:1", wieght = 2 }, { address = "http://127.0.0.1:2" }]
[[route]]
service = "usres"
chain = "default"
timeout = "0s"
  atempt-timeout = "1s"
[policy.retry]
config = { max-attempts = nan }
"#;
    let expected = [
        r#"2:1 unknown key "colour""#,
        "5:10 [[listener]] listen: expected an address, found an integer",
        r#"8:41 unknown key "wieght" in [[service]] endpoints[0] | did you mean "weight"?"#,
        r#"8:67 [[service]] endpoints[1].address: "http://127.0.0.1:2" is not host:port | write "127.0.0.1:2""#,
        r#"10:11 unknown service "usres" | did you mean "users"?"#,
        r#"11:9 unknown chain "default" | the file defines no chain"#,
        "12:11 [[route]] timeout: a timeout of zero",
        r#"13:3 unknown key "atempt-timeout" in [[route]] | did you mean "attempt-timeout"?"#,
        r#"14:1 missing key "plugin" in [policy.retry]"#,
        "15:27 [policy.retry] config.max-attempts: nan is not a number",
    ];
    let found = problems(text);
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.starts_with(expected), "{expected}\n{found}");
    }
}

#[test]
fn a_problem_reads_as_file_line_column_message_hint() {
    let problems =
        read("[[route]]\nservice = \"a\"\n  atempt-timeout = \"1s\"\n[[service]]\nname = \"a\"\nendpoints = []\n");
    let expected =
        "config.toml:3:3: unknown key \"atempt-timeout\" in [[route]]\n  hint: did you mean \"attempt-timeout\"?";
    assert_eq!(problems.unwrap_err().to_string(), expected);
}

#[test]
fn places_are_right_inside_inline_tables_and_arrays() {
    let text = "[[service]]\nname = \"a\"\nendpoints = [\n  { address = \"h:1\" },\n  { address = \"é:2\", metadata = { \"größe\" = 1 } },\n]\n";
    let found = problems(text);
    assert_eq!(found.len(), 2, "{found:#?}");
    assert!(found[0].starts_with("5:15 [[service]] endpoints[1].address"), "{found:#?}");
    assert!(found[1].contains("metadata.größe") && found[1].starts_with("5:45 "), "{found:#?}");
}

#[test]
fn text_that_is_not_toml_is_told_by_line() {
    let found = problems("[admin]\nlisten = \n\n[node\nworkers = 2\n");
    assert!(found[0].starts_with("2:"), "{found:#?}");
    assert!(found[1].starts_with("4:"), "{found:#?}");
}

#[test]
fn a_duplicate_key_does_not_hide_other_problems() {
    let text = "[node]\nworkers = 1\nworkers = 2\nnam = \"x\"\n";
    let expected = [r#"3:1 duplicate key "workers""#, r#"4:1 unknown key "nam" in [node] | did you mean "name"?"#];
    assert_eq!(problems(text), expected);
}

#[test]
fn a_policy_locates_the_parts_of_its_configuration() {
    let text = "[policy.a]\nplugin = \"p\"\n[policy.a.config]\n\"a/b~\" = [1,\n  { deep = 2 }]\n[policy.a.config.more]\nx = 1\n[policy.b]\nplugin = \"p\"\n";
    let config = read(text).unwrap();
    let at = |pointer: &str| {
        let position = config.policies["a"].locate(pointer);
        (position.line, position.column)
    };
    assert_eq!(at("/a~1b~0"), (4, 1));
    assert_eq!(at("/a~1b~0/0"), (4, 11));
    assert_eq!(at("/a~1b~0/1/deep"), (5, 5));
    assert_eq!(at("/a~1b~0/1/deep/missing/below"), (5, 5));
    assert_eq!(at("/more/x"), (7, 1));
    assert_eq!(at("/more/missing"), (6, 18));
    assert_eq!(at("/missing"), (3, 1));
    assert_eq!(at(""), (3, 1));
    assert_eq!(at("not a pointer"), (1, 1));
    let b = &config.policies["b"];
    assert_eq!((b.locate("/x").line, b.plugin_position().line, b.start().line), (8, 9, 8));
}

#[test]
fn moving_a_policy_in_the_file_does_not_change_the_configuration() {
    assert_eq!(read(SAMPLE), read(&format!("# A new first line.\n\n{SAMPLE}")));
}

#[test]
fn a_key_knows_where_its_file_is_named() {
    let config = read("[key.a]\n\n[key.a.private]\n  file = \"keys/a.pem\"\n").unwrap();
    assert_eq!(config.keys["a"].file_position(), Position { line: 4, column: 10 });
}
