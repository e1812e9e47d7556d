//! CONFIGURATION.md says what is so.

use std::collections::BTreeSet;

use super::{EVERYTHING, Limits, read};

const DOCUMENT: &str = include_str!("../../../../CONFIGURATION.md");

#[test]
fn the_document_has_every_limit_with_its_default() {
    let (_, table) = DOCUMENT.split_once("| key of `[limits]` |").expect("a table");
    let rows = table.lines().skip(2).take_while(|line| !line.is_empty());
    let cells = rows.map(|row| row.split('|').map(|cell| cell.replace(['`', ' '], "")).collect::<Vec<_>>());
    let limits: Vec<(String, String)> = cells.map(|cells| (cells[1].clone(), cells[2].clone())).collect();

    let toml: String = limits.iter().map(|(key, default)| format!("{key} = {default}\n")).collect();
    assert_eq!(read(&format!("[limits]\n{toml}")).unwrap().limits, Limits::default());
    let known = serde_json::to_value(Limits::default()).unwrap();
    let known: BTreeSet<&String> = known.as_object().unwrap().keys().collect();
    assert_eq!(limits.iter().map(|(key, _)| key).collect::<BTreeSet<_>>(), known);
}

#[test]
fn the_document_has_every_key() {
    let config = serde_json::to_value(read(EVERYTHING).unwrap()).unwrap();
    let tables = ["admin", "plugins", "node", "retry-budget", "log", "trace", "limits"].map(|name| &config[name]);
    let of_lists = ["listener", "service", "route", "broker", "channel", "subscription"]
        .iter()
        .flat_map(|name| config[name].as_array().unwrap());
    let named = ["policy", "key"].iter().flat_map(|name| config[name].as_object().unwrap().values());
    for table in tables.into_iter().chain(of_lists).chain(named) {
        for key in table.as_object().expect("a table").keys() {
            let is_there = ["`", " ", "."].iter().any(|before| DOCUMENT.contains(&format!("{before}{key}`")));
            assert!(is_there || DOCUMENT.contains(&format!("`{key}.")), "{key}");
        }
    }
}
