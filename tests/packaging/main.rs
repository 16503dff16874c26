//! The container image and the RPM package, made from the static program that `.ci/run` builds before.
//!
//! `PROJECT_WEBHOOKS_STATIC` names the program; otherwise it is that of `cargo auditable build --target
//! x86_64-unknown-linux-musl`. Without it, or without a tool, a test is skipped. tests/systemd has the
//! Debian package.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may fail by panicking; that is what it is for"
)]

#[path = "../common/patience.rs"]
mod patience;

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use patience::Run as _;
use serde_json::Value;

/// Some of the paths of the RPM package.
const INSTALLED: [&str; 12] = [
    "/etc/project-webhooks/config.yaml",
    "/usr/bin/project-webhooks",
    "/usr/lib/systemd/system/project-webhooks.service",
    "/usr/lib/systemd/system/project-webhooks@.service",
    "/usr/lib/sysusers.d/project-webhooks.conf",
    "/usr/lib/tmpfiles.d/project-webhooks.conf",
    "/usr/share/bash-completion/completions/project-webhooks",
    "/usr/share/doc/project-webhooks/docs/operations.md",
    "/usr/share/licenses/project-webhooks/LICENSE-MIT",
    "/usr/share/man/man5/project-webhooks-config.5.gz",
    "/usr/share/project-webhooks/callback.schema.json",
    "/usr/share/project-webhooks/config.schema.json",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn skip(test: &str, reason: &str) {
    let _ = writeln!(std::io::stderr(), "skipped: {test}: {reason}");
}

/// The static program, if it was built and the tools are installed.
fn program(test: &str, tools: &[&str]) -> Option<PathBuf> {
    let built = Path::new(env!("CARGO_BIN_EXE_project-webhooks"));
    let target = built.ancestors().nth(2)?;
    let default = target.join("x86_64-unknown-linux-musl/debug/project-webhooks");
    let program = std::env::var_os("PROJECT_WEBHOOKS_STATIC").map_or(default, PathBuf::from);
    if !program.is_file() {
        skip(test, "no static program");
        return None;
    }
    for tool in tools {
        let found = Command::new(tool)
            .arg("--version")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .ended();
        if found.is_err() {
            skip(test, &format!("no {tool}"));
            return None;
        }
    }
    Some(program)
}

/// Runs a command, which must succeed, and returns its output.
#[track_caller]
fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).run().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let out = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{command:?}\n{out}\n{said}");
    out.into_owned()
}

#[test]
fn the_image_sends_a_callback_as_a_user_who_may_do_nothing_else() {
    const TEST: &str = "the_image_sends_a_callback_as_a_user_who_may_do_nothing_else";
    let Some(program) = program(
        TEST,
        &[
            "buildah", "podman", "crun", "unshare", "nsenter", "curl", "strip", "objcopy",
            "python3",
        ],
    ) else {
        return;
    };
    if !rustix::process::geteuid().is_root() {
        return skip(TEST, "needs root");
    }
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::create_dir(directory.path().join("projects")).unwrap();
    // The configuration of packaging/compose.yaml.
    let compose = fs::read(root().join("packaging/compose.yaml")).unwrap();
    let compose: Value = serde_yaml::from_slice(&compose).unwrap();
    let mounts = compose["services"]["project-webhooks"]["volumes"].to_string();
    assert!(mounts.contains("./compose/config.yaml:/etc/"), "{mounts}");
    let config = root().join("packaging/compose/config.yaml");
    fs::copy(config, directory.path().join("config.yaml")).unwrap();
    let daemon = &compose["services"]["project-webhooks"];
    assert_eq!(daemon["ports"].to_string(), r#"["127.0.0.1:9417:9417"]"#);
    let token = daemon["environment"]["ADMIN_TOKEN"].to_string();
    assert!(token.contains("${ADMIN_TOKEN:?"), "{token}");
    let receiver = &compose["services"]["receiver"];
    assert_eq!(
        receiver["command"].to_string(),
        r#"["listen","--port","9000"]"#
    );
    assert_eq!(receiver["network_mode"], "service:project-webhooks");

    let [storage, state] = ["storage", "run"].map(|name| directory.path().join(name));
    let options = format!(
        "--root {} --runroot {} --storage-driver vfs",
        storage.display(),
        state.display()
    );
    let image = run(Command::new(root().join("packaging/build-image"))
        .arg("--program")
        .arg(program)
        .env("BUILDAH_OPTIONS", &options));
    let image = image.trim();
    let inspected = run(Command::new("buildah")
        .args(options.split(' '))
        .args(["inspect", "--type", "image", image]));
    let inspected: Value = serde_json::from_str(&inspected).unwrap();
    let config = &inspected["Docker"]["config"];
    assert_eq!(config["User"], "65532:65532");
    assert_eq!(config["StopSignal"], "SIGTERM");
    let volumes: Vec<&str> = config["Volumes"]
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    assert_eq!(
        BTreeSet::from_iter(volumes),
        BTreeSet::from(["/srv/projects", "/var/lib/project-webhooks"])
    );
    // The script runs the same command.
    let check: Vec<&str> = config["Healthcheck"]["Test"]
        .as_array()
        .unwrap()
        .iter()
        .map(|word| word.as_str().unwrap())
        .collect();
    let expected = "CMD /usr/bin/project-webhooks --config /etc/project-webhooks/config.yaml status \
                    --exit-code";
    assert_eq!(check.join(" "), expected);

    let buildah = |arguments: &[&str]| {
        let mut buildah = Command::new("buildah");
        run(buildah.args(options.split(' ')).args(arguments))
    };
    let container = buildah(&["from", "--pull-never", image]);
    let files = buildah(&["mount", container.trim()]);
    assert_names_dependencies(&Path::new(files.trim()).join("usr/bin/project-webhooks"));
    buildah(&["rm", container.trim()]);

    let printed = run(Command::new("unshare")
        .args(["--mount", "sh"])
        .arg(root().join("tests/packaging/container.sh"))
        .arg(directory.path())
        .arg(image));
    assert!(printed.contains(env!("CARGO_PKG_VERSION")), "{printed}");
    assert!(printed.contains("exit status 0"), "{printed}");
    assert!(printed.contains("sales/orders"), "{printed}");
}

#[test]
fn the_rpm_installs_the_same_files_as_the_debian_package() {
    const TEST: &str = "the_rpm_installs_the_same_files_as_the_debian_package";
    let tools = [
        "rpm",
        "rpm2cpio",
        "cargo-generate-rpm",
        "strip",
        "objcopy",
        "python3",
    ];
    let Some(program) = program(TEST, &tools) else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let package = run(Command::new(root().join("packaging/build-rpm"))
        .arg("--program")
        .arg(program)
        .args(["--payload-compress", "none"])
        .env("CARGO_TARGET_DIR", directory.path()));
    let package = package.trim();
    let listed = run(Command::new("rpm").args(["-qpl", package]));
    let listed: BTreeSet<&str> = listed.lines().collect();
    for path in INSTALLED {
        assert!(listed.contains(path), "{path} is not in {listed:#?}");
    }
    // All paths of the Debian package, except where the distributions differ.
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let debian = manifest.split("[package.metadata.deb]").nth(1).unwrap();
    let assets = debian.lines().filter(|line| line.starts_with("    [\""));
    for asset in assets {
        let words: Vec<&str> = asset.split('"').collect();
        let (source, destination) = (words[1], words[3]);
        if destination.contains("zsh/vendor-completions") || source.contains('*') {
            continue;
        }
        let name = match destination.strip_suffix('/') {
            Some(directory) => format!("/{directory}/{}", source.rsplit('/').next().unwrap()),
            None => format!("/{destination}"),
        };
        let name = name.replace(
            "completions/project-webhooks.bash",
            "completions/project-webhooks",
        );
        assert!(
            listed.contains(name.as_str()),
            "{name} is not in {listed:#?}"
        );
    }
    let config = run(Command::new("rpm").args(["-qp", "--configfiles", package]));
    assert_eq!(config.trim(), "/etc/project-webhooks/config.yaml");
    let requires = run(Command::new("rpm").args(["-qp", "--requires", package]));
    assert!(requires.lines().any(|line| line == "systemd"), "{requires}");

    let scratch = directory.path().join("scratch");
    fs::create_dir(&scratch).unwrap();
    let rpm = || {
        let mut rpm = Command::new("rpm");
        rpm.arg("--root").arg(&scratch);
        rpm
    };
    if !rustix::process::geteuid().is_root() {
        return skip(TEST, "rpm --root needs root");
    }
    run(rpm().arg("--initdb"));
    // An empty root has no systemd.
    run(rpm().args(["--install", "--test", "--nodeps", package]));
    run(rpm().args(["--install", "--nodeps", "--noscripts", package]));
    let installed = scratch.join("usr/bin/project-webhooks");
    assert_names_dependencies(&installed);
    let version = run(Command::new(installed).arg("--version"));
    assert!(version.contains(env!("CARGO_PKG_VERSION")), "{version}");
    run(rpm().args(["--erase", "--nodeps", "--noscripts", "project-webhooks"]));
    assert!(!scratch.join("usr/bin/project-webhooks").exists());
}

#[test]
fn the_stripped_program_names_all_of_its_dependencies() {
    const TEST: &str = "the_stripped_program_names_all_of_its_dependencies";
    let Some(program) = program(TEST, &["strip", "objcopy", "python3"]) else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let stripped = directory.path().join("stripped");
    run(Command::new("strip").arg("-o").arg(&stripped).arg(program));
    assert_names_dependencies(&stripped);
}

/// The program has the list of its dependencies that scanners read.
fn assert_names_dependencies(program: &Path) {
    let directory = tempfile::tempdir().unwrap();
    let section = directory.path().join("section");
    run(Command::new("objcopy")
        .arg(format!("--dump-section=.dep-v0={}", section.display()))
        .arg(program)
        .arg(directory.path().join("copy")));
    let listed = run(Command::new("python3")
        .args([
            "-c",
            "import sys, zlib; print(zlib.decompress(open(sys.argv[1], 'rb').read()).decode())",
        ])
        .arg(&section));
    let listed: Value = serde_json::from_str(&listed).unwrap();
    let names: BTreeSet<&str> = listed["packages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|package| package["name"].as_str().unwrap())
        .collect();
    for name in ["project-webhooks", "rusqlite", "rustls", "tokio"] {
        assert!(names.contains(name), "{name} is not in {names:?}");
    }
    // Tests are no part of the program.
    assert!(!names.contains("proptest"), "{names:?}");
}
