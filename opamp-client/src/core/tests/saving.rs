//! Saving the state through a store that may fail.

use std::time::Duration;

use super::pair::{Pair, TRANSPORTS, WebSocket};
use super::values::{remote_config, seconds};
use crate::core::{ClientConfig, ClientState, Event, Save, Storage};

fn with_store(config: &mut ClientConfig) {
    config.storage = Storage::Store;
}

fn saving(pair: &mut Pair) -> Save {
    let save = pair.core.poll_save().expect("something is to be saved");
    assert_eq!(pair.core.poll_save(), None, "one at a time");
    save
}

#[test]
fn a_new_agent_saves_its_identity_at_once() {
    let _judged = opamp_spec::judges(&["ID-04"]);
    for transport in TRANSPORTS {
        let mut pair = Pair::new(transport, with_store);
        let save = saving(&mut pair);
        assert_eq!(save.state, *pair.core.state());
        assert_eq!(ClientState::from_bytes(&save.state.to_bytes()), Ok(save.state));
        pair.core.handle_saved(save.version, pair.now);
        assert_eq!(pair.core.poll_save(), None);
    }
}

#[test]
fn without_a_store_nothing_is_to_be_saved() {
    for storage in [Storage::Ephemeral, Storage::Application] {
        let mut pair = Pair::new(WebSocket, |config| config.storage = storage);
        assert_eq!(pair.core.poll_save(), None);
    }
}

#[test]
fn the_newest_state_is_saved_when_the_one_before_is() {
    let mut pair = Pair::settled_with(WebSocket, with_store);
    let first = saving(&mut pair);
    pair.receive(remote_config("h1", "a: 1"));
    pair.receive(remote_config("h2", "a: 2"));
    assert_eq!(pair.core.poll_save(), None);
    // What was not asked for is no answer.
    pair.core.handle_saved(first.version + 7, pair.now);
    assert_eq!(pair.core.poll_save(), None);
    pair.core.handle_saved(first.version, pair.now);
    let second = saving(&mut pair);
    assert_eq!(second.state, *pair.core.state());
    pair.core.handle_saved(second.version, pair.now);
    assert_eq!(pair.core.poll_save(), None);
}

#[test]
fn a_store_that_fails_is_tried_again_with_backoff_and_told_once() {
    let mut pair = Pair::settled_with(WebSocket, with_store);
    let mut longest = Duration::ZERO;
    for attempt in 0..20 {
        let save = saving(&mut pair);
        pair.core.handle_save_failed(save.version, "disk full", pair.now);
        assert_eq!(pair.core.poll_save(), None, "not at once");
        let told = pair
            .events()
            .iter()
            .filter(
                |event| matches!(event, Event::SaveFailed { reason, .. } if reason == "disk full"),
            )
            .count();
        assert_eq!(told, usize::from(attempt == 0));
        let mut waited = Duration::ZERO;
        while waited <= seconds(60) && pair.core.saving.paused {
            pair.advance(Duration::from_millis(100));
            waited += Duration::from_millis(100);
        }
        longest = longest.max(waited);
    }
    assert!(longest > seconds(20) && longest <= seconds(60), "{longest:?}");
    let save = saving(&mut pair);
    pair.core.handle_saved(save.version, pair.now);
    pair.receive(remote_config("h1", "a: 1"));
    let save = saving(&mut pair);
    pair.core.handle_save_failed(save.version, "again", pair.now);
    assert!(pair.events().iter().any(|event| matches!(event, Event::SaveFailed { .. })));
}

#[test]
fn a_stopped_client_saves_what_changed_last() {
    let mut pair = Pair::settled_with(WebSocket, with_store);
    let save = saving(&mut pair);
    pair.core.handle_save_failed(save.version, "disk full", pair.now);
    pair.core.stop(pair.now);
    pair.advance(seconds(5));
    assert!(pair.core.is_stopped());
    let save = saving(&mut pair);
    assert_eq!(save.state, *pair.core.state());
    pair.core.handle_save_failed(save.version, "disk full", pair.now);
    assert_eq!(saving(&mut pair).version, save.version, "without a timer: there is none any more");
}
