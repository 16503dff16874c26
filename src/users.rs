//! The names of file owners, from the system's user database.
//!
//! Constraint: a look-up may use the network (LDAP and the like), so names are cached. They expire,
//! because the daemon runs for years and users are renamed. The cache is bounded, because a writer of
//! files with many owners could fill it.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;

/// The time after which a cached name expires.
pub const AGE_MAX: Duration = Duration::from_secs(60);

/// The most names in the cache.
pub const NAMES_MAX: usize = 1024;

/// Looks up one user.
type LookUp = dyn Fn(u32) -> Option<String> + Send + Sync;

/// The names of owners, for all threads.
pub struct OwnerNames {
    look_up: Box<LookUp>,
    known: Mutex<HashMap<u32, Known>>,
}

struct Known {
    name: String,
    since: Timestamp,
}

impl Known {
    /// Whether the name is still current.
    ///
    /// A clock that was set back expires it at once, instead of keeping it too long.
    fn is_current(&self, now: Timestamp) -> bool {
        Duration::try_from(now.duration_since(self.since)).is_ok_and(|age| age < AGE_MAX)
    }
}

impl OwnerNames {
    /// The names of the system's user database.
    pub fn system() -> Self {
        Self::new(|uid| {
            uzers::get_user_by_uid(uid).map(|user| user.name().to_string_lossy().into_owned())
        })
    }

    /// The names that `look_up` has for user numbers.
    pub fn new(look_up: impl Fn(u32) -> Option<String> + Send + Sync + 'static) -> Self {
        Self {
            look_up: Box::new(look_up),
            known: Mutex::default(),
        }
    }

    /// The name of the user with this number, or the number itself without a name.
    ///
    /// It may block for a query of the user database, usually once per user and [`AGE_MAX`].
    pub fn name(&self, uid: u32, now: Timestamp) -> String {
        if let Some(known) = self.known().get(&uid).filter(|known| known.is_current(now)) {
            return known.name.clone();
        }
        // No lock during the look-up: a slow answer delays only its own caller.
        let name = (self.look_up)(uid)
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| uid.to_string());
        let mut known = self.known();
        if known.len() >= NAMES_MAX {
            known.retain(|_, known| known.is_current(now));
        }
        if known.len() >= NAMES_MAX {
            known.clear();
        }
        let entry = Known {
            name: name.clone(),
            since: now,
        };
        known.insert(uid, entry);
        name
    }

    fn known(&self) -> MutexGuard<'_, HashMap<u32, Known>> {
        // The map is consistent between calls, so a panic elsewhere leaves it usable.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for OwnerNames {
    fn default() -> Self {
        Self::system()
    }
}

impl fmt::Debug for OwnerNames {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("OwnerNames")
            .field("known", &self.known().len())
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

    /// Names that contain the number of their look-ups: `user<uid>-<count>`, none from 1,000 on.
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
    fn a_name_is_kept_for_a_while_and_then_looked_up_again() {
        let (names, _) = counting();
        assert_eq!(names.name(7, second(100)), "user7-1");
        assert_eq!(names.name(7, second(159)), "user7-1");
        assert_eq!(names.name(7, second(160)), "user7-2");
        assert_eq!(names.name(8, second(160)), "user8-3");
        // Somebody sets the clock back.
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
    fn what_is_kept_is_bounded() {
        let (names, _) = counting();
        for uid in 0..5_000 {
            names.name(uid, second(i64::from(uid) / 10));
            assert!(names.known().len() <= NAMES_MAX);
        }
    }

    #[test]
    fn the_system_knows_its_first_user() {
        assert_eq!(OwnerNames::system().name(0, second(0)), "root");
    }
}
