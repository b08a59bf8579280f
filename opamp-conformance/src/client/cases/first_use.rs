//! Trust and registration on first use: a client without credentials of its own, and what becomes
//! of those it is given.

use http::header::AUTHORIZATION;
use opamp_proto::v1::{ConnectionSettingsStatuses, Header, Headers};
use tokio::time::Instant;

use super::certificates::Certificates;
use crate::case::{Case, Script};
use crate::client::offer::Place;
use crate::client::{ClientStage, Heard, Host, Start};
use crate::judge::Stop;
use crate::report::Transport;
use crate::wire::authority::{Authority, server_config};
use crate::wire::http_client::field;

pub(super) const CASES: &[Case] = &[
    Case {
        name: "client/first-use/ordinary-tls",
        judges: &["TOFU-01"],
        transports: Transport::BOTH,
        does: "starts a client without certificate at a server it cannot trust, and then at one it can",
        expects: "it reports to the second alone, and presents no certificate",
        alone: false,
        broken_by: &["servers-are-not-verified", "first-report-is-empty"],
        script: Script::Client(|stage| Box::pin(ordinary_tls(stage))),
    },
    Case {
        name: "client/first-use/registration",
        judges: &["TOFU-07"],
        transports: Transport::BOTH,
        does: "offers credentials at once, and starts the client again when it uses them",
        expects: "it uses them from then on",
        alone: false,
        broken_by: &["accepted-settings-are-not-kept"],
        script: Script::Client(|stage| Box::pin(registration(stage))),
    },
];

async fn ordinary_tls(stage: &mut ClientStage) -> Result<(), Stop> {
    stage.takes("ca")?;
    let certificates = Certificates::new(stage)?;
    let stranger = Authority::new("an authority nobody knows")?;
    let mut wrong =
        stage.host_with_tls(Some(server_config(&stranger.server()?, None, false)?)).await?;
    let start = certificates.start(stage, &wrong);
    let mut client = stage.start(start).await?;
    let came = hears(stage, &mut wrong).await;
    client.kill().await;
    drop(client);
    let expected = "no message to a server that is not trusted";
    stage.judge.expect("TOFU-01", !came, expected, if came { "a message" } else { "none" });
    let mut host = certificates.server(stage).await?;
    let start = certificates.start(stage, &host);
    let (_client, first) = stage.admit(&mut host, start).await?;
    let bare = host.visitor.as_ref().is_some_and(|visitor| visitor.certificates.is_empty());
    let holds = bare && first.agent_description.is_some();
    let actual = match (bare, holds) {
        (_, true) => "it is there",
        (false, _) => "a certificate",
        (true, _) => "a first message without description",
    };
    stage.judge.expect("TOFU-01", holds, "a status report, and no certificate", actual);
    Ok(())
}

/// Whether anything comes to this server soon after the client has tried to connect.
async fn hears(stage: &ClientStage, host: &mut Host) -> bool {
    let mut until = Instant::now() + stage.pace.start();
    let mut is_tried = false;
    while Instant::now() < until {
        if let Heard::Message(_) | Heard::Malformed(_) = host.next(stage.pace.of(0.1)).await {
            return true;
        }
        if !is_tried && !host.endpoint.attempts().is_empty() {
            is_tried = true;
            until = Instant::now() + stage.pace.quiet();
        }
    }
    false
}

async fn registration(stage: &mut ClientStage) -> Result<(), Stop> {
    stage.takes("state")?;
    let mut host = stage.host().await?;
    let bootstrap = ("Authorization".to_owned(), "Bearer everybody".to_owned());
    let start = Start {
        state: Some(stage.state()),
        headers: stage.subject.takes("headers").then_some(bootstrap).into_iter().collect(),
        ..stage.start_for(&host)
    };
    let (mut client, first) = stage.admit(&mut host, start.clone()).await?;
    let personal = "Bearer this-client-only";
    let header = Header { key: "Authorization".to_owned(), value: personal.to_owned() };
    let mut settings = stage.settings_for(&host);
    settings.headers = Some(Headers { headers: vec![header] });
    let mut offer = stage.offer(&mut host, &first, settings).await?;
    // The old and the new server are one.
    let until = Instant::now() + stage.pace.work() + stage.pace.comeback();
    while !uses(&host, personal) {
        if Instant::now() > until || offer.last() == Some(ConnectionSettingsStatuses::Failed) {
            let reported = offer.reported();
            let why = format!("the client does not use the offered header field, and {reported}");
            return Err(Stop::Unreached(why));
        }
        if let Heard::Message(message) = host.next(stage.pace.of(0.1)).await {
            offer.note(Place::Old, &message);
        }
    }
    offer.verdict(stage, Place::New, &mut host).await;
    host.answer().await;
    host.collect(stage.pace.of(0.5)).await;
    client.kill().await;
    stage.log.remark("the client is killed");
    host.cut();
    host.visitor = None;
    let _client = stage.start(start).await?;
    let back = host.hear(stage.pace.start() + stage.pace.work(), |_| true).await.is_some();
    let actual = match (back, uses(&host, personal)) {
        (false, _) => "the client does not come back",
        (true, true) => "it does",
        (true, false) => "it comes with other credentials",
    };
    let expected = "the credentials it was given";
    stage.judge.expect("TOFU-07", back && uses(&host, personal), expected, actual);
    Ok(())
}

fn uses(host: &Host, authorization: &str) -> bool {
    let visitor = host.visitor.as_ref();
    visitor.is_some_and(|visitor| field(&visitor.headers, AUTHORIZATION) == authorization)
}
