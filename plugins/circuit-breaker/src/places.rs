//! Which breaker an attempt belongs to. Breakers are found by the numbers of services, routes and endpoints, and their
//! cells by names, which stay the same over workers and reloads.

use crate::breaker::{AT_WORK, Breaker, Subject};
use crate::rules;
use crate::state::{TAG, Ticket};
use crate::values::{Values, fnv};
use std::cell::Cell;
use std::collections::BTreeMap;
use weir_sdk::host::cells::{Window, Word};
use weir_sdk::prelude::*;

/// What shares a breaker.
#[derive(Deserialize, JsonSchema, Default, PartialEq)]
pub enum Scope {
    /// Each endpoint has its own. Another endpoint is picked while it is open.
    #[default]
    Endpoint,
    /// All endpoints of a service.
    Service,
    /// All calls of a route.
    Route,
    /// All calls to a service with the same value of this request field, or of an attribute such as "@subject". To have
    /// no such field is a value too. At least a thousand values have breakers of their own; when those are used up, the
    /// other values share one.
    Field(String),
}

/// Bytes of a value in what is shown to people.
const MAX_SHOWN: usize = 64;
/// Bytes of a cell's name, as the host has it.
const MAX_NAME: usize = 200;

/// The breakers that this instance has met.
#[derive(Default)]
pub struct Places {
    window: Option<rules::Window>,
    at_work: Option<Word>,
    breakers: Vec<Breaker>,
    by_name: BTreeMap<String, u32>,
    /// By service and endpoint.
    endpoints: Vec<Vec<Option<Seat>>>,
    /// By service or by route.
    wider: Vec<Option<u32>>,
    /// By the hash of service and value: those that have a place of their own.
    by_value: BTreeMap<u64, u32>,
    values: Values,
}

/// An endpoint that was announced. Its cells are opened by the first attempt: there may be thousands of endpoints.
struct Seat {
    address: String,
    index: Option<u32>,
}

impl Places {
    pub fn new(window: Option<rules::Window>) -> Self {
        Self { window, ..Self::default() }
    }

    /// Takes the whole list of a service's endpoints.
    pub fn announce(&mut self, service: ServiceId, endpoints: &[Endpoint]) {
        if self.endpoints.len() <= service.index() {
            self.endpoints.resize_with(service.index() + 1, Vec::new);
        }
        let Some(row) = self.endpoints.get_mut(service.index()) else {
            return;
        };
        let mut before = std::mem::take(row);
        for Endpoint { id, address, .. } in endpoints {
            if row.len() <= id.index() {
                row.resize_with(id.index() + 1, || None);
            }
            let kept = before.get_mut(id.index()).and_then(|seat| seat.take_if(|seat| seat.address == *address));
            if let Some(seat) = row.get_mut(id.index()) {
                *seat = Some(kept.unwrap_or_else(|| Seat { address: address.clone(), index: None }));
            }
        }
        for index in before.into_iter().flatten().filter_map(|gone| gone.index) {
            if let Some(breaker) = self.breakers.get(index as usize) {
                breaker.subject.set(Subject::Gone);
            }
        }
    }

    /// The breaker of an attempt, and its number in this instance.
    pub fn find(&mut self, scope: &Scope, exchange: &Exchange, endpoint: EndpointId) -> Result<(u32, &Breaker)> {
        let (service, route) = (exchange.service, exchange.route);
        let index = match scope {
            Scope::Endpoint => self.of_endpoint(service, endpoint)?,
            Scope::Service => {
                self.of_wider(service.index(), || (format!("service/{}", service.name()), "service".into()))?
            }
            Scope::Route => {
                self.of_wider(route.index(), || (format!("route/{}", route.name()), format!("route:{}", route.name())))?
            }
            Scope::Field(field) => self.of_value(service, field, exchange.field(field).unwrap_or_default())?,
        };
        let breaker = self.breakers.get(index as usize).ok_or_else(|| Error::new("a breaker is missing"))?;
        Ok((index, breaker))
    }

    /// The breaker that admitted an attempt. An instance that was made since, after a trap, may number its breakers
    /// otherwise: it looks again. `None`: it cannot tell.
    pub fn find_again(
        &mut self,
        ticket: Ticket,
        scope: &Scope,
        exchange: &Exchange,
        endpoint: EndpointId,
    ) -> Option<&Breaker> {
        let is_it = |breaker: &Breaker| breaker.tag == ticket.tag;
        if self.breakers.get(ticket.index as usize).is_some_and(is_it) {
            return self.breakers.get(ticket.index as usize);
        }
        match scope {
            // The field is not at hand when an attempt ends.
            Scope::Field(_) => None,
            _ => self.find(scope, exchange, endpoint).ok().map(|(_, breaker)| breaker).filter(|breaker| is_it(breaker)),
        }
    }

    fn of_endpoint(&mut self, service: ServiceId, endpoint: EndpointId) -> Result<u32> {
        let seat = self.endpoints.get(service.index()).and_then(|row| row.get(endpoint.index())?.as_ref());
        let Some(Seat { address, index }) = seat else {
            return Err(Error::new(format!(
                "endpoint {} of service {:?} was not announced",
                endpoint.0,
                service.name()
            )));
        };
        if let Some(index) = index {
            return Ok(*index);
        }
        let name = format!("endpoint/{}/{address}", service.name());
        let index = self.open(name, "endpoint".into(), Subject::Endpoint(endpoint))?;
        if let Some(Some(seat)) = self.endpoints.get_mut(service.index()).and_then(|row| row.get_mut(endpoint.index()))
        {
            seat.index = Some(index);
        }
        Ok(index)
    }

    /// `names` are the cell's and the one that is shown.
    fn of_wider(&mut self, at: usize, names: impl FnOnce() -> (String, String)) -> Result<u32> {
        if let Some(Some(index)) = self.wider.get(at) {
            return Ok(*index);
        }
        let (name, scope) = names();
        let index = self.open(name, scope, Subject::Wider)?;
        self.wider.resize(self.wider.len().max(at + 1), None);
        if let Some(place) = self.wider.get_mut(at) {
            *place = Some(index);
        }
        Ok(index)
    }

    fn of_value(&mut self, service: ServiceId, field: &str, value: &[u8]) -> Result<u32> {
        let hash = fnv(&[&service.0.to_le_bytes(), value]);
        if let Some(index) = self.by_value.get(&hash) {
            return Ok(*index);
        }
        let Some(place) = self.values.claim(hash)? else {
            return self.open("field-others".into(), format!("field:{field}, others"), Subject::Wider);
        };
        let shown = value.get(..MAX_SHOWN).unwrap_or(value).escape_ascii();
        let index = self.open(format!("field/{place}"), format!("field:{field}={shown}"), Subject::Wider)?;
        self.by_value.insert(hash, index);
        Ok(index)
    }

    /// Opens the cells of that name, once.
    fn open(&mut self, name: String, scope: String, subject: Subject) -> Result<u32> {
        if let Some(index) = self.by_name.get(&name) {
            if let Some(breaker) = self.breakers.get(*index as usize) {
                breaker.subject.set(subject);
            }
            return Ok(*index);
        }
        let hash = fnv(&[name.as_bytes()]);
        let cell = if name.len() > MAX_NAME { format!("long/{hash:016x}") } else { name.clone() };
        let window = match self.window {
            None => None,
            Some(rules::Window::Calls(size)) => Some(Window::of_count(&cell, size)?),
            Some(rules::Window::Time(span)) => Some(Window::of_time(&cell, span)?),
        };
        let at_work = match self.at_work {
            Some(word) => word,
            None => *self.at_work.insert(Word::open(AT_WORK)?),
        };
        let index = self.breakers.len() as u32;
        self.breakers.push(Breaker {
            tag: hash as u32 & TAG,
            word: Word::open(&cell)?,
            at_work,
            window,
            subject: Cell::new(subject),
            scope,
        });
        self.by_name.insert(name, index);
        Ok(index)
    }
}
