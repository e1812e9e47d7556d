//! A node with one worker, on the thread that measures: nothing happens but what is asked for.

use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use http::{HeaderMap, HeaderValue, Method};
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};
use tokio::task::LocalSet;
use weir::chain::Chain;
use weir::config;
use weir::exchange::Exchange;
use weir::node::Node;
use weir::outcome::Outcome;
use weir::plugin::engine::PluginEngine;
use weir::reload::Reloader;
use weir::snapshot::Route;
use weir::telemetry::log::LogMode;
use weir::telemetry::metrics::Metrics;
use weir::telemetry::record::{End, Kind};
use weir::telemetry::recording::Recording;
use weir::telemetry::{self, Telemetry};
use weir::worker::Worker;

use super::head::Head;
use crate::weir::Setup;

pub struct Rig {
    pub worker: Rc<Worker>,
    pub local: LocalSet,
    pub runtime: Runtime,
    pub file: PathBuf,
    _files: TempDir,
}

impl Rig {
    /// Starts it from a configuration whose keys may be in the directory.
    ///
    /// # Errors
    /// The configuration or a plugin cannot be used.
    pub fn start(setup: &Setup, files: TempDir) -> Result<Self> {
        let file = setup.write(files.path())?;
        let document = config::Document::load(&file)?;
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let options = telemetry::Options { log: LogMode::None, spans: None };
        let (telemetry, _exports) = Telemetry::start(&options, Metrics::new(), io::sink(), runtime.handle())?;
        let engine = PluginEngine::new().map_err(|error| anyhow!("{error:#}"))?;
        let node = Arc::new(Node::new(engine, Arc::new(telemetry), runtime.handle().clone(), document.config()));
        let started = Reloader::start(node.clone(), &file, document);
        let (_reloader, built) = started.map_err(config::Problems::from)?;
        let problems = built.refused.iter().chain(&built.unusable).map(ToString::to_string);
        let problems: Vec<String> = problems.collect();
        ensure!(problems.is_empty(), "{}", problems.join("\n"));
        built.publish(&node, &file).map_err(config::Problems::from)?;
        let local = LocalSet::new();
        let worker = local.block_on(&runtime, async {
            let worker = Worker::new(node, 0);
            worker.current();
            worker
        });
        Ok(Self { worker, local, runtime, file, _files: files })
    }

    /// The route of a service, which is found by its name as the host.
    ///
    /// # Panics
    /// There is none.
    pub fn route(&self, service: &str) -> Arc<Route> {
        let snapshot = self.worker.node.snapshot();
        let route = snapshot.route("in", service, "/", &Method::GET, &HeaderMap::new());
        route.with_context(|| format!("no route to {service:?}")).unwrap().clone()
    }

    /// The chain of a route.
    pub fn chain(&self, route: &Route) -> Rc<Chain> {
        self.worker.current().chain(route.chain)
    }

    /// An exchange that begins.
    pub fn exchange(&self, route: &Arc<Route>, chain: &Rc<Chain>) -> Exchange {
        let id = HeaderValue::from_static("01d4c2f0-1");
        let mut recording = Recording::begin(&self.worker.telemetry, Kind::Call, id);
        recording.set_route(&route.name, route.metrics(&self.worker.node.telemetry.metrics));
        let place = self.worker.enter().expect("a place");
        let id = self.worker.next_exchange_id();
        Exchange::new(id, route.id, route.service.clone(), chain.clone(), recording, place)
    }

    /// What a chain has to do with one exchange, from the first hook to the record: one attempt, answered with 200.
    ///
    /// # Panics
    /// A policy replies, refuses or fails.
    pub fn walk(&self, route: &Arc<Route>, chain: &Rc<Chain>, request: &Head, answer: &Head) {
        let mut exchange = self.exchange(route, chain);
        let (mut request, mut answer) = (request.clone(), answer.clone());
        chain.on_request(&mut exchange, &mut request).expect("no reply");
        let picked = chain.pick(&mut exchange, &request, &[]).expect("a pick");
        let endpoints = exchange.service.endpoints();
        let endpoint = match picked {
            Some(picked) => picked.and_then(|id| endpoints.get(id)).expect("an endpoint").clone(),
            None => exchange.service.round_robin(&[], weir::clock::now()).expect("an endpoint"),
        };
        exchange.attempt += 1;
        let said = chain.on_attempt(&mut exchange, endpoint.id, &mut request);
        assert!(matches!(said, Ok(weir::chain::Attempt::Proceed)), "{said:?}");
        exchange.begin_attempt(&endpoint);
        let (latency, in_flight) = exchange.end_attempt(None);
        chain.on_outcome(&mut exchange, chain.len(), &answered(endpoint.id, 200, latency), &answer);
        chain.on_response(&mut exchange, &mut answer).expect("no reply");
        drop(in_flight);
        exchange.recording.record.status = Some(200);
        exchange.end = End::Ok;
    }
}

/// An outcome that may be repeated.
pub fn answered(endpoint: u32, status: u16, latency: Duration) -> Outcome {
    Outcome { endpoint, status, grpc_status: None, failure: None, latency, repeatable: true }
}
