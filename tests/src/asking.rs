//! Guests that ask for what has to be granted, and configurations that grant it.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::client::{self, Client, Response};
use crate::guests::{built, with_word};
use crate::weir::{Setup, Weir};

/// What the built file of the asker holds in place of a key: see `tests/guests/asker`.
const WORD: &[u8] = b"asker-word:.....................";

/// A directory with two keys, `own` and `other`, and versions of the asker.
pub struct Asking {
    files: TempDir,
}

impl Default for Asking {
    fn default() -> Self {
        let files = tempfile::tempdir().expect("a temporary directory");
        for key in ["own", "other"] {
            std::fs::write(files.path().join(key), key.repeat(20)).expect("the key is written");
        }
        Self { files }
    }
}

impl Asking {
    /// A version of the asker that opens this key in `configure`, and makes nothing of it if it cannot; none, if empty.
    pub fn version(&self, key: &str) -> PathBuf {
        let bytes = with_word(&built("asker"), WORD, key);
        let path = self.files.path().join(format!("asker-{key}.wasm"));
        std::fs::write(&path, bytes).expect("the file is written");
        path
    }

    /// Both keys, and the service `s` behind the policy `p` of the plugin `guest`, with more keys of the policy.
    pub fn setup(&self, guest: &Path, service: &[std::net::SocketAddr], policy: &str) -> Setup {
        let key = |name: &str| {
            format!("[key.{name}]\nalgorithm = \"HS256\"\nsecret = {{ file = {:?} }}\n", self.files.path().join(name))
        };
        Setup::new()
            .with_plugin_file(guest, "guest")
            .toml(&format!(
                "{}{}[chain]\nc = [\"p\"]\n[policy.p]\nplugin = \"guest\"\n{policy}",
                key("own"),
                key("other")
            ))
            .service_with("s", service, "http1", "chain = \"c\"")
    }
}

/// Calls the service `s` with these fields.
pub async fn call(weir: &Weir, fields: &[(&'static str, &str)]) -> anyhow::Result<Response> {
    let mut request = client::get("s", "/")?;
    for (name, value) in fields {
        request.headers_mut().insert(*name, value.parse()?);
    }
    Client::http1(weir.address()).await?.send(request).await
}
