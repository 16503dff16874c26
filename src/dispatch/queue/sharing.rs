//! Tells the senders of other processes when this one must be the only one.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::{Queue, SLEEP_MAX};
use crate::dispatch::Target;
use crate::dispatch::results::STORE_PAUSE;
use crate::store::{Alone, Fault};

/// How long a sender with a rate leaves an endpoint to others that may be out of its own reach.
///
/// Others ask every [`super::SHARED_POLL`].
const GIVE_WAY: Duration = Duration::from_secs(2);

/// How long a queue that ends with its process tries to leave its webhook to other senders.
///
/// If it cannot, the end of the process does. Any other queue tries until it can: its claims would last as
/// long as the process.
const LEAVE: Duration = Duration::from_secs(3);

impl Queue {
    /// Whether only this sender may send the deliveries that it claims now.
    pub(super) fn alone(&self, target: &Target) -> Alone {
        match (self.is_paced(target), self.endpoint.may_be_out_of_reach()) {
            (false, _) => Alone::No,
            (true, true) => Alone::IfDue,
            (true, false) => Alone::Yes,
        }
    }

    /// Whether only this sender may send, although it claims nothing now.
    ///
    /// After a failure, the endpoint may be out of reach of this sender alone. So it keeps others from
    /// sending only while it sends, and until its own next request may start: others do not know its pace.
    fn must_be_alone(&self, target: &Target) -> bool {
        let now = self.shared.clock.moment();
        let gives_way = now < self.gives_way_until;
        let is_idle = self.in_flight.is_empty() && self.prefetch.is_empty();
        let leaves_it = self.endpoint.may_be_out_of_reach() && is_idle;
        let is_early = now < self.pace.next(target.webhook.rate);
        self.is_paced(target) && (is_early || !(gives_way || leaves_it))
    }

    /// Tells other senders what this one needs.
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

    /// Returns how long to wait before notifying other senders again.
    ///
    /// They are notified again after the store failed, and when this sender may leave the webhook to them.
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

    /// Leaves the webhook to other senders for a while, because others may reach the endpoint.
    ///
    /// It leaves when its own next request may start. Else each sender could send a request at once.
    pub(super) fn give_way(&mut self, moment: Duration, target: &Target) {
        let begins = moment.max(self.pace.next(target.webhook.rate));
        self.gives_way_until = begins.saturating_add(GIVE_WAY);
        self.prefetch.clear();
    }

    /// Leaves the webhook to other senders.
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
