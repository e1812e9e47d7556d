//! Random numbers without a call of the host for each: xoshiro256++ (Blackman and Vigna, 2019). It can begin at so many
//! places, and goes on for so long, that no two instances meet in it: what they make of it, such as ids, is not made twice.

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sequence([u64; 4]);

impl Sequence {
    pub fn new(seed: [u64; 4]) -> Self {
        // All zeros would never become anything else.
        Self(if seed == [0; 4] { [1; 4] } else { seed })
    }

    pub fn next(&mut self) -> u64 {
        let [a, b, c, d] = &mut self.0;
        let number = a.wrapping_add(*d).rotate_left(23).wrapping_add(*a);
        let shifted = *b << 17;
        *c ^= *a;
        *d ^= *b;
        *b ^= *c;
        *a ^= *d;
        *c ^= shifted;
        *d = d.rotate_left(45);
        number
    }
}

/// The next number of this instance.
#[cfg(target_family = "wasm")]
pub fn next() -> u64 {
    use super::sys::random;
    use std::cell::Cell;

    std::thread_local!(static OWN: Cell<Option<Sequence>> = const { Cell::new(None) });
    let mut own = OWN.take().unwrap_or_else(|| Sequence::new(std::array::from_fn(|_| random::next())));
    let number = own.next();
    OWN.set(Some(own));
    number
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sequence_is_the_published_one() {
        let mut sequence = Sequence::new([1, 2, 3, 4]);
        let first: Vec<u64> = (0..4).map(|_| sequence.next()).collect();
        assert_eq!(first, [41_943_041, 58_720_359, 3_588_806_011_781_223, 3_591_011_842_654_386]);
    }

    #[test]
    fn no_seed_leads_nowhere_and_bits_are_even() {
        assert_ne!(Sequence::new([0; 4]).next(), Sequence::new([0; 4]).0[0]);
        for seed in [[0; 4], [1, 0, 0, 0], [u64::MAX; 4]] {
            let mut sequence = Sequence::new(seed);
            let mut ones = [0u32; 64];
            for _ in 0..100_000 {
                let number = sequence.next();
                ones.iter_mut().enumerate().for_each(|(bit, ones)| *ones += (number >> bit & 1) as u32);
            }
            assert!(ones.iter().all(|ones| ones.abs_diff(50_000) < 1_000), "{seed:?}: {ones:?}");
        }
    }
}
