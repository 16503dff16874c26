//! A place in a text, and the small steps from it.
//!
//! Constraint: no step can leave the text or split a character, whatever the text holds.

use super::characters::{is_space, name_length};
use super::{Fault, NAME_MAX};

/// A place in a text, at a character boundary.
#[derive(Clone, Debug)]
pub struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Cursor<'a> {
    /// The beginning of a text.
    pub fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    /// A place within a text; its end where `at` is none.
    pub fn at_offset(text: &'a str, at: usize) -> Self {
        let at = if text.is_char_boundary(at) {
            at
        } else {
            text.len()
        };
        Self { text, at }
    }

    /// The byte offset.
    pub fn at(&self) -> usize {
        self.at
    }

    /// What is still to come.
    pub fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    /// What was passed since that offset.
    pub fn since(&self, start: usize) -> &'a str {
        self.text.get(start..self.at).unwrap_or_default()
    }

    /// The next byte.
    pub fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// Goes on by this many bytes, which the caller has seen to be whole characters.
    pub fn skip(&mut self, bytes: usize) {
        let at = self.at.saturating_add(bytes);
        self.at = if self.text.is_char_boundary(at) {
            at
        } else {
            self.text.len()
        };
    }

    /// Passes `literal` if it is next.
    pub fn take(&mut self, literal: &str) -> bool {
        let found = self.rest().starts_with(literal);
        if found {
            self.at += literal.len();
        }
        found
    }

    /// Passes everything up to the first ASCII byte that `ends`, or to the end.
    pub fn take_until(&mut self, ends: impl Fn(u8) -> bool) -> &'a str {
        let rest = self.rest();
        let length = rest
            .bytes()
            .position(|byte| byte.is_ascii() && ends(byte))
            .unwrap_or(rest.len());
        self.at += length;
        rest.get(..length).unwrap_or_default()
    }

    /// Passes white space; whether there was some.
    pub fn skip_space(&mut self) -> bool {
        let start = self.at;
        while self.peek().is_some_and(is_space) {
            self.at += 1;
        }
        self.at > start
    }

    /// Passes the name that is next; empty where none is.
    pub fn name(&mut self) -> &'a str {
        let rest = self.rest();
        let length = name_length(rest);
        self.at += length;
        rest.get(..length).unwrap_or_default()
    }

    /// Passes the name of an element or attribute.
    pub fn bounded_name(&mut self, inside: &'static str, start: usize) -> Result<&'a str, Fault> {
        let at = self.at;
        let name = self.name();
        if name.len() > NAME_MAX {
            return Err(Fault::at(
                at,
                format!("a name is longer than {NAME_MAX} bytes"),
            ));
        }
        if name.is_empty() {
            return Err(self.unexpected("a name", inside, start));
        }
        Ok(name)
    }

    /// Passes `literal`, which must be next.
    pub fn expect(
        &mut self,
        literal: &'static str,
        inside: &'static str,
        start: usize,
    ) -> Result<(), Fault> {
        if self.take(literal) {
            return Ok(());
        }
        if literal.starts_with(self.rest()) {
            return Err(self.ended_inside(inside, start));
        }
        Err(self.unexpected(format!("`{literal}`"), inside, start))
    }

    /// Passes a quoted literal and yields what is between the quotes.
    pub fn quoted(&mut self, inside: &'static str, start: usize) -> Result<&'a str, Fault> {
        let quote = match self.peek() {
            Some(quote @ (b'"' | b'\'')) => quote,
            _ => return Err(self.unexpected("a quoted value", inside, start)),
        };
        self.skip(1);
        let value = self.take_until(|byte| byte == quote);
        if self.peek().is_none() {
            return Err(self.ended_inside(inside, start));
        }
        self.skip(1);
        Ok(value)
    }

    /// The fault that the text ends inside something that began at `start`.
    pub fn ended_inside(&self, inside: &str, start: usize) -> Fault {
        let (line, column) = super::position(self.text, start);
        Fault::truncated(
            self.text.len(),
            format!("it ends inside {inside} that begins at line {line}, column {column}"),
        )
    }

    /// The fault that something else is next than there has to be; that the text ends, if it does.
    pub fn unexpected(
        &self,
        expected: impl std::fmt::Display,
        inside: &'static str,
        start: usize,
    ) -> Fault {
        match self.rest().chars().next() {
            None => self.ended_inside(inside, start),
            Some(found) => Fault::at(
                self.at,
                format!(
                    "{expected} is expected in {inside}, not `{}`",
                    found.escape_debug()
                ),
            ),
        }
    }
}
