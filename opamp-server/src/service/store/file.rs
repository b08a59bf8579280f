//! A store in a file.

use std::fs::{File, OpenOptions};
use std::ops::Bound;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use redb::{
    Builder, Database, DatabaseError, ReadableDatabase as _, StorageError, TableDefinition,
    TableError,
};

use super::{StateStore, StoreError};
use crate::fleet::Change;

/// The version of the tables.
const FORMAT: u32 = 1;

const META: TableDefinition<'_, &str, u32> = TableDefinition::new("opamp-server");
const STATE: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("state");

/// Memory for pages of the file. What is read and written most, numbers and times, is smaller.
const CACHE: usize = 64 * 1024 * 1024;

/// A [`StateStore`] in a file, which this process alone may have open.
///
/// Every batch is one transaction that is on the disk when it returns. The file is two to three
/// times as large as what was reported and does not shrink. It is readable by its owner alone,
/// since connection settings hold credentials, and can be copied while no server has it open. After
/// a crash it is checked from end to end when it is opened.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use opamp_server::service::store::FileStore;
/// use opamp_server::{AcceptAll, Server};
///
/// # let directory = std::env::temp_dir().join(format!("opamp-file-store-{}", std::process::id()));
/// let store = FileStore::open(directory.join("fleet.redb"))?;
/// let server = Server::bind("127.0.0.1:0").state_store(store).listen(AcceptAll).await?;
/// println!("{} Agents are known", server.fleet().len());
/// # server.shutdown_handle().shutdown();
/// # server.run().await;
/// # std::fs::remove_dir_all(directory)?;
/// # Ok(())
/// # }
/// ```
pub struct FileStore {
    shared: Arc<Shared>,
}

struct Shared {
    path: PathBuf,
    /// `None` after a failure: it is opened again for the next call.
    database: Mutex<Option<Database>>,
}

impl std::fmt::Debug for FileStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileStore").field("path", &self.shared.path).finish_non_exhaustive()
    }
}

impl FileStore {
    /// Opens the file, or creates it with the directories it is in. Blocks, after a crash of a
    /// large store for seconds.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the file cannot be opened or created, is open in another process, is
    /// damaged or none, or was written by a later version; its text says what to do.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let path = path.into();
        let database = open(&path)?;
        Ok(Self { shared: Arc::new(Shared { path, database: Mutex::new(Some(database)) }) })
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shared) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let shared = Arc::clone(&self.shared);
        let done = tokio::task::spawn_blocking(move || work(&shared)).await;
        done.unwrap_or_else(|error| Err(StoreError::caused_by("the store's thread ended", error)))
    }
}

impl StateStore for FileStore {
    async fn load(
        &self,
        after: Option<&[u8]>,
        max_bytes: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        let after = after.map(<[u8]>::to_vec);
        self.blocking(move |shared| {
            shared.with(|database| load(database, after.as_deref(), max_bytes))
        })
        .await
    }

    async fn save(&self, changes: Arc<[Change]>) -> Result<(), StoreError> {
        self.blocking(move |shared| shared.with(|database| save(database, &changes))).await
    }
}

impl Shared {
    fn database(&self) -> MutexGuard<'_, Option<Database>> {
        self.database.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// After a failure the library takes nothing more before the file is opened anew, so that is
    /// what the next call begins with.
    fn with<T>(
        &self,
        work: impl FnOnce(&Database) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        let mut database = self.database();
        let opened = match database.take() {
            Some(opened) => opened,
            None => open(&self.path)?,
        };
        let done = work(&opened).map_err(|error| self.unusable(error))?;
        *database = Some(opened);
        Ok(done)
    }

    fn unusable(&self, error: redb::Error) -> StoreError {
        let path = self.path.display();
        match error {
            redb::Error::Corrupted(_) => damaged(&self.path, error),
            error => StoreError::caused_by(format!("the state file {path}"), error),
        }
    }
}

fn damaged(path: &Path, cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> StoreError {
    let path = path.display();
    let text = format!(
        "the state file {path} is damaged, or is none. Put a copy of it in its place, or move it away \
         to start without what is stored: Agents then report anew, and what was set for them has to \
         be set again, and what was revoked revoked"
    );
    StoreError::caused_by(text, cause)
}

fn open(path: &Path) -> Result<Database, StoreError> {
    let name = path.display();
    let file = create(path).map_err(|error| {
        StoreError::caused_by(format!("cannot open the state file {name}"), error)
    })?;
    let opening = AssertUnwindSafe(|| Builder::new().set_cache_size(CACHE).create_file(file));
    // What is damaged badly enough makes the library panic.
    let opened = std::panic::catch_unwind(opening);
    let database = match opened {
        Ok(Ok(database)) => database,
        Ok(Err(DatabaseError::DatabaseAlreadyOpen)) => {
            let text = format!("another process has the state file {name} open: stop it first");
            return Err(StoreError::new(text));
        }
        Ok(Err(DatabaseError::Storage(StorageError::Io(error))))
            if error.kind() != std::io::ErrorKind::InvalidData =>
        {
            let text = format!("cannot read the state file {name}");
            return Err(StoreError::caused_by(text, error));
        }
        Ok(Err(error)) => return Err(damaged(path, error)),
        Err(_panic) => return Err(damaged(path, "it cannot be made sense of")),
    };
    match check_format(&database) {
        Ok(FORMAT) => Ok(database),
        Ok(found) => Err(StoreError::new(format!(
            "the state file {name} has format {found}, and this version knows {FORMAT}: use the \
             version that has written it, or move it away to start without what is stored"
        ))),
        Err(error @ (redb::Error::Corrupted(_) | redb::Error::TableTypeMismatch { .. })) => {
            Err(damaged(path, error))
        }
        Err(error) => Err(StoreError::caused_by(format!("the state file {name}"), error)),
    }
}

/// Opens the file for its owner alone. A new one is in its directory for certain.
fn create(path: &Path) -> std::io::Result<File> {
    let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty());
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    match options.open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        opened => return opened,
    }
    if let Some(directory) = directory {
        std::fs::create_dir_all(directory)?;
    }
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let file = options.create(true).truncate(false).open(path)?;
    #[cfg(unix)]
    File::open(directory.unwrap_or(Path::new(".")))?.sync_all()?;
    Ok(file)
}

/// The format of the tables, which a new file is given.
fn check_format(database: &Database) -> Result<u32, redb::Error> {
    let read = database.begin_read()?;
    match read.open_table(META) {
        Ok(meta) => {
            if let Some(format) = meta.get("format")? {
                return Ok(format.value());
            }
        }
        Err(TableError::TableDoesNotExist(_)) => {}
        Err(error) => return Err(error.into()),
    }
    drop(read);
    let write = database.begin_write()?;
    write.open_table(META)?.insert("format", FORMAT)?;
    write.open_table(STATE)?;
    write.commit()?;
    Ok(FORMAT)
}

fn load(
    database: &Database,
    after: Option<&[u8]>,
    max_bytes: usize,
) -> Result<Vec<(Bytes, Bytes)>, redb::Error> {
    let read = database.begin_read()?;
    let table = read.open_table(STATE)?;
    let from = after.map_or(Bound::Unbounded, Bound::Excluded);
    let mut loaded = Vec::new();
    let mut bytes = 0;
    for entry in table.range::<&[u8]>((from, Bound::Unbounded))? {
        if bytes >= max_bytes && !loaded.is_empty() {
            break;
        }
        let (key, value) = entry?;
        let (key, value) = (key.value(), value.value());
        bytes += key.len() + value.len();
        loaded.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
    }
    Ok(loaded)
}

fn save(database: &Database, changes: &[Change]) -> Result<(), redb::Error> {
    // Neighbours in the file one after the other; several changes of one entry stay in order.
    let mut sorted: Vec<_> = changes.iter().collect();
    sorted.sort_by_key(|change| change.key());
    let write = database.begin_write()?;
    {
        let mut table = write.open_table(STATE)?;
        for change in sorted {
            match change.value() {
                Some(value) => {
                    table.insert(change.key(), &value[..])?;
                }
                None => {
                    table.remove(change.key())?;
                }
            }
        }
    }
    write.commit()?;
    Ok(())
}
