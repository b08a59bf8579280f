//! The directory in which an agent keeps what has to survive a restart.

use std::fs::{DirBuilder, File};
use std::path::{Path, PathBuf};

use crate::program::Failure;

/// A state directory in use. No other agent can use it meanwhile: two agents with one instance uid
/// would be one to the server.
#[derive(Debug)]
pub(super) struct StateDir {
    path: PathBuf,
    _lock: File,
}

impl StateDir {
    pub(super) fn open(path: &Path) -> Result<Self, Failure> {
        let shown = path.display();
        let mut builder = DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder
            .create(path)
            .map_err(|error| Failure::caused_by(format!("cannot create {shown}"), error))?;
        let lock = File::create(path.join("lock"))
            .map_err(|error| Failure::caused_by(format!("cannot write in {shown}"), error))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: lock }),
            Err(std::fs::TryLockError::WouldBlock) => {
                Err(Failure::new(format!("{shown} is in use by another agent")))
            }
            Err(std::fs::TryLockError::Error(error)) => {
                Err(Failure::caused_by(format!("cannot lock {shown}"), error))
            }
        }
    }

    pub(super) fn client_state_path(&self) -> PathBuf {
        self.path.join("client-state")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_directory_is_for_one_agent_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/state");
        let first = StateDir::open(&path).unwrap();
        let second = StateDir::open(&path).unwrap_err();
        assert!(second.to_string().contains("in use"), "{second}");
        drop(first);
        StateDir::open(&path).unwrap();
    }
}
