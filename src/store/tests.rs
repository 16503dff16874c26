//! What must hold of the store.

mod damage;
mod helpers;
mod model;
mod operating;
mod outcomes;
mod pages;
mod plans;
mod queueing;
mod recording;
mod retaining;
