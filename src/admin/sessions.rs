//! Keeps the sessions of browsers.
//!
//! Constraint: an ended session is invalid immediately, even if somebody kept its cookie. So the
//! daemon keeps the sessions in memory. They end with the daemon. A reload ends them only if it
//! changes the token, because each session belongs to one token. A cookie has random digits, and
//! only the hash of the digits is kept.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sha2::{Digest, Sha256};

/// How long a session lasts.
pub(super) const LENGTH: Duration = Duration::from_secs(12 * 60 * 60);

/// The maximum number of sessions. At the limit, a new session ends the oldest one.
const SESSIONS_MAX: usize = 1_000;

/// A SHA-256 hash of a token or of the digits of a session.
pub(super) type Hash = [u8; 32];

/// Hashes a token or the digits of a session.
///
/// All hashes have the same length, and their first bytes reveal nothing about the secret. So the
/// time of a comparison does not help to guess the secret.
pub(super) fn hash(secret: &[u8]) -> Hash {
    Sha256::digest(secret).into()
}

/// The id of a session that was valid when a request used it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SessionId(Hash);

/// The sessions of browsers. Expired sessions are removed when a new one begins.
#[derive(Default)]
pub(crate) struct Sessions(Mutex<HashMap<Hash, Session>>);

struct Session {
    /// The monotonic time at which the session ends.
    end: Duration,
    /// The hash of the token that the session belongs to.
    token: Hash,
}

impl Sessions {
    fn lock(&self) -> MutexGuard<'_, HashMap<Hash, Session>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a session.
    ///
    /// Returns the digits of the session, or `None` if no random numbers are available.
    pub(super) fn begin(&self, token: Hash, moment: Duration) -> Option<String> {
        let mut random = [0; 32];
        let provider = rustls::crypto::ring::default_provider();
        provider.secure_random.fill(&mut random).ok()?;
        let digits: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut sessions = self.lock();
        sessions.retain(|_, session| moment < session.end);
        while sessions.len() >= SESSIONS_MAX {
            let oldest = sessions.iter().min_by_key(|(_, session)| session.end);
            let Some(oldest) = oldest.map(|(id, _)| *id) else {
                break;
            };
            sessions.remove(&oldest);
        }
        let end = moment.saturating_add(LENGTH);
        sessions.insert(hash(digits.as_bytes()), Session { end, token });
        Some(digits)
    }

    /// Finds the session with these digits, if it is valid for this token.
    pub(super) fn find(&self, digits: &str, token: Hash, moment: Duration) -> Option<SessionId> {
        let id = SessionId(hash(digits.as_bytes()));
        self.is_valid(id, token, moment).then_some(id)
    }

    /// Whether the session belongs to this token and has not ended.
    pub(super) fn is_valid(&self, id: SessionId, token: Hash, moment: Duration) -> bool {
        let sessions = self.lock();
        let session = sessions.get(&id.0);
        session.is_some_and(|session| session.token == token && moment < session.end)
    }

    /// Ends the session with these digits.
    pub(super) fn end(&self, digits: &str) {
        self.lock().remove(&hash(digits.as_bytes()));
    }

    /// Ends the sessions of all other tokens. `None` ends all sessions.
    ///
    /// These sessions stay ended even if their token is configured again.
    pub(super) fn end_others(&self, token: Option<Hash>) {
        self.lock()
            .retain(|_, session| Some(session.token) == token);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_ends_with_its_time_its_token_and_its_logout() {
        let sessions = Sessions::default();
        let (one, other) = (hash(b"one"), hash(b"other"));
        let begin = Duration::from_secs(7);
        let digits = sessions.begin(one, begin).unwrap();
        let is_valid = |token, moment| sessions.find(&digits, token, moment).is_some();
        assert!(is_valid(one, begin));
        assert!(is_valid(one, begin + LENGTH - Duration::from_secs(1)));
        assert!(!is_valid(one, begin + LENGTH));
        assert!(!is_valid(other, begin));
        for forged in ["", "0", &digits[1..], &digits.to_uppercase()] {
            assert!(sessions.find(forged, one, begin).is_none(), "{forged}");
        }
        let second = sessions.begin(one, begin).unwrap();
        assert_ne!(digits, second);
        sessions.end(&second);
        assert!(sessions.find(&second, one, begin).is_none());
        assert!(is_valid(one, begin));
        sessions.end_others(Some(other));
        assert!(!is_valid(one, begin));
    }

    #[test]
    fn the_oldest_sessions_end_when_there_are_too_many() {
        let sessions = Sessions::default();
        let token = hash(b"one");
        let at = |n: usize| Duration::from_millis(n as u64);
        let begin = |n| sessions.begin(token, at(n)).unwrap();
        let all: Vec<String> = (0..SESSIONS_MAX + 2).map(begin).collect();
        let now = at(SESSIONS_MAX + 2);
        let is_valid = |digits: &String| sessions.find(digits, token, now).is_some();
        assert!(!is_valid(&all[0]) && !is_valid(&all[1]));
        assert!(all[2..].iter().all(is_valid));
    }
}
