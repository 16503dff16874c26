//! Asks all engines to list or to release their held removals.
//!
//! Constraint: an engine that does not answer delays only the current request, and only for a
//! limited time. The list of held removals names the repositories of such engines, because their
//! held removals are unknown.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::oneshot;

use crate::clock::Clock;
use crate::engine::commands::{Command, Commands};
use crate::engine::held_removals::{Accepted, HeldProjects};
use crate::engine::statuses::OfRepository;

/// How long to wait for the answer of an engine that makes no progress.
///
/// An engine answers only between two steps.
const PATIENCE: Duration = Duration::from_secs(10);

/// How many times [`PATIENCE`] to wait for an engine that makes progress.
const TIMES: usize = 2;

/// An engine to send requests to, with its repository.
pub(super) struct Asked {
    pub(super) repository: OfRepository,
    pub(super) commands: Commands,
}

/// All engines, in the order of the configuration.
pub(super) struct Asking {
    all: Vec<Asked>,
    clock: Clock,
}

impl Asked {
    /// Puts the repository's name before a text, if there are several repositories.
    fn named(&self, text: &str) -> String {
        match &self.repository.name {
            Some(name) => format!("{name}: {text}"),
            None => text.to_owned(),
        }
    }
}

impl Asking {
    pub(super) fn new(all: Vec<Asked>, clock: Clock) -> Self {
        Self { all, clock }
    }

    /// Lists the held removals of all engines.
    pub(super) async fn list_held(&self) -> HeldProjects {
        self.whole(self.held().await)
    }

    /// Returns the held removals of each engine, in order. `None` for an engine that does not
    /// answer.
    async fn held(&self) -> Vec<Option<HeldProjects>> {
        let held = self.all.iter().map(async |asked| {
            let mut held = self.ask(asked, Command::ListHeld).await?;
            if let Some(reason) = &mut held.reason {
                *reason = asked.named(reason);
            }
            Some(held)
        });
        join_all(held).await
    }

    /// Sends a command to an engine and waits for the answer.
    ///
    /// Returns `None` if no answer arrives in time, or if the engine cannot take the command. An
    /// engine that has not begun to handle the command then ignores it.
    async fn ask<T>(
        &self,
        asked: &Asked,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Option<T> {
        let (sender, mut answer) = oneshot::channel();
        if !asked.commands.give(command(sender)) {
            return None;
        }
        for _ in 0..TIMES {
            if let Ok(answered) = tokio::time::timeout(PATIENCE, &mut answer).await {
                return answered.ok();
            }
            if !asked.repository.is_alive(self.clock.moment(), PATIENCE) {
                return None;
            }
        }
        None
    }

    /// Releases the held removals of the engines that answer, if `token` still identifies them.
    pub(super) async fn accept(&self, token: String) -> Accepted {
        let held = self.held().await;
        if self.whole(held.clone()).token != token {
            return Accepted::Changed;
        }
        let holding = self.all.iter().zip(held);
        let holding = holding.filter_map(|(asked, held)| Some((asked, held?)));
        let holding = holding.filter(|(_, held)| held.reason.is_some());
        let answers = holding.map(async |(asked, held)| {
            let accept = |answer| Command::Accept(held.token, answer);
            (asked, self.ask(asked, accept).await)
        });
        let answers = join_all(answers).await;
        let answers = answers.into_iter();
        outcome(answers.map(|(asked, answer)| (asked.repository.name.as_deref(), answer)))
    }

    /// Merges the held removals of all engines.
    fn whole(&self, held: Vec<Option<HeldProjects>>) -> HeldProjects {
        let silent = self
            .all
            .iter()
            .zip(&held)
            .filter(|(_, held)| held.is_none());
        let stuck = silent
            .map(|(asked, _)| asked.repository.shown().to_owned())
            .collect();
        let held = held.into_iter().flatten();
        let mut held = held.filter(|one| one.reason.is_some());
        let first = held.next().unwrap_or_default();
        HeldProjects {
            stuck,
            ..held.fold(first, HeldProjects::and)
        }
    }
}

/// Merges the answers of engines to the request to release their removals.
///
/// The answer of an engine that did not respond is `None`.
fn outcome<'a>(answers: impl Iterator<Item = (Option<&'a str>, Option<Accepted>)>) -> Accepted {
    let (mut released, mut refusals) = (0_usize, Vec::new());
    for (name, answer) in answers {
        match answer {
            Some(Accepted::Released(n)) => released = released.saturating_add(n),
            other => refusals.push((name, other)),
        }
    }
    if released == 0
        && let [(_, Some(refusal))] = refusals.as_slice()
    {
        return refusal.clone();
    }
    let reasons: Vec<String> = refusals.into_iter().map(reason).collect();
    match reasons.is_empty() {
        true => Accepted::Released(released),
        false => Accepted::Partly { released, reasons },
    }
}

/// Returns why an engine did not release its held removals.
fn reason((name, answer): (Option<&str>, Option<Accepted>)) -> String {
    let reason = match answer {
        Some(Accepted::Failed(reason)) => format!("cannot record the decision: {reason}"),
        Some(_) => "other removals are held now".to_owned(),
        None => {
            "the engine does not respond; it may still release its held removals later".to_owned()
        }
    };
    match name {
        Some(name) => format!("{name}: {reason}"),
        None => reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn released_removals_are_never_more_than_those_of_the_engines_that_released_theirs() {
        let of = |answers: Vec<Option<Accepted>>| {
            let names = ["one", "two"].map(Some);
            outcome(names.into_iter().zip(answers))
        };
        let released = |n| Some(Accepted::Released(n));
        assert_eq!(of(vec![released(5), released(7)]), Accepted::Released(12));
        assert_eq!(of(vec![Some(Accepted::Changed)]), Accepted::Changed);
        let full = || Some(Accepted::Failed("the disk is full".to_owned()));
        assert_eq!(
            of(vec![released(5), full()]),
            Accepted::Partly {
                released: 5,
                reasons: vec!["two: cannot record the decision: the disk is full".to_owned()],
            }
        );
        let Accepted::Partly { released, reasons } = of(vec![None, full()]) else {
            panic!("two refusals");
        };
        assert_eq!((released, reasons.len()), (0, 2));
        assert!(reasons[0].starts_with("one: the engine does not respond"));
    }
}
