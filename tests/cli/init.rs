//! `init` in several trees: its configuration is accepted, its printed commands work, and nothing is
//! overwritten.

use std::ffi::OsStr;
use std::fs;
use std::net::TcpListener;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::{Signal, geteuid};
use serde_json::Value;
use tempfile::TempDir;

use crate::patience::Run as _;
use crate::patience::wait_until;
use crate::support::{Ran, Running, program, project, run};

/// A directory with these files. Those whose name ends with `.xml` are projects.
fn tree(files: &[&str]) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    for file in files {
        let path = directory.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let content = match file.ends_with(".xml") {
            true => project(&path.file_name().unwrap().to_string_lossy()),
            false => "something else".to_owned(),
        };
        fs::write(path, content).unwrap();
    }
    directory
}

fn run_in(directory: &Path, arguments: &[&str]) -> Ran {
    let mut command = program();
    command
        .current_dir(directory)
        .args(arguments)
        .env("XDG_STATE_HOME", directory.with_extension("states"));
    run(command)
}

/// The number of projects that `scan` finds by the configuration there.
fn adopted(directory: &Path) -> usize {
    let scan = run_in(directory, &["scan", "--json"]).json();
    let definitions = |change: &&Value| !change["adopted"].is_null() || change.is_object();
    scan["changes"]
        .as_array()
        .unwrap()
        .iter()
        .filter(definitions)
        .count()
}

/// A name, the files, the given directory, parts of the output, and the number of projects.
type Tree<'a> = (&'a str, &'a [&'a str], &'a str, &'a [&'a str], usize);

/// The configuration names the schema for editors: that of the package, or the file of a command.
fn assert_schema_is_found(directory: &Path, text: &str) {
    let mut lines = text.lines();
    let schema = lines.find_map(|line| line.strip_prefix("# yaml-language-server: $schema="));
    let schema = schema.unwrap();
    if !Path::new(schema).is_absolute() {
        assert_eq!(schema, "config.schema.json");
        let command = "project-webhooks schema config >config.schema.json";
        assert!(lines.next().unwrap().ends_with(command), "{text}");
        let printed = run_in(directory, &["schema", "config"]).json();
        assert!(printed["properties"]["webhooks"].is_object(), "{printed}");
    }
}

#[test]
fn each_tree_gets_a_configuration_that_check_accepts_and_that_finds_the_projects() {
    let bundle = [
        "repository/metadata/default/4f0a/project.xml",
        "repository/metadata/default/77aa/project.xml",
        "repository/metadata/0b6c1d3e/91bb/project.xml",
        "repository/engine/conf/engine.log",
    ];
    let table: &[Tree] = &[
        (
            "the default layout",
            &[
                "repository/sales/orders/project.xml",
                "repository/sales/orders/published/project.xml",
                "repository/sales/orders/snapshots/v1.xml",
                "repository/finance/budget/project.xml",
            ],
            "repository",
            &[
                "the default layout",
                "2 projects in 2 organizations, 1 published copy, 1 snapshot",
            ],
            2,
        ),
        (
            "a support bundle",
            &bundle,
            "repository",
            &[
                "AtScale's support bundle in metadata",
                "3 projects in 2 organizations",
            ],
            3,
        ),
        (
            "files in a directory",
            &["repository/orders.xml", "repository/budget.xml"],
            "./repository/",
            &[
                "a flat directory of XML files",
                "2 projects in 1 organization,",
            ],
            2,
        ),
        (
            "files in a directory for each organization",
            &[
                "repository/sales/orders.xml",
                "repository/finance/budget.xml",
            ],
            "repository",
            &["for each organization", "2 projects in 2 organizations,"],
            2,
        ),
        (
            "one organization",
            &[
                "repository/orders/project.xml",
                "repository/budget/project.xml",
            ],
            "repository",
            &["without organizations", "2 projects in 1 organization,"],
            2,
        ),
        (
            "the repository itself",
            &["sales/orders/project.xml"],
            ".",
            &["1 project in"],
            1,
        ),
        (
            "nothing",
            &["repository/readme"],
            "repository",
            &["no XML files"],
            0,
        ),
        (
            "names that YAML and shells read otherwise",
            &[
                "a 'repository' #1/sa: les/orders/project.xml",
                "a 'repository' #1/*a/orders/project.xml",
                "a 'repository' #1/\"q\"/{orders}/project.xml",
                "a 'repository' #1/line\nend/orders/project.xml",
                "a 'repository' #1/true/12/project.xml",
            ],
            "a 'repository' #1",
            &["5 projects in 5 organizations"],
            5,
        ),
    ];
    for (name, files, directory, said, projects) in table {
        let place = tree(files);
        let out = run_in(place.path(), &["init", directory]).succeeded();
        for said in *said {
            assert!(out.contains(said), "{name}: {out}");
        }
        assert!(!out.contains("not understood"), "{name}: {out}");
        let checked = run_in(place.path(), &["check"]).succeeded();
        assert!(checked.contains("everything"), "{name}: {checked}");
        assert_eq!(adopted(place.path()), *projects, "{name}: {out}");
        let text = fs::read_to_string(place.path().join("config.yaml")).unwrap();
        assert_schema_is_found(place.path(), &text);
        let again = run_in(place.path(), &["init", directory]).failed(1);
        assert!(again.contains("exists already"), "{name}: {again}");
        let after = fs::read_to_string(place.path().join("config.yaml")).unwrap();
        assert_eq!(text, after, "{name}");
    }
}

/// Gets a page like a browser, and returns its status and text.
fn browse(arguments: &[&str], address: &str) -> (String, String) {
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--max-time", "60"]);
    curl.args(["--header", "Accept: text/html"]);
    curl.args(["--write-out", "%{http_code}", "--output", "-"]);
    let printed = run_command(curl.args(arguments).arg(address));
    let (text, status) = printed.split_at(printed.len() - 3);
    (status.to_owned(), text.to_owned())
}

#[track_caller]
fn run_command(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).run().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_stranger_sees_the_first_callback_and_the_page_by_what_is_printed() {
    let place = tree(&["my projects/sales/orders/project.xml"]);
    // The first ports are in use.
    let _taken = [9000, 9417].map(|port| TcpListener::bind(("127.0.0.1", port)));
    let named = ["--config", "the config.yaml", "init", "my projects"];
    let out = run_in(place.path(), &named).succeeded();
    let commands: Vec<&str> = out
        .lines()
        .skip_while(|line| *line != "next:")
        .filter(|line| line.starts_with("  "))
        .map(str::trim)
        .collect();
    let [check, listen, daemon, test, page, token] = commands[..] else {
        panic!("{out}");
    };
    let file = place.path().join("admin-token");
    let mode = fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let shell = |command: &str| {
        let mut shell = Command::new("sh");
        shell
            .args(["-c", &format!("exec {command}")])
            .current_dir(place.path())
            .env("NO_COLOR", "1")
            .stdin(Stdio::null());
        shell
    };
    run(shell(check)).succeeded();
    let (_listening, lines) = Running::printing(shell(listen));
    let mut lines = lines.map(Result::unwrap);
    lines.find(|line| line.contains("127.0.0.1:")).unwrap();
    let log = fs::File::create(place.path().join("log")).unwrap();
    let daemon = Running(shell(daemon).stderr(log).spawn().unwrap());
    wait_until("a ready daemon", || {
        let log = fs::read_to_string(place.path().join("log")).unwrap();
        log.contains("ready").then_some(())
    });
    run(shell(test)).succeeded();
    let copy = place.path().join("my projects/sales/copy");
    fs::create_dir(&copy).unwrap();
    fs::write(copy.join("project.xml"), project("Copy")).unwrap();
    assert!(lines.any(|line| line.contains("Project Import - Any")));

    // A browser comes to the form, and with the printed token to the page.
    let cookies = place.path().join("cookies");
    let cookies = ["--cookie-jar", cookies.to_str().unwrap(), "--cookie"];
    let cookies = [&cookies[..], &[cookies[1], "--location"]].concat();
    let (status, form) = browse(&cookies, page);
    assert!(
        form.contains("Log in") && form.contains("admin-token"),
        "{status} {form}"
    );
    let token = run_command(&mut shell(token));
    let origin = page.trim_end_matches('/');
    let (token, origin) = (
        format!("token={}", token.trim()),
        format!("Origin: {origin}"),
    );
    let form = ["--data-urlencode", &token, "--header", &origin];
    let login = [&cookies[..], &form].concat();
    let (status, overview) = browse(&login, &format!("{page}login"));
    assert_eq!(status, "200", "{overview}");
    let (_, deliveries) = browse(&cookies, &format!("{page}deliveries"));
    for text in ["Project Import - Any", "sales/copy", "everything"] {
        assert!(deliveries.contains(text), "{text}: {deliveries}");
    }
    assert_eq!(daemon.end(Signal::TERM), Some(0));
}

#[test]
fn a_refused_init_leaves_no_token_and_an_existing_one_is_kept() {
    let place = tree(&["repository/sales/orders/project.xml"]);
    let token = place.path().join("admin-token");
    let only_mine = fs::Permissions::from_mode(0o600);
    fs::write(&token, "too short").unwrap();
    fs::set_permissions(&token, only_mine.clone()).unwrap();
    let said = run_in(place.path(), &["init", "repository"]).failed(1);
    assert!(
        said.contains("admin-token") || said.contains("admin.token"),
        "{said}"
    );
    assert_eq!(fs::read_to_string(&token).unwrap(), "too short");
    let kept = "a-token-that-was-there-before";
    fs::write(&token, kept).unwrap();
    // Others may know a token that they can read, or that they wrote.
    let refused = |reason: &str| {
        let said = run_in(place.path(), &["init", "repository"]).failed(1);
        assert!(said.contains("admin-token exists already"), "{said}");
        assert!(said.contains(reason), "{said}");
        let mut entries = fs::read_dir(place.path()).unwrap();
        let is_new = |name: &OsStr| name != "repository" && name != "admin-token";
        assert!(!entries.any(|entry| is_new(&entry.unwrap().file_name())));
    };
    for mode in [0o640, 0o604, 0o620] {
        fs::set_permissions(&token, fs::Permissions::from_mode(mode)).unwrap();
        refused(&format!("its mode is {mode:04o}"));
    }
    fs::set_permissions(&token, only_mine.clone()).unwrap();
    if geteuid().is_root() {
        chown(&token, Some(65_534), None).unwrap();
        refused("belongs to the user with id 65534");
        chown(&token, Some(0), None).unwrap();
    }
    fs::remove_file(&token).unwrap();
    symlink("repository/sales/orders/project.xml", &token).unwrap();
    refused("not a regular file");
    fs::remove_file(&token).unwrap();
    let pipe = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, &token, pipe, rustix::fs::Mode::RUSR, 0).unwrap();
    refused("not a regular file");
    fs::remove_file(&token).unwrap();
    fs::write(&token, kept).unwrap();
    fs::set_permissions(&token, only_mine).unwrap();

    run_in(place.path(), &["init", "repository"]).succeeded();
    assert_eq!(fs::read_to_string(&token).unwrap(), kept);
    run_in(place.path(), &["check"]).succeeded();
}

#[test]
fn what_is_not_understood_is_listed_with_the_reason() {
    let place = tree(&[
        "repository/sales/orders/project.xml",
        "repository/sales/hr/published/project.xml",
        "repository/sales/orders/attic/old/project.xml",
    ]);
    let repository = place.path().join("repository");
    fs::write(repository.join("pom.xml"), "<project/>").unwrap();
    fs::write(repository.join("half.xml"), "<schema name=\"x\">").unwrap();
    symlink("/etc", repository.join("link")).unwrap();
    fs::write(repository.join(OsStr::from_bytes(b"\xff.xml")), "<schema/>").unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        repository.join("pipe.xml"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    let out = run_in(place.path(), &["init", "repository"]).succeeded();
    for said in [
        "1 project in 1 organization",
        "do not define a project: half.xml (line 1, column 18: ",
        "pom.xml (line 1, column 1: ",
        "symbolic links, which are not followed: link",
        "not UTF-8, which a callback cannot contain: \u{fffd}.xml",
        "files of other types: pipe.xml (is a FIFO)",
        "each a published copy of a project that has no definition: sales/hr/published/project.xml",
        "a path that the recognised layout does not use: sales/orders/attic/old/project.xml",
    ] {
        assert!(out.contains(said), "{said}: {out}");
    }
    run_in(place.path(), &["check"]).succeeded();
}

#[test]
fn init_refuses_clearly_and_then_writes_nothing() {
    let place = tree(&[
        "a file",
        "project/project.xml",
        "project/snapshots/a.xml",
        "xml/pom.txt",
    ]);
    fs::write(place.path().join("xml/pom.xml"), "<project/>").unwrap();
    for (directory, reason) in [
        ("a file", "a file is not a directory"),
        ("absent", "cannot read the directory absent: No such file"),
        ("project", "project is a project by itself"),
        ("xml", "no projects in a known layout were found in xml"),
    ] {
        let said = run_in(place.path(), &["init", directory]).failed(1);
        assert!(said.contains(reason), "{directory}: {said}");
        assert!(!place.path().join("config.yaml").exists(), "{directory}");
    }
    // A dangling link is somebody's choice too.
    symlink("elsewhere", place.path().join("config.yaml")).unwrap();
    let said = run_in(place.path(), &["init"]).failed(1);
    assert!(said.contains("exists already"), "{said}");
    assert!(!place.path().join("elsewhere").exists());
}

#[test]
fn init_writes_no_configuration_where_the_other_commands_ignore_it() {
    let place = tree(&["repository/sales/orders/project.xml"]);
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o1777)).unwrap();
    let said = run_in(place.path(), &["init", "repository"]).failed(1);
    assert!(
        said.contains("everybody may write to its directory"),
        "{said}"
    );
    assert!(!place.path().join("config.yaml").exists());
    run_in(
        place.path(),
        &["--config", "config.yaml", "init", "repository"],
    )
    .succeeded();
    run_in(place.path(), &["--config", "config.yaml", "check"]).succeeded();
}

#[test]
fn unreadable_directories_are_reported() {
    let place = tree(&[
        "repository/sales/orders/project.xml",
        "repository/secret/a/project.xml",
    ]);
    let secret = place.path().join("repository/secret");
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o0)).unwrap();
    let mut command = program();
    if geteuid().is_root() {
        // Root reads everything, so another user runs it.
        chown(place.path(), Some(65534), Some(65534)).unwrap();
        command = Command::new("setpriv");
        command
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .arg(program().get_program());
    }
    command
        .current_dir(place.path())
        .args(["init", "repository"]);
    let out = run(command).succeeded();
    let expected = "directories that cannot be read: secret (Permission denied";
    assert!(out.contains(expected), "{out}");
}
