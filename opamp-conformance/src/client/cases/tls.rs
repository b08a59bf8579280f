//! TLS settings in offers: whom the client is to trust, and which versions and cipher suites it is
//! to use. The server they are for is one the client knows nothing of but by the offer.

use opamp_proto::v1::{ConnectionSettingsStatuses, OpAmpConnectionSettings, TlsConnectionSettings};
use rustls::version::{TLS12, TLS13};
use rustls::{CipherSuite, SupportedProtocolVersion};

use crate::case::{Case, Script};
use crate::client::offer::Outcome;
use crate::client::{ClientStage, Host};
use crate::judge::Stop;
use crate::report::Transport;
use crate::wire::authority::{Authority, limited_server_config};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "client/tls/authority",
        judges: &["TLS-03"],
        transports: Transport::BOTH,
        does: "offers a server whose certificate is of a private authority, and that authority",
        expects: "the client connects",
        alone: false,
        broken_by: &["offered-authority-is-not-trusted"],
        script: Script::Client(|stage| Box::pin(authority(stage))),
    },
    Case {
        name: "client/tls/left-out",
        judges: &["TLS-02"],
        transports: Transport::BOTH,
        does: "offers TLS settings, and then another server without TLS settings",
        expects: "the client goes on using the earlier ones",
        alone: false,
        broken_by: &["tls-settings-left-out-are-forgotten", "highest-tls-version-is-ignored"],
        script: Script::Client(|stage| Box::pin(left_out(stage))),
    },
    Case {
        name: "client/tls/no-verification",
        judges: &["TLS-05"],
        transports: Transport::BOTH,
        does: "offers a server nobody vouches for, and not to verify it",
        expects: "the client connects, or says that it does not",
        alone: false,
        broken_by: &["no-verification-is-refused-silently"],
        script: Script::Client(|stage| Box::pin(no_verification(stage))),
    },
    Case {
        name: "client/tls/lowest-version",
        judges: &["TLS-06"],
        transports: Transport::BOTH,
        does: "asks for TLS 1.3 at least, at a server that has 1.2 only",
        expects: "the client does not connect",
        alone: false,
        broken_by: &["lowest-tls-version-is-ignored"],
        script: Script::Client(|stage| Box::pin(lowest_version(stage))),
    },
    Case {
        name: "client/tls/highest-version",
        judges: &["TLS-07"],
        transports: Transport::BOTH,
        does: "asks for TLS 1.2 at most, at a server that has 1.3 too",
        expects: "the client connects with TLS 1.2",
        alone: false,
        broken_by: &["highest-tls-version-is-ignored"],
        script: Script::Client(|stage| Box::pin(highest_version(stage))),
    },
    Case {
        name: "client/tls/cipher-suites",
        judges: &["TLS-08"],
        transports: Transport::BOTH,
        does: "names one cipher suite of TLS 1.2, which the server likes least",
        expects: "the client connects with this one, having offered no other",
        alone: false,
        broken_by: &["cipher-suites-are-ignored"],
        script: Script::Client(|stage| Box::pin(cipher_suites(stage))),
    },
];

const BOTH: &[&SupportedProtocolVersion] = &[&TLS13, &TLS12];
/// A suite that every client with TLS 1.2 has.
const SUITE: (CipherSuite, &str) = (
    CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
);

/// A server of this authority with these versions.
async fn server(
    stage: &ClientStage,
    authority: &Authority,
    versions: &[&'static SupportedProtocolVersion],
) -> Result<Host, Stop> {
    let tls = limited_server_config(&authority.server()?, versions, Some(SUITE.0))?;
    stage.host_with_tls(Some(tls)).await
}

fn trusting(authority: &Authority) -> TlsConnectionSettings {
    TlsConnectionSettings { ca_pem_contents: authority.pem().to_owned(), ..Default::default() }
}

fn with(stage: &ClientStage, new: &Host, tls: TlsConnectionSettings) -> OpAmpConnectionSettings {
    OpAmpConnectionSettings { tls: Some(tls), ..stage.settings_for(new) }
}

/// What the last TLS handshake agreed on, in words.
fn version(host: &Host) -> String {
    let negotiated = host.visitor.as_ref().and_then(|visitor| visitor.negotiated.as_ref());
    negotiated.map_or("no TLS".to_owned(), |negotiated| negotiated.version.clone())
}

async fn authority(stage: &mut ClientStage) -> Result<(), Stop> {
    let (mut old, _client, first) = stage.meet().await?;
    let authority = Authority::new("a private authority")?;
    let mut new = server(stage, &authority, BOTH).await?;
    let settings = with(stage, &new, trusting(&authority));
    let mut offer = stage.offer(&mut old, &first, settings).await?;
    offer.must_arrive(stage, &mut old, &mut new, "TLS-03").await?;
    Ok(())
}

async fn left_out(stage: &mut ClientStage) -> Result<(), Stop> {
    let (mut old, _client, first) = stage.meet().await?;
    let authority = Authority::new("a private authority")?;
    let mut new = server(stage, &authority, BOTH).await?;
    let tls = TlsConnectionSettings { max_version: "1.2".to_owned(), ..trusting(&authority) };
    let settings = with(stage, &new, tls);
    let mut offer = stage.offer(&mut old, &first, settings).await?;
    let arrival = offer.arrive(stage, &mut old, &mut new).await?;
    let last = offer.settle(stage, &mut new, arrival).await;
    let mut third = server(stage, &authority, BOTH).await?;
    let settings = stage.settings_for(&third);
    let mut offer = stage.offer(&mut new, &last, settings).await?;
    offer.must_arrive(stage, &mut new, &mut third, "TLS-02").await?;
    let version = version(&third);
    let holds = version.contains("TLSv1_2");
    stage.judge.expect("TLS-02", holds, "TLS 1.2, the limit of the first offer", version);
    Ok(())
}

async fn no_verification(stage: &mut ClientStage) -> Result<(), Stop> {
    let (mut old, _client, first) = stage.meet().await?;
    let mut new = server(stage, &Authority::new("an authority nobody knows")?, BOTH).await?;
    let tls = TlsConnectionSettings { insecure_skip_verify: true, ..Default::default() };
    let settings = with(stage, &new, tls);
    let mut offer = stage.offer(&mut old, &first, settings).await?;
    let outcome = offer.follow(stage, &mut old, &mut new).await;
    offer.conclude(stage, &outcome, &mut old, &mut new).await;
    let told = format!("the client {}", offer.told(&outcome));
    if matches!(outcome, Outcome::Arrived(_)) || !offer.reports {
        stage.judge.note("TLS-05", told);
        return Ok(());
    }
    // Local policy may refuse it, and the client says so then (A17).
    let refused = offer.last() == Some(ConnectionSettingsStatuses::Failed);
    if !refused && new.endpoint.attempts().is_empty() {
        return Err(Stop::Unreached(told));
    }
    stage.judge.expect("TLS-05", refused, "a connection without verification, or FAILED", told);
    Ok(())
}

async fn lowest_version(stage: &mut ClientStage) -> Result<(), Stop> {
    let (mut old, _client, first) = stage.meet().await?;
    let authority = Authority::new("a private authority")?;
    // The client reaches such a server if nothing is asked of the version.
    let mut new = server(stage, &authority, &[&TLS12]).await?;
    let settings = with(stage, &new, trusting(&authority));
    let mut offer = stage.offer(&mut old, &first, settings).await?;
    let arrival = offer.arrive(stage, &mut old, &mut new).await?;
    let last = offer.settle(stage, &mut new, arrival).await;
    let mut third = server(stage, &authority, &[&TLS12]).await?;
    let tls = TlsConnectionSettings { min_version: "1.3".to_owned(), ..trusting(&authority) };
    let settings = with(stage, &third, tls);
    let mut offer = stage.offer(&mut new, &last, settings).await?;
    let outcome = offer.follow(stage, &mut new, &mut third).await;
    let told = format!("the client {}", offer.told(&outcome));
    let holds = !matches!(outcome, Outcome::Arrived(_));
    stage.judge.expect("TLS-06", holds, "no connection with TLS 1.2", told);
    Ok(())
}

async fn highest_version(stage: &mut ClientStage) -> Result<(), Stop> {
    let (mut old, _client, first) = stage.meet().await?;
    let authority = Authority::new("a private authority")?;
    let mut new = server(stage, &authority, BOTH).await?;
    let tls = TlsConnectionSettings { max_version: "TLSv1.2".to_owned(), ..trusting(&authority) };
    let settings = with(stage, &new, tls);
    let mut offer = stage.offer(&mut old, &first, settings).await?;
    offer.arrive(stage, &mut old, &mut new).await?;
    let version = version(&new);
    stage.judge.expect("TLS-07", version.contains("TLSv1_2"), "TLS 1.2", version);
    Ok(())
}

async fn cipher_suites(stage: &mut ClientStage) -> Result<(), Stop> {
    let (mut old, _client, first) = stage.meet().await?;
    let authority = Authority::new("a private authority")?;
    let mut new = server(stage, &authority, BOTH).await?;
    // With TLS 1.3 there are suites that some libraries do not let go of.
    let tls = TlsConnectionSettings {
        max_version: "1.2".to_owned(),
        cipher_suites: vec![SUITE.1.to_owned()],
        ..trusting(&authority)
    };
    let settings = with(stage, &new, tls);
    let mut offer = stage.offer(&mut old, &first, settings).await?;
    offer.arrive(stage, &mut old, &mut new).await?;
    let negotiated = new.visitor.as_ref().and_then(|visitor| visitor.negotiated.as_ref());
    let suite = negotiated.map_or("no TLS".to_owned(), |negotiated| {
        format!("{} {}", negotiated.version, negotiated.cipher_suite)
    });
    if !suite.contains("TLSv1_2") {
        return Err(Stop::Unreached(format!("the client does not keep to TLS 1.2, but: {suite}")));
    }
    stage.judge.expect("TLS-08", suite.contains(SUITE.1), SUITE.1, suite);
    Ok(())
}
