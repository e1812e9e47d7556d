//! What a breaker's cell holds: the whole state in one number, so that one compare-exchange changes all of it.

/// The state of a breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State {
    /// Changes with each transition: an attempt that began in another epoch has no say in this one. 18 bits, so that it
    /// takes 262 144 transitions within the life of one attempt to mistake one epoch for another.
    pub epoch: u32,
    pub phase: Phase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// `failures`: how many calls in a row have failed; 0 where a window counts.
    Closed {
        failures: u64,
    },
    /// `until`: milliseconds of the host's clock, in 44 bits.
    Open {
        until: u64,
    },
    HalfOpen(Trial),
}

/// The calls of a half-open breaker. At most [`MAX_TRIAL`] of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Trial {
    /// When the last one was admitted, by [`coarse`].
    pub admitted: u16,
    /// Admitted and not ended.
    pub pending: u8,
    pub finished: u8,
    /// How many of the finished ones.
    pub failed: u8,
    pub slow: u8,
}

/// What 7 bits can count.
pub const MAX_TRIAL: u32 = 100;

const EPOCH: u32 = (1 << 18) - 1;
const COUNT: u64 = (1 << 7) - 1;

/// Units of 2^30 ns, about a second. Wraps after 19 hours, which may put off what is due by [`overdue`]'s limit.
pub fn coarse(now: u64) -> u16 {
    (now >> 30) as u16
}

/// Whether more than `limit` nanoseconds have passed since a coarse time; true up to 2 s late, never early.
pub fn overdue(since: u16, now: u64, limit: u64) -> bool {
    u64::from(coarse(now).wrapping_sub(since)) > (limit >> 30) + 1
}

impl State {
    /// Closed, and nothing to forget.
    pub fn is_at_rest(self) -> bool {
        self.phase == Phase::Closed { failures: 0 }
    }

    /// The next epoch.
    pub fn to(self, phase: Phase) -> Self {
        Self { epoch: (self.epoch + 1) & EPOCH, phase }
    }
}

// From the lowest bit: 2 of phase, 18 of epoch, 44 of what the phase has to say. The fresh cell's 0 is a closed breaker.
// A version of this plugin that packs otherwise must name its cells otherwise.
impl From<u64> for State {
    fn from(word: u64) -> Self {
        let rest = word >> 20;
        let count = |at: u32| (rest >> at & COUNT) as u8;
        let phase = match word & 3 {
            0 => Phase::Closed { failures: rest },
            1 => Phase::Open { until: rest },
            _ => Phase::HalfOpen(Trial {
                admitted: rest as u16,
                pending: count(16),
                finished: count(23),
                failed: count(30),
                slow: count(37),
            }),
        };
        Self { epoch: (word >> 2) as u32 & EPOCH, phase }
    }
}

impl From<State> for u64 {
    fn from(state: State) -> Self {
        let (kind, rest) = match state.phase {
            Phase::Closed { failures } => (0, failures),
            Phase::Open { until } => (1, until),
            Phase::HalfOpen(Trial { admitted, pending, finished, failed, slow }) => {
                let count = |count: u8, at: u32| (Self::from(count) & COUNT) << at;
                (
                    2,
                    Self::from(admitted)
                        | count(pending, 16)
                        | count(finished, 23)
                        | count(failed, 30)
                        | count(slow, 37),
                )
            }
        };
        rest << 20 | Self::from(state.epoch & EPOCH) << 2 | kind
    }
}

/// What an admitted attempt remembers until its outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    pub epoch: u32,
    /// Of the breaker, in this instance's list.
    pub index: u32,
    /// Of the breaker's name, in 21 bits: another instance, made after a trap, may have another list.
    pub tag: u32,
}

pub const TAG: u32 = (1 << 21) - 1;
const INDEX: u32 = (1 << 24) - 1;
const ADMITTED: u64 = 1 << 63;

impl Ticket {
    /// `None`: the attempt was not admitted.
    pub fn from_memo(memo: u64) -> Option<Self> {
        let ticket =
            Self { epoch: memo as u32 & EPOCH, index: (memo >> 18) as u32 & INDEX, tag: (memo >> 42) as u32 & TAG };
        (memo & ADMITTED != 0).then_some(ticket)
    }
}

impl From<Ticket> for u64 {
    fn from(ticket: Ticket) -> Self {
        let Ticket { epoch, index, tag } = ticket;
        ADMITTED | Self::from(tag & TAG) << 42 | Self::from(index & INDEX) << 18 | Self::from(epoch & EPOCH)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_survives_its_cell() {
        let trial = Trial { admitted: u16::MAX, pending: 100, finished: 99, failed: 98, slow: 97 };
        let phases = [
            Phase::Closed { failures: 0 },
            Phase::Closed { failures: u64::from(u32::MAX) },
            Phase::Open { until: (1 << 44) - 1 },
            Phase::HalfOpen(trial),
        ];
        for phase in phases {
            for epoch in [0, 1, EPOCH] {
                let state = State { epoch, phase };
                assert_eq!(State::from(u64::from(state)), state);
            }
        }
        assert_eq!(State::from(0), State { epoch: 0, phase: Phase::Closed { failures: 0 } });
    }

    #[test]
    fn epochs_go_round() {
        let last = State { epoch: EPOCH, phase: Phase::Closed { failures: 3 } };
        assert_eq!(last.to(Phase::Open { until: 7 }), State { epoch: 0, phase: Phase::Open { until: 7 } });
    }

    #[test]
    fn a_ticket_survives_the_memo_and_0_is_none() {
        let ticket = Ticket { epoch: EPOCH, index: 100_000, tag: TAG };
        assert_eq!(Ticket::from_memo(ticket.into()), Some(ticket));
        let first = Ticket { epoch: 0, index: 0, tag: 0 };
        assert_eq!(Ticket::from_memo(first.into()), Some(first));
        assert_eq!(Ticket::from_memo(0), None);
    }

    #[test]
    fn overdue_is_never_early_and_survives_the_wrap() {
        const SECOND: u64 = 1_000_000_000;
        for start in [0, 12_345_678_901, (1 << 46) - SECOND, u64::MAX >> 2] {
            assert!(!overdue(coarse(start), start + 60 * SECOND, 60 * SECOND));
            assert!(overdue(coarse(start), start + 63 * SECOND, 60 * SECOND));
        }
    }
}
