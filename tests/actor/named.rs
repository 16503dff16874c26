//! The events that a webhook has to name: the users of saves, removed copies and moves.

use super::audit::Audit;
use super::common::{Endpoint, Home, wait_until, xml};
use super::{Found, USERS, events, finish, give, home, login, put, run_as};

/// The ways to cause an event, as: name, event, commands of the shell. `$p` is the project's directory,
/// `$n` its name, and `$new` its directory after a move.
const WAYS: [(&str, &str, &str); 7] = [
    ("write", "project-save", "cp stage/$n.xml $p/project.xml"),
    (
        "replace",
        "project-save",
        "mv -f stage/$n.xml $p/project.xml",
    ),
    ("unpublish", "project-unpublish", "rm -r $p/published/v1"),
    (
        "withdraw",
        "project-unpublish",
        "mv $p/published/v1 stage/$n",
    ),
    ("unsnap", "snapshot-delete", "rm -f $p/snapshots/s1.xml"),
    ("move", "project-move", "mv $p $new"),
    (
        "files",
        "project-move",
        "mkdir $new; mv $p/project.xml $p/published $p/snapshots $new; rm -r $p",
    ),
];

/// A change that causes one event.
struct Change {
    name: String,
    event: &'static str,
    script: String,
    user: u32,
}

impl Change {
    fn of(way: usize, user: usize, prefix: &str) -> Self {
        let (name, event, commands) = WAYS[way];
        let name = format!("{prefix}-{name}-{user}");
        Self {
            event,
            script: format!(
                "n={name}; p=repository/org/$n; new=repository/org/new-$n; {commands}\n"
            ),
            user: USERS[user],
            name,
        }
    }

    fn prepare(&self, home: &Home) {
        let content = |version: &str| xml(&self.name, &self.name, version);
        for below in [
            "project.xml",
            "published/v1/project.xml",
            "snapshots/s1.xml",
        ] {
            let path = home.at(&format!("org/{}/{below}", self.name));
            put(&path, &content(below));
        }
        let next = home.beside("stage").join(format!("{}.xml", self.name));
        put(&next, &content("next"));
    }

    /// The event, once it is recorded.
    fn find(&self, found: &[Found]) -> Option<Found> {
        let is_this =
            |one: &&Found| one.event == self.event && one.project.ends_with(self.name.as_str());
        found.iter().find(is_this).cloned()
    }
}

/// Waits for the event. Returns whether it has a record, which then names the right user.
fn is_named(home: &Home, change: &Change) -> bool {
    let what = format!("{} of {}", change.event, change.name);
    let found = wait_until(&what, || change.find(&events(home)));
    if found.from != "audit" {
        assert_eq!((found.from.as_str(), found.actor), ("owner", None));
        return false;
    }
    assert_eq!(found.username, change.user.to_string(), "{what}");
    true
}

#[test]
fn saves_moves_and_removed_copies_have_the_right_user() {
    let endpoint = Endpoint::new();
    let home = home(&endpoint);
    let Some(_audit) = Audit::of("saves_moves_and_removed_copies", &home.at("")) else {
        return;
    };
    let all = |prefix: &'static str| {
        let users = 0..USERS.len();
        users.flat_map(move |user| (0..WAYS.len()).map(move |way| Change::of(way, user, prefix)))
    };
    let (single, burst): (Vec<Change>, Vec<Change>) = (all("one").collect(), all("many").collect());
    for change in single.iter().chain(&burst) {
        change.prepare(&home);
    }
    give(&home.at(""));
    let _daemon = home.start();
    let cd = format!("set -e; cd '{}'\n", home.path().display());
    let mut missed = Vec::new();
    for change in &single {
        run_as(change.user, &format!("{cd}{}", change.script));
        if !is_named(&home, change) {
            missed.push(&change.name);
        }
    }
    let scripts = USERS.map(|user| {
        let own = burst.iter().filter(|change| change.user == user);
        let own: String = own.map(|change| change.script.as_str()).collect();
        login(user, &format!("{cd}{own}")).spawn().unwrap()
    });
    scripts.into_iter().for_each(finish);
    for change in &burst {
        if !is_named(&home, change) {
            missed.push(&change.name);
        }
    }
    // On a busy machine, a record may come later than the daemon waits.
    let n_allowed = (single.len() + burst.len()) / 10;
    assert!(missed.len() <= n_allowed, "{missed:?}");
}
