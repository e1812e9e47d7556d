use super::*;
use std::fs;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};
use wasmtime::Config;

/// A component without content.
const COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0";

fn engine() -> Engine {
    Engine::default()
}

/// One that compiles in another way.
fn other_engine() -> Engine {
    Engine::new(Config::new().epoch_interruption(true)).unwrap()
}

fn digest_of(name: &str) -> String {
    hex(&Sha256::digest(name))
}

/// A directory, with `cache` in it for the taking; removed in the end.
struct Temporary(PathBuf);

impl Temporary {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("weir-cache-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn place(&self) -> PathBuf {
        self.0.join("cache")
    }

    fn cache(&self, engine: &Engine) -> Cache {
        let cache = Cache::new(engine);
        cache.move_to(Some(&self.place()));
        cache
    }

    /// The names in the cache, without the key's.
    fn entries(&self) -> Vec<String> {
        let names = fs::read_dir(self.place()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name != KEY).collect()
    }

    fn only_entry(&self) -> PathBuf {
        let entries = self.entries();
        assert_eq!(entries.len(), 1, "{entries:?}");
        self.place().join(&entries[0])
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn keep(cache: &Cache, engine: &Engine, name: &str) {
    cache.keep(&digest_of(name), &Component::from_binary(engine, COMPONENT).unwrap());
}

fn has(cache: &Cache, engine: &Engine, name: &str) -> bool {
    cache.get(engine, &digest_of(name)).is_some()
}

#[test]
fn what_is_kept_is_found_by_another_node_with_the_same_engine() {
    let temporary = Temporary::new("kept");
    let (one, two) = (engine(), engine());
    keep(&temporary.cache(&one), &one, "a");
    let again = temporary.cache(&two);
    assert!(has(&again, &two, "a"));
    assert!(!has(&again, &two, "b"));
    again.move_to(None);
    assert!(!has(&again, &two, "a"));
    keep(&again, &two, "b");
    assert_eq!(temporary.entries().len(), 1);
}

#[test]
fn an_entry_that_was_changed_anywhere_is_not_run_but_removed() {
    let temporary = Temporary::new("changed");
    let engine = engine();
    let cache = temporary.cache(&engine);
    keep(&cache, &engine, "a");
    let file = temporary.only_entry();
    let whole = fs::read(&file).unwrap();
    let refused = |bytes: &[u8], what: &str| {
        fs::write(&file, bytes).unwrap();
        assert!(!has(&cache, &engine, "a"), "{what}");
        assert!(!file.exists(), "{what}");
    };
    let head = cache.head(&digest_of("a")).len();
    let in_head_and_code = (0..head).chain((head..whole.len()).step_by(97));
    for at in in_head_and_code.chain(whole.len() - MAC..whole.len()) {
        let mut changed = whole.clone();
        changed[at] ^= 1 << (at % 8);
        refused(&changed, &format!("byte {at}"));
    }
    for length in [0, 1, MAC - 1, MAC, head, head + MAC, whole.len() / 2, whole.len() - 1] {
        refused(&whole[..length], &format!("{length} bytes"));
    }
    refused(&[&whole[..], &[0]].concat(), "a byte more");
    refused(&[0].repeat(whole.len()), "zeros");
    fs::write(&file, &whole).unwrap();
    assert!(has(&cache, &engine, "a"), "and as it was it is good");
}

#[test]
fn an_entry_is_good_in_its_place_alone() {
    let (temporary, elsewhere) = (Temporary::new("place"), Temporary::new("elsewhere"));
    let (one, other) = (engine(), other_engine());
    let (cache, of_other) = (temporary.cache(&one), temporary.cache(&other));
    keep(&cache, &one, "a");
    let file = temporary.only_entry();
    let whole = fs::read(&file).unwrap();

    fs::rename(&file, temporary.place().join(cache.name(&digest_of("b")))).unwrap();
    assert!(!has(&cache, &one, "b"), "of another component");
    fs::write(temporary.place().join(of_other.name(&digest_of("a"))), &whole).unwrap();
    assert!(!has(&of_other, &other, "a"), "of another engine");
    assert!(temporary.entries().is_empty());

    keep(&elsewhere.cache(&one), &one, "a");
    fs::copy(elsewhere.only_entry(), &file).unwrap();
    assert!(!has(&cache, &one, "a"), "made with another key");
    fs::write(&file, &whole).unwrap();
    assert!(has(&cache, &one, "a"));
    fs::remove_file(temporary.place().join(KEY)).unwrap();
    assert!(!has(&cache, &one, "a"), "the key it was made with is gone");
    keep(&cache, &one, "a");
    assert!(has(&cache, &one, "a"));
}

#[test]
fn what_is_no_file_in_the_place_of_an_entry_is_replaced() {
    let temporary = Temporary::new("no-file");
    let engine = engine();
    let cache = temporary.cache(&engine);
    keep(&cache, &engine, "a");
    let file = temporary.only_entry();
    let moved = temporary.0.join("moved");
    fs::rename(&file, &moved).unwrap();
    symlink(&moved, &file).unwrap();
    assert!(!has(&cache, &engine, "a"), "links are not followed");
    assert!(std::process::Command::new("mkfifo").arg(&file).status().unwrap().success());
    assert!(!has(&cache, &engine, "a"), "and nothing waits for a pipe");
    keep(&cache, &engine, "a");
    assert!(has(&cache, &engine, "a"));
}

#[test]
fn a_directory_that_is_not_ours_alone_is_not_used() {
    let temporary = Temporary::new("not-ours");
    let engine = engine();
    let cache = temporary.cache(&engine);
    keep(&cache, &engine, "a");
    let (place, key) = (temporary.place(), temporary.place().join(KEY));
    let mode = |path: &Path, mode: u32| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    let refused = |what: &str| {
        assert!(!has(&cache, &engine, "a"), "{what}");
        keep(&cache, &engine, "b");
        let told = cache.place().told.clone().unwrap_or_default();
        assert!(told.contains(what), "{told:?} does not say {what:?}");
        cache.move_to(None);
        cache.move_to(Some(&place));
    };
    for open in [0o777, 0o755, 0o750, 0o701, 0o710, 0o702] {
        mode(&place, open);
        refused(&format!("others may use it (mode {open:o})"));
    }
    mode(&place, 0o700);
    mode(&key, 0o640);
    refused("its file \"key\": others may use it");
    mode(&key, 0o600);
    let secret = fs::read(&key).unwrap();
    for bytes in [&secret[1..], &[], &[&secret[..], b"\n"].concat()] {
        fs::write(&key, bytes).unwrap();
        refused("its file \"key\": it is no file of 32 bytes");
    }
    fs::remove_file(&key).unwrap();
    let copy = temporary.0.join("copy");
    fs::write(&copy, &secret).unwrap();
    mode(&copy, 0o600);
    symlink(&copy, &key).unwrap();
    refused("its file \"key\"");
    fs::remove_file(&key).unwrap();
    fs::rename(&copy, &key).unwrap();

    let moved = temporary.0.join("moved");
    fs::rename(&place, &moved).unwrap();
    symlink(&moved, &place).unwrap();
    refused("it is a symbolic link");
    cache.move_to(Some(&place.join("")));
    assert!(!has(&cache, &engine, "a"), "nor with a slash at the end");
    cache.move_to(Some(&place));
    fs::remove_file(&place).unwrap();
    fs::write(&place, "").unwrap();
    refused("it is a symbolic link, or no directory");
    fs::remove_file(&place).unwrap();
    fs::rename(&moved, &place).unwrap();

    mode(&temporary.0, 0o777);
    refused("everybody may write");
    mode(&temporary.0, 0o1777);
    assert!(has(&cache, &engine, "a"), "as in /tmp, where none can move what is another's");
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(&place, Some(1), None).unwrap();
        refused("it belongs to user 1");
        std::os::unix::fs::chown(&place, Some(0), None).unwrap();
        std::os::unix::fs::chown(&key, Some(1), None).unwrap();
        refused("its file \"key\": it belongs to user 1");
        std::os::unix::fs::chown(&key, Some(0), None).unwrap();
    }
    assert!(has(&cache, &engine, "a"));
    assert_eq!(temporary.entries().len(), 1, "nothing was written meanwhile");
    cache.move_to(Some(Path::new("/")));
    assert!(!has(&cache, &engine, "a"));
}

#[test]
fn what_is_made_is_ours_alone() {
    let temporary = Temporary::new("made");
    let engine = engine();
    let cache = Cache::new(&engine);
    cache.move_to(Some(&temporary.0.join("some/where")));
    keep(&cache, &engine, "a");
    let made = temporary.0.join("some");
    for (path, expected) in [(made.clone(), 0o700), (made.join("where"), 0o700), (made.join("where/key"), 0o600)] {
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, expected, "{path:?}");
    }
    assert!(has(&cache, &engine, "a"));
}

#[test]
fn a_cache_that_cannot_be_had_is_told_once() {
    let engine = engine();
    let cache = Cache::new(&engine);
    cache.move_to(Some(Path::new("/proc/weir-cache")));
    assert!(!has(&cache, &engine, "a"));
    let told = cache.place().told.clone();
    assert!(told.as_ref().is_some_and(|told| told.contains("/proc/weir-cache")), "{told:?}");
    keep(&cache, &engine, "a");
    assert_eq!(cache.place().told, told);
}

#[test]
fn the_least_recently_used_go_when_the_limit_is_passed() {
    let temporary = Temporary::new("bound");
    let engine = engine();
    keep(&temporary.cache(&engine), &engine, "a");
    let size = fs::metadata(temporary.only_entry()).unwrap().len();
    // Not ours, and not counted.
    fs::write(temporary.place().join("notes"), vec![0; 10 * size as usize]).unwrap();
    let cache = Cache { limit: 3 * size, ..temporary.cache(&engine) };
    let used_at = |name: &str, seconds: u64| {
        let file = fs::File::options().write(true).open(temporary.place().join(cache.name(&digest_of(name)))).unwrap();
        file.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds)).unwrap();
    };
    keep(&cache, &engine, "b");
    keep(&cache, &engine, "c");
    for (name, seconds) in [("a", 100), ("b", 200), ("c", 300)] {
        used_at(name, seconds);
    }
    assert!(has(&cache, &engine, "a"), "which makes it the one that was used last");
    keep(&cache, &engine, "d");
    let left: Vec<&str> = ["a", "b", "c", "d"].into_iter().filter(|name| has(&cache, &engine, name)).collect();
    assert_eq!(left, ["a", "c", "d"]);
    for number in 0..20 {
        keep(&cache, &engine, &number.to_string());
        assert_eq!(temporary.entries().len(), 3 + 1, "three and the notes");
    }
    let small = Cache { limit: size - 1, ..temporary.cache(&engine) };
    keep(&small, &engine, "large");
    assert!(!has(&cache, &engine, "large"), "what never fits is not kept");
}

#[test]
fn many_share_a_directory() {
    let temporary = Temporary::new("shared");
    // A directory that is there already: it is the key that several make at a time.
    fs::DirBuilder::new().mode(0o700).create(temporary.place()).unwrap();
    let engine = engine();
    let rounds = 20;
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let cache = temporary.cache(&engine);
                for round in 0..rounds {
                    keep(&cache, &engine, &(round % 5).to_string());
                    assert!(has(&cache, &engine, &(round % 5).to_string()), "round {round}");
                }
                assert_eq!(cache.place().told, None);
            });
        }
    });
    assert_eq!(temporary.entries().len(), 5, "one for each, and nothing half-written: {:?}", temporary.entries());
}
