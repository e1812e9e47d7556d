//! How far a group is in one partition, when messages are not done with in their order.
//!
//! Kafka remembers one offset for a group, and a text with it. The offset is the lowest that is not done with; the text says
//! which of those after it are not done with either, so that the rest is not delivered again by whoever goes on.

use std::collections::BTreeMap;

/// First word of the text, in case others commit a text too.
const MARK: &str = "weir1";
/// Brokers take texts of up to 4 096 bytes, unless they are told otherwise (`offset.metadata.max.bytes`).
pub const LONGEST_TEXT: usize = 4_000;

/// What is committed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Snapshot {
    /// The lowest offset that is not done with.
    pub start: i64,
    /// All others below `end` that are not, in their order.
    holes: Vec<i64>,
    /// Nothing from here on is done with, as far as is said here.
    end: i64,
}

impl Snapshot {
    /// As the broker has it. A text of others says nothing.
    pub fn read(start: i64, text: &str) -> Self {
        let nothing = Self { start, holes: Vec::new(), end: start };
        let Some(numbers) = text.strip_prefix(MARK) else { return nothing };
        let (mut at, mut holes) = (start, Vec::new());
        for number in numbers.split_ascii_whitespace() {
            match i64::from_str_radix(number, 36).ok().filter(|step| *step > 0).and_then(|step| at.checked_add(step)) {
                Some(next) => at = next,
                None => return nothing,
            }
            holes.push(at);
        }
        // The last is the end.
        match holes.pop() {
            Some(end) => Self { start, holes, end },
            None => nothing,
        }
    }

    /// The text, and what of this it says: all, unless it would be longer than that.
    pub fn text(mut self, longest: usize) -> (String, Self) {
        let mut text = MARK.to_owned();
        let mut at = self.start;
        for (number, hole) in self.holes.clone().into_iter().chain([self.end]).enumerate() {
            let before = text.len();
            if hole > at {
                text.push(' ');
                push_base36(&mut text, hole - at);
            }
            if text.len() > longest {
                text.truncate(before);
                self.holes.truncate(number.saturating_sub(1));
                self.end = at;
                break;
            }
            at = hole;
        }
        if self.end <= self.start + 1 && self.holes.is_empty() {
            // Nothing but the offset.
            self.end = self.start;
            text.clear();
        }
        (text, self)
    }

    /// How many messages from `low` to before `high` are not done with.
    pub fn undone(&self, low: i64, high: i64) -> i64 {
        let open =
            [self.start].iter().chain(&self.holes).filter(|offset| (low..high.min(self.end)).contains(offset)).count();
        i64::try_from(open).unwrap_or(i64::MAX) + (high - self.end.max(low)).max(0)
    }

    pub fn is_done(&self, offset: i64) -> bool {
        offset < self.start || (offset > self.start && offset < self.end && self.holes.binary_search(&offset).is_err())
    }
}

fn push_base36(text: &mut String, mut number: i64) {
    let mut digits = Vec::new();
    while number > 0 {
        digits.push(u32::try_from(number % 36).ok().and_then(|digit| char::from_digit(digit, 36)).unwrap_or('0'));
        number /= 36;
    }
    text.extend(digits.iter().rev());
}

/// Messages of a partition that this node has or had.
#[derive(Debug, Default)]
pub struct Progress {
    /// Below `next` and not done with. With the time at which the broker took it: it is here.
    open: BTreeMap<i64, Option<i64>>,
    /// One more than the highest offset that is known; none is before the first.
    next: Option<i64>,
    /// The last that came.
    position: Option<i64>,
    /// What the group had committed before.
    committed: Option<i64>,
    here: usize,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Arrival {
    New,
    /// It was done with before.
    Done,
    /// The partition begins again: it was deleted and made anew, or has lost its end. What was here is void.
    Anew,
}

impl Progress {
    pub fn after(snapshot: Snapshot) -> Self {
        let mut open: BTreeMap<_, _> = snapshot.holes.iter().map(|hole| (*hole, None)).collect();
        if snapshot.end > snapshot.start {
            open.insert(snapshot.start, None);
        }
        Self { open, next: Some(snapshot.end), committed: Some(snapshot.start), ..Self::default() }
    }

    /// A message came, at this time of the broker. After `Anew` it is new.
    pub fn came(&mut self, offset: i64, time: i64) -> Arrival {
        let back = self.position.is_some_and(|position| offset <= position)
            || (self.position.is_none() && self.committed.is_some_and(|committed| offset < committed));
        if back {
            *self = Self::default();
            self.came(offset, time);
            return Arrival::Anew;
        }
        self.position = Some(offset);
        if self.open.len() > self.here {
            // Those before it that have not come do not exist any more.
            self.open.retain(|open, time| *open >= offset || time.is_some());
        }
        if self.next.is_some_and(|next| offset < next) && !self.open.contains_key(&offset) {
            return Arrival::Done;
        }
        self.open.insert(offset, Some(time));
        self.next = self.next.max(Some(offset + 1));
        self.here += 1;
        Arrival::New
    }

    /// False if it is not here.
    pub fn done(&mut self, offset: i64) -> bool {
        let here = self.is_here(offset);
        if here {
            self.open.remove(&offset);
            self.here -= 1;
        }
        here
    }

    pub fn is_here(&self, offset: i64) -> bool {
        self.open.get(&offset).is_some_and(Option::is_some)
    }

    /// Messages that are here and not done with.
    pub fn here(&self) -> usize {
        self.here
    }

    /// When the broker took the oldest of them.
    pub fn oldest(&self) -> Option<i64> {
        self.open.values().flatten().min().copied()
    }

    /// Nothing where nothing came.
    pub fn snapshot(&self) -> Option<Snapshot> {
        let end = self.next?;
        let mut open = self.open.keys().copied();
        let start = open.next().unwrap_or(end);
        Some(Snapshot { start, holes: open.collect(), end })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(offsets: impl IntoIterator<Item = i64>) -> Progress {
        let mut progress = Progress::default();
        for offset in offsets {
            assert_eq!(progress.came(offset, offset * 10), Arrival::New);
        }
        progress
    }

    fn commit(progress: &Progress, longest: usize) -> Snapshot {
        let (text, said) = progress.snapshot().unwrap().text(longest);
        assert!(text.len() <= longest, "{text}");
        assert_eq!(Snapshot::read(said.start, &text), said, "{text}");
        said
    }

    #[test]
    fn what_is_done_never_comes_again_to_whoever_goes_on() {
        let mut first = progress(10..200);
        for offset in (10..200).filter(|offset| ![10, 11, 50, 120, 121, 199].contains(offset)) {
            assert!(first.done(offset) && !first.done(offset));
        }
        let said = commit(&first, LONGEST_TEXT);
        assert_eq!(said.start, 10);
        let mut second = Progress::after(said.clone());
        let came: Vec<_> = (10..205).filter(|offset| second.came(*offset, 0) == Arrival::New).collect();
        assert_eq!(came, [10, 11, 50, 120, 121, 199, 200, 201, 202, 203, 204]);
        assert!((10..205).all(|offset| said.is_done(offset) != came.contains(&offset)));
        assert_eq!(second.here(), came.len());
    }

    #[test]
    fn what_is_known_of_messages_that_have_not_come_is_handed_on() {
        let mut first = progress(0..10);
        (1..10).for_each(|offset| _ = first.done(offset));
        let mut second = Progress::after(commit(&first, LONGEST_TEXT));
        assert_eq!(second.came(0, 0), Arrival::New);
        assert!(second.done(0));
        assert_eq!(commit(&second, LONGEST_TEXT).start, 10);
    }

    #[test]
    fn all_done_is_nothing_but_an_offset() {
        let mut all = progress(3..9);
        (3..9).for_each(|offset| _ = all.done(offset));
        let (text, said) = all.snapshot().unwrap().text(LONGEST_TEXT);
        assert_eq!((text.as_str(), said.start), ("", 9));
        // Also with messages that are here and after which nothing is done.
        let none = progress(3..4);
        assert_eq!(none.snapshot().unwrap().text(LONGEST_TEXT).0, "");
    }

    #[test]
    fn a_text_that_is_too_long_says_less_and_nothing_wrong() {
        let mut odd = progress(0..5000);
        (0..5000).filter(|offset| offset % 2 == 1).for_each(|offset| _ = odd.done(offset));
        for longest in [0, 5, 6, 7, 8, 9, 10, 100, 1000, LONGEST_TEXT] {
            let (text, said) = odd.snapshot().unwrap().text(longest);
            assert!(text.len() <= longest);
            assert_eq!(Snapshot::read(0, &text), said, "{text}");
            assert!((0..5000).all(|offset| !said.is_done(offset) || offset % 2 == 1), "{longest}");
        }
        let said = commit(&odd, LONGEST_TEXT);
        assert!(said.is_done(3001) && !said.is_done(4999));
    }

    #[test]
    fn texts_of_others_say_nothing() {
        for text in
            ["", "x", "weir1", "weir1 -1", "weir1 0", "weir1 zzzzzzzzzzzzzz 1", "weir1 1zzzzzzzzzzzz", "weir2 5"]
        {
            assert_eq!(Snapshot::read(7, text), Snapshot { start: 7, holes: vec![], end: 7 }, "{text}");
        }
    }

    #[test]
    fn what_is_not_there_any_more_is_not_waited_for() {
        let mut first = progress([0, 1, 2, 3]);
        first.done(2);
        let mut second = Progress::after(commit(&first, LONGEST_TEXT));
        // 0 and 1 were removed by retention.
        assert_eq!(second.came(3, 0), Arrival::New);
        second.done(3);
        assert_eq!(second.snapshot().unwrap().start, 4);
    }

    #[test]
    fn a_partition_that_begins_again_is_delivered_from_its_beginning() {
        let mut old = progress(0..100);
        (0..100).for_each(|offset| _ = old.done(offset));
        let mut new = Progress::after(commit(&old, LONGEST_TEXT));
        assert_eq!(new.came(0, 0), Arrival::Anew);
        assert_eq!(new.came(1, 0), Arrival::New);
        assert_eq!(new.came(0, 0), Arrival::Anew);
        assert_eq!(new.here(), 1);
    }
}
