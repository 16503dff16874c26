//! The floor: the least that a durable program must do.
//!
//! One thread reads inotify, reads the file, and posts it on one connection. It syncs before each
//! POST (`each`) or once for each read of inotify (`batch`). It watches no new directories and has
//! no queue and no retries.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Write};
use std::mem::MaybeUninit;
use std::net::TcpStream;
use std::path::{Path, PathBuf};

use anyhow::Context;
use rustix::fs::inotify;

/// The arguments of the floor.
pub struct Floor<'a> {
    /// The repository that it watches.
    pub root: &'a Path,
    /// The address to which it posts each changed project.xml.
    pub address: &'a str,
    /// The file that it syncs.
    pub journal: &'a Path,
    /// Whether it syncs before each file's POST.
    pub each: bool,
    /// The number of posts of each file.
    pub copies: usize,
}

/// Runs the floor until it is killed.
pub fn run(floor: &Floor<'_>) -> anyhow::Result<()> {
    let Floor {
        root,
        address,
        journal,
        each,
        copies,
    } = *floor;
    let system = inotify::init(inotify::CreateFlags::CLOEXEC)?;
    let mut directories = HashMap::new();
    watch(&system, root, &mut directories)?;
    let mut journal = File::create(journal)?;
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    println!("ready");
    let mut space = [MaybeUninit::uninit(); 64 * 1024];
    let mut reader = inotify::Reader::new(&system, &mut space);
    loop {
        let mut bodies = Vec::new();
        loop {
            let event = reader.next()?;
            let file = event
                .file_name()
                .is_some_and(|name| name.to_bytes() == b"project.xml");
            if let (true, Some(directory)) = (file, directories.get(&event.wd())) {
                bodies.push(std::fs::read(Path::join(directory, "project.xml"))?);
            }
            if reader.is_buffer_empty() {
                break;
            }
        }
        if !each && !bodies.is_empty() {
            journal.write_all(&bodies.concat())?;
            journal.sync_data()?;
        }
        for body in bodies {
            if each {
                journal.write_all(&body)?;
                journal.sync_data()?;
            }
            for copy in 0..copies {
                post(&mut stream, copy, &body)?;
            }
        }
    }
}

fn watch(
    system: &std::os::fd::OwnedFd,
    directory: &Path,
    directories: &mut HashMap<i32, PathBuf>,
) -> anyhow::Result<()> {
    let flags = inotify::WatchFlags::MOVED_TO | inotify::WatchFlags::CLOSE_WRITE;
    let watch_descriptor = inotify::add_watch(system, directory, flags)
        .with_context(|| format!("watching {}", directory.display()))?;
    directories.insert(watch_descriptor, directory.to_owned());
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            watch(system, &entry.path(), directories)?;
        }
    }
    Ok(())
}

/// Sends one POST and reads its answer, which has no body.
fn post(stream: &mut TcpStream, copy: usize, body: &[u8]) -> anyhow::Result<()> {
    let mut request = format!(
        "POST /{copy} HTTP/1.1\r\nHost: floor\r\nContent-Length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    request.extend_from_slice(body);
    stream.write_all(&request)?;
    let mut answer = Vec::new();
    let mut space = [0; 1024];
    while !answer.ends_with(b"\r\n\r\n") {
        let length = stream.read(&mut space)?;
        anyhow::ensure!(length > 0, "the receiver closed the connection");
        answer.extend_from_slice(space.get(..length).unwrap_or_default());
    }
    Ok(())
}
