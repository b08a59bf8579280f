//! Everything that is counted, with its name for metrics and what it means.

use super::Count;

/// Defines the snapshot, a stripe of the live counters and the table of names from one list.
macro_rules! counters {
    ($(
        #[doc = $help:literal]
        $family:literal {$(
            $(#[doc = $doc:literal])+
            $field:ident $([$label:ident = $value:literal])?,
        )+}
    )+) => {
        /// What a Server saw and did since it started. The sum of a family's fields has the
        /// family's meaning; [`families`](Self::families) has all of them with names for metrics.
        #[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct Counters {
            $($($(#[doc = $doc])+ pub $field: u64,)+)+
        }

        /// The part of the counts that one thread, or a few, add to.
        #[derive(Debug, Default)]
        #[repr(align(128))]
        pub(crate) struct Stripe {
            $($(pub(crate) $field: Count,)+)+
        }

        impl Counters {
            pub(super) fn add(&mut self, stripe: &Stripe) {
                $($(self.$field = self.$field.wrapping_add(stripe.$field.get());)+)+
            }

            /// The values in the order of the table of names.
            pub(super) fn values(&self) -> impl Iterator<Item = u64> {
                [$($(self.$field,)+)+].into_iter()
            }
        }

        /// The families and the labels of their samples.
        pub(super) const FAMILIES: &[(&str, &str, &[Labels])] = &[$((
            $family,
            $help,
            &[$(&[$((stringify!($label), $value))?],)+],
        ),)+];
    };
}

/// Names and values of the labels of a sample.
pub(super) type Labels = &'static [(&'static str, &'static str)];

counters! {
    #[doc = "TCP connections that the listener has accepted."]
    "opamp_listener_connections_accepted_total" {
        /// TCP connections that the listener of a `Server` has accepted.
        listener_connections_accepted,
    }
    #[doc = "TCP connections of the listener that are open, upgraded ones included."]
    "opamp_listener_connections_open" {
        /// TCP connections of the listener that are open, upgraded ones included.
        listener_connections_open,
    }
    #[doc = "TCP connections of the listener that were turned away, by the reason."]
    "opamp_listener_connections_refused_total" {
        /// Connections turned away as there were as many as there may be
        /// ([`ServerBuilder::max_connections`](crate::ServerBuilder::max_connections)).
        connections_crowded [reason = "crowded"],
        /// Connections turned away as their address had as many as it may
        /// ([`ServiceConfig::max_connections_per_address`](crate::ServiceConfig::max_connections_per_address)).
        connections_per_address [reason = "address"],
        /// Connections of a load balancer that did not begin with the PROXY protocol.
        connections_without_header [reason = "proxy_protocol"],
    }
    #[doc = "WebSockets opened."]
    "opamp_websockets_opened_total" {
        /// WebSockets opened.
        websockets_opened,
    }
    #[doc = "WebSockets that are open."]
    "opamp_websockets_open" {
        /// WebSockets that are open.
        websockets_open,
    }
    #[doc = "WebSockets that have ended, by the reason."]
    "opamp_websockets_closed_total" {
        /// WebSockets that the peer closed in good order.
        websockets_closed_by_peer [reason = "peer"],
        /// WebSockets that broke.
        websockets_lost [reason = "lost"],
        /// WebSockets closed as the peer did not read, answer or speak in time.
        websockets_timed_out [reason = "timeout"],
        /// WebSockets closed as the peer broke the WebSocket protocol.
        websockets_broken [reason = "protocol"],
        /// WebSockets closed as a message was above the limit.
        websockets_oversized [reason = "too_large"],
        /// WebSockets closed after too many malformed messages.
        websockets_malformed [reason = "malformed"],
        /// WebSockets closed after too many messages for Agents their peer may not speak for.
        websockets_denied [reason = "denied"],
        /// WebSockets closed as too many messages had arrived in part
        /// ([`ServiceConfig::max_in_progress`](crate::ServiceConfig::max_in_progress)).
        websockets_crowded [reason = "crowded"],
        /// WebSockets closed by the operator.
        websockets_ended [reason = "operator"],
        /// WebSockets closed as the Server shut down.
        websockets_shut_down [reason = "shutdown"],
    }
    #[doc = "Answers to HTTP requests, handshakes of WebSockets included, by status."]
    "opamp_http_responses_total" {
        /// Handshakes answered with 101.
        responses_101 [status = "101"],
        /// Requests answered with 200.
        responses_200 [status = "200"],
        /// Requests answered with 400.
        responses_400 [status = "400"],
        /// Requests answered with 401.
        responses_401 [status = "401"],
        /// Requests answered with 403.
        responses_403 [status = "403"],
        /// Requests answered with 404, as they are for another path.
        responses_404 [status = "404"],
        /// Requests answered with 405.
        responses_405 [status = "405"],
        /// Requests whose body did not arrive in time.
        responses_408 [status = "408"],
        /// Requests whose body was above the limit.
        responses_413 [status = "413"],
        /// Requests in a coding that is not known.
        responses_415 [status = "415"],
        /// Requests answered with 426, as they are no WebSocket handshake.
        responses_426 [status = "426"],
        /// Requests answered with 429.
        responses_429 [status = "429"],
        /// Requests answered with 500.
        responses_500 [status = "500"],
        /// Requests answered with 503.
        responses_503 [status = "503"],
        /// Requests answered with any other status.
        responses_other [status = "other"],
    }
    #[doc = "Requests refused by admission, by status."]
    "opamp_requests_rejected_total" {
        /// Requests refused by admission with 401.
        rejected_401 [status = "401"],
        /// Requests refused by admission with 403.
        rejected_403 [status = "403"],
        /// Requests refused by admission with 429.
        rejected_429 [status = "429"],
        /// Requests refused by admission with 503.
        rejected_503 [status = "503"],
        /// Requests refused by admission with another status.
        rejected_other [status = "other"],
    }
    #[doc = "Messages received, malformed ones included, by transport."]
    "opamp_messages_received_total" {
        /// Messages received over WebSocket, malformed ones included.
        websocket_messages [transport = "websocket"],
        /// Messages received over HTTP, malformed ones included.
        http_messages [transport = "http"],
    }
    #[doc = "Messages sent, by transport."]
    "opamp_messages_sent_total" {
        /// Messages sent over WebSocket, replies and pushes.
        websocket_messages_sent [transport = "websocket"],
        /// Messages sent over HTTP.
        http_messages_sent [transport = "http"],
    }
    #[doc = "Bytes of the messages received, unpacked, by transport."]
    "opamp_received_bytes_total" {
        /// Bytes of the messages received over WebSocket, without their OpAMP headers.
        websocket_bytes [transport = "websocket"],
        /// Bytes of the messages received over HTTP, unpacked.
        http_bytes [transport = "http"],
    }
    #[doc = "Bytes of the messages sent, before packing, by transport."]
    "opamp_sent_bytes_total" {
        /// Bytes of the messages sent over WebSocket, with their OpAMP headers.
        websocket_bytes_sent [transport = "websocket"],
        /// Bytes of the messages sent over HTTP, before they are packed.
        http_bytes_sent [transport = "http"],
    }
    #[doc = "Messages refused with an error response, by the reason."]
    "opamp_messages_refused_total" {
        /// Messages told BAD_REQUEST as they are malformed.
        malformed [reason = "malformed"],
        /// Messages whose sender may not speak for their Agent; over HTTP these are answered
        /// with 403.
        denied [reason = "denied"],
        /// Messages told BAD_REQUEST as they ask for more than is granted, such as too much state
        /// of one Agent.
        over_limit [reason = "over_limit"],
        /// Messages told UNAVAILABLE.
        unavailable [reason = "unavailable"],
    }
    #[doc = "Connections and Agents that arrived and were told to come back later."]
    "opamp_arrivals_deferred_total" {
        /// Connections and Agents that arrived and were told to come back later
        /// ([`ServerConfig::arrivals`](crate::ServerConfig::arrivals), [`Load`](crate::Load)).
        arrivals_deferred,
    }
    #[doc = "Messages told UNAVAILABLE as all Agents together would have reported more than is kept."]
    "opamp_messages_over_budget_total" {
        /// Messages told UNAVAILABLE as all Agents together would have reported more than is kept
        /// ([`ServerConfig::max_fleet_bytes`](crate::ServerConfig::max_fleet_bytes)).
        over_budget,
    }
    #[doc = "Messages told UNAVAILABLE as what changed could not be stored in time."]
    "opamp_messages_unsaved_total" {
        /// Messages told UNAVAILABLE as what changed could not be stored in time.
        unsaved,
    }
    #[doc = "Writes to the store of what has to survive a restart, by how they ended."]
    "opamp_store_writes_total" {
        /// Batches of changes that were stored.
        store_writes [outcome = "written"],
        /// Attempts to store a batch that failed; each is tried again.
        store_failures [outcome = "failed"],
    }
    #[doc = "Bytes of keys and values that were stored."]
    "opamp_store_bytes_total" {
        /// Bytes of keys and values that were stored.
        store_bytes,
    }
    #[doc = "Messages that changed nothing as their Agent is served on another connection."]
    "opamp_messages_stale_total" {
        /// Messages that changed nothing as their Agent is served on another connection: of
        /// duplicates, of newcomers that may be some, and what dead connections still bring.
        stale,
    }
    #[doc = "Agents that came under the instance uid of a connected one, by what became of it."]
    "opamp_duplicates_total" {
        /// Newcomers for which the connected Agent was asked for a sign of life.
        duplicates_suspected [event = "suspected"],
        /// Times that a duplicate was told to take another instance uid.
        duplicates_told [event = "told"],
        /// Newcomers that took over as the connected Agent gave no sign of life.
        duplicates_replaced [event = "replaced"],
    }
    #[doc = "Messages or bodies above the limit of what is received."]
    "opamp_messages_oversized_total" {
        /// Messages or bodies above the limit of what is received.
        oversized,
    }
    #[doc = "Messages above the limit of what is sent, and therefore not sent."]
    "opamp_messages_unsendable_total" {
        /// Messages above the limit of what is sent, and therefore not sent.
        unsendable,
    }
    #[doc = "Messages served by a tolerance, by its name."]
    "opamp_tolerated_total" {
        /// Messages accepted with an instance uid in a legacy form
        /// ([`Tolerances::legacy_instance_uid`](crate::Tolerances)).
        legacy_instance_uids [tolerance = "legacy-instance-uid"],
        /// WebSocket messages accepted without the header byte
        /// ([`Tolerances::missing_header`](crate::Tolerances)).
        missing_headers [tolerance = "missing-header"],
        /// Messages taken without an instance uid
        /// ([`Tolerances::missing_instance_uid`](crate::Tolerances)).
        missing_instance_uids [tolerance = "missing-instance-uid"],
    }
    #[doc = "Requests to Agents for their full state, by how they were sent."]
    "opamp_full_state_requests_total" {
        /// Replies that asked for the full state.
        full_state_replies [sent = "reply"],
        /// Pushes that asked for the full state.
        full_state_pushes [sent = "push"],
    }
    #[doc = "Offers of configurations, by what became of them."]
    "opamp_remote_config_offers_total" {
        /// Configurations offered, repetitions included.
        configs_offered [outcome = "offered"],
        /// Offered configurations that an Agent reported as applied, also after a failure.
        configs_applied [outcome = "applied"],
        /// Offered configurations that an Agent reported as failed.
        configs_failed [outcome = "failed"],
        /// Offered configurations of which nothing final was heard in time.
        configs_timed_out [outcome = "timed_out"],
        /// Offered configurations in whose place another was offered before their end was known.
        configs_superseded [outcome = "superseded"],
        /// Configurations set for an Agent that does not accept any.
        configs_unsupported [outcome = "unsupported"],
    }
    #[doc = "Offers of connection settings, by what became of them."]
    "opamp_connection_settings_offers_total" {
        /// Connection settings offered, repetitions included.
        settings_offered [outcome = "offered"],
        /// Offered connection settings that an Agent reported as applied, also after a failure.
        settings_applied [outcome = "applied"],
        /// Offered connection settings that an Agent reported as failed.
        settings_failed [outcome = "failed"],
        /// Offered connection settings of which nothing final was heard in time.
        settings_timed_out [outcome = "timed_out"],
        /// Offered connection settings in whose place others were offered before their end was
        /// known.
        settings_superseded [outcome = "superseded"],
        /// Connection settings refused to the operator as the Agent accepts no part of them.
        settings_unsupported [outcome = "unsupported"],
    }
    #[doc = "Offers of packages, by what became of them."]
    "opamp_packages_offers_total" {
        /// Packages offered, repetitions included.
        packages_offered [outcome = "offered"],
        /// Offered packages that an Agent reported as installed, also after a failure.
        packages_applied [outcome = "applied"],
        /// Offered packages that an Agent reported as failed.
        packages_failed [outcome = "failed"],
        /// Offered packages of which nothing final was heard in time.
        packages_timed_out [outcome = "timed_out"],
        /// Offered packages in whose place others were offered before their end was known.
        packages_superseded [outcome = "superseded"],
        /// Packages refused to the operator as the Agent does not accept any.
        packages_unsupported [outcome = "unsupported"],
    }
    #[doc = "Restart commands, by what became of them."]
    "opamp_commands_total" {
        /// Commands sent.
        commands_sent [outcome = "sent"],
        /// Commands given up, as there was no chance to send them in time or the Agent no longer
        /// takes them.
        commands_dropped [outcome = "dropped"],
        /// Commands refused to the operator as the Agent does not take them.
        commands_unsupported [outcome = "unsupported"],
    }
    #[doc = "Custom messages to Agents, by what became of them."]
    "opamp_custom_messages_sent_total" {
        /// Custom messages sent.
        custom_messages_sent [outcome = "sent"],
        /// Custom messages given up as they had waited too long.
        custom_messages_expired [outcome = "expired"],
        /// Custom messages given up, or refused to the operator, as the Agent does not announce
        /// their capability.
        custom_messages_unsupported [outcome = "unsupported"],
        /// Custom messages refused to the operator as too many wait.
        custom_messages_refused [outcome = "queue_full"],
    }
    #[doc = "Custom messages of Agents, by what became of them."]
    "opamp_custom_messages_received_total" {
        /// Custom messages of Agents that are kept for the handler.
        custom_messages_taken [outcome = "taken"],
        /// Custom messages of Agents that were dropped as the handler had not taken those before,
        /// or as there was no room for them.
        custom_messages_dropped [outcome = "dropped"],
    }
    #[doc = "Requests of Agents for certificates, by what became of them."]
    "opamp_certificate_requests_total" {
        /// Certificate requests that somebody had to decide about.
        certificates_requested [outcome = "requested"],
        /// Certificates issued to Agents, asked for or not.
        certificates_issued [outcome = "issued"],
        /// Certificate requests that were refused, by whoever decided.
        certificates_refused [outcome = "refused"],
    }
    #[doc = "Sessions of Agents ended by silence, by transport."]
    "opamp_sessions_silent_total" {
        /// Sessions on a WebSocket that ended as the heartbeats an Agent had agreed to did not
        /// come.
        silent_websockets [transport = "websocket"],
        /// Sessions over HTTP that ended as no request came.
        silent_http [transport = "http"],
    }
    #[doc = "Connections and requests given up as the peer did not read, answer or speak in time."]
    "opamp_timed_out_total" {
        /// Connections and requests given up as the peer did not read, answer or speak in time.
        timed_out,
    }
    #[doc = "Calls of the handler, by how they ended."]
    "opamp_handler_calls_total" {
        /// Calls of the handler about changes that returned.
        handler_calls [outcome = "returned"],
        /// Calls of the handler, admissions included, that panicked.
        handler_panics [outcome = "panicked"],
        /// Calls of the handler, admissions included, that took too long and were dropped.
        handler_timeouts [outcome = "timed_out"],
    }
}
