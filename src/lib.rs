//! Webhooks for changes of project files.
//!
//! `project-webhooks` watches a tree of `project.xml` files. It infers events by comparing the
//! disk with its record, and delivers them as HTTP callbacks. The binary calls [`cli::main`].
//! ARCHITECTURE.md describes the modules in more detail.
//!
//! ```text
//! watch ──Hint──▶ settle ──due──▶ observe ──Observed──▶ infer ──events──▶ store
//!                 └──────────────── engine ────────────────────┘            │ one transaction:
//!                                                                           │ record + events +
//! receiver ◀──POST── webhook ◀──claims── dispatch ◀───committed deliveries──┘ payloads + deliveries
//!                       └──Outcome──▶ store
//! ```
//!
//! # Invariants
//!
//! 1. A report of the operating system proves nothing. Only an observation (`observe`) does.
//! 2. The new record, its events, their payloads and their deliveries commit in one transaction
//!    ([`store::Recording::record`]). While the store cannot commit, inference waits. The record
//!    then still differs from the disk, so the events are inferred later.
//! 3. Unreadable never means deleted, whether a file, a directory or the whole root
//!    ([`domain::project::Observed::unreadable`], `engine::root`).
//! 4. Delivery is at least once. The id of an event stays the same over attempts, restarts and
//!    repeated inference ([`domain::event::EventId::of`]).
//! 5. A reload is applied completely or changes nothing (`daemon::reload`).
//! 6. If an engine, its watch thread, a queue, a thread of the store or the log thread ends
//!    unexpectedly, or a background task panics, the process exits with an error
//!    (`daemon::supervise`). If the thread that sends traces or one that reads audit records ends,
//!    the process only logs that.
//! 7. All channels are bounded. If the hint channel is full, a full scan follows, so no change is
//!    lost (`hint`).
//! 8. No input from disk, YAML, HTTP or signals causes a panic.
//!
//! The modules below are in reading order: rules, configuration, input, store, output, daemon.

#![warn(unreachable_pub)]
#![cfg_attr(not(test), warn(clippy::too_many_lines))]
#![cfg_attr(
    test,
    allow(
        clippy::disallowed_methods,
        reason = "a test owns its clock and its tasks"
    )
)]

// The pure rules: events, parameters, and the next step after an answer.
pub mod domain;

// config.yaml: reading, checking, and the table of settings.
pub mod config;

// Path templates, and the role of a path.
pub mod layout;

// Opens the repository's root and the files below it.
mod repository;

// The kernel's list of mounts.
mod mounts;

// Parses project.xml: completeness, name, id and annotations.
pub mod document;

// The names of file owners.
mod users;

// Renders request bodies from the user's templates.
pub mod template;

// Observes projects: reads the repository's files for inference.
mod observe;

// Finds out who made a change, from the kernel's audit records.
pub mod actor;

// Hints from the watch thread to the engine: paths to observe.
mod hint;

// Turns reports of the operating system into hints.
mod watch;

// The record, the events and the pending deliveries, in SQLite or PostgreSQL.
pub mod store;

// Turns hints into recorded events.
mod engine;

// Sends one callback: one POST request, one outcome.
pub mod webhook;

// Sends recorded deliveries, with a queue for each webhook.
mod dispatch;

// Removes deliveries and events after their retention, and limits the size of the state.
mod housekeeping;

// Formats errors.
mod error;

// Reads the time of day. No other module does.
mod clock;

// The counters for `/metrics`.
mod metrics;

// systemd, signals, and the limits of the process.
mod os;

// Sends traces of events to a collector.
mod traces;

// Writes the log.
mod logging;

// The report for `status`, health, metrics and the control socket.
mod report;

// The listings and changes of the commands and of the admin API.
mod operator;

// An HTTP server with limits.
mod http_server;

// Health, metrics and the API over HTTP, and the control socket.
mod admin;

// Starts, supervises, reloads and drains all parts.
mod daemon;

// A receiver of callbacks, for `listen`, `demo` and the tests.
pub mod receiver;

// The commands. Only this module prints.
pub mod cli;
