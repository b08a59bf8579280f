//! Running cases: which, how many at a time, and what they come to.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{FutureExt as _, StreamExt as _, stream};
use tokio::time::{Instant, timeout};

use crate::case::{Case, Conversation, Observed, Script};
use crate::client::{ClientStage, ClientUnderTest};
use crate::judge::{Judge, Stop};
use crate::log::Log;
use crate::pace::Pace;
use crate::report::{CaseResult, Side, Transport};
use crate::server::{ServerStage, ServerUnderTest};
use crate::verdict::Verdict;

/// How long a case may take before it is given up, at normal pace.
const CASE_LIMIT_SECONDS: f64 = 300.0;
/// How many bytes of payload observers look at; what is recorded beyond that is passed over.
const MAX_OBSERVED: usize = 512 << 20;

/// What is tested.
#[derive(Clone)]
#[allow(clippy::large_enum_variant, reason = "there is one for a whole run")]
pub enum Subject {
    /// A server.
    Server(ServerUnderTest),
    /// A client.
    Client(Arc<dyn ClientUnderTest>),
}

impl Subject {
    /// The server at this URL, without hooks.
    ///
    /// # Errors
    ///
    /// When it is no ws, wss, http or https URL.
    pub fn server(url: &str) -> Result<Self, String> {
        Ok(Self::Server(ServerUnderTest::new(url.parse()?)))
    }

    /// This client.
    pub fn client(client: impl ClientUnderTest + 'static) -> Self {
        Self::Client(Arc::new(client))
    }

    /// Which end it is.
    #[must_use]
    pub fn side(&self) -> Side {
        match self {
            Self::Server(_) => Side::Server,
            Self::Client(_) => Side::Client,
        }
    }

    fn speaks(&self, transport: Transport) -> bool {
        match self {
            Self::Server(_) => true,
            Self::Client(client) => client.speaks(transport),
        }
    }
}

/// How to run.
#[derive(Debug, Clone)]
pub struct Options {
    /// The transports to run over.
    pub transports: Vec<Transport>,
    /// How long to wait.
    pub pace: Pace,
    /// Where ids and other arbitrary content come from.
    pub seed: u64,
    /// How many cases run at a time.
    pub jobs: usize,
    /// Whether results have their transcripts.
    pub transcripts: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            transports: Transport::BOTH.to_vec(),
            pace: Pace::new(1.0),
            seed: 0,
            jobs: 16,
            transcripts: true,
        }
    }
}

/// Runs these cases and gives what each came to, in their order; a case that runs over two
/// transports comes twice. `ended` is told of each as soon as it ends, and may change it.
///
/// Observers look at what the other cases recorded, so they see nothing where there are none.
pub async fn run(
    subject: &Subject,
    cases: &[&'static Case],
    options: &Options,
    mut ended: impl FnMut(&mut CaseResult),
) -> Vec<CaseResult> {
    let mut results = Vec::new();
    let mut conversations = Vec::new();
    let mut room = MAX_OBSERVED;
    let mut keep = |mut conversation: Conversation, bytes: usize| {
        match room.checked_sub(bytes) {
            Some(left) => room = left,
            None => conversation.entries.clear(),
        }
        conversations.push(conversation);
    };
    let planned =
        |alone: bool| plan(subject, cases, options).filter(move |p| p.case.alone == alone);
    let together = stream::iter(planned(false)).map(|one| one.play(subject, options));
    let mut together = together.buffered(options.jobs.max(1));
    while let Some((mut result, conversation, bytes)) = together.next().await {
        ended(&mut result);
        results.push(result);
        keep(conversation, bytes);
    }
    for one in planned(true) {
        let (mut result, conversation, bytes) = one.play(subject, options).await;
        ended(&mut result);
        results.push(result);
        keep(conversation, bytes);
    }
    let observed = Observed { subject: subject.side(), conversations };
    for case in cases {
        if let Script::Observer(observe) = case.script {
            let mut result = look(case, observe, &observed, options);
            ended(&mut result);
            results.push(result);
        }
    }
    let place = |result: &CaseResult| {
        let index = cases.iter().position(|case| case.name == result.case);
        (index, result.transport)
    };
    results.sort_by_key(place);
    results
}

/// How many results a run of these cases will have.
#[must_use]
pub fn count(subject: &Subject, cases: &[&'static Case], options: &Options) -> usize {
    let observers = cases.iter().filter(|case| matches!(case.script, Script::Observer(_)));
    plan(subject, cases, options).count() + observers.count()
}

struct Planned {
    case: &'static Case,
    transport: Transport,
}

fn plan<'a>(
    subject: &'a Subject,
    cases: &'a [&'static Case],
    options: &'a Options,
) -> impl Iterator<Item = Planned> + 'a {
    cases.iter().flat_map(move |case| {
        case.transports
            .iter()
            .filter(|transport| options.transports.contains(transport))
            .filter(|transport| subject.speaks(**transport))
            .map(|transport| Planned { case, transport: *transport })
    })
}

impl Planned {
    /// The result, what was recorded, and how many bytes of payload that has.
    async fn play(self, subject: &Subject, options: &Options) -> (CaseResult, Conversation, usize) {
        let Self { case, transport } = self;
        let began = Instant::now();
        let seed = options.seed ^ hash(case.name, transport);
        let (judge, log, stopped) = match (case.script, subject) {
            (Script::Server(script), Subject::Server(target)) => {
                let target = target.clone();
                let mut stage =
                    ServerStage::new(target, transport, case.judges, options.pace, seed);
                let stopped = bounded(script(&mut stage), options.pace).await;
                (stage.judge, stage.log, stopped)
            }
            (Script::Client(script), Subject::Client(client)) => {
                let client = Arc::clone(client);
                let mut stage =
                    ClientStage::new(client, transport, case.judges, options.pace, seed);
                let stopped = bounded(script(&mut stage), options.pace).await;
                (stage.judge, stage.log, stopped)
            }
            _ => {
                let log = Log::new(subject.side());
                let why = "the case is for the other side".to_owned();
                (Judge::new(case.judges, log.clone()), log, Some(Stop::Harness(why)))
            }
        };
        let entries = log.entries();
        let bytes = log.bytes();
        let log = options.transcripts.then_some(&log);
        let result = result(case, Some(transport), judge, log, stopped, began.elapsed());
        (result, Conversation { case: case.name, transport, entries }, bytes)
    }
}

/// Lets a script run, but not for ever, and catches its panics.
async fn bounded(script: impl Future<Output = Result<(), Stop>>, pace: Pace) -> Option<Stop> {
    let limit = pace.of(CASE_LIMIT_SECONDS);
    match timeout(limit, AssertUnwindSafe(script).catch_unwind()).await {
        Ok(Ok(ended)) => ended.err(),
        Ok(Err(panic)) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            Some(Stop::Harness(format!("the case panicked: {}", text.unwrap_or("no message"))))
        }
        Err(_) => {
            Some(Stop::Harness(format!("the case did not end within {:.0} s", limit.as_secs_f64())))
        }
    }
}

fn look(
    case: &'static Case,
    observe: fn(&Observed, &mut Judge),
    observed: &Observed,
    options: &Options,
) -> CaseResult {
    let began = Instant::now();
    let log = Log::new(observed.subject);
    let mut judge = Judge::new(case.judges, log.clone());
    observe(observed, &mut judge);
    let log = options.transcripts.then_some(&log);
    result(case, None, judge, log, None, began.elapsed())
}

fn result(
    case: &'static Case,
    transport: Option<Transport>,
    judge: Judge,
    log: Option<&Log>,
    stopped: Option<Stop>,
    took: Duration,
) -> CaseResult {
    let findings = judge.into_findings(stopped.as_ref());
    let verdict = findings.iter().map(|finding| finding.verdict).max();
    CaseResult {
        case: case.name.to_owned(),
        transport,
        does: case.does.to_owned(),
        expects: case.expects.to_owned(),
        verdict: verdict.unwrap_or(Verdict::HarnessError),
        stopped: stopped.map(|stop| stop.to_string()),
        findings,
        known: Default::default(),
        duration_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        transcript: log.map(Log::transcript).unwrap_or_default(),
    }
}

/// A number for a case that does not depend on which others run.
fn hash(name: &str, transport: Transport) -> u64 {
    let bytes = name.bytes().chain(transport.name().bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}
