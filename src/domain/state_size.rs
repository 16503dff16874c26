//! The size of the state: its limit, and when to warn.
//!
//! Constraint: a receiver that is down must not fill the disk, because then the events of all other
//! webhooks would wait for it. At the limit, old rows are removed before their retention.

/// The size of the write-ahead log from which it counts as held by a reader.
///
/// Without readers the log is truncated to 16 MiB. A large commit may need some more.
pub const LOG_HELD: u64 = 256 << 20;

/// The lowest limit that applies without a setting.
///
/// A smaller state does not fill a disk by itself, so other files have to go.
pub const LIMIT_MIN: u64 = 256 << 20;

/// The size of the state, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StateSize {
    /// The used part of the database, without pages that are free for reuse.
    pub used: u64,
    /// The write-ahead log.
    pub log: u64,
    /// The limit of `used`.
    pub limit: u64,
}

/// How much of the limit the state takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fill {
    /// Less than 80 %.
    #[default]
    Low,
    /// 80 % or more.
    High,
    /// More than the limit.
    Over,
}

impl StateSize {
    /// How much of the limit the state takes.
    pub fn fill(&self) -> Fill {
        if self.used > self.limit {
            Fill::Over
        } else if self.used >= self.limit.saturating_sub(self.limit / 5) {
            Fill::High
        } else {
            Fill::Low
        }
    }

    /// Whether rows must still be removed, once the state was over its limit: down to 95 %.
    pub fn needs_room(&self) -> bool {
        self.used > self.limit.saturating_sub(self.limit / 20)
    }

    /// Whether a reader keeps the log from being reused.
    pub fn is_log_held(&self) -> bool {
        self.log >= LOG_HELD
    }
}

/// The limit of the state: the configured one, or nine tenths of the space that it could take.
///
/// `used` is the size of the state, and `available` the free space of its file system.
pub fn limit(configured: Option<u64>, used: u64, available: u64) -> u64 {
    let space = used.saturating_add(available);
    configured.unwrap_or(space.saturating_sub(space / 10).max(LIMIT_MIN))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_state_warns_at_four_fifths_and_makes_room_above_its_limit() {
        for (used, fill, needs_room) in [
            (0, Fill::Low, false),
            (79, Fill::Low, false),
            (80, Fill::High, false),
            (95, Fill::High, false),
            (100, Fill::High, true),
            (101, Fill::Over, true),
        ] {
            let size = StateSize {
                used,
                log: 0,
                limit: 100,
            };
            assert_eq!(
                (size.fill(), size.needs_room()),
                (fill, needs_room),
                "{used}"
            );
        }
    }

    #[test]
    fn without_a_setting_the_limit_leaves_a_tenth_of_the_space() {
        for (configured, used, available, expected) in [
            (Some(64 * MIB), 100 * MIB, 0, 64 * MIB),
            (None, 1_000 * MIB, 9_000 * MIB, 9_000 * MIB),
            (None, 1_000 * MIB, 0, 900 * MIB),
            // Other files fill the disk.
            (None, 20 * MIB, 0, LIMIT_MIN),
        ] {
            assert_eq!(limit(configured, used, available), expected);
        }
    }
}
