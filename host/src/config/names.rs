//! Names that one part of the file gives and another part uses.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;

use super::problem::Position;

/// What a name stands for. Each kind has names of its own: a service and a chain may share one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Listener,
    Service,
    Chain,
    Policy,
    Key,
    Broker,
    Channel,
    Subscription,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Listener => "listener",
            Self::Service => "service",
            Self::Chain => "chain",
            Self::Policy => "policy",
            Self::Key => "key",
            Self::Broker => "broker",
            Self::Channel => "channel",
            Self::Subscription => "subscription",
        })
    }
}

/// The names of a file. References are resolved when all of it was read, so their order does not
/// matter.
#[derive(Debug, Default)]
pub(super) struct Names {
    defined: BTreeMap<Kind, BTreeMap<String, Position>>,
    used: Vec<(Kind, String, Position)>,
}

impl Names {
    /// Defines a name; the error is the place that defined it first.
    pub(super) fn define(&mut self, kind: Kind, name: &str, at: Position) -> Result<(), Position> {
        match self.defined.entry(kind).or_default().entry(name.to_owned()) {
            Entry::Vacant(free) => {
                free.insert(at);
                Ok(())
            }
            Entry::Occupied(taken) => Err(*taken.get()),
        }
    }

    pub(super) fn defines(&self, kind: Kind, name: &str) -> bool {
        self.defined.get(&kind).is_some_and(|names| names.contains_key(name))
    }

    /// Notes that something refers to a name.
    pub(super) fn refer(&mut self, kind: Kind, name: &str, at: Position) {
        self.used.push((kind, name.to_owned(), at));
    }

    /// Every reference to a name that nothing defines: place, message, hint.
    pub(super) fn unresolved(&self) -> impl Iterator<Item = (Position, String, String)> {
        self.used.iter().filter(|(kind, name, _)| !self.defines(*kind, name)).map(|(kind, name, at)| {
            let known = self.defined.get(kind).into_iter().flat_map(BTreeMap::keys);
            let hint =
                suggest(name, known.map(String::as_str)).unwrap_or_else(|| format!("the file defines no {kind}"));
            (*at, format!("unknown {kind} {name:?}"), hint)
        })
    }
}

/// Names up to this many bytes are compared for likeness, which takes time in proportion to the
/// square.
const LONGEST_COMPARED: usize = 64;

/// At most this many names are compared.
const MOST_COMPARED: usize = 1000;

/// At most this many names are listed in a hint.
const LONGEST_LIST: usize = 24;

/// The hint for a word that is none of `known`: the one that was probably meant, or else all of
/// them. `None` when nothing is known.
pub(super) fn suggest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<String> {
    let known: Vec<&str> = known.collect();
    let tolerance = (word.chars().count() / 3).max(1);
    let closest = known
        .iter()
        .take(MOST_COMPARED)
        .filter(|name| name.len() <= LONGEST_COMPARED && word.len() <= LONGEST_COMPARED)
        .map(|name| (strsim::damerau_levenshtein(&word.to_lowercase(), &name.to_lowercase()), name))
        .filter(|(distance, _)| *distance <= tolerance)
        .min();
    match closest {
        Some((_, name)) => Some(format!("did you mean {name:?}?")),
        None if known.is_empty() => None,
        None => {
            let listed: Vec<&str> = known.iter().copied().take(LONGEST_LIST).collect();
            let more = if known.len() > LONGEST_LIST { ", …" } else { "" };
            Some(format!("known here: {}{more}", listed.join(", ")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: [&str; 3] = ["attempt-timeout", "service", "timeout"];

    #[test]
    fn a_misspelt_name_is_met_with_the_closest_one() {
        for (word, closest) in [
            ("atempt-timeout", "attempt-timeout"),
            ("attempt_timeout", "attempt-timeout"),
            ("Timeout", "timeout"),
            ("sevrice", "service"),
        ] {
            let hint = suggest(word, KNOWN.into_iter()).unwrap();
            assert_eq!(hint, format!("did you mean {closest:?}?"));
        }
    }

    #[test]
    fn a_name_like_no_other_is_met_with_what_there_is() {
        let hint = suggest("colour", KNOWN.into_iter()).unwrap();
        assert_eq!(hint, "known here: attempt-timeout, service, timeout");
        assert_eq!(suggest("colour", [].into_iter()), None);
    }

    #[test]
    fn a_hint_stays_short_whatever_the_file_holds() {
        let many: Vec<String> = (0..10_000).map(|n| format!("endpoint-{n}")).collect();
        let hint = suggest(&"x".repeat(100_000), many.iter().map(String::as_str)).unwrap();
        assert!(hint.len() < 600, "{}", hint.len());
    }
}
