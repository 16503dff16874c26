//! SIGINT and SIGTERM end a run by an error, so that it kills its programs and removes its trees.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};

static WANTED: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// Starts to notice signals.
pub fn listen() -> anyhow::Result<()> {
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&WANTED))?;
    }
    Ok(())
}

/// Fails after a signal. Everything that takes long calls it.
pub fn check() -> anyhow::Result<()> {
    anyhow::ensure!(!WANTED.load(Ordering::Relaxed), "interrupted");
    Ok(())
}
