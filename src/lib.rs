//! From a change of a file to a webhook.
//!
//! `project-webhooks` watches a tree of `project.xml` files, infers seven events by comparing what
//! is on disk with what was recorded, and delivers them as signed HTTP callbacks. This crate is all
//! of it; the binary calls [`cli::main`]. ARCHITECTURE.md has the longer map.
//!
//! ```text
//! watch ──Hint──▶ settle ──due──▶ observe ──Observed──▶ infer ──events──▶ store
//!                 └──────────────── engine ────────────────────┘            │ one transaction:
//!                                                                           │ record + events +
//! receiver ◀──POST── webhook ◀──claims── dispatch ◀────────wake─────────────┘ payloads + deliveries
//!                       └──Outcome──▶ store
//! ```
//!
//! # What always holds
//!
//! 1. A report of the operating system never proves a fact; only [`observe`] does.
//! 2. The new record, its events, their payloads and their deliveries commit in one transaction
//!    ([`store::Store::record`]). While the store cannot commit, inference waits, and nothing is
//!    forgotten: the difference is still on disk.
//! 3. Unreadable is never deleted: neither a file nor a directory nor the whole root
//!    ([`domain::project::Observed::unreadable`], [`engine::root`]).
//! 4. Delivery is at least once, and an event's id is the same over attempts, restarts and
//!    inferring it again ([`domain::event::EventId::of`]).
//! 5. A reload is applied as a whole or changes nothing ([`daemon`]).
//! 6. Every task and thread ends in the supervisor, by a panic too, and the process then exits
//!    non-zero rather than limping on without one of its parts ([`daemon`]).
//! 7. All channels are bounded, and a full hint channel becomes a comparison of everything, never a
//!    lost hint ([`hint`]).
//! 8. No input from disk, YAML, HTTP or signals makes the program panic.
//!
//! The modules below are in reading order: the rules, what the user writes, the way in, what is
//! kept, the way out, and what holds it all together.

#![cfg_attr(
    test,
    allow(
        clippy::disallowed_methods,
        reason = "a test owns its clock and its tasks"
    )
)]

// The rules, pure: what happened, what a callback says, what an answer means.
pub mod domain;

// config.yaml, as written and as usable.
pub mod config;

// Path templates, and what they say about paths.
pub mod layout;

// The repository's root, and how anything below it is opened.
pub mod repository;

// project.xml: well-formed to its end, and what it says of itself.
pub mod document;

// The names of files' owners.
pub mod users;

// The only reader of the repository.
pub mod observe;

// Where to look: what the watcher tells the engine.
pub mod hint;

// The operating system's reports, as hints.
pub mod watch;

// What was recorded, what happened, and what has still to be delivered, in SQLite.
pub mod store;

// From hints to recorded events: the loop that does the work.
pub mod engine;

// One callback: one POST, one outcome.
pub mod webhook;

// From recorded deliveries to callbacks: a queue for each webhook.
pub mod dispatch;

// The removal of what is older than its retention.
pub mod housekeeping;

// Errors as text.
mod error;

// The only reader of a clock.
mod clock;

// What is counted and measured.
mod metrics;

// The service manager, and the process's limits.
mod os;

// What is logged, and how.
mod logging;

// One report for everybody who asks.
mod report;

// What a running daemon tells of itself: health, and its state for `status`.
mod admin;

// All parts put together: supervised, reloaded, drained.
mod daemon;

// A receiver of callbacks, for `listen`, `demo` and the tests.
pub mod receiver;

// The commands: they print, and decide nothing.
pub mod cli;
