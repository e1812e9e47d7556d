//! Cuts the text of a configuration at the headers of its tables, without reading what is in them.
//!
//! Where a header begins is a question for a lexer: a line that looks like one may be part of a string or of an array.

use toml_parser::Source;
use toml_parser::lexer::{Lexer, TokenKind};

/// What a stretch of the text belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// One `[[service]]`, with the tables below it.
    Service,
    /// One `[[route]]`, with the tables below it.
    Route,
    /// Everything else, which makes sense as a whole only.
    Rest,
}

/// What a header says.
#[derive(Debug, Clone, Copy)]
enum Header {
    Item(Part),
    /// Of a table below the last item.
    Below(Part),
    Other,
}

/// The stretches of a text in their order, each with the byte at which it begins. They begin with lines, the first with
/// the text, and the next begins where one ends.
pub(super) struct Stretches<'t> {
    text: &'t str,
    tokens: Lexer<'t>,
    /// Where the line begins.
    line: usize,
    /// Whether only blanks came before on this line, and the line begins neither in an array nor in an inline table.
    is_first: bool,
    depth: usize,
    /// The stretch that is being read.
    last: Option<Part>,
    /// A header that was found and is the beginning of the next.
    found: Option<(usize, Part)>,
}

impl<'t> Stretches<'t> {
    pub(super) fn of(text: &'t str) -> Self {
        let tokens = Source::new(text).lex();
        Self { text, tokens, line: 0, is_first: true, depth: 0, last: None, found: None }
    }

    /// The next header, and where its line begins.
    fn header(&mut self) -> Option<(usize, Header)> {
        loop {
            let token = self.tokens.next()?;
            let is_first = std::mem::replace(&mut self.is_first, false);
            match token.kind() {
                TokenKind::Whitespace => self.is_first = is_first,
                TokenKind::Newline => {
                    self.line = token.span().end();
                    self.is_first = self.depth == 0;
                }
                TokenKind::LeftSquareBracket => {
                    self.depth += 1;
                    if is_first {
                        let text = self.text.get(token.span().start()..).unwrap_or_default();
                        return Some((self.line, header(text)));
                    }
                }
                TokenKind::LeftCurlyBracket => self.depth += 1,
                TokenKind::RightSquareBracket | TokenKind::RightCurlyBracket => {
                    self.depth = self.depth.saturating_sub(1);
                }
                TokenKind::Eof => return None,
                _ => {}
            }
        }
    }

    /// The next header that begins a stretch of its own.
    fn find(&mut self) -> Option<(usize, Part)> {
        loop {
            let (start, header) = self.header()?;
            let part = match header {
                Header::Item(part) => return Some((start, part)),
                Header::Below(part) if self.last == Some(part) => part,
                Header::Below(_) | Header::Other => Part::Rest,
            };
            if self.last != Some(part) {
                return Some((start, part));
            }
        }
    }
}

impl Iterator for Stretches<'_> {
    type Item = (usize, Part);

    fn next(&mut self) -> Option<Self::Item> {
        let mut next = self.found.take();
        if self.last.is_none() {
            let first = self.find();
            let begins_at_once = first.filter(|(start, _)| *start == 0);
            if begins_at_once.is_none() {
                self.found = first;
            }
            next = Some(begins_at_once.unwrap_or((0, Part::Rest)));
        } else if next.is_none() {
            next = self.find();
        }
        self.last = next.map(|(_, part)| part).or(self.last);
        next
    }
}

/// Reads a header as nearly everyone writes it. In any other form, a name in quotes say, it is one of the rest, and there
/// whoever reads it sees what it is.
fn header(text: &str) -> Header {
    for (part, name) in [(Part::Service, "service"), (Part::Route, "route")] {
        let names = text.trim_start_matches('[');
        match (text.len() - names.len(), names.strip_prefix(name)) {
            (2, Some(rest)) if rest.starts_with("]]") => return Header::Item(part),
            (1 | 2, Some(rest)) if rest.starts_with('.') => return Header::Below(part),
            _ => {}
        }
    }
    Header::Other
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_at_headers_and_at_nothing_that_looks_like_one() {
        let text = concat!(
            "a = [\n[[1]],\n]\nb = '''\n[[service]]\n'''\n",
            "  [[service]] # one\nname = \"\"\"\n[[route]]\"\"\"\n[service.below]\n[[service.more]]\n",
            "[[service]]\r\nc = {\n  d = [\n[[route]],\n] }\n",
            "[[route]]\n[route.match]\n",
            "[service.late]\n[policy.x]\n[[other]]\n[servicer]\n",
            "[[route]]",
        );
        let stretches: Vec<(usize, Part)> = Stretches::of(text).collect();
        let cut: Vec<(&str, Part)> = stretches
            .iter()
            .enumerate()
            .map(|(number, (start, part))| {
                let end = stretches.get(number + 1).map_or(text.len(), |(next, _)| *next);
                (text[*start..end].lines().next().unwrap(), *part)
            })
            .collect();
        assert_eq!(
            cut,
            [
                ("a = [", Part::Rest),
                ("  [[service]] # one", Part::Service),
                ("[[service]]", Part::Service),
                ("[[route]]", Part::Route),
                ("[service.late]", Part::Rest),
                ("[[route]]", Part::Route),
            ]
        );
    }

    #[test]
    fn stretches_begin_with_the_text() {
        for (text, part) in [("", Part::Rest), ("\n[[route]]\n", Part::Rest), ("[[route]]\n", Part::Route)] {
            assert_eq!(Stretches::of(text).next(), Some((0, part)), "{text:?}");
        }
        assert_eq!(Stretches::of("[[route]]\n").count(), 1);
    }
}
