use weir_sdk::Endpoint;

/// An endpoint of the heaviest weight has more than half as many points as this, and at most as many.
const POINTS_OF_ONE: u32 = 64;
/// All of a service's endpoints have about as many points as this at most, but each has at least one.
const POINTS_OF_ALL: u32 = 16_384;
/// How many places of the ring a key tries.
const PROBES: u64 = 8;

/// A hash ring. A key tries several places on it and takes the one with the nearest point behind it (multi-probe
/// consistent hashing: Appleton and O'Reilly, 2015), which spreads keys more evenly than ten times as many points would.
///
/// Points depend on an endpoint's address and weight alone, so that every node and worker makes the same ring, and a
/// change of one endpoint moves no key between others. Exceptions: more endpoints than [`POINTS_OF_ALL`] has room for, and
/// a change of the heaviest weight to another power of two, shift points of others as well.
pub struct Ring {
    /// Place, and index of the endpoint.
    points: Vec<(u32, u32)>,
}

impl Ring {
    /// Endpoints that are ejected have no points but leave those of the others where they are. Indexes count the rest.
    pub fn new(endpoints: &[&Endpoint]) -> Self {
        let weights = endpoints.iter().map(|endpoint| endpoint.weight.max(1));
        let heaviest = weights.clone().max().unwrap_or(1).next_power_of_two();
        let sum: f64 = weights.map(f64::from).sum();
        let unit = (f64::from(POINTS_OF_ONE) / f64::from(heaviest)).min(f64::from(POINTS_OF_ALL) / sum);
        let mut points = Vec::new();
        for (index, endpoint) in (0..).zip(endpoints.iter().filter(|endpoint| !endpoint.ejected)) {
            let seed = hash(endpoint.address.as_bytes());
            // Part of a point is a whole one at some endpoints and none at others.
            let part = (seed >> 11) as f64 / (1u64 << 53) as f64;
            let count = (f64::from(endpoint.weight.max(1)) * unit + part).max(1.0) as u64;
            let place = |point: u64| mix(seed.wrapping_add(PROBES + point)) as u32;
            points.extend((0..count).map(|point| (place(point), index)));
        }
        points.sort_unstable();
        Self { points }
    }

    /// The index of the key's endpoint, as if those to avoid were not on the ring. `None` if all are to be avoided.
    pub fn find(&self, key: &[u8], avoid: impl Fn(usize) -> bool) -> Option<usize> {
        let seed = hash(key);
        let nearest = |probe: u64| {
            let here = mix(seed.wrapping_add(probe)) as u32;
            let next = self.points.partition_point(|(place, _)| *place < here);
            let (behind, ahead) = self.points.split_at_checked(next)?;
            let (place, index) = ahead.iter().chain(behind).find(|(_, index)| !avoid(*index as usize))?;
            Some((place.wrapping_sub(here), *index))
        };
        (0..PROBES).filter_map(nearest).min().map(|(_, index)| index as usize)
    }
}

/// The same on every node and in every version: where keys go depends on it.
fn hash(bytes: &[u8]) -> u64 {
    bytes.chunks(8).fold(bytes.len() as u64, |hash, chunk| {
        mix(hash ^ chunk.iter().fold(0, |word, byte| word << 8 | u64::from(*byte)))
    })
}

/// SplitMix64 (Steele and others, 2014).
fn mix(state: u64) -> u64 {
    let z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_sdk::EndpointId;

    fn endpoints(weights: &[u32]) -> Vec<Endpoint> {
        let endpoint = |(id, weight): (u32, &u32)| Endpoint {
            id: EndpointId(id),
            address: format!("10.1.{}.{}:8080", id / 250, id % 250),
            weight: *weight,
            ..Endpoint::default()
        };
        (0..).zip(weights).map(endpoint).collect()
    }

    fn ring(endpoints: &[Endpoint]) -> Ring {
        Ring::new(&endpoints.iter().collect::<Vec<_>>())
    }

    fn keys(count: u32) -> impl Iterator<Item = Vec<u8>> {
        (0..count).map(|key| format!("user-{key}").into_bytes())
    }

    fn share_of(ring: &Ring, index: usize) -> f64 {
        keys(50_000).filter(|key| ring.find(key, |_| false) == Some(index)).count() as f64 / 50_000.0
    }

    #[test]
    fn keys_spread_by_weight() {
        for (weights, most_off) in [(&[1; 10][..], 0.15), (&[5, 1, 1], 0.25), (&[300, 300, 300], 0.15), (&[9, 1], 0.25)]
        {
            let ring = ring(&endpoints(weights));
            let sum: u32 = weights.iter().sum();
            for (index, weight) in weights.iter().enumerate() {
                let fair = f64::from(*weight) / f64::from(sum);
                let off = (share_of(&ring, index) - fair).abs() / fair;
                assert!(off < most_off, "{weights:?} [{index}] is {off} off");
            }
        }
    }

    #[test]
    fn an_endpoint_that_leaves_moves_its_own_keys_only() {
        let before = endpoints(&[1; 20]);
        let mut after = before.clone();
        after.remove(7);
        let (before, after) = (ring(&before), ring(&after));
        let mut moved = 0;
        for key in keys(20_000) {
            let was = before.find(&key, |_| false).unwrap();
            let is = after.find(&key, |_| false).unwrap();
            if was == 7 {
                moved += 1;
            } else {
                assert_eq!(is, if was > 7 { was - 1 } else { was });
            }
        }
        assert!((800..1_200).contains(&moved), "{moved} of 20 000 keys moved, 1 000 would be fair");
    }

    #[test]
    fn leaving_ejection_and_avoidance_send_a_key_the_same_way() {
        let all = endpoints(&[4, 1, 2, 1, 4]);
        let mut ejected = all.clone();
        ejected[2].ejected = true;
        let (all, ejected) = (ring(&all), ring(&ejected));
        for key in keys(2_000) {
            let avoiding = all.find(&key, |index| index == 2).unwrap();
            let without = ejected.find(&key, |_| false).unwrap();
            assert_eq!(avoiding, if without >= 2 { without + 1 } else { without });
        }
        assert_eq!(all.find(b"key", |_| true), None);
        assert_eq!(ring(&[]).find(b"key", |_| false), None);
    }

    #[test]
    fn the_ring_goes_round() {
        let ring = Ring { points: vec![(0, 7), (1, 8)] };
        assert!(keys(500).all(|key| ring.find(&key, |_| false) == Some(7)));
        assert!(keys(500).all(|key| ring.find(&key, |index| index == 7) == Some(8)));
    }

    #[test]
    fn a_ring_is_bounded_and_one_of_many_moves_few_keys() {
        // With 8 192 there is room for two points each, and no more.
        for count in [8_193, 10_000] {
            let before = endpoints(&vec![1; count]);
            let mut after = before.clone();
            after.pop();
            let (before, after) = (ring(&before), ring(&after));
            assert!(before.points.len() <= POINTS_OF_ALL as usize + count);
            let goes = |ring: &Ring, key: &[u8]| ring.find(key, |_| false);
            let moved = keys(20_000).filter(|key| goes(&before, key) != goes(&after, key)).count();
            assert!(moved < 40, "{moved} of 20 000 keys moved, 2 would be fair");
        }
    }
}
