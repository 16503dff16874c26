//! The size of the state: its limit, and when to warn.
//!
//! Constraint: a receiver that is down must not fill the disk, because then no webhook would get
//! new events. Above the limit, old rows are removed even before their retention ends. If files of
//! other programs fill the disk, no rows are removed.

/// If the write-ahead log has this many bytes or more, a reader probably prevents its reuse.
///
/// Without readers, the log is truncated to 16 MiB. A large commit may need some more.
pub const LOG_HELD: u64 = 256 << 20;

/// The lowest limit in bytes, unless one is configured or the file system is small.
///
/// A smaller state can fill only a small disk. If a larger disk is full, other files are the cause.
pub const LIMIT_MIN: u64 = 256 << 20;

/// The space that is kept free on a large file system, in bytes.
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
    /// The size of the database without pages that are free for reuse.
    pub used: u64,
    /// The size of the write-ahead log.
    pub log: u64,
    /// The limit of `used`. Absent if it is not known or not measured yet, or if the state is in
    /// PostgreSQL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    pub limit: Option<u64>,
}

/// How full the state is, compared with its limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fill {
    /// Less than 80 % of the limit, or there is no limit.
    #[default]
    Low,
    /// 80 % of the limit or more.
    High,
    /// More than the limit.
    Over,
}

impl StateSize {
    /// Compares the used size with the limit.
    pub fn fill(&self) -> Fill {
        let Some(limit) = self.limit else {
            return Fill::Low;
        };
        if self.used > limit {
            Fill::Over
        } else if self.used >= limit.saturating_sub(limit / 5) {
            Fill::High
        } else {
            Fill::Low
        }
    }

    /// The number of bytes to remove to bring the state down to 95 % of its limit.
    pub fn excess(&self) -> u64 {
        let kept = self.limit.map(|limit| limit.saturating_sub(limit / 20));
        kept.map_or(0, |kept| self.used.saturating_sub(kept))
    }

    /// Whether a reader probably prevents the log from being reused.
    pub fn is_log_held(&self) -> bool {
        self.log >= LOG_HELD
    }
}

/// Returns the space to keep free for removing rows.
///
/// It is 16 MiB, because the log may grow by that much before it is copied into the database. On a
/// small file system it is an eighth of the file system.
pub const fn reserve(total: u64) -> u64 {
    let eighth = total / 8;
    if eighth < RESERVE { eighth } else { RESERVE }
}

/// Returns the configured limit, or nine tenths of the space available to the state.
///
/// `space` is the largest space available since the start. So if files of other programs fill the
/// disk later, the limit stays and no rows are removed for them. `total` is the size of the file
/// system. The limit always leaves room for the reserve and for the log. Without a configured
/// limit, it is at least [`LIMIT_MIN`] if there is room.
pub fn limit(configured: Option<u64>, space: u64, total: u64) -> u64 {
    let most = total.saturating_sub(reserve(total).saturating_mul(2));
    let automatic = space.saturating_sub(space / 10).max(LIMIT_MIN);
    configured.unwrap_or(automatic).min(most)
}

/// Returns the space for which [`limit`] allows a state of this size.
///
/// The first limit after a start allows the present size and nine tenths of the available space.
/// Otherwise rows would be removed only because files of other programs filled the disk before.
pub const fn space_of(used: u64) -> u64 {
    used.saturating_add(used.div_ceil(9))
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
                limit: Some(100),
            };
            assert_eq!((size.fill(), size.excess()), (fill, excess), "{used}");
            let size = StateSize {
                limit: None,
                ..size
            };
            assert_eq!((size.fill(), size.excess()), (Fill::Low, 0), "{used}");
        }
    }

    #[test]
    fn a_state_that_filled_its_disk_before_the_start_is_not_over_its_limit() {
        for used in [0, 1, 8, 9, 10, 11, 89, 90, 300 * MIB, 2_048 * MIB + 7] {
            let limit = limit(None, space_of(used), 20_000 * MIB);
            assert!(used <= limit, "{used} {limit}");
            assert!(limit <= LIMIT_MIN.max(used + 1), "{used} {limit}");
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
