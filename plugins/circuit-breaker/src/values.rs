//! Places for the values of a field: a table that all workers share, of a fixed size, in which each value has the same
//! place on every worker.

use std::collections::BTreeMap;
use weir_sdk::Result;
use weir_sdk::host::cells::Word;

const PLACES: u64 = 2048;
/// How many places are tried for a value before it goes to those that share one breaker.
const PROBES: u64 = 8;

/// This instance's view of the table.
#[derive(Default)]
pub struct Values {
    owners: BTreeMap<u64, Word>,
}

impl Values {
    /// The place of a value, by its hash. `None`: there is no more room near where it belongs.
    pub fn claim(&mut self, hash: u64) -> Result<Option<u64>> {
        // 0 is a place that nobody owns.
        let hash = hash.max(1);
        for place in (0..PROBES).map(|step| hash.wrapping_add(step) % PLACES) {
            let owner = match self.owners.get(&place) {
                Some(owner) => *owner,
                None => *self.owners.entry(place).or_insert(Word::open(&format!("field-owner/{place}"))?),
            };
            let (before, claimed) = owner.update(|owner| (owner == 0).then_some(hash));
            if claimed || before == hash {
                return Ok(Some(place));
            }
        }
        Ok(None)
    }
}

/// FNV-1a, which every version of this plugin computes alike.
pub fn fnv(parts: &[&[u8]]) -> u64 {
    parts
        .iter()
        .copied()
        .flatten()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_table_is_bounded_and_each_place_has_one_owner() {
        let mut values = Values::default();
        let mut claim = |i: u64| values.claim(fnv(&[&i.to_le_bytes()])).unwrap();
        let claims: Vec<Option<u64>> = (0..100_000).map(&mut claim).collect();
        let taken: BTreeSet<u64> = claims.iter().flatten().copied().collect();
        assert_eq!(taken.len() as u64, PLACES);
        assert_eq!(claims.iter().flatten().count(), taken.len());
        assert!(claims.iter().take(1_000).all(Option::is_some), "the first thousand have places of their own");
        assert!((0..1_000).all(|i| claim(i) == claims[i as usize]), "and keep them");
    }
}
