//! No packages, in a build without them.

use std::convert::Infallible;
use std::future::pending;
use std::time::Instant;

use crate::core::ClientCore;

#[derive(Default)]
pub(crate) struct Warehouse {}

impl Warehouse {
    pub(super) async fn load(&mut self, _: &mut ClientCore) {}

    pub(super) fn catch_up(&self, _: &mut ClientCore, _: Instant) {}

    pub(super) fn start(&mut self, _: &mut ClientCore, _: Instant) {}

    pub(super) async fn done(&mut self) -> Infallible {
        pending().await
    }

    pub(super) fn tell(&mut self, done: Infallible, _: &mut ClientCore, _: Instant) {
        match done {}
    }

    pub(super) async fn finish(&mut self, _: &mut ClientCore) {}
}
