//! Packages beside everything else: a store may be slow and a download long, and the connection
//! never waits for either.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::future::{AbortHandle, Abortable};
use futures_util::stream::FuturesUnordered;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::download::{Downloader, Progress, STORE_TIMEOUT};
use super::{Boxed, Proxy, now};
use crate::core::ClientCore;
use crate::core::packages::{
    FetchFailure, FetchTicket, Fetched, PackageAction, PackageRecords, RetainTicket, SaveTicket,
};
use crate::error::Error;
use crate::packages::Packages;

/// How long the first connection waits for what is remembered of packages, so that they are in the
/// first report (STATUS-01, PKG-27).
const FIRST_LOAD: Duration = Duration::from_secs(5);

/// How long what changed last is given, when the client stops.
const LAST_SAVE: Duration = Duration::from_secs(5);

/// Does what the core wants done about packages: nothing where there is no store.
#[derive(Default)]
pub(crate) struct Warehouse {
    downloader: Option<Downloader>,
    /// At most one of each kind, and the downloads, which the core bounds.
    running: FuturesUnordered<Boxed<Done>>,
    downloads: BTreeMap<FetchTicket, (AbortHandle, Arc<Progress>)>,
    /// Told when the bytes of a download begin to come.
    begun: Arc<Notify>,
    loading: bool,
}

/// What came of it.
pub(super) enum Done {
    Loaded(io::Result<Option<PackageRecords>>),
    Saved(SaveTicket, io::Result<()>),
    Retained(RetainTicket, io::Result<()>),
    /// `None` when it was cancelled.
    Fetched(FetchTicket, Option<Result<Fetched, FetchFailure>>),
    /// Nothing, but a download has progress to tell.
    Begun,
}

impl Warehouse {
    pub(crate) fn new(packages: &Packages, proxy: &Proxy) -> Result<Self, Error> {
        let downloader = Downloader::new(packages, proxy)?;
        Ok(Self { downloader: Some(downloader), ..Self::default() })
    }

    /// Loads what is remembered before anything is reported, unless the store takes too long.
    pub(super) async fn load(&mut self, core: &mut ClientCore) {
        self.start(core, now());
        let load = async {
            while self.loading {
                let done = self.done().await;
                self.tell(done, core, now());
            }
        };
        // It goes on beside the rest.
        let _ = timeout(FIRST_LOAD, load).await;
    }

    /// Tells the core how far downloads are: before it is told the time, at which it may pass that
    /// on.
    pub(super) fn catch_up(&self, core: &mut ClientCore, now: Instant) {
        for (ticket, (_, progress)) in &self.downloads {
            if let Some(progress) = progress.get() {
                core.handle_fetch_progress(*ticket, progress, now);
            }
        }
    }

    /// Begins what the core wants done.
    pub(super) fn start(&mut self, core: &mut ClientCore, now: Instant) {
        let Some(downloader) = self.downloader.clone() else { return };
        while let Some(action) = core.poll_package_action(now) {
            self.act(action, &downloader);
        }
    }

    fn act(&mut self, action: PackageAction, downloader: &Downloader) {
        let store = Arc::clone(&downloader.store);
        self.running.push(match action {
            PackageAction::Load => {
                self.loading = true;
                Box::pin(async move { Done::Loaded(in_time(store.load()).await) })
            }
            PackageAction::Save { ticket, records } => {
                Box::pin(async move { Done::Saved(ticket, in_time(store.save(&records)).await) })
            }
            PackageAction::Retain { ticket, keys } => {
                Box::pin(async move { Done::Retained(ticket, in_time(store.retain(&keys)).await) })
            }
            PackageAction::Fetch(request) => {
                let progress = Arc::new(Progress::new(Arc::clone(&self.begun)));
                let (abort, registration) = AbortHandle::new_pair();
                let ticket = request.ticket;
                self.downloads.insert(ticket, (abort, Arc::clone(&progress)));
                let fetch = downloader.clone().fetch(request, progress);
                let fetch = Abortable::new(fetch, registration);
                Box::pin(async move { Done::Fetched(ticket, fetch.await.ok()) })
            }
            PackageAction::Cancel(ticket) => {
                if let Some((abort, _)) = self.downloads.remove(&ticket) {
                    abort.abort();
                }
                return;
            }
        });
    }

    /// Completes when something is done. Cancelling loses nothing.
    pub(super) async fn done(&mut self) -> Done {
        tokio::select! {
            Some(done) = self.running.next() => done,
            () = self.begun.notified() => Done::Begun,
        }
    }

    pub(super) fn tell(&mut self, done: Done, core: &mut ClientCore, now: Instant) {
        let why = |error: io::Error| error.to_string();
        match done {
            Done::Loaded(loaded) => {
                self.loading = false;
                core.handle_packages_loaded(loaded.map_err(why), now);
            }
            Done::Saved(ticket, saved) => {
                core.handle_packages_saved(ticket, saved.map_err(why), now);
            }
            Done::Retained(ticket, retained) => {
                core.handle_packages_retained(ticket, retained.map_err(why), now);
            }
            Done::Begun | Done::Fetched(_, None) => {}
            Done::Fetched(ticket, Some(fetched)) => {
                self.downloads.remove(&ticket);
                core.handle_fetched(ticket, fetched, now);
            }
        }
    }

    /// Ends the downloads, whose bytes stay in the store, and saves what changed last; the client
    /// has stopped and nothing else waits.
    pub(super) async fn finish(&mut self, core: &mut ClientCore) {
        for (abort, _) in std::mem::take(&mut self.downloads).into_values() {
            abort.abort();
        }
        let save_all = async {
            loop {
                self.start(core, now());
                let Some(done) = self.running.next().await else { break };
                // Another attempt would follow at once.
                let failed = matches!(&done, Done::Saved(_, Err(_)));
                self.tell(done, core, now());
                if failed {
                    break;
                }
            }
        };
        // What a store does not take by then is as if the process had been killed.
        let _ = timeout(LAST_SAVE, save_all).await;
    }
}

async fn in_time<T>(operation: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(STORE_TIMEOUT, operation).await.unwrap_or_else(|_| {
        let seconds = STORE_TIMEOUT.as_secs();
        Err(io::Error::other(format!("the store took longer than {seconds} s")))
    })
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use bytes::Bytes;
    use opamp_proto::{InstanceUid, v1};

    use super::*;
    use crate::core::packages::{FileKey, PackagesConfig};
    use crate::core::{ClientConfig, ClientState};
    use crate::packages::{FileSource, PackageStore, StoredFile};

    /// A store that answers the loading, and nothing else, if it answers at all.
    struct Hanging {
        loads: bool,
    }

    #[async_trait::async_trait]
    impl PackageStore for Hanging {
        async fn load(&self) -> io::Result<Option<PackageRecords>> {
            match self.loads {
                true => Ok(None),
                false => std::future::pending().await,
            }
        }

        async fn save(&self, _: &PackageRecords) -> io::Result<()> {
            std::future::pending().await
        }

        async fn find(&self, _: &FileKey) -> io::Result<Option<StoredFile>> {
            std::future::pending().await
        }

        async fn start(&self, _: &FileKey, _: &FileSource) -> io::Result<()> {
            std::future::pending().await
        }

        async fn append(&self, _: &FileKey, _: u64, _: Bytes) -> io::Result<()> {
            std::future::pending().await
        }

        async fn read(&self, _: &FileKey, _: u64, _: usize) -> io::Result<Bytes> {
            std::future::pending().await
        }

        async fn commit(&self, _: &FileKey) -> io::Result<PathBuf> {
            std::future::pending().await
        }

        async fn discard(&self, _: &FileKey) -> io::Result<()> {
            std::future::pending().await
        }

        async fn retain(&self, _: &[FileKey]) -> io::Result<()> {
            std::future::pending().await
        }
    }

    fn core() -> ClientCore {
        let state = ClientState::new(InstanceUid::from_parts(1, [7; 10]));
        let description = v1::AgentDescription {
            identifying_attributes: vec![v1::KeyValue::new("service.name", "any")],
            ..Default::default()
        };
        let mut config = ClientConfig::new(state, description);
        config.packages = Some(PackagesConfig::default());
        ClientCore::new(config, now()).unwrap()
    }

    fn warehouse(store: Hanging) -> Warehouse {
        Warehouse::new(&Packages::verified_by_hash(store), &Proxy::none()).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_hangs_holds_up_the_first_connection_for_a_moment_only() {
        let (mut core, mut warehouse) = (core(), warehouse(Hanging { loads: false }));
        let start = now();
        warehouse.load(&mut core).await;
        assert_eq!(now() - start, FIRST_LOAD);
        assert!(core.poll_connection(now()).is_some());
        // And it counts as failed in the end, so that it is asked again.
        let done = warehouse.done().await;
        assert_eq!(now() - start, STORE_TIMEOUT);
        assert!(matches!(&done, Done::Loaded(Err(_))));
        warehouse.tell(done, &mut core, now());
        assert!(core.poll_timeout().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_hangs_does_not_hold_up_the_end() {
        let (mut core, mut warehouse) = (core(), warehouse(Hanging { loads: true }));
        let start = now();
        warehouse.load(&mut core).await;
        assert_eq!(now() - start, Duration::ZERO);
        // What is under way is given its time, and no more.
        warehouse.start(&mut core, now());
        core.stop(now());
        warehouse.finish(&mut core).await;
        assert_eq!(now() - start, LAST_SAVE);
    }
}
