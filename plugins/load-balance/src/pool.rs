use crate::Algorithm;
use crate::ring::Ring;
use crate::schedule;
use weir_sdk::prelude::*;

/// What a service's endpoints were made into when they changed, so that a pick costs the same for three of them and for
/// ten thousand.
pub struct Pool {
    /// All that are not ejected, by number.
    members: Vec<Member>,
    /// The sum of the members' shares.
    shares: u64,
    /// How many turns were taken, by all workers together.
    turn: Option<cells::Word>,
    /// Whose turn it is, as indexes of members. Empty where nobody takes turns.
    schedule: Vec<u32>,
    ring: Option<Ring>,
}

struct Member {
    id: EndpointId,
    weight: u32,
    /// Of the picks: its weight, or 1 where weights do not count.
    share: u32,
    /// The shares of all members before this one. With its own they are a range of its own.
    before: u64,
}

impl Pool {
    pub fn new(algorithm: Algorithm, service: ServiceId, endpoints: &[Endpoint]) -> Result<Self> {
        let mut all: Vec<&Endpoint> = endpoints.iter().collect();
        all.sort_unstable_by_key(|endpoint| endpoint.id);
        let (mut members, mut shares) = (Vec::with_capacity(all.len()), 0);
        for endpoint in all.iter().filter(|endpoint| !endpoint.ejected) {
            let weight = endpoint.weight.max(1);
            let share = if algorithm.is_weighted() { weight } else { 1 };
            members.push(Member { id: endpoint.id, weight, share, before: shares });
            shares += u64::from(share);
        }
        let mut pool = Self { members, shares, turn: None, schedule: Vec::new(), ring: None };
        if algorithm.takes_turns() {
            let shares: Vec<u32> = pool.members.iter().map(|member| member.share).collect();
            pool.schedule = schedule::smooth(&shares);
            pool.turn = Some(turn_of(service)?);
        }
        if algorithm == Algorithm::ConsistentHash {
            pool.ring = Some(Ring::new(&all));
        }
        Ok(pool)
    }

    /// The endpoints that are left to pick from; `None` if there are none.
    pub fn without(&self, tried: &[EndpointId]) -> Option<Candidates<'_>> {
        let index = |id: &EndpointId| self.members.binary_search_by_key(id, |member| member.id).ok();
        let mut avoided: Vec<usize> = tried.iter().filter_map(index).collect();
        avoided.sort_unstable();
        avoided.dedup();
        let mut candidates = Candidates { pool: self, avoided, shares: self.shares };
        candidates.shares -= candidates.avoided().map(|member| u64::from(member.share)).sum::<u64>();
        (candidates.shares > 0).then_some(candidates)
    }
}

/// The turns of a service. They begin anywhere: if they began at 0, the first calls of many nodes would meet at the first
/// endpoint.
fn turn_of(service: ServiceId) -> Result<cells::Word> {
    let turn = cells::Word::open(&service.name())?;
    if turn.load() == 0 {
        // Where this fails another worker was first.
        let _ = turn.compare_exchange(0, 1 + random::below(1 << 32));
    }
    Ok(turn)
}

/// The endpoints of a pool without those to avoid: at least one.
pub struct Candidates<'a> {
    pool: &'a Pool,
    /// Indexes of members, in order.
    avoided: Vec<usize>,
    /// The sum of the shares that are left.
    shares: u64,
}

impl Candidates<'_> {
    /// The one whose turn it is. If that one is to be avoided a random one takes it, so that its share spreads over all.
    pub fn in_turn(&self) -> Option<EndpointId> {
        let turn = self.pool.turn?.fetch_add(1).checked_rem(self.pool.schedule.len() as u64)?;
        let index = *self.pool.schedule.get(turn as usize)? as usize;
        if self.avoids(index) { self.at_random() } else { Some(self.pool.members.get(index)?.id) }
    }

    pub fn at_random(&self) -> Option<EndpointId> {
        Some(self.holder(random::below(self.shares))?.id)
    }

    pub fn on_ring(&self, key: &[u8]) -> Option<EndpointId> {
        let index = self.pool.ring.as_ref()?.find(key, |index| self.avoids(index))?;
        Some(self.pool.members.get(index)?.id)
    }

    /// The better of two different random ones (Mitzenmacher's two choices). Each member has one share here.
    pub fn better_of_two(&self, service: ServiceId) -> Option<EndpointId> {
        let first = random::below(self.shares);
        let one = self.holder(first)?;
        if self.shares == 1 {
            return Some(one.id);
        }
        let other = self.holder((first + 1 + random::below(self.shares - 1)) % self.shares)?;
        // Each cost should be divided by the endpoint's own weight; this compares the same without a division.
        let cost_of_one = cost(endpoints::load(service, one.id), other.weight);
        let cost_of_other = cost(endpoints::load(service, other.id), one.weight);
        Some(if cost_of_other < cost_of_one { other.id } else { one.id })
    }

    /// The member that holds this share, counted as if those to avoid held none.
    fn holder(&self, mut share: u64) -> Option<&Member> {
        for member in self.avoided() {
            if share >= member.before {
                share += u64::from(member.share);
            }
        }
        let next = self.pool.members.partition_point(|member| member.before <= share);
        self.pool.members.get(next.checked_sub(1)?)
    }

    fn avoided(&self) -> impl Iterator<Item = &Member> {
        self.avoided.iter().filter_map(|index| self.pool.members.get(*index))
    }

    fn avoids(&self, index: usize) -> bool {
        !self.avoided.is_empty() && self.avoided.binary_search(&index).is_ok()
    }
}

/// What one more exchange at an endpoint would cost: the time for all that it then has to do. Nothing where nobody has
/// asked it yet, so that somebody does; but while the first ones wait for its answer, more than at any known endpoint.
fn cost(load: endpoints::Load, factor: u32) -> (bool, u64) {
    let factor = u64::from(factor);
    let in_flight = u64::from(load.in_flight);
    match load.latency {
        Some(latency) => {
            let nanos = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
            (false, nanos.saturating_mul(in_flight + 1).saturating_mul(factor))
        }
        None => (in_flight > 0, in_flight.saturating_mul(factor)),
    }
}
