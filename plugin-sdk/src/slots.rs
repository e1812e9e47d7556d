/// Things a policy keeps from one hook of an exchange to a later one, found again by the exchange's memo.
///
/// At most `bound` at a time: when it is full, `insert` gives the thing back and the exchange goes on without.
#[derive(Debug)]
pub struct Slots<T> {
    entries: Vec<(u32, Option<T>)>,
    free: Vec<u32>,
    bound: usize,
}

impl<T> Slots<T> {
    pub const fn new(bound: usize) -> Self {
        Self { entries: Vec::new(), free: Vec::new(), bound }
    }

    /// Keeps a thing and returns its memo, which is never 0.
    pub fn insert(&mut self, thing: T) -> Result<u64, T> {
        if let Some(index) = self.free.pop()
            && let Some((turn, entry)) = self.entries.get_mut(index as usize)
        {
            *turn = turn.wrapping_add(1).max(1);
            *entry = Some(thing);
            return Ok(memo(index, *turn));
        }
        if self.entries.len() >= self.bound {
            return Err(thing);
        }
        self.entries.push((1, Some(thing)));
        Ok(memo(self.entries.len() as u32 - 1, 1))
    }

    pub fn get_mut(&mut self, memo: u64) -> Option<&mut T> {
        let (turn, entry) = self.entries.get_mut(memo as u32 as usize)?;
        if u64::from(*turn) == memo >> 32 { entry.as_mut() } else { None }
    }

    pub fn remove(&mut self, memo: u64) -> Option<T> {
        let (turn, entry) = self.entries.get_mut(memo as u32 as usize)?;
        let thing = if u64::from(*turn) == memo >> 32 { entry.take() } else { None };
        if thing.is_some() {
            self.free.push(memo as u32);
        }
        thing
    }
}

// The turn tells a memo of an earlier use of the entry, or of an instance that was thrown away, from today's.
fn memo(index: u32, turn: u32) -> u64 {
    u64::from(turn) << 32 | u64::from(index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_memo_finds_its_thing_until_it_is_removed() {
        let mut slots = Slots::new(2);
        let a = slots.insert("a").unwrap();
        let b = slots.insert("b").unwrap();
        assert_eq!(slots.insert("c"), Err("c"));
        assert_eq!(slots.get_mut(a), Some(&mut "a"));
        assert_eq!(slots.remove(a), Some("a"));
        assert_eq!(slots.remove(a), None);
        let c = slots.insert("c").unwrap();
        assert_ne!(a, c);
        assert_eq!(slots.get_mut(a), None);
        assert_eq!(slots.get_mut(0), None);
        assert_eq!((slots.remove(b), slots.remove(c)), (Some("b"), Some("c")));
    }
}
