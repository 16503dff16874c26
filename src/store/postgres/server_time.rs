//! The time by the clock of the server, without asking it each time.
//!
//! Constraint: due times and waits mean the same to all processes, whatever the clocks of their
//! hosts say. So senders use the server's time as last read, plus the monotonic time that has
//! passed since. Each renewal of the lease reads it again.

use std::sync::Mutex;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;
use tokio_postgres::Row;

use super::session::{Session, Statement, statement};
use super::{guard, row};
use crate::store::error::Fault;

/// The longest round trip whose answer replaces the stored time.
///
/// The server reads its clock at an unknown point of the round trip.
const ROUND_TRIP_MAX: Duration = Duration::from_secs(1);

/// The server's time as last read.
pub(super) struct ServerTime(Mutex<(Timestamp, Instant)>);

impl ServerTime {
    /// Reads the time for the first time.
    pub(super) async fn read(session: &mut Session) -> Result<Self, Fault> {
        let asked = Instant::now();
        let rows = session.rows(Self::statement()).await?;
        Ok(Self(Mutex::new((time(&rows)?, middle(asked)))))
    }

    /// The statement whose rows [`set`](Self::set) takes.
    pub(super) fn statement() -> Statement {
        statement!("SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint")
    }

    /// Replaces the time by the rows of [`statement`](Self::statement), which was sent at `asked`.
    pub(super) fn set(&self, rows: &[Row], asked: Instant) -> Result<(), Fault> {
        if asked.elapsed() <= ROUND_TRIP_MAX {
            *guard(&self.0) = (time(rows)?, middle(asked));
        }
        Ok(())
    }

    /// Returns the present time in whole microseconds, as listings show it.
    pub(super) fn now(&self) -> Timestamp {
        let (time, read) = *guard(&self.0);
        let now = time.saturating_add(read.elapsed()).unwrap_or(time);
        Timestamp::from_microsecond(now.as_microsecond()).unwrap_or(now)
    }
}

fn time(rows: &[Row]) -> Result<Timestamp, Fault> {
    super::client::number(rows).map(row::from_milliseconds)
}

/// The middle of a round trip that began at `asked` and ends now.
fn middle(asked: Instant) -> Instant {
    let half = asked.elapsed() / 2;
    asked.checked_add(half).unwrap_or(asked)
}
