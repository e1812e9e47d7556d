//! Makes the keys that the demo's config.toml names, unless they are there: `demo-keys [DIRECTORY]`.
//!
//! - `service.pem`: the private key that the proxy mints tokens with, readable by its owner only;
//! - `service.pub.pem`: its public half, which the proxy verifies tokens with;
//! - `jwks.json`: the same as a key set, as an issuer would publish it.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Parser;
use weir_tests::keys::{RsaKey, jwks};

const KEY_ID: &str = "demo";

/// Makes the demo's keys unless they are there
#[derive(Parser)]
struct Options {
    /// Where to put them
    #[arg(default_value = "keys")]
    directory: PathBuf,
}

fn main() -> Result<()> {
    let directory = Options::parse().directory;
    fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
    let private = directory.join("service.pem");
    let key = match fs::read_to_string(&private) {
        Ok(pem) => RsaKey::from_pem(KEY_ID, &pem)
            .with_context(|| format!("{}: remove it to have a new key made", private.display()))?,
        Err(_) => {
            let key = RsaKey::generate(KEY_ID)?;
            write_secret(&private, &key.private_pem()?)?;
            println!("made {}", private.display());
            key
        }
    };
    // Made from the private key each time, so that they match it whatever happened to it.
    write(&directory.join("service.pub.pem"), &key.public_pem()?)?;
    write(&directory.join("jwks.json"), &format!("{:#}\n", jwks(&[&key])))
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// Writes a new file that nobody but its owner can read at any moment.
fn write_secret(path: &Path, text: &str) -> Result<()> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let written = file.and_then(|mut file| file.write_all(text.as_bytes()));
    written.with_context(|| format!("cannot write {}", path.display()))
}
