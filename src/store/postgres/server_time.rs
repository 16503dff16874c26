//! Computes the time by the server's clock, without a request each time.
//!
//! Constraint: due times and waits must mean the same to all processes, even if the clocks of their
//! hosts differ. So senders use a time that the server returned, plus the time since then on a
//! monotonic clock. Each renewal of a sender's lease reads the server's time again.

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
/// The server reads its clock at an unknown point of the round trip. So the longer the round trip
/// takes, the less exact the time is.
const ROUND_TRIP_MAX: Duration = Duration::from_secs(1);

/// A time that the server returned, and the local moment of that reading.
pub(super) struct ServerTime(Mutex<(Timestamp, Instant)>);

impl ServerTime {
    /// Reads the time for the first time.
    pub(super) async fn read(session: &mut Session) -> Result<Self, Fault> {
        let asked = Instant::now();
        let rows = session.rows(Self::statement()).await?;
        Ok(Self(Mutex::new((time(&rows)?, middle(asked)))))
    }

    /// Reads the server's clock. [`set`](Self::set) takes the rows.
    pub(super) fn statement() -> Statement {
        statement!("SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint")
    }

    /// Replaces the stored time by the answer to [`statement`](Self::statement).
    ///
    /// The statement was sent at `asked`. If the round trip took too long, the stored time stays.
    pub(super) fn set(&self, rows: &[Row], asked: Instant) -> Result<(), Fault> {
        if asked.elapsed() <= ROUND_TRIP_MAX {
            *guard(&self.0) = (time(rows)?, middle(asked));
        }
        Ok(())
    }

    /// Returns the present time by the server's clock, in whole microseconds.
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
