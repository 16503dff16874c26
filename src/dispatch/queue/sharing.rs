//! Shares a webhook with other *senders*: the queues of this webhook in other processes.
//!
//! If requests to the webhook are limited to a rate, only one sender may send at a time. Each claim
//! tells the store whether this sender must be the only one. If so, the store gives the other
//! senders no claims.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::{Queue, SLEEP_MAX};
use crate::dispatch::Target;
use crate::dispatch::results::STORE_PAUSE;
use crate::store::{Alone, Fault};

/// How long a rate-limited sender lets others try an endpoint after a failure.
///
/// This is longer than [`super::SHARED_POLL`], after which a waiting sender claims again.
const GIVE_WAY: Duration = Duration::from_secs(2);

/// How long a queue tries to release its webhook after all queues began to stop.
///
/// If this fails, closing the store releases the webhook. While other queues run, the queue of a
/// removed webhook retries without a limit. Otherwise its claims would last until the store is
/// closed.
const LEAVE: Duration = Duration::from_secs(3);

impl Queue {
    /// Returns whether this sender must be the only one if it claims deliveries now.
    pub(super) fn alone(&self, target: &Target) -> Alone {
        match (self.is_paced(target), self.endpoint.may_be_out_of_reach()) {
            (false, _) => Alone::No,
            (true, true) => Alone::IfDue,
            (true, false) => Alone::Yes,
        }
    }

    /// Whether this sender must be the only one while it claims nothing.
    ///
    /// After a failure, another sender may reach the endpoint although this sender does not. So
    /// this sender then excludes the others only while it sends, and until the rate allows its next
    /// request. Earlier requests of other senders would exceed the rate.
    fn must_be_alone(&self, target: &Target) -> bool {
        let now = self.shared.clock.moment();
        let gives_way = now < self.gives_way_until;
        let is_idle = self.in_flight.is_empty() && self.prefetch.is_empty();
        let leaves_it = self.endpoint.may_be_out_of_reach() && is_idle;
        let is_early = now < self.pace.next(target.webhook.rate);
        self.is_paced(target) && (is_early || !(gives_way || leaves_it))
    }

    /// Tells the store whether this sender must be the only one.
    pub(super) fn tell(&mut self) {
        if self.next_claim.is_after_failure && self.shared.clock.moment() < self.next_claim.at {
            return;
        }
        let target = Arc::clone(&self.target.borrow());
        let at = self.shared.reading();
        let alone = match self.must_be_alone(&target) {
            true => Alone::Yes,
            false => Alone::No,
        };
        self.prefetch
            .tell(&self.shared.store, &self.name, at, alone);
    }

    /// Returns how long to wait before the next call of [`Queue::tell`].
    ///
    /// A call is needed after a failure of the store. It is also needed when the next request may
    /// start, because this sender may then leave the webhook to others.
    pub(super) fn until_told(&self) -> Duration {
        if !self.shared.store.is_shared() {
            return SLEEP_MAX;
        }
        let moment = self.shared.clock.moment();
        let at = match self.next_claim.is_after_failure && moment < self.next_claim.at {
            true => self.next_claim.at,
            false => self.pace.next(self.target.borrow().webhook.rate),
        };
        match at.saturating_sub(moment) {
            Duration::ZERO => SLEEP_MAX,
            wait => wait.min(SLEEP_MAX),
        }
    }

    /// Leaves the webhook to other senders for [`GIVE_WAY`]. They may reach the endpoint.
    ///
    /// This time begins when the rate allows this sender's next request. An earlier request of
    /// another sender would exceed the rate.
    pub(super) fn give_way(&mut self, moment: Duration, target: &Target) {
        let begins = moment.max(self.pace.next(target.webhook.rate));
        self.gives_way_until = begins.saturating_add(GIVE_WAY);
        self.prefetch.clear();
    }

    /// Releases the webhook for other senders, because this queue ends.
    ///
    /// Gives up [`LEAVE`] after all queues began to stop.
    pub(super) async fn leave(&mut self, stop_of_all: &CancellationToken) {
        let name = self.name.clone();
        let too_late = async {
            stop_of_all.cancelled().await;
            tokio::time::sleep(LEAVE).await;
        };
        tokio::select! {
            () = self.try_to_leave() => {}
            () = too_late => {
                debug!(webhook = name, "did not release the webhook for other senders in time");
            }
        }
    }

    async fn try_to_leave(&mut self) {
        let at = self.shared.reading();
        while let Err(error) = self
            .prefetch
            .leave(&self.shared.store, &self.name, at)
            .await
        {
            if matches!(error.fault(), Fault::Fenced | Fault::Closed) {
                return;
            }
            tokio::time::sleep(STORE_PAUSE).await;
        }
    }
}
