//! `GET /api/v1/stream`: new events and changed deliveries, as server-sent events.
//!
//! Constraint: many clients cause no more reads of the store than one client. While there are
//! clients, and for half a minute after the last one, one task checks twice a second whether the
//! recorded state has changed. Only after a change does the task compare the listings, as
//! `--follow` does. The task keeps the newest items for all clients. A client that is too slow, or
//! reconnects too late, gets `missed` and must read the listings again.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::sse::{Event, KeepAlive, Sse};
use futures_util::Stream;
use futures_util::stream;
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::warn;
use uuid::Uuid;

use super::Admin;
use super::auth::Permit;
use super::error::ApiError;
use super::routes::Server;
use crate::operator::follow::{self, COMPARED, Follower};
use crate::operator::view::{DeliveryView, EventView};
use crate::store::{EventFilter, ListedDelivery, ListedEvent, Listings, Selector};

/// The time between two checks for new items.
const INTERVAL: Duration = Duration::from_millis(500);

/// The number of checks after the last client disconnected.
///
/// During these checks, a client can reconnect and get the kept items that it missed.
const ROUNDS_KEPT: u32 = 60;

/// The maximum number of items that are kept for slow clients.
const ITEMS_MAX: usize = 1_024;

/// The maximum total size of the kept items, in bytes.
const ITEMS_BYTES_MAX: usize = 4 * 1024 * 1024;

const CLIENTS_MAX: usize = 16;

/// How long a client waits for the first comparison.
const START_MAX: Duration = Duration::from_secs(10);

/// The time between two comments that keep the connection of an idle client open.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// An item of the stream.
struct Item {
    number: u64,
    /// `event` or `delivery`.
    name: &'static str,
    json: String,
}

/// The newest items.
#[derive(Default)]
struct Kept {
    /// The id of the series: the items since the task began to compare the state.
    ///
    /// `None` while the task does not compare.
    series: Option<String>,
    /// The number of the next item.
    next: u64,
    items: VecDeque<Arc<Item>>,
    /// The total size of the items.
    n_bytes: usize,
}

impl Kept {
    fn add(&mut self, name: &'static str, view: &impl Serialize) {
        let Ok(json) = serde_json::to_string(view) else {
            return;
        };
        let number = self.next;
        self.next += 1;
        self.n_bytes += json.len();
        self.items.push_back(Arc::new(Item { number, name, json }));
        // This also drops a single item that is too large. Clients then get `missed`.
        while (self.items.len() > ITEMS_MAX || self.n_bytes > ITEMS_BYTES_MAX)
            && let Some(oldest) = self.items.pop_front()
        {
            self.n_bytes -= oldest.json.len();
        }
    }

    /// Returns the number of the oldest kept item, or of the next item if none is kept.
    fn first(&self) -> u64 {
        self.items.front().map_or(self.next, |item| item.number)
    }

    /// Returns the item with this number, if it is kept.
    fn at(&self, number: u64) -> Option<Arc<Item>> {
        let index = number.checked_sub(self.first())?;
        self.items.get(usize::try_from(index).ok()?).cloned()
    }
}

/// The new items for all clients.
pub(crate) struct News {
    kept: Mutex<Kept>,
    /// Notified when a series begins or ends, and of new items.
    changed: watch::Sender<()>,
    /// A permit for each client.
    clients: Arc<Semaphore>,
    /// Wakes the task that compares the state.
    wanted: tokio::sync::Notify,
}

impl Default for News {
    fn default() -> Self {
        Self {
            kept: Mutex::default(),
            changed: watch::Sender::new(()),
            clients: Arc::new(Semaphore::new(CLIENTS_MAX)),
            wanted: tokio::sync::Notify::new(),
        }
    }
}

impl News {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has_clients(&self) -> bool {
        self.clients.available_permits() < CLIENTS_MAX
    }

    /// Waits until a client needs a series.
    async fn wait_for_client(&self) {
        loop {
            self.wanted.notified().await;
            // This may be the notification of a client that came and went during the last series.
            if self.has_clients() {
                return;
            }
        }
    }

    /// Begins or ends a series.
    fn set_series(&self, series: Option<String>) {
        *self.kept() = Kept {
            series,
            next: 1,
            ..Kept::default()
        };
        self.changed.send_replace(());
    }

    /// Waits for a series and returns its id.
    async fn series(&self) -> Result<String, ApiError> {
        let mut changed = self.changed.subscribe();
        let series = async {
            loop {
                changed.borrow_and_update();
                let series = self.kept().series.clone();
                match series {
                    Some(series) => return Some(series),
                    None => changed.changed().await.ok()?,
                }
            }
        };
        let series = tokio::time::timeout(START_MAX, series).await;
        let unavailable = || ApiError::unavailable("the state cannot be read; see the log");
        series.ok().flatten().ok_or_else(unavailable)
    }
}

/// Compares the state while there are clients, until `stop`.
pub(crate) async fn publish(admin: Arc<Admin>, stop: CancellationToken) {
    // Whether the present failure was logged.
    let mut is_warned = false;
    loop {
        tokio::select! {
            () = admin.news.wait_for_client() => {}
            () = stop.cancelled() => return,
        }
        let result = tokio::select! {
            result = follow_until_idle(&admin) => result,
            () = stop.cancelled() => return,
        };
        // If a series has begun, reading has succeeded since the last failure.
        is_warned &= admin.news.kept().series.is_none();
        if let Err(error) = result
            && !std::mem::replace(&mut is_warned, true)
        {
            warn!(
                error = error.error,
                "cannot read the state for the stream of new events; retrying while it has clients"
            );
        }
        admin.news.set_series(None);
        // The clients of the ended series reconnect. Begin the next series for them.
        if admin.news.has_clients() {
            admin.news.wanted.notify_one();
            tokio::select! {
                () = tokio::time::sleep(INTERVAL) => {}
                () = stop.cancelled() => return,
            }
        }
    }
}

/// New events and changed deliveries, the oldest first.
type Items = (Vec<ListedEvent>, Vec<ListedDelivery>);

/// The items of both listings at the last comparison.
struct Compared {
    listings: Listings,
    version: i64,
    events: Follower<ListedEvent>,
    deliveries: Follower<ListedDelivery>,
}

impl Compared {
    fn start(listings: Listings) -> Result<Self, ApiError> {
        // Read the version first, so that `next` notices a commit during the other reads.
        let version = listings.version()?;
        let events = listings.events(&EventFilter::default(), COMPARED)?;
        let deliveries = listings.deliveries(&Selector::default(), COMPARED)?;
        Ok(Self {
            version,
            events: Follower::new(follow::event, &events),
            deliveries: Follower::new(follow::delivery, &deliveries),
            listings,
        })
    }

    /// Reads the new and changed items if the recorded state changed since last time.
    fn next(&mut self) -> Result<Items, ApiError> {
        let listings = &self.listings;
        let version = listings.version()?;
        if std::mem::replace(&mut self.version, version) == version {
            return Ok(Items::default());
        }
        let mut events = self
            .events
            .next(&|limit| listings.events(&EventFilter::default(), limit))?;
        let mut deliveries = self
            .deliveries
            .next(&|limit| listings.deliveries(&Selector::default(), limit))?;
        events.reverse();
        deliveries.reverse();
        Ok((events, deliveries))
    }
}

/// Compares the state until there has been no client for half a minute.
async fn follow_until_idle(admin: &Admin) -> Result<(), ApiError> {
    let config = admin.sources.config();
    let start = move || Compared::start(Listings::of(&config)?);
    let mut compared = admin.run_read(start).await?;
    let news = &admin.news;
    news.set_series(Some(Uuid::new_v4().simple().to_string()));
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut idle = 0;
    while idle < ROUNDS_KEPT {
        ticks.tick().await;
        idle = if news.has_clients() { 0 } else { idle + 1 };
        let next = move || {
            let items = compared.next()?;
            Ok((compared, items))
        };
        let (events, deliveries);
        (compared, (events, deliveries)) = admin.run_read(next).await?;
        if events.is_empty() && deliveries.is_empty() {
            continue;
        }
        {
            let mut kept = news.kept();
            for event in &events {
                kept.add("event", &EventView::of(event));
            }
            for delivery in &deliveries {
                kept.add("delivery", &DeliveryView::of(delivery));
            }
        }
        news.changed.send_replace(());
    }
    Ok(())
}

/// One client of the stream.
struct Client {
    server: Arc<Server>,
    /// Why the client has access. Access by a session ends with the session.
    permit: Permit,
    changed: watch::Receiver<()>,
    series: String,
    /// The number of the next item.
    next: u64,
    /// The first message.
    greeting: Option<Event>,
    _place: OwnedSemaphorePermit,
}

impl Client {
    /// Waits for the next message. Returns `None` to end the stream.
    async fn message(&mut self) -> Option<Event> {
        if let Some(greeting) = self.greeting.take() {
            return Some(greeting);
        }
        loop {
            self.changed.borrow_and_update();
            if let Some(message) = self.now()? {
                return Some(message);
            }
            tokio::select! {
                changed = self.changed.changed() => changed.ok()?,
                () = self.server.stop.cancelled() => return None,
            }
        }
    }

    /// Returns the next message, if it is available now.
    ///
    /// The outer `None` ends the stream.
    fn now(&mut self) -> Option<Option<Event>> {
        let moment = self.server.admin.sources.clock.moment();
        if !self.server.access.allows(self.permit, moment) {
            return None;
        }
        let kept = self.server.admin.news.kept();
        // The series has ended. The client reconnects and gets `missed`.
        if kept.series.as_ref() != Some(&self.series) {
            return None;
        }
        let n_missed = kept.first().saturating_sub(self.next);
        if n_missed > 0 {
            self.next = kept.first();
            let data = format!("{{\"missed\":{n_missed}}}");
            return Some(Some(Event::default().event("missed").data(data)));
        }
        let Some(item) = kept.at(self.next) else {
            return Some(None);
        };
        drop(kept);
        self.next = item.number + 1;
        let id = format!("{}-{}", self.series, item.number);
        let message = Event::default().event(item.name).id(id).data(&item.json);
        Some(Some(message))
    }
}

/// New events and changed deliveries, as they are recorded.
///
/// The first message is `ready`, or `missed` if `Last-Event-ID` is unknown. After it, the client
/// reads the listings. Messages `event` and `delivery` follow, with the JSON of the listings. A
/// later `missed` means that the client missed items and must read the listings again.
#[utoipa::path(get, path = "/api/v1/stream", tag = "read",
    params(("Last-Event-ID" = Option<String>, Header, description = "The id of the last message")),
    responses((status = 200, content_type = "text/event-stream", body = String),
        (status = "default", body = ApiError)))]
pub(super) async fn stream(
    State(server): State<Arc<Server>>,
    Extension(permit): Extension<Permit>,
    headers: HeaderMap,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, ApiError> {
    let news = &server.admin.news;
    let place = Arc::clone(&news.clients).try_acquire_owned();
    let place = place.map_err(|_| {
        ApiError::unavailable(format!("the stream has {CLIENTS_MAX} clients already"))
    })?;
    news.wanted.notify_one();
    let series = news.series().await?;
    let last = headers.get("last-event-id").and_then(|id| id.to_str().ok());
    let (next, greeting) = begin(&news.kept(), &series, last);
    let client = Client {
        changed: news.changed.subscribe(),
        series,
        next,
        greeting: Some(greeting),
        server: Arc::clone(&server),
        permit,
        _place: place,
    };
    let messages = stream::unfold(client, async |mut client| {
        let message = client.message().await?;
        Some((Ok(message), client))
    });
    Ok(Sse::new(messages).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}

/// Returns the number of the client's next item, and its first message.
fn begin(kept: &Kept, series: &str, last: Option<&str>) -> (u64, Event) {
    let Some(last) = last else {
        return (kept.next, greeting("ready", series, kept.next));
    };
    let known = last
        .split_once('-')
        .filter(|(of, _)| *of == series)
        .and_then(|(_, number)| number.parse::<u64>().ok())
        .map(|number| number.saturating_add(1))
        .filter(|next| *next <= kept.next);
    match known {
        Some(next) => (next, greeting("ready", series, next)),
        None => (kept.next, greeting("missed", series, kept.next)),
    }
}

fn greeting(name: &str, series: &str, next: u64) -> Event {
    let id = format!("{series}-{}", next.saturating_sub(1));
    Event::default().event(name).id(id).data("{}")
}

#[cfg(test)]
mod tests {
    use futures_util::future::FutureExt;

    use super::*;

    #[test]
    fn only_a_connected_client_begins_a_series() {
        let news = News::default();
        let connect = || Arc::clone(&news.clients).try_acquire_owned().unwrap();
        let client = connect();
        news.wanted.notify_one();
        drop(client);
        assert!(news.wait_for_client().now_or_never().is_none());
        let _client = connect();
        news.wanted.notify_one();
        assert!(news.wait_for_client().now_or_never().is_some());
    }

    #[test]
    fn kept_items_are_bounded_by_number_and_size() {
        let mut kept = Kept::default();
        for _ in 0..ITEMS_MAX + 10 {
            kept.add("event", &"x");
        }
        assert_eq!((kept.items.len(), kept.first()), (ITEMS_MAX, 10));
        let large = "x".repeat(ITEMS_BYTES_MAX / 8);
        for _ in 0..20 {
            kept.add("event", &large);
            let n_bytes: usize = kept.items.iter().map(|item| item.json.len()).sum();
            assert_eq!(kept.n_bytes, n_bytes);
            assert!(n_bytes <= ITEMS_BYTES_MAX, "{n_bytes}");
        }
        assert_eq!(kept.items.len(), 7);
        // A client that waits for an item that was too large to keep gets `missed`.
        kept.add("event", &"x".repeat(ITEMS_BYTES_MAX));
        assert_eq!((kept.items.len(), kept.n_bytes), (0, 0));
        assert_eq!(kept.first(), kept.next);
        kept.add("event", &"x");
        assert!(kept.at(kept.first()).is_some());
    }
}
