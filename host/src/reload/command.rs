//! What an operator asks of the reload thread: to put a version of a plugin back, or to leave it alone.

use super::Reloader;
use super::inbox::Bell;
use crate::plugin::directory::{Candidate, Pace};
use crate::plugin::history::Why;
use std::time::Duration;
use thiserror::Error;
use tokio::sync::oneshot;

/// How long a command is waited for: a compilation that has begun comes first.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is to be done with a plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// An earlier version serves again, and is pinned: the one with this beginning of its digest, or the last.
    Revert(Option<String>),
    /// What serves keeps serving, whatever file comes.
    Pin,
    /// The file is followed again; also the version with this beginning of its digest, which was rolled back.
    Unpin(Option<String>),
}

/// Why a command was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CommandError {
    #[error("there is no plugin {0:?}")]
    Unknown(String),
    #[error("{0}")]
    Conflict(String),
    #[error("the node is too busy with earlier commands, or stops: try again")]
    Busy,
    #[error("not done within {} s: a plugin is being compiled. It may still be done: see /plugins", PATIENCE.as_secs())]
    Late,
}

type Done = Result<(), CommandError>;

/// A command on its way. Whoever gave it waits.
#[derive(Debug)]
pub struct Command {
    plugin: String,
    action: Action,
    done: oneshot::Sender<Done>,
}

impl Command {
    pub fn new(plugin: &str, action: Action) -> (Self, oneshot::Receiver<Done>) {
        let (done, reply) = oneshot::channel();
        (Self { plugin: plugin.to_owned(), action, done }, reply)
    }
}

/// Gives commands to the reload thread.
#[derive(Debug, Clone)]
pub struct Commands(Bell);

impl Commands {
    pub(super) fn new(bell: Bell) -> Self {
        Self(bell)
    }

    /// Returns when it is done: for exchanges that start from now.
    ///
    /// # Errors
    /// Why it is not.
    pub async fn give(&self, plugin: &str, action: Action) -> Done {
        let (command, reply) = Command::new(plugin, action);
        if !self.0.command(command) {
            return Err(CommandError::Busy);
        }
        match tokio::time::timeout(PATIENCE, reply).await {
            Ok(Ok(done)) => done,
            Ok(Err(_)) => Err(CommandError::Busy),
            Err(_) => Err(CommandError::Late),
        }
    }
}

impl Reloader {
    pub(super) fn obey(&mut self, command: Command) {
        let Command { plugin, action, done } = command;
        if done.is_closed() {
            // Nobody waits any more, and was told that it is late: better not at all than by surprise.
            return;
        }
        let result = match action {
            _ if self.directory.file(&plugin).is_none() => Err(CommandError::Unknown(plugin)),
            Action::Revert(digest) => self.revert(&plugin, digest.as_deref()),
            Action::Pin => self.pin(&plugin),
            Action::Unpin(digest) => self.unpin(&plugin, digest.as_deref()),
        };
        // What is answered is on the pages.
        self.show();
        let _ = done.send(result);
    }

    fn revert(&mut self, name: &str, digest: Option<&str>) -> Done {
        let Some(file) = self.directory.file(name) else { return Ok(()) };
        let begins = digest.unwrap_or_default();
        let mut found = file.history.earlier().filter(|plugin| plugin.digest.starts_with(begins));
        let plugin = match (found.next(), digest) {
            (Some(plugin), None) => plugin.clone(),
            (Some(plugin), Some(_)) if found.next().is_none() => plugin.clone(),
            (Some(_), Some(digest)) => {
                return conflict(format!("more than one earlier version of {name:?} begins with {digest}"));
            }
            (None, None) => {
                return conflict(format!("no earlier version of {name:?} has served well since the node started"));
            }
            (None, Some(digest)) => {
                return conflict(format!(
                    "no earlier version of {name:?} begins with {digest}: `can-revert-to` on /plugins lists them"
                ));
            }
        };
        drop(found);
        let candidate = Candidate { name: name.to_owned(), plugin };
        let generation = self.attempt(self.node.snapshot().config.clone(), std::slice::from_ref(&candidate)).or_else(
            |problems| conflict(format!("that version does not fit the configuration: {}", super::list(&problems))),
        )?;
        self.trials.end(name);
        self.directory.accept(&candidate, Why::Reverted, generation);
        tracing::warn!(plugin = name, generation, digest = candidate.plugin.digest, "plugin reverted and pinned");
        Ok(())
    }

    fn pin(&mut self, name: &str) -> Done {
        if !self.directory.pin(name) {
            return conflict(format!("no version of {name:?} serves that could be kept"));
        }
        self.trials.end(name);
        tracing::warn!(plugin = name, "plugin pinned");
        Ok(())
    }

    /// What a pin keeps from serving is tried all the same, so that problems show before it is let go.
    pub(super) fn try_held(&mut self) {
        for candidate in self.directory.held() {
            match self.build(self.node.snapshot().config.clone(), std::slice::from_ref(&candidate)) {
                Ok(_) => self.directory.acquit(&candidate.name),
                Err(problems) => self.refuse(&candidate, &problems),
            }
        }
    }

    /// Also where it was not pinned: then only a version that was rolled back can be named.
    fn unpin(&mut self, name: &str, digest: Option<&str>) -> Done {
        if let Some(digest) = digest
            && !self.directory.forgive(name, digest)
        {
            return conflict(format!("no version of {name:?} that begins with {digest} was rolled back"));
        }
        self.directory.unpin(name);
        tracing::warn!(plugin = name, "plugin follows its file again");
        let plugins = self.node.snapshot().config.plugins.clone();
        self.scan(&plugins, Pace::Live);
        self.take_over();
        Ok(())
    }
}

fn conflict<T>(why: String) -> Result<T, CommandError> {
    Err(CommandError::Conflict(why))
}
