//! Notifies the processes of a repository of each other's changes.
//!
//! There are notifications of operators' changes, of deliveries to claim, and of new sole senders.
//!
//! Constraint: a notification is lost if the connection breaks. So an operator's change also
//! increases the column `changes` of the repository. Each renewal of a lease reads this column and
//! wakes the queues if it changed. While renewals succeed, the queues notice such a change after at
//! most about a third of the lease. For other lost notifications, see [`listen`].

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use tokio::time::timeout;
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::{AsyncMessage, Config, Socket};

use super::connect::CREATE_MAX;
use super::lease::Notices;
use super::session::{Statement, statement};

/// The pause before the first attempt to reconnect.
///
/// It doubles with each failed attempt, up to [`AGAIN_MAX`].
const AGAIN: Duration = Duration::from_millis(200);

/// The longest pause between two attempts to reconnect.
const AGAIN_MAX: Duration = Duration::from_secs(10);

/// Counts an operator's change, and notifies all processes at the commit.
pub(super) fn notify(repository: i32) -> Statement {
    statement!(
        "WITH counted AS (UPDATE repositories SET changes = changes + 1 WHERE id = $1) \
         SELECT pg_notify('project_webhooks', ($1::int)::text)",
        repository
    )
}

/// The reason for a notification to senders.
#[derive(Clone, Copy)]
pub(super) enum Kind<'a> {
    /// There may be more deliveries to claim.
    New,
    /// The notifying process is now the sole sender of this webhook.
    ///
    /// Other processes must begin no more requests to this webhook.
    Alone(&'a str),
}

impl Kind<'_> {
    pub(super) fn payload(self, repository: i32) -> String {
        match self {
            Self::New => format!("{repository} new"),
            Self::Alone(webhook) => format!("{repository} alone {webhook}"),
        }
    }
}

/// Notifies all senders at the commit of the transaction.
pub(super) fn notify_senders(repository: i32, kind: Kind<'_>) -> Statement {
    let sql = "SELECT pg_notify('project_webhooks', $1)";
    statement!(sql, kind.payload(repository))
}

fn handle(payload: &str, repository: i32, notices: &Notices) {
    // Split off only two words, because the name of a webhook may contain spaces.
    let mut words = payload.splitn(3, ' ');
    if words.next() != Some(repository.to_string().as_str()) {
        return;
    }
    match (words.next(), words.next()) {
        (None, _) => notices.changed(),
        (Some("new"), None) => notices.more(),
        (Some("alone"), Some(webhook)) => notices.paused(webhook),
        _ => {}
    }
}

/// Listens for notifications about a repository forever. Reconnects after errors.
///
/// Each time it connects, it assumes that notifications to senders were lost.
pub(super) async fn listen<T>(config: Config, tls: T, repository: i32, notices: Notices)
where
    T: MakeTlsConnect<Socket> + Clone,
    T::Stream: Send + 'static,
    T::TlsConnect: Send,
    <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
{
    let mut pause = AGAIN;
    loop {
        // A server or a proxy may accept the connection, and then never answer.
        let connecting = timeout(CREATE_MAX, config.connect(tls.clone()));
        if let Ok(Ok((client, mut connection))) = connecting.await {
            let mut messages = stream::poll_fn(move |context| connection.poll_message(context));
            let subscribed = async {
                let listen = client.batch_execute("LISTEN project_webhooks");
                let subscribed = timeout(CREATE_MAX, listen).await;
                // Notifications before the subscription were missed. So assume that senders sent
                // some. The next renewal of a lease notices an operator's changes.
                notices.all_paused();
                notices.more();
                subscribed
            };
            let mut subscribed = std::pin::pin!(subscribed);
            let mut is_subscribed = false;
            loop {
                let message = tokio::select! {
                    result = &mut subscribed, if !is_subscribed => match result {
                        Ok(Ok(())) => {
                            is_subscribed = true;
                            pause = AGAIN;
                            continue;
                        }
                        Ok(Err(_)) | Err(_) => break,
                    },
                    message = messages.next() => message,
                };
                match message {
                    Some(Ok(AsyncMessage::Notification(found))) => {
                        handle(found.payload(), repository, &notices);
                    }
                    Some(Ok(_)) => {}
                    Some(Err(_)) | None => break,
                }
            }
        }
        tokio::time::sleep(pause).await;
        pause = pause.saturating_mul(2).min(AGAIN_MAX);
    }
}
