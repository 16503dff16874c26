//! Keeps the key that hashes the fingerprints of webhooks' settings.
//!
//! Constraint: a fingerprint depends on the secrets of a webhook. A copy of the database, such as a
//! backup, must not make it possible to guess the secrets. So the database has keyed hashes of the
//! fingerprints, and the key is in another file.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::store::error::OpenError;

/// The name of the key file in the state directory.
const KEY_FILE: &str = "key";

/// The name of a new key file before it is complete.
const NEW_KEY_FILE: &str = "key.new";

#[derive(Clone, Copy)]
pub(super) struct FingerprintKey([u8; 32]);

impl FingerprintKey {
    /// Reads the key. If it is missing or has a wrong length, creates a new one.
    ///
    /// With a new key, the settings of all webhooks seem changed.
    pub(super) fn read_or_create(directory: &Path) -> Result<Self, OpenError> {
        let path = directory.join(KEY_FILE);
        let io = |what, source| OpenError::Io {
            what,
            path: path.clone(),
            source,
        };
        match fs::read(&path) {
            Ok(bytes) => {
                if let Ok(key) = bytes.try_into() {
                    return Ok(Self(key));
                }
                tracing::warn!(
                    path = %path.display(),
                    "the key file has a wrong length, so a new key replaces it. All webhooks are treated \
                     as changed: pending deliveries that failed before are due now, and webhooks that an answer 410 \
                     switched off are on again"
                );
            }
            Err(source) if source.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(io("read the key", source)),
        }
        let key = random().map_err(|source| io("get random bytes for", source))?;
        Self::write(directory, key).or_else(|source| match source.kind() {
            // The daemon must start on a full disk. If the key is not stored, all webhooks seem
            // changed at the next start.
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Ok(Self(key)),
            _ => Err(io("write the key", source)),
        })
    }

    /// Replaces the stored key. A crash never leaves a partial key.
    pub(super) fn write(directory: &Path, key: [u8; 32]) -> io::Result<Self> {
        let path = directory.join(NEW_KEY_FILE);
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)?;
        let written = file.write_all(&key).and_then(|()| file.sync_all());
        if let Err(error) = written {
            let _ = fs::remove_file(&path);
            return Err(error);
        }
        fs::rename(&path, directory.join(KEY_FILE))?;
        File::open(directory)?.sync_all()?;
        Ok(Self(key))
    }

    /// Returns the key itself, to move the state to another store.
    pub(super) fn bytes(&self) -> [u8; 32] {
        self.0
    }

    /// Returns the stored form of a fingerprint.
    pub(super) fn keyed(&self, fingerprint: &[u8; 32]) -> [u8; 32] {
        *blake3::keyed_hash(&self.0, fingerprint).as_bytes()
    }
}

fn random() -> io::Result<[u8; 32]> {
    let mut key = [0; 32];
    File::open("/dev/urandom")?.read_exact(&mut key)?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_cannot_be_replaced_stays() {
        let directory = tempfile::tempdir().unwrap();
        let key = FingerprintKey::read_or_create(directory.path()).unwrap();
        // The new key cannot be written.
        let new = directory.path().join(NEW_KEY_FILE);
        fs::create_dir(&new).unwrap();
        assert!(FingerprintKey::write(directory.path(), [7; 32]).is_err());
        let same = FingerprintKey::read_or_create(directory.path()).unwrap();
        assert_eq!(same.bytes(), key.bytes());
        fs::remove_dir(&new).unwrap();
        FingerprintKey::write(directory.path(), [7; 32]).unwrap();
        let other = FingerprintKey::read_or_create(directory.path()).unwrap();
        assert_eq!(other.bytes(), [7; 32]);
        assert!(!new.exists());
    }
}
