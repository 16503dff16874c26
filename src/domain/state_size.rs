//! The size of the state: its limit, and when to warn.
//!
//! Constraint: a receiver that is down must not fill the disk, because then the events of all other
//! webhooks would wait for it. At the limit, old rows are removed before their retention. Files of
//! other programs must not cost any rows.

/// The size of the write-ahead log from which it counts as held by a reader.
///
/// Without readers the log is truncated to 16 MiB. A large commit may need some more.
pub const LOG_HELD: u64 = 256 << 20;

/// The lowest limit that applies without a setting.
///
/// A smaller state does not fill a disk by itself, unless the whole disk is small. So other files
/// have to go.
pub const LIMIT_MIN: u64 = 256 << 20;

/// The reserve on a large file system.
const RESERVE: u64 = 16 << 20;

/// The size of the state, in bytes.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    serde::Serialize,
    serde::Deserialize,
    utoipa::ToSchema,
)]
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

    /// The bytes to remove once the state was over its limit: down to 95 %.
    pub fn excess(&self) -> u64 {
        let kept = self.limit.saturating_sub(self.limit / 20);
        self.used.saturating_sub(kept)
    }

    /// Whether a reader keeps the log from being reused.
    pub fn is_log_held(&self) -> bool {
        self.log >= LOG_HELD
    }
}

/// The space in reserve for removing rows, by the size of the file system.
///
/// 16 MiB, because that is how much the log may grow before it is copied into the database. On a
/// small file system it is an eighth.
pub const fn reserve(total: u64) -> u64 {
    let eighth = total / 8;
    if eighth < RESERVE { eighth } else { RESERVE }
}

/// The limit of the state: the configured one, or nine tenths of the space that it could take.
///
/// `space` is the most that the state could take since the start. So files of other programs that
/// fill the disk later do not lower the limit, and no rows are removed for them. `total` is the size
/// of the file system. The limit leaves room there for the reserve and for the log.
pub fn limit(configured: Option<u64>, space: u64, total: u64) -> u64 {
    let most = total.saturating_sub(reserve(total).saturating_mul(2));
    let automatic = space.saturating_sub(space / 10).max(LIMIT_MIN);
    configured.unwrap_or(automatic).min(most)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_state_warns_at_four_fifths_and_makes_room_above_its_limit() {
        for (used, fill, excess) in [
            (0, Fill::Low, 0),
            (79, Fill::Low, 0),
            (80, Fill::High, 0),
            (95, Fill::High, 0),
            (100, Fill::High, 5),
            (101, Fill::Over, 6),
        ] {
            let size = StateSize {
                used,
                log: 0,
                limit: 100,
            };
            assert_eq!((size.fill(), size.excess()), (fill, excess), "{used}");
        }
    }

    #[test]
    fn the_limit_leaves_space_for_the_reserve_the_log_and_other_files() {
        for (configured, space, total, expected) in [
            (Some(64 * MIB), 100 * MIB, 1_000 * MIB, 64 * MIB),
            (None, 10_000 * MIB, 20_000 * MIB, 9_000 * MIB),
            (None, 1_000 * MIB, 20_000 * MIB, 900 * MIB),
            // Other files fill the disk.
            (None, 20 * MIB, 20_000 * MIB, LIMIT_MIN),
            // The whole file system is smaller than the setting.
            (Some(1_000 * MIB), 100 * MIB, 160 * MIB, 128 * MIB),
            (None, 40 * MIB, 40 * MIB, 30 * MIB),
        ] {
            assert_eq!(limit(configured, space, total), expected);
        }
    }
}
