//! Trust and identity in files that something else renews.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::Tls;
use crate::error::{Error, ErrorKind};

/// Where they are. They are read whenever a configuration is made.
#[derive(Debug, Clone, Default)]
pub(super) struct Files {
    pub(super) trusted: Vec<PathBuf>,
    /// The certificates and the key.
    pub(super) identity: Option<(PathBuf, PathBuf)>,
}

/// What tells whether files have changed since.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stamp(Vec<Option<(SystemTime, u64)>>);

impl Tls {
    /// As of now, with what is in the files.
    pub(super) fn loaded(&self) -> Result<Self, Error> {
        let mut loaded = Self { files: Files::default(), ..self.clone() };
        for path in &self.files.trusted {
            loaded = loaded.trust_pem(&read(path)?)?;
        }
        if let Some((certificates, key)) = &self.files.identity {
            loaded = loaded.identity_pem(&read(certificates)?, &read(key)?)?;
        }
        Ok(loaded)
    }

    /// Looks at the files, without reading them.
    pub(crate) fn stamp(&self) -> Stamp {
        let Files { trusted, identity } = &self.files;
        let identity = identity.iter().flat_map(|(certificates, key)| [certificates, key]);
        let stamp = |path: &PathBuf| {
            let metadata = std::fs::metadata(path).ok()?;
            Some((metadata.modified().ok()?, metadata.len()))
        };
        Stamp(trusted.iter().chain(identity).map(stamp).collect())
    }
}

pub(super) fn read(path: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(|error| {
        let message = format!("cannot read {}", path.display());
        Error::with_source(ErrorKind::Tls, message, error)
    })
}
