//! The messages that a subscription holds and that nobody works on: which is next, and when.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Instant;

/// Messages by when they may be delivered. With lanes, those of one key keep their order: while one of them is being
/// worked on or waits for another attempt, the others stay behind it, and only they.
#[derive(Debug)]
pub struct Queue<T> {
    ready: VecDeque<T>,
    /// By when they are due; the number tells those of one instant apart.
    waiting: BTreeMap<(Instant, u64), T>,
    next: u64,
    /// Behind the first of their key, which is not here. `None`: there is no order to keep.
    lanes: Option<HashMap<String, VecDeque<T>>>,
    behind: usize,
}

/// What the order goes by.
pub trait Keyed {
    fn key(&self) -> Option<&str>;
}

impl<T: Keyed> Queue<T> {
    pub fn new(ordered: bool) -> Self {
        Self { ready: VecDeque::new(), waiting: BTreeMap::new(), next: 0, lanes: ordered.then(HashMap::new), behind: 0 }
    }

    pub fn len(&self) -> usize {
        self.ready.len() + self.waiting.len() + self.behind
    }

    /// Adds one that has just come. Where order is kept, it is behind those of its key that came before it.
    pub fn add(&mut self, item: T, due: Option<Instant>) {
        if let (Some(lanes), Some(key)) = (&mut self.lanes, item.key()) {
            if let Some(lane) = lanes.get_mut(key) {
                lane.push_back(item);
                self.behind += 1;
                return;
            }
            lanes.insert(key.to_owned(), VecDeque::new());
        }
        self.put(item, due);
    }

    /// Puts one back that was taken out and is not done.
    pub fn again(&mut self, item: T, due: Instant) {
        self.put(item, Some(due));
    }

    fn put(&mut self, item: T, due: Option<Instant>) {
        match due {
            None => self.ready.push_back(item),
            Some(due) => {
                self.next += 1;
                self.waiting.insert((due, self.next), item);
            }
        }
    }

    /// One of this key that was taken out is done with: the next has its turn.
    pub fn done(&mut self, key: Option<&str>) {
        let (Some(lanes), Some(key)) = (&mut self.lanes, key) else { return };
        let Some(lane) = lanes.get_mut(key) else { return };
        match lane.pop_front() {
            Some(next) => {
                self.behind -= 1;
                self.ready.push_back(next);
            }
            None => drop(lanes.remove(key)),
        }
    }

    /// The next that may be delivered now.
    pub fn take(&mut self, now: Instant) -> Option<T> {
        while let Some(entry) = self.waiting.first_entry().filter(|entry| entry.key().0 <= now) {
            self.ready.push_back(entry.remove());
        }
        self.ready.pop_front()
    }

    /// Whether one may be delivered now, as far as was looked.
    pub fn is_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// When one is due, where none is ready.
    pub fn due(&self) -> Option<Instant> {
        self.waiting.first_key_value().map(|((due, _), _)| *due)
    }

    pub fn iter(&self) -> impl Iterator<Item = &T> {
        let behind = self.lanes.iter().flat_map(|lanes| lanes.values().flatten());
        self.ready.iter().chain(self.waiting.values()).chain(behind)
    }

    /// Takes all out. Keys of which one is still being worked on stay taken.
    pub fn clear(&mut self) -> Vec<T> {
        let mut all: Vec<T> = self.ready.drain(..).collect();
        all.extend(std::mem::take(&mut self.waiting).into_values());
        if let Some(lanes) = &mut self.lanes {
            let first: Vec<String> = all.iter().filter_map(|item| Some(item.key()?.to_owned())).collect();
            all.extend(lanes.values_mut().flat_map(std::mem::take));
            first.iter().for_each(|key| drop(lanes.remove(key)));
        }
        self.behind = 0;
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[derive(Debug, PartialEq, Clone)]
    struct Item(Option<&'static str>, u32);

    impl Keyed for Item {
        fn key(&self) -> Option<&str> {
            self.0
        }
    }

    #[test]
    fn a_key_waits_for_its_first_and_others_do_not() {
        let (mut queue, now) = (Queue::new(true), Instant::now());
        let item = |key, number| Item(Some(key), number);
        for item in [item("a", 1), item("a", 2), item("b", 3), item("a", 4), Item(None, 5), Item(None, 6)] {
            queue.add(item, None);
        }
        let taken: Vec<_> = std::iter::from_fn(|| queue.take(now)).collect();
        assert_eq!(taken, [item("a", 1), item("b", 3), Item(None, 5), Item(None, 6)]);
        assert_eq!(queue.len(), 2);

        let later = now + Duration::from_secs(1);
        queue.again(item("a", 1), later);
        queue.done(Some("b"));
        assert_eq!((queue.take(now), queue.due()), (None, Some(later)));
        assert_eq!(queue.take(later), Some(item("a", 1)));
        queue.done(Some("a"));
        assert_eq!(queue.take(later), Some(item("a", 2)));
        queue.done(Some("a"));
        assert_eq!(queue.take(later), Some(item("a", 4)));
        queue.done(Some("a"));
        queue.add(item("a", 7), None);
        assert_eq!(queue.take(later), Some(item("a", 7)));
    }

    #[test]
    fn without_an_order_keys_mean_nothing() {
        let (mut queue, now) = (Queue::new(false), Instant::now());
        (0..3).for_each(|number| queue.add(Item(Some("a"), number), None));
        assert_eq!(std::iter::from_fn(|| queue.take(now)).count(), 3);
    }

    #[test]
    fn what_is_cleared_is_all_of_it_and_keys_in_work_stay_taken() {
        let (mut queue, now) = (Queue::new(true), Instant::now());
        for number in 0..3 {
            queue.add(Item(Some("a"), number), None);
            queue.add(Item(Some("b"), number), Some(now + Duration::from_secs(1)));
        }
        assert_eq!(queue.take(now), Some(Item(Some("a"), 0)));
        assert_eq!((queue.clear().len(), queue.len()), (5, 0));
        queue.add(Item(Some("a"), 9), None);
        queue.add(Item(Some("b"), 9), None);
        assert_eq!(queue.take(now), Some(Item(Some("b"), 9)));
        assert_eq!(queue.take(now), None);
        queue.done(Some("a"));
        assert_eq!(queue.take(now), Some(Item(Some("a"), 9)));
    }
}
