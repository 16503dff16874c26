//! Splits a typed command line into words, and quotes candidates for bash.

/// The words of a command line up to the cursor. The last word may be empty.
#[derive(Debug, Default)]
pub(super) struct Line {
    words: Vec<String>,
    /// The last word as typed, with its quotes and backslashes.
    raw: String,
    open_quote: Option<char>,
}

impl Line {
    /// Splits a line by rules that all shells share. Drops the words up to the program's name.
    pub(super) fn split(text: &str) -> Self {
        let mut line = Self::default();
        let mut word = String::new();
        let mut characters = text.chars();
        while let Some(c) = characters.next() {
            if line.open_quote.is_none() && c.is_whitespace() {
                line.end(&mut word);
                continue;
            }
            line.raw.push(c);
            match (line.open_quote, c) {
                (Some(quote), c) if c == quote => line.open_quote = None,
                (None, '\'' | '"') => line.open_quote = Some(c),
                (None | Some('"'), '\\') => {
                    let next = characters.next();
                    line.raw.extend(next);
                    word.extend(next);
                }
                (_, c) => word.push(c),
            }
        }
        line.words.push(word);
        let is_program = |word: &String| word.rsplit('/').next() == Some(env!("CARGO_PKG_NAME"));
        let after = line.words.iter().position(is_program);
        line.words = match after {
            Some(at) => line.words.split_off(at.saturating_add(1)),
            None => Vec::new(),
        };
        line
    }

    fn end(&mut self, word: &mut String) {
        if !self.raw.is_empty() {
            self.words.push(std::mem::take(word));
            self.raw.clear();
        }
    }

    pub(super) fn words(&self) -> &[String] {
        &self.words
    }

    /// Returns the quote that is open at the end of the line.
    pub(super) fn open_quote(&self) -> Option<char> {
        self.open_quote
    }

    /// Returns the part of the last word that bash keeps, without quotes and backslashes.
    ///
    /// bash replaces only the end of the word, which is `replaced`.
    pub(super) fn kept(&self, replaced: &str) -> String {
        let raw = self.raw.strip_suffix(replaced).unwrap_or_default();
        raw.chars().filter(|c| !"\\'\"".contains(*c)).collect()
    }

    /// Returns the `--option=` at the beginning of the last word, or an empty text.
    pub(super) fn option_prefix(&self) -> String {
        match self.words.last().and_then(|word| word.split_once('=')) {
            Some((option, _)) if option.starts_with("--") => format!("{option}="),
            _ => String::new(),
        }
    }
}

/// Escapes a candidate for bash, which inserts candidates without quoting them.
///
/// Returns `None` if the candidate cannot be written inside the open quote.
pub(super) fn escaped(name: &str, quote: Option<char>) -> Option<String> {
    match quote {
        Some('\'') => (!name.contains('\'')).then(|| name.to_owned()),
        Some(_) => (!name.contains(['"', '$', '`', '\\', '!'])).then(|| name.to_owned()),
        None => {
            let is_plain = |c: char| c.is_alphanumeric() || "/._-+:@%,".contains(c);
            let mut text = String::with_capacity(name.len());
            for c in name.chars() {
                if !is_plain(c) {
                    text.push('\\');
                }
                text.push(c);
            }
            Some(text)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_splits_into_words() {
        for (line, words) in [
            ("project-webhooks", &[][..]),
            ("project-webhooks ", &[""]),
            ("project-webhooks  a b", &["a", "b"]),
            ("sudo -u x ./bin/project-webhooks a ", &["a", ""]),
            (r"project-webhooks a\ b 'c d' e", &["a b", "c d", "e"]),
            (r#"project-webhooks "a \"b"#, &["a \"b"]),
            ("project-webhooks '' 'it", &["", "it"]),
            (r"project-webhooks 'a\' b", &[r"a\", "b"]),
            ("project-webhooks a\\", &["a"]),
            ("other a", &[]),
            ("", &[]),
        ] {
            assert_eq!(Line::split(line).words(), words, "{line}");
        }
    }

    #[test]
    fn bash_replaces_the_end_of_a_word() {
        for (line, replaced, kept) in [
            ("project-webhooks a", "a", ""),
            ("project-webhooks a@b:c", "c", "a@b:"),
            ("project-webhooks a@", "", "a@"),
            ("project-webhooks a\\ b@", "", "a b@"),
            ("project-webhooks a", "other", ""),
        ] {
            assert_eq!(Line::split(line).kept(replaced), kept, "{line}");
        }
    }

    #[test]
    fn candidates_are_literal_in_bash() {
        for (name, quote, expected) in [
            ("sales/orders", None, Some("sales/orders")),
            ("Käse", None, Some("Käse")),
            ("a b", None, Some(r"a\ b")),
            ("$(x)`y`", None, Some(r"\$\(x\)\`y\`")),
            ("it's", None, Some(r"it\'s")),
            ("~root", None, Some(r"\~root")),
            ("a b", Some('\''), Some("a b")),
            ("$(x)", Some('\''), Some("$(x)")),
            ("it's", Some('\''), None),
            ("it's", Some('"'), Some("it's")),
            ("$(x)", Some('"'), None),
        ] {
            assert_eq!(escaped(name, quote).as_deref(), expected, "{name}");
        }
    }
}
