//! What there is to do: decided anew for a package whenever something happened to it, from what is
//! remembered of it, what is being done about it and what the agent was handed.

use std::time::Instant;

use bytes::Bytes;
use opamp_proto::v1;

use super::fetch::{self, MAX_HASH, MAX_NAME};
use super::handover::PackageOutcome;
use super::work::{Stage, Work};
use super::{
    Expected, FileKey, HandOver, Identity, InstalledPackage, Loading, MAX_HAND_OVERS,
    PackageFailure, PackageOffer, PackageOfferId, PackageRecord, PackageRecords, PackageRemoval,
    PackageResolution, Packages, Token,
};
use crate::core::offer::cut;
use crate::core::{Event, NotPending};

impl Packages {
    /// A set of packages is on offer.
    pub(super) fn offer(&mut self, offer: v1::PackagesAvailable, now: Instant) {
        let offer = detach(offer);
        if self.loading != Loading::Done {
            self.early_offer = Some(offer);
            return;
        }
        let identity = Identity::of(&offer);
        if self.identity.as_ref() == Some(&identity) {
            return;
        }
        if let Some(why) = self.unusable(&offer) {
            self.identity = Some(identity);
            if offer.all_packages_hash.len() <= MAX_HASH {
                self.records.all_packages_hash = offer.all_packages_hash;
            }
            self.records.error_message = why;
            return self.changed();
        }
        self.identity = Some(identity);
        // Surely another offer than that of which something could not be removed.
        let is_new = !offer.all_packages_hash.is_empty()
            && offer.all_packages_hash != self.records.all_packages_hash;
        self.records.all_packages_hash = offer.all_packages_hash;
        self.records.error_message.clear();
        if let Some((name, _)) = self.removing.take()
            && let Some(record) = self.records.packages.get_mut(&name)
        {
            record.removals = record.removals.saturating_sub(1);
        }
        let nameless_wanted = self.records.packages.get("").is_some_and(|record| record.wanted);
        for record in self.records.packages.values_mut() {
            if !record.wanted {
                // What could not be removed is tried again.
                record.failure = None;
            }
            record.wanted = false;
        }
        let top_level = offer
            .packages
            .values()
            .filter(|package| package.r#type == v1::PackageType::TopLevel as i32)
            .count();
        let mut misnamed = 0;
        for (name, package) in offer.packages {
            let is_top_level = package.r#type == v1::PackageType::TopLevel as i32;
            // Only a sole top-level package may have no name (A39).
            let nameless = name.is_empty() && !(is_top_level && top_level == 1);
            if nameless || name.len() > MAX_NAME {
                misnamed += 1;
                // It is on offer all the same, so it is not to be removed.
                if let Some(record) = self.records.packages.get_mut(&name) {
                    record.wanted = nameless_wanted;
                }
                continue;
            }
            self.want(name, package);
        }
        if misnamed > 0 {
            self.records.error_message = format!(
                "{misnamed} packages have names that cannot be used: empty beside other packages, \
                 or longer than {MAX_NAME} bytes"
            );
        }
        for record in self.records.packages.values_mut().filter(|record| !record.wanted) {
            record.failure = None;
            if is_new && record.removals >= MAX_HAND_OVERS {
                // Not none at all: it may be gone.
                record.removals = 1;
            }
        }
        self.changed();
        self.plan_all(now);
        let known = &self.records.packages;
        self.trouble.retain(|name, _| known.contains_key(name));
        self.answered.retain(|name, _| known.contains_key(name));
    }

    /// Why an offer cannot be taken at all (PKG-41). What the last one asked for then goes on.
    fn unusable(&self, offer: &v1::PackagesAvailable) -> Option<String> {
        let (count, most) = (offer.packages.len(), self.config.max_packages);
        if count > most {
            return Some(format!("the offer has {count} packages, and {most} are the most"));
        }
        (offer.all_packages_hash.len() > MAX_HASH)
            .then(|| format!("all_packages_hash is longer than {MAX_HASH} bytes"))
    }

    /// A package is in the offer.
    fn want(&mut self, name: String, mut package: v1::PackageAvailable) {
        fetch::bound(&mut package);
        if let Some(work) = self.work.get_mut(&name) {
            work.renew();
        }
        let local = self.config.local.get(&name);
        let handed = self.handed.get(&name).map(|handed| &handed.token);
        let being_removed = matches!(handed, Some(Token::Remove(_)));
        let record = self
            .records
            .packages
            .entry(name)
            .or_insert_with(|| PackageRecord { has: local.cloned(), ..PackageRecord::default() });
        let same =
            record.offered.as_ref().is_some_and(|before| InstalledPackage::of(before).is(&package));
        // What the agent refused it would refuse again; a download may well succeed now (PKG-67).
        let refused = record.failure.as_ref().is_some_and(|failure| failure.by_agent);
        if !(same && refused) {
            record.failure = None;
        }
        if !same {
            record.handed_over = 0;
        }
        record.wanted = true;
        record.offered = Some(package);
        if !being_removed {
            record.doubt();
        }
        if record.is_installed() {
            record.forget_how();
        }
    }

    /// What an earlier process of the agent saved.
    pub(super) fn restore(&mut self, records: PackageRecords, now: Instant) {
        self.records = records;
        let hash = &self.records.all_packages_hash;
        self.identity = (!hash.is_empty()).then(|| Identity::Hash(hash.clone()));
        for record in self.records.packages.values_mut() {
            let refused = record.failure.as_ref().is_some_and(|failure| failure.by_agent);
            if !(refused && record.wanted) {
                record.failure = None;
            }
            if record.wanted {
                record.doubt();
                record.doubt_installed();
            }
        }
        self.stale = true;
        self.plan_all(now);
        if let Some(offer) = self.early_offer.take() {
            self.offer(offer, now);
        }
    }

    fn plan_all(&mut self, now: Instant) {
        let names: Vec<_> = self.records.packages.keys().cloned().collect();
        for name in names {
            self.plan(&name, now);
        }
    }

    /// Decides what is to be done about a package.
    pub(super) fn plan(&mut self, name: &str, now: Instant) {
        let Some(record) = self.records.packages.get(name) else {
            return self.drop_work(name);
        };
        let handed = self.handed.get(name);
        if !record.wanted && record.server_package().is_none() && handed.is_none() {
            // Nothing of it is here, or only what is none of the server's business (A21).
            self.records.packages.remove(name);
            self.changed();
            return self.drop_work(name);
        }
        let Some(offered) = record.offered.as_ref().filter(|_| record.wanted) else {
            return self.drop_work(name);
        };
        let is_handed = handed.is_some_and(|handed| handed.installs(offered));
        if record.is_installed() || record.failure.is_some() || is_handed {
            return self.drop_work(name);
        }
        let file = offered.file.clone().unwrap_or_default();
        let expected = fetch::check(offered)
            .and_then(|()| Expected::new(&file, self.config.signatures).map_err(str::to_owned));
        let expected = match expected {
            Ok(expected) => expected,
            Err(why) => return self.fail(name, why, false),
        };
        let key = FileKey::new(name, &file.content_hash, &offered.hash);
        let recorded = record.handed_over > 0;
        if let Some(work) = self.work.get_mut(name)
            && work.key == key
            && work.expected == expected
        {
            if !recorded {
                // The same content in another package, which is to be handed over three times, too.
                work.unrecord();
            }
            return;
        }
        self.drop_work(name);
        let cooling = self.trouble.get(name).map(|trouble| trouble.until);
        let work = Work::new(key, expected, cooling.filter(|until| *until > now));
        self.work.insert(name.to_owned(), work);
        self.stale = true;
    }

    fn drop_work(&mut self, name: &str) {
        if let Some(work) = self.work.remove(name) {
            self.cancelled.extend(work.ticket());
            self.stale = true;
            if matches!(work.stage, Stage::Recording { .. })
                && let Some(record) = self.records.packages.get_mut(name)
            {
                // It was noted, and did not come to pass.
                record.handed_over = record.handed_over.saturating_sub(1);
            }
        }
    }

    /// The package does not become what the server wants it to be.
    pub(super) fn fail(&mut self, name: &str, why: String, by_agent: bool) {
        self.drop_work(name);
        let why = cut(why);
        if let Some(record) = self.records.packages.get_mut(name) {
            record.failure = Some(PackageFailure { why: why.clone(), by_agent });
            self.changed();
        }
        self.notice(Event::PackageFailed { name: name.to_owned(), why });
    }

    /// Without a record of it, a package cannot be handed over: the agent might stop and be handed
    /// it over and over.
    pub(super) fn give_up_recording(&mut self, why: &str) {
        let blocked: Vec<_> = self
            .work
            .iter()
            .filter(|(_, work)| matches!(work.stage, Stage::Recording { .. }))
            .map(|(name, _)| name.clone())
            .collect();
        for name in blocked {
            self.fail(&name, format!("the package store cannot save: {why}"), false);
        }
    }

    /// Hands over what is ready, in turn.
    pub(super) fn advance(&mut self, now: Instant) {
        if self.loading != Loading::Done {
            return;
        }
        self.hand_over_recorded(now);
        let busy = self.handed.values().any(|handed| !handed.pending)
            || self.work.values().any(|work| matches!(work.stage, Stage::Recording { .. }));
        if busy {
            return;
        }
        while let Some(name) = self.next_verified() {
            if self.record_hand_over(&name) {
                return;
            }
        }
        if self.work.values().all(|work| work.stuck().is_some()) {
            self.hand_over_removal(now);
        }
    }

    /// The verified package whose turn it is: an addition may need the newer agent, so top-level
    /// packages that are on their way go first.
    fn next_verified(&self) -> Option<String> {
        let (name, work) = self
            .work
            .iter()
            .filter(|(_, work)| work.stuck().is_none())
            .min_by_key(|(name, work)| (self.is_addon(name), !work.is_verified()))?;
        work.is_verified().then(|| name.clone())
    }

    pub(super) fn is_addon(&self, name: &str) -> bool {
        self.records.packages.get(name).is_none_or(PackageRecord::is_addon)
    }

    /// Notes that a package will be handed over; false when it has been too often.
    fn record_hand_over(&mut self, name: &str) -> bool {
        let Some(record) = self.records.packages.get_mut(name) else { return false };
        if record.handed_over >= MAX_HAND_OVERS {
            self.fail(name, too_often(), true);
            return false;
        }
        record.handed_over += 1;
        if let Some(offered) = record.as_offered() {
            record.may_have(offered);
        }
        self.changed();
        let version = self.saving.version;
        if let Some(work) = self.work.get_mut(name) {
            work.record(version);
        }
        true
    }

    fn hand_over_recorded(&mut self, now: Instant) {
        let saved = self.saving.saved;
        let ready = self
            .work
            .iter()
            .find_map(|(name, work)| work.recorded(saved).map(|file| (name.clone(), file)));
        let Some((name, (location, len))) = ready else { return };
        self.work.remove(&name);
        let Some(record) = self.records.packages.get(&name) else { return };
        let Some(package) = record.as_offered() else { return };
        let offer = PackageOffer {
            id: PackageOfferId(self.last_id + 1),
            name,
            package,
            previous: record.has.clone(),
            location,
            len,
            times: record.handed_over,
        };
        self.hand_over(Token::Install(offer), now);
    }

    /// Removals come last, as in the specification. They are noted before, too: one that makes the
    /// agent crash must not do so for ever, and what may be removed must not be taken for
    /// installed.
    fn hand_over_removal(&mut self, now: Instant) {
        while let Some((name, package)) = self.next_removal() {
            match &self.removing {
                Some((noted, version)) if *noted == name => {
                    if *version <= self.saving.saved {
                        self.removing = None;
                        let id = PackageOfferId(self.last_id + 1);
                        self.hand_over(Token::Remove(PackageRemoval { id, name, package }), now);
                    }
                    return;
                }
                _ => self.record_removal(name),
            }
        }
    }

    fn next_removal(&self) -> Option<(String, InstalledPackage)> {
        self.records.packages.iter().find_map(|(name, record)| {
            let due = !record.wanted && record.failure.is_none() && !self.handed.contains_key(name);
            let package = record.server_package().filter(|_| due)?;
            Some((name.clone(), package.clone()))
        })
    }

    /// Notes that a removal will be handed over, unless it has been too often.
    fn record_removal(&mut self, name: String) {
        let Some(record) = self.records.packages.get_mut(&name) else { return };
        if record.removals >= MAX_HAND_OVERS {
            return self.fail(&name, too_often(), true);
        }
        record.removals += 1;
        self.changed();
        self.removing = Some((name, self.saving.version));
    }

    fn hand_over(&mut self, token: Token, now: Instant) {
        self.last_id += 1;
        let name = match &token {
            Token::Install(offer) => offer.name.clone(),
            Token::Remove(removal) => removal.name.clone(),
        };
        let due = now.checked_add(self.config.install_timeout);
        let id = PackageOfferId(self.last_id);
        self.handed.insert(name, HandOver { id, token, announced: false, pending: false, due });
        self.stale = true;
    }

    /// What the agent says of something that it was handed.
    pub(super) fn resolve(
        &mut self,
        resolution: PackageResolution,
        now: Instant,
    ) -> Result<(), NotPending> {
        let PackageResolution { id, name, outcome } = resolution;
        let Some(handed) = self.handed.get_mut(&name).filter(|handed| handed.id == id) else {
            return self.resolve_late(id, &name, outcome, now);
        };
        match outcome {
            PackageOutcome::Installing => {
                handed.pending = false;
                handed.due = now.checked_add(self.config.install_timeout);
                self.stale = true;
                return Ok(());
            }
            PackageOutcome::Pending => {
                handed.pending = true;
                handed.due = now.checked_add(self.config.pending_timeout);
                if let Some(record) = self.records.packages.get_mut(&name) {
                    // Its restarts meanwhile are not the package's fault.
                    record.handed_over = 0;
                }
                self.changed();
                return Ok(());
            }
            PackageOutcome::Installed(package) => {
                self.handed.remove(&name);
                self.now_has(&name, Some(package));
            }
            PackageOutcome::Removed => {
                self.handed.remove(&name);
                self.now_has(&name, None);
            }
            PackageOutcome::Failed(why) => {
                let token = self.handed.remove(&name).map(|handed| handed.token);
                if let Some(record) = self.records.packages.get_mut(&name) {
                    // It has what it had.
                    match &token {
                        Some(Token::Install(offer)) => {
                            record.unanswered.retain(|other| *other != offer.package);
                        }
                        _ => record.removals = 0,
                    }
                    self.changed();
                }
                self.refused(&name, token, why);
            }
        }
        self.answered.insert(name.clone(), id);
        self.plan(&name, now);
        Ok(())
    }

    /// The hand-over is over, but what the agent has is true whatever became of it. Only a word on
    /// a later hand-over is newer.
    fn resolve_late(
        &mut self,
        id: PackageOfferId,
        name: &str,
        outcome: PackageOutcome,
        now: Instant,
    ) -> Result<(), NotPending> {
        let newer = self.answered.get(name).is_some_and(|answered| *answered >= id);
        if newer || id.0 > self.last_id {
            return Err(NotPending);
        }
        match outcome {
            PackageOutcome::Installed(package) => {
                self.records.packages.entry(name.to_owned()).or_default();
                self.now_has(name, Some(package));
            }
            PackageOutcome::Removed => self.now_has(name, None),
            _ => return Err(NotPending),
        }
        self.answered.insert(name.to_owned(), id);
        self.plan(name, now);
        Ok(())
    }

    fn now_has(&mut self, name: &str, package: Option<InstalledPackage>) {
        let Some(record) = self.records.packages.get_mut(name) else { return };
        record.has = package;
        record.removals = 0;
        let newer = self.handed.get(name).map(|handed| &handed.token);
        record.unanswered.retain(
            |other| matches!(newer, Some(Token::Install(offer)) if *other == offer.package),
        );
        if record.is_installed() && record.wanted {
            record.forget_how();
        }
        self.trouble.remove(name);
        self.changed();
    }

    /// The agent did not do what it was handed.
    fn refused(&mut self, name: &str, token: Option<Token>, why: String) {
        let Some(record) = self.records.packages.get(name) else { return };
        let current = match (&token, &record.offered) {
            (Some(Token::Install(offer)), Some(offered)) => {
                record.wanted && offer.package.is(offered)
            }
            (Some(Token::Remove(_)), _) => !record.wanted,
            _ => false,
        };
        self.stale = true;
        if current {
            self.fail(name, why, true);
        }
    }

    /// What has no outcome by its deadline counts as failed.
    pub(super) fn expire_handed(&mut self, now: Instant) {
        let overdue: Vec<_> = self
            .handed
            .iter()
            .filter(|(_, handed)| handed.due.is_some_and(|due| due <= now))
            .map(|(name, _)| name.clone())
            .collect();
        for name in overdue {
            let Some(handed) = self.handed.remove(&name) else { continue };
            let timeout = match handed.pending {
                true => self.config.pending_timeout,
                false => self.config.install_timeout,
            };
            let why = format!("no outcome within {} s", timeout.as_secs());
            self.refused(&name, Some(handed.token), why);
            if let Some(record) = self.records.packages.get_mut(&name).filter(|it| it.wanted)
                && (record.doubt() || record.doubt_installed())
            {
                self.changed();
            }
            self.plan(&name, now);
        }
    }
}

fn too_often() -> String {
    format!("the agent was handed it {MAX_HAND_OVERS} times without an outcome")
}

/// A copy that shares no memory with the message it came in.
fn detach(mut offer: v1::PackagesAvailable) -> v1::PackagesAvailable {
    let copy = |bytes: &mut Bytes| *bytes = Bytes::copy_from_slice(bytes);
    copy(&mut offer.all_packages_hash);
    for package in offer.packages.values_mut() {
        copy(&mut package.hash);
        if let Some(file) = &mut package.file {
            copy(&mut file.content_hash);
            copy(&mut file.signature);
        }
    }
    offer
}
