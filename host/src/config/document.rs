//! A configuration that is read again only where its text changed.
//!
//! A file with ten thousand services has megabytes, and mostly one line of it changes. The text is cut at its headers
//! (`cut`), each service and each route is read by itself, and what its text was read to is kept as long as the text is
//! the same. The rest of the file is read as one.
//!
//! That comes to the same as reading the whole: TOML is a sequence of lines, so texts that are valid one by one are valid
//! one after the other and mean the same, as long as no two of them say something about the same table. For services and
//! routes that is so by how the text is cut; and the rest must not name them. What is left to see are names, which each
//! part may give and use. **Only success is found this way.** Where anything is wrong, or unusual, the whole text is read
//! by [`parse`], which tells all problems with their places.

use super::cut::{Part, Stretches};
use super::names::{Kind, Names};
use super::reader::{Fields, Reader};
use super::{Config, Position, Problems, Route, Service, parse, read, route, service, text, tree};
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

/// The text of a configuration and what it was read to.
#[derive(Debug, Default)]
pub struct Document {
    text: String,
    /// One after the other they are the text; none if it could only be read as a whole.
    sections: Vec<Section>,
    config: Arc<Config>,
}

#[derive(Debug)]
struct Section {
    bytes: usize,
    lines: usize,
    content: Content,
}

#[derive(Debug, Clone)]
enum Content {
    Service(Arc<Service>),
    Route(Arc<Route>),
    Rest,
}

/// What becomes of some sections in the middle.
struct Change {
    /// The sections before it stay, and so many after it.
    before: usize,
    after: usize,
    sections: Vec<Section>,
}

impl Document {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// As [`load`](super::load) has them.
    pub fn load(path: &Path) -> Result<Self, Problems> {
        let mut document = Self::default();
        document.update(text(&read(path)?, path)?, path)?;
        Ok(document)
    }

    pub fn config(&self) -> &Arc<Config> {
        &self.config
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    /// Goes from one text to the next. Services and routes whose text stays are the very same afterwards.
    ///
    /// # Errors
    /// As [`parse`] has them. Then nothing has changed.
    pub fn update(&mut self, text: &str, file: &Path) -> Result<(), Problems> {
        match self.change(text) {
            Some((change, config)) => {
                self.config = Arc::new(config);
                let changed = change.before..self.sections.len().saturating_sub(change.after);
                self.sections.splice(changed, change.sections);
            }
            None => {
                self.config = Arc::new(parse(text, file)?);
                self.sections.clear();
            }
        }
        self.text.clear();
        self.text.push_str(text);
        Ok(())
    }

    /// Reads what changed; `None` where it is not worth it or not right.
    fn change(&self, text: &str) -> Option<(Change, Config)> {
        let change = self.cut(text)?;
        let after = self.sections.get(self.sections.len() - change.after..)?;
        let sections = || self.sections.iter().take(change.before).chain(&change.sections).chain(after);
        let (rest, names) = read_rest(text, sections())?;
        let services = sections().filter_map(|section| section.content.service());
        let routes = sections().filter_map(|section| section.content.route());
        let changed = self.sections.get(change.before..self.sections.len() - change.after)?;
        if !names_are_the_same(changed, &change.sections) {
            agree(names, services.clone(), routes.clone())?;
        }
        let config = Config {
            services: kept(&self.config.services, services),
            routes: kept(&self.config.routes, routes),
            ..rest
        };
        Some((change, config))
    }

    /// Cuts the text where it changed, and reads the services and routes in there.
    fn cut(&self, text: &str) -> Option<Change> {
        let (same_start, same_end) = common(self.text.as_bytes(), text.as_bytes());
        let starts = self.starts();
        // The last section whose header, and all before it, is the same: the next begins in what is the same.
        let before = starts.partition_point(|start| *start <= same_start).saturating_sub(2);
        let from = starts.get(before).copied().unwrap_or(0);
        let (mut stretches, mut after, mut end) = (Vec::new(), 0, text.len());
        for (start, part) in Stretches::of(text.get(from..)?) {
            let start = from + start;
            // From a header on, what is the same to the end is cut the same. The first is never that far: something
            // changed behind it.
            if start > from && start + same_end >= text.len() {
                let known = (start + self.text.len()).checked_sub(text.len())?;
                if let Ok(section) = starts.binary_search(&known)
                    && section > before
                {
                    (after, end) = (self.sections.len() - section, start);
                    break;
                }
            }
            stretches.push((start, part));
        }
        let known = self.known(before, after, &starts);
        let ends = stretches.iter().skip(1).map(|(start, _)| *start).chain([end]);
        let sections: Option<Vec<Section>> = stretches
            .iter()
            .zip(ends)
            .map(|((start, part), end)| {
                let text = text.get(*start..end)?;
                let content = match (part, known.get(text)) {
                    (Part::Rest, _) => Content::Rest,
                    (_, Some(known)) => (*known).clone(),
                    (Part::Service, None) => Content::Service(one(text, "service", service::service)?),
                    (Part::Route, None) => Content::Route(one(text, "route", route::route)?),
                };
                Some(Section { bytes: text.len(), lines: text.matches('\n').count(), content })
            })
            .collect();
        Some(Change { before, after, sections: sections? })
    }

    /// Where the sections begin.
    fn starts(&self) -> Vec<usize> {
        let begin = |at: &mut usize, section: &Section| {
            let start = *at;
            *at += section.bytes;
            Some(start)
        };
        self.sections.iter().scan(0, begin).collect()
    }

    /// What the sections that may change were read to, by their text: they may just have moved.
    fn known(&self, before: usize, after: usize, starts: &[usize]) -> HashMap<&str, &Content> {
        let changing = self.sections.iter().zip(starts).take(self.sections.len() - after).skip(before);
        let items = changing.filter(|(section, _)| !matches!(section.content, Content::Rest));
        items
            .filter_map(|(section, start)| Some((self.text.get(*start..*start + section.bytes)?, &section.content)))
            .collect()
    }
}

impl Content {
    fn service(&self) -> Option<&Arc<Service>> {
        if let Self::Service(service) = self { Some(service) } else { None }
    }

    fn route(&self) -> Option<&Arc<Route>> {
        if let Self::Route(route) = self { Some(route) } else { None }
    }
}

/// How many bytes two texts have in common, at their beginnings and at their ends.
fn common(one: &[u8], other: &[u8]) -> (usize, usize) {
    /// Compared at a time, which is many times faster than one by one.
    const CHUNK: usize = 4096;
    let chunks = |(one, other): (&[u8], &[u8])| one == other;
    let bytes = |(one, other): (&u8, &u8)| one == other;
    let start = CHUNK * one.chunks_exact(CHUNK).zip(other.chunks_exact(CHUNK)).take_while(|pair| chunks(*pair)).count();
    let (one, other) = (one.get(start..).unwrap_or_default(), other.get(start..).unwrap_or_default());
    let more = one.iter().zip(other).take_while(|pair| bytes(*pair)).count();
    let (one, other) = (one.get(more..).unwrap_or_default(), other.get(more..).unwrap_or_default());
    let end = CHUNK * one.rchunks_exact(CHUNK).zip(other.rchunks_exact(CHUNK)).take_while(|pair| chunks(*pair)).count();
    let rest = |text: &[u8]| text.len() - end;
    let (one, other) = (one.get(..rest(one)).unwrap_or_default(), other.get(..rest(other)).unwrap_or_default());
    let before = one.iter().rev().zip(other.iter().rev()).take_while(|pair| bytes(*pair)).count();
    (start + more, end + before)
}

/// Reads a section that is one `[[key]]`.
fn one<T>(text: &str, key: &'static str, read: fn(&mut Fields<'_>) -> Option<T>) -> Option<Arc<T>> {
    let parsed = tree::parse(text);
    let table = parsed.table.filter(|_| parsed.errors.is_empty())?;
    let reader = Reader::new(Path::new(""), text);
    let mut items = Fields::of_file(&reader, &table, |fields| fields.each(key, read));
    let (problems, _) = reader.names();
    (problems.is_empty() && items.len() == 1).then(|| items.pop().map(Arc::new))?
}

/// Reads all that is neither service nor route, and which names there are in it.
fn read_rest<'a>(text: &str, sections: impl Iterator<Item = &'a Section>) -> Option<(Config, Names)> {
    let (mut rest, mut places) = (String::new(), Vec::new());
    let (mut at, mut line) = (0, 0);
    for section in sections {
        if matches!(section.content, Content::Rest) {
            places.push((rest.len(), line));
            rest.push_str(text.get(at..at + section.bytes)?);
        }
        at += section.bytes;
        line += section.lines;
    }
    let parsed = tree::parse(&rest);
    let table = parsed.table.filter(|_| parsed.errors.is_empty())?;
    if table.contains_key("service") || table.contains_key("route") {
        return None;
    }
    let reader = Reader::of_pieces(Path::new(""), &rest, &places);
    let config = Fields::of_file(&reader, &table, super::config);
    let (problems, names) = reader.names();
    problems.is_empty().then_some((config, names))
}

/// Whether sections in place of others give and use the same names.
fn names_are_the_same(before: &[Section], after: &[Section]) -> bool {
    let is_rest = |section: &Section| matches!(section.content, Content::Rest);
    fn given(sections: &[Section]) -> impl Iterator<Item = &str> {
        sections.iter().filter_map(|section| Some(section.content.service()?.name.as_str()))
    }
    fn used(sections: &[Section]) -> impl Iterator<Item = [(Kind, Option<&str>); 3]> {
        sections.iter().filter_map(|section| Some(section.content.route()?.names()))
    }
    !before.iter().chain(after).any(is_rest) && given(before).eq(given(after)) && used(before).eq(used(after))
}

/// Whether every name is given once, and every name that is used is given.
fn agree<'a>(
    mut names: Names,
    mut services: impl Iterator<Item = &'a Arc<Service>>,
    routes: impl Iterator<Item = &'a Arc<Route>>,
) -> Option<()> {
    services.try_for_each(|service| names.define(Kind::Service, &service.name, Position::FILE)).ok()?;
    for (kind, name) in routes.flat_map(|route| route.names()) {
        if !name.is_none_or(|name| names.defines(kind, name)) {
            return None;
        }
    }
    names.unresolved().next().is_none().then_some(())
}

/// The list that was, if the new one is the same.
fn kept<'a, T: 'a>(before: &Arc<[Arc<T>]>, after: impl Iterator<Item = &'a Arc<T>> + Clone) -> Arc<[Arc<T>]> {
    let same =
        before.len() == after.clone().count() && before.iter().zip(after.clone()).all(|(a, b)| Arc::ptr_eq(a, b));
    if same { before.clone() } else { after.cloned().collect() }
}
