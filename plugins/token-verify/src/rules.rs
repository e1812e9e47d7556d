//! Who may call what, by method and path.

use std::borrow::Cow;
use std::collections::BTreeMap;
use weir_sdk::{Error, Result};

/// Names by target: `"/path"`, or `"METHOD /path"`.
pub type Table = BTreeMap<String, Vec<String>>;

/// Rules, the most specific first.
#[derive(Debug, Default)]
pub struct Rules(Vec<Rule>);

#[derive(Debug)]
struct Rule {
    /// Empty: any.
    method: String,
    /// Without a slash at its end; the root is empty.
    prefix: String,
    /// One of them is needed.
    names: Vec<String>,
}

impl Rules {
    /// `pointer` tells where the table is in the configuration.
    pub fn new(table: &Table, pointer: &str) -> Result<Self> {
        let mut rules: Vec<Rule> = Vec::new();
        for (target, names) in table {
            let problem = |message: String| Error::at(pointer, message);
            let (method, path) = target.split_once(' ').unwrap_or(("", target));
            let named =
                !target.starts_with(' ') && method.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'-');
            if !named || path.contains(['%', '?', '#']) || plain(path.as_bytes()).is_none() {
                return Err(problem(format!("{target:?} is not a target such as \"/admin\" or \"DELETE /users\"")));
            }
            let (method, prefix) = (method.to_owned(), path.trim_end_matches('/').to_owned());
            if rules.iter().any(|rule| rule.method == method && rule.prefix == prefix) {
                return Err(problem(format!("{target:?} is there twice, with and without a slash at its end")));
            }
            rules.push(Rule { method, prefix, names: names.clone() });
        }
        // The longest path first, and with a method before without one.
        rules.sort_by_key(|rule| std::cmp::Reverse((rule.prefix.len(), !rule.method.is_empty())));
        Ok(Self(rules))
    }

    /// One rule for every target.
    pub fn everywhere(names: &[String]) -> Self {
        Self(vec![Rule { method: String::new(), prefix: String::new(), names: names.to_vec() }])
    }

    /// Whether it matters what an exchange is aimed at.
    pub fn read_target(&self) -> bool {
        self.0.iter().any(|rule| !rule.method.is_empty() || !rule.prefix.is_empty())
    }

    /// The rule that decides, by its position.
    pub fn find(&self, target: &Target<'_>) -> Option<usize> {
        self.0.iter().position(|rule| rule.covers(target))
    }

    /// For each rule, whether one of its names is had.
    pub fn granted(&self, has: impl Fn(&str) -> bool) -> Box<[bool]> {
        self.0.iter().map(|rule| rule.names.iter().any(|name| has(name))).collect()
    }
}

impl Rule {
    fn covers(&self, target: &Target<'_>) -> bool {
        // Who answers GET answers HEAD with the same code.
        let method = self.method.is_empty()
            || self.method.as_bytes() == target.method
            || (self.method == "GET" && target.method == b"HEAD");
        let rest = target.path.strip_prefix(self.prefix.as_bytes());
        method && rest.is_some_and(|rest| rest.first().is_none_or(|next| *next == b'/'))
    }
}

/// What an exchange is aimed at.
#[derive(Debug)]
pub struct Target<'a> {
    method: &'a [u8],
    path: Cow<'a, [u8]>,
}

impl<'a> Target<'a> {
    /// Fields that are absent, as where no rule looks at them, are no method and the root. None where the path could mean another one to
    /// the service.
    pub fn new(method: Option<&'a [u8]>, path: Option<&'a [u8]>) -> Option<Self> {
        let path = match path {
            None | Some(b"*") => Cow::Borrowed(b"/".as_slice()),
            Some(path) => plain(path)?,
        };
        Some(Self { method: method.unwrap_or_default(), path })
    }
}

/// A path as every service reads it: without its query and percent-encoding. None where services differ: dot segments,
/// empty ones, parameters (`;`), backslashes, and encoded characters with a meaning in paths.
fn plain(path: &[u8]) -> Option<Cow<'_, [u8]>> {
    let end = path.iter().position(|byte| matches!(byte, b'?' | b'#')).unwrap_or(path.len());
    let path = decoded(path.get(..end)?)?;
    let mut segments = path.strip_prefix(b"/")?.split(|byte| *byte == b'/').peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        let odd = matches!(segment, b"." | b"..") || (segment.is_empty() && !last);
        if odd || segment.iter().any(|byte| matches!(byte, b'\\' | b';' | 0..=0x1f | 0x7f)) {
            return None;
        }
    }
    Some(path)
}

fn decoded(path: &[u8]) -> Option<Cow<'_, [u8]>> {
    if !path.contains(&b'%') {
        return Some(path.into());
    }
    let digit = |byte: Option<&u8>| char::from(*byte?).to_digit(16);
    let mut plain = Vec::with_capacity(path.len());
    let mut bytes = path.iter();
    while let Some(byte) = bytes.next() {
        if *byte != b'%' {
            plain.push(*byte);
            continue;
        }
        let byte = u8::try_from(digit(bytes.next())? * 16 + digit(bytes.next())?).ok()?;
        if b"/%?#".contains(&byte) {
            return None;
        }
        plain.push(byte);
    }
    Some(plain.into())
}
