//! The rules, and nothing but the rules.
//!
//! Constraint: this layer is pure. It reads no clock, disk, network, environment or random
//! source, and it is not async; whatever it needs to know is an argument. That is what lets the
//! tests try every order of changes, every time and every answer.
//!
//! Map, in reading order: [`project`] says what is seen and what was recorded, [`event`] what can
//! have happened, [`settle`] when to look, [`infer`] what a look means, [`moves`] which project
//! went where, [`parameters`] what a callback says, [`route`] which webhooks hear of it,
//! [`delivery`] what an answer means, [`endpoint`] whether a receiver is down, [`repeats`] how much is
//! said of what happens again and again,
//! [`rescan`] why everything is scanned.

pub mod delivery;
pub mod endpoint;
pub mod event;
pub mod infer;
pub mod moves;
pub mod parameters;
pub mod project;
pub mod repeats;
pub mod rescan;
pub mod route;
pub mod settle;
