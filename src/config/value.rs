//! Reading one value of a tree as what a setting needs.
//!
//! Constraint: as in `section`, reading reports what is wrong and goes on. Messages name the type
//! of what was found, never the value itself unless it is one of a setting that is public.

use std::path::PathBuf;
use std::time::Duration;

use super::problem::{nearest, shown};
use super::raw::{Kind, Node};
use super::scalar;
use super::section::{Context, Fault, Place, Section};

/// A value and its place.
#[derive(Clone)]
pub(super) struct At<'n> {
    pub node: &'n Node,
    pub place: Place,
}

impl<'n> At<'n> {
    fn wrong_type(&self, context: &mut Context<'_>, expected: &str, hint: &str) {
        let found = self.node.kind.called();
        let message = match self.node.kind {
            Kind::Null => "has no value".to_owned(),
            _ => format!("must be {expected}, not {found}{hint}"),
        };
        context.error(&self.place, Fault::new(message).allowed(expected));
    }

    /// Whether nothing stands after the key.
    pub fn is_null(&self) -> bool {
        matches!(self.node.kind, Kind::Null)
    }

    /// A text that is not empty.
    pub fn text(&self, context: &mut Context<'_>) -> Option<&'n str> {
        match &self.node.kind {
            Kind::Text(text) if text.trim().is_empty() => {
                context.error(&self.place, "is empty");
                None
            }
            Kind::Text(text) => Some(text),
            Kind::Boolean(_) | Kind::Whole(_) | Kind::Number => {
                self.wrong_type(context, "a text", "; put it into quotes");
                None
            }
            Kind::Null | Kind::List(_) | Kind::Map(_) => {
                self.wrong_type(context, "a text", "");
                None
            }
        }
    }

    /// A path, made absolute.
    pub fn path(&self, context: &mut Context<'_>) -> Option<PathBuf> {
        let text = self.text(context)?;
        Some(context.path(text))
    }

    /// `true` or `false`.
    pub fn boolean(&self, context: &mut Context<'_>) -> Option<bool> {
        match &self.node.kind {
            Kind::Boolean(value) => Some(*value),
            Kind::Text(text) => {
                let meant = match text.to_lowercase().as_str() {
                    "yes" | "on" | "true" | "y" => Some("true"),
                    "no" | "off" | "false" | "n" => Some("false"),
                    _ => None,
                };
                context.error(
                    &self.place,
                    Fault::new("must be true or false, not a text")
                        .allowed("true, false")
                        .suggest(meant),
                );
                None
            }
            _ => {
                self.wrong_type(context, "true or false", "");
                None
            }
        }
    }

    /// One of some words.
    pub fn choice<T: Copy>(
        &self,
        context: &mut Context<'_>,
        choices: &[(&'static str, T)],
    ) -> Option<T> {
        let allowed = || {
            let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
            words.join(", ")
        };
        let Kind::Text(text) = &self.node.kind else {
            let fault = match self.node.kind {
                Kind::Null => Fault::new("has no value"),
                _ => Fault::new(format!("must be a word, not {}", self.node.kind.called())),
            };
            context.error(&self.place, fault.allowed(allowed()));
            return None;
        };
        let found = choices.iter().find(|(word, _)| word == text);
        if found.is_none() {
            let fault = Fault::new(format!("unknown value {}", shown(text)))
                .allowed(allowed())
                .suggest(nearest(text, choices.iter().map(|(word, _)| *word)));
            context.error(&self.place, fault);
        }
        found.map(|(_, value)| *value)
    }

    /// A whole number within bounds.
    pub fn whole(
        &self,
        context: &mut Context<'_>,
        bounds: std::ops::RangeInclusive<u64>,
    ) -> Option<u64> {
        let allowed = format!("{} to {}", bounds.start(), bounds.end());
        match self.node.kind {
            Kind::Whole(number) if bounds.contains(&number) => Some(number),
            Kind::Whole(number) => {
                let fault = Fault::new(format!("{number} is out of bounds")).allowed(allowed);
                context.error(&self.place, fault);
                None
            }
            Kind::Number => {
                let fault = Fault::new("must be a whole number").allowed(allowed);
                context.error(&self.place, fault);
                None
            }
            _ => {
                self.wrong_type(context, "a whole number", "");
                None
            }
        }
    }

    /// A duration within bounds.
    pub fn duration(
        &self,
        context: &mut Context<'_>,
        bounds: std::ops::RangeInclusive<Duration>,
    ) -> Option<Duration> {
        let result = match &self.node.kind {
            Kind::Text(text) => scalar::duration(text),
            // Zero is zero in every unit.
            Kind::Whole(0) => Ok(Duration::ZERO),
            Kind::Whole(number) => {
                Err(Fault::new(format!("{number} has no unit")).suggest(Some(format!("{number}s"))))
            }
            _ => {
                self.wrong_type(context, "a duration such as 1s, 5m, 10h or 7d", "");
                return None;
            }
        };
        let result = result.and_then(|duration| {
            if bounds.contains(&duration) {
                Ok(duration)
            } else {
                let what = scalar::duration_text(duration);
                Err(Fault::new(format!("{what} is out of bounds")))
            }
        });
        match result {
            Ok(duration) => Some(duration),
            Err(fault) => {
                let allowed = format!(
                    "a duration from {} to {}, with a unit (ms, s, m, h, d)",
                    scalar::duration_text(*bounds.start()),
                    scalar::duration_text(*bounds.end()),
                );
                context.error(&self.place, fault.allowed(allowed));
                None
            }
        }
    }

    /// A size in bytes within bounds.
    pub fn size(
        &self,
        context: &mut Context<'_>,
        bounds: std::ops::RangeInclusive<u64>,
    ) -> Option<u64> {
        let result = match &self.node.kind {
            Kind::Text(text) => scalar::size(text),
            Kind::Whole(number) => Ok(*number),
            _ => {
                self.wrong_type(context, "a size such as 64MiB, or a number of bytes", "");
                return None;
            }
        };
        let result = result.and_then(|size| {
            if bounds.contains(&size) {
                Ok(size)
            } else {
                Err(Fault::new(format!("{size} bytes is out of bounds")))
            }
        });
        match result {
            Ok(size) => Some(size),
            Err(fault) => {
                let allowed = format!(
                    "a size from {} to {}, such as 64MiB",
                    bytesize::ByteSize(*bounds.start()),
                    bytesize::ByteSize(*bounds.end()),
                );
                context.error(&self.place, fault.allowed(allowed));
                None
            }
        }
    }

    /// The items of a list.
    pub fn list(&self, context: &mut Context<'_>, expected: &str) -> Option<Vec<At<'n>>> {
        match &self.node.kind {
            Kind::List(items) => Some(self.items(items)),
            _ => {
                self.wrong_type(context, expected, "");
                None
            }
        }
    }

    /// The items of a list, or the one value that stands in its place.
    pub fn one_or_many(&self) -> Vec<At<'n>> {
        match &self.node.kind {
            Kind::List(items) => self.items(items),
            _ => vec![self.clone()],
        }
    }

    fn items(&self, items: &'n [Node]) -> Vec<At<'n>> {
        items
            .iter()
            .enumerate()
            .map(|(index, node)| At {
                node,
                place: Place {
                    mark: node.mark,
                    key: format!("{}[{index}]", self.place.key),
                },
            })
            .collect()
    }

    /// The mapping that this is; nothing after the key counts as an empty one, as when all its
    /// lines are commented out.
    pub fn section(&self, context: &mut Context<'_>) -> Option<Section<'n>> {
        match &self.node.kind {
            Kind::Map(entries) => Some(Section::open(entries, self.place.clone(), context)),
            Kind::Null => Some(Section::open(&[], self.place.clone(), context)),
            _ => {
                self.wrong_type(context, "a mapping (key: value)", "");
                None
            }
        }
    }
}
