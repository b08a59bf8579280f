//! Offers of configuration, and applications that answer them or do not.

use std::time::Duration;

use opamp_client::core::Event;
use opamp_proto::v1::RemoteConfigStatuses::{Applied, Applying, Failed};
use opamp_proto::v1::{AgentToServer, CommandType, RemoteConfigStatus, ServerToAgentCommand};
use tokio_tungstenite::tungstenite::Message;

use crate::support::{
    Agent, agent, effective, healthy, http, is_bare, offer_to, quick, reply_to, websocket,
};

fn status(report: &AgentToServer) -> &RemoteConfigStatus {
    report.remote_config_status.as_ref().unwrap()
}

#[tokio::test]
async fn an_offer_is_applied_over_websocket() {
    let _judged = opamp_spec::judges(&[
        "CFG-02",
        "CFG-04",
        "CFG-07",
        "CFG-20",
        "CFG-21",
        "CFG-23",
        "STATUS-10",
        "STATUS-11",
        "STATUS-16",
    ]);
    let server = websocket::Server::start().await;
    let mut agent = Agent::start(agent(server.url()).accept_remote_config());
    let (mut peer, first) = server.welcome().await;
    assert_eq!(*status(&first), RemoteConfigStatus::default());

    peer.send(&offer_to(&first, "level: debug", "h1")).await;
    let offer = agent.offer().await;
    assert_eq!(offer.hash(), "h1");
    assert_eq!(offer.config().config_map[""].body, "level: debug");
    agent.client.resolve(offer.applying());
    let report = peer.report().await;
    assert_eq!(
        (status(&report).status, &*status(&report).last_remote_config_hash),
        (Applying as i32, &b"h1"[..])
    );
    peer.send(&reply_to(&report)).await;

    agent.client.resolve(offer.applied_with(effective("level: debug\nport: 1")));
    let report = peer.report().await;
    assert_eq!(status(&report).status, Applied as i32);
    assert_eq!(report.effective_config, Some(effective("level: debug\nport: 1")));
    assert_eq!(agent.client.status().state.remote_config_status, report.remote_config_status);
}

#[tokio::test]
async fn an_offer_is_applied_over_http() {
    let _judged =
        opamp_spec::judges(&["CFG-04", "CFG-07", "CFG-20", "CFG-21", "HTTP-12", "HTTP-13"]);
    let server = http::Server::start().await;
    let mut agent = Agent::start(agent(server.url()).accept_remote_config());
    let request = server.request().await;
    let report = request.report();
    request.reply(&offer_to(&report, "level: debug", "h1")).await;

    let offer = agent.offer().await;
    agent.client.resolve(offer.applied_with(effective("level: debug")));
    // Far sooner than the polling interval of 30 s.
    let report = server.welcome().await;
    assert_eq!(status(&report).status, Applied as i32);
    assert_eq!(status(&report).last_remote_config_hash, "h1");
    assert_eq!(report.effective_config, Some(effective("level: debug")));
}

#[tokio::test]
async fn the_last_word_on_an_offer_stands() {
    let server = websocket::Server::start().await;
    let mut agent = Agent::start(agent(server.url()).accept_remote_config());
    let (mut peer, first) = server.welcome().await;
    peer.send(&offer_to(&first, "level: debug", "h1")).await;
    let offer = agent.offer().await;
    let late = offer.applying();
    agent.client.resolve(offer.applied());
    agent.client.resolve(late);
    assert_eq!(status(&peer.report().await).status, Applied as i32);
}

#[tokio::test]
async fn a_failed_offer_says_why_and_is_not_offered_to_the_agent_again() {
    let _judged = opamp_spec::judges(&["CFG-21", "CFG-22", "STATUS-14", "STATUS-15", "CFG-08"]);
    let server = websocket::Server::start().await;
    let mut agent = Agent::start(agent(server.url()).accept_remote_config().configure(quick));
    let (mut peer, first) = server.welcome().await;
    peer.send(&offer_to(&first, "level: loud", "h1")).await;
    let offer = agent.offer().await;
    agent.client.resolve(offer.failed("no such level"));
    let report = peer.status_report().await;
    assert_eq!(status(&report).status, Failed as i32);
    assert_eq!(status(&report).error_message, "no such level");

    peer.send(&offer_to(&first, "level: loud", "h1")).await;
    let next = peer.report().await;
    assert!(is_bare(&next), "{next:?}");
}

#[tokio::test]
async fn what_is_set_after_an_answer_wins_over_what_the_answer_carried() {
    let server = websocket::Server::start().await;
    let mut agent = Agent::start(agent(server.url()).accept_remote_config());
    let (mut peer, first) = server.welcome().await;
    peer.send(&offer_to(&first, "a", "h1")).await;
    let offer = agent.offer().await;
    agent.client.resolve(offer.applied_with(effective("a")));
    agent.client.set_effective_config(effective("a, then b"));
    let report = peer.report().await;
    assert_eq!(status(&report).status, Applied as i32);
    assert_eq!(report.effective_config, Some(effective("a, then b")));
    peer.send(&reply_to(&report)).await;

    peer.send(&offer_to(&first, "c", "h2")).await;
    let offer = agent.offer().await;
    agent.client.set_effective_config(effective("still a, then b"));
    agent.client.resolve(offer.applied_with(effective("c")));
    assert_eq!(peer.report().await.effective_config, Some(effective("c")));
}

#[tokio::test]
async fn a_late_answer_to_an_old_offer_does_not_hide_the_answer_to_the_newest() {
    let server = websocket::Server::start().await;
    let mut agent = Agent::start(agent(server.url()).accept_remote_config());
    let (mut peer, first) = server.welcome().await;
    peer.send(&offer_to(&first, "old", "h1")).await;
    let old = agent.offer().await;
    peer.send(&offer_to(&first, "new", "h2")).await;
    let new = agent.offer().await;
    agent.client.resolve(new.applied());
    agent.client.resolve(old.failed("too late"));
    loop {
        let report = peer.report().await;
        peer.send(&reply_to(&report)).await;
        if &*status(&report).last_remote_config_hash == b"h2" {
            assert_eq!(status(&report).status, Applied as i32);
            break;
        }
        assert_eq!(status(&report).error_message, "superseded by a newer offer");
    }
}

/// The application takes nothing: its client goes on all the same.
/// W-18 of the reference: neither pongs nor polls went out meanwhile.
#[tokio::test]
async fn events_that_nobody_takes_stop_nothing() {
    let _judged = opamp_spec::judges(&["STATUS-13", "HB-13"]);
    let server = websocket::Server::start().await;
    let mut agent = Agent::start(agent(server.url()).accept_remote_config().configure(|config| {
        quick(config);
        config.heartbeat_interval = Some(Duration::from_millis(20));
    }));
    let (mut peer, first) = server.welcome().await;
    // Many more events than are kept, and offers among them.
    for number in 0..300_u32 {
        peer.send_raw(Message::text("not OpAMP")).await;
        if number % 100 == 0 {
            let mut offer = offer_to(&first, format!("number {number}"), "");
            offer.remote_config.as_mut().unwrap().config_hash =
                number.to_be_bytes().to_vec().into();
            peer.send(&offer).await;
        }
    }
    peer.send_raw(Message::Ping("there?".into())).await;
    let pong = loop {
        match peer.receive().await {
            Some(Message::Pong(pong)) => break pong,
            Some(_) => {}
            None => panic!("the connection is over"),
        }
    };
    assert_eq!(pong, "there?");
    // What follows is not the backlog: heartbeats are still being made.
    let number = peer.report().await.sequence_num;
    while peer.report().await.sequence_num < number + 3 {}

    // The newest offer is kept, however many other events were dropped.
    let mut missed = false;
    let newest = agent
        .until(|event| match event {
            Event::Missed { count } => {
                missed = count > 0;
                None
            }
            Event::RemoteConfig(offer) if offer.config().config_map[""].body == "number 200" => {
                Some(offer)
            }
            _ => None,
        })
        .await;
    assert!(missed);
    agent.client.resolve(newest.applied());
    loop {
        let report = peer.report().await;
        if let Some(status) = report.remote_config_status
            && status.status == Applied as i32
        {
            assert_eq!(&*status.last_remote_config_hash, 200_u32.to_be_bytes());
            break;
        }
        peer.send(&reply_to(&first)).await;
    }
}

#[tokio::test]
async fn an_application_without_events_is_served_and_its_offers_fail_in_the_end() {
    let server = websocket::Server::start().await;
    let builder = agent(server.url()).accept_remote_config().configure(|config| {
        config.offer_timeout = Duration::from_millis(50);
    });
    let (client, events, driver) = builder.build().unwrap();
    drop(events);
    let driver = tokio::spawn(driver.run());
    let (mut peer, first) = server.welcome().await;
    peer.send(&offer_to(&first, "a", "h1")).await;
    assert_eq!(status(&peer.report().await).status, Failed as i32);
    peer.send(&reply_to(&first)).await;
    client.set_health(healthy("fine"));
    assert!(peer.report().await.health.is_some());
    driver.abort();
}

#[tokio::test]
async fn an_unanswered_offer_is_offered_again_by_the_next_process() {
    let server = websocket::Server::start().await;
    let mut first_process = Agent::start(agent(server.url()).accept_remote_config());
    let (mut peer, report) = server.welcome().await;
    peer.send(&offer_to(&report, "a", "h1")).await;
    let _unanswered = first_process.offer().await;
    let saved = first_process.client.status().state.to_bytes();
    first_process.abort_driver().await;

    let state = opamp_client::core::ClientState::from_bytes(&saved).unwrap();
    let mut second_process = Agent::start(agent(server.url()).accept_remote_config().state(state));
    let (mut peer, again) = server.welcome().await;
    assert_eq!(again.instance_uid, report.instance_uid);
    let offer = second_process.offer().await;
    assert_eq!(offer.hash(), "h1");
    second_process.client.resolve(offer.applied());
    let report = peer.report().await;
    assert_eq!(status(&report).status, Applied as i32);
}

#[tokio::test]
async fn the_restart_command_arrives_and_is_ignored_without_the_capability() {
    let _judged = opamp_spec::judges(&["CAP-05"]);
    let restart = Some(ServerToAgentCommand { r#type: CommandType::Restart.into() });
    for accepts in [true, false] {
        let server = websocket::Server::start().await;
        let mut builder = agent(server.url()).accept_remote_config();
        if accepts {
            builder = builder.accept_restart();
        }
        let mut agent = Agent::start(builder);
        let (mut peer, first) = server.welcome().await;
        let mut message = reply_to(&first);
        message.command.clone_from(&restart);
        peer.send(&message).await;
        peer.send(&offer_to(&first, "after the command", "h1")).await;
        let mut restarts = 0;
        agent
            .until(|event| match event {
                Event::Restart => {
                    restarts += 1;
                    None
                }
                Event::RemoteConfig(_) => Some(()),
                _ => None,
            })
            .await;
        assert_eq!(restarts, u32::from(accepts));
    }
}
