//! The least loaded endpoint in O(log n): a tournament tree over in-flight counts, kept up only once a policy has asked.

use super::EndpointSet;
use super::endpoint::Endpoint;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

#[derive(Debug, Default)]
pub struct LeastLoaded {
    tree: Mutex<Tree>,
}

/// A complete binary tree in one `Vec`: node 1 is the root, the children of `n` are `2n` and `2n + 1`, and leaf `id` is at
/// `leaves + id`.
#[derive(Debug, Default)]
struct Tree {
    leaves: usize,
    nodes: Vec<Node>,
}

/// The least load below a node, and how many leaves have it: what a fair choice between ties needs.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Node {
    load: f64,
    ties: u32,
}

const NONE: Node = Node { load: f64::INFINITY, ties: 0 };

impl Node {
    fn of(endpoint: &Endpoint) -> Self {
        // One more than in flight, so that weights tell between idle endpoints too.
        Self { load: f64::from(endpoint.in_flight() + 1) / f64::from(endpoint.weight.max(1)), ties: 1 }
    }

    fn better(self, other: Self) -> Self {
        if self.load < other.load {
            self
        } else if other.load < self.load {
            other
        } else {
            Self { load: self.load, ties: self.ties + other.ties }
        }
    }
}

impl Tree {
    fn node(&self, at: usize) -> Node {
        self.nodes.get(at).copied().unwrap_or(NONE)
    }

    fn set(&mut self, id: u32, leaf: Node) {
        let mut at = self.leaves + id as usize;
        if let Some(node) = self.nodes.get_mut(at) {
            *node = leaf;
        }
        while at > 1 {
            at /= 2;
            let best = self.node(2 * at).better(self.node(2 * at + 1));
            if let Some(node) = self.nodes.get_mut(at) {
                *node = best;
            }
        }
    }

    fn find(&self) -> Option<u32> {
        let mut at = 1;
        if self.node(at).ties == 0 {
            return None;
        }
        while at < self.leaves {
            let (left, right) = (self.node(2 * at), self.node(2 * at + 1));
            at = if left.load < right.load {
                2 * at
            } else if right.load < left.load || rand::random_range(0..(left.ties + right.ties).max(1)) >= left.ties {
                2 * at + 1
            } else {
                2 * at
            };
        }
        u32::try_from(at - self.leaves).ok()
    }
}

impl LeastLoaded {
    fn lock(&self) -> MutexGuard<'_, Tree> {
        self.tree.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts over with another set of endpoints.
    pub fn rebuild(&self, set: &EndpointSet) {
        // Before the loads are read: an update in between waits, and is not lost.
        let mut current = self.lock();
        let leaves = set.by_id.len().next_power_of_two().max(1);
        let mut nodes = vec![NONE; 2 * leaves];
        for endpoint in set.iter() {
            if let Some(leaf) = nodes.get_mut(leaves + endpoint.id as usize) {
                *leaf = Node::of(endpoint);
            }
        }
        let mut tree = Tree { leaves, nodes };
        for at in (1..leaves).rev() {
            let best = tree.node(2 * at).better(tree.node(2 * at + 1));
            if let Some(node) = tree.nodes.get_mut(at) {
                *node = best;
            }
        }
        *current = tree;
    }

    /// The load of an endpoint has changed.
    pub fn update(&self, endpoint: &Arc<Endpoint>) {
        self.lock().set(endpoint.id, Node::of(endpoint));
    }

    /// The least loaded one that is not to be avoided and passes `usable`; O(log n) for each one passed over.
    pub fn find(&self, avoid: &[u32], usable: impl Fn(u32) -> bool) -> Option<u32> {
        let mut tree = self.lock();
        let mut passed: Vec<(u32, Node)> = Vec::new();
        let found = loop {
            match tree.find() {
                Some(id) if avoid.contains(&id) || !usable(id) => {
                    let at = tree.leaves + id as usize;
                    passed.push((id, tree.node(at)));
                    tree.set(id, NONE);
                }
                found => break found,
            }
        };
        passed.into_iter().for_each(|(id, node)| tree.set(id, node));
        found
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{Endpoint, Protocol};
    use crate::service::{ServiceOptions, Services};
    use std::time::Duration;

    fn service(weights: &[u32]) -> std::sync::Arc<crate::service::Service> {
        let second = Duration::from_secs(1);
        let options = ServiceOptions {
            protocol: Protocol::Http1,
            connect_timeout: second,
            idle_timeout: second,
            max_connections: 1,
            max_pending: 1,
        };
        let service = Services::default().intern("s", options);
        let spec = |(at, weight): (usize, &u32)| Endpoint {
            address: format!("h:{}", at + 1),
            weight: *weight,
            metadata: Default::default(),
        };
        service.set_endpoints(&weights.iter().enumerate().map(spec).collect::<Vec<_>>());
        service
    }

    #[test]
    fn least_loaded_follows_what_is_in_flight_and_the_weights() {
        let service = service(&[1, 1, 2]);
        let set = service.endpoints();
        assert_eq!(service.least_loaded(&[], 0), Some(2));
        let held: Vec<_> = (0..2).map(|_| service.begin(set.get(2).unwrap())).collect();
        assert!(matches!(service.least_loaded(&[], 0), Some(0 | 1)));
        assert_eq!(service.least_loaded(&[0, 1], 0), Some(2));
        assert_eq!(service.least_loaded(&[0, 1, 2], 0), None);
        drop(held);
        assert_eq!(service.least_loaded(&[], 0), Some(2));
    }

    #[test]
    fn ties_are_broken_evenly_and_ejected_endpoints_are_passed_over() {
        let service = service(&[1; 5]);
        assert!(service.eject(4, 100, 0));
        let mut seen = [0; 5];
        for _ in 0..4000 {
            seen[service.least_loaded(&[], 0).unwrap() as usize] += 1;
        }
        assert_eq!(seen[4], 0);
        assert!(seen[..4].iter().all(|count| (800..1200).contains(count)), "{seen:?}");
        assert_eq!(service.least_loaded(&[0, 1, 2, 3], 100), Some(4));
    }

    #[test]
    fn the_last_endpoint_cannot_be_ejected_and_those_that_stay_keep_their_number() {
        let service = service(&[1, 1]);
        assert!(service.eject(0, 100, 0) && !service.eject(1, 100, 0));
        let version = service.version();
        service.set_endpoints(&["h:2", "h:9", "h:8"].map(|address| Endpoint {
            address: address.into(),
            weight: 3,
            metadata: Default::default(),
        }));
        let set = service.endpoints();
        assert!(set.version > version);
        let by_id: Vec<_> = (0..3).map(|id| set.get(id).unwrap().address.to_string()).collect();
        assert_eq!(by_id, ["h:9", "h:2", "h:8"]);
    }
}
