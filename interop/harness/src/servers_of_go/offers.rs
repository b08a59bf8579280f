//! What a server offers besides configurations: connection settings, certificates, packages, and
//! custom messages.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::{FULL, Pair, pair, pair_at};
use crate::Outcome;
use crate::check::{Failed, Needed as _, equal, holds};
use crate::example_agent::Agent;
use crate::go_server::{GoServer, Report};
use crate::stage::{Stage, new_uid};

/// A server that announces every capability there is.
const EVERYTHING: &str = "0x7f";

fn base64(bytes: impl AsRef<[u8]>) -> String {
    BASE64.encode(bytes)
}

async fn send(server: &mut GoServer, uid: &str, message: Value) -> Result<(), Failed> {
    server.command(json!({"cmd": "send", "uid": uid, "message": message})).await
}

fn offer(hash: &str, opamp: Value) -> Value {
    json!({"connectionSettings": {"hash": base64(hash), "opamp": opamp}})
}

fn settings_status(report: &Report) -> (String, String) {
    let status = &report.msg()["connectionSettingsStatus"];
    let name = status["status"].as_str().unwrap_or_default();
    let name = name.strip_prefix("ConnectionSettingsStatuses_").unwrap_or(name);
    let hash = status["lastConnectionSettingsHash"].as_str().unwrap_or_default();
    (name.to_owned(), hash.to_owned())
}

/// Waits for the report that this became of the offer.
async fn outcome(server: &mut GoServer, hash: &str, expected: &str) -> Result<Report, Failed> {
    let wanted = (expected.to_owned(), base64(hash));
    let what = format!("the settings {expected}");
    server.report(&what, |report| settings_status(report) == wanted).await
}

pub(super) async fn interval(stage: Stage) -> Outcome {
    let Pair { mut server, agent, uid, .. } = pair(&stage).await?;
    let opamp = json!({"destinationEndpoint": server.url(), "heartbeatIntervalSeconds": "1"});
    send(&mut server, &uid, offer("interval", opamp)).await?;
    outcome(&mut server, "interval", "APPLIED").await?;
    let reports = server.nothing_but_heartbeats(4).await?;
    let pauses: Vec<_> =
        reports.windows(2).map(|pair| (pair[1].at() - pair[0].at()).as_secs_f64()).collect();
    let about_a_second = pauses.iter().all(|pause| (0.8..1.5).contains(pause));
    holds(about_a_second, "a second between heartbeats", format_args!("{pauses:?}"))?;
    equal("connections", &agent.has_said("connected"), &1)?;
    Ok(format!("APPLIED, then pauses of {pauses:.2?} s on the same connection"))
}

pub(super) async fn moved(stage: Stage) -> Outcome {
    let state = stage.dir().join("state").display().to_string();
    let old = GoServer::start(&stage).await?;
    let url = old.url();
    let Pair { server: mut old, mut agent, uid, .. } =
        pair_at(&stage, old, &url, &["--state", &state]).await?;
    let mut new = GoServer::start(&stage).await?;
    let headers = json!({"headers": [{"key": "X-Fleet", "value": "north"}]});
    let opamp = json!({"destinationEndpoint": new.url(), "headers": headers});
    send(&mut old, &uid, offer("move", opamp)).await?;
    outcome(&mut old, "move", "APPLYING").await?;
    old.report("a goodbye", |report| report.fields() == ["agent_disconnect"]).await?;
    let first = new.report("the first report", |_| true).await?;
    equal("sub-messages", &first.fields(), &FULL)?;
    outcome(&mut new, "move", "APPLIED").await?;

    agent.terminate().await?;
    let mark = old.mark();
    let _agent = Agent::start(&stage, &url, &["--state", &state])?;
    let again = new.report("the report of a new process", |report| {
        !report.is_bare() && { report.fields().contains(&"agent_description") }
    });
    let again = again.await?;
    equal("the uid", &again.uid(), &uid.as_str())?;
    equal("messages to the old server", &old.reports_since(mark).len(), &0)?;
    Ok("APPLYING and a goodbye there, APPLIED here; a new process goes here at once".to_owned())
}

pub(super) async fn nobody_there(stage: Stage) -> Outcome {
    let state = stage.dir().join("state").display().to_string();
    let server = GoServer::start(&stage).await?;
    let url = server.url();
    let Pair { mut server, uid, agent: _agent, .. } =
        pair_at(&stage, server, &url, &["--state", &state]).await?;
    // A server that answers 404 to everything: the last word on these settings.
    let (addr, _elsewhere) = serve("404 Not Found", Vec::new()).await?;
    let opamp = json!({"destinationEndpoint": stage.transport.url(false, &addr)});
    send(&mut server, &uid, offer("nobody", opamp)).await?;
    outcome(&mut server, "nobody", "APPLYING").await?;
    let report = outcome(&mut server, "nobody", "FAILED").await?;
    let why = report.msg()["connectionSettingsStatus"]["errorMessage"].to_string();
    holds(why.contains("404"), "the reason", &why)?;
    server.nothing_but_heartbeats(2).await?;
    Ok(format!("back, and FAILED: {why}"))
}

pub(super) async fn custom_message(stage: Stage) -> Outcome {
    let capability = "com.example.echo";
    let server = GoServer::start_with(&stage, &["-custom", capability]).await?;
    let url = server.url();
    let Pair { mut server, uid, first, agent: _agent, .. } =
        pair_at(&stage, server, &url, &["--custom-capability", capability]).await?;
    let announced = &first.msg()["customCapabilities"]["capabilities"];
    equal("the announced capabilities", announced, &json!([capability]))?;
    server
        .command(json!({"cmd": "send_custom", "uid": uid, "capability": capability,
            "type": "hello", "data": base64("world")}))
        .await?;
    let echo = server
        .report("the message again", |report| report.fields().contains(&"custom_message"))
        .await?;
    let expected = json!({"capability": capability, "type": "hello", "data": base64("world")});
    equal("the message", &echo.msg()["customMessage"], &expected)?;
    Ok(format!("{} came back", echo.msg()["customMessage"]))
}

pub(super) async fn package(stage: Stage) -> Outcome {
    let dir = stage.dir().join("packages").display().to_string();
    let server = GoServer::start_with(&stage, &["-capabilities", EVERYTHING]).await?;
    let url = server.url();
    let Pair { mut server, uid, agent: _agent, .. } =
        pair_at(&stage, server, &url, &["--packages", &dir]).await?;
    let content = b"the content of the package".to_vec();
    let (addr, _depot) = serve("200 OK", content.clone()).await?;
    // The digest of the content, and a digest of something else.
    let right = "eCS6k2j+i0uwdw+sHP6s/UzybFVFsnK5/kxpAJU0/GU=";
    let wrong = base64([7; 32]);
    let mut told = Vec::new();
    for (hash, expected) in [(wrong.as_str(), "InstallFailed"), (right, "Installed")] {
        let file = json!({"downloadUrl": format!("http://{addr}/package"), "contentHash": hash});
        let package = json!({"type": "PackageType_TopLevel", "version": "1.0", "file": file,
            "hash": hash});
        let offer = json!({"packages": {"main": package}, "allPackagesHash": hash});
        send(&mut server, &uid, json!({"packagesAvailable": offer})).await?;
        let status = |report: &Report| {
            let package = &report.msg()["packageStatuses"]["packages"]["main"];
            // The JSON of protobuf leaves out what is 0.
            let status = package["status"].as_str().unwrap_or("Installed");
            (package["serverOfferedHash"] == *hash).then(|| status.to_owned())
        };
        let is_it = |report: &Report| status(report).is_some_and(|is| is.ends_with(expected));
        let report = server.report(&format!("the package {expected}"), is_it).await?;
        let package = &report.msg()["packageStatuses"]["packages"]["main"];
        told.push(format!("{expected} {}", package["errorMessage"].as_str().unwrap_or_default()));
    }
    let installed = std::fs::read(format!("{dir}/p-main")).needed("the installed file")?;
    equal("the installed file", &installed, &content)?;
    Ok(told.join(", then "))
}

pub(super) async fn certificate(stage: Stage) -> Outcome {
    let certificates = stage.certificates()?;
    let state = stage.dir().join("state").display().to_string();
    let (cert, key, ca) = (certificates.cert(), certificates.key(), certificates.ca());
    let mut server =
        GoServer::start_with(&stage, &["-cert", &cert, "-key", &key, "-capabilities", EVERYTHING])
            .await?;
    let (url, uid) = (server.url(), new_uid());
    let args = ["--instance-uid", &uid, "--csr", "--state", &state, "--ca", &ca];
    let _agent = Agent::start(&stage, &url, &args)?;
    let request = server
        .report("a request", |report| report.fields().contains(&"connection_settings_request"))
        .await?;
    let csr = request.msg()["connectionSettingsRequest"]["opamp"]["certificateRequest"]["csr"]
        .as_str()
        .and_then(|csr| BASE64.decode(csr).ok())
        .and_then(|csr| String::from_utf8(csr).ok())
        .ok_or_else(|| Failed::new("a CSR in PEM", request.text()))?;
    let issued = issue(&csr)?;
    let opamp = json!({"destinationEndpoint": url, "certificate": {"cert": base64(issued)}});
    send(&mut server, &uid, offer("issued", opamp)).await?;
    outcome(&mut server, "issued", "APPLYING").await?;
    outcome(&mut server, "issued", "APPLIED").await?;
    Ok("a CSR, the certificate without a key, APPLIED on a connection made with it".to_owned())
}

fn issue(csr: &str) -> Result<String, Failed> {
    let mut params = CertificateParams::new([]).needed("no subject name")?;
    params.distinguished_name.push(DnType::CommonName, "authority of the fleet");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().needed("a key pair")?;
    let authority = CertifiedIssuer::self_signed(params, key).needed("an authority")?;
    let request = rcgen::CertificateSigningRequestParams::from_pem(csr).needed("a CSR")?;
    Ok(request.signed_by(&authority).needed("a certificate")?.pem())
}

/// Answers every HTTP request alike, until the task is dropped.
async fn serve(
    status: &'static str,
    body: Vec<u8>,
) -> Result<(String, tokio::task::JoinSet<()>), Failed> {
    let listener = TcpListener::bind("127.0.0.1:0").await.needed("a free port")?;
    let addr = listener.local_addr().needed("its address")?.to_string();
    let mut serving = tokio::task::JoinSet::new();
    serving.spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let head = format!(
                "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                body.len()
            );
            let mut request = [0; 4096];
            // Whoever leaves early gets nothing.
            let _ = stream.read(&mut request).await;
            let _ = stream.write_all(&[head.as_bytes(), &body].concat()).await;
            let _ = stream.shutdown().await;
        }
    });
    Ok((addr, serving))
}
