//! The projects that vanish and come back together.

use std::collections::BTreeMap;

use crate::world::{Action, N_SINGLE, Name, OnDisk, PLACES, World};

#[derive(Default)]
pub struct Crowd {
    /// The files of the crowd while it is gone.
    gone: BTreeMap<(usize, Name), OnDisk>,
}

impl Crowd {
    /// Imports a project into each empty place of the crowd. Returns the places that changed.
    pub fn gather(&mut self, world: &mut World) -> Vec<usize> {
        self.gone.clear();
        let crowd = N_SINGLE..PLACES.len();
        crowd.flat_map(|at| world.act(Action::Import(at))).collect()
    }

    /// Takes the whole crowd away. Returns the places that changed.
    pub fn scatter(&mut self, world: &mut World) -> Vec<usize> {
        self.gone = world.files.split_off(&(N_SINGLE, Name::Definition));
        self.gone.keys().map(|(at, _)| *at).collect()
    }

    /// Brings the crowd back with all its times. Returns the places that changed.
    pub fn come_back(&mut self, world: &mut World) -> Vec<usize> {
        let back = std::mem::take(&mut self.gone);
        let changed = back.keys().map(|(at, _)| *at).collect();
        world.files.extend(back);
        changed
    }
}
