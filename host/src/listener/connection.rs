//! A caller's connection as its exchanges see it.

use super::Listener;
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
    terms: RefCell<Rc<Terms>>,
}

/// What an exchange goes by that came over a connection. A reload may change it for the next one.
pub struct Terms {
    pub listener: Rc<config::Listener>,
    /// What services are told of the peer.
    pub origin: Origin,
}

impl Terms {
    fn new(listener: Rc<config::Listener>, peer: IpAddr) -> Rc<Self> {
        let origin = Origin::new(peer, listener.identity.as_deref(), listener.trust_forwarded);
        Rc::new(Self { listener, origin })
    }
}

impl Connection {
    pub fn new(listener: Rc<Listener>, peer: SocketAddr, client: Arc<str>, switch: Option<Switch>) -> Rc<Self> {
        let terms = RefCell::new(Terms::new(listener.config(), peer.ip()));
        Rc::new(Self { listener, peer: peer.ip(), client, switch, terms })
    }

    /// As the listener is configured now.
    pub fn terms(&self) -> Rc<Terms> {
        let config = self.listener.config();
        let mut terms = self.terms.borrow_mut();
        if !Rc::ptr_eq(&terms.listener, &config) {
            *terms = Terms::new(config, self.peer);
        }
        terms.clone()
    }

    /// Whether something came that is not HTTP/1. Nothing after it is read.
    pub fn is_malformed(&self) -> bool {
        self.switch.as_ref().is_some_and(|switch| switch.violation().is_some())
    }
}
