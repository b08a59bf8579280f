//! The local authority and the requests it is asked with, good and hostile ones.
#![allow(clippy::disallowed_methods, reason = "certificates are valid by the system's clock")]

mod authority;
mod requests;

use opamp_proto::InstanceUid;
use opamp_server::{AgentKey, LocalCa};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose,
};

const UID: [u8; 16] = [7; 16];
const TEXT: &str = "07070707-0707-0707-0707-070707070707";

fn agent() -> AgentKey {
    InstanceUid::from_bytes(UID).into()
}

/// What an authority is made of.
struct Made {
    certificate: String,
    key: String,
}

fn authority(adjust: impl FnOnce(&mut CertificateParams)) -> Made {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, "authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    adjust(&mut params);
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap().pem();
    Made { certificate, key: key.serialize_pem() }
}

impl Made {
    fn ca(&self) -> LocalCa {
        LocalCa::from_pem(self.certificate.as_bytes(), self.key.as_bytes()).unwrap()
    }
}

/// An authority that another one vouches for: the chain, its own certificate first.
fn intermediate() -> Made {
    let issuer = |name: &str| {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
    };
    let root = CertifiedIssuer::self_signed(issuer("root"), KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let own = issuer("between").signed_by(&key, &root).unwrap();
    Made { certificate: own.pem() + &root.pem(), key: key.serialize_pem() }
}

/// A request with these parameters for a new key.
fn csr(adjust: impl FnOnce(&mut CertificateParams)) -> String {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    adjust(&mut params);
    params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap()
}

fn named(name: &str) -> String {
    csr(|params| params.distinguished_name.push(DnType::CommonName, name))
}
