//! Keeps the admin server running at the configured address.
//!
//! Constraint: if the address is in use, or somebody removed the socket file, or the server
//! panicked, the daemon retries without a restart. After a failed reload, the server keeps its old
//! address.

use std::sync::Arc;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::admin::{self, Admin, Bound, Served, SocketFile};
use crate::config::{AdminServer, Listen};

/// The admin server of the daemon or of a process that does not watch, if it is configured.
pub(crate) struct Health<A = Arc<Admin>> {
    /// The parts of the process that the server shows.
    pub(crate) admin: A,
    serving: Option<Serving>,
    /// Whether a failure to bind the address was logged since the server last started.
    is_warned: bool,
}

/// A running server.
struct Serving {
    listen: Listen,
    /// The file of a Unix socket. `None` for a TCP address.
    file: Option<SocketFile>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Serving {
    /// Whether the server runs, and clients find it at its address.
    fn is_in_place(&self) -> bool {
        // Only a panic ends the task before `stop`. The panic hook has logged it.
        !self.task.is_finished() && self.file.as_ref().is_none_or(SocketFile::is_in_place)
    }

    /// Whether the running server may occupy this address, so that it must stop first.
    fn takes(&self, listen: &Listen) -> bool {
        match (&self.listen, listen) {
            (Listen::Tcp(old), Listen::Tcp(new)) => old.port() == new.port(),
            (old, new) => old == new,
        }
    }
}

impl<A: Served> Health<A> {
    pub(crate) fn new(admin: A) -> Self {
        Self {
            admin,
            serving: None,
            is_warned: false,
        }
    }

    /// Starts the server at the configured address, unless it runs there already.
    pub(crate) async fn keep(&mut self, server: Option<&AdminServer>) {
        let Some(server) = server else { return };
        if self.serving.as_ref().is_some_and(Serving::is_in_place) {
            return;
        }
        self.stop().await;
        match admin::bind(server).await {
            Ok(bound) => self.serve(bound, server),
            Err(error) => {
                if !std::mem::replace(&mut self.is_warned, true) {
                    warn!(listen = %server.listen, %error, "cannot listen on admin.listen; running without health and metrics, and retrying. Free the address, or change admin.listen and reload");
                }
            }
        }
    }

    /// Binds the address of a new configuration, if a setting below `admin` changed.
    ///
    /// Returns `Some(None)` if `admin` was removed.
    ///
    /// # Errors
    ///
    /// The address cannot be bound, for example because another program uses it. The caller then
    /// restores the old server with [`Self::keep`].
    pub(super) async fn prepare(
        &mut self,
        old: Option<&AdminServer>,
        new: Option<&AdminServer>,
    ) -> Result<Option<Option<Bound>>, String> {
        if old == new {
            return Ok(None);
        }
        let Some(server) = new else {
            return Ok(Some(None));
        };
        let takes = |serving: &Serving| serving.takes(&server.listen);
        if self.serving.as_ref().is_some_and(takes) {
            self.stop().await;
        }
        match admin::bind(server).await {
            Ok(bound) => Ok(Some(Some(bound))),
            Err(error) => Err(format!(
                "admin.listen: cannot listen on {}: {error}",
                server.listen
            )),
        }
    }

    /// Applies the result of [`Self::prepare`].
    pub(super) async fn apply(
        &mut self,
        prepared: Option<Option<Bound>>,
        new: Option<&AdminServer>,
    ) {
        let Some(bound) = prepared else { return };
        self.stop().await;
        if let (Some(bound), Some(server)) = (bound, new) {
            self.serve(bound, server);
        }
    }

    #[expect(clippy::disallowed_methods, reason = "the task is awaited by `stop`")]
    fn serve(&mut self, bound: Bound, server: &AdminServer) {
        info!(listen = %server.listen, "serving health and metrics");
        let stop = CancellationToken::new();
        let file = match &bound {
            Bound::Tcp(_) => None,
            Bound::Unix(_, file) => Some(file.clone()),
        };
        let task = tokio::spawn(admin::serve(
            self.admin.clone(),
            bound,
            server.clone(),
            stop.clone(),
        ));
        self.is_warned = false;
        self.serving = Some(Serving {
            listen: server.listen.clone(),
            file,
            stop,
            task,
        });
    }

    /// Stops the server and releases its address.
    pub(crate) async fn stop(&mut self) {
        if let Some(serving) = self.serving.take() {
            if let Some(file) = &serving.file {
                file.remove();
            }
            serving.stop.cancel();
            let _ = serving.task.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use axum::Router;
    use tokio::net::UnixStream;

    use super::*;

    /// A server that panics the first time.
    #[derive(Clone, Default)]
    struct Failing(Arc<AtomicBool>);

    impl Served for Failing {
        fn router(self, _: &AdminServer, _: bool, _: &CancellationToken) -> Router {
            let has_failed = self.0.swap(true, Ordering::Relaxed);
            assert!(has_failed, "this server has a bug");
            Router::new()
        }
    }

    #[tokio::test]
    async fn a_server_that_panics_is_started_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("admin.sock");
        let server = AdminServer {
            hosts: Vec::new(),
            listen: Listen::Unix(path.clone()),
            mode: 0o600,
            token: None,
        };
        let mut health = Health::new(Failing::default());
        health.keep(Some(&server)).await;
        let ended = async {
            while !health.serving.as_ref().unwrap().task.is_finished() {
                tokio::task::yield_now().await;
            }
        };
        let ended = tokio::time::timeout(Duration::from_secs(60), ended);
        ended.await.unwrap();
        UnixStream::connect(&path).await.unwrap_err();
        health.keep(Some(&server)).await;
        UnixStream::connect(&path).await.unwrap();
        health.stop().await;
    }
}
