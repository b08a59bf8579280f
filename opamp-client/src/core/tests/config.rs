//! What a configuration may be, and that no configuration that may be makes the core panic.

use std::time::Duration;

use opamp_proto::{MessageLimits, v1};

use super::pair::{Http, Pair, WebSocket, config, origin, unreachable};
use super::values::{remote_config, seconds, unavailable};
use crate::core::{ClientConfig, ClientCore, ConfigError, Link, Transport};

fn refusal(adapt: impl FnOnce(&mut ClientConfig)) -> Option<ConfigError> {
    let mut config = config(WebSocket);
    adapt(&mut config);
    ClientCore::new(config, origin()).err()
}

#[test]
fn an_interval_of_zero_is_refused() {
    type Field = (&'static str, fn(&mut ClientConfig) -> &mut Duration);
    let fields: [Field; 14] = [
        ("heartbeat_interval", |config| config.heartbeat_interval.get_or_insert_default()),
        ("polling_interval", |config| &mut config.polling_interval),
        ("connect_timeout", |config| &mut config.connect_timeout),
        ("reply_timeout", |config| &mut config.reply_timeout),
        ("offer_timeout", |config| &mut config.offer_timeout),
        ("ping_interval", |config| config.ping_interval.get_or_insert_default()),
        ("ping_timeout", |config| &mut config.ping_timeout),
        ("close_timeout", |config| &mut config.close_timeout),
        ("answer_timeout", |config| config.answer_timeout.get_or_insert_default()),
        ("settings_timeout", |config| &mut config.settings_timeout),
        ("custom_message_timeout", |config| &mut config.custom_message_timeout),
        ("immediate_reconnect_interval", |config| &mut config.immediate_reconnect_interval),
        ("backoff.initial", |config| &mut config.backoff.initial),
        ("backoff.max", |config| &mut config.backoff.max),
    ];
    for (field, duration) in fields {
        let error = refusal(|config| *duration(config) = Duration::ZERO);
        assert_eq!(error, Some(ConfigError::ZeroInterval { field }));
        let shown = error.map(|error| error.to_string()).unwrap_or_default();
        assert!(shown.contains(field), "{shown}");
        let error = refusal(|config| *duration(config) = Duration::from_nanos(1));
        assert_eq!(error, None);
    }
}

#[test]
fn a_send_limit_without_room_for_a_heartbeat_is_refused() {
    let _judged = opamp_spec::judges(&["SIZE-03", "SIZE-20"]);
    let limits =
        |bytes| refusal(|config| config.limits = MessageLimits::new().with_max_send(bytes));
    let limit = 255;
    assert_eq!(limits(limit), Some(ConfigError::SendLimitTooSmall { limit }));
    assert_eq!(limits(256), None);
}

#[test]
fn an_agent_without_a_description_is_refused() {
    let attribute = || vec![v1::KeyValue::new("service.name", "agent")];
    let error = refusal(|config| config.description = v1::AgentDescription::default());
    assert_eq!(error, Some(ConfigError::EmptyDescription));
    for description in [
        v1::AgentDescription { identifying_attributes: attribute(), ..Default::default() },
        v1::AgentDescription { non_identifying_attributes: attribute(), ..Default::default() },
    ] {
        assert_eq!(refusal(|config| config.description = description), None);
    }
}

#[test]
fn defaults_are_as_the_specification_has_them() {
    let _judged = opamp_spec::judges(&["HB-03", "HTTP-07", "SIZE-02", "SIZE-19", "THR-12"]);
    let config = config(WebSocket);
    assert_eq!(config.heartbeat_interval, Some(seconds(30)));
    assert_eq!(config.polling_interval, seconds(30));
    assert_eq!(config.limits.max_send(), 64 << 20);
    assert_eq!(config.limits.max_receive(), 64 << 20);
    assert_eq!(config.backoff.throttled, seconds(30));
}

/// Every duration is set to the same.
fn with_durations(config: &mut ClientConfig, duration: Duration) {
    config.heartbeat_interval = Some(duration);
    config.polling_interval = duration;
    config.connect_timeout = duration;
    config.reply_timeout = duration;
    config.offer_timeout = duration;
    config.ping_interval = Some(duration);
    config.ping_timeout = duration;
    config.close_timeout = duration;
    config.answer_timeout = Some(duration);
    config.custom_message_timeout = duration;
    config.settings_timeout = duration;
    config.immediate_reconnect_interval = duration;
    config.backoff.initial = duration;
    config.backoff.max = duration;
    config.backoff.throttled = duration;
    config.backoff.max_retry_after = duration;
}

/// Everything that arms a timer happens.
fn arm_every_timer(pair: &mut Pair, transport: Transport) {
    // However long the core wants to wait.
    let skip_the_wait = |pair: &mut Pair| pair.core.link = Link::Idle { paused: false };
    if transport == WebSocket {
        let epoch = pair.expect_connect();
        pair.core.handle_connect_failed(epoch, unreachable(), None, pair.now);
        skip_the_wait(pair);
    }
    pair.connect();
    pair.expect();
    for hash in ["h1", "h2", "h3", "h4"] {
        let mut message = remote_config(hash, "a: 1");
        message.flags = v1::ServerToAgentFlags::ReportFullState as u64;
        pair.receive(message);
        pair.expect();
    }
    pair.acknowledge();
    pair.expect_silence();
    pair.core.heartbeat_due = true;
    pair.expect_heartbeat();
    if transport == WebSocket {
        pair.core.ping_due = true;
        pair.expect_ping();
        for _ in 0..2 {
            pair.acknowledge();
            pair.lose();
            skip_the_wait(pair);
            pair.connect();
            pair.expect();
        }
    }
    pair.receive(unavailable(Some(Duration::MAX)));
    pair.core.stop(pair.now);
}

#[test]
fn endless_durations_never_end_and_never_panic() {
    for duration in [Duration::MAX, Duration::MAX / 2, seconds(u64::MAX / 4)] {
        for jitter in [0.0, 1.0, f64::NAN, f64::INFINITY, -1.0, 7.0] {
            for transport in [WebSocket, Http] {
                let mut pair = Pair::new(transport, |config| {
                    with_durations(config, duration);
                    config.backoff.jitter = jitter;
                });
                arm_every_timer(&mut pair, transport);
            }
        }
    }
}

#[test]
fn the_shortest_durations_leave_no_client_asleep() {
    let shortest = |config: &mut ClientConfig| {
        with_durations(config, Duration::from_nanos(1));
        config.heartbeat_interval = None;
        config.polling_interval = seconds(30);
        config.backoff.jitter = 1.0;
    };
    let mut websocket = Pair::new(WebSocket, shortest);
    let mut http = Pair::settled_with(Http, shortest);
    http.advance(seconds(30));
    for _ in 0..100 {
        let epoch = websocket.expect_connect();
        websocket.core.handle_connect_failed(epoch, unreachable(), None, websocket.now);
        assert!(!websocket.wait_for_retry().is_zero());
        http.expect_heartbeat();
        http.lose();
        assert!(!http.wait_for_retry().is_zero());
    }
}
