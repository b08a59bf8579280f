//! A package store in a directory.
//!
//! ```text
//! DIR/lock                     held while the store is open
//! DIR/records                  what is remembered; replaced whole
//! DIR/files/NAME/CONTENT.part  a file that is not committed
//! DIR/files/NAME/CONTENT.from  where its bytes come from
//! DIR/files/NAME/CONTENT       a committed file
//! ```

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use opamp_proto::Message as _;
use sha2::{Digest as _, Sha256};

use super::{FileKey, FileSource, PackageRecords, PackageStore, StoredFile};

/// The most bytes that the files of a store take, unless it is told otherwise.
const DEFAULT_QUOTA: u64 = 8 << 30;

/// The longest part of a path that is made of a name. File systems allow 255 bytes.
const MAX_COMPONENT: usize = 120;

/// What the name of a file begins with that is to take the place of another.
const NEW: &str = ".new-";

/// Keeps packages in a directory of their own, which only its owner can read.
///
/// Whenever the process or the machine ends, the records are either as they were before or as they
/// are to be, and a committed file is whole. Names chosen by the server never become parts of a
/// path as they are. The files together take no more than a quota, 8 GiB by default; note that
/// during an update the old and the new file of a package are both there.
///
/// Records that are damaged are an error, not a fresh start: an agent that forgot what it has would
/// install everything again. Remove the directory for a fresh start.
#[derive(Debug, Clone)]
pub struct FilePackageStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    directory: PathBuf,
    quota: u64,
    /// Bytes that the files take, as far as is known; `None` to be counted anew. One operation at a
    /// time: they are short, and a late one must not meet another on the same file.
    used: Mutex<Option<u64>>,
    _lock: File,
}

impl FilePackageStore {
    /// Opens the store in this directory, which is created if it is missing. No other process can
    /// open it meanwhile. Reads and writes files: not for a thread of an async runtime that is in a
    /// hurry.
    ///
    /// # Errors
    ///
    /// When the directory cannot be written to, or is in use: [`io::ErrorKind::WouldBlock`].
    pub fn open(directory: impl Into<PathBuf>) -> io::Result<Self> {
        Self::open_with_quota(directory, DEFAULT_QUOTA)
    }

    /// As [`open`](Self::open), with another limit in bytes for all files together.
    ///
    /// # Errors
    ///
    /// As those of [`open`](Self::open).
    pub fn open_with_quota(directory: impl Into<PathBuf>, quota: u64) -> io::Result<Self> {
        let directory = directory.into();
        create_private(&directory.join("files"))?;
        let path = directory.join("lock");
        let lock = private().open(&path).map_err(|error| at(&path, error))?;
        lock.try_lock().map_err(|error| at(&path, error.into()))?;
        // What a process that stopped in the middle of a save left behind.
        for path in entries(&directory)? {
            let name = path.file_name().unwrap_or_default();
            if name.as_encoded_bytes().starts_with(NEW.as_bytes()) {
                remove_if_exists(&path)?;
            }
        }
        // New names are on the disk only when their directories are. The one above need not be ours
        // to open; then its owner may see to that.
        sync_directory(&directory)?;
        if let Some(above) = directory.parent().filter(|above| *above != Path::new("")) {
            let _ = sync_directory(above);
        }
        let inner = Inner { directory, quota, used: Mutex::new(None), _lock: lock };
        Ok(Self { inner: Arc::new(inner) })
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner, &mut Option<u64>) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let inner = Arc::clone(&self.inner);
        let work = move || {
            // The number is counted anew after a panic, as after any error.
            let mut used = inner.used.lock().unwrap_or_else(PoisonError::into_inner);
            let result = work(&inner, &mut used);
            if result.is_err() {
                *used = None;
            }
            result
        };
        tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
    }
}

#[async_trait::async_trait]
impl PackageStore for FilePackageStore {
    async fn load(&self) -> io::Result<Option<PackageRecords>> {
        self.run(|inner, _| {
            let path = inner.directory.join("records");
            let Some(content) = read_if_exists(&path)? else { return Ok(None) };
            let records = PackageRecords::from_bytes(&content).map_err(|error| {
                at(&path, io::Error::new(io::ErrorKind::InvalidData, error.to_string()))
            })?;
            Ok(Some(records))
        })
        .await
    }

    async fn save(&self, records: &PackageRecords) -> io::Result<()> {
        let content = records.to_bytes();
        self.run(move |inner, _| replace(&inner.directory.join("records"), &content)).await
    }

    async fn find(&self, key: &FileKey) -> io::Result<Option<StoredFile>> {
        let place = Place::of(key);
        self.run(move |inner, _| {
            let paths = inner.paths(&place);
            if let Some(len) = len_if_exists(&paths.whole)? {
                return Ok(Some(StoredFile { len, source: None, committed: true }));
            }
            let Some(len) = len_if_exists(&paths.part)? else { return Ok(None) };
            let source = read_if_exists(&paths.from)?;
            let source = source.and_then(|source| FileSource::decode(&*source).ok());
            Ok(Some(StoredFile { len, source, committed: false }))
        })
        .await
    }

    async fn start(&self, key: &FileKey, source: &FileSource) -> io::Result<()> {
        let place = Place::of(key);
        let source = source.encode_to_vec();
        self.run(move |inner, used| {
            let paths = inner.paths(&place);
            create_private(&paths.directory)?;
            *used = None;
            // Bytes never stand beside the word of another source.
            remove_if_exists(&paths.whole)?;
            remove_if_exists(&paths.part)?;
            replace(&paths.from, &source)?;
            private().create_new(true).open(&paths.part).map_err(|error| at(&paths.part, error))?;
            Ok(())
        })
        .await
    }

    async fn append(&self, key: &FileKey, offset: u64, bytes: Bytes) -> io::Result<()> {
        let place = Place::of(key);
        self.run(move |inner, used| {
            let more = bytes.len() as u64;
            let before = match *used {
                Some(used) => used,
                None => size_of(&inner.directory.join("files"))?,
            };
            if before.saturating_add(more) > inner.quota {
                let message = format!("the package store is limited to {} bytes", inner.quota);
                return Err(io::Error::new(io::ErrorKind::QuotaExceeded, message));
            }
            let path = inner.paths(&place).part;
            let mut file =
                OpenOptions::new().write(true).open(&path).map_err(|error| at(&path, error))?;
            let end = file.seek(SeekFrom::End(0))?;
            if end != offset {
                let message = format!("the file ends at {end}, not at {offset}");
                return Err(at(&path, io::Error::new(io::ErrorKind::InvalidInput, message)));
            }
            file.write_all(&bytes).map_err(|error| at(&path, error))?;
            *used = Some(before + more);
            Ok(())
        })
        .await
    }

    async fn read(&self, key: &FileKey, offset: u64, len: usize) -> io::Result<Bytes> {
        let place = Place::of(key);
        self.run(move |inner, _| {
            let paths = inner.paths(&place);
            let path = if paths.whole.exists() { paths.whole } else { paths.part };
            let mut file = File::open(&path).map_err(|error| at(&path, error))?;
            file.seek(SeekFrom::Start(offset))?;
            let mut bytes = Vec::new();
            file.take(len as u64).read_to_end(&mut bytes).map_err(|error| at(&path, error))?;
            Ok(bytes.into())
        })
        .await
    }

    async fn commit(&self, key: &FileKey) -> io::Result<PathBuf> {
        let place = Place::of(key);
        self.run(move |inner, used| {
            let paths = inner.paths(&place);
            if !paths.whole.exists() {
                let part = OpenOptions::new().write(true).open(&paths.part);
                part.and_then(|part| part.sync_all()).map_err(|error| at(&paths.part, error))?;
                fs::rename(&paths.part, &paths.whole).map_err(|error| at(&paths.whole, error))?;
            }
            sync_directory(&paths.directory)?;
            // The directory of the package may be new itself.
            sync_directory(&inner.directory.join("files"))?;
            *used = None;
            remove_if_exists(&paths.from)?;
            Ok(paths.whole)
        })
        .await
    }

    async fn discard(&self, key: &FileKey) -> io::Result<()> {
        let place = Place::of(key);
        self.run(move |inner, used| {
            *used = None;
            let paths = inner.paths(&place);
            for path in [&paths.whole, &paths.part, &paths.from] {
                remove_if_exists(path)?;
            }
            Ok(())
        })
        .await
    }

    async fn retain(&self, keys: &[FileKey]) -> io::Result<()> {
        let places: Vec<_> = keys.iter().map(Place::of).collect();
        self.run(move |inner, used| {
            *used = None;
            let paths: Vec<_> = places.iter().map(|place| inner.paths(place)).collect();
            let directories: BTreeSet<_> = paths.iter().map(|paths| &paths.directory).collect();
            let kept: BTreeSet<_> =
                paths.iter().flat_map(|paths| [&paths.whole, &paths.part, &paths.from]).collect();
            for package in directories_in(&inner.directory.join("files"))? {
                if !directories.contains(&package) {
                    fs::remove_dir_all(&package).map_err(|error| at(&package, error))?;
                    continue;
                }
                for file in entries(&package)? {
                    if !kept.contains(&file) {
                        remove_if_exists(&file)?;
                    }
                }
            }
            Ok(())
        })
        .await
    }
}

/// Where a file is, in parts of a path that are fit for any file system.
struct Place {
    package: String,
    content: String,
}

impl Place {
    fn of(key: &FileKey) -> Self {
        Self {
            package: file_name(key.package()),
            content: bounded(hex(key.content()), key.content()),
        }
    }
}

/// A file name for a package: one name for each, fit for any file system, and nothing but a name.
///
/// It begins with `p-`, which keeps off names that mean something to a system, and the empty one.
/// What is not a lower-case letter, a digit, `_`, `-` or an inner dot is written as `%XX`; too long
/// a name is cut, and told from others by the SHA-256 of all of it.
///
/// ```
/// # use opamp_client::packages::file_name;
/// assert_eq!(file_name("collector-0.9"), "p-collector-0.9");
/// assert_eq!(file_name("../../etc/Cron.d"), "p-%2E.%2F..%2Fetc%2F%43ron.d");
/// ```
#[must_use]
pub fn file_name(name: &str) -> String {
    let mut escaped = String::from("p-");
    for (at, byte) in name.bytes().enumerate() {
        let inner_dot = byte == b'.' && at > 0 && at + 1 < name.len();
        if byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-".contains(&byte) || inner_dot
        {
            escaped.push(char::from(byte));
        } else {
            // A string takes whatever is written to it.
            let _ = write!(escaped, "%{byte:02X}");
        }
    }
    bounded(escaped, name.as_bytes())
}

/// Too long a name is cut, and told from others by the hash of all of it.
fn bounded(mut component: String, whole: &[u8]) -> String {
    if component.len() > MAX_COMPONENT {
        component.truncate(MAX_COMPONENT - 66);
        let hash: [u8; 32] = Sha256::digest(whole).into();
        component.push_str("%-");
        component.push_str(&hex(&hash));
    }
    component
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

struct Paths {
    directory: PathBuf,
    whole: PathBuf,
    part: PathBuf,
    from: PathBuf,
}

impl Inner {
    fn paths(&self, place: &Place) -> Paths {
        let directory = self.directory.join("files").join(&place.package);
        let file = |suffix| directory.join(format!("{}{suffix}", place.content));
        Paths { whole: file(""), part: file(".part"), from: file(".from"), directory }
    }
}

fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

fn create_private(directory: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(directory).map_err(|error| at(directory, error))
}

/// Puts a new file in the place of the old one, on the disk and not only in the cache.
fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new()
        .prefix(NEW)
        .tempfile_in(directory)
        .map_err(|error| at(directory, error))?;
    file.write_all(content).map_err(|error| at(path, error))?;
    file.as_file().sync_all().map_err(|error| at(path, error))?;
    file.persist(path).map_err(|error| at(path, error.error))?;
    sync_directory(directory)
}

/// A new name is on the disk only when the directory is; elsewhere than on Unix a directory cannot
/// be opened for that.
fn sync_directory(directory: &Path) -> io::Result<()> {
    if cfg!(unix) {
        let open = File::open(directory);
        open.and_then(|open| open.sync_all()).map_err(|error| at(directory, error))?;
    }
    Ok(())
}

fn read_if_exists(path: &Path) -> io::Result<Option<Vec<u8>>> {
    if_exists(path, fs::read(path))
}

fn len_if_exists(path: &Path) -> io::Result<Option<u64>> {
    Ok(if_exists(path, fs::metadata(path))?.map(|metadata| metadata.len()))
}

fn remove_if_exists(path: &Path) -> io::Result<()> {
    if_exists(path, fs::remove_file(path)).map(|_| ())
}

fn if_exists<T>(path: &Path, result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(at(path, error)),
    }
}

fn entries(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(directory).map_err(|error| at(directory, error))?;
    entries.map(|entry| Ok(entry?.path())).collect()
}

/// What is no directory was not put there by the store, and stays.
fn directories_in(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = entries(directory)?;
    Ok(entries.into_iter().filter(|entry| entry.is_dir()).collect())
}

fn size_of(directory: &Path) -> io::Result<u64> {
    let mut size = 0_u64;
    for package in directories_in(directory)? {
        for file in entries(&package)? {
            size = size.saturating_add(len_if_exists(&file)?.unwrap_or(0));
        }
    }
    Ok(size)
}

/// An error that says where.
fn at(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests;
