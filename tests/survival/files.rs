//! Invalid files under the names of valid ones.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, mknodat};

use super::common::{Daemon, Endpoint, Home, Settings, xml};
use super::{memory_kib, wait_status};

/// More memory than reading these files needs, and less than one bad file could take.
const MEMORY_MAX_KIB: u64 = 256 * 1024;

/// A way to make an invalid file, and the reason that `status` has to list.
type Hostile = (&'static str, &'static str, fn(&Path));

fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

fn node(path: &Path, kind: FileType, device: u64) {
    mknodat(CWD, path, kind, Mode::from_raw_mode(0o644), device).unwrap();
}

const HOSTILE: &[Hostile] = &[
    ("link", "symbolic link", |path| {
        symlink("/etc/passwd", path).unwrap();
    }),
    ("link-inside", "symbolic link", |path| {
        symlink("../good/project.xml", path).unwrap();
    }),
    ("link-loop", "symbolic link", |path| {
        symlink("project.xml", path).unwrap();
    }),
    ("fifo", "FIFO", |path| node(path, FileType::Fifo, 0)),
    ("socket", "socket", |path| {
        drop(UnixListener::bind(path).unwrap());
    }),
    ("directory", "directory", |path| {
        fs::create_dir(path).unwrap()
    }),
    ("empty", "", |path| fs::write(path, "").unwrap()),
    ("random", "", |path| {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let bytes: Vec<u8> = (0..100_000)
            .map(|_| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                (state >> 56) as u8
            })
            .collect();
        fs::write(path, bytes).unwrap();
    }),
    ("truncated", "", |path| {
        let whole = xml("Truncated", "e", "x");
        fs::write(path, &whole[..whole.len() - 10]).unwrap();
    }),
    ("deep", "", |path| {
        let deep = "<schema>".repeat(200_000) + &"</schema>".repeat(200_000);
        fs::write(path, deep).unwrap();
    }),
    ("large", "max_file_size", |path| {
        // A sparse file: it takes no space on disk, and all of it would be read.
        fs::File::create(path).unwrap().set_len(1 << 32).unwrap();
    }),
    ("bomb", "", |path| {
        let mut bomb = "<!DOCTYPE schema [<!ENTITY a0 \"aaaaaaaaaa\">".to_owned();
        for level in 1..20 {
            let below = format!("&a{};", level - 1).repeat(10);
            bomb.push_str(&format!("<!ENTITY a{level} \"{below}\">"));
        }
        bomb.push_str("]><schema name=\"bomb\">&a19;</schema>");
        fs::write(path, bomb).unwrap();
    }),
    ("bomb-attribute", "", |path| {
        let bomb = "<!DOCTYPE schema [<!ENTITY a \"aaaaaaaaaa\"><!ENTITY b \"&a;&a;&a;&a;\">]>\
                    <schema name=\"&b;\"/>";
        fs::write(path, bomb).unwrap();
    }),
    ("external", "", |path| {
        let external = "<!DOCTYPE schema [<!ENTITY x SYSTEM \"file:///etc/passwd\">]>\
                        <schema name=\"x\">&x;</schema>";
        fs::write(path, external).unwrap();
    }),
    ("other-root", "schema", |path| {
        fs::write(path, "<project name=\"p\"/>").unwrap();
    }),
    ("two-roots", "", |path| {
        fs::write(path, "<schema name=\"a\"/><schema name=\"b\"/>").unwrap();
    }),
    ("unknown-encoding", "encoding", |path| {
        fs::write(
            path,
            "<?xml version=\"1.0\" encoding=\"klingon\"?><schema name=\"p\"/>",
        )
        .unwrap();
    }),
    ("lying-encoding", "", |path| {
        let text = "<?xml version=\"1.0\" encoding=\"UTF-16\"?><schema name=\"p\"/>";
        fs::write(path, text).unwrap();
    }),
    ("byte-order-mark-that-lies", "", |path| {
        let text = "\u{feff}<?xml version=\"1.0\" encoding=\"UTF-8\"?><schema name=\"p\"/>";
        fs::write(path, [utf16(text), b"x".to_vec()].concat()).unwrap();
    }),
    ("latin-1-called-utf-8", "", |path| {
        let text = b"<?xml version=\"1.0\" encoding=\"UTF-8\"?><schema name=\"\xe9\"/>";
        fs::write(path, text).unwrap();
    }),
    ("many-attributes", "attributes", |path| {
        let attributes: String = (0..200_000).map(|n| format!(" a{n}=\"\"")).collect();
        fs::write(path, format!("<schema{attributes}/>")).unwrap();
    }),
    ("not-utf-8", "", |path| {
        fs::write(path, b"<schema name=\"\xff\xfe\xfd\"/>").unwrap();
    }),
    ("half-a-character", "", |path| {
        let mut bytes = utf16("\u{feff}<?xml version=\"1.0\" encoding=\"UTF-16\"?><schema/>");
        bytes.pop();
        fs::write(path, bytes).unwrap();
    }),
    ("nul", "", |path| {
        fs::write(path, b"<schema name=\"a\0b\"/>").unwrap();
    }),
    ("nul-reference", "", |path| {
        fs::write(path, "<schema name=\"&#0;\"/>").unwrap();
    }),
];

/// The path of a project's definition, whose directories are made.
fn definition(home: &Home, project: &str) -> PathBuf {
    let path = home.at(&format!("sales/{project}/project.xml"));
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    path
}

#[test]
fn invalid_files_are_listed_with_their_reason_and_block_nothing() {
    let endpoint = Endpoint::new();
    let home = Home::new(&Settings::all_to(&endpoint));
    let daemon = home.start();
    for (name, _, make) in HOSTILE {
        make(&definition(&home, name));
    }
    let mut expected: Vec<(String, &str)> = HOSTILE
        .iter()
        .map(|(name, reason, _)| (format!("sales/{name}/project.xml"), *reason))
        .collect();
    if rustix::process::geteuid().is_root() {
        let null = rustix::fs::makedev(1, 3);
        node(
            &definition(&home, "device"),
            FileType::CharacterDevice,
            null,
        );
        expected.push(("sales/device/project.xml".to_owned(), "device"));
    } else {
        super::skip("a device named project.xml", "needs root");
    }
    fs::write(definition(&home, "good"), xml("Good", "e-1", "")).unwrap();
    endpoint.wait_for(2);
    daemon.fence();
    assert_eq!(
        daemon.events(),
        [
            "Project Import sales/good",
            "Project Import - Any sales/good"
        ]
    );
    let status = wait_status(&home, "all of them", |status| {
        status["incomplete"].as_array().unwrap().len() >= expected.len()
    });
    let listed = status["incomplete"].as_array().unwrap();
    for (path, reason) in &expected {
        let found = listed.iter().find(|one| one["path"] == *path);
        let found = found.unwrap_or_else(|| panic!("{path} is not listed: {listed:#?}"));
        let said = found["reason"].as_str().unwrap();
        assert!(!said.is_empty() && said.contains(reason), "{path}: {said}");
    }
    assert_eq!(listed.len(), expected.len(), "{listed:#?}");
    let memory = memory_kib(&daemon, "VmHWM:");
    assert!(memory < MEMORY_MAX_KIB, "{memory} KiB at most were used");
    // Each is read again once it is fixed, and the list is empty.
    for (path, _) in &expected {
        let path = home.at(path);
        if path.is_dir() {
            fs::remove_dir(&path).unwrap();
        }
        let beside = path.with_extension("new");
        fs::write(&beside, xml("Mended", "", path.to_str().unwrap())).unwrap();
        fs::rename(&beside, &path).unwrap();
    }
    endpoint.wait_for(2 * (expected.len() + 1));
    daemon.fence();
    assert_eq!(endpoint.n(), 2 * (expected.len() + 1));
    let status = home.json(&["status"]);
    assert_eq!(status["incomplete"], serde_json::json!([]));
}

#[test]
fn links_to_directories_are_not_followed() {
    let endpoint = Endpoint::new();
    let home = Home::new(&Settings::all_to(&endpoint));
    fs::create_dir_all(home.beside("outside/p")).unwrap();
    fs::write(
        home.beside("outside/p/project.xml"),
        xml("Outside", "e-0", ""),
    )
    .unwrap();
    home.write("sales/good/project.xml", &xml("Good", "e-1", ""));
    let daemon = home.start();
    symlink(home.beside("outside"), home.at("organization")).unwrap();
    symlink(home.beside("outside/p"), home.at("sales/project")).unwrap();
    symlink(home.at("sales/good"), home.at("sales/inside")).unwrap();
    symlink(home.at(""), home.at("sales/good/published")).unwrap();
    symlink("/proc/self", home.at("process")).unwrap();
    daemon.signal(rustix::process::Signal::USR1);
    daemon.wait_message("full scan finished", 2);
    daemon.fence();
    assert_eq!(daemon.events(), [""; 0]);
    let status = home.json(&["status"]);
    let listed: Vec<&str> = status["incomplete"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|one| one["path"].as_str())
        .collect();
    for path in [
        "organization",
        "process",
        "sales/good/published",
        "sales/inside",
        "sales/project",
    ] {
        assert!(listed.contains(&path), "{path}: {listed:?}");
    }
}

#[test]
fn unreadable_files_are_listed_and_block_nothing() {
    let endpoint = Endpoint::new();
    // Only a full scan finds that a directory further up is readable again.
    let home = Home::new(&Settings::all_to(&endpoint).repository("rescan: 2s"));
    let Some(command) = super::unprivileged(&home, "what may not be read") else {
        return;
    };
    let daemon = Daemon::launch(&home, command);
    daemon.wait_ready();
    let mode = |path: &str, mode: u32| {
        fs::set_permissions(home.at(path), fs::Permissions::from_mode(mode)).unwrap();
    };
    let hidden = [
        ("sales/file/project.xml", "sales/file/project.xml"),
        ("sales/project", "sales/project/project.xml"),
        ("hr", "hr/p/project.xml"),
        (
            "sales/copies/published",
            "sales/copies/published/project.xml",
        ),
    ];
    home.write("sales/copies/project.xml", &xml("Copies", "e-c", ""));
    for (number, (closed, path)) in hidden.iter().enumerate() {
        // It is made outside the repository: there nothing observes it while it is readable.
        let beside = home.beside("made").join(path);
        fs::create_dir_all(beside.parent().unwrap()).unwrap();
        fs::write(&beside, xml("Hidden", &format!("e-{number}"), "")).unwrap();
        let made = home.beside("made").join(closed);
        fs::set_permissions(&made, fs::Permissions::from_mode(0o0)).unwrap();
        fs::create_dir_all(home.at(closed).parent().unwrap()).unwrap();
        fs::rename(made, home.at(closed)).unwrap();
    }
    home.write("sales/good/project.xml", &xml("Good", "e-good", ""));
    let status = wait_status(&home, "all of them", |status| {
        hidden.iter().all(|(closed, _)| {
            let listed = status["incomplete"].as_array().unwrap();
            listed.iter().any(|one| one["path"] == *closed)
        })
    });
    for one in status["incomplete"].as_array().unwrap() {
        let reason = one["reason"].as_str().unwrap();
        assert!(reason.contains("Permission denied"), "{one}");
    }
    endpoint.wait_for(4);
    daemon.fence();
    assert_eq!(endpoint.n(), 4, "two projects, two imports each");
    for (closed, _) in hidden {
        mode(closed, 0o755);
    }
    endpoint.wait_for(4 + 3 * 2 + 1);
    daemon.fence();
    assert_eq!(endpoint.n(), 4 + 3 * 2 + 1);
    wait_status(&home, "none", |status| {
        status["incomplete"] == serde_json::json!([])
    });
    // The definition is certainly gone, so its delete does not wait for the copies.
    mode("sales/copies/published", 0o0);
    wait_status(&home, "the copies", |status| {
        status["incomplete"][0]["path"] == "sales/copies/published"
    });
    home.remove("sales/copies/project.xml");
    let came = endpoint.wait_for(12);
    daemon.fence();
    assert_eq!(endpoint.n(), 12);
    assert_eq!(came[11].event, "project-delete");
}

#[test]
fn a_file_that_is_replaced_while_it_is_read_is_sent_as_one_of_both() {
    let endpoint = Endpoint::new();
    let home = Home::new(&Settings::all_to(&endpoint).repository("max_file_size: 8MiB"));
    home.write("sales/p/project.xml", &xml("P", "e-1", ""));
    let daemon = home.start();
    // Large enough that many are replaced while they are read.
    let body = |number: usize| format!("{number}").repeat(200_000);
    let versions: Vec<String> = (0..10)
        .map(|number| xml("P", "e-1", &body(number)))
        .collect();
    for version in versions.iter().cycle().take(60) {
        home.replace("sales/p/published/project.xml", version);
    }
    daemon.fence();
    let last = versions.last().unwrap().as_bytes();
    endpoint.wait_for_one("the last version", |one| one.payload == last);
    for one in endpoint.all() {
        assert_eq!(one.event, "project-publish");
        assert!(
            versions
                .iter()
                .any(|version| version.as_bytes() == one.payload),
            "{} bytes that no version has",
            one.payload.len()
        );
    }
}

#[test]
fn unrelated_files_cost_nothing() {
    // One million takes a minute and more to make; PROJECT_WEBHOOKS_FILES=1000000 does so.
    let n: usize = std::env::var("PROJECT_WEBHOOKS_FILES")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(20_000);
    let endpoint = Endpoint::new();
    let home = Home::new(&Settings::all_to(&endpoint));
    home.write("sales/p/project.xml", &xml("P", "e-1", ""));
    let per_directory = 1_000;
    let fill = |below: &str, n: usize| {
        for directory in 0..n.div_ceil(per_directory) {
            let directory = home.at(&format!("{below}/{directory}"));
            fs::create_dir_all(&directory).unwrap();
            for number in 0..per_directory {
                fs::File::create(directory.join(format!("{number}.csv"))).unwrap();
            }
        }
    };
    fill("sales/p/data", n / 2);
    let daemon = home.start();
    fill("sales/p/published/cache", n / 4);
    fill(".cache", n / 4);
    home.write("sales/q/project.xml", &xml("Q", "e-2", ""));
    endpoint.wait_for(2);
    daemon.fence();
    assert_eq!(endpoint.n(), 2);
    let memory = memory_kib(&daemon, "VmHWM:");
    assert!(memory < MEMORY_MAX_KIB, "{memory} KiB at most were used");
}
