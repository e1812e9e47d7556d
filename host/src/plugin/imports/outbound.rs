//! Calls of a policy's own.

use super::{State, shortened, timed};
use crate::config::Capability;
use crate::plugin::bindings::outbound::{self, Error, ErrorKind, Request, Response};
use std::time::Duration;
use wasmtime::Result;

/// Bytes of a service's name: those of the configuration are shorter.
const MAX_NAME: usize = 200;

impl outbound::Host for State {
    fn send(
        &mut self,
        service: String,
        request: Request,
        timeout: u64,
    ) -> Result<std::result::Result<Response, Error>> {
        // It gets into messages, and the guest may say anything.
        let service = shortened(&service, MAX_NAME).to_owned();
        if let Some(message) = self.denied(&Capability::Outbound(service.clone()))? {
            return Ok(Err(Error { kind: ErrorKind::Denied, message }));
        }
        let Some(caller) = self.caller.clone() else {
            let message = format!("service {service:?} was not called: a policy calls out in `tick` only");
            return Ok(Err(Error { kind: ErrorKind::OnlyInTick, message }));
        };
        // How much a service makes the host do is none of the guest's doing; time and size bound it.
        let (answer, spent) = timed(|| caller.send(&service, request, Duration::from_nanos(timeout)));
        self.forgive(spent);
        Ok(answer)
    }
}
