//! A few calls a second to each service, through the proxy.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::{PROXY, http};

const PAUSE: Duration = Duration::from_millis(300);

/// What is called again and again: the service, and a request whose `{n}` becomes a number.
const CALLERS: [(&str, &[Call]); 4] = [
    ("user-service", &[Call { method: "GET", path: "/users/{n}", body: "" }]),
    (
        "order-service",
        &[
            Call { method: "GET", path: "/orders/{n}", body: "" },
            Call { method: "POST", path: "/orders", body: r#"{"user":"{n}"}"# },
        ],
    ),
    (
        "payment-service",
        &[
            Call { method: "POST", path: "/payments", body: r#"{"order":"{n}"}"# },
            Call { method: "GET", path: "/payments/{n}", body: "" },
        ],
    ),
    // No service: the node itself takes what no route is for. An order was created.
    ("messages", &[Call { method: "POST", path: "/v1/publish/order.created", body: r#"{"order":"{n}"}"# }]),
];

struct Call {
    method: &'static str,
    path: &'static str,
    body: &'static str,
}

/// Callers in threads of their own, one for each service.
pub struct Traffic {
    stop: Arc<AtomicBool>,
    report: Arc<Mutex<Report>>,
    threads: Vec<JoinHandle<()>>,
}

/// How the calls went, by service.
#[derive(Clone, Default)]
pub struct Report {
    services: BTreeMap<&'static str, Counts>,
}

#[derive(Clone, Copy, Default)]
struct Counts {
    ok: u64,
    failed: u64,
}

impl Traffic {
    pub fn start() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let report = Arc::new(Mutex::new(Report::default()));
        let caller = |(service, calls): (&'static str, &'static [Call])| {
            let (stop, report) = (stop.clone(), report.clone());
            thread::spawn(move || {
                for (number, call) in (1_u64..).zip(calls.iter().cycle()) {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let succeeded = call.send(service, number);
                    lock(&report).add(service, succeeded);
                    thread::sleep(PAUSE);
                }
            })
        };
        let threads = CALLERS.into_iter().map(caller).collect();
        Self { stop, report, threads }
    }

    pub fn report(&self) -> Report {
        lock(&self.report).clone()
    }

    /// Ends the callers after the calls they are in.
    pub fn stop(self) -> Report {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            // A caller that panicked has said so on stderr; what it counted stays.
            let _ = thread.join();
        }
        lock(&self.report).clone()
    }
}

impl Call {
    /// Whether the call was answered with a 2xx status.
    fn send(&self, service: &str, number: u64) -> bool {
        let Self { method, path, body } = self;
        // The key allows a POST to be retried.
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: {service}\r\nconnection: close\r\nidempotency-key: demo-{{n}}\r\n\
            content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}",
            length = body.replace("{n}", &number.to_string()).len(),
        );
        let answer = http::send(PROXY, &request.replace("{n}", &number.to_string()));
        answer.is_ok_and(|answer| (200..300).contains(&answer.status))
    }
}

impl Report {
    pub fn ok(&self) -> u64 {
        self.services.values().map(|counts| counts.ok).sum()
    }

    fn add(&mut self, service: &'static str, succeeded: bool) {
        let counts = self.services.entry(service).or_default();
        if succeeded {
            counts.ok += 1;
        } else {
            counts.failed += 1;
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let failed: u64 = self.services.values().map(|counts| counts.failed).sum();
        write!(f, "{} requests: {} ok, {failed} failed (", self.ok() + failed, self.ok())?;
        for (index, (service, Counts { ok, failed })) in self.services.iter().enumerate() {
            let separator = if index > 0 { ", " } else { "" };
            write!(f, "{separator}{service} {ok}/{}", ok + failed)?;
        }
        write!(f, ")")
    }
}

fn lock(report: &Mutex<Report>) -> MutexGuard<'_, Report> {
    report.lock().unwrap_or_else(PoisonError::into_inner)
}
