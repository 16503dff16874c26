//! Random operations on projects with all kinds of ids, compared with a model of the contract.
//!
//! Constraint: the model knows operations and ids, and compares no files. A definition has an engineId,
//! a root attribute `id`, both, or none. Ids are copied, dropped for a save, and changed back. Each round
//! performs one operation in each of several worlds, which share a daemon and nothing else. In some rounds,
//! the daemon is down, or is killed right after the operations.
//! `PROJECT_WEBHOOKS_SEEDS=20 cargo test --test identity random` tries more worlds.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};
use std::{fs, io};

use fastrand::Rng;
use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::common::{Endpoint, Home, PATIENCE, Settings, xml};
use super::summary;

/// The directories of a world, in two organizations.
const PLACES: [(&str, &str); 5] = [("a", "p"), ("a", "q"), ("a", "P"), ("b", "p"), ("b", "q")];

/// The engineIds of definitions, and their root attributes `id`. Some differ in case only, and some are
/// an engineId and a root attribute.
const ENGINES: [&str; 4] = ["e-1", "E-1", "e-2", "e-3"];
const ROOTS: [&str; 4] = ["r-1", "R-1", "E-2", "e-3"];

/// Worlds of one daemon. Fewer than ten, because ten projects that vanish together are a wave.
const WORLDS: u64 = 8;

const ROUNDS: usize = 16;

/// The content of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Content {
    engine: Option<String>,
    root: Option<String>,
    version: usize,
}

impl Content {
    fn text(&self) -> String {
        let engine = self.engine.as_deref().unwrap_or_default();
        let text = xml("Orders", engine, &format!("version {}", self.version));
        match &self.root {
            Some(root) => {
                let root = format!("version=\"2.0\" id=\"{root}\"");
                text.replacen("version=\"2.0\"", &root, 1)
            }
            None => text,
        }
    }
}

/// A project in its directory.
#[derive(Clone, Debug)]
struct Project {
    definition: Content,
    published: Option<Content>,
    engine: Option<String>,
    root: Option<String>,
    /// Stands for the generated id.
    made_up: String,
}

impl Project {
    /// The `projectId` of its callbacks.
    fn id(&self) -> &str {
        let own = self.engine.as_ref().or(self.root.as_ref());
        own.unwrap_or(&self.made_up)
    }

    /// Whether a definition with other ids is another project's.
    fn is_replaced_by(&self, definition: &Content) -> bool {
        let differ = |one: &Option<String>, other: &Option<String>| match (one, other) {
            (Some(one), Some(other)) => !one.eq_ignore_ascii_case(other),
            _ => false,
        };
        match (&self.engine, &definition.engine) {
            (None, None) => differ(&self.root, &definition.root),
            (one, other) => differ(one, other),
        }
    }

    /// Saves a definition of the same project. It keeps the ids that the definition lacks.
    fn save(&mut self, definition: Content) {
        self.engine = definition.engine.clone().or(self.engine.take());
        self.root = definition.root.clone().or(self.root.take());
        self.definition = definition;
    }
}

type Event = (&'static str, String, String);

#[derive(Clone, Copy, Debug)]
enum Operation {
    Create(usize),
    Save(usize),
    Publish(usize),
    Remove(usize),
    Rename(usize, usize),
    /// Moved out of the repository, saved with the same id, and moved in.
    RenameAndSave(usize, usize),
    Copy(usize, usize),
    /// A copy whose files are hard links.
    Link(usize, usize),
    /// Two projects exchange their published copies.
    ExchangeCopies(usize, usize),
    /// Removed, and made again at once.
    Recreate(usize),
    Exchange(usize, usize),
    /// The second project is removed, and the first one moved to its place.
    MoveOver(usize, usize),
}

/// Directories, their projects, and the events that are expected of the next operation.
struct World {
    number: u64,
    rng: Rng,
    projects: BTreeMap<usize, Project>,
    n_made: usize,
    expected: Vec<Event>,
    /// The generated ids that callbacks had, by what stands for them.
    generated: BTreeMap<String, String>,
    done: String,
}

impl World {
    fn new(number: u64, seed: u64) -> Self {
        Self {
            number,
            rng: Rng::with_seed(seed),
            projects: BTreeMap::new(),
            n_made: 0,
            expected: Vec::new(),
            generated: BTreeMap::new(),
            done: format!("seed {seed}\n"),
        }
    }

    fn organization(&self, at: usize) -> String {
        format!("w{}{}", self.number, PLACES[at].0)
    }

    fn path(&self, at: usize, below: &str) -> String {
        format!("{}/{}/{below}", self.organization(at), PLACES[at].1)
    }

    fn expect(&mut self, kind: &'static str, at: usize, id: &str) {
        self.expected
            .push((kind, self.organization(at), id.to_owned()));
    }

    /// The ids of a definition: both, one or none.
    fn ids(&mut self) -> (Option<String>, Option<String>) {
        let mut one_of = |ids: [&str; 4]| {
            let id = ids[self.rng.usize(..4)].to_owned();
            (self.rng.u8(..5) < 3).then_some(id)
        };
        (one_of(ENGINES), one_of(ROOTS))
    }

    fn content(&mut self, engine: Option<String>, root: Option<String>) -> Content {
        self.n_made += 1;
        let version = self.n_made;
        Content {
            engine,
            root,
            version,
        }
    }

    /// A new project in a directory, with its callbacks.
    fn import(&mut self, at: usize, definition: Content, published: Option<Content>) {
        // The generated id is that of the directory, unless a project that left it keeps it.
        let mut made_up = format!("generated in place {at}");
        if self.projects.values().any(|one| one.id() == made_up) {
            self.n_made += 1;
            made_up = format!("generated {}", self.n_made);
        }
        let (engine, root) = (definition.engine.clone(), definition.root.clone());
        let project = Project {
            definition,
            published,
            engine,
            root,
            made_up,
        };
        let id = project.id().to_owned();
        self.expect("project-import", at, &id);
        self.expect("project-import-any", at, &id);
        if let Some(copy) = &project.published {
            // A copy with another id is another project's.
            let own = copy.engine.clone().or(copy.root.clone());
            let own = own.filter(|_| project.is_replaced_by(copy));
            self.expect("project-publish", at, &own.unwrap_or(id));
        }
        self.projects.insert(at, project);
    }

    /// The callbacks of a project that left its organization, unless another directory has it.
    fn delete(&mut self, at: usize, project: &Project, is_unpublished: bool) {
        let same = |other: &usize| PLACES[*other].0 == PLACES[at].0;
        let mut others = self.projects.iter().filter(|(other, _)| same(other));
        if others.any(|(_, other)| other.id().eq_ignore_ascii_case(project.id())) {
            return;
        }
        self.expect("project-delete", at, project.id());
        if project.published.is_some() && is_unpublished {
            self.expect("project-delete-and-unpublish", at, project.id());
        }
    }

    /// A definition in the place of a recorded one.
    fn saved(&mut self, at: usize, definition: Content, published: Option<Content>) {
        let mut project = self.projects.remove(&at).unwrap();
        if project.is_replaced_by(&definition) {
            self.delete(at, &project, published != project.published);
            let is_new = published != project.published;
            self.import(at, definition, published.clone().filter(|_| is_new));
            self.projects.get_mut(&at).unwrap().published = published;
        } else {
            project.save(definition);
            self.projects.insert(at, project);
        }
    }

    fn choose(&mut self) -> Option<Operation> {
        use Operation::*;
        let (one, other) = (
            self.rng.usize(..PLACES.len()),
            self.rng.usize(..PLACES.len()),
        );
        let has = |at: &usize| self.projects.contains_key(at);
        let operation = match self.rng.u8(..26) {
            0..4 => Create(one),
            4..10 => Save(one),
            10..12 => Publish(one),
            12..14 => Remove(one),
            14..16 => Rename(one, other),
            16 => RenameAndSave(one, other),
            17 => Copy(one, other),
            18 => Exchange(one, other),
            19..21 => Link(one, other),
            21..23 => ExchangeCopies(one, other),
            23..25 => Recreate(one),
            _ => MoveOver(one, other),
        };
        let is_possible = match operation {
            Create(at) => !has(&at),
            Save(at) | Publish(at) | Remove(at) | Recreate(at) => has(&at),
            Rename(from, to) | RenameAndSave(from, to) | Copy(from, to) | Link(from, to) => {
                has(&from) && !has(&to)
            }
            ExchangeCopies(one, other) => {
                let copy = |at: usize| self.projects.get(&at)?.published.as_ref();
                one != other && copy(one).is_some() && copy(other).is_some()
            }
            MoveOver(from, to) => {
                let is_whole = |at| {
                    let project = self.projects.get(&at);
                    project.is_some_and(|one| one.published.is_none())
                };
                from != to && is_whole(from) && is_whole(to)
            }
            // Of two copies that exchange their places, the files change and not the projects. So they do
            // if the ids in a file are those of the project in whose place it comes.
            Exchange(one, other) => {
                let two = (self.projects.get(&one), self.projects.get(&other));
                let comes_as = |here: &Project, there: &Project| {
                    let Content { engine, root, .. } = &here.definition;
                    let own = engine.as_ref().or(root.as_ref());
                    own.is_some_and(|id| id.eq_ignore_ascii_case(there.id()))
                };
                let differ = |(here, there): (&Project, &Project)| {
                    let is_copy = here.definition == there.definition;
                    let is_save = comes_as(here, there) || comes_as(there, here);
                    !is_copy && !is_save && !here.id().eq_ignore_ascii_case(there.id())
                };
                PLACES[one].0 == PLACES[other].0 && two.0.zip(two.1).is_some_and(differ)
            }
        };
        is_possible.then_some(operation)
    }

    /// Performs an operation on the files, and on the model.
    fn act(&mut self, home: &Home, operation: Operation) {
        let directory = |world: &Self, at| home.at(&world.path(at, ""));
        let definition = "project.xml";
        match operation {
            Operation::Create(at) => {
                let (engine, root) = self.ids();
                let content = self.content(engine, root);
                home.replace(&self.path(at, definition), &content.text());
                self.import(at, content, None);
            }
            Operation::Save(at) => {
                let (engine, root) = self.ids();
                let content = self.content(engine, root);
                home.replace(&self.path(at, definition), &content.text());
                let published = self.projects[&at].published.clone();
                self.saved(at, content, published);
            }
            Operation::Publish(at) => {
                let content = self.projects[&at].definition.clone();
                home.replace(&self.path(at, "published/v1/project.xml"), &content.text());
                let project = self.projects.get_mut(&at).unwrap();
                let is_new = project.published.as_ref() != Some(&content);
                project.published = Some(content);
                let id = project.id().to_owned();
                if is_new {
                    self.expect("project-publish", at, &id);
                }
            }
            Operation::Remove(at) => {
                fs::remove_dir_all(directory(self, at)).unwrap();
                let project = self.projects.remove(&at).unwrap();
                self.delete(at, &project, true);
            }
            Operation::Rename(from, to) | Operation::RenameAndSave(from, to) => {
                let beside = home.beside(&format!("moving-{}", self.number));
                fs::rename(directory(self, from), &beside).unwrap();
                let mut project = self.projects.remove(&from).unwrap();
                let before = project.clone();
                let mut content = project.definition.clone();
                let own = content.engine.as_ref().or(content.root.as_ref());
                if matches!(operation, Operation::RenameAndSave(..)) && own.is_some() {
                    content = self.content(content.engine, content.root);
                    fs::write(beside.join(definition), content.text()).unwrap();
                    project.save(content.clone());
                }
                fs::create_dir_all(home.at(&self.organization(to))).unwrap();
                fs::rename(&beside, directory(self, to)).unwrap();
                if PLACES[from].0 == PLACES[to].0 {
                    self.projects.insert(to, project);
                } else {
                    self.delete(from, &before, true);
                    self.import(to, content, before.published);
                }
            }
            Operation::Copy(from, to) => {
                self.copy(home, from, to, |from, to| fs::copy(from, to).map(drop))
            }
            Operation::Link(from, to) => {
                self.copy(home, from, to, |from, to| fs::hard_link(from, to))
            }
            Operation::MoveOver(from, to) => {
                fs::remove_dir_all(directory(self, to)).unwrap();
                fs::rename(directory(self, from), directory(self, to)).unwrap();
                let moved = self.projects.remove(&from).unwrap();
                let is_near = PLACES[from].0 == PLACES[to].0;
                if is_near && self.projects[&to].is_replaced_by(&moved.definition) {
                    let removed = self.projects.insert(to, moved).unwrap();
                    self.delete(to, &removed, true);
                } else if is_near {
                    self.saved(to, moved.definition.clone(), None);
                    self.delete(from, &moved, true);
                } else {
                    self.delete(from, &moved, true);
                    self.saved(to, moved.definition, None);
                }
            }
            Operation::Recreate(at) => {
                let (engine, root) = self.ids();
                let content = self.content(engine, root);
                fs::remove_dir_all(directory(self, at)).unwrap();
                home.replace(&self.path(at, definition), &content.text());
                self.saved(at, content, None);
                self.projects.get_mut(&at).unwrap().published = None;
            }
            Operation::ExchangeCopies(one, other) => self.exchange_copies(home, one, other),
            Operation::Exchange(one, other) => {
                let (here, there) = (directory(self, one), directory(self, other));
                renameat_with(CWD, here, CWD, there, RenameFlags::EXCHANGE).unwrap();
                let here = self.projects.remove(&one).unwrap();
                let there = self.projects.remove(&other).unwrap();
                self.projects.insert(one, there);
                self.projects.insert(other, here);
            }
        }
    }

    /// Copies a project file by file, and moves the copy to its place.
    fn copy(
        &mut self,
        home: &Home,
        from: usize,
        to: usize,
        copy: fn(&Path, &Path) -> io::Result<()>,
    ) {
        let project = self.projects[&from].clone();
        let source = home.at(&self.path(from, ""));
        let beside = home.beside(&format!("copy-{}", self.number));
        fs::create_dir_all(beside.join("published/v1")).unwrap();
        let copied = project.published.iter().map(|_| "published/v1/project.xml");
        for file in copied.chain(["project.xml"]) {
            copy(&source.join(file), &beside.join(file)).unwrap();
        }
        fs::create_dir_all(home.at(&self.organization(to))).unwrap();
        fs::rename(&beside, home.at(&self.path(to, ""))).unwrap();
        self.import(to, project.definition, project.published);
    }

    /// Exchanges the published copies of two projects.
    fn exchange_copies(&mut self, home: &Home, one: usize, other: usize) {
        let path = |at| home.at(&self.path(at, "published/v1"));
        renameat_with(CWD, path(one), CWD, path(other), RenameFlags::EXCHANGE).unwrap();
        let copies = [one, other].map(|at| self.projects[&at].published.clone().unwrap());
        for (at, copy) in [other, one].into_iter().zip(copies) {
            let project = self.projects.get_mut(&at).unwrap();
            if project.published.replace(copy.clone()).as_ref() == Some(&copy) {
                continue;
            }
            // A copy with another id is another project's.
            let own = copy.engine.clone().or(copy.root.clone());
            let own = own.filter(|_| project.is_replaced_by(&copy));
            let id = own.unwrap_or(project.id().to_owned());
            self.expect("project-publish", at, &id);
        }
    }

    /// Compares the callbacks of a round with the expected ones.
    fn compare(&mut self, came: &[(String, String, String)]) {
        let name = format!("w{}", self.number);
        let mut came: Vec<_> = came.iter().filter(|one| one.1.starts_with(&name)).collect();
        let expected = std::mem::take(&mut self.expected);
        let mut missing = Vec::new();
        for (kind, organization, id) in &expected {
            let is_generated = id.starts_with("generated");
            let known = self.generated.get(id).cloned();
            let found = came.iter().position(|one| {
                let is_it = match (&known, is_generated) {
                    (Some(known), true) => one.2 == *known,
                    (None, true) => one.2.len() == 36,
                    (_, false) => one.2 == *id,
                };
                one.0 == *kind && one.1 == *organization && is_it
            });
            match found {
                // Of one id, the callbacks come in the order of the model.
                Some(at) if came[..at].iter().all(|one| one.2 != came[at].2) => {
                    let one = came.remove(at);
                    if is_generated {
                        self.generated.insert(id.clone(), one.2.clone());
                    }
                }
                _ => missing.push((kind, organization, id)),
            }
        }
        assert!(
            came.is_empty() && missing.is_empty(),
            "{}\nmissing: {missing:?}\nnot expected: {came:?}\n{:#?}\n{:#?}",
            self.done,
            self.projects,
            self.generated
        );
        let mut ids: Vec<&String> = self.generated.values().collect();
        let n_generated = ids.len();
        ids.sort();
        ids.dedup();
        assert_eq!(
            ids.len(),
            n_generated,
            "{}\n{:#?}",
            self.done,
            self.generated
        );
    }
}

/// Runs the worlds of these seeds side by side.
fn run(seeds: std::ops::Range<u64>) {
    let endpoint = Endpoint::new();
    let settings = Settings::all_to(&endpoint).repository("mass_delete_after: 0s");
    let home = Home::new(&settings);
    let mut daemon = Some(home.start());
    let mut worlds: Vec<World> = seeds
        .enumerate()
        .map(|(number, seed)| World::new(number as u64, seed))
        .collect();
    let mut known = BTreeSet::new();
    for round in 0..ROUNDS {
        let is_down = round % 8 == 7;
        let is_killed = round % 4 == 2;
        if is_down {
            assert!(daemon.take().unwrap().terminate().success());
        }
        for world in &mut worlds {
            let operation = (0..100).find_map(|_| world.choose());
            let Some(operation) = operation else { continue };
            let before = format!("{:?}", world.projects);
            world.act(&home, operation);
            let at = if is_down { " while nobody watches" } else { "" };
            let at = if is_killed { " before a kill" } else { at };
            let _ = writeln!(world.done, "{before}\n-> {operation:?}{at}");
        }
        if is_killed {
            std::thread::sleep(Duration::from_millis(worlds[0].rng.u64(..60)));
            daemon.take().unwrap().kill();
        }
        if is_down || is_killed {
            daemon = Some(home.start());
        }
        let n_expected = worlds.iter().map(|world| world.expected.len()).sum();
        // If some do not come, the comparison shows which.
        let deadline = Instant::now() + PATIENCE;
        // After a kill, callbacks may come once more.
        let n_new = || {
            let came = endpoint.all().into_iter().map(|one| (one.id, one.event));
            let is_new = |one: &(String, String)| !known.contains(one);
            came.filter(is_new).collect::<BTreeSet<_>>().len()
        };
        while n_new() < n_expected && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(2));
        }
        daemon.as_ref().unwrap().fence();
        let came = endpoint.take();
        let came: Vec<_> = came
            .iter()
            .filter(|one| known.insert((one.id.clone(), one.event.clone())))
            .map(summary)
            .map(|(kind, organization, id)| {
                (kind.to_owned(), organization.to_owned(), id.to_owned())
            })
            .collect();
        worlds.iter_mut().for_each(|world| world.compare(&came));
    }
}

#[test]
fn operations_on_projects_with_all_kinds_of_ids_have_the_events_of_the_model() {
    let number = |name: &str, default: u64| {
        std::env::var(name).map_or(default, |number| number.parse().unwrap())
    };
    let first = number("PROJECT_WEBHOOKS_FIRST_SEED", 0);
    let n_seeds = number("PROJECT_WEBHOOKS_SEEDS", WORLDS);
    for start in (first..first + n_seeds).step_by(WORLDS as usize) {
        run(start..(start + WORLDS).min(first + n_seeds));
    }
}
