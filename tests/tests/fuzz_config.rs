//! Whatever a configuration file holds, it is read, or what is wrong with it is told where it is wrong.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use proptest::collection::{btree_map, vec};
use proptest::option::weighted;
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use proptest::sample::{Index, select};
use serde_json::{Map, Value, json};
use weir::config::{self, Problems};
use weir_tests::fuzz::http1::{Change, change};
use weir_tests::fuzz::{Shown, again, fuzz, repository, toml};

/// Each problem has its place in the text, and can be printed on a terminal as it is.
fn are_told_well(problems: &Problems, text: &[u8]) -> Result<()> {
    let text = String::from_utf8_lossy(text);
    let lines: Vec<&str> = text.split('\n').collect();
    ensure!(problems.iter().count() > 0, "it failed without a problem");
    for problem in problems {
        let line = (problem.line as usize).checked_sub(1).and_then(|line| lines.get(line));
        let line = line.with_context(|| format!("not a line of {}: {problem}", lines.len()))?;
        let column = problem.column as usize;
        // One after the last is where something is missing.
        ensure!((1..=line.chars().count() + 1).contains(&column), "not a column of {line:?}: {problem}");
        let said = [Some(&problem.message), problem.hint.as_ref()];
        let clean = said.into_iter().flatten().all(|said| !said.is_empty() && !said.contains(char::is_control));
        ensure!(clean, "{:?}, {:?}", problem.message, problem.hint);
    }
    Ok(())
}

/// Any bytes are read the same way twice, from a file as from a text.
fn any_file_law(bytes: &[u8], file: &Path) -> Result<()> {
    fs::write(file, bytes)?;
    let loaded = config::load(file);
    let again = config::load(file);
    ensure!(loaded == again, "read twice, it is not the same: {loaded:?} and {again:?}");
    if let Err(problems) = &loaded {
        are_told_well(problems, bytes)?;
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        ensure!(config::parse(text, file) == loaded, "a text is not read as its file is");
    }
    loaded.map_or(Ok(()), |config| shown_as_it_is(&config.to_json()).map(drop))
}

/// What `/config` shows is a configuration that means the same.
fn shown_as_it_is(shown: &Value) -> Result<String> {
    let text = toml::file(shown.as_object().context("an object")?);
    let config =
        config::parse(&text, "shown.toml".as_ref()).map_err(|problems| anyhow::anyhow!("{problems}\n{text}"))?;
    let again = config.to_json();
    ensure!(again == *shown, "{shown}\nis shown the next time as\n{again}");
    Ok(text)
}

/// A good file with some changes.
#[derive(Debug, Clone)]
struct Edited {
    file: Index,
    /// Lines that are there twice, or moved, or not at all.
    lines: Vec<(Index, Index, bool)>,
    changes: Vec<Change>,
}

const PIECES: &[&[u8]] = &[
    b"[",
    b"]",
    b"[[",
    b"]]",
    b"{",
    b"}",
    b"=",
    b".",
    b",",
    b"\"",
    b"'",
    b"\"\"\"",
    b"'''",
    b"\n",
    b"\r\n",
    b"\r",
    b"#",
    b"\\u0000",
    b"\\u001b",
    b"\\",
    b"-",
    b"+",
    b"_",
    b"nan",
    b"inf",
    b"1e400",
    b"0x",
    b"0o7",
    b"-1",
    b"9223372036854775808",
    b"18446744073709551616",
    b"1979-05-27T07:32:00Z",
    b"\xff",
    b"\xef\xbb\xbf",
    b"\xe2\x80\xae",
    b"\xc2\x85",
    b"\x7f",
    b"\x1b[2J",
    b"name",
    b"\"policy\"",
    b"policy.",
    b"[route]\n",
    b"[[chain]]\n",
    b"[policy.\"a\\nb\"]\n",
    b"\"30days\"",
    b"\"1ns\"",
    b"\"0s\"",
    b"\"584554530872years\"",
    b"\"16EiB\"",
    b"\"1.5KiB\"",
    b"true",
    b"[1, \"a\"]",
    b"{ a = 1 }",
    b"{ a.b.c = 1 }",
];

fn edited() -> impl Strategy<Value = Edited> {
    (any::<Index>(), vec(any::<(Index, Index, bool)>(), 0..3), vec(change(PIECES), 0..6))
        .prop_map(|(file, lines, changes)| Edited { file, lines, changes })
}

fn good_files() -> Vec<String> {
    let sample = fs::read_to_string(repository("config.toml")).expect("config.toml");
    let tests = fs::read_to_string(repository("host/src/config/tests.rs")).expect("the tests of the configuration");
    let everything = tests.split("r#\"").nth(1).and_then(|rest| rest.split("\"#").next()).expect("EVERYTHING");
    vec![sample, everything.to_owned()]
}

impl Edited {
    fn bytes(&self, files: &[String]) -> Vec<u8> {
        let mut lines: Vec<&str> = self.file.get(files).split_inclusive('\n').collect();
        for (from, to, stays) in &self.lines {
            let from = from.index(lines.len());
            let line = lines[from];
            if !stays {
                lines.remove(from);
            }
            lines.insert(to.index(lines.len() + 1), line);
        }
        let mut bytes = lines.concat().into_bytes();
        for change in &self.changes {
            change.apply(&mut bytes);
        }
        bytes
    }
}

#[test]
fn a_file_with_changes_is_read_or_its_problems_are_told() {
    let (files, directory) = (good_files(), tempfile::tempdir().expect("a directory"));
    for file in &files {
        again(file, |file| any_file_law(file.as_bytes(), &directory.path().join("config.toml")));
    }
    fuzz("config", &edited(), |edited| {
        let bytes = edited.bytes(&files);
        any_file_law(&bytes, &directory.path().join("config.toml")).with_context(|| format!("{:?}", Shown(bytes)))
    });
}

#[test]
fn any_bytes_are_problems_with_places() {
    let directory = tempfile::tempdir().expect("a directory");
    let piece = prop_oneof![select(PIECES).prop_map(<[u8]>::to_vec), vec(any::<u8>(), 0..6)];
    let bytes = vec(piece, 0..20).prop_map(|pieces| Shown(pieces.concat()));
    fuzz("config", &bytes, |bytes| any_file_law(&bytes.0, &directory.path().join("config.toml")));
}

/// A configuration that is valid.
fn valid() -> impl Strategy<Value = Value> {
    let service = (duration(), duration(), 1..65_535u32, select(&["http1", "http2"][..]), endpoints()).prop_map(
        |(connect, idle, connections, protocol, endpoints)| {
            json!({ "protocol": protocol, "endpoints": endpoints, "connect-timeout": connect, "idle-timeout": idle, "max-connections": connections })
        },
    );
    let services = btree_map(name(), service, 1..4);
    let policies = btree_map(name(), policy(), 0..4);
    let limits = (size(8 << 10, 16 << 20), 1..10_000u32, duration(), 1..1000u32).prop_map(|(bytes, headers, timeout, attempts)| {
        json!({ "max-header-bytes": bytes, "max-headers": headers, "header-timeout": timeout, "max-attempts": attempts })
    });
    (services, policies, vec(route(), 0..5), weighted(0.5, limits), weighted(0.5, (0..=100u32, 0..1_000_000u32)))
        .prop_map(|(services, policies, routes, limits, budget)| {
            let names: Vec<&String> = services.keys().collect();
            let chains: Map<String, Value> =
                [("all".to_owned(), json!(policies.keys().collect::<Vec<_>>()))].into_iter().collect();
            let routes: Vec<Value> = routes
                .into_iter()
                .map(|(mut route, service)| {
                    route["service"] = json!(service.get(&names));
                    route
                })
                .collect();
            let listed: Vec<Value> = services
                .iter()
                .map(|(name, service)| {
                    let mut service = service.clone();
                    service["name"] = json!(name);
                    service
                })
                .collect();
            let mut config = json!({ "service": listed, "route": routes, "policy": policies, "chain": chains });
            if let Some(limits) = limits {
                config["limits"] = limits;
            }
            if let Some((percent, least)) = budget {
                config["retry-budget"] = json!({ "percent": percent, "min-per-second": least });
            }
            config
        })
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![4 => "[a-z][a-z0-9-]{0,8}", 1 => "[!-~]{1,128}"]
}

fn endpoints() -> impl Strategy<Value = Vec<Value>> {
    let metadata = btree_map("[a-z]{1,4}", any::<String>(), 0..3);
    btree_map(1..=65_535u32, (1..=65_535u32, metadata), 0..4).prop_map(|endpoints| {
        let endpoint = |(port, (weight, metadata))| json!({ "address": format!("127.0.0.1:{port}"), "weight": weight, "metadata": metadata });
        endpoints.into_iter().map(endpoint).collect()
    })
}

fn route() -> impl Strategy<Value = (Value, Index)> {
    let host = weighted(0.7, select(&["shop", "*.shop", "SHOP.example.com", "[::1]", "127.0.0.1"][..]));
    let prefix = weighted(0.7, prop_oneof!["/[a-z]{0,4}(/[a-z%2e]{1,3}){0,3}/?", Just("//".to_owned())]);
    let methods = weighted(0.3, vec(select(&["GET", "POST", "PURGE", "M-SEARCH"][..]), 1..4));
    let headers = weighted(0.3, btree_map("x-[a-z]{1,3}", "[ -~]{0,6}", 1..3));
    let timeout = weighted(0.5, prop_oneof![duration(), Just("none".to_owned())]);
    (host, prefix, methods, headers, timeout, weighted(0.3, duration()), any::<Index>(), any::<bool>()).prop_map(
        |(host, prefix, methods, headers, timeout, attempt, service, chained)| {
            let mut matcher = Map::new();
            let parts = [
                ("host", json!(host)),
                ("path-prefix", json!(prefix)),
                ("methods", json!(methods)),
                ("headers", json!(headers)),
            ];
            matcher.extend(
                parts.into_iter().filter(|(_, part)| !part.is_null()).map(|(key, part)| (key.to_owned(), part)),
            );
            let mut route = json!({ "match": matcher });
            let rest = [
                ("timeout", json!(timeout)),
                ("attempt-timeout", json!(attempt)),
                ("chain", if chained { json!("all") } else { Value::Null }),
            ];
            rest.into_iter().filter(|(_, part)| !part.is_null()).for_each(|(key, part)| route[key] = part);
            (route, service)
        },
    )
}

fn policy() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-1000..1000i32).prop_map(|number| json!(f64::from(number) + 0.5)),
        any::<String>().prop_map(Value::from),
    ];
    let config = leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            btree_map(any::<String>(), inner, 0..4).prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    });
    let config = btree_map(any::<String>(), config, 0..4);
    (name(), select(&["reject", "skip"][..]), config)
        .prop_map(|(plugin, on_error, config)| json!({ "plugin": plugin, "on-error": on_error, "config": config }))
}

fn duration() -> impl Strategy<Value = String> {
    let unit = select(&["ms", "s", "m", "us", "ns"][..]);
    let mixed = (1..40u32, 1..60u32, 1..1000u32)
        .prop_map(|(minutes, seconds, millis)| format!("{minutes}m {seconds}s {millis}ms"));
    prop_oneof![3 => (1..10_000u32, unit).prop_map(|(number, unit)| format!("{number}{unit}")), 1 => mixed]
}

/// A number of bytes of at least and at most this.
fn size(least: u64, most: u64) -> impl Strategy<Value = Value> {
    (least..=most).prop_map(move |bytes| match bytes % 3 {
        0 => json!(bytes),
        1 => json!(format!("{bytes}B")),
        _ => json!(format!("{}KiB", bytes >> 10)),
    })
}

#[test]
fn a_valid_configuration_is_read_and_shown_as_it_is() {
    fuzz("config", &valid(), |valid| {
        let text = toml::file(valid.as_object().context("an object")?);
        let config =
            config::parse(&text, "valid.toml".as_ref()).map_err(|problems| anyhow::anyhow!("{problems}\n{text}"))?;
        let shown = config.to_json();
        for part in ["service", "route", "policy", "chain"] {
            holds(&shown[part], &valid[part], part)?;
        }
        shown_as_it_is(&shown)?;
        Ok(())
    });
}

/// Nothing that was written is lost: what is shown has it all, and the defaults.
fn holds(shown: &Value, written: &Value, at: &str) -> Result<()> {
    match (shown, written) {
        (Value::Object(shown), Value::Object(written)) => written.iter().try_for_each(|(key, written)| {
            let nothing = written.as_object().is_some_and(Map::is_empty);
            let place = format!("{at}.{key}");
            match shown.get(key) {
                Some(shown) => holds(shown, written, &place),
                None => {
                    ensure!(nothing, "{place} is lost");
                    Ok(())
                }
            }
        }),
        (Value::Array(shown), Value::Array(written)) => {
            ensure!(shown.len() == written.len(), "{at}: {shown:?} of {written:?}");
            shown.iter().zip(written).try_for_each(|(shown, written)| holds(shown, written, at))
        }
        (Value::String(shown), Value::String(written)) => {
            let same_time = [shown, written].map(|text| nanos(text));
            let same = shown.eq_ignore_ascii_case(written) || (same_time[0].is_some() && same_time[0] == same_time[1]);
            ensure!(same, "{at}: {shown:?} of {written:?}");
            Ok(())
        }
        _ => {
            ensure!(shown == written, "{at}: {shown} of {written}");
            Ok(())
        }
    }
}

/// A duration as a sum of numbers with their units.
fn nanos(text: &str) -> Option<u128> {
    let units = [
        ("ns", 1),
        ("us", 1_000),
        ("ms", 1_000_000),
        ("s", 1_000_000_000),
        ("m", 60_000_000_000),
        ("h", 3_600_000_000_000),
        ("day", 86_400_000_000_000),
        ("days", 86_400_000_000_000),
    ];
    let part = |part: &str| {
        let (number, unit) = part.split_at(part.find(|character: char| !character.is_ascii_digit())?);
        let (_, nanos) = units.iter().find(|(name, _)| *name == unit)?;
        Some(number.parse::<u128>().ok()? * nanos)
    };
    text.split(' ').map(part).sum()
}
