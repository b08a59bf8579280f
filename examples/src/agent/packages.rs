//! The agent's packages: files in a directory, each under a name made of the package's.
//!
//! ```text
//! DIR/p-NAME   what is installed
//! DIR/.store   what the client keeps: records, downloads, the files as they came
//! ```

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use opamp_client::packages::{
    FilePackageStore, InstalledPackage, Minisign, PackageOffer, PackageRemoval, Packages, file_name,
};
use opamp_proto::v1::PackageType;

use super::args::{AgentArgs, read};
use crate::program::Failure;

/// Where packages are installed.
#[derive(Debug, Clone)]
pub(super) struct Installation {
    directory: PathBuf,
}

impl Installation {
    /// Opens what the arguments name, and says how packages are taken.
    pub(super) fn open(args: &AgentArgs) -> Result<Option<(Self, Packages)>, Failure> {
        let Some(directory) = args.packages.clone() else { return Ok(None) };
        let store = FilePackageStore::open(directory.join(".store"))
            .map_err(|error| Failure::caused_by("the packages cannot be kept", error))?;
        let packages = match &args.package_key {
            None => Packages::verified_by_hash(store),
            Some(path) => {
                let key = String::from_utf8_lossy(&read(path)?).into_owned();
                let key = Minisign::new(&key)
                    .map_err(|error| Failure::caused_by(path.display(), error).of_usage())?;
                Packages::verified_by_signature(store, key)
            }
        };
        // The program itself did not come from the server.
        let version = env!("CARGO_PKG_VERSION");
        let program = InstalledPackage::local(PackageType::TopLevel, version).with_hash(version);
        let packages = packages.local(env!("CARGO_PKG_NAME"), program).tls(args.tls()?);
        Ok(Some((Self { directory }, packages)))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(file_name(name))
    }

    /// Puts the file in the place of the one before, whole or not at all. Reads and writes files:
    /// not for a thread of the runtime.
    pub(super) fn install(&self, offer: &PackageOffer) -> io::Result<()> {
        copy_atomically(offer.location(), &self.path(offer.name()))
    }

    /// Removes the file; one that is not there is removed. Not for a thread of the runtime either.
    pub(super) fn remove(&self, removal: &PackageRemoval) -> io::Result<()> {
        match fs::remove_file(self.path(removal.name())) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

fn copy_atomically(from: &Path, to: &Path) -> io::Result<()> {
    let directory = to.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    io::copy(&mut File::open(from)?, &mut file)?;
    file.as_file().sync_all()?;
    file.persist(to)?;
    // As with any new name: it is on disk only when the directory is.
    if cfg!(unix) {
        File::open(directory)?.sync_all()?;
    }
    Ok(())
}
