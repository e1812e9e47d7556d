use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// The longest round: shares that sum up to more are scaled down, but none below 1.
const LONGEST: u64 = 8192;

/// One round in which each member has as many turns as shares, spaced as evenly as can be: after any `t` turns a member
/// with `w` of `n` shares has had `t·w/n` of them, give or take less than one. Returns indexes of members.
///
/// Turn `k` of a member belongs into its window from `k·n/w` to `(k+1)·n/w`. Giving each place in the round to the open
/// window that closes first keeps all of them (Pfair scheduling: Baruah and others, 1996).
pub fn smooth(shares: &[u32]) -> Vec<u32> {
    let shares = bounded(shares);
    let round: u64 = shares.iter().sum();
    if round == shares.len() as u64 {
        // All are equal, as they most often are.
        return (0..).zip(shares).map(|(member, _)| member).collect();
    }
    let window = |member: u32, share: u64, turn: u64| {
        let (opens, closes) = (turn * round / share, ((turn + 1) * round).div_ceil(share));
        Reverse((opens, closes, member, share, turn))
    };
    let mut waiting: BinaryHeap<_> = (0..).zip(&shares).map(|(member, share)| window(member, *share, 0)).collect();
    let mut open = BinaryHeap::new();
    let mut schedule = Vec::with_capacity(round as usize);
    for place in 0..round {
        while let Some(Reverse((opens, closes, member, share, turn))) = waiting.peek().copied()
            && opens <= place
        {
            waiting.pop();
            open.push(Reverse((closes, member, share, turn)));
        }
        if let Some(Reverse((_, member, share, turn))) = open.pop() {
            schedule.push(member);
            if turn + 1 < share {
                waiting.push(window(member, share, turn + 1));
            }
        }
    }
    schedule
}

fn bounded(shares: &[u32]) -> Vec<u64> {
    let divisor = u64::from(shares.iter().copied().fold(0, gcd).max(1));
    let sum = shares.iter().map(|share| u64::from(*share)).sum::<u64>() / divisor;
    let scale = |share: u64| {
        if sum > LONGEST { share * LONGEST / sum } else { share }
    };
    shares.iter().map(|share| scale(u64::from(*share) / divisor).max(1)).collect()
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn longest_run(schedule: &[u32], member: u32) -> usize {
        let twice = [schedule, schedule].concat();
        twice.split(|turn| *turn != member).map(<[u32]>::len).max().unwrap()
    }

    #[test]
    fn a_heavy_member_never_has_many_turns_in_a_row() {
        let schedule = smooth(&[5, 1, 1]);
        assert_eq!(schedule.len(), 7);
        assert_eq!(longest_run(&schedule, 0), 3, "{schedule:?}");
        assert_eq!(longest_run(&smooth(&[3, 2]), 0), 2);
        assert_eq!(longest_run(&smooth(&[90, 10]), 0), 9);
    }

    #[test]
    fn no_member_is_ever_a_whole_turn_ahead_or_behind() {
        let mut seed = 7u32;
        let mut next = |bound| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 16) % bound
        };
        for case in 0..300 {
            let shares: Vec<u32> = (0..=next(12)).map(|_| 1 + next(1 + case % 60)).collect();
            let reduced = bounded(&shares);
            let round: u64 = reduced.iter().sum();
            let schedule = smooth(&shares);
            assert_eq!(schedule.len() as u64, round);
            let mut turns = vec![0u64; shares.len()];
            for (place, member) in schedule.iter().enumerate() {
                turns[*member as usize] += 1;
                for (had, share) in turns.iter().zip(&reduced) {
                    let lag = (had * round).abs_diff((place as u64 + 1) * share);
                    assert!(lag < round, "{shares:?}: {turns:?} at {place}");
                }
            }
            assert_eq!(turns, reduced);
        }
    }

    #[test]
    fn equal_members_follow_each_other() {
        assert_eq!(smooth(&[200, 200, 200, 200]), [0, 1, 2, 3]);
        assert_eq!(smooth(&[7]), [0]);
        assert_eq!(smooth(&[]), [0; 0]);
    }

    #[test]
    fn a_round_is_bounded_and_leaves_nobody_out() {
        let schedule = smooth(&[65_535, 1, 32_768]);
        assert!(schedule.len() as u64 <= LONGEST + 3 && schedule.contains(&1));
        let heavy = schedule.iter().filter(|member| **member == 0).count() as f64;
        assert!((heavy / schedule.len() as f64 - 2.0 / 3.0).abs() < 0.001);
        let mut many = vec![1; 10_000];
        many[0] = 65_535;
        assert!(smooth(&many).len() as u64 <= LONGEST + 10_000);
    }
}
