//! Certificates that Agents ask for, each for a key of its own (CSR rows; readings A19, A20).
//!
//! The request is kept until somebody decides. A certificate goes out as a part of the connection
//! settings the Agent should have, so everything that holds of an offer holds of it: it is repeated
//! until the Agent has said what became of it, and is latest wins (CSR-14, CSR-18). A refusal is
//! told once, as BAD_REQUEST, and again when the same request comes again (CSR-15).
//!
//! ```text
//!            asked                 issue
//!   (none) ────────▶ Pending ────────────────▶ Issued ──▶ an offer, with its own outcome
//!     ▲               │    └── refuse ───────▶ Refused ─▶ BAD_REQUEST
//!     └── nobody decides, and it is not repeated
//!   any of them ── another request ──▶ Pending       the same request ──▶ as it is, told again
//! ```

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::Instant;

use bytes::Bytes;
use opamp_proto::{AgentCapabilities, Message as _, ServerCapabilities, v1};
use sha2::{Digest as _, Sha256};

use super::OperationError;
use super::agent::{Agent, Terms};
use super::changes::Changes;
use super::config::ServerConfig;
use super::connection_settings::ConnectionSettings;
use super::desired::{Desired, either};
use super::endpoint::InvalidOffer;
use super::offer::OfferHash;
use super::record::{Anchor, CertificateRecord};
use super::reply::{self, Refusal};
use super::scan::{Part, Scan};

/// Different requests of one Agent that are looked at in each
/// [`offer_pause`](ServerConfig::offer_pause).
const MAX_REQUESTS_PER_PAUSE: u8 = 8;

/// What a message may have around a request.
const MAX_AROUND_REQUEST: usize = 1024;

/// Names a certificate request: the SHA-256 of what the Agent sent. Who decides about a request
/// says which one was looked at, as the Agent may have sent another one since.
///
/// ```
/// use opamp_server::CertificateRequestId;
///
/// let id = CertificateRequestId::of(b"-----BEGIN CERTIFICATE REQUEST-----");
/// assert_eq!(id.to_string().parse(), Ok(id));
/// assert_eq!(id.to_string().len(), 64);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CertificateRequestId([u8; 32]);

impl CertificateRequestId {
    /// The id of a request with this content.
    #[must_use]
    pub fn of(csr: &[u8]) -> Self {
        Self(Sha256::digest(csr).into())
    }

    /// The 32 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// Writes 64 lower-case hexadecimal digits.
impl fmt::Display for CertificateRequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for CertificateRequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CertificateRequestId({self})")
    }
}

/// Not 64 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not the id of a certificate request, which has 64 hexadecimal digits")]
pub struct InvalidRequestId;

impl FromStr for CertificateRequestId {
    type Err = InvalidRequestId;

    fn from_str(text: &str) -> Result<Self, InvalidRequestId> {
        let digits = text.as_bytes().as_chunks::<2>().0;
        if text.len() != 64 {
            return Err(InvalidRequestId);
        }
        let mut id = [0; 32];
        for (byte, pair) in id.iter_mut().zip(digits) {
            let digit = |digit: u8| char::from(digit).to_digit(16).ok_or(InvalidRequestId);
            // Two digits are less than 256.
            *byte = (digit(pair[0])? * 16 + digit(pair[1])?) as u8;
        }
        Ok(Self(id))
    }
}

/// What became of a certificate request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CertificateDecision {
    /// Nobody has decided yet.
    Pending,
    /// A certificate was issued; what became of that is the outcome of the connection settings.
    Issued,
    /// It was refused.
    Refused,
}

/// An Agent's last certificate request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CertificateRequestState {
    id: CertificateRequestId,
    decision: CertificateDecision,
}

impl CertificateRequestState {
    /// Which request it is.
    #[must_use]
    pub const fn id(&self) -> CertificateRequestId {
        self.id
    }

    /// What became of it.
    #[must_use]
    pub const fn decision(&self) -> CertificateDecision {
        self.decision
    }
}

/// A certificate request that nobody has decided about.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PendingCertificate {
    /// Which request it is.
    pub id: CertificateRequestId,
    /// What the Agent sent, which should be a PEM text. Nothing of it was verified.
    pub csr: Bytes,
    /// When it came last.
    pub asked: Instant,
}

/// A certificate for one Agent, ready to be offered, with the settings it goes along with.
///
/// ```
/// use opamp_proto::v1;
/// use opamp_server::CertificateOffer;
///
/// let settings = v1::OpAmpConnectionSettings {
///     destination_endpoint: "wss://opamp.example:4320/v1/opamp".to_owned(),
///     heartbeat_interval_seconds: 30,
///     certificate: Some(v1::TlsCertificate {
///         cert: "-----BEGIN CERTIFICATE-----…".into(),
///         ca_cert: "-----BEGIN CERTIFICATE-----…".into(),
///         ..Default::default()
///     }),
///     ..Default::default()
/// };
/// let offer = CertificateOffer::new(settings)?;
///
/// let error = CertificateOffer::new(v1::OpAmpConnectionSettings::default()).unwrap_err();
/// assert_eq!(error.field(), "opamp.certificate");
/// # let _ = offer;
/// # Ok::<(), opamp_server::InvalidOffer>(())
/// ```
#[derive(Clone, PartialEq)]
pub struct CertificateOffer {
    settings: v1::OpAmpConnectionSettings,
}

impl CertificateOffer {
    /// Checks the settings, which have to be whole, the endpoint in use and the heartbeat interval
    /// included (readings A01, A17). They hold for an Agent that is not to have other settings for
    /// the connection to the Server; one that is gets those, and of these the certificate alone
    /// (CSR-14).
    ///
    /// # Errors
    ///
    /// [`InvalidOffer`] if there is no certificate, or the settings are none that
    /// [`ConnectionSettings::new`] takes.
    pub fn new(settings: v1::OpAmpConnectionSettings) -> Result<Self, InvalidOffer> {
        if settings.certificate.is_none() {
            let what = "is missing, and is what this is about";
            return Err(InvalidOffer::new("opamp.certificate", what));
        }
        let offer = Self { settings };
        offer.over(None)?;
        Ok(offer)
    }

    /// The settings with the certificate.
    #[must_use]
    pub const fn settings(&self) -> &v1::OpAmpConnectionSettings {
        &self.settings
    }

    fn over(
        &self,
        wanted: Option<&ConnectionSettings>,
    ) -> Result<ConnectionSettings, InvalidOffer> {
        let mut settings = wanted.map(ConnectionSettings::to_message).unwrap_or_default();
        match &mut settings.opamp {
            Some(opamp) => opamp.certificate.clone_from(&self.settings.certificate),
            none => *none = Some(self.settings.clone()),
        }
        ConnectionSettings::new(settings)
    }
}

/// Shows no secrets.
impl fmt::Debug for CertificateOffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertificateOffer")
            .field("endpoint", &self.settings.destination_endpoint)
            .finish_non_exhaustive()
    }
}

/// What one Agent asked for and was given.
#[derive(Debug)]
pub(super) struct Certificates {
    request: Option<Request>,
    issued: Option<Issued>,
    /// A refusal that was not told yet.
    untold: Option<Refusal>,
    /// When the pause began in which there were `count` different requests.
    first: Instant,
    count: u8,
}

#[derive(Debug)]
struct Request {
    id: CertificateRequestId,
    asked: Instant,
    /// Somebody was told that there is something to decide, since the process began.
    handed: bool,
    progress: Progress,
}

#[derive(Debug)]
enum Progress {
    Pending(Bytes),
    Issued,
    Refused(String),
}

/// The settings with the certificate in them.
#[derive(Debug)]
struct Issued {
    offer: CertificateOffer,
    /// What else is wanted, by its hash, and the certificate laid over it.
    base: Option<OfferHash>,
    laid: ConnectionSettings,
}

impl Issued {
    fn new(offer: CertificateOffer, wanted: Option<&ConnectionSettings>) -> Option<Self> {
        // Both were checked, and what is valid stays so with a certificate in it.
        let laid = offer.over(wanted).ok()?;
        Some(Self { offer, base: wanted.map(ConnectionSettings::hash), laid })
    }
}

impl Certificates {
    fn new(now: Instant) -> Self {
        Self { request: None, issued: None, untold: None, first: now, count: 0 }
    }

    fn pending(&self) -> Option<(&Request, &Bytes)> {
        match self.request.as_ref() {
            Some(request @ Request { progress: Progress::Pending(csr), .. }) => {
                Some((request, csr))
            }
            _ => None,
        }
    }

    /// The request that is to be decided about, if it is this one.
    fn decided(&mut self, id: CertificateRequestId) -> Option<&mut Request> {
        self.request
            .as_mut()
            .filter(|request| request.id == id && matches!(request.progress, Progress::Pending(_)))
    }

    /// Whether one more request is too many.
    fn count(&mut self, config: &ServerConfig, now: Instant) -> bool {
        if now.saturating_duration_since(self.first) >= config.offer_pause {
            (self.first, self.count) = (now, 0);
        }
        self.count = self.count.saturating_add(1);
        self.count > MAX_REQUESTS_PER_PAUSE
    }
}

/// What outlives the process.
impl Certificates {
    pub(super) fn record(&self, now: Anchor) -> Option<CertificateRecord> {
        let mut record = CertificateRecord::default();
        if let Some(request) = &self.request {
            record.request = request.id.0.to_vec();
            record.asked = now.millis(request.asked);
            match &request.progress {
                Progress::Pending(csr) => record.pending = Some(csr.to_vec()),
                Progress::Issued => {}
                Progress::Refused(why) => record.refused = Some(why.clone()),
            }
        }
        record.issued = self.issued.as_ref().map(|issued| issued.offer.settings.clone());
        (record != CertificateRecord::default()).then_some(record)
    }

    pub(super) fn restored(record: &CertificateRecord, now: Anchor) -> Self {
        let asked = now.instant(record.asked);
        let request = <[u8; 32]>::try_from(&record.request[..]).ok().map(|id| Request {
            id: CertificateRequestId(id),
            asked,
            handed: false,
            progress: match (&record.pending, &record.refused) {
                (Some(csr), _) => Progress::Pending(csr.clone().into()),
                (None, Some(why)) => Progress::Refused(why.clone()),
                (None, None) => Progress::Issued,
            },
        });
        let offer = record.issued.clone().and_then(|it| CertificateOffer::new(it).ok());
        let issued = offer.and_then(|offer| Issued::new(offer, None));
        Self { request, issued, ..Self::new(asked) }
    }
}

/// What arrives.
impl Agent {
    /// Takes a certificate request out of a message, if there is one and the Server takes requests.
    /// The changes say whether there is something to decide; what is refused at once is told in the
    /// reply.
    pub(super) fn take_certificate_request(
        &mut self,
        scan: &Scan<'_>,
        config: &ServerConfig,
        now: Instant,
    ) -> Changes {
        let takes = ServerCapabilities::ACCEPTS_CONNECTION_SETTINGS_REQUEST;
        let Some(content) = scan.part(Part::ConnectionSettingsRequest) else {
            return Changes::empty();
        };
        if !config.sent_capabilities().contains(takes) {
            return Changes::empty();
        }
        // As it is not to be looked at, it is not even decoded: under a lock that would take long.
        if content.len() > config.max_certificate_request.saturating_add(MAX_AROUND_REQUEST) {
            let (size, limit) = (content.len(), config.max_certificate_request);
            let text = format!(
                "connection_settings_request has {size} bytes, and of certificate_request.csr {limit} \
                 are taken"
            );
            let certificates =
                self.certificates.get_or_insert_with(|| Certificates::new(now).into());
            certificates.untold = Some(Refusal::over_limit(text));
            return Changes::empty();
        }
        // It was validated with the message, and without `opamp` it asks for nothing (CSR-07).
        let Some(opamp) =
            v1::ConnectionSettingsRequest::decode(content).ok().and_then(|it| it.opamp)
        else {
            return Changes::empty();
        };
        let csr = opamp.certificate_request.unwrap_or_default().csr;
        let accepts = self.accepts(AgentCapabilities::ACCEPTS_OPAMP_CONNECTION_SETTINGS);
        let certificates = self.certificates.get_or_insert_with(|| Certificates::new(now).into());
        let refusal = if csr.is_empty() {
            "certificate_request.csr is missing: put the request there as PEM".to_owned()
        } else if csr.len() > config.max_certificate_request {
            let (size, limit) = (csr.len(), config.max_certificate_request);
            format!(
                "certificate_request.csr has {size} bytes, more than the {limit} that are taken"
            )
        } else if !accepts {
            "the Agent lacks AcceptsOpAMPConnectionSettings, by which a certificate would be \
             offered to it"
                .to_owned()
        } else {
            return self.asked(&csr, config, now);
        };
        certificates.untold = Some(Refusal::over_limit(refusal));
        Changes::empty()
    }

    fn asked(&mut self, csr: &[u8], config: &ServerConfig, now: Instant) -> Changes {
        let certificates = self.certificates.get_or_insert_with(|| Certificates::new(now).into());
        let id = CertificateRequestId::of(csr);
        if let Some(request) = certificates.request.as_mut().filter(|request| request.id == id) {
            let last = std::mem::replace(&mut request.asked, now);
            let again = now.saturating_duration_since(last) >= config.offer_pause;
            let handed = std::mem::replace(&mut request.handed, true);
            match &request.progress {
                // Who was to decide may have failed, or be another process by now.
                Progress::Pending(_) if again || !handed => return Changes::CERTIFICATE_REQUEST,
                Progress::Pending(_) => return Changes::empty(),
                Progress::Refused(reason) => {
                    certificates.untold = Some(Refusal::over_limit(reason));
                    return Changes::empty();
                }
                // The offer did not arrive, as it seems; unless the Agent could not use it, and
                // asks for another.
                Progress::Issued if !self.offered.settings.has_failed() => {
                    self.offered.settings.may_repeat();
                    return Changes::empty();
                }
                Progress::Issued => {}
            }
        }
        if certificates.count(config, now) {
            let text = "the Agent has asked for too many certificates: ask again later";
            certificates.untold = Some(Refusal::over_limit(text));
            return Changes::empty();
        }
        certificates.untold = None;
        let progress = Progress::Pending(Bytes::copy_from_slice(csr));
        certificates.request = Some(Request { id, asked: now, handed: true, progress });
        Changes::CERTIFICATE_REQUEST
    }

    /// The Agent has another instance uid: who decides has to look at a request again (CSR-20).
    pub(super) fn certificate_request_again(&self) -> Changes {
        match self.pending_certificate() {
            Some(_) => Changes::CERTIFICATE_REQUEST,
            None => Changes::empty(),
        }
    }

    /// Forgets a request that nobody has decided about and that was not repeated.
    pub(crate) fn expire_certificate_request(&mut self, config: &ServerConfig, now: Instant) {
        let Some(certificates) = &mut self.certificates else { return };
        let expired = certificates.pending().is_some_and(|(request, _)| {
            now.saturating_duration_since(request.asked) >= config.certificate_request_expiry
        });
        if expired {
            certificates.request = None;
        }
    }
}

/// What the operator decides.
impl Agent {
    /// The request that nobody has decided about.
    #[must_use]
    pub fn pending_certificate(&self) -> Option<PendingCertificate> {
        let (request, csr) = self.certificates.as_ref()?.pending()?;
        Some(PendingCertificate { id: request.id, csr: csr.clone(), asked: request.asked })
    }

    /// The last request, and what became of it.
    #[must_use]
    pub fn certificate_request(&self) -> Option<CertificateRequestState> {
        let request = self.certificates.as_ref()?.request.as_ref()?;
        let decision = match request.progress {
            Progress::Pending(_) => CertificateDecision::Pending,
            Progress::Issued => CertificateDecision::Issued,
            Progress::Refused(_) => CertificateDecision::Refused,
        };
        Some(CertificateRequestState { id: request.id, decision })
    }

    /// The certificate the Agent was given, with the settings it was given along with.
    #[must_use]
    pub fn issued_certificate(&self) -> Option<&CertificateOffer> {
        Some(&self.certificates.as_ref()?.issued.as_ref()?.offer)
    }

    /// Bytes kept of what the Agent reported and asked for.
    pub(crate) fn retained_bytes(&self) -> usize {
        let pending = self.certificates.as_ref().and_then(|certificates| certificates.pending());
        self.state.retained_bytes() + pending.map_or(0, |(_, csr)| csr.len())
    }

    /// Gives the Agent a certificate: from now on it is a part of the settings it should have. With
    /// `request` it answers that request, without it none.
    ///
    /// # Errors
    ///
    /// [`OperationError::NoCertificateRequest`] if the request is not pending (any more),
    /// [`OperationError::NotAccepted`] if the Agent does not accept settings for its connection,
    /// and [`OperationError::TooLarge`] if they could not be sent.
    pub fn issue_certificate(
        &mut self,
        request: Option<CertificateRequestId>,
        offer: CertificateOffer,
        terms: Terms<'_>,
        now: Instant,
    ) -> Result<(), OperationError> {
        if !self.accepts(AgentCapabilities::ACCEPTS_OPAMP_CONNECTION_SETTINGS) {
            return Err(OperationError::NotAccepted);
        }
        let wanted = either(self.own(), terms.desired, |it| it.connection_settings.as_ref());
        let issued = Issued::new(offer, wanted.map(|(settings, _)| settings))
            .ok_or(OperationError::NotAccepted)?;
        terms.config.check_size(issued.laid.encoded_len())?;
        let certificates = self.certificates.get_or_insert_with(|| Certificates::new(now).into());
        if let Some(id) = request {
            let request = certificates.decided(id).ok_or(OperationError::NoCertificateRequest)?;
            request.progress = Progress::Issued;
            certificates.untold = None;
        }
        certificates.issued = Some(issued);
        Ok(())
    }

    /// Refuses a request; the Agent is told the reason, cut to 256 bytes.
    ///
    /// # Errors
    ///
    /// [`OperationError::NoCertificateRequest`] if the request is not pending (any more).
    pub fn refuse_certificate(
        &mut self,
        request: CertificateRequestId,
        reason: &str,
    ) -> Result<(), OperationError> {
        let certificates =
            self.certificates.as_mut().ok_or(OperationError::NoCertificateRequest)?;
        let request = certificates.decided(request).ok_or(OperationError::NoCertificateRequest)?;
        let reason = reply::shortened(reason);
        request.progress = Progress::Refused(reason.clone());
        certificates.untold = Some(Refusal::over_limit(reason));
        Ok(())
    }

    /// Takes the certificate out of what the Agent should have. It keeps what it has until it is
    /// offered something else.
    pub fn clear_certificate(&mut self) {
        if let Some(certificates) = &mut self.certificates {
            certificates.issued = None;
        }
    }
}

/// What is to be sent.
impl Agent {
    pub(super) fn has_untold_refusal(&self) -> bool {
        self.certificates.as_ref().is_some_and(|certificates| certificates.untold.is_some())
    }

    /// The refusal of a request, to be told now.
    pub(super) fn take_certificate_refusal(&mut self) -> Option<Refusal> {
        self.certificates.as_mut()?.untold.take()
    }

    /// Lays the certificate over the settings that are wanted by now, so that this is not to be
    /// done for each message.
    pub(super) fn lay_certificate(&mut self, terms: Terms<'_>) {
        let Some(issued) = self.certificates.as_mut().and_then(|it| it.issued.as_mut()) else {
            return;
        };
        let wanted =
            either(Desired::of(&self.own), terms.desired, |it| it.connection_settings.as_ref());
        let wanted = wanted.map(|(settings, _)| settings);
        if issued.base != wanted.map(ConnectionSettings::hash)
            && let Some(anew) = Issued::new(issued.offer.clone(), wanted)
        {
            *issued = anew;
        }
    }

    /// The settings the Agent should have, its certificate included, and whether they are its own.
    pub(super) fn wanted_settings<'a>(
        &'a self,
        terms: Terms<'a>,
    ) -> Option<(Cow<'a, ConnectionSettings>, bool)> {
        let wanted = either(self.own(), terms.desired, |it| it.connection_settings.as_ref());
        let Some(issued) = self.certificates.as_ref().and_then(|it| it.issued.as_ref()) else {
            return wanted.map(|(settings, own)| (Cow::Borrowed(settings), own));
        };
        let wanted = wanted.map(|(settings, _)| settings);
        if issued.base == wanted.map(ConnectionSettings::hash) {
            return Some((Cow::Borrowed(&issued.laid), true));
        }
        let anew = Issued::new(issued.offer.clone(), wanted)?;
        Some((Cow::Owned(anew.laid), true))
    }
}
