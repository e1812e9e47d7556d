//! TOML text as a tree in which every key and value knows its place.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A value and the bytes of the text that it was read from.
pub(super) type Node<'a> = Spanned<DeValue<'a>>;

/// Deeper nesting than any configuration needs. Reading and dropping a tree recurse once per level,
/// and the TOML parser alone lets a small file reach a depth that overflows a thread's stack.
const MAX_DEPTH: usize = 32;

/// One place where the text is not TOML.
#[derive(Debug)]
pub(super) struct SyntaxError {
    pub(super) span: Range<usize>,
    pub(super) message: String,
}

/// What could be read of a text, and what could not.
pub(super) struct Parsed<'a> {
    /// Present when it is worth reading on: nothing is wrong but keys that were written twice.
    pub(super) table: Option<DeTable<'a>>,
    pub(super) errors: Vec<SyntaxError>,
}

/// Parses `text`, recovering from errors so that all of them are found.
pub(super) fn parse(text: &str) -> Parsed<'_> {
    let (table, errors) = DeTable::parse_recoverable(text);
    let table = table.into_inner();
    let duplicate = |error: &toml::de::Error| error.message() == "duplicate key";
    let mut worth_reading = errors.iter().all(duplicate);
    let describe = |error: &toml::de::Error| {
        let span = error.span().unwrap_or_default();
        let message = match text.get(span.clone()) {
            Some(key) if duplicate(error) => format!("duplicate key {key:?}"),
            _ => error.message().to_owned(),
        };
        SyntaxError { span, message }
    };
    let mut errors: Vec<_> = errors.iter().map(describe).collect();
    if let Some(span) = too_deep(&table) {
        worth_reading = false;
        errors.push(SyntaxError { span, message: format!("nested more than {MAX_DEPTH} levels deep") });
    }
    let table = if worth_reading {
        Some(table)
    } else {
        dismantle(table);
        None
    };
    Parsed { table, errors }
}

/// Where the tree first goes deeper than [`MAX_DEPTH`], looking level by level rather than by
/// recursion.
fn too_deep(table: &DeTable<'_>) -> Option<Range<usize>> {
    let mut level: Vec<&Node<'_>> = table.values().collect();
    for _ in 0..MAX_DEPTH {
        level = level
            .into_iter()
            .flat_map(|node| match node.get_ref() {
                DeValue::Table(table) => table.values().collect::<Vec<_>>(),
                DeValue::Array(array) => array.iter().collect(),
                _ => Vec::new(),
            })
            .collect();
    }
    level.first().map(|node| node.span())
}

/// Drops a tree of any depth without recursion.
fn dismantle(table: DeTable<'_>) {
    let mut rest = vec![DeValue::Table(table)];
    while let Some(value) = rest.pop() {
        match value {
            DeValue::Table(table) => rest.extend(table.into_iter().map(|(_, node)| node.into_inner())),
            DeValue::Array(array) => rest.extend(array.into_iter().map(Spanned::into_inner)),
            _ => {}
        }
    }
}
