//! A caller's connection as its exchanges see it.

use super::Listener;
use super::spread::Guest;
use crate::call::forward::Origin;
use crate::config;
use crate::strict::Switch;
use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

/// One caller's connection.
pub struct Connection {
    pub listener: Rc<Listener>,
    pub peer: IpAddr,
    /// The peer's address and port, formatted once.
    pub client: Arc<str>,
    /// Turns off the checks of HTTP/1 once bytes are no longer HTTP. `None` on HTTP/2.
    pub switch: Option<Switch>,
    terms: RefCell<Arc<Terms>>,
}

/// What an exchange goes by that came over a connection. A reload may change it for the next one.
pub struct Terms {
    pub listener: Arc<config::Listener>,
    /// What services are told of the peer.
    pub origin: Origin,
}

impl Terms {
    fn new(listener: Arc<config::Listener>, peer: IpAddr) -> Arc<Self> {
        let origin = Origin::new(peer, listener.identity.as_deref(), listener.trust_forwarded);
        Arc::new(Self { listener, origin })
    }
}

impl Connection {
    pub fn new(listener: Rc<Listener>, peer: SocketAddr, client: Arc<str>, switch: Option<Switch>) -> Rc<Self> {
        let terms = RefCell::new(Terms::new(listener.config().clone(), peer.ip()));
        Rc::new(Self { listener, peer: peer.ip(), client, switch, terms })
    }

    /// The connection of a stream that another worker has handed over.
    pub fn of_guest(listener: Rc<Listener>, guest: Guest) -> Rc<Self> {
        let Guest { peer, client, terms, .. } = guest;
        Rc::new(Self { listener, peer, client, switch: None, terms: RefCell::new(terms) })
    }

    /// What another worker has to know to run one of its streams.
    pub fn guest(&self) -> Guest {
        let sockets = self.listener.sockets.clone();
        Guest { sockets, peer: self.peer, client: self.client.clone(), terms: self.terms() }
    }

    /// As the listener is configured now.
    pub fn terms(&self) -> Arc<Terms> {
        let config = self.listener.config();
        let mut terms = self.terms.borrow_mut();
        // Each worker has its own copy of the same.
        if !Arc::ptr_eq(&terms.listener, &config) && terms.listener != *config {
            *terms = Terms::new(config.clone(), self.peer);
        }
        terms.clone()
    }

    /// Whether something came that is not HTTP/1. Nothing after it is read.
    pub fn is_malformed(&self) -> bool {
        self.switch.as_ref().is_some_and(|switch| switch.violation().is_some())
    }
}
