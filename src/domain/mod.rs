//! The rules: which events are inferred, which webhooks receive them, and when.
//!
//! Constraint: this layer is pure. It uses no clock, disk, network, environment or random source,
//! and it is not async. Callers pass all input as arguments, so that tests can try any order of
//! changes, any time and any answer of a receiver.
//!
//! In reading order:
//!
//! - [`project`]: observed and recorded projects.
//! - [`stamp`]: how metadata proves that a file is unchanged.
//! - [`identity`]: how a project is recognised in another directory.
//! - [`event`]: the events, their parameters and their ids.
//! - [`settle`]: when to observe a project.
//! - [`wave`]: when projects that vanish together are judged.
//! - [`vanished`]: the projects that vanished and are not judged yet.
//! - [`infer`]: the events of one project.
//! - [`short_lived`]: the events of files that existed only between two observations.
//! - [`moves`]: projects that moved.
//! - `pairs`: pairs arrivals with departures, for `moves`.
//! - [`portions`]: how a large change is recorded in several parts.
//! - [`shared_ids`]: project ids that several directories share.
//! - [`names`]: how names on disk and names in the configuration are compared.
//! - [`parameters`]: the parameters of a callback.
//! - [`actor`]: the user who made a change, as the kernel recorded it.
//! - [`route`]: the webhooks that receive an event.
//! - [`delivery`]: what happens to a delivery after an attempt.
//! - [`endpoint`]: whether a receiver is down.
//! - [`pace`]: when the next request to a receiver may start.
//! - [`lease`]: which of several processes observes a repository.
//! - [`rescan`]: the reasons for a full scan.
//! - [`state_size`]: the limit of the state's size.
//! - `work`: counts visited files and projects for tests.
//! - [`log_limit`]: a limit on similar log lines.

pub mod actor;
pub mod delivery;
pub mod endpoint;
pub mod event;
pub mod identity;
pub mod infer;
pub mod lease;
pub(crate) mod log_limit;
pub mod moves;
pub mod names;
pub mod pace;
mod pairs;
pub mod parameters;
pub mod portions;
pub mod project;
pub mod rescan;
pub mod route;
pub mod settle;
pub mod shared_ids;
pub(crate) mod short_lived;
pub mod stamp;
pub mod state_size;
pub mod vanished;
pub mod wave;
pub(crate) mod work;
