//! A certificate authority to start a server with that is tested.

use std::fs;
use std::path::Path;

use opamp_examples::program::Failure;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose,
};

/// Makes an authority: `ca.pem` and `ca-key.pem` in a directory.
pub(crate) fn make(dir: &Path) -> Result<(), Failure> {
    let failed = |error| Failure::caused_by("no authority can be made", error);
    let made = || {
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name.push(DnType::CommonName, "agents of a conformance test");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        CertifiedIssuer::self_signed(params, KeyPair::generate()?)
    };
    let authority = made().map_err(failed)?;
    for (name, text) in
        [("ca.pem", authority.pem()), ("ca-key.pem", authority.key().serialize_pem())]
    {
        let path = dir.join(name);
        fs::write(&path, text).map_err(|error| {
            Failure::caused_by(format!("cannot write {}", path.display()), error)
        })?;
    }
    Ok(())
}
