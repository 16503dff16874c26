//! What the thread that reads inotify is told.
//!
//! Constraint: an order can always be given, and nobody waits for room: the newest one counts.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::{io, mem};

use rustix::event::{EventfdFlags, eventfd};

use super::WatchSettings;
use crate::domain::rescan::RescanReason;

/// The handle's side: what the thread is told.
#[derive(Debug)]
pub(super) struct Control(pub(super) Arc<Orders>);

#[derive(Debug)]
pub(super) struct Orders {
    waiting: Mutex<Waiting>,
    /// Whether anything waits, so that a walk ends early.
    any: AtomicBool,
    /// Wakes the thread.
    pub(super) bell: OwnedFd,
}

/// What waits.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    pub(super) arm: Option<(WatchSettings, RescanReason)>,
    pub(super) stop: bool,
}

impl Control {
    pub(super) fn arm(&self, settings: WatchSettings, reason: RescanReason) {
        self.0
            .give(|waiting| waiting.arm = Some((settings, reason)));
    }

    pub(super) fn stop(&self) {
        self.0.give(|waiting| waiting.stop = true);
    }
}

impl Orders {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            waiting: Mutex::default(),
            any: AtomicBool::new(false),
            bell: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        })
    }

    /// Whether any order waits.
    pub(super) fn any(&self) -> bool {
        self.any.load(Ordering::Acquire)
    }

    fn give(&self, order: impl FnOnce(&mut Waiting)) {
        order(&mut self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        self.any.store(true, Ordering::Release);
        // It can only be full, and then the thread wakes as well.
        let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
    }

    pub(super) fn take(&self) -> Waiting {
        if !self.any.swap(false, Ordering::AcqRel) {
            return Waiting::default();
        }
        let _ = rustix::io::read(&self.bell, &mut [0_u8; 8]);
        mem::take(&mut self.waiting.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
