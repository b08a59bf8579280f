//! A certificate authority for one scenario, and what it issued, as PEM files.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

use crate::check::{Failed, Needed as _};

#[derive(Debug)]
pub(crate) struct Certificates {
    dir: PathBuf,
}

impl Certificates {
    /// Makes an authority, a certificate of it for 127.0.0.1, and an authority that issued nothing.
    pub(crate) fn make(dir: &Path) -> Result<Self, Failed> {
        let made = Self { dir: dir.to_owned() };
        let authority = authority()?;
        let key = KeyPair::generate().needed("a key pair")?;
        let params = CertificateParams::new(["127.0.0.1".to_owned()]).needed("a subject name")?;
        let certificate = params.signed_by(&key, &authority).needed("a certificate")?;
        for (path, pem) in [
            (made.ca(), authority.pem()),
            (made.cert(), certificate.pem()),
            (made.key(), key.serialize_pem()),
            (made.other_ca(), self::authority()?.pem()),
        ] {
            fs::write(path, pem).needed("a PEM file is written")?;
        }
        Ok(made)
    }

    pub(crate) fn ca(&self) -> String {
        self.path("ca.pem")
    }

    pub(crate) fn cert(&self) -> String {
        self.path("cert.pem")
    }

    pub(crate) fn key(&self) -> String {
        self.path("key.pem")
    }

    pub(crate) fn other_ca(&self) -> String {
        self.path("other-ca.pem")
    }

    fn path(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }
}

fn authority() -> Result<CertifiedIssuer<'static, KeyPair>, Failed> {
    let mut params = CertificateParams::new([]).needed("no subject name")?;
    // OpenSSL takes a certificate for self-signed if its issuer is named as it is itself.
    params.distinguished_name.push(DnType::CommonName, "authority of a scenario");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().needed("a key pair")?;
    CertifiedIssuer::self_signed(params, key).needed("a certificate authority")
}
