//! Edits the JSON bodies of messages: sets, removes and renames members.

#[cfg(test)]
mod tests;

use serde_json::{Map, Value};
use std::collections::BTreeMap;
use weir_sdk::prelude::*;

/// What to do with a body. Renamed first, then removed, then set. Places are JSON Pointers (RFC 6901), as in
/// "/customer/tier" or "/lines/0".
#[derive(Deserialize, JsonSchema)]
#[serde(default)]
struct Transform {
    /// Values to move, from one place to another. What is not there is left alone.
    rename: BTreeMap<String, String>,
    /// Values to remove.
    remove: Vec<String>,
    /// Values to set. Objects on the way are made, items of lists are not.
    set: BTreeMap<String, Value>,
    /// Whose bodies: "message" (of publishes and deliveries), "request", "response".
    #[schemars(length(min = 1), extend("uniqueItems" = true))]
    kinds: Vec<BodyOf>,
    /// What becomes of a body that is not JSON.
    not_json: NotJson,
    #[serde(skip)]
    edits: Vec<Edit>,
}

#[derive(Deserialize, JsonSchema, Default, PartialEq)]
enum NotJson {
    /// It goes on as it is.
    #[default]
    Pass,
    /// It is answered with 400.
    Reject,
}

/// The tokens of a pointer.
type Path = Vec<String>;

enum Edit {
    Move(Path, Path),
    Remove(Path),
    Set(Path, Value),
}

impl Default for Transform {
    fn default() -> Self {
        Self {
            rename: BTreeMap::new(),
            remove: Vec::new(),
            set: BTreeMap::new(),
            kinds: vec![BodyOf::Message],
            not_json: NotJson::Pass,
            edits: Vec::new(),
        }
    }
}

#[policy(max_body = 1048576)]
impl Policy for Transform {
    fn configure(&mut self, _: &mut Needs) -> Result<()> {
        if self.kinds.is_empty() {
            return Err(Error::at("/kinds", "name some of \"message\", \"request\" and \"response\""));
        }
        for (from, to) in std::mem::take(&mut self.rename) {
            self.edits.push(Edit::Move(path(&from, "/rename")?, path(&to, "/rename")?));
        }
        for pointer in std::mem::take(&mut self.remove) {
            self.edits.push(Edit::Remove(path(&pointer, "/remove")?));
        }
        for (pointer, value) in std::mem::take(&mut self.set) {
            self.edits.push(Edit::Set(path(&pointer, "/set")?, value));
        }
        Ok(())
    }

    fn on_body(&self, _: &Exchange, of: BodyOf, body: &[u8]) -> Result<BodyVerdict> {
        if !self.kinds.contains(&of) {
            return Ok(BodyVerdict::Proceed);
        }
        let Ok(mut value) = serde_json::from_slice::<Value>(body) else {
            return Ok(match self.not_json {
                NotJson::Pass => BodyVerdict::Proceed,
                NotJson::Reject => BodyVerdict::Reply(Reply::error(400, "bad-request", "the body is not JSON")),
            });
        };
        let mut changed = false;
        for edit in &self.edits {
            changed |= edit.apply(&mut value);
        }
        Ok(if changed { BodyVerdict::Replace(serde_json::to_vec(&value)?) } else { BodyVerdict::Proceed })
    }
}

impl Edit {
    /// Whether it changed anything.
    fn apply(&self, body: &mut Value) -> bool {
        match self {
            Self::Remove(path) => take(body, path).is_some(),
            Self::Set(path, value) => put(body, path, value.clone()).is_ok_and(|changed| changed),
            Self::Move(from, to) => match take(body, from).map(|value| put(body, to, value)) {
                None => false,
                Some(Ok(_)) => true,
                Some(Err(value)) => {
                    put_back(body, from, value);
                    false
                }
            },
        }
    }
}

/// A pointer's tokens. The whole body is no place: nothing would be left of it.
fn path(pointer: &str, key: &str) -> Result<Path> {
    let message = || format!("{pointer:?} is not a JSON Pointer to a part of the body, such as \"/customer/tier\"");
    let tokens = pointer.strip_prefix('/').ok_or_else(|| Error::at(key, message()))?;
    let stray = |token: &str| token.replace("~0", "").replace("~1", "").contains('~');
    if tokens.split('/').any(stray) {
        return Err(Error::at(key, format!("{pointer:?}: write \"~\" as \"~0\" and \"/\" in a name as \"~1\"")));
    }
    Ok(tokens.split('/').map(|token| token.replace("~1", "/").replace("~0", "~")).collect())
}

/// The number of an item: digits, and none of them a zero too many.
fn index(token: &str) -> Option<usize> {
    token.parse().ok().filter(|index: &usize| index.to_string() == token)
}

/// What a place is in, and its name there.
fn parent<'a, 'b>(body: &'a mut Value, path: &'b [String]) -> Option<(&'a mut Value, &'b str)> {
    let (last, parents) = path.split_last()?;
    let parent = parents.iter().try_fold(body, |at, token| match at {
        Value::Object(members) => members.get_mut(token),
        Value::Array(items) => items.get_mut(index(token)?),
        _ => None,
    })?;
    Some((parent, last))
}

/// Takes the value out, if it is there.
fn take(body: &mut Value, path: &[String]) -> Option<Value> {
    match parent(body, path)? {
        (Value::Object(members), name) => members.remove(name),
        (Value::Array(items), name) => index(name).filter(|at| *at < items.len()).map(|at| items.remove(at)),
        _ => None,
    }
}

/// Undoes `take`, right after it.
fn put_back(body: &mut Value, path: &[String], value: Value) {
    match parent(body, path) {
        Some((Value::Object(members), name)) => drop(members.insert(name.to_owned(), value)),
        Some((Value::Array(items), name)) => items.insert(index(name).unwrap_or(0).min(items.len()), value),
        _ => {}
    }
}

/// Puts the value there, and says whether that is a change. Gives it back where a text, a number or a short list is in the
/// way.
fn put(body: &mut Value, path: &[String], value: Value) -> Result<bool, Value> {
    // What is made on the way is empty, and in nobody's way: all is made, or nothing.
    let place = path.iter().try_fold(body, |at, token| match at {
        Value::Object(members) => Some(members.entry(token.as_str()).or_insert_with(|| Value::Object(Map::new()))),
        Value::Array(items) => items.get_mut(index(token)?),
        _ => None,
    });
    let Some(place) = place else { return Err(value) };
    let changed = *place != value;
    *place = value;
    Ok(changed)
}
