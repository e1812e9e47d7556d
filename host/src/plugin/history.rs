//! What served before: the swaps of a plugin, and its earlier versions, ready to serve again.

use super::Plugin;
use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

/// Swaps that are remembered for each plugin.
const MAX_SWAPS: usize = 10;
/// Earlier versions of a plugin that stay in memory, compiled.
const MAX_EARLIER: usize = 3;

/// The past of one plugin.
#[derive(Debug, Default, Clone)]
pub struct History {
    /// The newest first.
    swaps: VecDeque<Swap>,
    /// The one to go back to first; none that was rolled back, and not the one that serves.
    earlier: VecDeque<Arc<Plugin>>,
}

/// One version of a plugin took the place of another.
#[derive(Debug, Clone)]
pub struct Swap {
    pub at: SystemTime,
    /// Digests. `None`: nothing served before.
    pub from: Option<String>,
    pub to: String,
    /// What the version that came calls itself.
    pub version: String,
    /// The node's, which the swap made.
    pub generation: u64,
    pub why: Why,
}

/// Why a version came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// It was there when the node started.
    Start,
    /// Its file came, or an operator let it be followed again.
    File,
    /// The one before it failed, as the words say.
    RolledBack(String),
    /// An operator put it back.
    Reverted,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start => f.write_str("start"),
            Self::File => f.write_str("file"),
            Self::RolledBack(why) => write!(f, "rolled-back: {why}"),
            Self::Reverted => f.write_str("reverted"),
        }
    }
}

impl History {
    /// The newest first.
    pub fn swaps(&self) -> impl Iterator<Item = &Swap> {
        self.swaps.iter()
    }

    /// Versions that can serve again, the one that is taken where none is named first.
    pub fn earlier(&self) -> impl Iterator<Item = &Arc<Plugin>> {
        self.earlier.iter()
    }

    /// An earlier version has proved to be bad.
    pub fn forget(&mut self, digest: &str) {
        self.earlier.retain(|earlier| *earlier.digest != *digest);
    }

    /// One version takes the place of another.
    pub fn swap(&mut self, from: Option<Arc<Plugin>>, to: &Arc<Plugin>, generation: u64, why: Why) {
        self.swaps.push_front(Swap {
            at: SystemTime::now(),
            from: from.as_ref().map(|from| from.digest.clone()),
            to: to.digest.clone(),
            version: to.description.version.clone(),
            generation,
            why: why.clone(),
        });
        self.swaps.truncate(MAX_SWAPS);
        self.earlier.retain(|earlier| earlier.digest != to.digest);
        match (from, why) {
            // It has proved to be bad.
            (None, _) | (_, Why::RolledBack(_)) => {}
            // Whoever reverts twice wants to go back further, and not to where the trouble was.
            (Some(from), Why::Reverted) => self.earlier.push_back(from),
            (Some(from), Why::Start | Why::File) => self.earlier.push_front(from),
        }
        self.earlier.truncate(MAX_EARLIER);
    }
}
