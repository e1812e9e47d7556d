//! The listeners that one worker serves, kept in step with the snapshot that it runs.

use super::sockets::Sockets;
use crate::config;
use crate::snapshot::Snapshot;
use crate::worker::{Current, Worker};
use std::cell::{Cell, OnceCell, Ref, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use tokio::sync::watch;

/// A listener as one worker serves it. Its connections hold it, and outlive it in the configuration.
pub struct Listener {
    pub sockets: Arc<Sockets>,
    config: RefCell<Arc<config::Listener>>,
    /// True: accept no more, and let connections end what they have begun.
    drain: watch::Sender<bool>,
    /// The last generation that had it, once there is one that has not. What still comes over its connections goes by
    /// that one, since the next has no routes for it.
    last: OnceCell<Rc<Current>>,
}

impl Listener {
    pub fn config(&self) -> Ref<'_, Arc<config::Listener>> {
        self.config.borrow()
    }

    /// What the next exchange over one of its connections goes by.
    pub fn current(&self, worker: &Rc<Worker>) -> Rc<Current> {
        let current = worker.current();
        self.last.get().cloned().unwrap_or(current)
    }

    pub fn drain(&self) -> watch::Receiver<bool> {
        self.drain.subscribe()
    }
}

/// All listeners of a worker.
#[derive(Default)]
pub struct Listeners {
    serving: RefCell<Vec<Rc<Listener>>>,
    /// Sockets that are not closed yet.
    open: Cell<usize>,
    draining: Cell<bool>,
}

impl Listeners {
    /// Goes from one generation to the next: new listeners accept, those that left drain, the rest stay as they are and
    /// go by their new configuration.
    pub fn follow(&self, worker: &Rc<Worker>, before: &Rc<Current>, snapshot: &Snapshot) {
        let mut serving = self.serving.borrow_mut();
        serving.retain(|listener| {
            let stays = snapshot.listeners.iter().any(|sockets| Arc::ptr_eq(sockets, &listener.sockets));
            if !stays {
                // It leaves once.
                let _ = listener.last.set(before.clone());
                listener.drain.send_replace(true);
            }
            stays
        });
        for sockets in &snapshot.listeners {
            let Some(config) = snapshot.config.listeners.iter().find(|config| *config.name == *sockets.name) else {
                continue;
            };
            match serving.iter().find(|listener| Arc::ptr_eq(sockets, &listener.sockets)) {
                Some(listener) if **listener.config() == *config => {}
                Some(listener) => drop(listener.config.replace(Arc::new(config.clone()))),
                None if self.draining.get() => {}
                None => serving.extend(begin(worker, sockets, config)),
            }
        }
    }

    /// The listener with these sockets, unless it has left.
    pub fn of(&self, sockets: &Arc<Sockets>) -> Option<Rc<Listener>> {
        self.serving.borrow().iter().find(|listener| Arc::ptr_eq(sockets, &listener.sockets)).cloned()
    }

    /// Whether some socket is not closed yet.
    pub fn are_open(&self) -> bool {
        self.open.get() > 0
    }

    /// Lets all of them drain, for good.
    pub fn drain(&self) {
        self.draining.set(true);
        for listener in &*self.serving.borrow() {
            listener.drain.send_replace(true);
        }
    }
}

/// Takes the worker's socket and accepts.
fn begin(worker: &Rc<Worker>, sockets: &Arc<Sockets>, config: &config::Listener) -> Option<Rc<Listener>> {
    let socket = tokio::net::TcpListener::from_std(sockets.take(worker.number)?);
    let socket = socket.inspect_err(|error| {
        tracing::error!(listener = config.name, worker = worker.number, "a worker cannot accept: {error}");
    });
    let listener = Rc::new(Listener {
        sockets: sockets.clone(),
        config: RefCell::new(Arc::new(config.clone())),
        drain: watch::Sender::new(false),
        last: OnceCell::new(),
    });
    let (worker, socket, accepting) = (worker.clone(), socket.ok()?, listener.clone());
    worker.listeners.open.set(worker.listeners.open.get() + 1);
    tokio::task::spawn_local(async move {
        super::accept(worker.clone(), accepting, socket).await;
        worker.listeners.open.set(worker.listeners.open.get() - 1);
    });
    Some(listener)
}
