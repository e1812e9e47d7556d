use std::time::Duration;

use super::policy::{MAX_NAME, MAX_PER_POLICY, PolicyMetricError, PolicyMetricKind};
use super::*;

fn shows(metrics: &Metrics, series: &str) -> bool {
    metrics.encode().lines().any(|line| line == series)
}

#[test]
fn the_exposition_ends_as_openmetrics_wants_and_names_carry_units() {
    let metrics = Metrics::new();
    let policy = "retry".into();
    metrics.hook(&policy, "on-outcome").called(1_500_000_000);
    metrics.reload("plugin", "ok");
    metrics.generation.set(3);
    let text = metrics.encode();
    assert!(text.ends_with("# EOF\n"));
    let labels = r#"policy="retry",hook="on-outcome""#;
    assert!(shows(&metrics, &format!("weir_plugin_hook_seconds_total{{{labels}}} 1.5")));
    assert!(shows(&metrics, &format!("weir_plugin_hook_calls_total{{{labels}}} 1")));
    assert!(shows(&metrics, r#"weir_reloads_total{what="plugin",result="ok"} 1"#));
    assert!(shows(&metrics, "weir_generation 3"));
}

#[test]
fn every_metric_has_help_and_the_prefix() {
    let text = Metrics::new().encode();
    let mut helped = None;
    for line in text.lines().filter(|line| *line != "# EOF") {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, help) = help.split_once(' ').unwrap();
            assert!(name.starts_with("weir_") && help.len() > 10, "{line}");
            helped = Some(name.to_owned());
        } else {
            let name = line.trim_start_matches("# TYPE ").trim_start_matches("# UNIT ");
            assert!(name.starts_with(helped.as_deref().unwrap()), "{line}");
        }
    }
}

#[test]
fn hostile_labels_stay_inside_their_quotes() {
    let metrics = Metrics::new();
    metrics.listener(&"a\"} 1\n\\".into()).accepted.inc();
    let series = r#"weir_downstream_connections_accepted_total{listener="a\"} 1\n\\"} 1"#;
    assert!(shows(&metrics, series), "{}", metrics.encode());
}

#[test]
fn the_same_name_gives_the_same_metric() {
    let metrics = Metrics::new();
    let route: Arc<str> = "users".into();
    for _generation in 0..2 {
        let handles = metrics.route(Kind::Call, &route);
        handles.begin();
        handles.leave();
        handles.end(Some(503), Duration::from_millis(3));
    }
    metrics.route(Kind::Publish, &route).end(Some(202), Duration::ZERO);
    assert!(shows(&metrics, r#"weir_exchanges_total{kind="call",route="users",class="5xx"} 2"#));
    assert!(shows(&metrics, r#"weir_exchanges_total{kind="publish",route="users",class="2xx"} 1"#));
}

#[test]
fn a_duration_counts_in_every_bucket_that_covers_it() {
    let metrics = Metrics::new();
    let handles = metrics.route(Kind::Call, &"users".into());
    for micros in [100, 101, 30_000_000, 30_000_001] {
        handles.end(Some(200), Duration::from_micros(micros));
    }
    let bucket = |le: &str, count: u32| {
        let labels = format!(r#"le="{le}",kind="call",route="users""#);
        shows(&metrics, &format!("weir_exchange_duration_seconds_bucket{{{labels}}} {count}"))
    };
    assert!(bucket("0.0001", 1));
    assert!(bucket("0.00025", 2));
    assert!(bucket("10.0", 2));
    assert!(bucket("30.0", 3));
    assert!(bucket("+Inf", 4));
    let sum = r#"weir_exchange_duration_seconds_sum{kind="call",route="users"} 60.000202"#;
    assert!(shows(&metrics, sum), "{}", metrics.encode());
}

/// A configuration in which everything has the same name.
struct Only(&'static str);

impl Live for Only {
    fn route(&self, kind: Kind, name: &str) -> bool {
        kind == Kind::Call && name == self.0
    }

    fn service(&self, name: &str) -> bool {
        name == self.0
    }

    fn endpoint(&self, service: &str, address: &str) -> bool {
        service == self.0 && address == self.0
    }

    fn listener(&self, name: &str) -> bool {
        name == self.0
    }

    fn policy(&self, name: &str) -> bool {
        name == self.0
    }

    fn plugin(&self, name: &str) -> bool {
        name == self.0
    }
}

#[test]
fn what_leaves_the_configuration_leaves_the_metrics() {
    let metrics = Metrics::new();
    let count_all = |name: &str| {
        let name: Arc<str> = name.into();
        let held = metrics.route(Kind::Call, &name);
        held.end(Some(200), Duration::ZERO);
        metrics.endpoint(&name, &name).attempt(None, Some("reset"), Duration::ZERO);
        metrics.service(&name).open.inc();
        metrics.listener(&name).open.inc();
        metrics.hook(&name, "pick").failed();
        metrics.traps(&name).inc();
        metrics.breaker_transition(&name, &name, &name, "open");
        metrics.breaker_transition(&name, &name, &"".into(), "open");
        metrics.breaker_rejection(&name, &name);
        metrics.policies.declare(&name, "hits", PolicyMetricKind::Counter).unwrap();
        held
    };
    let _unrouted = metrics.route(Kind::Call, &"".into());
    count_all("stays");
    let left = count_all("goes");
    let of_stays = metrics.encode().matches("\"stays\"").count();
    metrics.retain(&Only("stays"));
    // A draining exchange still holds its handle.
    left.end(Some(200), Duration::ZERO);
    let text = metrics.encode();
    assert!(!text.contains("goes"), "{text}");
    assert_eq!(text.matches("\"stays\"").count(), of_stays);
    assert!(text.contains(r#"route="""#), "what matched no route stays");
}

#[test]
fn series_have_a_bound_and_handles_beyond_it_still_work() {
    let surplus = Counter::default();
    let series: Series<[(&str, String); 1], Counter> = Series::new(&surplus);
    for number in 0..series::MAX_SERIES + 10 {
        series.get([("n", number.to_string())]).inc();
    }
    assert_eq!(surplus.get(), 10);
    assert_eq!(series.get([("n", "0".to_owned())]).get(), 1);
}

#[test]
fn a_policy_s_metrics_are_exposed_under_its_name() {
    let metrics = Metrics::new();
    let policy: Arc<str> = "cache".into();
    let declare = |name, kind| metrics.policies.declare(&policy, name, kind).unwrap();
    let hits = declare("cache_hits", PolicyMetricKind::Counter);
    hits.record(2.0);
    for hostile in [-1.0, f64::NAN, f64::INFINITY] {
        hits.record(hostile);
    }
    declare("cache_hits", PolicyMetricKind::Counter).record(1.0);
    declare("cache_entries", PolicyMetricKind::Gauge).record(-7.0);
    declare("cache_age_seconds", PolicyMetricKind::Histogram).record(0.25);
    assert!(shows(&metrics, r#"weir_policy_cache_hits_total{policy="cache"} 3.0"#));
    assert!(shows(&metrics, r#"weir_policy_cache_entries{policy="cache"} -7.0"#));
    assert!(shows(&metrics, r#"weir_policy_cache_age_seconds_sum{policy="cache"} 0.25"#));
    assert!(metrics.encode().ends_with("# EOF\n"));
}

#[test]
fn a_policy_cannot_break_the_exposition() {
    let metrics = Metrics::new();
    let long = "a".repeat(MAX_NAME + 1);
    let huge = "\u{1}".repeat(1 << 20);
    let names = ["", "A", "a-b", "1a", "_a", "a\nb", "a b", "é", "a_total", "a_bucket", "a_count", &long, &huge];
    for name in names {
        let refused = metrics.policies.declare(&"p".into(), name, PolicyMetricKind::Gauge);
        let message = refused.unwrap_err().to_string();
        assert!(message.contains("a-z") && message.len() < 1_000, "{message}");
    }
    metrics.policies.declare(&"p".into(), "a", PolicyMetricKind::Gauge).unwrap();
    let refused = metrics.policies.declare(&"q".into(), "a", PolicyMetricKind::Counter);
    assert_eq!(refused.unwrap_err(), PolicyMetricError::Kind("a".to_owned()));
}

#[test]
fn a_policy_s_metrics_have_a_bound() {
    let metrics = Metrics::new();
    let declare = |policy: &str, number| {
        let name = format!("m{number}");
        metrics.policies.declare(&policy.into(), &name, PolicyMetricKind::Counter)
    };
    for number in 0..MAX_PER_POLICY {
        declare("p", number).unwrap();
    }
    let refused = declare("p", MAX_PER_POLICY).unwrap_err();
    assert_eq!(refused, PolicyMetricError::TooMany(format!("m{MAX_PER_POLICY}")));
    declare("p", 0).unwrap();
    declare("q", MAX_PER_POLICY).unwrap();
}
