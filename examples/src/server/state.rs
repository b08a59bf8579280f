//! What the server keeps in a directory over restarts: the fleet, and the packages it hosts.

use std::fs;
use std::path::{Path, PathBuf};

use axum::body::Bytes;
use opamp_server::service::store::FileStore;
use opamp_server::{PackageFile, PackageFiles};

use crate::file::write_atomically;
use crate::program::Failure;

/// The file of the fleet.
const FLEET: &str = "fleet.redb";

/// The directory of the packages' files.
const PACKAGES: &str = "packages";

/// Opens the store of the fleet.
pub(super) fn open(directory: &Path) -> Result<FileStore, Failure> {
    FileStore::open(directory.join(FLEET)).map_err(|error| Failure::caused_by("--state", error))
}

/// The files of packages: served, and kept if there is a directory.
#[derive(Debug, Clone, Default)]
pub(super) struct Hosted {
    files: PackageFiles,
    directory: Option<PathBuf>,
}

impl Hosted {
    /// The files that are kept in the directory.
    pub(super) fn kept_in(state: &Path) -> Result<Self, Failure> {
        let directory = state.join(PACKAGES);
        let unusable = |error| Failure::caused_by(format!("{}", directory.display()), error);
        fs::create_dir_all(&directory).map_err(unusable)?;
        let files = PackageFiles::default();
        for entry in fs::read_dir(&directory).map_err(unusable)? {
            let path = entry.map_err(unusable)?.path();
            let content = fs::read(&path).map_err(unusable)?;
            let file = files
                .add(content)
                .map_err(|error| Failure::caused_by(format!("{}", path.display()), error))?;
            if path.file_name().is_none_or(|name| name != file.name()) {
                // What a crash has left of one that was about to be written.
                files.remove(&file);
                tracing::warn!(path = %path.display(), "not the content its name says; not served");
            }
        }
        Ok(Self { files, directory: Some(directory) })
    }

    /// What serves them.
    pub(super) fn served(&self) -> PackageFiles {
        self.files.clone()
    }

    /// Serves a file from now on.
    pub(super) fn add(&self, content: Bytes) -> Result<PackageFile, String> {
        let Some(directory) = &self.directory else {
            return self.files.add(content).map_err(|error| error.to_string());
        };
        let file = self.files.add(content.clone()).map_err(|error| error.to_string())?;
        let path = directory.join(file.name());
        if !path.exists() {
            write_atomically(&path, &content)
                .map_err(|error| format!("{}: {error}", path.display()))?;
        }
        Ok(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_served_again_and_what_is_half_written_is_not() {
        let state = tempfile::tempdir().unwrap();
        let file =
            Hosted::kept_in(state.path()).unwrap().add(Bytes::from_static(b"content")).unwrap();
        fs::write(state.path().join(PACKAGES).join(".tmp"), b"cont").unwrap();
        let again = Hosted::kept_in(state.path()).unwrap();
        assert!(again.served().remove(&file));
        assert!(!again.served().remove(&PackageFiles::default().add("cont").unwrap()));
    }
}
