//! Whatever a file contains, reading it ends in a configuration or in problems.

use std::path::Path;

use super::{EVERYTHING, SAMPLE, read};
use crate::config::{Position, load};

/// A small generator (xorshift), so that a failure can be repeated by its seed.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % limit as u64).unwrap()
    }
}

/// Reads `text`; a failure must come with places that are in the text.
fn check(text: &str) {
    if let Err(problems) = read(text) {
        let lines = text.split('\n').count();
        assert!(problems.iter().count() > 0);
        for problem in &problems {
            assert!(problem.line as usize <= lines, "{problem} of {lines} lines");
        }
    }
}

#[test]
fn a_file_cut_short_anywhere_never_panics() {
    for text in [SAMPLE, EVERYTHING] {
        for (cut, _) in text.char_indices().step_by(3) {
            check(&text[..cut]);
        }
    }
}

#[test]
fn a_file_with_random_changes_never_panics() {
    const PIECES: [&str; 24] = [
        "[",
        "]",
        "[[",
        "]]",
        "{",
        "}",
        "=",
        ".",
        ",",
        "\"",
        "'",
        "\"\"\"",
        "\n",
        "\r\n",
        "#",
        "-1",
        "1e400",
        "nan",
        "é\u{0}",
        "policy",
        "1979-05-27",
        "\\u",
        "key.",
        "99999999999999999999",
    ];
    let mut random = Random(0x5eed);
    for _ in 0..400 {
        let mut text = EVERYTHING.to_owned();
        for _ in 0..=random.below(4) {
            let places: Vec<usize> = text.char_indices().map(|(at, _)| at).collect();
            let from = places[random.below(places.len())];
            let to = places[random.below(places.len())].clamp(from, from + random.below(20));
            let to = places.iter().copied().find(|place| *place >= to).unwrap_or(text.len());
            text.replace_range(from..to, PIECES[random.below(PIECES.len())]);
        }
        check(&text);
    }
}

#[test]
fn random_bytes_never_panic() {
    let mut random = Random(0xbad);
    let path = std::env::temp_dir().join(format!("weir-config-{}.toml", std::process::id()));
    for round in 0..400 {
        let bytes: Vec<u8> = (0..random.below(200)).map(|_| u8::try_from(random.below(256)).unwrap()).collect();
        check(&String::from_utf8_lossy(&bytes));
        if round % 8 == 0 {
            std::fs::write(&path, &bytes).unwrap();
            let _ = load(&path);
        }
    }
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn nesting_of_any_depth_is_a_problem_and_no_stack_overflow() {
    let path = vec!["a"; 79].join(".");
    let inline = format!("{path}={{").repeat(79) + "a=1" + &"}".repeat(79);
    let arrays = format!("a = {}{}", "[".repeat(79), "]".repeat(79));
    let dotted = format!("{} = 1", vec!["a"; 100_000].join("."));
    let unclosed = format!("a = {}", "[".repeat(100_000));
    for text in [inline, arrays, dotted, unclosed] {
        assert!(read(&text).is_err(), "{}", &text[..20]);
    }
}

#[test]
fn a_file_that_cannot_be_read_is_one_problem_of_the_file() {
    let missing = Path::new("no/such/config.toml");
    let problems = load(missing).unwrap_err();
    let problem = problems.iter().next().unwrap();
    assert_eq!((problem.line, problem.column), (Position::FILE.line, Position::FILE.column));
    assert!(problems.to_string().starts_with("no/such/config.toml: cannot be read: "), "{problems}");
}

#[test]
fn a_file_that_is_not_utf8_is_told_where() {
    let path = std::env::temp_dir().join(format!("weir-config-utf8-{}.toml", std::process::id()));
    std::fs::write(&path, b"[node]\nname = \"\xff\"\n").unwrap();
    let problems = load(&path).unwrap_err();
    std::fs::remove_file(&path).unwrap();
    let problem = problems.iter().next().unwrap();
    assert_eq!((problem.line, problem.column, problem.message.as_str()), (2, 9, "not UTF-8"));
}
