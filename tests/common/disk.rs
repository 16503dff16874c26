//! A file system whose power a test cuts.

use std::fs;
use std::path::{Path, PathBuf};

use super::{succeeds, wait_until};

/// A file system in a file, mounted by a loop device.
pub struct Disk {
    image: PathBuf,
    at: PathBuf,
}

impl Disk {
    /// Makes and mounts one. Returns `None` if this machine does not allow it.
    pub fn new(kind: &str, image: PathBuf, at: PathBuf) -> Option<Self> {
        fs::File::create(&image)
            .unwrap()
            .set_len(400 << 20)
            .unwrap();
        fs::create_dir(&at).unwrap();
        let quiet = if kind == "ext4" { "-qF" } else { "-qf" };
        let made = succeeds(&format!("mkfs.{kind}"), &[quiet, image.to_str().unwrap()]);
        let disk = Self { image, at };
        (made && disk.mount()).then_some(disk)
    }

    /// The mount point.
    pub fn at(&self) -> &Path {
        &self.at
    }

    fn mount(&self) -> bool {
        let (image, at) = (self.image.to_str().unwrap(), self.at.to_str().unwrap());
        succeeds("mount", &["-o", "loop", image, at])
    }

    /// The cut: everything that was not synced is gone, the log of the file system too.
    pub fn cut(&self) {
        assert!(succeeds(
            "xfs_io",
            &["-x", "-c", "shutdown", self.at.to_str().unwrap()]
        ));
    }

    /// Mounted again; the file system repairs itself by its log.
    pub fn again(&self) {
        let at = self.at.to_str().unwrap();
        wait_until("unmounting", || succeeds("umount", &[at]).then_some(()));
        assert!(self.mount());
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        succeeds("umount", &["-l", self.at.to_str().unwrap()]);
    }
}
