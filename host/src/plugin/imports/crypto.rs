//! Keys by handle.

use super::{State, open};
use crate::config::Capability;
use crate::keys::{Algorithm, sha256};
use crate::plugin::bindings::crypto;
use wasmtime::Result;

impl crypto::Host for State {
    fn open(&mut self, name: String) -> Result<std::result::Result<u32, String>> {
        // Whether there is such a key comes first: who mistypes a name is not to be told to grant it.
        let Some(key) = self.context()?.keys.get(&name) else {
            return Ok(Err(format!("there is no key {name:?}: add [key.{name}] to the configuration")));
        };
        match self.denied(&Capability::Crypto(name))? {
            Some(why) => Ok(Err(why)),
            None => Ok(open(&mut self.keys, key)),
        }
    }

    fn algorithm(&mut self, key: u32) -> Result<String> {
        Ok(self.key(key)?.algorithm().map(|algorithm| algorithm.as_str().to_owned()).unwrap_or_default())
    }

    fn key_id(&mut self, key: u32) -> Result<Option<String>> {
        Ok(self.key(key)?.kid())
    }

    fn version(&mut self, key: u32) -> Result<u64> {
        Ok(self.key(key)?.version())
    }

    fn sign(&mut self, key: u32, data: Vec<u8>) -> Result<std::result::Result<Vec<u8>, String>> {
        let key = self.key(key)?.clone();
        Ok(self.excused(|| key.sign(&data)).map_err(|error| error.to_string()))
    }

    fn verify(
        &mut self,
        key: u32,
        algorithm: String,
        key_id: Option<String>,
        data: Vec<u8>,
        signature: Vec<u8>,
    ) -> Result<std::result::Result<bool, String>> {
        let key = self.key(key)?.clone();
        let algorithm = match algorithm.parse::<Algorithm>() {
            Ok(algorithm) => algorithm,
            Err(error) => return Ok(Err(error.to_string())),
        };
        Ok(self
            .excused(|| key.verify(algorithm, key_id.as_deref(), &data, &signature))
            .map_err(|error| error.to_string()))
    }

    fn sha256(&mut self, data: Vec<u8>) -> Result<Vec<u8>> {
        Ok(sha256(&data).to_vec())
    }
}
