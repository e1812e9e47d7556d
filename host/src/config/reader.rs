//! Walks the spanned tree into types and notes every problem on the way.
//!
//! A reading function takes a [`Value`] or the [`Fields`] of a table and answers `None` once it has
//! reported what is wrong. Whoever called it reads on, so one pass finds everything.

use std::cell::RefCell;
use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::names::{Kind, Names, suggest};
use super::problem::{Position, Problem};
use super::tree::Node;
use super::values;

/// What every part of the walk shares: the text, the names seen and the problems found.
pub(super) struct Reader<'a> {
    file: &'a Path,
    text: &'a str,
    /// The byte offset at which each line starts, and its number from 0.
    lines: Vec<(usize, usize)>,
    names: RefCell<Names>,
    problems: RefCell<Vec<Problem>>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(file: &'a Path, text: &'a str) -> Self {
        Self::of_pieces(file, text, &[(0, 0)])
    }

    /// For a text put together from pieces of a file: each with the byte at which it begins here, and how many lines the
    /// file has before it. They begin with lines.
    pub(super) fn of_pieces(file: &'a Path, text: &'a str, pieces: &[(usize, usize)]) -> Self {
        let ends = pieces.iter().skip(1).map(|(start, _)| *start).chain([usize::MAX]);
        let mut lines = Vec::new();
        let mut starts = std::iter::once(0).chain(text.match_indices('\n').map(|(newline, _)| newline + 1)).peekable();
        for ((_, before), end) in pieces.iter().zip(ends) {
            let mut number = *before;
            while let Some(start) = starts.next_if(|start| *start < end) {
                lines.push((start, number));
                number += 1;
            }
        }
        Self { file, text, lines, names: RefCell::default(), problems: RefCell::default() }
    }

    /// Line and column of a byte of the text.
    pub(super) fn position(&self, offset: usize) -> Position {
        let line = self.lines.partition_point(|(start, _)| *start <= offset).saturating_sub(1);
        let (start, line) = self.lines.get(line).copied().unwrap_or_default();
        let before = self.text.get(start..offset).unwrap_or_default();
        let number = |n: usize| u32::try_from(n + 1).unwrap_or(u32::MAX);
        Position { line: number(line), column: number(before.chars().count()) }
    }

    pub(super) fn report(&self, at: Position, message: impl Into<String>, hint: impl Into<String>) {
        let (problem, hint) = (Problem::new(self.file, at, message), hint.into());
        let problem = if hint.is_empty() { problem } else { problem.with_hint(hint) };
        self.problems.borrow_mut().push(problem);
    }

    /// Gives `name` to a thing, unless another of its kind has it.
    pub(super) fn define(&self, kind: Kind, name: &str, at: Position) {
        if let Err(first) = self.names.borrow_mut().define(kind, name, at) {
            let message = format!("a second {kind} named {name:?}");
            self.report(at, message, format!("the first is in line {}", first.line));
        }
    }

    /// Asks that something named `name` be defined somewhere in the file.
    pub(super) fn refer(&self, kind: Kind, name: &str, at: Position) {
        self.names.borrow_mut().refer(kind, name, at);
    }

    /// What was found wrong so far, and all names: more may be defined elsewhere.
    pub(super) fn names(self) -> (Vec<Problem>, Names) {
        (self.problems.into_inner(), self.names.into_inner())
    }

    /// Resolves the references and hands over all that was found wrong.
    pub(super) fn finish(self) -> Vec<Problem> {
        for (at, message, hint) in self.names.borrow().unresolved() {
            self.report(at, message, hint);
        }
        self.problems.into_inner()
    }
}

/// One value of the file, with what a problem needs to talk about it.
pub(super) struct Value<'a> {
    pub(super) reader: &'a Reader<'a>,
    pub(super) node: &'a Node<'a>,
    /// How problems call it: `[[route]] match.host`.
    label: String,
}

impl<'a> Value<'a> {
    pub(super) fn at(&self) -> Position {
        self.reader.position(self.node.span().start)
    }

    /// Reports what is wrong with this value. An empty hint is none.
    pub(super) fn fail<T>(&self, message: impl AsRef<str>, hint: impl Into<String>) -> Option<T> {
        let message = format!("{}: {}", self.label, message.as_ref());
        self.reader.report(self.at(), message, hint);
        None
    }

    /// Reports a value of the wrong type. What was found is named by type only: it may be a secret
    /// in the wrong place.
    pub(super) fn mistyped<T>(&self, expected: &str, hint: impl Into<String>) -> Option<T> {
        let found = match self.node.get_ref() {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) => "an integer",
            DeValue::Float(_) => "a float",
            DeValue::Boolean(_) => "a boolean",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "an array",
            DeValue::Table(_) => "a table",
        };
        self.fail(format!("expected {expected}, found {found}"), hint)
    }

    /// The elements, if this is an array.
    pub(super) fn items(&self, expected: &str, hint: &str) -> Option<Vec<Value<'a>>> {
        let Some(array) = self.node.get_ref().as_array() else {
            return self.mistyped(expected, hint);
        };
        let item = |(index, node)| Value { reader: self.reader, node, label: format!("{}[{index}]", self.label) };
        Some(array.iter().enumerate().map(item).collect())
    }

    /// The keys, their places and their values, if this is a table.
    pub(super) fn entries(&self) -> Option<Vec<(&'a str, Position, Value<'a>)>> {
        let Some(table) = self.node.get_ref().as_table() else {
            return self.mistyped("a table", "");
        };
        let entry = |(key, node): (&'a toml::Spanned<_>, &'a Node<'a>)| {
            let name: &'a std::borrow::Cow<'a, str> = key.get_ref();
            let value = Value { reader: self.reader, node, label: join(&self.label, name) };
            (name.as_ref(), self.reader.position(key.span().start), value)
        };
        Some(table.iter().map(entry).collect())
    }

    /// Reads the fields of a table; keys that `read` does not ask for are problems.
    pub(super) fn fields<T>(&self, read: impl FnOnce(&mut Fields<'a>) -> Option<T>) -> Option<T> {
        let Some(table) = self.node.get_ref().as_table() else {
            return self.mistyped("a table", "");
        };
        let mut fields =
            Fields { reader: self.reader, table, at: self.at(), label: self.label.clone(), known: Vec::new() };
        let result = read(&mut fields);
        fields.report_unknown();
        result
    }
}

/// The fields of one table. It remembers which keys were asked for.
pub(super) struct Fields<'a> {
    pub(super) reader: &'a Reader<'a>,
    table: &'a DeTable<'a>,
    at: Position,
    label: String,
    known: Vec<&'static str>,
}

impl<'a> Fields<'a> {
    /// Reads the whole file.
    pub(super) fn of_file<T>(reader: &'a Reader<'a>, table: &'a DeTable<'a>, read: impl FnOnce(&mut Self) -> T) -> T {
        let at = Position { line: 1, column: 1 };
        let mut fields = Self { reader, table, at, label: String::new(), known: Vec::new() };
        let result = read(&mut fields);
        fields.report_unknown();
        result
    }

    /// Where the table begins.
    pub(super) fn at(&self) -> Position {
        self.at
    }

    /// Where the value of `key` begins, or the table if the key is not there.
    pub(super) fn at_key(&self, key: &str) -> Position {
        match self.table.get(key) {
            Some(node) => self.reader.position(node.span().start),
            None => self.at,
        }
    }

    pub(super) fn value(&mut self, key: &'static str) -> Option<Value<'a>> {
        self.known.push(key);
        let node = self.table.get(key)?;
        Some(Value { reader: self.reader, node, label: join(&self.label, key) })
    }

    pub(super) fn optional<T>(&mut self, key: &'static str, read: impl FnOnce(&Value<'a>) -> Option<T>) -> Option<T> {
        read(&self.value(key)?)
    }

    pub(super) fn or<T>(&mut self, key: &'static str, default: T, read: impl FnOnce(&Value<'a>) -> Option<T>) -> T {
        self.optional(key, read).unwrap_or(default)
    }

    pub(super) fn required<T>(&mut self, key: &'static str, read: impl FnOnce(&Value<'a>) -> Option<T>) -> Option<T> {
        match self.value(key) {
            Some(value) => read(&value),
            None => self.fail(format!("missing key {key:?} in {}", self.label), ""),
        }
    }

    /// Reads `name = "…"` and gives that name to the table.
    pub(super) fn name(&mut self, kind: Kind) -> Option<String> {
        let name = self.required("name", values::name)?;
        self.reader.define(kind, &name, self.at_key("name"));
        Some(name)
    }

    /// Reports a problem of the table as a whole.
    pub(super) fn fail<T>(&self, message: impl Into<String>, hint: impl Into<String>) -> Option<T> {
        self.reader.report(self.at, message, hint);
        None
    }

    /// Reads the one table `[key]`, or takes its defaults.
    pub(super) fn section<T: Default>(&mut self, key: &'static str, read: impl FnOnce(&mut Self) -> Option<T>) -> T {
        let Some(mut value) = self.value(key) else {
            return T::default();
        };
        value.label = format!("[{key}]");
        value.fields(read).unwrap_or_default()
    }

    /// Reads every table `[[key]]`.
    pub(super) fn each<T>(&mut self, key: &'static str, mut read: impl FnMut(&mut Self) -> Option<T>) -> Vec<T> {
        let hint = format!("write [[{key}]] in double brackets: there may be several");
        let items = self.optional(key, |value| value.items("an array of tables", &hint));
        let labelled = items.into_iter().flatten().map(|item| Value { label: format!("[[{key}]]"), ..item });
        labelled.filter_map(|item| item.fields(&mut read)).collect()
    }

    /// Reads every entry of `[key]` (or every table `[key.…]`), whose name defines a thing of this
    /// kind.
    pub(super) fn named<T, C>(
        &mut self,
        key: &'static str,
        kind: Kind,
        read: impl Fn(&str, &Value<'a>) -> Option<T>,
    ) -> C
    where
        C: FromIterator<(String, T)>,
    {
        let entries = self.optional(key, Value::entries).unwrap_or_default();
        let read_entry = |(name, at, mut value): (&'a str, Position, Value<'a>)| {
            value.label = match value.node.get_ref() {
                DeValue::Table(_) => format!("[{key}.{name}]"),
                _ => format!("[{key}] {name}"),
            };
            self.reader.define(kind, name, at);
            if let Err(message) = values::check_name(name) {
                self.reader.report(at, format!("{kind} {name:?}: {message}"), values::NAME_HINT);
            }
            Some((name.to_owned(), read(name, &value)?))
        };
        entries.into_iter().filter_map(read_entry).collect()
    }

    fn report_unknown(&self) {
        let place = if self.label.is_empty() { String::new() } else { format!(" in {}", self.label) };
        for key in self.table.keys().filter(|key| !self.known.iter().any(|known| known == key.get_ref())) {
            let hint = suggest(key.get_ref(), self.known.iter().copied()).unwrap_or_default();
            let message = format!("unknown key {:?}{place}", key.get_ref());
            self.reader.report(self.reader.position(key.span().start), message, hint);
        }
    }
}

/// `[[route]]` and `match` make `[[route]] match`; with `host` that makes `[[route]] match.host`.
fn join(label: &str, key: &str) -> String {
    match label {
        "" => key.to_owned(),
        header if header.starts_with('[') && !header.contains(' ') => format!("{header} {key}"),
        path => format!("{path}.{key}"),
    }
}
