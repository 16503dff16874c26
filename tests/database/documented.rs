//! The commands of `docs/fleet.md`, in the order in which an operator needs them.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};

use super::common::{Endpoint, Home, Run as _, Settings, xml};
use super::server;

/// The blocks that a test runs.
fn blocks() -> Vec<String> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/fleet.md");
    let page = fs::read_to_string(page).unwrap();
    let blocks = page.split("<!-- test: fleet -->\n```sh\n").skip(1);
    blocks
        .map(|rest| rest.split("```").next().unwrap().to_owned())
        .collect()
}

#[test]
fn the_commands_of_the_guide_work() {
    let Some(server) = server("the_commands_of_the_guide_work") else {
        return;
    };
    let blocks = blocks();
    let [set_up, status, backup, restore, migrate] = blocks.as_slice() else {
        panic!("{} blocks", blocks.len());
    };
    let endpoint = Endpoint::new();
    let sqlite = Settings::all_to(&endpoint);
    let connection = server
        .connection("webhooks")
        .replace("user=postgres", "user=projectwebhooks");
    let home = Home::new(&sqlite);
    let daemon = home.start();
    home.write("sales/one/project.xml", &xml("one", "id-1", "first"));
    endpoint.wait_for(2);
    assert!(daemon.terminate().success());
    let bin = home.beside("bin");
    fs::create_dir(&bin).unwrap();
    symlink(
        env!("CARGO_BIN_EXE_project-webhooks"),
        bin.join("project-webhooks"),
    )
    .unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let run = |block: &str| {
        let done = Command::new("sh")
            .args(["-e", "-c", block])
            .current_dir(home.path())
            .env("PATH", &path)
            .env("PGHOST", "127.0.0.1")
            .env("PGPORT", server.port.to_string())
            .env("PGUSER", "postgres")
            .stdin(Stdio::null())
            .run()
            .unwrap();
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{block}: {said}");
        String::from_utf8(done.stdout).unwrap()
    };
    run(set_up);
    home.configure(&sqlite.top(&format!("store: {{ postgres: \"{connection}\" }}")));
    assert!(run(migrate).contains("The checksums of all rows agree."));
    assert!(run(status).contains("nobody ever had it") || run(status).contains("process "));
    let before = home.json(&["events", "list"]);
    run(backup);
    let daemon = home.start();
    home.write("sales/two/project.xml", &xml("two", "id-2", "first"));
    endpoint.wait_for(4);
    assert!(daemon.terminate().success());
    run(restore);
    assert_eq!(home.json(&["events", "list"]), before);
    // The later events are inferred again, with the same ids.
    let ids = |all: Vec<project_webhooks::receiver::Received>| -> Vec<String> {
        let all = all.into_iter();
        let mut ids: Vec<String> = all
            .filter(|one| one.parameter("projectName") == Some("two"))
            .map(|one| one.id)
            .collect();
        ids.sort();
        ids
    };
    let daemon = home.start();
    let all = endpoint.wait_for(6);
    assert!(daemon.terminate().success());
    let found = ids(all);
    assert_eq!(found.len(), 4, "{found:?}");
    assert!(found[0] == found[1] && found[2] == found[3], "{found:?}");
}
