//! Looks up the names of file owners in the system's user database.
//!
//! Constraint: the user database may be a directory service that fails or never answers. An error
//! is not an answer: it is never cached, and the name stays unknown. One step of the engine waits
//! at most [`STEP_MAX`] for all its look-ups. Separate threads make the look-ups, at most
//! [`THREADS_MAX`] at a time. Names are cached for [`AGE_MAX`], because users may be renamed while
//! the daemon runs. The size of the cache is limited, because files may have very many owners.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use nix::unistd::{Uid, User};
use tracing::{info, warn};

use crate::clock::Clock;

/// The time after which a cached name expires.
const AGE_MAX: Duration = Duration::from_secs(60);

/// The maximum number of cached names, and of unknown users to retry.
const NAMES_MAX: usize = 1024;

/// The maximum number of threads for look-ups. A look-up cannot be cancelled.
const THREADS_MAX: usize = 8;

/// The pause before each attempt of one look-up.
const PAUSES: [Duration; 3] = [
    Duration::ZERO,
    Duration::from_millis(100),
    Duration::from_millis(400),
];

/// The longest time that one step of the engine may wait for look-ups.
const STEP_MAX: Duration = Duration::from_secs(2);

/// Replaces [`STEP_MAX`] while names are unknown, because look-ups failed or took too long.
///
/// The user database then probably does not answer.
const STEP_MAX_FAILING: Duration = Duration::from_millis(100);

/// The time between two rounds of retries for unknown names.
const RETRY: Duration = Duration::from_secs(5);

/// Looks up the name of a user. `None` means that no user has this id.
///
/// An error says why the database does not answer.
type LookUp = dyn Fn(u32) -> Result<Option<String>, String> + Send + Sync;

/// A cache of owner names that threads can share.
pub(crate) struct OwnerNames {
    shared: Arc<Shared>,
    clock: Clock,
}

struct Shared {
    look_up: Box<LookUp>,
    state: Mutex<State>,
    /// Notified when a look-up ends.
    ended: Condvar,
}

#[derive(Default)]
struct State {
    cached: HashMap<u32, Cached>,
    /// The users that threads are looking up.
    in_flight: BTreeSet<u32>,
    /// The users to look up again.
    ///
    /// Their look-up failed, took too long or was not started.
    unknown: BTreeSet<u32>,
    /// Whether an unknown name became known since the last [`OwnerNames::retry`].
    has_news: bool,
    /// The last user that retries looked up (or 0), and the time of the last retries.
    retried: Option<(u32, Timestamp)>,
    /// The current step of the engine, and how long it has waited for look-ups so far.
    step: (Timestamp, Duration),
}

struct Cached {
    name: String,
    since: Timestamp,
}

impl Cached {
    /// Whether the name has not expired.
    ///
    /// A name also expires if the clock was set back before `since`.
    fn is_current(&self, now: Timestamp) -> bool {
        age(self.since, now).is_some_and(|age| age < AGE_MAX)
    }
}

/// Returns the time since `since`. `None` if the clock was set back before `since`.
fn age(since: Timestamp, now: Timestamp) -> Option<Duration> {
    Duration::try_from(now.duration_since(since)).ok()
}

impl OwnerNames {
    /// Makes a cache of names from the system's user database.
    pub(crate) fn system() -> Self {
        Self::new(|uid| {
            User::from_uid(Uid::from_raw(uid))
                .map(|user| user.map(|user| user.name))
                .map_err(|error| error.to_string())
        })
    }

    fn new(
        look_up: impl Fn(u32) -> Result<Option<String>, String> + Send + Sync + 'static,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                look_up: Box::new(look_up),
                state: Mutex::default(),
                ended: Condvar::new(),
            }),
            clock: Clock::start(),
        }
    }

    /// Returns the name of a user, or the user id if the user has no name.
    ///
    /// `now` is the time of the engine's step. If the user database does not answer, returns the
    /// expired name, or `None` if no name is cached.
    pub(crate) fn name(&self, uid: u32, now: Timestamp) -> Option<String> {
        let mut state = self.shared.lock();
        if let Some(cached) = state.cached.get(&uid).filter(|one| one.is_current(now)) {
            return Some(cached.name.clone());
        }
        if !state.unknown.contains(&uid) {
            if Shared::start(&self.shared, &mut state, uid, now) {
                state = self.wait_for(uid, now, state);
            }
            let is_known = |one: &&Cached| one.is_current(now);
            if let Some(cached) = state.cached.get(&uid).filter(is_known) {
                return Some(cached.name.clone());
            }
            state.is_unknown(uid, "the user database does not answer");
        }
        state.cached.get(&uid).map(|cached| cached.name.clone())
    }

    fn wait_for<'a>(
        &self,
        uid: u32,
        now: Timestamp,
        mut state: MutexGuard<'a, State>,
    ) -> MutexGuard<'a, State> {
        if state.step.0 != now {
            state.step = (now, Duration::ZERO);
        }
        let longest = match state.unknown.is_empty() {
            true => STEP_MAX,
            false => STEP_MAX_FAILING,
        };
        let rest = longest.saturating_sub(state.step.1);
        let begin = self.clock.moment();
        let is_in_flight = |state: &mut State| state.in_flight.contains(&uid);
        let ended = &self.shared.ended;
        (state, _) = ended
            .wait_timeout_while(state, rest, is_in_flight)
            .unwrap_or_else(PoisonError::into_inner);
        let waited = self.clock.moment().saturating_sub(begin);
        state.step.1 = state.step.1.saturating_add(waited);
        state
    }

    /// Starts to look up unknown names again if [`RETRY`] has passed. Does not wait.
    ///
    /// Returns whether names became known since the last call.
    pub(crate) fn retry(&self, now: Timestamp) -> bool {
        let mut state = self.shared.lock();
        let is_due = state
            .retried
            .is_none_or(|(_, at)| age(at, now).is_none_or(|age| age >= RETRY));
        if is_due && !state.unknown.is_empty() {
            // Begin after the last user of the previous round, so that users whose look-ups fail do
            // not block the others.
            let last = state.retried.map_or(0, |(uid, _)| uid);
            let later = state
                .unknown
                .range((Bound::Excluded(last), Bound::Unbounded));
            let users: Vec<u32> = later.chain(state.unknown.range(..=last)).copied().collect();
            state.retried = Some((last, now));
            for uid in users {
                if !Shared::start(&self.shared, &mut state, uid, now) {
                    break;
                }
                state.retried = Some((uid, now));
            }
        }
        std::mem::take(&mut state.has_news)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is complete even if another thread panicked.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a look-up on a new thread, unless a look-up of this user is in progress.
    ///
    /// Returns false if the maximum number of threads is reached, or no thread can be started.
    fn start(shared: &Arc<Self>, state: &mut State, uid: u32, now: Timestamp) -> bool {
        if state.in_flight.contains(&uid) {
            return true;
        }
        if state.in_flight.len() >= THREADS_MAX {
            return false;
        }
        let in_thread = Arc::clone(shared);
        let spawned = std::thread::Builder::new()
            .name("user-name".to_owned())
            .spawn(move || in_thread.look_up(uid, now));
        if spawned.is_ok() {
            state.in_flight.insert(uid);
        }
        spawned.is_ok()
    }

    fn look_up(&self, uid: u32, now: Timestamp) {
        let mut answer = Err(String::new());
        for pause in PAUSES {
            std::thread::sleep(pause);
            // After a panic, this thread must still remove the user from those in flight.
            answer = catch_unwind(AssertUnwindSafe(|| (self.look_up)(uid)))
                .unwrap_or_else(|_| Err("the look-up panicked".to_owned()));
            if answer.is_ok() {
                break;
            }
        }
        let mut state = self.lock();
        state.in_flight.remove(&uid);
        match answer {
            Ok(name) => state.keep(uid, name, now),
            Err(reason) => state.is_unknown(uid, &reason),
        }
        self.ended.notify_all();
    }
}

impl State {
    fn keep(&mut self, uid: u32, name: Option<String>, now: Timestamp) {
        if self.cached.len() >= NAMES_MAX {
            self.cached.retain(|_, cached| cached.is_current(now));
        }
        if self.cached.len() >= NAMES_MAX {
            self.cached.clear();
        }
        let name = name.filter(|name| !name.is_empty());
        let cached = Cached {
            name: name.unwrap_or_else(|| uid.to_string()),
            since: now,
        };
        self.cached.insert(uid, cached);
        if self.unknown.remove(&uid) {
            self.has_news = true;
            if self.unknown.is_empty() {
                info!("the user database answers again");
            }
        }
    }

    fn is_unknown(&mut self, uid: u32, reason: &str) {
        if self.unknown.is_empty() {
            warn!(
                uid,
                "cannot look up the name of a user: {reason}; retrying. Until the user database \
                 answers, callbacks use the last known name, or else the next source of \
                 `username`; check `getent passwd {uid}`"
            );
        }
        if self.unknown.len() < NAMES_MAX {
            self.unknown.insert(uid);
        }
    }
}

impl fmt::Debug for OwnerNames {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("OwnerNames")
            .field("cached", &self.shared.lock().cached.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc::sync_channel;

    use super::*;

    fn second(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap_or(Timestamp::MAX)
    }

    fn some(name: &str) -> Option<String> {
        Some(name.to_owned())
    }

    /// Makes names that contain the number of the look-up.
    ///
    /// Users from uid 1,000 on have no name.
    fn counting() -> (OwnerNames, Arc<AtomicUsize>) {
        let count = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&count);
        let names = OwnerNames::new(move |uid| {
            let count = counted.fetch_add(1, Ordering::Relaxed) + 1;
            Ok((uid < 1_000).then(|| format!("user{uid}-{count}")))
        });
        (names, count)
    }

    #[test]
    fn a_name_is_cached_until_it_expires() {
        let (names, _) = counting();
        assert_eq!(names.name(7, second(100)), some("user7-1"));
        assert_eq!(names.name(7, second(159)), some("user7-1"));
        assert_eq!(names.name(7, second(160)), some("user7-2"));
        assert_eq!(names.name(8, second(160)), some("user8-3"));
        // The clock is set back.
        assert_eq!(names.name(7, second(10)), some("user7-4"));
        assert_eq!(names.name(7, second(11)), some("user7-4"));
        assert_eq!(names.name(7, Timestamp::MAX), some("user7-5"));
        assert_eq!(names.name(7, Timestamp::MIN), some("user7-6"));
    }

    #[test]
    fn a_user_without_a_name_is_a_number() {
        let (names, count) = counting();
        assert_eq!(names.name(4_294_967_294, second(0)), some("4294967294"));
        assert_eq!(names.name(4_294_967_294, second(1)), some("4294967294"));
        assert_eq!(count.load(Ordering::Relaxed), 1);
        let empty = OwnerNames::new(|_| Ok(some("")));
        assert_eq!(empty.name(5, second(0)), some("5"));
    }

    #[test]
    fn the_cache_is_bounded() {
        let (names, _) = counting();
        for uid in 0..5_000 {
            names.name(uid, second(i64::from(uid) / 10));
            assert!(names.shared.lock().cached.len() <= NAMES_MAX);
        }
    }

    /// Waits until no look-up is in progress, then looks up unknown names again.
    fn retry(names: &OwnerNames, now: Timestamp) -> bool {
        let state = names.shared.lock();
        drop(
            names
                .shared
                .ended
                .wait_while(state, |state| !state.in_flight.is_empty()),
        );
        names.retry(now)
    }

    #[test]
    fn an_error_is_looked_up_again_and_never_cached() {
        let failures = Arc::new(AtomicUsize::new(PAUSES.len() - 1));
        let left = Arc::clone(&failures);
        let names = OwnerNames::new(move |uid| {
            let fails =
                left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
            match fails {
                Ok(_) => Err("no".to_owned()),
                Err(_) => Ok(Some(format!("user{uid}"))),
            }
        });
        // One look-up makes several tries.
        assert_eq!(names.name(7, second(0)), some("user7"));
        // An expired name is used if there is no answer.
        failures.store(PAUSES.len() * 2, Ordering::Relaxed);
        assert_eq!(names.name(8, second(100)), None);
        assert_eq!(names.name(7, second(100)), some("user7"));
        assert!(!retry(&names, second(100)));
        assert!(retry(&names, second(101)));
        assert_eq!(names.name(8, second(102)), some("user8"));
        assert!(!retry(&names, second(110)));
    }

    #[test]
    fn a_look_up_that_panics_is_tried_again() {
        let count = AtomicUsize::new(0);
        let names = OwnerNames::new(move |uid| {
            assert!(count.fetch_add(1, Ordering::Relaxed) >= PAUSES.len());
            Ok(Some(format!("user{uid}")))
        });
        assert_eq!(names.name(7, second(0)), None);
        assert!(!retry(&names, second(5)));
        assert!(retry(&names, second(10)));
        assert_eq!(names.name(7, second(10)), some("user7"));
    }

    #[test]
    fn look_ups_that_hang_are_bounded_and_delay_no_other_user() {
        let (answer, answers) = sync_channel::<()>(0);
        let answers = Mutex::new(answers);
        let names = OwnerNames::new(move |uid| {
            if uid >= 1_000 {
                let _ = answers.lock().map(|answers| answers.recv());
            }
            Ok(Some(format!("user{uid}")))
        });
        for number in 0..20 {
            let now = second(i64::from(number));
            assert_eq!(names.name(7, now), some("user7"));
            assert_eq!(names.name(1_000 + number, now), None);
            assert!(names.shared.lock().in_flight.len() <= THREADS_MAX);
        }
        // An expired name.
        assert_eq!(names.name(7, second(100)), some("user7"));
        drop(answer);
        assert!(retry(&names, second(100)));
        assert_eq!(names.name(1_000, second(20)), some("user1000"));
    }

    #[test]
    fn the_system_has_a_name_for_root() {
        assert_eq!(OwnerNames::system().name(0, second(0)), some("root"));
    }
}
