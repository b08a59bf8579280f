//! Runs the programs as a user does, and looks at the fleet through the admin API.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

/// The longest a test waits for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// A program in its process, killed when dropped.
pub(crate) struct Program {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

pub(crate) fn agent(args: &[&str]) -> Program {
    Program::start(env!("CARGO_BIN_EXE_agent"), args)
}

impl Program {
    pub(crate) fn start(path: &str, args: &[&str]) -> Self {
        let mut child = Command::new(path)
            .args(args)
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// Reads what it prints up to the line that begins with this.
    pub(crate) async fn line(&mut self, begin: &str) -> String {
        let wait = async {
            while let Some(line) = self.lines.next_line().await.unwrap() {
                if line.starts_with(begin) {
                    return line;
                }
            }
            let mut stderr = String::new();
            let mut pipe = self.child.stderr.take().unwrap();
            pipe.read_to_string(&mut stderr).await.unwrap();
            panic!("it ended without printing {begin:?}: {stderr}");
        };
        tokio::time::timeout(PATIENCE, wait)
            .await
            .unwrap_or_else(|_| panic!("it never printed {begin:?}"))
    }

    /// Reads what it logs up to a line with these words; to be called once.
    pub(crate) async fn logs(&mut self, words: &str) -> String {
        let mut lines = BufReader::new(self.child.stderr.take().unwrap()).lines();
        let wait = async {
            while let Some(line) = lines.next_line().await.unwrap() {
                if line.contains(words) {
                    return line;
                }
            }
            panic!("it ended without a word of {words:?}");
        };
        tokio::time::timeout(PATIENCE, wait)
            .await
            .unwrap_or_else(|_| panic!("it never logged {words:?}"))
    }

    async fn signal(&self, signal: &str) {
        let id = self.child.id().unwrap().to_string();
        assert!(Command::new("kill").args([signal, &id]).status().await.unwrap().success());
    }

    /// Sends SIGHUP.
    pub(crate) async fn hang_up(&self) {
        self.signal("-HUP").await;
    }

    /// Sends SIGTERM and gives the exit status.
    pub(crate) async fn terminate(mut self) -> Option<i32> {
        self.signal("-TERM").await;
        let status = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        status.expect("it stops when told to").unwrap().code()
    }

    /// Ends it without a word.
    pub(crate) async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }
}

/// Exit status, stdout and stderr of a program that ends by itself.
pub(crate) async fn run(path: &str, args: &[&str]) -> (Option<i32>, String, String) {
    run_in(&std::env::temp_dir(), path, args).await
}

/// As [`run`], with this directory for temporary files.
pub(crate) async fn run_in(
    temporary: &Path,
    path: &str,
    args: &[&str],
) -> (Option<i32>, String, String) {
    let output = Command::new(path)
        .args(args)
        .env_remove("RUST_LOG")
        .env("TMPDIR", temporary)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(2 * PATIENCE, output).await.expect("it ends").unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// The server program, and its admin API.
pub(crate) struct Server {
    pub program: Program,
    /// Host and port for agents.
    pub(crate) opamp: String,
    pub(crate) admin: String,
    http: reqwest::Client,
}

impl Server {
    pub(crate) async fn start(args: &[&str]) -> Self {
        Self::start_at("127.0.0.1:0", args).await
    }

    /// A server at this address, as agents that are to come back expect it.
    pub(crate) async fn start_at(addr: &str, args: &[&str]) -> Self {
        let addrs = ["--listen", addr, "--admin", "127.0.0.1:0"];
        let mut program = Program::start(env!("CARGO_BIN_EXE_server"), &[&addrs, args].concat());
        let line = program.line("listening ").await;
        let field = |name: &str| {
            let mut fields = line.split(' ').filter_map(|field| field.strip_prefix(name));
            fields.next().unwrap_or_else(|| panic!("no {name} in {line:?}")).to_owned()
        };
        let (opamp, admin) = (field("opamp="), field("admin="));
        // The HTTP client wants one even where it uses no TLS; another test may have been first.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().unwrap();
        Self { program, opamp, admin, http }
    }

    /// Status and body of a request to the admin API.
    pub(crate) async fn request(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let method = method.parse().unwrap();
        let url = format!("http://{}{path}", self.admin);
        let response = self.http.request(method, url).body(body.to_owned()).send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    }

    /// The JSON of a request that succeeds.
    pub(crate) async fn json(&self, method: &str, path: &str, body: &str) -> Value {
        let (status, body) = self.request(method, path, body).await;
        assert!((200..300).contains(&status), "{method} {path}: {status} {body}");
        serde_json::from_str(&body).unwrap()
    }

    /// The only agent, as soon as it is as expected.
    pub(crate) async fn until(&self, expected: &str, check: impl Fn(&Value) -> bool) -> Value {
        let began = tokio::time::Instant::now();
        loop {
            let agents = self.json("GET", "/v1/agents", "").await;
            let [agent] = agents["agents"].as_array().unwrap().as_slice() else {
                assert!(began.elapsed() < PATIENCE, "no agent, or several: {agents}");
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            };
            if check(agent) {
                return agent.clone();
            }
            assert!(began.elapsed() < PATIENCE, "never {expected}: {agent:#}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Files of a new authority, `ca.pem` and `ca-key.pem`, and of certificates for these names, the same
/// for each. Gives the path of a file.
pub(crate) fn certificates(dir: &Path, names: &[&str]) -> impl Fn(&str) -> String + use<> {
    let dir = dir.to_owned();
    let path = move |name: &str| dir.join(name).to_str().unwrap().to_owned();
    let write = |name: &str, certificate: String, key: &rcgen::KeyPair| {
        std::fs::write(path(&format!("{name}.pem")), certificate).unwrap();
        std::fs::write(path(&format!("{name}-key.pem")), key.serialize_pem()).unwrap();
    };
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign, rcgen::KeyUsagePurpose::CrlSign];
    let key = rcgen::KeyPair::generate().unwrap();
    let authority = rcgen::CertifiedIssuer::self_signed(params, key).unwrap();
    write("ca", authority.pem(), authority.key());
    for name in names {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new([(*name).to_owned()]).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, *name);
        write(name, params.signed_by(&key, &authority).unwrap().pem(), &key);
    }
    path
}
