//! The admin server (health, metrics, API and page) and the control socket.
//!
//! Constraint: health answers even if the engines, the queues or the store are stuck. The API and
//! the commands share [`crate::operator`] and [`crate::report`], so that their data and changes do
//! not differ.
//!
//! Modules: [`control`] is the control socket, [`socket`] binds addresses, and `routes` has the
//! paths. `hosts` refuses requests from other sites, and `guard` limits bodies and texts. `auth`
//! checks the token or one of the `sessions`, except for public paths such as `/healthz`. `reads`,
//! `actions` and [`stream`] answer requests to the API, `page` answers browsers, and `exposition`
//! serves metrics. `blocking` runs work on separate threads, and `pages` splits listings into
//! pages. [`waiting`] serves health and metrics while the process does not watch.

mod actions;
mod auth;
mod blocking;
pub(crate) mod control;
mod error;
mod exposition;
mod guard;
mod health;
mod hosts;
mod openapi;
mod page;
mod pages;
mod reads;
mod routes;
mod sessions;
mod socket;
pub(crate) mod stream;
pub(crate) mod waiting;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use self::auth::Access;
use self::blocking::Bounded;
use self::routes::Server;
use self::sessions::Sessions;
pub(crate) use self::socket::{Bound, SocketFile, bind};
use self::stream::News;
use crate::config::AdminServer;
use crate::dispatch::QueueHandles;
use crate::engine::held_removals::{Accepted, HeldProjects};
use crate::http_server::{self, Bounds};
use crate::report::Sources;

/// The parts of the daemon that the admin server and the control socket use.
pub(crate) struct Admin {
    pub(crate) sources: Sources,
    /// The queues to wake after a change of deliveries or webhooks.
    pub(crate) queues: Arc<QueueHandles>,
    pub(crate) requests: mpsc::Sender<Request>,
    state_dir: PathBuf,
    bounded: Bounded,
    news: News,
    /// The sessions of browsers. They outlive a reload that keeps the token.
    sessions: Arc<Sessions>,
}

impl Admin {
    pub(crate) fn new(
        sources: Sources,
        queues: Arc<QueueHandles>,
        requests: mpsc::Sender<Request>,
        state_dir: PathBuf,
    ) -> Self {
        Self {
            sources,
            queues,
            requests,
            state_dir,
            bounded: Bounded::default(),
            news: News::default(),
            sessions: Arc::default(),
        }
    }
}

/// A request from a command to the supervisor, with a channel for the answer.
pub(crate) enum Request {
    Reload(oneshot::Sender<Reloaded>),
    ListHeld(oneshot::Sender<HeldProjects>),
    /// Accept the held removals that this token identifies.
    Accept(String, oneshot::Sender<Accepted>),
}

/// The outcome of a reload.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Reloaded {
    /// The reasons why the reload was rejected. Empty if it was applied.
    pub(crate) errors: Vec<String>,
    /// Warnings about settings that are valid but probably not intended.
    ///
    /// Also a warning for each engine that does not respond, and so applies the settings later.
    #[serde(default)]
    pub(crate) warnings: Vec<String>,
}

impl Reloaded {
    pub(crate) fn is_applied(&self) -> bool {
        self.errors.is_empty()
    }
}

const BOUNDS: Bounds = Bounds {
    connections: 64,
    stop: Duration::from_secs(1),
};

/// The parts of a process that its admin server shows.
///
/// A process that does not watch has other parts than the daemon, and so other paths.
pub(crate) trait Served: Clone + Send + 'static {
    /// Returns all paths of a server with these settings. Streams end with `stop`.
    fn router(self, settings: &AdminServer, is_socket: bool, stop: &CancellationToken) -> Router;
}

impl Served for Arc<Admin> {
    fn router(self, settings: &AdminServer, is_socket: bool, stop: &CancellationToken) -> Router {
        routes::all(&Arc::new(Server {
            access: Access::new(
                settings.token.as_ref(),
                is_socket,
                Arc::clone(&self.sessions),
            ),
            admin: self,
            stop: stop.clone(),
        }))
    }
}

/// Serves the paths of a process until `stop`.
///
/// Over TCP, a header `Host` must name a configured host, this machine or an IP address.
pub(crate) async fn serve(
    admin: impl Served,
    bound: Bound,
    settings: AdminServer,
    stop: CancellationToken,
) {
    let is_socket = matches!(bound, Bound::Unix(..));
    let router = admin.router(&settings, is_socket, &stop);
    let hosts = (!is_socket).then_some(settings.hosts);
    let router = guard::harmless(hosts::refuse_foreign(router, hosts));
    match bound {
        Bound::Tcp(listener) => http_server::serve(listener, router, BOUNDS, stop).await,
        Bound::Unix(listener, _) => http_server::serve(listener, router, BOUNDS, stop).await,
    }
}
