//! How long the parts of an exchange take, one by one: `cargo xtask micro`, or `cargo xtask micro pick` for some of them.
//! How long whole requests take is for `cargo xtask bench` to say.

use divan::Bencher;
use weir_tests::bench::{life, scenario};

/// The host's own: an exchange allocates a few dozen times.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() {
    divan::main();
}

fn names(group: &str) -> Vec<String> {
    scenario::names().into_iter().filter(|name| name.starts_with(group)).collect()
}

fn measure(bencher: Bencher, name: &str) {
    bencher.bench_local(scenario::prepare(name));
}

/// One hook, with all that the host does around it.
#[divan::bench(args = names("hook/"))]
fn hook(bencher: Bencher, name: &str) {
    measure(bencher, name);
}

/// All that a chain does with an exchange, from its first hook to the record.
#[divan::bench(args = names("chain/"))]
fn chain(bencher: Bencher, name: &str) {
    measure(bencher, name);
}

#[divan::bench(args = names("pick/"))]
fn pick(bencher: Bencher, name: &str) {
    measure(bencher, name);
}

#[divan::bench(args = names("route/"))]
fn route(bencher: Bencher, name: &str) {
    measure(bencher, name);
}

/// Making and configuring an instance.
#[divan::bench]
fn instantiate(bencher: Bencher) {
    bencher.bench_local(life::instantiate("trace"));
}

/// From the file to a plugin that can be configured.
#[divan::bench(sample_count = 10)]
fn compile(bencher: Bencher) {
    bencher.bench_local(life::load("trace", None));
}

/// The same for one that was compiled before.
#[divan::bench]
fn load_from_cache(bencher: Bencher) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    bencher.bench_local(life::load("trace", Some(directory.path().join("cache"))));
}

/// From a changed policy to the first exchange that could have it: building the next snapshot, publishing it, and binding it
/// to a worker.
#[divan::bench]
fn swap(bencher: Bencher) {
    bencher.bench_local(life::swap("trace"));
}
