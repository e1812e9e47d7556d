//! Whatever a plugin is, and whatever it says, its node stays well and every caller gets an answer.

use std::cell::Cell;
use std::fmt;
use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use proptest::collection::vec;
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use proptest::sample::{Index, select};
use serde_json::Value;
use weir::config;
use weir::plugin::bindings::Hook;
use weir::plugin::bindings::types::{self, BodyOf, ExchangeKind, Failure};
use weir::plugin::instance::Instance;
use weir::plugin::{Plugin, Policy};
use weir_tests::fuzz::http1::{Change, change};
use weir_tests::fuzz::node::{Script, Settled, Watched};
use weir_tests::fuzz::{Shown, fuzz, parrot};
use weir_tests::guests;
use weir_tests::upstream::Reply;
use weir_tests::weir::{Setup, Weir};

/// Nothing takes longer on the slowest machine, compiling least of all.
const PATIENCE: Duration = Duration::from_secs(60);

/// A component with some of its bytes changed.
#[derive(Debug, Clone)]
struct Mutant {
    file: Index,
    changes: Vec<Change>,
    /// From here on it goes on as another file.
    splice: Option<(Index, Index, Index)>,
    cut: Option<Index>,
}

/// Bytes that mean something in WebAssembly: sections, opcodes, lengths that go on and on.
const PIECES: &[&[u8]] = &[
    b"\0",
    b"\x01",
    b"\x0b",
    b"\x00asm",
    b"\xff\xff\xff\xff\x0f",
    b"\x80\x80\x80\x80\x80\x80\x00",
    b"\x7f",
    b"\x41\x7f",
    b"\x10\x00",
    b"\x03\x40\x0c\x00\x0b",
    b"\x40\x00",
    b"\x0d\x00\x01\x00",
    b"weir:policy/",
    b"@0.1.0",
];

fn mutant() -> impl Strategy<Value = Mutant> {
    let single = (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Change::Replace(at, vec![byte]));
    let changes = vec(prop_oneof![3 => single, 1 => change(PIECES)], 0..4);
    let splice = proptest::option::weighted(0.1, any::<(Index, Index, Index)>());
    let cut = proptest::option::weighted(0.05, any::<Index>());
    (any::<Index>(), changes, splice, cut).prop_map(|(file, changes, splice, cut)| Mutant {
        file,
        changes,
        splice,
        cut,
    })
}

fn files() -> Vec<Vec<u8>> {
    guests::all_built().iter().map(|path| fs::read(path).expect("the file is read")).collect()
}

impl Mutant {
    fn bytes(&self, files: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = self.file.get(files).clone();
        for change in &self.changes {
            change.apply(&mut bytes);
        }
        if let Some((other, from, to)) = &self.splice {
            let other = other.get(files);
            bytes.truncate(from.index(bytes.len() + 1));
            bytes.extend_from_slice(&other[to.index(other.len() + 1)..]);
        }
        if let Some(cut) = &self.cut {
            bytes.truncate(cut.index(bytes.len() + 1));
        }
        bytes
    }
}

#[test]
fn a_broken_component_is_refused_or_runs_within_its_limits() {
    let (weir, files) = (Setup::new().workers(1).start(), files());
    fuzz("plugin", &mutant(), |mutant| component_law(&weir, &mutant.bytes(&files)));
}

/// A panic anywhere in here breaks the law, too.
fn component_law(weir: &Weir, bytes: &[u8]) -> Result<()> {
    let begun = Instant::now();
    let loaded = weir.node().engine.load("mutant", bytes, 1, PATIENCE);
    ensure!(begun.elapsed() < PATIENCE, "loading took {:?}", begun.elapsed());
    match loaded {
        Ok(plugin) => use_it(weir, plugin),
        Err(error) => {
            let message = error.to_string();
            ensure!(!message.is_empty() && !message.contains(char::is_control), "{message:?}");
            Ok(())
        }
    }
}

/// Calls all of its hooks, each with as much CPU time as a hook has.
fn use_it(weir: &Weir, plugin: Plugin) -> Result<()> {
    let text = "[policy.mutant]\nplugin = \"mutant\"\nconfig = { in = \"OnRequest\", do = \"Nothing\", name = \"a\" }";
    let config = config::parse(text, "config.toml".as_ref()).context("a configuration")?;
    let context = weir.node().context("mutant", weir::plugin::capability::Grants::default(), Arc::default());
    let plugin = Arc::new(plugin);
    let policy = Policy::new(&config.policies["mutant"], 1, Ok(plugin.clone()), context);
    let begun = Instant::now();
    let Ok((mut instance, _)) = Instance::new(&policy, &plugin) else { return Ok(()) };
    let exchange = types::Exchange {
        id: 1,
        kind: ExchangeKind::Call,
        route: 0,
        service: 0,
        attempt: 1,
        deadline: u64::MAX,
        memo: 1,
    };
    let outcome = types::Outcome {
        endpoint: 0,
        status: 503,
        grpc_status: -1,
        failure: Failure::None,
        latency: 1_000_000,
        repeatable: true,
    };
    let completion = types::Completion {
        status: 200,
        grpc_status: -1,
        failure: Failure::None,
        attempts: 1,
        duration: 1,
        request_bytes: 0,
        response_bytes: 0,
    };
    // A field, and one that is absent.
    let values = b"\x03\0\0\0now\xff\xff\xff\xff";
    let has = |hook: Hook| plugin.hooks.has(hook);
    // After a call that broke, an instance is thrown away: the rest is for the next one.
    let sound = Cell::new(true);
    macro_rules! call {
        ($hook:ident, |$hooks:ident, $store:ident| $call:expr) => {
            if sound.get() && has(Hook::$hook) {
                sound.set(instance.call(Duration::ZERO, |$hooks, $store| $call).is_ok());
            }
        };
    }
    call!(OnRequest, |hooks, store| hooks.on_request(store, exchange, values));
    call!(Pick, |hooks, store| hooks.pick(store, exchange, &[0], values));
    call!(OnAttempt, |hooks, store| hooks.on_attempt(store, exchange, 0, values));
    call!(OnOutcome, |hooks, store| hooks.on_outcome(store, exchange, outcome, values));
    call!(OnBody, |hooks, store| hooks.on_body(store, exchange, BodyOf::Request, b"body"));
    call!(OnResponse, |hooks, store| hooks.on_response(store, exchange, values));
    call!(OnComplete, |hooks, store| hooks.on_complete(store, exchange, completion).map(Ok));
    call!(Tick, |hooks, store| hooks.tick(store).map(Ok));
    ensure!(begun.elapsed() < PATIENCE, "its hooks took {:?}", begun.elapsed());
    Ok(())
}

/// A call, and what the two policies on its way say.
#[derive(Clone)]
struct Said {
    method: &'static str,
    on_error: &'static str,
    grpc: bool,
    body: bool,
    a: Value,
    b: Value,
}

impl fmt::Debug for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { method, on_error, grpc, body, a, b } = self;
        let [a, b] = [a, b].map(|words| Shown(words.to_string().into_bytes()));
        write!(f, "{method} {on_error}, gRPC {grpc}, body {body}, a {a:?}, b {b:?}")
    }
}

fn said() -> impl Strategy<Value = Said> {
    let method = select(&["GET", "POST", "HEAD", "PUT"][..]);
    let quiet = || prop_oneof![3 => parrot::words(), 1 => Just(serde_json::json!({}))];
    (method, select(&["reject", "skip"][..]), proptest::bool::weighted(0.2), any::<bool>(), quiet(), quiet())
        .prop_map(|(method, on_error, grpc, body, a, b)| Said { method, on_error, grpc, body, a, b })
}

#[test]
fn whatever_policies_say_the_caller_gets_one_answer_and_the_node_stays_well() {
    let node = Watched::start(|_| Reply::new(200).body("hello").into(), parrot::setup);
    fuzz("plugin", &said(), |said| node.block_on(answer_law(&node, said)));
    node.block_on(node.check_records()).expect("each answer leaves one record");
}

async fn answer_law(node: &Watched, said: &Said) -> Result<()> {
    let Said { method, on_error, grpc, body, a, b } = said;
    let kind = if *grpc { "content-type: application/grpc\r\nte: trailers\r\n" } else { "" };
    let (length, body) = if *body { ("content-length: 4\r\n", "body") } else { ("", "") };
    let said = parrot::fields(a, b);
    let bytes =
        format!("{method} / HTTP/1.1\r\nhost: {on_error}\r\nconnection: close\r\n{kind}{length}{said}\r\n{body}");
    let script = Script { bytes: bytes.into(), ..Script::default() };
    let got = node.say(&script, &[method], usize::MAX).await?;
    let Settled { exchanges, seen } = node.settle().await?;
    ensure!(exchanges == 1, "{exchanges} records");
    // A deadline that passes after the head breaks the answer off: the one way in which there is none.
    let hurries = [a, b].iter().any(|words| {
        words["on-request"]["amend"]["timeout"].is_u64() || words["on-response"]["amend"]["timeout"].is_u64()
    });
    let Some(answer) = got.answers.first() else {
        ensure!(hurries && got.closed, "{got:?}");
        return Ok(());
    };
    ensure!(got.answers.len() == 1 && got.rest.is_empty() && got.closed && !got.reset, "{got:?}");
    ensure!((200..600).contains(&answer.status), "{answer:?}");
    ensure!(answer.text("x-request-id").is_some() && answer.values("x-weir-error").len() <= 1, "{answer:?}");
    ensure!(answer.values("x-injected").is_empty(), "{answer:?}");
    for request in &seen {
        ensure!(
            request.headers_named("x-injected").is_empty() && request.headers_named("host") == [*on_error],
            "{request:?}"
        );
    }
    ensure!(seen.len() <= 10, "{} attempts", seen.len());
    Ok(())
}
