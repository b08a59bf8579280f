//! The directory in which an agent keeps what has to survive a restart.

use std::fs::{DirBuilder, File};
use std::path::{Path, PathBuf};

use opamp_client::core::ClientState;

use crate::file::read_if_exists;
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

    /// What an earlier process saved; `None` for a new agent.
    pub(super) fn client_state(&self) -> Result<Option<ClientState>, Failure> {
        let path = self.client_state_path();
        let shown = path.display();
        let content = read_if_exists(&path)
            .map_err(|error| Failure::caused_by(format!("cannot read {shown}"), error))?;
        let Some(content) = content else { return Ok(None) };
        ClientState::from_bytes(&content).map(Some).map_err(|error| {
            Failure::caused_by(format!("{shown} (remove it to start as a new agent)"), error)
        })
    }
}

#[cfg(test)]
mod tests {
    use opamp_proto::InstanceUid;

    use super::*;

    #[test]
    fn state_is_read_as_it_was_written_and_by_one_agent_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/state");
        let first = StateDir::open(&path).unwrap();
        assert_eq!(first.client_state().unwrap(), None);
        let second = StateDir::open(&path).unwrap_err();
        assert!(second.to_string().contains("in use"), "{second}");

        let state = ClientState::new(InstanceUid::from_bytes([7; 16]));
        crate::file::write_atomically(&first.client_state_path(), &state.to_bytes()).unwrap();
        drop(first);
        assert_eq!(StateDir::open(&path).unwrap().client_state().unwrap(), Some(state));
    }

    #[test]
    fn damaged_state_is_no_new_identity() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        std::fs::write(state.client_state_path(), "damaged").unwrap();
        let error = state.client_state().unwrap_err().to_string();
        assert!(error.contains("client-state") && error.contains("damaged"), "{error}");
    }
}
