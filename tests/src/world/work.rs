//! What an agent does about offers, in its own time: the answers it owes, its store of packages and
//! the downloads into it.

use std::time::Instant;

use bytes::Bytes;
use opamp_client::core::packages::{
    Evidence, FetchFailure, FetchFailureKind, FetchRequest, FetchTicket, Fetched, PackageAction,
    PackageOffer, PackageRecords, PackageRemoval, PackageResolution, PackagesConfig,
    SignaturePolicy,
};
use opamp_client::core::{
    ClientConfig, ConnectionKinds, ConnectionSettingsOffer, ConnectionSettingsResolution,
    Resolution,
};
use opamp_proto::v1;
use opamp_server::{ConnectionSettings, Packages};

use super::World;

/// Something an agent is at, and what comes of it when it is done.
pub(super) enum Answer {
    RemoteConfig(Resolution),
    ConnectionSettings(ConnectionSettingsResolution),
    Package(PackageResolution),
    Fetched(FetchTicket, Box<Result<Fetched, FetchFailure>>),
}

/// Where metrics go, by a number; an odd one is refused by the agents.
fn telemetry(number: u8) -> ConnectionSettings {
    let settings = v1::TelemetryConnectionSettings {
        destination_endpoint: format!("https://metrics.example/{number}"),
        ..Default::default()
    };
    let offers = v1::ConnectionSettingsOffers { own_metrics: Some(settings), ..Default::default() };
    ConnectionSettings::new(offers).expect("settings that can be offered")
}

/// Packages of these versions, none where it is 0; an odd one is refused by the agents.
fn packages(versions: [u8; 2]) -> Packages {
    let package = |(name, version): (&str, u8)| {
        let file = v1::DownloadableFile {
            download_url: format!("https://packages.example/{name}/{version}"),
            content_hash: Bytes::from(vec![version; 32]),
            ..Default::default()
        };
        let package = v1::PackageAvailable {
            r#type: v1::PackageType::Addon.into(),
            version: version.to_string(),
            file: Some(file),
            ..Default::default()
        };
        (version > 0).then(|| (name.to_owned(), package))
    };
    let packages = ["one", "two"].into_iter().zip(versions).filter_map(package).collect();
    Packages::new(v1::PackagesAvailable { packages, ..Default::default() })
        .expect("packages that can be offered")
}

/// An agent that takes settings for its metrics, and packages.
pub(super) fn take_everything(config: &mut ClientConfig) {
    config.accepted_settings = ConnectionKinds::OWN_METRICS;
    let mut packages = PackagesConfig::default();
    packages.signatures = SignaturePolicy::Ignored;
    config.packages = Some(packages);
}

impl World {
    /// Offers settings for metrics to every agent.
    pub fn offer_telemetry(&mut self, number: u8) {
        let settings = telemetry(number);
        self.fleet.set_default_connection_settings(settings.clone()).expect("they are small");
        self.default_settings = Some(settings);
        self.settle_server();
    }

    /// Offers packages to every agent.
    pub fn offer_packages(&mut self, versions: [u8; 2]) {
        let packages = packages(versions);
        self.fleet.set_default_packages(packages.clone()).expect("they are small");
        self.default_packages = Some(packages);
        self.settle_server();
    }

    pub(super) fn answer_offers(&mut self, agent: usize) {
        let now = self.now;
        let agent = &mut self.agents[agent];
        let (due, later): (Vec<_>, _) =
            agent.answers.drain(..).partition(|(due, _): &(Instant, Answer)| *due <= now);
        agent.answers = later;
        for (_, answer) in due {
            // A newer offer may have taken its place.
            match answer {
                Answer::RemoteConfig(resolution) => {
                    let _ = agent.core.resolve(resolution);
                }
                Answer::ConnectionSettings(resolution) => {
                    let _ = agent.core.resolve_connection_settings(resolution);
                }
                Answer::Package(resolution) => {
                    let _ = agent.core.resolve_package(resolution, now);
                }
                Answer::Fetched(ticket, result) => agent.core.handle_fetched(ticket, *result, now),
            }
        }
    }

    /// The agent gives its answer after a while.
    pub(super) fn answer_later(&mut self, agent: usize, answer: Answer) {
        let due = self.now + self.delay();
        self.agents[agent].answers.push((due, answer));
    }

    pub(super) fn decide_on_settings(&mut self, agent: usize, offer: ConnectionSettingsOffer) {
        let metrics = offer.connections().own_metrics.as_ref();
        let refused = metrics.is_some_and(|it| is_odd(&it.destination_endpoint));
        let resolution = if refused { offer.failed("odd") } else { offer.applied() };
        self.answer_later(agent, Answer::ConnectionSettings(resolution));
    }

    pub(super) fn decide_on_package(&mut self, agent: usize, offer: PackageOffer) {
        let refused = is_odd(offer.version());
        let resolution = if refused { offer.failed("odd") } else { offer.installed() };
        self.answer_later(agent, Answer::Package(resolution));
    }

    pub(super) fn remove_package(&mut self, agent: usize, removal: PackageRemoval) {
        self.answer_later(agent, Answer::Package(removal.removed()));
    }

    /// Does something about packages, if there is anything to do.
    pub(super) fn package_action(&mut self, agent: usize) -> bool {
        let now = self.now;
        let one = &mut self.agents[agent];
        let Some(action) = one.core.poll_package_action(now) else { return false };
        match action {
            PackageAction::Load => {
                let records = one.packages.as_deref().map(PackageRecords::from_bytes);
                let records = records.transpose().expect("as they were saved");
                one.core.handle_packages_loaded(Ok(records), now);
            }
            PackageAction::Save { ticket, records } => {
                one.packages = Some(records.to_bytes());
                one.core.handle_packages_saved(ticket, Ok(()), now);
            }
            PackageAction::Retain { ticket, .. } => {
                one.core.handle_packages_retained(ticket, Ok(()), now);
            }
            PackageAction::Fetch(request) => {
                let result = self.download(&request);
                self.answer_later(agent, Answer::Fetched(request.ticket, Box::new(result)));
            }
            PackageAction::Cancel(ticket) => one
                .answers
                .retain(|(_, answer)| !matches!(answer, Answer::Fetched(of, _) if *of == ticket)),
        }
        true
    }

    fn download(&mut self, request: &FetchRequest) -> Result<Fetched, FetchFailure> {
        let failure = |kind| FetchFailure { kind, why: "the storm".to_owned(), received: 0 };
        let transient = FetchFailureKind::Transient { retry_after: None };
        if self.random.below(100) < self.weather.failures {
            return Err(failure(transient));
        }
        let sha256 = *request.expected.sha256().expect("every package has one");
        let evidence = Evidence { len: 1, sha256, signature: None };
        let verified = request.expected.judge(evidence);
        let verified = verified.map_err(|_| failure(FetchFailureKind::WrongContent))?;
        Ok(Fetched { verified, location: "/packages/file".into() })
    }
}

fn is_odd(text: &str) -> bool {
    text.bytes().last().is_some_and(|digit| digit % 2 == 1)
}
