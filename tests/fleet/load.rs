//! A writer that changes projects at random and knows the events of it.
//!
//! Constraint: each event is certain, whoever watches and whenever. So every content is written once,
//! and no file is changed or removed before the callback about it arrived.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fastrand::Rng;

use crate::common::{Home, xml};

/// A happening: the event's name and its payload.
pub type Happening = (String, String);

/// The happenings that arrived.
pub type Arrived = Arc<Mutex<BTreeSet<Happening>>>;

/// The projects that are written.
const PROJECTS: usize = 12;

/// A project that comes and goes.
#[derive(Default)]
struct Project {
    name: String,
    /// The number of imports.
    generation: u32,
    /// The number of files that it gets before it is removed. `None` if it is not there.
    left: Option<u32>,
    is_published: bool,
    definition: String,
    /// The happenings that have not arrived.
    pending: BTreeSet<Happening>,
    /// The last content of `published/project.xml`.
    published: Option<Happening>,
}

/// Everything that was written.
#[derive(Default)]
pub struct Written {
    /// The happenings of each project, in the order of writing.
    pub happenings: BTreeMap<String, Vec<Happening>>,
}

impl Written {
    fn expect(&mut self, project: &mut Project, event: &str, content: &str) {
        let happening = (event.to_owned(), content.to_owned());
        project.pending.insert(happening.clone());
        let name = project.name.clone();
        self.happenings.entry(name).or_default().push(happening);
    }

    pub fn all(&self) -> impl Iterator<Item = &Happening> {
        self.happenings.values().flatten()
    }
}

/// Writes projects whose names begin with `name`, until `stop`.
pub fn write(
    home: &Home,
    name: &str,
    arrived: &Arrived,
    rng: &mut Rng,
    stop: &AtomicBool,
) -> Written {
    let mut written = Written::default();
    let mut projects: Vec<Project> = (0..PROJECTS)
        .map(|number| Project {
            name: format!("{name}{number}"),
            ..Project::default()
        })
        .collect();
    while !stop.load(Ordering::Acquire) {
        // The rate of the load.
        std::thread::sleep(Duration::from_millis(rng.u64(2..40)));
        let project = &mut projects[rng.usize(..PROJECTS)];
        {
            let arrived = arrived.lock().unwrap();
            project.pending.retain(|one| !arrived.contains(one));
        }
        step(home, project, &mut written, rng);
    }
    written
}

fn step(home: &Home, project: &mut Project, written: &mut Written, rng: &mut Rng) {
    let directory = format!("sales/{}", project.name);
    let is_renamed = rng.bool();
    let put = |below: &str, content: &str| {
        let path = format!("{directory}/{below}");
        if is_renamed {
            home.replace(&path, content);
        } else {
            home.write(&path, content);
        }
    };
    match project.left {
        // Its delete has arrived.
        None if project.pending.is_empty() => {
            project.generation += 1;
            let id = format!("{}-{}", project.name, project.generation);
            project.definition = xml(&project.name, &id, &id);
            let content = project.definition.clone();
            put("project.xml", &content);
            for event in ["project-import", "project-import-any"] {
                written.expect(project, event, &content);
            }
            project.left = Some(rng.u32(1..8));
            project.is_published = false;
            project.published = None;
        }
        None => {}
        Some(0) if project.pending.is_empty() => {
            fs::remove_dir_all(home.at(&directory)).unwrap();
            let content = project.definition.clone();
            written.expect(project, "project-delete", &content);
            if project.is_published {
                written.expect(project, "project-delete-and-unpublish", &content);
            }
            project.left = None;
        }
        Some(0) => {}
        Some(left) => {
            let id = format!("{}-{}", project.name, project.generation);
            let content = xml(&project.name, &id, &format!("{id} file {left}"));
            let event = if rng.bool() {
                put(&format!("snapshots/s{left}.xml"), &content);
                "snapshot-create"
            } else {
                let mut before = project.published.iter();
                if before.all(|one| !project.pending.contains(one)) && rng.bool() {
                    put("published/project.xml", &content);
                    project.published = Some(("project-publish".to_owned(), content.clone()));
                } else {
                    put(&format!("published/v{left}/project.xml"), &content);
                }
                project.is_published = true;
                "project-publish"
            };
            written.expect(project, event, &content);
            project.left = Some(left - 1);
        }
    }
}
