//! Places remembered for problems that are only found later.

use std::collections::BTreeMap;

use super::problem::Position;

/// Where the parts of one table are written, by JSON pointer (RFC 6901).
///
/// A place is no part of what a thing is: all positions are equal, so a policy that only moved in
/// the file is equal to what it was, and a reload leaves it alone.
#[derive(Debug, Clone, Default)]
pub(super) struct Positions(BTreeMap<String, Position>);

impl PartialEq for Positions {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Positions {
    pub(super) fn note(&mut self, pointer: &str, at: Position) {
        self.0.insert(pointer.to_owned(), at);
    }

    /// The place of `pointer`, or else of its nearest ancestor that has one.
    pub(super) fn nearest(&self, mut pointer: &str) -> Position {
        loop {
            if let Some(position) = self.0.get(pointer) {
                return *position;
            }
            match pointer.rsplit_once('/') {
                Some((parent, _)) => pointer = parent,
                None => return Position::FILE,
            }
        }
    }
}
