//! Checks the document type declaration (production 28).
//!
//! Constraint: nothing in the declaration is ever expanded or fetched. quick-xml finds the end of
//! the declaration, but checks little else. In an internal subset, only the keyword, the name and
//! the quotes of the declarations are checked.

use super::Fault;
use super::characters::{check_name, is_space, name_of};
use super::reader::{check_comment, check_instruction};

/// Checks the declaration between the offsets `start` and `end` of `text`.
pub(super) fn check(text: &str, start: usize, end: usize) -> Result<(), Fault> {
    let mut scanner = Scanner {
        text: text.get(..end).unwrap_or(text),
        at: start,
    };
    scanner.expect("<!DOCTYPE")?;
    scanner.require_space()?;
    scanner.name()?;
    if scanner.skip_space() {
        if scanner.take("SYSTEM") {
            scanner.require_space()?;
            scanner.quoted()?;
        } else if scanner.take("PUBLIC") {
            scanner.require_space()?;
            scanner.public_identifier()?;
            scanner.require_space()?;
            scanner.quoted()?;
        }
        scanner.skip_space();
    }
    if scanner.take("[") {
        scanner.internal_subset()?;
        scanner.skip_space();
    }
    scanner.expect(">")?;
    if scanner.at == end {
        Ok(())
    } else {
        Err(Fault::at(start, "this DOCTYPE is not well-formed"))
    }
}

struct Scanner<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Scanner<'a> {
    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn take(&mut self, literal: &str) -> bool {
        let is_next = self.rest().starts_with(literal);
        if is_next {
            self.at += literal.len();
        }
        is_next
    }

    fn skip_space(&mut self) -> bool {
        let start = self.at;
        self.at += self.rest().bytes().take_while(|b| is_space(*b)).count();
        self.at > start
    }

    /// Skips the text up to and including `end`. Returns the text before `end`.
    fn take_until(&mut self, end: &'static str) -> Result<&'a str, Fault> {
        let rest = self.rest();
        let Some(length) = rest.find(end) else {
            return Err(self.unexpected(&format!("`{end}`")));
        };
        self.at += length + end.len();
        Ok(rest.get(..length).unwrap_or_default())
    }

    fn unexpected(&self, expected: &str) -> Fault {
        let reason = match self.rest().chars().next() {
            None => format!("{expected} is missing in the DOCTYPE"),
            Some(found) => {
                let found = found.escape_debug();
                format!("{expected} is expected in the DOCTYPE, not `{found}`")
            }
        };
        Fault::at(self.at, reason)
    }

    fn expect(&mut self, literal: &str) -> Result<(), Fault> {
        if self.take(literal) {
            Ok(())
        } else {
            Err(self.unexpected(&format!("`{literal}`")))
        }
    }

    fn require_space(&mut self) -> Result<(), Fault> {
        if self.skip_space() {
            Ok(())
        } else {
            Err(self.unexpected("white space"))
        }
    }

    fn name(&mut self) -> Result<(), Fault> {
        let name = name_of(self.rest());
        check_name(name, self.at)?;
        self.at += name.len();
        Ok(())
    }

    fn quoted(&mut self) -> Result<&'a str, Fault> {
        if self.take("\"") {
            self.take_until("\"")
        } else if self.take("'") {
            self.take_until("'")
        } else {
            Err(self.unexpected("a quoted value"))
        }
    }

    fn public_identifier(&mut self) -> Result<(), Fault> {
        let start = self.at + 1;
        let is_legal =
            |byte: u8| byte.is_ascii_alphanumeric() || b" \r\n-'()+,./:=?;!*#@$_%".contains(&byte);
        match self.quoted()?.bytes().position(|byte| !is_legal(byte)) {
            None => Ok(()),
            Some(offset) => Err(Fault::at(
                start + offset,
                "a public identifier must not contain this character",
            )),
        }
    }

    /// Checks and skips an internal subset, including its `]`.
    fn internal_subset(&mut self) -> Result<(), Fault> {
        loop {
            self.skip_space();
            let start = self.at;
            if self.take("]") {
                return Ok(());
            }
            if self.take("%") {
                self.name()?;
                self.expect(";")?;
            } else if self.take("<!--") {
                let comment = self.take_until("-->")?;
                check_comment(comment, start)?;
            } else if self.take("<?") {
                let instruction = self.take_until("?>")?;
                check_instruction(instruction, start)?;
            } else {
                self.declaration()?;
            }
        }
    }

    /// Checks and skips a declaration of an internal subset, such as that of an entity.
    fn declaration(&mut self) -> Result<(), Fault> {
        let is_entity = self.take("<!ENTITY");
        let others = ["<!ELEMENT", "<!ATTLIST", "<!NOTATION"];
        if !is_entity && !others.into_iter().any(|keyword| self.take(keyword)) {
            return Err(self.unexpected("a declaration or `]`"));
        }
        self.require_space()?;
        if is_entity && self.take("%") {
            self.require_space()?;
        }
        self.name()?;
        if !self.rest().starts_with('>') {
            self.require_space()?;
        }
        loop {
            let rest = self.rest();
            self.at += rest.find(['"', '\'', '<', '>']).unwrap_or(rest.len());
            if self.take(">") {
                return Ok(());
            }
            if !self.rest().starts_with(['"', '\'']) {
                return Err(self.unexpected("`>`"));
            }
            self.quoted()?;
        }
    }
}
