//! What harms nobody: the log, clocks, random numbers and names.

use super::State;
use crate::clock::{now, unix};
use crate::plugin::bindings::{clock, log, names, random, types};
use rand::RngCore;
use wasmtime::Result;

impl types::Host for State {}

impl log::Host for State {
    fn write(&mut self, level: log::Level, message: String) -> Result<()> {
        self.log(level, &message);
        Ok(())
    }
}

impl clock::Host for State {
    fn now(&mut self) -> Result<u64> {
        Ok(now())
    }

    fn unix(&mut self) -> Result<u64> {
        Ok(unix())
    }
}

impl random::Host for State {
    fn next(&mut self) -> Result<u64> {
        Ok(rand::random())
    }

    fn secure(&mut self, length: u32) -> Result<Vec<u8>> {
        let mut bytes = vec![0; length.min(1024) as usize];
        rand::rng().fill_bytes(&mut bytes);
        Ok(bytes)
    }
}

impl names::Host for State {
    fn service(&mut self, id: u32) -> Result<String> {
        Ok(self.context()?.services.get(id).map(|service| service.name.to_string()).unwrap_or_default())
    }

    fn route(&mut self, id: u32) -> Result<String> {
        Ok(self.context()?.routes.name(id).map(|name| name.to_string()).unwrap_or_default())
    }
}
