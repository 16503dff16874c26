//! SIGINT and SIGTERM end a run by an error, so that programs are ended and trees removed as ever.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};

static WANTED: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// From now on a signal is noticed by [`check`].
pub fn listen() -> anyhow::Result<()> {
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&WANTED))?;
    }
    Ok(())
}

/// An error once a signal came; everything that takes long asks.
pub fn check() -> anyhow::Result<()> {
    anyhow::ensure!(!WANTED.load(Ordering::Relaxed), "interrupted");
    Ok(())
}
