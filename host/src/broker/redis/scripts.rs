//! What has to happen in Redis all at once: Lua, run by the server one script at a time.

use redis::Script;
use std::sync::LazyLock;

macro_rules! script {
    ($($file:literal),+) => {
        LazyLock::new(|| Script::new(concat!($(include_str!($file)),+)))
    };
}

/// Publishes with a limit, or for later.
pub static PUBLISH: LazyLock<Script> = script!("groups.lua", "publish.lua");
/// Moves what is due into the stream, and drops what nobody needs.
pub static UPKEEP: LazyLock<Script> = script!("time.lua", "groups.lua", "upkeep.lua");
pub static BACKLOG: LazyLock<Script> = script!("time.lua", "groups.lua", "backlog.lua");
/// Takes over what others have left.
pub static TAKE: LazyLock<Script> = script!("time.lua", "idle.lua", "take.lua");
pub static ACK: LazyLock<Script> = script!("ack.lua");
/// Keeps, gives back, or notes a failure of one message.
pub static HOLD: LazyLock<Script> = script!("time.lua", "hold.lua");
/// What a consumer does last.
pub static LEAVE: LazyLock<Script> = script!("time.lua", "idle.lua", "leave.lua");
/// Removes the consumers of dead processes.
pub static SWEEP: LazyLock<Script> = script!("sweep.lua");
