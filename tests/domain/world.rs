//! A repository in memory, and user actions on it.
//!
//! Every save makes a new version, so that two files are equal only if one is a copy of the other.

use std::collections::BTreeMap;

use project_webhooks::domain::project::{
    ContentHash, Document, FileState, Observed, ObservedFile, Problem, ProjectKey, Role, Stamp,
};
use proptest::prelude::*;

/// The directories of projects: some in two organizations, and those of the crowd.
pub const PLACES: [(&str, &str); 16] = [
    ("finance", "crm"),
    ("sales", "crm"),
    ("sales", "erp"),
    ("sales", "hrm"),
    ("zoo", "p00"),
    ("zoo", "p01"),
    ("zoo", "p02"),
    ("zoo", "p03"),
    ("zoo", "p04"),
    ("zoo", "p05"),
    ("zoo", "p06"),
    ("zoo", "p07"),
    ("zoo", "p08"),
    ("zoo", "p09"),
    ("zoo", "p10"),
    ("zoo", "p11"),
];

/// The number of places before the crowd. [`Action`]s are for them.
pub const N_SINGLE: usize = 4;

/// One version of one project's definition, or a copy of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Content {
    pub engine: u32,
    pub version: u32,
}

/// A file of a project. The second copy of each role has its own tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Name {
    Definition,
    Published(bool),
    Snapshot(bool),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OnDisk {
    /// None while it is being written.
    pub content: Option<Content>,
    pub changed: i64,
}

#[allow(dead_code, reason = "each test makes some of them")]
#[derive(Clone, Copy, Debug)]
pub enum Action {
    Import(usize),
    ImportWhole(usize),
    Save(usize),
    Touch(usize),
    /// The first half of a save: in place, or by unlinking.
    BeginSave(usize, bool),
    FinishSave(usize),
    Publish(usize, bool),
    BeginPublish(usize, bool),
    Unpublish(usize, bool),
    Snapshot(usize, bool),
    BeginSnapshot(usize, bool),
    DropSnapshot(usize, bool),
    RestoreByCopy(usize, bool),
    RestoreByMove(usize, bool),
    Delete(usize),
    DeleteAndUnpublish(usize),
    /// Another project's definition replaces this one; the copies stay.
    Replace(usize),
    /// All files are removed, and another project is copied in.
    ReplaceWhole(usize),
    Move(usize, usize),
    Swap(usize, usize),
    /// Copies a project, as `cp -r` does.
    Copy(usize, usize),
    /// The directory is moved out of the repository, and another time back, with all its times.
    Leave(usize),
    Return(usize),
}

pub fn actions() -> impl Strategy<Value = Action> {
    use Action::*;
    let place = 0..N_SINGLE;
    let tagged = (0..N_SINGLE, any::<bool>());
    let two = (0..N_SINGLE, 0..N_SINGLE);
    prop_oneof![
        3 => place.clone().prop_map(Import),
        2 => place.clone().prop_map(ImportWhole),
        2 => place.clone().prop_map(Save),
        1 => place.clone().prop_map(Touch),
        2 => tagged.clone().prop_map(|(at, unlink)| BeginSave(at, unlink)),
        3 => place.clone().prop_map(FinishSave),
        3 => tagged.clone().prop_map(|(at, tag)| Publish(at, tag)),
        1 => tagged.clone().prop_map(|(at, tag)| BeginPublish(at, tag)),
        1 => tagged.clone().prop_map(|(at, tag)| Unpublish(at, tag)),
        3 => tagged.clone().prop_map(|(at, tag)| Snapshot(at, tag)),
        1 => tagged.clone().prop_map(|(at, tag)| BeginSnapshot(at, tag)),
        1 => tagged.clone().prop_map(|(at, tag)| DropSnapshot(at, tag)),
        2 => tagged.clone().prop_map(|(at, tag)| RestoreByCopy(at, tag)),
        2 => tagged.clone().prop_map(|(at, tag)| RestoreByMove(at, tag)),
        1 => place.clone().prop_map(Delete),
        1 => place.clone().prop_map(DeleteAndUnpublish),
        1 => place.clone().prop_map(Replace),
        1 => place.clone().prop_map(ReplaceWhole),
        3 => two.clone().prop_map(|(from, to)| Move(from, to)),
        1 => two.clone().prop_map(|(one, other)| Swap(one, other)),
        2 => two.clone().prop_map(|(from, to)| Copy(from, to)),
    ]
}

#[derive(Clone, Debug, Default)]
pub struct World {
    /// The file system's clock.
    pub tick: i64,
    pub files: BTreeMap<(usize, Name), OnDisk>,
    /// The projects whose definition is being saved, by place.
    pub editing: BTreeMap<usize, u32>,
    /// A project that was moved out of the repository.
    outside: BTreeMap<Name, OnDisk>,
    made: u32,
}

impl World {
    fn fresh(&mut self) -> u32 {
        self.made += 1;
        self.made
    }

    pub fn content(&self, at: usize, name: Name) -> Option<Content> {
        self.files.get(&(at, name))?.content
    }

    pub fn names(&self, at: usize) -> Vec<Name> {
        let here = self.files.keys().filter(|(place, _)| *place == at);
        here.map(|(_, name)| *name).collect()
    }

    /// Whether another place of the organization has the project of this one too.
    pub fn is_shared(&self, at: usize) -> bool {
        let engine = |at| {
            self.content(at, Name::Definition)
                .map(|content| content.engine)
        };
        let mut others = (0..PLACES.len()).filter(|other| *other != at);
        engine(at).is_some()
            && others.any(|other| PLACES[other].0 == PLACES[at].0 && engine(other) == engine(at))
    }

    pub fn is_published(&self, at: usize) -> bool {
        let mut names = self.names(at).into_iter();
        names.any(|name| matches!(name, Name::Published(_)))
    }

    fn write(&mut self, at: usize, name: Name, content: Option<Content>) {
        let changed = self.tick;
        self.files.insert((at, name), OnDisk { content, changed });
    }

    fn remove_where(&mut self, at: usize, which: impl Fn(Name) -> bool) {
        self.files
            .retain(|(place, name), _| *place != at || !which(*name));
    }

    fn import(&mut self, at: usize, whole: bool) {
        let engine = self.fresh();
        let version = self.fresh();
        let content = Some(Content { engine, version });
        self.write(at, Name::Definition, content);
        if whole {
            self.write(at, Name::Published(false), content);
            self.write(at, Name::Snapshot(false), content);
        }
    }

    /// Performs an action if it is possible. Returns the places that changed.
    pub fn act(&mut self, action: Action) -> Vec<usize> {
        use Action::*;
        let definition = |world: &World, at| world.content(at, Name::Definition);
        match action {
            Import(at) | ImportWhole(at) => {
                if !self.names(at).is_empty() || self.editing.contains_key(&at) {
                    return vec![];
                }
                self.import(at, matches!(action, ImportWhole(_)));
            }
            Save(at) | BeginSave(at, _) | Touch(at) => {
                let Some(before) = definition(self, at) else {
                    return vec![];
                };
                match action {
                    Touch(_) => self.write(at, Name::Definition, Some(before)),
                    BeginSave(_, unlink) => {
                        self.editing.insert(at, before.engine);
                        self.write(at, Name::Definition, None);
                        if unlink {
                            self.files.remove(&(at, Name::Definition));
                        }
                    }
                    _ => {
                        let version = self.fresh();
                        self.write(at, Name::Definition, Some(Content { version, ..before }));
                    }
                }
            }
            FinishSave(at) => {
                let Some(engine) = self.editing.remove(&at) else {
                    return vec![];
                };
                let version = self.fresh();
                self.write(at, Name::Definition, Some(Content { engine, version }));
            }
            Publish(at, tag) | BeginPublish(at, tag) => {
                let Some(content) = definition(self, at) else {
                    return vec![];
                };
                let complete = matches!(action, Publish(..)).then_some(content);
                self.write(at, Name::Published(tag), complete);
            }
            Snapshot(at, tag) | BeginSnapshot(at, tag) => {
                let Some(content) = definition(self, at) else {
                    return vec![];
                };
                let complete = matches!(action, Snapshot(..)).then_some(content);
                self.write(at, Name::Snapshot(tag), complete);
            }
            Unpublish(at, tag) => {
                self.files.remove(&(at, Name::Published(tag)));
            }
            DropSnapshot(at, tag) => {
                self.files.remove(&(at, Name::Snapshot(tag)));
            }
            RestoreByCopy(at, tag) | RestoreByMove(at, tag) => {
                let snapshot = self.content(at, Name::Snapshot(tag));
                if definition(self, at).is_none() || snapshot.is_none() {
                    return vec![];
                }
                self.write(at, Name::Definition, snapshot);
                if matches!(action, RestoreByMove(..)) {
                    self.files.remove(&(at, Name::Snapshot(tag)));
                }
            }
            Delete(at) => {
                self.editing.remove(&at);
                self.remove_where(at, |name| !matches!(name, Name::Published(_)));
            }
            DeleteAndUnpublish(at) => {
                self.editing.remove(&at);
                self.remove_where(at, |_| true);
            }
            Replace(at) | ReplaceWhole(at) => {
                if definition(self, at).is_none() {
                    return vec![];
                }
                let whole = matches!(action, ReplaceWhole(_));
                self.remove_where(at, |_| whole);
                self.import(at, whole);
            }
            Move(from, to) => {
                if definition(self, from).is_none() || !self.names(to).is_empty() {
                    return vec![];
                }
                if self.editing.contains_key(&to) {
                    return vec![];
                }
                self.rename(&[(from, to)]);
                return vec![from, to];
            }
            Copy(from, to) => {
                let is_free = self.names(to).is_empty() && !self.editing.contains_key(&to);
                if definition(self, from).is_none() || !is_free {
                    return vec![];
                }
                for name in self.names(from) {
                    let content = self.content(from, name);
                    self.write(to, name, content);
                }
                return vec![to];
            }
            Leave(at) => {
                let is_whole = self.editing.contains_key(&at) || definition(self, at).is_none();
                if is_whole || !self.outside.is_empty() {
                    return vec![];
                }
                for name in self.names(at) {
                    let file = self.files.remove(&(at, name)).unwrap();
                    self.outside.insert(name, file);
                }
            }
            Return(at) => {
                if !self.names(at).is_empty() || self.editing.contains_key(&at) {
                    return vec![];
                }
                for (name, file) in std::mem::take(&mut self.outside) {
                    self.files.insert((at, name), file);
                }
            }
            Swap(one, other) => {
                let contents = (definition(self, one), definition(self, other));
                let (Some(here), Some(there)) = contents else {
                    return vec![];
                };
                // Of two copies that exchange their places, the files change and not the projects.
                if here.engine == there.engine {
                    return vec![];
                }
                self.rename(&[(one, other), (other, one)]);
                return vec![one, other];
            }
        }
        match action {
            Import(at)
            | ImportWhole(at)
            | Leave(at)
            | Return(at)
            | Save(at)
            | Touch(at)
            | BeginSave(at, _)
            | FinishSave(at)
            | Publish(at, _)
            | BeginPublish(at, _)
            | Unpublish(at, _)
            | Snapshot(at, _)
            | BeginSnapshot(at, _)
            | DropSnapshot(at, _)
            | RestoreByCopy(at, _)
            | RestoreByMove(at, _)
            | Delete(at)
            | DeleteAndUnpublish(at)
            | Replace(at)
            | ReplaceWhole(at) => vec![at],
            Move(..) | Swap(..) | Copy(..) => vec![],
        }
    }

    /// Renames project directories all at once; their files keep their times.
    fn rename(&mut self, ways: &[(usize, usize)]) {
        let files = std::mem::take(&mut self.files);
        for ((at, name), file) in files {
            let way = ways.iter().find(|(from, _)| *from == at);
            let at = way.map_or(at, |(_, to)| *to);
            self.files.insert((at, name), file);
        }
    }

    /// Completes all half-written files.
    pub fn finish(&mut self) {
        for at in 0..N_SINGLE {
            self.act(Action::FinishSave(at));
        }
        self.files.retain(|_, file| file.content.is_some());
    }

    /// Observes a place.
    pub fn observe(&self, at: usize) -> Observed {
        let mut observed = Observed::default();
        for ((place, name), file) in &self.files {
            if *place != at {
                continue;
            }
            let path = path(at, *name);
            let sighting = match file.content {
                Some(content) => ObservedFile::Complete(state(at, *name, content, file.changed)),
                None => ObservedFile::Invalid {
                    role: role(*name),
                    problem: Problem {
                        path: path.clone(),
                        reason: "half written".to_owned(),
                        line: None,
                        column: None,
                        may_resolve: true,
                    },
                },
            };
            observed.files.insert(path, sighting);
        }
        observed
    }
}

pub fn key(at: usize) -> ProjectKey {
    ProjectKey::new(PLACES[at].0, PLACES[at].1)
}

pub fn place(key: &ProjectKey) -> usize {
    let is_it = |at: &usize| key == &self::key(*at);
    (0..PLACES.len()).find(is_it).expect("a place")
}

pub fn role(name: Name) -> Role {
    match name {
        Name::Definition => Role::Definition,
        Name::Published(_) => Role::Published,
        Name::Snapshot(_) => Role::Snapshot,
    }
}

pub fn path(at: usize, name: Name) -> String {
    let below = match name {
        Name::Definition => "project.xml",
        Name::Published(false) => "published/project.xml",
        Name::Published(true) => "published/v1/project.xml",
        Name::Snapshot(false) => "snapshots/s0.xml",
        Name::Snapshot(true) => "snapshots/s1.xml",
    };
    format!("{}/{below}", key(at))
}

fn state(at: usize, name: Name, content: Content, changed: i64) -> FileState {
    let tag = match name {
        Name::Definition | Name::Published(false) => None,
        Name::Published(true) => Some("v1"),
        Name::Snapshot(false) => Some("s0"),
        Name::Snapshot(true) => Some("s1"),
    };
    let engine = ("engineId".to_owned(), content.engine.to_string());
    FileState {
        path: path(at, name),
        role: role(name),
        tag: tag.map(str::to_owned),
        stamp: Stamp {
            inode: 1,
            size: 1,
            modified_ns: changed,
            changed_ns: changed,
        },
        read_ns: changed,
        hash: hash(content),
        document: Document {
            annotations: [engine].into_iter().collect(),
            ..Document::default()
        },
        owner: "ann".to_owned(),
    }
}

pub fn hash(content: Content) -> ContentHash {
    ContentHash::of(&[content.engine.to_le_bytes(), content.version.to_le_bytes()].concat())
}
