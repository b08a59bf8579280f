//! A certificate for servers under test.

use std::fs;
use std::path::Path;

use rcgen::{CertificateParams, KeyPair};

/// Writes a new certificate for 127.0.0.1, signed by itself, and its key into a directory, as
/// `cert.pem` and `key.pem`.
///
/// # Errors
///
/// When a file cannot be written.
pub fn write(directory: &Path) -> Result<(), String> {
    let wrong = |error: rcgen::Error| format!("no certificate can be made: {error}");
    let key = KeyPair::generate().map_err(wrong)?;
    let params = CertificateParams::new(["127.0.0.1".to_owned()]).map_err(wrong)?;
    let certificate = params.self_signed(&key).map_err(wrong)?;
    fs::write(directory.join("cert.pem"), certificate.pem())
        .and_then(|()| fs::write(directory.join("key.pem"), key.serialize_pem()))
        .map_err(|error| format!("{}: {error}", directory.display()))
}
