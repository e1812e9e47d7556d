//! Which route a request takes: the most specific one that matches.
//!
//! Routes are compared by host (exact before the longest `*.` suffix before any), then by path prefix (the longest),
//! then by the number of header conditions, then those with methods before those without, then those for one listener
//! before those for all, then by their order in the file. Where a route fits by host and path but not in the rest, less
//! specific ones have their turn.
//!
//! A lookup goes by hash from host to host and from segment to segment, so its cost depends on how deep the routes go and
//! not on how many there are. Only routes of the same host and the same prefix are tried one by one. It allocates
//! nothing.

#[cfg(test)]
mod tests;

use std::{cmp::Reverse, collections::HashMap};

use http::{HeaderMap, HeaderName, HeaderValue, Method};

/// The longest a host name can be, in bytes (RFC 1035, section 2.3.4). Longer ones fit routes for any host only.
const MAX_HOST_BYTES: usize = 253;

/// What a request has to be like. Absent parts fit all.
#[derive(Clone, Debug, Default)]
pub struct RouteSpec {
    /// The name of the listener it came in by.
    pub listener: Option<String>,
    /// A host name or address without port, in any case; `*.example.com` for all names below, however deep.
    pub host: Option<String>,
    /// Whole segments: `/users` fits `/users` and `/users/1`, not `/usersx`. A slash at the end does not count.
    pub path_prefix: Option<String>,
    /// Any of these; none: every method.
    pub methods: Vec<Method>,
    /// All of these: one of the header's values is the same, byte for byte.
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

/// What is wrong with a route.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("route {route}: {message}")]
pub struct RouteProblem {
    /// Its place in the list, from 0.
    pub route: usize,
    pub message: String,
}

/// The table of routes.
#[derive(Debug, Default)]
pub struct Routes {
    exact: HashMap<Box<str>, Paths>,
    /// By what follows `*.`.
    below: HashMap<Box<str>, Paths>,
    /// The longest key of `below`, so that a host of many labels costs no more lookups than can succeed.
    below_max_bytes: usize,
    any: Paths,
}

/// Path prefixes as a tree of segments. The first node is the root, which is `/`.
#[derive(Debug)]
struct Paths {
    nodes: Vec<Node>,
}

#[derive(Debug, Default)]
struct Node {
    parent: Option<usize>,
    children: HashMap<Box<str>, usize>,
    /// The routes with just this prefix, most specific first.
    candidates: Vec<Candidate>,
}

/// What is left to compare once host and path fit.
#[derive(Debug)]
struct Candidate {
    route: usize,
    listener: Option<Box<str>>,
    methods: Vec<Method>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

struct Query<'a> {
    listener: &'a str,
    path: &'a str,
    method: &'a Method,
    headers: &'a HeaderMap,
}

impl Routes {
    /// A route's number is its place in the list.
    ///
    /// # Errors
    /// Every host or path that cannot be understood.
    pub fn build(specs: Vec<RouteSpec>) -> Result<Self, Vec<RouteProblem>> {
        let mut routes = Self::default();
        let mut problems = Vec::new();
        for (route, spec) in specs.into_iter().enumerate() {
            if let Err(message) = routes.add(route, spec) {
                problems.push(RouteProblem { route, message });
            }
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        let hosts = routes.exact.values_mut().chain(routes.below.values_mut());
        for paths in hosts.chain([&mut routes.any]) {
            paths.finish();
        }
        Ok(routes)
    }

    /// The number of the route for a request, whose host is given without its port and whose path without its query.
    pub fn find(&self, listener: &str, host: &str, path: &str, method: &Method, headers: &HeaderMap) -> Option<usize> {
        let query = Query { listener, path, method, headers };
        let mut buffer = [0; MAX_HOST_BYTES];
        lower_case(host, &mut buffer).and_then(|host| self.find_by_host(host, &query)).or_else(|| self.any.find(&query))
    }

    /// Whether some route is for this host, by its name or one that it is below of.
    pub fn names(&self, host: &str) -> bool {
        let mut buffer = [0; MAX_HOST_BYTES];
        lower_case(host, &mut buffer).is_some_and(|host| {
            let suffixes = host.match_indices('.').filter_map(|(dot, _)| host.get(dot + 1..));
            self.exact.contains_key(host) || suffixes.into_iter().any(|suffix| self.below.contains_key(suffix))
        })
    }

    fn find_by_host(&self, host: &str, query: &Query<'_>) -> Option<usize> {
        if let Some(route) = self.exact.get(host).and_then(|paths| paths.find(query)) {
            return Some(route);
        }
        if self.below.is_empty() {
            return None;
        }
        let mut rest = host;
        while let Some((_, suffix)) = rest.split_once('.') {
            rest = suffix;
            if suffix.len() <= self.below_max_bytes
                && let Some(route) = self.below.get(suffix).and_then(|paths| paths.find(query))
            {
                return Some(route);
            }
        }
        None
    }

    fn add(&mut self, route: usize, spec: RouteSpec) -> Result<(), String> {
        let prefix = spec.path_prefix.as_deref().unwrap_or("/");
        if !prefix.starts_with('/') || prefix.contains(['?', '#']) {
            return Err(format!("path-prefix {prefix:?} has to begin with \"/\", and has no query"));
        }
        let host = spec.host.as_deref().map(host_pattern).transpose()?;
        let paths = match host {
            None => &mut self.any,
            Some(Host::Exact(host)) => self.exact.entry(host).or_default(),
            Some(Host::Below(suffix)) => {
                self.below_max_bytes = self.below_max_bytes.max(suffix.len());
                self.below.entry(suffix).or_default()
            }
        };
        paths.add(
            prefix,
            Candidate { route, listener: spec.listener.map(Into::into), methods: spec.methods, headers: spec.headers },
        );
        Ok(())
    }
}

enum Host {
    Exact(Box<str>),
    Below(Box<str>),
}

fn host_pattern(pattern: &str) -> Result<Host, String> {
    let name = pattern.strip_prefix("*.").unwrap_or(pattern);
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    // Colons belong to IPv6 addresses, which stand in brackets.
    let has_port = name.contains(':') && !(name.starts_with('[') && name.ends_with(']'));
    if name.is_empty() || name.len() > MAX_HOST_BYTES || has_port || name.contains(['*', '/', ' ']) {
        return Err(format!(
            "host {pattern:?} has to be a name without port, as \"example.com\" or \"*.example.com\"; leave it out for any"
        ));
    }
    let name = name.into_boxed_str();
    Ok(if pattern.starts_with("*.") { Host::Below(name) } else { Host::Exact(name) })
}

/// The host in the form of the table's keys; None if none of them can be so long.
fn lower_case<'a>(host: &str, buffer: &'a mut [u8; MAX_HOST_BYTES]) -> Option<&'a str> {
    let host = host.strip_suffix('.').unwrap_or(host);
    let name = buffer.get_mut(..host.len())?;
    name.copy_from_slice(host.as_bytes());
    name.make_ascii_lowercase();
    str::from_utf8(name).ok()
}

impl Default for Paths {
    fn default() -> Self {
        Self { nodes: vec![Node::default()] }
    }
}

impl Paths {
    fn add(&mut self, prefix: &str, candidate: Candidate) {
        let mut at = 0;
        let segments = prefix.trim_end_matches('/').split('/').skip(1);
        for segment in segments {
            let new = self.nodes.len();
            let Some(node) = self.nodes.get_mut(at) else {
                return;
            };
            let child = *node.children.entry(segment.into()).or_insert(new);
            if child == new {
                self.nodes.push(Node { parent: Some(at), ..Node::default() });
            }
            at = child;
        }
        if let Some(node) = self.nodes.get_mut(at) {
            node.candidates.push(candidate);
        }
    }

    /// No more come. Of ten thousand hosts most have one route, and no use for room for more.
    fn finish(&mut self) {
        self.nodes.shrink_to_fit();
        for node in &mut self.nodes {
            node.candidates.sort_by_key(Candidate::rank);
            node.candidates.shrink_to_fit();
        }
    }

    fn find(&self, query: &Query<'_>) -> Option<usize> {
        // Down as far as the path goes, then up until a route fits.
        let mut node = self.nodes.first()?;
        let mut rest = query.path.strip_prefix('/');
        while let Some(path) = rest
            && !node.children.is_empty()
        {
            let (segment, below) = match path.split_once('/') {
                Some((segment, below)) => (segment, Some(below)),
                None => (path, None),
            };
            match node.children.get(segment).and_then(|child| self.nodes.get(*child)) {
                Some(child) => node = child,
                None => break,
            }
            rest = below;
        }
        loop {
            let fitting = node.candidates.iter().find(|candidate| candidate.fits(query));
            if let Some(candidate) = fitting {
                return Some(candidate.route);
            }
            node = self.nodes.get(node.parent?)?;
        }
    }
}

impl Candidate {
    /// Smaller is more specific.
    fn rank(&self) -> (Reverse<usize>, bool, bool, usize) {
        let headers = Reverse(self.headers.len());
        (headers, self.methods.is_empty(), self.listener.is_none(), self.route)
    }

    fn fits(&self, query: &Query<'_>) -> bool {
        self.listener.as_deref().is_none_or(|listener| listener == query.listener)
            && (self.methods.is_empty() || self.methods.contains(query.method))
            && self.headers.iter().all(|(name, value)| query.headers.get_all(name).iter().any(|given| given == value))
    }
}
