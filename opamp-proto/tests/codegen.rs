//! Keeps the checked-in messages equal to what the schema generates.

use std::path::{Path, PathBuf};

use prost_types::FileDescriptorSet;

/// Messages whose `Debug` is hand-written in `src/redact.rs`, since they carry secrets or bulk.
const REDACTED: &[&str] = &[
    "AgentConfigFile",
    "CertificateRequest",
    "CustomMessage",
    "DownloadableFile",
    "Header",
    "OpAMPConnectionSettings",
    "OtherConnectionSettings",
    "ProxyConnectionSettings",
    "TLSCertificate",
    "TLSConnectionSettings",
    "TelemetryConnectionSettings",
];

const NOTICE: &str = "// Generated from proto/opamp/v1 by tests/codegen.rs. Do not edit.\n\n";

fn descriptors(proto: &Path) -> FileDescriptorSet {
    protox::Compiler::new([proto])
        .and_then(|mut compiler| {
            compiler
                .include_source_info(true)
                .include_imports(true)
                .open_file(proto.join("opamp/v1/opamp.proto"))
                .map(|compiler| compiler.file_descriptor_set())
        })
        .expect("the schema compiles")
}

fn generate(proto: &Path) -> String {
    let mut config = prost_build::Config::new();
    config
        .btree_map(["."])
        .bytes(["."])
        .skip_debug(REDACTED.iter().map(|name| format!(".opamp.proto.v1.{name}")));
    let set = descriptors(proto);
    let requests = set
        .file
        .into_iter()
        .map(|file| {
            let module = prost_build::Module::from_protobuf_package_name(file.package());
            (module, file)
        })
        .collect();
    let modules = config.generate(requests).expect("code is generated");
    assert_eq!(modules.len(), 1, "all files share one package");
    let code = modules.into_values().next().expect("one module");
    format!("{NOTICE}{code}")
}

#[test]
fn the_checked_in_messages_are_current() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let path = root.join("src/generated/opamp.proto.v1.rs");
    let fresh = generate(&root.join("proto"));
    if std::env::var_os("OPAMP_PROTO_REGENERATE").is_some_and(|value| value == "1") {
        std::fs::write(&path, fresh).expect("the generated file is writable");
        return;
    }
    let checked_in = std::fs::read_to_string(&path).unwrap_or_default();
    let first_difference = checked_in.lines().zip(fresh.lines()).position(|(a, b)| a != b);
    assert!(
        checked_in == fresh,
        "{} differs from what proto/ generates (first at line {:?}); \
         run `OPAMP_PROTO_REGENERATE=1 cargo test -p opamp-proto --test codegen` and check the result in",
        path.display(),
        first_difference.map(|line| line + 1),
    );
}
