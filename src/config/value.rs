//! Reads one value as the type of its setting.
//!
//! Constraint: a function reports its error to the context, and reading continues. A message names
//! the type of the wrong value. It quotes the value only if the setting cannot contain a secret.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::problem::{nearest, shown};
use super::reader::{Context, Fault, Location, Mapping};
use super::settings::{Count, DefaultValue, ValueType};
use super::units;
use super::yaml::{Kind, Node};

#[derive(Clone)]
pub(super) struct Value<'n> {
    pub node: &'n Node,
    pub location: Location,
}

impl<'n> Value<'n> {
    fn wrong_type(&self, expected: &str, hint: &str) -> Fault {
        let message = match &self.node.kind {
            Kind::Null => "has no value".to_owned(),
            kind => format!("must be {expected}, not {}{hint}", kind.name()),
        };
        match self.location.setting() {
            Some(_) => Fault::not_allowed(message),
            None => Fault::new(message).allowed(expected),
        }
    }

    /// Whether the value is absent, `null` or `~`.
    pub(super) fn is_null(&self) -> bool {
        matches!(self.node.kind, Kind::Null)
    }

    /// Whether the value is `*`, which stands for several events.
    pub(super) fn is_star(&self) -> bool {
        matches!(&self.node.kind, Kind::Text(text) if text == "*")
    }

    /// Returns the unit of the default, for a suggestion.
    ///
    /// If the setting has no default, the unit is seconds.
    fn unit(&self) -> &'static str {
        let default = match self.location.setting().map(|setting| setting.default) {
            Some(DefaultValue::Values([first, ..]) | DefaultValue::AtMost([first, ..], _)) => first,
            _ => "s",
        };
        default.trim_start_matches(|character: char| character.is_ascii_digit())
    }

    /// Reads a string that is not blank.
    pub(super) fn text(&self, context: &mut Context<'_>) -> Option<&'n str> {
        let fault = match &self.node.kind {
            Kind::Text(text) if text.trim().is_empty() => Fault::not_allowed("is empty"),
            Kind::Text(text) => return Some(text),
            Kind::Boolean(_) | Kind::Whole(_) | Kind::Number => {
                self.wrong_type("a string", "; put it in quotes")
            }
            Kind::Null | Kind::List(_) | Kind::Map(_) => self.wrong_type("a string", ""),
        };
        context.error(&self.location, fault);
        None
    }

    /// Reads a string and parses it.
    pub(super) fn parsed<T>(
        &self,
        context: &mut Context<'_>,
        parse: impl FnOnce(&str) -> Result<T, Fault>,
    ) -> Option<T> {
        let text = self.text(context)?;
        context.accept(&self.location, parse(text))
    }

    /// Reads a path and makes it absolute.
    pub(super) fn path(&self, context: &mut Context<'_>) -> Option<PathBuf> {
        let text = self.text(context)?;
        Some(context.path(text))
    }

    pub(super) fn boolean(&self, context: &mut Context<'_>) -> Option<bool> {
        let fault = match &self.node.kind {
            Kind::Boolean(value) => return Some(*value),
            Kind::Text(text) => {
                let meant = match text.to_lowercase().as_str() {
                    "yes" | "on" | "true" | "y" => Some("true"),
                    "no" | "off" | "false" | "n" => Some("false"),
                    _ => None,
                };
                self.wrong_type("true or false", "").suggest(meant)
            }
            _ => self.wrong_type("true or false", ""),
        };
        context.error(&self.location, fault);
        None
    }

    /// Reads one of the words in `choices`.
    pub(super) fn word<T: Copy>(
        &self,
        context: &mut Context<'_>,
        choices: impl IntoIterator<Item = (&'static str, T)>,
    ) -> Option<T> {
        let choices: Vec<(&'static str, T)> = choices.into_iter().collect();
        let fault = match &self.node.kind {
            Kind::Text(text) => match choices.iter().find(|(word, _)| word == text) {
                Some((_, value)) => return Some(*value),
                None => Fault::not_allowed(format!("unknown value {}", shown(text)))
                    .suggest(nearest(text, choices.iter().map(|(word, _)| *word))),
            },
            _ => self.wrong_type("a word", ""),
        };
        context.error(&self.location, fault);
        None
    }

    pub(super) fn whole(&self, context: &mut Context<'_>) -> Option<u64> {
        let bounds = match self.bounds() {
            Some(ValueType::Whole(min, max)) => min..=max,
            _ => 0..=u64::MAX,
        };
        let fault = match self.node.kind {
            Kind::Whole(number) if bounds.contains(&number) => return Some(number),
            Kind::Whole(number) => Fault::not_allowed(format!("{number} is out of bounds")),
            Kind::Number => Fault::not_allowed("must be a whole number"),
            _ => self.wrong_type("a whole number", ""),
        };
        context.error(&self.location, fault);
        None
    }

    pub(super) fn duration(&self, context: &mut Context<'_>) -> Option<Duration> {
        let bounds = match self.bounds() {
            Some(ValueType::Duration(min, max)) => bounds(min, max, units::duration),
            _ => None,
        };
        let result = match &self.node.kind {
            Kind::Text(text) => units::duration(text),
            // Zero is zero in every unit.
            Kind::Whole(0) => Ok(Duration::ZERO),
            Kind::Whole(number) => Err(Fault::not_allowed(format!("{number} has no unit"))
                .suggest(Some(format!("{number}{}", self.unit())))),
            _ => Err(self.wrong_type("a duration such as 1s, 5m, 10h or 7d", "")),
        };
        let result = result.and_then(|duration| match bounds {
            Some(bounds) if !bounds.contains(&duration) => {
                let text = units::duration_text(duration);
                Err(Fault::not_allowed(format!("{text} is out of bounds")))
            }
            _ => Ok(duration),
        });
        context.accept(&self.location, result)
    }

    /// Reads a size in bytes.
    pub(super) fn size(&self, context: &mut Context<'_>) -> Option<u64> {
        let bounds = match self.bounds() {
            Some(ValueType::Size(min, max)) => bounds(min, max, units::size),
            _ => None,
        };
        let result = match &self.node.kind {
            Kind::Text(text) => units::size(text),
            Kind::Whole(number) => Ok(*number),
            _ => Err(self.wrong_type("a size such as 64MiB, or a number of bytes", "")),
        };
        let result = result.and_then(|size| match bounds {
            Some(bounds) if !bounds.contains(&size) => {
                Err(Fault::not_allowed(format!("{size} bytes is out of bounds")))
            }
            _ => Ok(size),
        });
        context.accept(&self.location, result)
    }

    fn bounds(&self) -> Option<ValueType> {
        self.location.setting().map(|setting| setting.value)
    }

    /// Reads the items of a list.
    ///
    /// If the setting also allows a single value, that value is the only item.
    pub(super) fn items(&self, context: &mut Context<'_>) -> Option<Vec<Value<'n>>> {
        let count = self.location.setting().map(|setting| setting.count);
        let Kind::List(nodes) = &self.node.kind else {
            if let Some(Count::OneOrList(..)) = count {
                return Some(vec![self.clone()]);
            }
            let fault = self.wrong_type("a list", "");
            context.error(&self.location, fault);
            return None;
        };
        let (min, max) = match count {
            Some(Count::OneOrList(min, max) | Count::List(min, max)) => (min, max),
            Some(Count::One) | None => (0, usize::MAX),
        };
        if !(min..=max).contains(&nodes.len()) {
            let message = match nodes.len() {
                0 => "is empty".to_owned(),
                n_items => format!("has {n_items} items"),
            };
            context.error(&self.location, Fault::not_allowed(message));
            return None;
        }
        let items = nodes.iter().enumerate().map(|(index, node)| Value {
            node,
            location: self.location.item(index, node.position),
        });
        Some(items.collect())
    }

    /// Reads a mapping of settings.
    ///
    /// A key without a value is an empty mapping: all lines below the key may be commented out.
    pub(super) fn mapping(&self, context: &mut Context<'_>) -> Option<Mapping<'n>> {
        let entries = match &self.node.kind {
            Kind::Map(entries) => entries.as_slice(),
            Kind::Null => &[],
            _ => {
                let fault = self.wrong_type("a mapping (key: value)", "");
                let keys = self.location.keys().join(", ");
                let allowed = format!("a mapping; its keys: {keys}");
                context.error(&self.location, fault.allowed(allowed));
                return None;
            }
        };
        Some(Mapping::open(entries, self.location.clone(), context))
    }
}

/// Parses the bounds of a setting. A test checks the bounds of all settings.
fn bounds<T>(
    min: &str,
    max: &str,
    parse: impl Fn(&str) -> Result<T, Fault>,
) -> Option<RangeInclusive<T>> {
    Some(parse(min).ok()?..=parse(max).ok()?)
}
