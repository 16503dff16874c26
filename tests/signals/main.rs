//! Signals, the service manager, and the exit status.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test may fail by panicking, and owns its clock"
)]

#[path = "../common/mod.rs"]
mod common;
mod ends;
mod reloads;
mod service_manager;
mod starts;

use common::{Home, Settings, xml};

const DEFINITION: &str = "sales/orders/project.xml";

fn snapshot(home: &Home, tag: &str) {
    home.write(
        &format!("sales/orders/snapshots/{tag}.xml"),
        &xml("Orders", "e-1", tag),
    );
}

fn home(settings: &Settings) -> Home {
    let home = Home::new(settings);
    home.write(DEFINITION, &xml("Orders", "e-1", "one"));
    home
}
