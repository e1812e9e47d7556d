//! The part of WASI 0.2 that a language's runtime needs to start and to print, granting nothing.
//!
//! Written here rather than taken from `wasmtime-wasi`: its synchronous streams block on a tokio runtime, which panics on
//! a worker, because a worker already runs in one; and its asynchronous ones would put each hook on a stack of its own.
//! What is not here traps when it is called: files, sockets, polling.

use super::bindings::log::Level;
use super::imports::State;
use rand::RngCore;
use wasmtime::component::{ComponentType, Lift, Linker, Lower, Resource, ResourceType};
use wasmtime::{Result, StoreContextMut};

/// stdout or stderr of a plugin: a line of the log.
struct OutputStream;
struct InputStream;
struct IoError;
struct Pollable;
struct Terminal;

#[derive(ComponentType, Lift, Lower)]
#[component(variant)]
enum StreamError {
    #[component(name = "last-operation-failed")]
    LastOperationFailed(Resource<IoError>),
    #[component(name = "closed")]
    Closed,
}

#[derive(ComponentType, Lift, Lower)]
#[component(record)]
struct Datetime {
    seconds: u64,
    nanoseconds: u32,
}

/// How much one write may bring (WASI 0.2, `check-write`).
const WRITE: u64 = 4096;

type Context<'a> = StoreContextMut<'a, State>;

pub fn add_to_linker(linker: &mut Linker<State>) -> Result<()> {
    let mut error = linker.instance("wasi:io/error@0.2.6")?;
    error.resource("error", ResourceType::host::<IoError>(), |_, _| Ok(()))?;
    let mut poll = linker.instance("wasi:io/poll@0.2.6")?;
    poll.resource("pollable", ResourceType::host::<Pollable>(), |_, _| Ok(()))?;
    streams(linker)?;
    let mut stdin = linker.instance("wasi:cli/stdin@0.2.6")?;
    stdin.resource("input-stream", ResourceType::host::<InputStream>(), |_, _| Ok(()))?;
    stdin.func_wrap("get-stdin", |_: Context<'_>, (): ()| Ok((Resource::<InputStream>::new_own(0),)))?;
    for (interface, function) in [("wasi:cli/stdout@0.2.6", "get-stdout"), ("wasi:cli/stderr@0.2.6", "get-stderr")] {
        let mut stream = linker.instance(interface)?;
        stream.resource("output-stream", ResourceType::host::<OutputStream>(), |_, _| Ok(()))?;
        stream.func_wrap(function, |_: Context<'_>, (): ()| Ok((Resource::<OutputStream>::new_own(0),)))?;
    }
    for (interface, resource) in
        [("wasi:cli/terminal-input@0.2.6", "terminal-input"), ("wasi:cli/terminal-output@0.2.6", "terminal-output")]
    {
        linker.instance(interface)?.resource(resource, ResourceType::host::<Terminal>(), |_, _| Ok(()))?;
    }
    for (stream, resource) in
        [("stdin", "terminal-input"), ("stdout", "terminal-output"), ("stderr", "terminal-output")]
    {
        let mut terminal = linker.instance(&format!("wasi:cli/terminal-{stream}@0.2.6"))?;
        terminal.resource(resource, ResourceType::host::<Terminal>(), |_, _| Ok(()))?;
        terminal
            .func_wrap(&format!("get-terminal-{stream}"), |_: Context<'_>, (): ()| Ok((None::<Resource<Terminal>>,)))?;
    }
    let mut environment = linker.instance("wasi:cli/environment@0.2.6")?;
    environment.func_wrap("get-environment", |_: Context<'_>, (): ()| Ok((Vec::<(String, String)>::new(),)))?;
    environment.func_wrap("get-arguments", |_: Context<'_>, (): ()| Ok((Vec::<String>::new(),)))?;
    environment.func_wrap("initial-cwd", |_: Context<'_>, (): ()| Ok((None::<String>,)))?;
    let mut exit = linker.instance("wasi:cli/exit@0.2.6")?;
    exit.func_wrap("exit", |_: Context<'_>, (_,): (std::result::Result<(), ()>,)| -> Result<()> {
        Err(wasmtime::Error::msg("the plugin exited"))
    })?;
    clocks(linker)?;
    randomness(linker)
}

fn streams(linker: &mut Linker<State>) -> Result<()> {
    type Done = (std::result::Result<(), StreamError>,);
    let write = |mut context: Context<'_>, (_, bytes): (Resource<OutputStream>, Vec<u8>)| {
        let text = String::from_utf8_lossy(&bytes);
        text.lines().filter(|line| !line.trim().is_empty()).for_each(|line| context.data_mut().log(Level::Warn, line));
        Ok::<Done, wasmtime::Error>((Ok(()),))
    };
    let flush = |_: Context<'_>, (_,): (Resource<OutputStream>,)| Ok::<Done, wasmtime::Error>((Ok(()),));
    let read = |_: Context<'_>, (_, _): (Resource<InputStream>, u64)| Ok((Err::<Vec<u8>, _>(StreamError::Closed),));
    let mut streams = linker.instance("wasi:io/streams@0.2.6")?;
    // What one interface uses of another is part of it too.
    streams.resource("error", ResourceType::host::<IoError>(), |_, _| Ok(()))?;
    streams.resource("pollable", ResourceType::host::<Pollable>(), |_, _| Ok(()))?;
    streams.resource("input-stream", ResourceType::host::<InputStream>(), |_, _| Ok(()))?;
    streams.resource("output-stream", ResourceType::host::<OutputStream>(), |_, _| Ok(()))?;
    streams.func_wrap("[method]input-stream.read", read)?;
    streams.func_wrap("[method]input-stream.blocking-read", read)?;
    streams.func_wrap("[method]output-stream.check-write", |_: Context<'_>, (_,): (Resource<OutputStream>,)| {
        Ok((Ok::<u64, StreamError>(WRITE),))
    })?;
    streams.func_wrap("[method]output-stream.write", write)?;
    streams.func_wrap("[method]output-stream.blocking-write-and-flush", write)?;
    streams.func_wrap("[method]output-stream.flush", flush)?;
    streams.func_wrap("[method]output-stream.blocking-flush", flush)
}

fn clocks(linker: &mut Linker<State>) -> Result<()> {
    let mut monotonic = linker.instance("wasi:clocks/monotonic-clock@0.2.6")?;
    monotonic.resource("pollable", ResourceType::host::<Pollable>(), |_, _| Ok(()))?;
    monotonic.func_wrap("now", |_: Context<'_>, (): ()| Ok((crate::clock::now(),)))?;
    monotonic.func_wrap("resolution", |_: Context<'_>, (): ()| Ok((1u64,)))?;
    let mut wall = linker.instance("wasi:clocks/wall-clock@0.2.6")?;
    wall.func_wrap("now", |_: Context<'_>, (): ()| {
        let unix = crate::clock::unix();
        Ok((Datetime { seconds: unix / 1_000_000_000, nanoseconds: (unix % 1_000_000_000) as u32 },))
    })?;
    wall.func_wrap("resolution", |_: Context<'_>, (): ()| Ok((Datetime { seconds: 0, nanoseconds: 1 },)))
}

fn randomness(linker: &mut Linker<State>) -> Result<()> {
    let bytes = |_: Context<'_>, (length,): (u64,)| {
        let mut bytes = vec![0u8; length.min(1024) as usize];
        rand::rng().fill_bytes(&mut bytes);
        Ok((bytes,))
    };
    let number = |_: Context<'_>, (): ()| Ok((rand::random::<u64>(),));
    let mut random = linker.instance("wasi:random/random@0.2.6")?;
    random.func_wrap("get-random-bytes", bytes)?;
    random.func_wrap("get-random-u64", number)?;
    let mut insecure = linker.instance("wasi:random/insecure@0.2.6")?;
    insecure.func_wrap("get-insecure-random-bytes", bytes)?;
    insecure.func_wrap("get-insecure-random-u64", number)?;
    let mut seed = linker.instance("wasi:random/insecure-seed@0.2.6")?;
    seed.func_wrap("insecure-seed", |_: Context<'_>, (): ()| Ok(((rand::random::<u64>(), rand::random::<u64>()),)))
}
