//! Looks up the names of file owners in the system's user database.
//!
//! Constraint: a look-up may use the network (for instance LDAP), so names are cached. Cached names
//! expire, because users may be renamed while the daemon runs. The cache is bounded, because files of
//! many owners could fill it.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;

/// The time after which a cached name expires.
const AGE_MAX: Duration = Duration::from_secs(60);

/// The maximum number of cached names.
const NAMES_MAX: usize = 1024;

type LookUp = dyn Fn(u32) -> Option<String> + Send + Sync;

/// A cache of owner names that threads can share.
pub(crate) struct OwnerNames {
    look_up: Box<LookUp>,
    cached: Mutex<HashMap<u32, Cached>>,
}

struct Cached {
    name: String,
    since: Timestamp,
}

impl Cached {
    /// Whether the name has not expired. A clock that was set back before `since` also expires it.
    fn is_current(&self, now: Timestamp) -> bool {
        Duration::try_from(now.duration_since(self.since)).is_ok_and(|age| age < AGE_MAX)
    }
}

impl OwnerNames {
    /// Makes a cache of the system's user database.
    pub(crate) fn system() -> Self {
        Self::new(|uid| {
            uzers::get_user_by_uid(uid).map(|user| user.name().to_string_lossy().into_owned())
        })
    }

    fn new(look_up: impl Fn(u32) -> Option<String> + Send + Sync + 'static) -> Self {
        Self {
            look_up: Box::new(look_up),
            cached: Mutex::default(),
        }
    }

    /// Returns the name of a user at the time `now`, or the user id if there is no name.
    ///
    /// It blocks while the user database answers, usually at most once for each user in [`AGE_MAX`].
    pub(crate) fn name(&self, uid: u32, now: Timestamp) -> String {
        let is_current = |cached: &Cached| cached.is_current(now);
        if let Some(cached) = self.cached().get(&uid).filter(|cached| is_current(cached)) {
            return cached.name.clone();
        }
        // The lock is not held during the look-up, so a slow look-up does not delay other users.
        let name = (self.look_up)(uid)
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| uid.to_string());
        let mut cached = self.cached();
        if cached.len() >= NAMES_MAX {
            cached.retain(|_, cached| is_current(cached));
        }
        if cached.len() >= NAMES_MAX {
            cached.clear();
        }
        let entry = Cached {
            name: name.clone(),
            since: now,
        };
        cached.insert(uid, entry);
        name
    }

    fn cached(&self) -> MutexGuard<'_, HashMap<u32, Cached>> {
        // Even if another thread panicked, the map is complete.
        self.cached.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for OwnerNames {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("OwnerNames")
            .field("cached", &self.cached().len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn second(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap_or(Timestamp::MAX)
    }

    /// Names that count the look-ups: `user<uid>-<count>`, and none for users from 1,000.
    fn counting() -> (OwnerNames, Arc<AtomicUsize>) {
        let count = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&count);
        let names = OwnerNames::new(move |uid| {
            let count = counted.fetch_add(1, Ordering::Relaxed) + 1;
            (uid < 1_000).then(|| format!("user{uid}-{count}"))
        });
        (names, count)
    }

    #[test]
    fn a_name_is_cached_until_it_expires() {
        let (names, _) = counting();
        assert_eq!(names.name(7, second(100)), "user7-1");
        assert_eq!(names.name(7, second(159)), "user7-1");
        assert_eq!(names.name(7, second(160)), "user7-2");
        assert_eq!(names.name(8, second(160)), "user8-3");
        // The clock is set back.
        assert_eq!(names.name(7, second(10)), "user7-4");
        assert_eq!(names.name(7, second(11)), "user7-4");
        assert_eq!(names.name(7, Timestamp::MAX), "user7-5");
        assert_eq!(names.name(7, Timestamp::MIN), "user7-6");
    }

    #[test]
    fn a_user_without_a_name_is_a_number() {
        let (names, count) = counting();
        assert_eq!(names.name(4_294_967_294, second(0)), "4294967294");
        assert_eq!(names.name(4_294_967_294, second(1)), "4294967294");
        assert_eq!(count.load(Ordering::Relaxed), 1);
        assert_eq!(
            OwnerNames::new(|_| Some(String::new())).name(5, second(0)),
            "5"
        );
    }

    #[test]
    fn the_cache_is_bounded() {
        let (names, _) = counting();
        for uid in 0..5_000 {
            names.name(uid, second(i64::from(uid) / 10));
            assert!(names.cached().len() <= NAMES_MAX);
        }
    }

    #[test]
    fn the_system_has_a_name_for_root() {
        assert_eq!(OwnerNames::system().name(0, second(0)), "root");
    }
}
