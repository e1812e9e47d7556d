//! A configuration that is read again only where it changed is what reading all of it makes of it.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use proptest::collection::vec;
use proptest::prelude::{Strategy, any, prop_oneof};
use proptest::sample::{Index, select};
use weir::config::{self, Document};
use weir_tests::fuzz::{again, fuzz, repository};

const FILE: &str = "config.toml";

/// Lines that come in and go out. Some only look like what they are not.
const BLOCKS: &[&str] = &[
    "[[service]]\nname = \"a\"\nendpoints = [{ address = \"h:1\" }, { address = \"h:2\", weight = 3 }]\n",
    "[[service]]\nname = \"b\"\nendpoints = []\n",
    "[[service]]\nname = \"b\"\nendpoints = [\n  { address = \"h:1\" }, # one\n]\n\n",
    "[[service]]\nname = \"c\"\n[[service.endpoints]]\naddress = \"h:1\"\n[service.endpoints.metadata]\nzone = \"z\"\n",
    "  [[ service ]]\nname = \"d\"\nendpoints = []\n",
    "[[\"service\"]]\r\nname = 'e'\r\nendpoints = []\r\n",
    "[service.endpoints]\n",
    "[[service.endpoints]]\naddress = \"h:9\"\n",
    "[service]\nname = \"f\"\nendpoints = []\n",
    "service = []\n",
    "route = [{ service = \"a\" }]\n",
    "\t[[route]]\nservice = \"a\"\nchain = \"x\"\nlistener = \"in\"\n",
    "[[route]]\nmatch = { host = \"b\" }\nservice = \"b\"\n",
    "[[route]]\nservice = \"b\"\n[route.match]\npath-prefix = \"/\"\n",
    "[[route]]\nservice = \"nobody\"\nchain = \"nothing\"\n",
    "[route.match]\nhost = \"late\"\n",
    "[[listener]]\nname = \"in\"\nlisten = \"127.0.0.1:0\"\n",
    "[chain]\nx = [\n\"p\"\n]\n",
    "[chain]\nx = []\n",
    "[policy.p]\nplugin = \"retry\"\nconfig = { a = [\n[1],\n] }\n",
    "[policy.p]\nplugin = \"retry\"\n[policy.p.config]\nword = '''\n[[service]]\nname = \"s\"\n'''\n",
    "[policy.p.config.more]\nword = \"\"\"\\\n[[route]]\n\"\"\"\n",
    "[limits]\nmax-headers = 3\n",
    "[log]\nlevel = \"debug\"\n",
    "# [[service]]\n",
    "weight = 2\n",
    "name = \"a\"\n",
    "endpoints = []\n",
    "\n",
    "\u{feff}",
];

/// What may come in anywhere.
const BITS: &[&str] =
    &["[", "]", "[[", "{", "}", "\"", "'''", "\"\"\"", "#", "\n", "\r", " ", "=", ".", ",", "1", "é", "\u{feff}"];

#[derive(Debug, Clone)]
enum Edit {
    /// Lines come in before a line.
    Insert(Index, &'static str),
    /// So many lines go.
    Remove(Index, usize),
    /// So many lines go to another place.
    Move(Index, usize, Index),
    /// Some characters become others.
    Bits(Index, usize, &'static str),
}

impl Edit {
    fn apply(&self, text: &str) -> String {
        let lines: Vec<&str> = text.split_inclusive('\n').collect();
        let cut = |lines: &[&str], at: &Index, count: usize| {
            let start = at.index(lines.len() + 1);
            (start, (start + count).min(lines.len()))
        };
        match self {
            Self::Insert(at, block) => {
                let (start, _) = cut(&lines, at, 0);
                [&lines[..start].concat(), *block, &lines[start..].concat()].concat()
            }
            Self::Remove(at, count) => {
                let (start, end) = cut(&lines, at, *count);
                [lines[..start].concat(), lines[end..].concat()].concat()
            }
            Self::Move(at, count, to) => {
                let (start, end) = cut(&lines, at, *count);
                let left = [&lines[..start], &lines[end..]].concat();
                let (to, _) = cut(&left, to, 0);
                [left[..to].concat(), lines[start..end].concat(), left[to..].concat()].concat()
            }
            Self::Bits(at, count, bits) => {
                let characters: Vec<char> = text.chars().collect();
                let start = at.index(characters.len() + 1);
                let end = (start + count).min(characters.len());
                characters[..start]
                    .iter()
                    .copied()
                    .chain(bits.chars())
                    .chain(characters[end..].iter().copied())
                    .collect()
            }
        }
    }
}

fn edit() -> impl Strategy<Value = Edit> {
    prop_oneof![
        6 => (any::<Index>(), select(BLOCKS)).prop_map(|(at, block)| Edit::Insert(at, block)),
        3 => (any::<Index>(), 1..6usize).prop_map(|(at, count)| Edit::Remove(at, count)),
        2 => (any::<Index>(), 1..6usize, any::<Index>()).prop_map(|(at, count, to)| Edit::Move(at, count, to)),
        2 => (any::<Index>(), 0..3usize, select(BITS)).prop_map(|(at, count, bits)| Edit::Bits(at, count, bits)),
    ]
}

/// `{:?}` also shows the places, which are no part of what makes configurations equal.
fn same_law(document: &mut Document, text: &str) -> Result<()> {
    let (file, before) = (Path::new(FILE), document.config().clone());
    let (whole, updated) = (config::parse(text, file), document.update(text, file));
    let context = || format!("the text:\n{text}");
    match (whole, updated) {
        (Ok(whole), Ok(())) => {
            ensure!(format!("{whole:?}") == format!("{:?}", document.config()), context());
            ensure!(document.text() == text, context());
        }
        (Err(whole), Err(updated)) => {
            ensure!(whole == updated, "{whole}\nis told as\n{updated}\n{}", context());
            ensure!(Arc::ptr_eq(&before, document.config()), "a text that is refused changes the document");
        }
        (whole, updated) => anyhow::bail!("{whole:?} and {updated:?}, {}", context()),
    }
    Ok(())
}

fn edits_law(text: &str, edits: &[Edit]) -> Result<()> {
    let (mut document, mut text) = (Document::default(), text.to_owned());
    same_law(&mut document, &text).context("at first")?;
    for (number, edit) in edits.iter().enumerate() {
        text = edit.apply(&text);
        same_law(&mut document, &text).with_context(|| format!("after edit {number}"))?;
    }
    Ok(())
}

#[test]
fn what_is_read_again_in_part_is_what_reading_all_of_it_makes() {
    let sample = std::fs::read_to_string(repository("config.toml")).expect("the sample is read");
    let starts = [
        String::new(),
        BLOCKS[..2].concat(),
        [BLOCKS[0], BLOCKS[1], BLOCKS[12], BLOCKS[16], BLOCKS[19]].concat(),
        sample,
    ];
    for text in &starts {
        again(&Vec::new(), |edits| edits_law(text, edits));
    }
    let strategy = (select(starts.to_vec()), vec(edit(), 1..12));
    fuzz("document", &strategy, |(text, edits)| edits_law(text, edits));
}
