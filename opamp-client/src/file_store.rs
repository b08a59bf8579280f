//! A store in a file.

use std::ffi::OsString;
use std::fs;
#[cfg(unix)]
use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, TryLockError};

use tracing::{error, warn};

use crate::core::ClientState;
use crate::store::SettingsStore;

/// Keeps a client's state in one file, which only its owner can read.
///
/// Saving writes a new file beside it, has it on the disk and puts it in its place: whenever the
/// process or the machine ends, the file is either as it was before or as it is to be. Keys and
/// credentials that are replaced are gone from it (CERT-02).
///
/// A file that cannot be read as a state is kept beside it, with `.damaged` at the end of its name,
/// and logged as an error; the agent goes on with the identity in it, if that is still readable, or
/// else as a new one, with the settings it is started with. An agent that can be reached is of more
/// use than one that waits for its operator.
///
/// The directory has to exist. Two clients must not share a file.
///
/// ```
/// # #[cfg(feature = "ws")]
/// # async fn agent() -> Result<(), opamp_client::Error> {
/// use opamp_client::{Client, FileStore};
///
/// let (client, events, driver) = Client::builder("wss://opamp.example.com/v1/opamp")
///     .identifying_attribute("service.name", "my-agent")
///     .store(FileStore::new("/var/lib/my-agent/opamp-state"))
///     .await?
///     .build()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct FileStore {
    file: Arc<StateFile>,
}

#[derive(Debug)]
struct StateFile {
    path: PathBuf,
    /// A write that hangs, on a disk that hangs, must not come after a later one.
    writing: Mutex<()>,
}

impl FileStore {
    /// A store in the file at `path`, which need not exist.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { file: Arc::new(StateFile { path: path.into(), writing: Mutex::new(()) }) }
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&StateFile) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let file = Arc::clone(&self.file);
        tokio::task::spawn_blocking(move || work(&file)).await.map_err(io::Error::other)?
    }
}

#[async_trait::async_trait]
impl SettingsStore for FileStore {
    async fn load(&self) -> io::Result<Option<ClientState>> {
        self.run(StateFile::load).await
    }

    async fn save(&self, state: &ClientState) -> io::Result<()> {
        let content = state.to_bytes();
        self.run(move |file| file.save(&content)).await
    }
}

impl StateFile {
    fn load(&self) -> io::Result<Option<ClientState>> {
        if let Err(error) = self.remove_unfinished() {
            let error = self.at(error);
            warn!(%error, "what an unfinished save left behind cannot be removed");
        }
        let content = match fs::read(&self.path) {
            Ok(content) => content,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.at(error)),
        };
        if let Ok(state) = ClientState::from_bytes(&content) {
            return Ok(Some(state));
        }
        let mut aside = self.path.clone().into_os_string();
        aside.push(".damaged");
        fs::rename(&self.path, &aside).map_err(|error| self.at(error))?;
        let rest = ClientState::identity_of_damaged(&content);
        error!(
            path = %self.path.display(),
            kept_as = %Path::new(&aside).display(),
            identity_kept = rest.is_some(),
            "the saved state is damaged: the agent starts with the settings it is given"
        );
        Ok(rest)
    }

    fn save(&self, content: &[u8]) -> io::Result<()> {
        let _writing = match self.writing.try_lock() {
            Ok(guard) => guard,
            // Nothing is kept in it that a panic could have left half done.
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => {
                let error = io::Error::other("an earlier write is still under way");
                return Err(self.at(error));
            }
        };
        self.replace(content).map_err(|error| self.at(error))
    }

    fn replace(&self, content: &[u8]) -> io::Result<()> {
        let directory = self.directory();
        // Only its owner can read a temporary file, and it stays so.
        let mut file =
            tempfile::Builder::new().prefix(&self.unfinished()).tempfile_in(directory)?;
        file.write_all(content)?;
        file.as_file().sync_all()?;
        file.persist(&self.path).map_err(|error| error.error)?;
        sync_directory(directory)
    }

    /// Removes what a process left that ended in the middle of saving: there may be keys in it, and
    /// each one leaves another.
    fn remove_unfinished(&self) -> io::Result<()> {
        let prefix = self.unfinished();
        let entries = match fs::read_dir(self.directory()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            if entry.file_name().as_encoded_bytes().starts_with(prefix.as_encoded_bytes()) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    /// What the name of a file begins with that is to take the place of this one.
    fn unfinished(&self) -> OsString {
        let mut name = self.path.file_name().unwrap_or_default().to_os_string();
        name.push(".new-");
        name
    }

    fn directory(&self) -> &Path {
        match self.path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        }
    }

    fn at(&self, error: io::Error) -> io::Error {
        io::Error::new(error.kind(), format!("{}: {error}", self.path.display()))
    }
}

/// The new name has to be on the disk too.
#[cfg(unix)]
fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Directories cannot be opened as files elsewhere; the file system looks after their names.
#[cfg(not(unix))]
fn sync_directory(_: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use opamp_proto::InstanceUid;

    use super::*;

    fn state(last: u8) -> ClientState {
        let mut state = ClientState::new(InstanceUid::from_parts(1, [last; 10]));
        state.heartbeat_interval_seconds = Some(last.into());
        state
    }

    #[tokio::test]
    async fn what_was_saved_last_is_loaded() {
        let _judged = opamp_spec::judges(&["CONN-11", "CONN-16", "CERT-02"]);
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        let store = FileStore::new(&path);
        assert_eq!(store.load().await.unwrap(), None);
        store.save(&state(1)).await.unwrap();
        store.save(&state(2)).await.unwrap();
        assert_eq!(FileStore::new(&path).load().await.unwrap(), Some(state(2)));
        // Nothing is left that holds what was replaced.
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let mode = fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
    }

    #[tokio::test]
    async fn a_damaged_file_is_kept_aside_and_the_identity_saved_from_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        let store = FileStore::new(&path);
        let whole = state(1).to_bytes();
        for (content, rest) in [
            (whole[..whole.len() - 1].to_vec(), Some(ClientState::new(state(1).instance_uid))),
            (whole[..10].to_vec(), None),
            (Vec::new(), None),
            (b"something else altogether".to_vec(), None),
        ] {
            fs::write(&path, &content).unwrap();
            assert_eq!(store.load().await.unwrap(), rest);
            assert_eq!(fs::read(directory.path().join("state.damaged")).unwrap(), content);
            assert!(!path.exists());
            assert_eq!(store.load().await.unwrap(), None);
        }
    }

    #[tokio::test]
    async fn what_a_process_left_that_ended_while_it_saved_is_removed() {
        let _judged = opamp_spec::judges(&["CERT-02"]);
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        let store = FileStore::new(&path);
        store.save(&state(1)).await.unwrap();
        let unfinished = store.file.unfinished();
        let left = tempfile::Builder::new().prefix(&unfinished).tempfile_in(&directory).unwrap();
        left.keep().unwrap();
        fs::write(directory.path().join("another.new-1"), "not ours").unwrap();
        assert_eq!(FileStore::new(&path).load().await.unwrap(), Some(state(1)));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
        assert_eq!(FileStore::new(directory.path().join("no/state")).load().await.unwrap(), None);
    }

    #[tokio::test]
    async fn an_error_names_the_file_and_leaves_what_was_saved() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("gone/state");
        let error = FileStore::new(&path).save(&state(1)).await.unwrap_err();
        assert!(error.to_string().contains("gone/state"), "{error}");

        let path = directory.path().join("state");
        let store = FileStore::new(&path);
        store.save(&state(1)).await.unwrap();
        let writing = store.file.writing.lock().unwrap();
        let error = store.file.save(&state(2).to_bytes()).unwrap_err();
        assert!(error.to_string().contains("still under way"), "{error}");
        drop(writing);
        assert_eq!(store.load().await.unwrap(), Some(state(1)));
    }
}
