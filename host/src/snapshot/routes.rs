//! The routes of a snapshot: a table that is taken over whole where nothing that it is made of changed, and of which each
//! route is taken over that stays.

use super::Route;
use crate::config::{self, Config, Problem};
use crate::node::Node;
use crate::route::{RouteSpec, Routes};
use crate::service::{Service, ServiceOptions};
use http::HeaderValue;
use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Finds the route of a request.
#[derive(Debug, Default)]
pub struct RouteTable {
    made_of: Parts,
    pub(super) routes: Routes,
    /// By the place in the configuration.
    pub(super) entries: Vec<Arc<Route>>,
    names: HashSet<Arc<str>>,
}

/// What a table depends on, besides what stays for the life of the process.
#[derive(Debug, Default)]
struct Parts {
    routes: Arc<[Arc<config::Route>]>,
    /// The names of the chains, whose order gives them their numbers.
    chains: Vec<String>,
    stream_idle_timeout: Option<Duration>,
}

impl Parts {
    fn of(config: &Config) -> Self {
        Self {
            routes: config.routes.clone(),
            chains: config.chains.keys().cloned().collect(),
            stream_idle_timeout: config.limits.stream_idle_timeout,
        }
    }

    /// Whether a route that stays in the configuration stays the same.
    fn keep_routes(&self, other: &Self) -> bool {
        self.chains == other.chains && self.stream_idle_timeout == other.stream_idle_timeout
    }

    fn chain(&self, name: &str) -> usize {
        // Number 0 is the chain without policies.
        self.chains.binary_search_by(|known| known.as_str().cmp(name)).map_or(0, |at| at + 1)
    }
}

impl RouteTable {
    /// The table of a configuration.
    ///
    /// # Errors
    /// Every route that cannot be understood.
    pub fn build(node: &Node, file: &Path, config: &Config, previous: &Arc<Self>) -> Result<Arc<Self>, Vec<Problem>> {
        let parts = Parts::of(config);
        let keep_routes = parts.keep_routes(&previous.made_of);
        if keep_routes && Arc::ptr_eq(&parts.routes, &previous.made_of.routes) {
            return Ok(previous.clone());
        }
        let known: HashMap<*const config::Route, &Arc<Route>> = match keep_routes {
            true => previous.made_of.routes.iter().map(Arc::as_ptr).zip(&previous.entries).collect(),
            false => HashMap::new(),
        };
        let mut services = HashMap::new();
        for service in &*config.services {
            services.insert(service.name.as_str(), service);
        }
        let (mut specs, mut entries) = (Vec::new(), Vec::new());
        let mut taken: HashMap<String, u32> = HashMap::new();
        for route in &*parts.routes {
            let Some(service) = services.get(route.service.as_str()) else { continue };
            specs.push(spec(route));
            let name = unique(name_of(route), &mut taken);
            let entry = match known.get(&Arc::as_ptr(route)) {
                Some(known) if *known.name == *name => (*known).clone(),
                _ => {
                    let service = node.services.intern(&service.name, ServiceOptions::of(service));
                    Arc::new(entry(node, &parts, route, &name, service))
                }
            };
            entries.push(entry);
        }
        let problem =
            |problem: crate::route::RouteProblem| Problem::new(file, config::Position::FILE, problem.to_string());
        let routes = Routes::build(specs).map_err(|problems| problems.into_iter().map(problem).collect::<Vec<_>>())?;
        let names = entries.iter().map(|route| route.name.clone()).collect();
        Ok(Arc::new(Self { made_of: parts, routes, entries, names }))
    }

    /// Whether there is a route of that name.
    pub fn has(&self, name: &str) -> bool {
        self.names.contains(name)
    }
}

fn entry(node: &Node, parts: &Parts, route: &config::Route, name: &str, service: Arc<Service>) -> Route {
    let (id, name) = node.route_names.intern(name);
    Route {
        id,
        name,
        service,
        chain: route.chain.as_deref().map_or(0, |chain| parts.chain(chain)),
        strip_prefix: route.rewrite.as_ref().map(|rewrite| rewrite.strip_prefix.clone()),
        timeout: route.timeout,
        attempt_timeout: route.attempt_timeout,
        stream_idle_timeout: route.stream_idle_timeout.unwrap_or(parts.stream_idle_timeout),
        metrics: OnceLock::new(),
    }
}

fn spec(route: &config::Route) -> RouteSpec {
    let header = |(name, value): &(http::HeaderName, String)| Some((name.clone(), HeaderValue::from_str(value).ok()?));
    RouteSpec {
        listener: route.listener.clone(),
        host: route.matcher.host.clone(),
        path_prefix: route.matcher.path_prefix.clone(),
        methods: route.matcher.methods.clone(),
        headers: route.matcher.headers.iter().filter_map(header).collect(),
    }
}

/// What people call a route: where it leads from, as short as it is clear.
fn name_of(route: &config::Route) -> String {
    let methods: Vec<&str> = route.matcher.methods.iter().map(http::Method::as_str).collect();
    let methods = if methods.is_empty() { String::new() } else { format!("{} ", methods.join(",")) };
    let headers: String = route.matcher.headers.iter().map(|(name, value)| format!(" {name}={value}")).collect();
    let host = route.matcher.host.as_deref().unwrap_or("*");
    let listener = route.listener.as_deref().map(|listener| format!("{listener}:")).unwrap_or_default();
    format!("{methods}{listener}{host}{}{headers}", route.matcher.path_prefix.as_deref().unwrap_or("/"))
}

/// The second route of a name is told from the first.
fn unique(name: String, taken: &mut HashMap<String, u32>) -> String {
    match taken.get_mut(&name) {
        Some(times) => {
            *times += 1;
            format!("{name}#{times}")
        }
        None => {
            taken.insert(name.clone(), 1);
            name
        }
    }
}
