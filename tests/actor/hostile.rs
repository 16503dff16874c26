//! Names and ways that try to hide or forge a user.

use std::process::Command;

use super::audit::Audit;
use super::common::{Daemon, Endpoint, Home, Run as _, in_time, wait_until, xml};
use super::{Found, events, give, home, login, put, run_as};

/// Waits for an event of a project.
fn wait_for(home: &Home, event: &str, project: &str) -> Found {
    wait_until(&format!("{event} of {project}"), || {
        let mut found = events(home).into_iter();
        found.find(|one| one.event == event && one.project == project)
    })
}

/// Checks that an event names no other user. Returns whether it has a record.
///
/// On a busy machine, a record may come later than the daemon waits.
fn is_user(found: &Found, user: u32) -> bool {
    if found.from != "audit" {
        assert_eq!(found.actor, None, "{found:?}");
        return false;
    }
    assert_eq!(found.username, user.to_string(), "{found:?}");
    true
}

#[test]
fn names_and_other_ways_to_a_file_tell_the_right_user() {
    let endpoint = Endpoint::new();
    let home = home(&endpoint);
    let Some(_audit) = Audit::of("names_and_other_ways", &home.at("")) else {
        return;
    };
    let forged = "x\" auid=0 uid=0 name=\"y";
    let deep: String = (0..15)
        .map(|n| format!("{}{n}/", "d".repeat(250)))
        .collect();
    for name in [
        "quoted", "mounted", "linked", "hidden", "swapped", "purged", forged,
    ] {
        put(
            &home.at(&format!("org/{name}/project.xml")),
            &xml("x", "", &name.replace('"', "")),
        );
    }
    put(&home.at("org/linked/snapshots/v1.xml"), &xml("v", "", "v1"));
    put(
        &home.beside("stage/new/project.xml"),
        &xml("new", "", "new"),
    );
    give(&home.at("org"));
    let _daemon = home.start();
    let mut named = Vec::new();
    let cd = format!("cd '{}'", home.path().display());

    run_as(
        3001,
        &format!("{cd}; rm -f 'repository/org/{forged}/project.xml'"),
    );
    named.push(is_user(
        &wait_for(&home, "project-delete", &format!("org/{forged}")),
        3001,
    ));

    // By a path of almost 4 KiB, which begins outside the repository.
    run_as(
        3002,
        &format!(
            "{cd}; mkdir -p 'stage/{deep}'; ln -s '{}' link; cd stage; \
             rm -f \"$(printf './%.0s' $(seq 1500))../link/org/quoted/project.xml\"",
            home.at("").display()
        ),
    );
    named.push(is_user(
        &wait_for(&home, "project-delete", "org/quoted"),
        3002,
    ));

    // By another mount.
    let mut mounted = Command::new("unshare");
    mounted.args(["-m", "sh", "-c"]);
    mounted.arg(format!(
        "{cd} && mkdir mnt && mount --bind repository/org mnt && echo 3003 > /proc/self/loginuid && \
         exec setpriv --reuid=3003 --clear-groups rm -f mnt/mounted/project.xml"
    ));
    assert!(mounted.ended().unwrap().success());
    named.push(is_user(
        &wait_for(&home, "project-delete", "org/mounted"),
        3003,
    ));

    // A hard link over the definition, and its removal by another user.
    run_as(
        3004,
        &format!("{cd}/repository/org/linked; ln -f snapshots/v1.xml project.xml"),
    );
    named.push(is_user(
        &wait_for(&home, "snapshot-restore", "org/linked"),
        3004,
    ));
    run_as(
        3005,
        &format!("{cd}/repository/org/linked; ln project.xml other.xml; rm -f other.xml"),
    );
    run_as(
        3001,
        &format!("{cd}; rm -f repository/org/linked/project.xml"),
    );
    named.push(is_user(
        &wait_for(&home, "project-delete", "org/linked"),
        3001,
    ));

    // Moved away by one user, and purged by another before the settle time is over.
    run_as(
        3002,
        &format!("{cd}; mv repository/org/purged stage/purged"),
    );
    run_as(3003, &format!("{cd}; rm -rf stage/purged"));
    named.push(is_user(
        &wait_for(&home, "project-delete", "org/purged"),
        3002,
    ));

    // Staged in a hidden directory of the repository by one user, released by another.
    run_as(
        3004,
        &format!(
            "{cd}/repository; mkdir .stage; cp -r ../stage/new .stage/new; chmod -R 777 .stage"
        ),
    );
    run_as(3005, &format!("{cd}/repository; mv .stage/new org/new"));
    named.push(is_user(
        &wait_for(&home, "project-import-any", "org/new"),
        3005,
    ));

    // A file by descriptors of directories, as Samba does.
    let python = "import os\n\
        a = os.open('stage', os.O_RDONLY); b = os.open('repository/org/hidden', os.O_RDONLY)\n\
        os.rename('project.xml', 'project.xml', src_dir_fd=b, dst_dir_fd=a)";
    run_as(3001, &format!("{cd}; python3 -c \"{python}\""));
    named.push(is_user(
        &wait_for(&home, "project-delete", "org/hidden"),
        3001,
    ));
    let n_missed = named.iter().filter(|is_named| !**is_named).count();
    assert!(n_missed <= 2, "{named:?}");
}

#[test]
fn a_service_user_is_the_actor_and_another_user_after_a_restart_is_not() {
    let endpoint = Endpoint::new();
    let home = home(&endpoint);
    let Some(_audit) = Audit::of("a_service_user", &home.at("")) else {
        return;
    };
    let mut names = (0..10).map(|n| format!("service{n}"));
    for name in names.clone().chain(["down".to_owned()]) {
        put(
            &home.at(&format!("org/{name}/project.xml")),
            &xml(&name, "", &name),
        );
    }
    give(&home.at("org"));
    let daemon = home.start();
    // Without a login. On a busy machine, a record may come later than the daemon waits.
    in_time(|| {
        let project = format!("org/{}", names.next().unwrap());
        let removed = Command::new("setpriv")
            .args(["--reuid=3002", "--clear-groups", "rm", "-f"])
            .arg(home.at(&format!("{project}/project.xml")))
            .ended()
            .unwrap();
        assert!(removed.success());
        let found = wait_for(&home, "project-delete", &project);
        let actor = found.actor.as_ref();
        // This test may run in a login session, whose user is the actor.
        let is_login = actor.is_some_and(|actor| actor["account"] != "effective");
        is_login && found.from == "audit" || is_user(&found, 3002)
    });
    daemon.terminate();
    let script = format!("rm -f '{}'", home.at("org/down/project.xml").display());
    assert!(login(3003, &script).ended().unwrap().success());
    let _daemon = Daemon::start(&home);
    // A catch-up has no records.
    let found = wait_for(&home, "project-delete", "org/down");
    assert_eq!(
        (found.from.as_str(), found.username.as_str()),
        ("owner", "4000")
    );
    assert_eq!(found.actor, None);
}
