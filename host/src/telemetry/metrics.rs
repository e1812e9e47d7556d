//! The metrics of the node, served by the admin listener at `/metrics`.
//!
//! Names and labels are looked up when a configuration is built; an exchange holds the handles
//! (see [`handles`]) and only adds to atomics. Every handle is `Send`, `Sync` and a few reference
//! counts to clone. What leaves the configuration leaves by [`Metrics::retain`].

pub mod handles;
pub mod policy;
pub mod series;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::TypedMetric;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use self::handles::{
    BacklogMetrics, EndpointMetrics, Event, HookMetrics, ListenerMetrics, MessageMetrics, RouteMetrics, ServiceMetrics,
    WorkerMetrics,
};
use self::policy::PolicyMetrics;
use self::series::{Latency, Seconds, Series, Tally};
use super::record::Kind;

/// Content type of [`Metrics::encode`] (OpenMetrics 1.0, "Protocol Negotiation").
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// One label set of one metric, as names and values.
macro_rules! labels {
    ($($name:ident { $($label:ident: $type:ty),+ })+) => { $(
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, EncodeLabelSet)]
        struct $name { $($label: $type),+ }
    )+ };
}

labels! {
    RouteLabels { kind: Kind, route: Arc<str> }
    ExchangeLabels { kind: Kind, route: Arc<str>, class: &'static str }
    AttemptLabels { service: Arc<str>, endpoint: Arc<str>, result: &'static str }
    ServiceLabels { service: Arc<str> }
    ListenerLabels { listener: Arc<str> }
    HookLabels { policy: Arc<str>, hook: &'static str }
    PluginLabels { plugin: Arc<str> }
    DeniedLabels { policy: Arc<str>, capability: &'static str }
    OutboundLabels { policy: Arc<str>, outcome: &'static str }
    RollbackLabels { plugin: Arc<str>, result: &'static str }
    TransitionLabels { policy: Arc<str>, service: Arc<str>, endpoint: Arc<str>, to: &'static str }
    RejectionLabels { policy: Arc<str>, service: Arc<str> }
    ErrorLabels { kind: &'static str }
    ReloadLabels { what: &'static str, result: &'static str }
    LogLabels { log: &'static str }
    LoadLabels { source: &'static str }
    WorkerLabels { worker: usize }
    MessageLabels { kind: Kind, route: Arc<str>, event: &'static str }
    SubscriptionLabels { subscription: Arc<str> }
}

/// The classes of a response, in the order of [`RouteMetrics::by_class`].
const CLASSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];

/// Every metric of the node. Clones share the same metrics.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Arc<Registry>,
    families: Arc<Families>,
    /// What policies declare themselves.
    pub policies: PolicyMetrics,
    /// Number of the generation that new exchanges get.
    pub generation: Gauge,
    /// Generations in memory: the current one and those that still drain.
    pub live_generations: Gauge,
    /// Attempts 2 and up that the retry budget did not allow.
    pub retry_budget_exhausted: Counter,
    /// Cells that policies hold.
    pub cells: Gauge,
    /// Spans that the collector accepted.
    pub spans_exported: Counter,
    /// Spans lost: queue full, export given up, or refused by the collector.
    pub spans_dropped: Counter,
}

#[derive(Debug)]
struct Families {
    exchanges: Series<ExchangeLabels, Counter>,
    exchange_duration: Series<RouteLabels, Latency>,
    in_flight: Series<RouteLabels, Gauge>,
    retries: Series<RouteLabels, Counter>,
    attempts: Series<AttemptLabels, Counter>,
    attempt_duration: Series<ServiceLabels, Latency>,
    errors: Series<ErrorLabels, Counter>,
    breaker_transitions: Series<TransitionLabels, Counter>,
    breaker_rejections: Series<RejectionLabels, Counter>,
    hook_calls: Series<HookLabels, Counter>,
    hook_time: Series<HookLabels, Seconds>,
    hook_errors: Series<HookLabels, Counter>,
    traps: Series<PluginLabels, Counter>,
    capability_denied: Series<DeniedLabels, Counter>,
    outbound_calls: Series<OutboundLabels, Counter>,
    reloads: Series<ReloadLabels, Counter>,
    rollbacks: Series<RollbackLabels, Counter>,
    plugin_loads: Series<LoadLabels, Counter>,
    downstream_open: Series<ListenerLabels, Gauge>,
    downstream_accepted: Series<ListenerLabels, Counter>,
    upstream_open: Series<ServiceLabels, Gauge>,
    upstream_idle: Series<ServiceLabels, Gauge>,
    log_lines_dropped: Series<LogLabels, Counter>,
    worker_begun: Series<WorkerLabels, Tally>,
    worker_ended: Series<WorkerLabels, Tally>,
    worker_taken_over: Series<WorkerLabels, Tally>,
    messages: Series<MessageLabels, Counter>,
    messages_held: Series<SubscriptionLabels, Gauge>,
    backlog: Series<SubscriptionLabels, Gauge>,
    backlog_age: Series<SubscriptionLabels, Gauge>,
}

/// Registers families while [`Metrics`] is built.
struct Builder {
    registry: Registry,
    surplus: Counter,
}

impl Builder {
    fn add<M: Clone + EncodeMetric + Send + Sync + Debug + 'static>(&mut self, name: &str, help: &str, metric: M) -> M {
        self.registry.register(name, help, metric.clone());
        metric
    }

    fn series<K, M>(&mut self, name: &str, help: &str) -> Series<K, M>
    where
        K: EncodeLabelSet + Ord + Clone + Send + Sync + Debug + 'static,
        M: EncodeMetric + TypedMetric + Clone + Default + Send + Sync + Debug + 'static,
    {
        let series = Series::new(&self.surplus);
        self.add(name, help, series)
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// An empty set of metrics, all under the prefix `weir_`.
    #[rustfmt::skip] // a table: one metric a line
    pub fn new() -> Self {
        let registry = Registry::with_prefix("weir");
        let mut build = Builder { registry, surplus: Counter::default() };
        let version = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        build.registry.register("build", "The version of this node", version);
        let surplus = build.surplus.clone();
        build.add("metric_series_refused", "Series not exposed because their metric has too many", surplus);
        let families = Families {
            exchanges: build.series("exchanges", "Finished exchanges by class of status; none: no status was sent"),
            exchange_duration: build.series("exchange_duration_seconds", "From the first byte of an exchange to its last"),
            in_flight: build.series("exchanges_in_flight", "Exchanges that have begun and not ended"),
            retries: build.series("retries", "Attempts 2 and up"),
            attempts: build.series("attempts", "Attempts by how they ended: ok, 5xx or the failure kind"),
            attempt_duration: build.series("attempt_duration_seconds", "From the start of an attempt to its outcome"),
            errors: build.series("errors", "Answers made by the proxy itself, by x-weir-error kind"),
            breaker_transitions: build.series("breaker_transitions", "Changes of a circuit breaker's state"),
            breaker_rejections: build.series("breaker_rejections", "Calls that an open circuit breaker refused"),
            hook_calls: build.series("plugin_hook_calls", "Calls of a policy's hook"),
            hook_time: build.series("plugin_hook_seconds", "Time spent in a policy's hook"),
            hook_errors: build.series("plugin_errors", "Hook calls that failed: errors, traps, limits and bad answers"),
            traps: build.series("plugin_traps", "Instances thrown away after a trap or a limit"),
            capability_denied: build.series("capability_denied", "Uses of a key, a service or endpoints that a policy is not granted"),
            outbound_calls: build.series("outbound_calls", "Calls that policies made themselves: ok, or the kind of error"),
            reloads: build.series("reloads", "Reloads of plugins and configuration"),
            plugin_loads: build.series("plugin_loads", "Plugins loaded, by where their code came from"),
            rollbacks: build.series("rollbacks", "New versions of plugins that failed too often, by whether the one before came back"),
            downstream_open: build.series("downstream_connections", "Open connections from clients"),
            downstream_accepted: build.series("downstream_connections_accepted", "Connections accepted from clients"),
            upstream_open: build.series("upstream_connections", "Open connections to a service's endpoints"),
            upstream_idle: build.series("upstream_connections_idle", "Open connections to a service's endpoints that wait in a pool"),
            log_lines_dropped: build.series("log_lines_dropped", "Log lines lost because the reader of the log was too slow"),
            worker_begun: build.series("worker_exchanges", "Exchanges that a worker began to run"),
            worker_ended: build.series("worker_exchanges_ended", "Exchanges that a worker has run to their end"),
            worker_taken_over: build.series("worker_streams_taken_over", "HTTP/2 streams that a worker ran for the connection of a busier one"),
            messages: build.series("messages", "Messages by what became of them at a channel (publish) or subscription (delivery)"),
            messages_held: build.series("messages_held", "Messages of a subscription that are with this node and not acknowledged"),
            backlog: build.series("subscription_backlog", "Messages of a subscription that are not acknowledged, at the broker"),
            backlog_age: build.series("subscription_oldest_seconds", "Age of the oldest of them, in whole seconds"),
        };
        let policies = PolicyMetrics::default();
        build.registry.register_collector(Box::new(policies.clone()));
        Self {
            policies,
            generation: build.add("generation", "Number of the generation that new exchanges get", Gauge::default()),
            live_generations: build.add("live_generations", "Generations in memory, draining ones included", Gauge::default()),
            retry_budget_exhausted: build.add("retry_budget_exhausted", "Retries that the budget did not allow", Counter::default()),
            cells: build.add("cells", "Cells that policies hold", Gauge::default()),
            spans_exported: build.add("spans_exported", "Spans that the collector accepted", Counter::default()),
            spans_dropped: build.add("spans_dropped", "Spans lost before or at the collector", Counter::default()),
            registry: Arc::new(build.registry),
            families: Arc::new(families),
        }
    }

    /// Everything as OpenMetrics text; see [`CONTENT_TYPE`].
    pub fn encode(&self) -> String {
        let mut text = String::with_capacity(16 * 1024);
        if encode(&mut text, &self.registry).is_err() {
            // A String takes all that is written; should the encoder refuse a value, what was
            // written before it stays useful.
            tracing::warn!("the metrics could not be encoded completely");
        }
        text
    }

    /// The metrics of a route, or of a channel for publishes and deliveries.
    ///
    /// Use the empty name for exchanges that matched no route.
    pub fn route(&self, kind: Kind, route: &Arc<str>) -> Arc<RouteMetrics> {
        let labels = RouteLabels { kind, route: Arc::clone(route) };
        Arc::new(RouteMetrics {
            by_class: CLASSES.map(|class| {
                let route = Arc::clone(route);
                self.families.exchanges.get(ExchangeLabels { kind, route, class })
            }),
            duration: self.families.exchange_duration.get(labels.clone()),
            in_flight: self.families.in_flight.get(labels.clone()),
            retries: self.families.retries.get(labels),
        })
    }

    /// The metrics of one endpoint of a service.
    pub fn endpoint(&self, service: &Arc<str>, endpoint: &Arc<str>) -> Arc<EndpointMetrics> {
        let labels = AttemptLabels { service: Arc::clone(service), endpoint: Arc::clone(endpoint), result: "ok" };
        let result = |result| AttemptLabels { result, ..labels.clone() };
        let service = Arc::clone(service);
        Arc::new(EndpointMetrics {
            ok: self.families.attempts.get(result("ok")),
            server_error: self.families.attempts.get(result("5xx")),
            duration: self.families.attempt_duration.get(ServiceLabels { service }),
            failures: self.families.attempts.clone(),
            labels,
        })
    }

    /// The connections of a service's pools.
    pub fn service(&self, service: &Arc<str>) -> ServiceMetrics {
        let labels = ServiceLabels { service: Arc::clone(service) };
        ServiceMetrics {
            open: self.families.upstream_open.get(labels.clone()),
            idle: self.families.upstream_idle.get(labels),
        }
    }

    /// The connections of a listener.
    pub fn listener(&self, listener: &Arc<str>) -> ListenerMetrics {
        let labels = ListenerLabels { listener: Arc::clone(listener) };
        ListenerMetrics {
            open: self.families.downstream_open.get(labels.clone()),
            accepted: self.families.downstream_accepted.get(labels),
        }
    }

    /// What a worker counts.
    pub fn worker(&self, worker: usize) -> WorkerMetrics {
        let labels = WorkerLabels { worker };
        WorkerMetrics {
            begun: self.families.worker_begun.get(labels.clone()),
            ended: self.families.worker_ended.get(labels.clone()),
            taken_over: self.families.worker_taken_over.get(labels),
        }
    }

    /// What becomes of the messages of a channel or subscription.
    pub fn messages(&self, kind: Kind, route: &Arc<str>) -> MessageMetrics {
        let event = |event| self.families.messages.get(MessageLabels { kind, route: Arc::clone(route), event });
        MessageMetrics { events: Event::ALL.map(|known| event(known.as_str())) }
    }

    /// What waits for a subscription.
    pub fn backlog(&self, subscription: &Arc<str>) -> BacklogMetrics {
        let labels = SubscriptionLabels { subscription: Arc::clone(subscription) };
        BacklogMetrics {
            held: self.families.messages_held.get(labels.clone()),
            waiting: self.families.backlog.get(labels.clone()),
            oldest: self.families.backlog_age.get(labels),
        }
    }

    /// The metrics of one hook of a policy.
    pub fn hook(&self, policy: &Arc<str>, hook: &'static str) -> HookMetrics {
        let labels = HookLabels { policy: Arc::clone(policy), hook };
        HookMetrics {
            calls: self.families.hook_calls.get(labels.clone()),
            time: self.families.hook_time.get(labels.clone()),
            errors: self.families.hook_errors.get(labels),
        }
    }

    /// Instances of a plugin that were thrown away after a trap or a limit.
    pub fn traps(&self, plugin: &Arc<str>) -> Counter {
        let plugin = Arc::clone(plugin);
        self.families.traps.get(PluginLabels { plugin })
    }

    /// Counts a use of a kind of capability that the policy is not granted.
    pub fn capability_denied(&self, policy: &Arc<str>, capability: &'static str) {
        let policy = Arc::clone(policy);
        self.families.capability_denied.get(DeniedLabels { policy, capability }).inc();
    }

    /// Counts a call that a policy made itself, by how it ended.
    pub fn outbound_call(&self, policy: &Arc<str>, outcome: &'static str) {
        let policy = Arc::clone(policy);
        self.families.outbound_calls.get(OutboundLabels { policy, outcome }).inc();
    }

    /// Counts an answer made by the proxy itself.
    pub fn error(&self, kind: &'static str) {
        self.families.errors.get(ErrorLabels { kind }).inc();
    }

    /// Counts a change of a circuit breaker's state. `endpoint` is empty where the breaker's scope
    /// is wider.
    pub fn breaker_transition(&self, policy: &Arc<str>, service: &Arc<str>, endpoint: &Arc<str>, to: &'static str) {
        let labels = TransitionLabels {
            policy: Arc::clone(policy),
            service: Arc::clone(service),
            endpoint: Arc::clone(endpoint),
            to,
        };
        self.families.breaker_transitions.get(labels).inc();
    }

    /// Counts a call that an open circuit breaker refused.
    pub fn breaker_rejection(&self, policy: &Arc<str>, service: &Arc<str>) {
        let labels = RejectionLabels { policy: Arc::clone(policy), service: Arc::clone(service) };
        self.families.breaker_rejections.get(labels).inc();
    }

    /// Counts a reload of `what` ("plugin", "config") with its result ("ok", "failed").
    pub fn reload(&self, what: &'static str, result: &'static str) {
        self.families.reloads.get(ReloadLabels { what, result }).inc();
    }

    /// Counts a plugin that was loaded from `source` ("compiled", "cache").
    pub fn plugin_load(&self, source: &'static str) {
        self.families.plugin_loads.get(LoadLabels { source }).inc();
    }

    /// Counts a rollback of a plugin with its result ("ok", "refused").
    pub fn rollback(&self, plugin: &Arc<str>, result: &'static str) {
        let plugin = Arc::clone(plugin);
        self.families.rollbacks.get(RollbackLabels { plugin, result }).inc();
    }

    /// Calls so far of all hooks, by policy.
    pub fn hook_calls(&self) -> BTreeMap<Arc<str>, u64> {
        let mut by_policy = BTreeMap::new();
        self.families
            .hook_calls
            .each(|labels, calls| *by_policy.entry(Arc::clone(&labels.policy)).or_default() += calls.get());
        by_policy
    }

    /// Lines lost of one log: "exchanges" (stdout) or "host" (stderr).
    pub fn log_lines_dropped(&self, log: &'static str) -> Counter {
        self.families.log_lines_dropped.get(LogLabels { log })
    }

    /// Drops the series of what the configuration no longer names.
    ///
    /// Exchanges that still run on an older generation keep their handles, which are then no longer
    /// exposed.
    pub fn retain(&self, live: &impl Live) {
        let all = &self.families;
        // The empty name is of exchanges that matched no route.
        let route = |kind, route: &str| route.is_empty() || live.route(kind, route);
        all.exchanges.retain(|labels| route(labels.kind, &labels.route));
        all.exchange_duration.retain(|labels| route(labels.kind, &labels.route));
        all.in_flight.retain(|labels| route(labels.kind, &labels.route));
        all.retries.retain(|labels| route(labels.kind, &labels.route));
        all.messages.retain(|labels| live.route(labels.kind, &labels.route));
        for of_subscription in [&all.messages_held, &all.backlog, &all.backlog_age] {
            of_subscription.retain(|labels| live.route(Kind::Delivery, &labels.subscription));
        }
        all.attempts.retain(|labels| live.endpoint(&labels.service, &labels.endpoint));
        all.attempt_duration.retain(|labels| live.service(&labels.service));
        all.upstream_open.retain(|labels| live.service(&labels.service));
        all.upstream_idle.retain(|labels| live.service(&labels.service));
        all.breaker_transitions.retain(|labels| {
            let wider = labels.endpoint.is_empty() && live.service(&labels.service);
            live.policy(&labels.policy) && (wider || live.endpoint(&labels.service, &labels.endpoint))
        });
        all.breaker_rejections.retain(|labels| live.policy(&labels.policy) && live.service(&labels.service));
        all.hook_calls.retain(|labels| live.policy(&labels.policy));
        all.hook_time.retain(|labels| live.policy(&labels.policy));
        all.hook_errors.retain(|labels| live.policy(&labels.policy));
        all.capability_denied.retain(|labels| live.policy(&labels.policy));
        all.outbound_calls.retain(|labels| live.policy(&labels.policy));
        all.downstream_open.retain(|labels| live.listener(&labels.listener));
        all.downstream_accepted.retain(|labels| live.listener(&labels.listener));
        all.traps.retain(|labels| live.plugin(&labels.plugin));
        all.rollbacks.retain(|labels| live.plugin(&labels.plugin));
        self.policies.retain(|policy| live.policy(policy));
    }
}

/// What a configuration names, for [`Metrics::retain`].
pub trait Live {
    /// A route, or a channel for publishes and deliveries.
    fn route(&self, kind: Kind, name: &str) -> bool;
    fn service(&self, name: &str) -> bool;
    fn endpoint(&self, service: &str, address: &str) -> bool;
    fn listener(&self, name: &str) -> bool;
    fn policy(&self, name: &str) -> bool;
    fn plugin(&self, name: &str) -> bool;
}

#[cfg(test)]
mod tests;
