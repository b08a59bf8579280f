//! A run: its steps one after the other, and what the Server's process has used in each.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use std::{io, thread};

use super::options::Options;
use super::report::{MemoryAt, Report, StepReport};
use super::stage::{Count, Progress, Stage, Step};
use super::stats::{Stats, Trouble};
use super::target::Target;
use super::worker::{Plan, Worker};
use crate::process;

/// How often the conductor looks how far the threads are.
const LOOK: Duration = Duration::from_millis(2);
/// How often progress is told.
const TELL: Duration = Duration::from_secs(5);
/// How long the threads get to see that there is another step.
const CHANGE: Duration = Duration::from_secs(60);
/// How long messages may be unanswered after traffic has ended.
const DRAIN: Duration = Duration::from_secs(5);
/// What follows a push at once belongs to it.
const AFTER_PUSH: Duration = Duration::from_millis(200);

/// CPU time used so far.
#[derive(Debug, Clone, Copy)]
struct Used {
    at: Instant,
    server: Option<process::Cpu>,
    own: Option<process::Cpu>,
}

/// Runs what the options say. Progress goes to `tell`, a line at a time.
///
/// # Errors
///
/// When the run cannot be made at all: options that do not fit together, files that cannot be read, a
/// thread that cannot go on. What goes wrong in the run is in the report.
pub fn run(options: &Options, tell: &mut dyn FnMut(&str)) -> Result<Report, String> {
    Conductor::new(options, tell)?.run()
}

struct Conductor<'a> {
    options: &'a Options,
    tell: &'a mut dyn FnMut(&str),
    stage: Arc<Stage>,
    progress: Vec<Arc<Progress>>,
    finished: Receiver<Stats>,
    threads: Vec<JoinHandle<io::Result<()>>>,
    used: Used,
    report: Report,
    /// Troubles that no thread counts.
    own: Stats,
    told: Instant,
}

impl<'a> Conductor<'a> {
    fn new(options: &'a Options, tell: &'a mut dyn FnMut(&str)) -> Result<Self, String> {
        let plan = Arc::new(Plan::new(options.clone())?);
        let stage = Arc::new(Stage::new());
        let (sender, finished) = channel();
        let (mut progress, mut threads) = (Vec::new(), Vec::new());
        for number in 0..options.threads {
            let own = Arc::new(Progress::default());
            let worker = Worker::new(
                Arc::clone(&plan),
                number,
                Arc::clone(&stage),
                Arc::clone(&own),
                sender.clone(),
            );
            let worker = worker.map_err(|error| format!("cannot wait for sockets: {error}"))?;
            let name = format!("agents-{number}");
            let thread = thread::Builder::new().name(name).spawn(move || worker.run());
            threads.push(thread.map_err(|error| format!("no thread can be started: {error}"))?);
            progress.push(own);
        }
        Ok(Self {
            used: Used { at: Instant::now(), server: None, own: None },
            report: Report::new(options),
            own: Stats::default(),
            told: Instant::now(),
            options,
            tell,
            stage,
            progress,
            finished,
            threads,
        })
    }

    fn run(mut self) -> Result<Report, String> {
        let options = self.options;
        self.begin(Step::Rest)?;
        self.note_memory("before", 0);
        self.connect()?;

        if !options.duration.is_zero() {
            let ready = self.sum(|of| &of.ready);
            self.begin(Step::Traffic)?;
            self.pass(options.warmup, "warm-up");
            self.begin(Step::Traffic)?;
            self.pass(options.duration, "traffic");
            let traffic = self.begin(Step::Drain)?;
            self.wait(DRAIN.min(options.patience), "draining", |progress| {
                progress.iter().all(|of| of.unanswered.get() == 0)
                    && progress.iter().map(|of| of.ready.get()).sum::<u64>() >= ready
            });
            self.begin(Step::Rest)?;
            self.report.traffic = Some(traffic);
        }
        if !options.rest.is_zero() {
            self.begin(Step::Rest)?;
            self.pass(options.rest, "rest");
            self.report.rest = Some(self.begin(Step::Rest)?);
        }
        if !options.duration.is_zero() || !options.rest.is_zero() {
            self.note_memory("after traffic", options.agents);
        }
        if options.large > 0 {
            self.large()?;
        }
        if let Some(url) = &options.push_url {
            self.pushes(url)?;
        }
        self.begin(Step::Leave)?;
        self.wait(options.patience, "leaving", |progress| {
            progress.iter().all(|of| of.open.get() == 0 && of.unanswered.get() == 0)
        });
        let leave = self.begin(Step::Stop)?;
        self.report.leave = Some(leave);
        for thread in self.threads {
            match thread.join() {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return Err(format!("cannot wait for sockets: {error}")),
                Err(_) => return Err("a thread panicked".to_owned()),
            }
        }
        self.report.add_troubles(&self.own.troubles);
        self.report.finish();
        Ok(self.report)
    }

    /// Lets all agents connect and report, with a stop at each mark.
    fn connect(&mut self) -> Result<(), String> {
        let options = self.options;
        let mut marks = options.memory_at.clone();
        marks.sort_unstable();
        marks.dedup();
        let last = (options.agents, !marks.is_empty() || options.pid.is_some());
        let mut marks: Vec<_> = marks.into_iter().map(|mark| (mark, true)).collect();
        if marks.last().is_none_or(|(mark, _)| *mark < options.agents) {
            marks.push(last);
        }
        let mut all: Option<StepReport> = None;
        for (mark, noted) in marks {
            let upto = mark.div_ceil(options.agents_per_connection);
            let expected = (upto * options.agents_per_connection).min(options.agents);
            self.begin(Step::Connect { upto })?;
            let there = self.wait(options.patience, "connecting", |progress| {
                progress.iter().map(|of| of.ready.get()).sum::<u64>() == expected as u64
                    && progress.iter().all(|of| of.unanswered.get() == 0)
            });
            let missing = expected as u64 - self.sum(|of| &of.ready).min(expected as u64);
            let step = self.begin(Step::Rest)?;
            match &mut all {
                None => all = Some(step),
                Some(all) => all.add(&step),
            }
            if !there && missing > 0 {
                self.own.troubles(Trouble::NotReady, missing);
            }
            if noted {
                self.beat()?;
                self.note_memory("connected", expected - missing as usize);
            }
        }
        if let Some(mut connect) = all {
            // Here an agent counts, not a message.
            connect.count_agents(self.options.agents as u64);
            self.report.connect = Some(connect);
        }
        Ok(())
    }

    /// Has each agent send a heartbeat, as memory is that of agents which do.
    fn beat(&mut self) -> Result<(), String> {
        let ready = self.sum(|of| &of.ready);
        self.begin(Step::Beat)?;
        self.wait(self.options.patience, "heartbeats", |progress| {
            progress.iter().map(|of| of.done.get()).sum::<u64>() >= ready
        });
        self.begin(Step::Rest)?;
        Ok(())
    }

    fn large(&mut self) -> Result<(), String> {
        let ready = self.sum(|of| &of.ready);
        self.begin(Step::Large)?;
        self.wait(self.options.patience, "large", |progress| {
            progress.iter().map(|of| of.done.get()).sum::<u64>() >= ready
        });
        let large = self.begin(Step::Rest)?;
        self.report.large = Some(large);
        self.note_memory("after large reports", self.options.agents);
        Ok(())
    }

    fn pushes(&mut self, url: &Target) -> Result<(), String> {
        let mut all: Option<StepReport> = None;
        for round in 1..=self.options.pushes {
            let ready = self.sum(|of| &of.ready);
            self.begin(Step::Push { round: u32::try_from(round).unwrap_or(u32::MAX) })?;
            let body = configuration(self.options.push_size, self.report.started, round);
            match put(url, &body, || {
                self.stage.push_began.store(self.stage.now(), Ordering::Relaxed);
            }) {
                Ok(200..300) => {}
                Ok(status) => self.own.trouble(Trouble::PushRefused(Some(status))),
                Err(_) => self.own.trouble(Trouble::PushRefused(None)),
            }
            let arrived = self.wait(self.options.patience, "push", |progress| {
                progress.iter().map(|of| of.done.get()).sum::<u64>() >= ready
                    && progress.iter().all(|of| of.unanswered.get() == 0)
            });
            let done = self.sum(|of| &of.done);
            thread::sleep(AFTER_PUSH);
            let mut step = self.begin(Step::Rest)?;
            if !arrived {
                self.own.troubles(Trouble::NotPushed, ready.saturating_sub(done));
            }
            step.count_agents(done);
            self.report.pushes.push(step.push_latency());
            match &mut all {
                None => all = Some(step),
                Some(all) => all.add(&step),
            }
        }
        self.report.push = all;
        self.note_memory("after pushes", self.options.agents);
        Ok(())
    }

    /// Begins a step; what the last one came to is returned.
    fn begin(&mut self, step: Step) -> Result<StepReport, String> {
        let used = Used {
            at: Instant::now(),
            server: self.options.pid.and_then(process::cpu),
            own: process::cpu(std::process::id()),
        };
        self.stage.go_to(step);
        let mut stats = Stats::default();
        for _ in &self.threads {
            let of_thread = self.finished.recv_timeout(CHANGE);
            stats.add(&of_thread.map_err(|_| "a thread has stopped working".to_owned())?);
        }
        let last = std::mem::replace(&mut self.used, used);
        let between =
            |now: Option<process::Cpu>, then: Option<process::Cpu>| Some(now?.since(&then?));
        self.report.sent += stats.sent;
        self.report.add_troubles(&stats.troubles);
        Ok(StepReport::new(
            used.at - last.at,
            stats,
            between(used.server, last.server),
            between(used.own, last.own),
        ))
    }

    fn pass(&mut self, time: Duration, what: &str) {
        let until = Instant::now() + time;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            thread::sleep(left.min(Duration::from_millis(50)));
            self.tell_progress(what);
        }
    }

    /// Waits as long as anything moves. Says whether it came to pass.
    fn wait(
        &mut self,
        patience: Duration,
        what: &str,
        done: impl Fn(&[Arc<Progress>]) -> bool,
    ) -> bool {
        let state = |this: &Self| {
            let sum = |count: fn(&Progress) -> &Count| this.sum(count);
            (sum(|of| &of.ready), sum(|of| &of.done), sum(|of| &of.answered), sum(|of| &of.open))
        };
        let (mut last, mut moved) = (state(self), Instant::now());
        while !done(&self.progress) {
            thread::sleep(LOOK);
            let now = state(self);
            if std::mem::replace(&mut last, now) != now {
                moved = Instant::now();
            } else if moved.elapsed() > patience {
                return false;
            }
            self.tell_progress(what);
        }
        true
    }

    fn sum(&self, count: fn(&Progress) -> &Count) -> u64 {
        self.progress.iter().map(|of| count(of).get()).sum()
    }

    fn tell_progress(&mut self, what: &str) {
        if self.told.elapsed() < TELL {
            return;
        }
        self.told = Instant::now();
        let line = format!(
            "{:>5.0} s  {what}: {} of {} agents ready on {} connections, {} messages answered, \
             {} without answer, {} troubles",
            self.stage.began.elapsed().as_secs_f64(),
            self.sum(|of| &of.ready),
            self.options.agents,
            self.sum(|of| &of.open),
            self.sum(|of| &of.answered),
            self.sum(|of| &of.unanswered),
            self.sum(|of| &of.troubles),
        );
        (self.tell)(&line);
    }

    fn note_memory(&mut self, when: &'static str, agents: usize) {
        let Some(pid) = self.options.pid else { return };
        if agents > 0 {
            thread::sleep(self.options.settle);
        }
        if let Some(memory) = process::memory(pid) {
            self.report.memory.push(MemoryAt { when, agents, memory });
        }
    }
}

/// A configuration that no agent has yet.
fn configuration(size: usize, run: u64, round: usize) -> Vec<u8> {
    let mut body = format!("# run {run:016x} push {round:08}\n").into_bytes();
    let line = b"exporters: {otlp: {endpoint: collector.example:4317}}\n";
    body.extend(line.iter().cycle().take(size.saturating_sub(body.len())));
    body
}

/// Sends a PUT, and calls `before` right before. Gives the status of the response.
fn put(url: &Target, body: &[u8], before: impl FnOnce()) -> io::Result<u16> {
    const PATIENCE: Option<Duration> = Some(Duration::from_secs(30));
    let mut socket = TcpStream::connect_timeout(&url.addr, Duration::from_secs(5))?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(PATIENCE)?;
    socket.set_write_timeout(PATIENCE)?;
    let mut request = format!(
        "PUT {} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        url.path,
        url.authority,
        body.len()
    )
    .into_bytes();
    request.extend_from_slice(body);
    before();
    socket.write_all(&request)?;
    let mut answer = [0; 12];
    socket.read_exact(&mut answer)?;
    let status = std::str::from_utf8(&answer[9..]).ok().and_then(|code| code.parse().ok());
    status.ok_or_else(|| io::ErrorKind::InvalidData.into())
}
