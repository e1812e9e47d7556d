use super::*;
use serde_json::json;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use weir_sdk::testing::fake::endpoints::Load;
use weir_sdk::testing::{Call, Harness, Host};

const ALL: [&str; 7] = [
    "round-robin",
    "random",
    "weighted-random",
    "weighted-round-robin",
    "least-connections",
    "p2c-ewma",
    "consistent-hash",
];

fn config(algorithm: &str) -> serde_json::Value {
    match algorithm {
        "consistent-hash" => json!({ "algorithm": algorithm, "hash-on": "x-user" }),
        _ => json!({ "algorithm": algorithm }),
    }
}

/// Endpoints by number, weight, and whether they are ejected.
fn endpoints(of: &[(u32, u32, bool)]) -> Vec<Endpoint> {
    let endpoint = |(id, weight, ejected): &(u32, u32, bool)| Endpoint {
        id: EndpointId(*id),
        address: format!("10.0.0.{id}:80"),
        weight: *weight,
        ejected: *ejected,
        ..Endpoint::default()
    };
    of.iter().map(endpoint).collect()
}

fn balancer(algorithm: &str, weights: &[u32]) -> Harness<LoadBalance> {
    let harness = Harness::new(config(algorithm)).unwrap();
    weigh(&harness, weights);
    harness
}

fn weigh(harness: &Harness<LoadBalance>, weights: &[u32]) {
    let of: Vec<_> = (0..).zip(weights).map(|(id, weight)| (id, *weight, false)).collect();
    harness.policy().on_endpoints(ServiceId(0), &endpoints(&of)).unwrap();
}

fn user(user: u32) -> Call {
    Call::new().field("x-user", format!("user-{user}"))
}

fn counts(harness: &Harness<LoadBalance>, endpoints: usize, picks: u32) -> Vec<u32> {
    let mut counts = vec![0; endpoints];
    for turn in 0..picks {
        counts[harness.pick(&user(turn), &[]).unwrap().unwrap() as usize] += 1;
    }
    counts
}

/// Pearson's statistic of counts that should be in proportion to the weights.
fn chi_square(counts: &[u32], weights: &[u32]) -> f64 {
    let (total, sum) = (f64::from(counts.iter().sum::<u32>()), f64::from(weights.iter().sum::<u32>()));
    let expected = |weight: &u32| total * f64::from(*weight) / sum;
    counts
        .iter()
        .zip(weights)
        .map(|(count, weight)| (f64::from(*count) - expected(weight)).powi(2) / expected(weight))
        .sum()
}

#[test]
fn round_robin_is_the_default() {
    let policy = Harness::<LoadBalance>::new(json!({})).unwrap();
    weigh(&policy, &[1, 1, 1]);
    let picks: Vec<u32> = (0..6).map(|_| policy.pick(&Call::new(), &[]).unwrap().unwrap()).collect();
    assert_eq!(picks[..3], picks[3..]);
    assert_eq!((picks[0] + 1) % 3, picks[1]);
    assert!(policy.needs().request.is_empty());
}

#[test]
fn a_wrong_configuration_is_refused_by_its_key() {
    let refused = |config| Harness::<LoadBalance>::new(config).err().unwrap();
    assert_eq!(refused(json!({ "hash-on": "x-user" })).pointer(), "/hash-on");
    assert_eq!(refused(json!({ "algorithm": "random", "hash-on": "x-user" })).pointer(), "/hash-on");
    assert_eq!(refused(json!({ "algorithm": "consistent-hash" })).pointer(), "/hash-on");
    assert_eq!(refused(json!({ "algorithm": "consistent-hash", "hash-on": "" })).pointer(), "/hash-on");
    assert!(refused(json!({ "algorithm": "fastest" })).message().contains("fastest"));
    assert!(refused(json!({ "algorithm": "random", "pools": [] })).message().contains("pools"));
}

#[test]
fn the_field_to_hash_is_the_only_one_read() {
    for field in ["X-User", ":path", ":peer"] {
        let policy = Harness::<LoadBalance>::new(json!({ "algorithm": "consistent-hash", "hash-on": field })).unwrap();
        assert_eq!(policy.needs().request, [field.to_lowercase()]);
    }
}

#[test]
fn every_algorithm_picks_whatever_is_left_and_nothing_else() {
    // Sparse numbers in any order; 4 is ejected.
    let of = [(9, 3, false), (2, 1, false), (4, 9, true), (700, 5, false)];
    let live = [2, 9, 700];
    for algorithm in ALL {
        let policy = Harness::<LoadBalance>::new(config(algorithm)).unwrap();
        policy.policy().on_endpoints(ServiceId(0), &endpoints(&of)).unwrap();
        policy.host(|host| host.load.extend(live.map(|endpoint| ((0, endpoint), Load::default()))));
        for subset in 0..8 {
            let mut tried: Vec<u32> = (0..3).filter(|bit| subset >> bit & 1 == 1).map(|bit| live[bit]).collect();
            tried.extend([4, 5, 2_000_000]);
            tried.extend(tried.clone());
            let left: Vec<u32> = live.into_iter().filter(|endpoint| !tried.contains(endpoint)).collect();
            let mut seen = Vec::new();
            for turn in 0..200 {
                let call = if turn % 2 == 0 { user(turn) } else { Call::new() };
                seen.extend(policy.pick(&call, &tried).unwrap());
            }
            seen.sort_unstable();
            seen.dedup();
            match algorithm {
                // The fake host always takes the first of equals.
                "least-connections" => assert_eq!(seen.first(), left.first()),
                _ => assert_eq!(seen, left, "{algorithm} with {tried:?} tried"),
            }
        }
    }
}

#[test]
fn a_service_without_endpoints_has_none_to_pick() {
    for algorithm in ALL {
        let policy = Harness::<LoadBalance>::new(config(algorithm)).unwrap();
        assert_eq!(policy.pick(&user(1), &[]).unwrap(), None);
        weigh(&policy, &[1]);
        policy.policy().on_endpoints(ServiceId(0), &endpoints(&[(0, 1, true)])).unwrap();
        assert_eq!(policy.pick(&user(1), &[]).unwrap(), None);
        policy.policy().on_endpoints(ServiceId(0), &[]).unwrap();
        assert_eq!(policy.pick(&user(1), &[]).unwrap(), None);
        assert_eq!(policy.pick(&user(1).service(70_000), &[]).unwrap(), None);
    }
}

#[test]
fn turns_are_taken_by_all_workers_together() {
    for (algorithm, weights, most_in_a_row) in [("round-robin", [5, 1, 1], 1), ("weighted-round-robin", [5, 1, 1], 4)] {
        let mut workers = vec![balancer(algorithm, &weights)];
        for _ in 0..3 {
            workers.push(Harness::another(config(algorithm)).unwrap());
            weigh(workers.last().unwrap(), &weights);
        }
        let (mut counts, mut run, mut last) = ([0u32; 3], 0, None);
        for turn in 0..2_100u32 {
            let worker = turn.wrapping_mul(2_654_435_761) >> 30;
            let picked = workers[worker as usize].pick(&Call::new(), &[]).unwrap();
            run = if picked == last { run + 1 } else { 1 };
            last = picked;
            assert!(run <= most_in_a_row, "{algorithm}: {run} in a row");
            counts[picked.unwrap() as usize] += 1;
        }
        let exact = if algorithm == "round-robin" { [700; 3] } else { [1_500, 300, 300] };
        assert_eq!(counts, exact, "{algorithm}");
    }
}

#[test]
fn turns_of_one_service_do_not_move_those_of_another() {
    let policy = balancer("round-robin", &[1, 1]);
    policy.policy().on_endpoints(ServiceId(3), &endpoints(&[(0, 1, false), (1, 1, false)])).unwrap();
    let pick = |service| policy.pick(&Call::new().service(service), &[]).unwrap().unwrap();
    let first = pick(0);
    pick(3);
    assert_ne!(pick(0), first);
}

#[test]
fn turns_begin_anywhere_but_once() {
    let first_pick = |seed| {
        let mut host = Host::default();
        host.seed = seed;
        let policy = Harness::<LoadBalance>::in_host(host, json!({})).unwrap();
        weigh(&policy, &[1; 8]);
        let first = policy.pick(&Call::new(), &[]).unwrap().unwrap();
        // The endpoints change, as they do when one is ejected: the turns go on.
        weigh(&policy, &[1; 8]);
        assert_eq!(policy.pick(&Call::new(), &[]).unwrap(), Some((first + 1) % 8));
        first
    };
    let firsts: std::collections::BTreeSet<u32> = (0..40).map(first_pick).collect();
    assert!(firsts.len() > 4, "{firsts:?}");
}

#[test]
fn random_picks_are_even_or_by_weight() {
    // 99.9 % of honest samples stay below: 27.9 with 9 degrees of freedom, 13.8 with 2.
    let even = counts(&balancer("random", &[9, 1, 1, 1, 1, 1, 1, 1, 1, 1]), 10, 20_000);
    assert!(chi_square(&even, &[1; 10]) < 27.9, "{even:?}");
    let weighted = counts(&balancer("weighted-random", &[5, 1, 2]), 3, 20_000);
    assert!(chi_square(&weighted, &[5, 1, 2]) < 13.8, "{weighted:?}");
    assert!(chi_square(&weighted, &[1, 1, 1]) > 1_000.0, "the test could tell");
}

#[test]
fn what_a_tried_endpoint_leaves_is_shared_by_weight() {
    for algorithm in ["weighted-random", "weighted-round-robin"] {
        let policy = balancer(algorithm, &[65_535, 3, 1]);
        let mut counts = [0; 3];
        for _ in 0..8_000 {
            counts[policy.pick(&Call::new(), &[0]).unwrap().unwrap() as usize] += 1;
        }
        assert_eq!(counts[0], 0);
        assert!(chi_square(&counts[1..], &[3, 1]) < 10.8, "{algorithm}: {counts:?}");
    }
}

#[test]
fn least_connections_asks_the_host() {
    let policy = balancer("least-connections", &[1, 1, 1]);
    let load = |in_flight| Load { in_flight, latency: 0 };
    policy.host(|host| host.load.extend([((0, 0), load(4)), ((0, 1), load(1)), ((0, 2), load(2))]));
    assert_eq!(policy.pick(&Call::new(), &[]).unwrap(), Some(1));
    assert_eq!(policy.pick(&Call::new(), &[1]).unwrap(), Some(2));
    assert_eq!(policy.pick(&Call::new(), &[0, 1, 2]).unwrap(), None);
}

#[test]
fn the_same_key_goes_to_the_same_endpoint_on_every_worker() {
    let one = balancer("consistent-hash", &[1, 2, 1]);
    let other = Harness::<LoadBalance>::another(config("consistent-hash")).unwrap();
    let mut reversed = endpoints(&[(0, 1, false), (1, 2, false), (2, 1, false)]);
    reversed.reverse();
    other.policy().on_endpoints(ServiceId(0), &reversed).unwrap();
    for key in 0..500 {
        let endpoint = one.pick(&user(key), &[]).unwrap().unwrap();
        assert_eq!(other.pick(&user(key), &[]).unwrap(), Some(endpoint));
        let next = one.pick(&user(key), &[endpoint]).unwrap();
        assert_eq!(other.pick(&user(key), &[endpoint]).unwrap(), next);
    }
}

#[test]
fn requests_without_the_field_take_turns() {
    let policy = balancer("consistent-hash", &[3, 1, 1]);
    for call in [Call::new(), Call::new().field("x-user", "")] {
        let mut counts = [0; 3];
        for _ in 0..30 {
            counts[policy.pick(&call, &[]).unwrap().unwrap() as usize] += 1;
        }
        assert_eq!(counts, [10; 3]);
    }
}

#[test]
fn two_choices_take_the_cheaper_one() {
    let policy = balancer("p2c-ewma", &[1, 1]);
    let set = |endpoint, in_flight, milliseconds: u64| {
        policy.host(|host| host.load.insert((0, endpoint), Load { in_flight, latency: milliseconds * 1_000_000 }));
    };
    let always = |picked| (0..20).all(|_| policy.pick(&Call::new(), &[]).unwrap() == Some(picked));
    set(0, 9, 1);
    set(1, 0, 11);
    assert!(always(0), "10 ms of work against 11");
    set(0, 11, 1);
    assert!(always(1), "12 ms of work against 11");
    set(0, 0, 0);
    assert!(always(0), "not known: somebody should ask");
    set(0, 1, 0);
    assert!(always(1), "not known, and already asked");
    set(1, 2, 0);
    assert!(always(0), "neither known: the one with less in flight");
}

#[test]
fn two_choices_go_by_weight_too() {
    let policy = balancer("p2c-ewma", &[4, 1]);
    let load = |in_flight| Load { in_flight, latency: 1_000_000 };
    policy.host(|host| host.load.extend([((0, 0), load(6)), ((0, 1), load(1))]));
    assert_eq!(policy.pick(&Call::new(), &[]).unwrap(), Some(0), "7 / 4 against 2 / 1");
    policy.host(|host| host.load.extend([((0, 0), load(8)), ((0, 1), load(1))]));
    assert_eq!(policy.pick(&Call::new(), &[]).unwrap(), Some(1), "9 / 4 against 2 / 1");
}

/// Endpoints with queues and a host that averages their latency as peak-EWMA does: a peak counts at once, what is better
/// counts by and by, and what nobody asks is forgotten.
struct Simulation {
    policy: Harness<LoadBalance>,
    /// Milliseconds an endpoint takes.
    takes: Vec<f64>,
    /// By endpoint: in flight, average, and when it was updated.
    states: Vec<(u32, f64, f64)>,
    decay: f64,
}

impl Simulation {
    fn new(takes: &[f64], decay: f64) -> Self {
        let policy = balancer("p2c-ewma", &vec![1; takes.len()]);
        Self { policy, takes: takes.to_vec(), states: vec![(0, 0.0, 0.0); takes.len()], decay }
    }

    /// The share of each endpoint when this many calls come in, so many milliseconds apart.
    fn run(&mut self, calls: u32, apart: f64) -> Vec<f64> {
        let mut answers = BinaryHeap::new();
        let mut counts = vec![0u32; self.takes.len()];
        for call in 0..calls {
            let now = f64::from(call) * apart;
            while let Some(Reverse((at, endpoint, took))) = answers.peek().copied()
                && at as f64 / 1e6 <= now
            {
                answers.pop();
                self.answer(endpoint, took as f64 / 1e6, at as f64 / 1e6);
            }
            for (endpoint, (in_flight, average, updated)) in (0..).zip(&self.states) {
                let latency = average * (-(now - updated) / self.decay).exp() * 1e6;
                let load = Load { in_flight: *in_flight, latency: latency as u64 };
                self.policy.host(|host| host.load.insert((0, endpoint), load));
            }
            let picked = self.policy.pick(&Call::new(), &[]).unwrap().unwrap() as usize;
            counts[picked] += 1;
            self.states[picked].0 += 1;
            let took = self.takes[picked];
            answers.push(Reverse((((now + took) * 1e6) as u64, picked, (took * 1e6) as u64)));
        }
        counts.iter().map(|count| f64::from(*count) / f64::from(calls)).collect()
    }

    fn answer(&mut self, endpoint: usize, took: f64, now: f64) {
        let (in_flight, average, updated) = &mut self.states[endpoint];
        let old = (-(now - *updated) / self.decay).exp();
        *average = if took > *average { took } else { *average * old + took * (1.0 - old) };
        (*in_flight, *updated) = (*in_flight - 1, now);
    }
}

#[test]
fn two_choices_send_at_most_three_percent_to_a_slow_endpoint() {
    for (takes, calls, apart) in [
        (&[2.0, 2.0, 200.0][..], 20_000, 1.0),
        (&[2.0, 2.0, 200.0], 20_000, 0.1),
        (&[2.0, 2.0, 200.0], 2_000, 50.0),
        (&[5.0, 500.0], 10_000, 2.0),
        (&[1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 50.0], 20_000, 0.5),
        (&[2.0, 2.0, 2_000.0], 1_000, 2.0),
    ] {
        let shares = Simulation::new(takes, 10_000.0).run(calls, apart);
        let slow = *shares.last().unwrap();
        assert!(slow <= 0.03, "{takes:?}, {apart} ms apart: {shares:?}");
        assert!(slow > 0.0, "it is still asked now and then: {shares:?}");
        let fast = &shares[..takes.len() - 1];
        let fair = 1.0 / fast.len() as f64;
        assert!(fast.iter().all(|share| (share - fair).abs() < 0.25 * fair), "{shares:?}");
    }
}

#[test]
fn ten_thousand_endpoints_are_picked_alike() {
    for algorithm in ALL.into_iter().filter(|algorithm| *algorithm != "least-connections") {
        let weights: Vec<u32> = (0..10_000).map(|endpoint| 1 + endpoint % 3).collect();
        let policy = balancer(algorithm, &weights);
        let first = policy.pick(&user(0), &[]).unwrap().unwrap();
        let mut tried = vec![first];
        for _ in 0..20 {
            let next = policy.pick(&user(0), &tried).unwrap().unwrap();
            assert!(!tried.contains(&next), "{algorithm}");
            tried.push(next);
        }
    }
}

#[test]
fn messages_go_by_their_key_and_past_the_endpoint_that_failed() {
    let config = json!({ "algorithm": "consistent-hash", "hash-on": "x-weir-key" });
    let policy = Harness::<LoadBalance>::new(config).unwrap();
    weigh(&policy, &[1; 5]);
    for customer in 0..100 {
        // Each attempt at a delivery is an exchange of its own; the endpoint of the one before comes with it.
        let attempt = |made| {
            let call = Call::new().id(u64::from(made)).kind(weir_sdk::ExchangeKind::Delivery).attempts(made);
            call.field("x-weir-key", format!("customer-{customer}"))
        };
        let home = policy.pick(&attempt(0), &[]).unwrap().unwrap();
        assert_eq!(policy.pick(&attempt(1), &[]).unwrap(), Some(home), "the next message of the key too");
        let elsewhere = policy.pick(&attempt(1), &[home]).unwrap().unwrap();
        assert_ne!(elsewhere, home);
        assert_eq!(policy.pick(&attempt(7), &[home]).unwrap(), Some(elsewhere));
    }
}

#[test]
fn a_message_without_a_key_takes_turns() {
    let policy =
        Harness::<LoadBalance>::new(json!({ "algorithm": "consistent-hash", "hash-on": "x-weir-key" })).unwrap();
    weigh(&policy, &[1; 3]);
    let pick = |_| policy.pick(&Call::new().kind(weir_sdk::ExchangeKind::Delivery), &[]).unwrap().unwrap();
    let mut picked: Vec<u32> = (0..3).map(pick).collect();
    picked.sort_unstable();
    assert_eq!(picked, [0, 1, 2]);
}

#[test]
fn a_publish_has_one_endpoint_under_every_algorithm() {
    for algorithm in ["round-robin", "weighted-round-robin", "random", "weighted-random", "p2c-ewma", "consistent-hash"]
    {
        let policy = balancer(algorithm, &[1]);
        let call = Call::new().kind(weir_sdk::ExchangeKind::Publish);
        assert_eq!(policy.pick(&call, &[]).unwrap(), Some(0), "{algorithm}");
        assert_eq!(
            policy.pick(&call, &[0]).unwrap(),
            None,
            "{algorithm}: whether it may be used again is the host's to say"
        );
    }
}
