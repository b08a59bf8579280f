//! What a peer can make the Server spend, and where that ends: a page without code.
//!
//! Every limit has a default that a fleet of 100,000 Agents in good order does not notice; each is
//! a field of [`ServerConfig`](crate::ServerConfig) (S), of `ServiceConfig` (V) or a method of
//! `ServerBuilder` (B), unless it is fixed (–). What passes a limit is counted: see
//! [`Counters`](crate::Counters).
//!
//! # Who is let in
//!
//! | limit | where | default | beyond it |
//! | --- | --- | --- | --- |
//! | connections | B `max_connections` | 20,000 | 503 with `Retry-After` |
//! | connections told so at a time | – | 256 | closed |
//! | connections from one address, or IPv6 network of 64 bits | V `max_connections_per_address` | 5,000 | 429 with `Retry-After` |
//! | requests from one address | V `requests_per_address` | 500/s, 5,000 at once | 429 with `Retry-After` |
//! | WebSockets of one account | V `max_connections_per_account` | 10,000 | 429 with `Retry-After` |
//! | requests of one account | V `requests_per_account` | 1,000/s, 10,000 at once | 429 with `Retry-After` |
//! | addresses, and accounts, that are counted | – | 131,072 each | served uncounted |
//! | connections and Agents that arrive | S `arrivals` | 1,000/s, 10,000 at once | 503 or UNAVAILABLE, each told another time |
//! | the time somebody is told to stay away | S `max_arrival_wait` | 15 min | |
//! | delay, and Agents that wait for the handler | V `overload` | 500 ms, 20,000 for 3 s | who arrives is told 503 or UNAVAILABLE |
//! | the same, much greater | V `overload` | 3 s, 200,000 for 3 s | everybody is |
//! | Agents on one connection | S `max_agents_per_connection` | 1,024 | UNAVAILABLE |
//! | Agents known | S `max_agents` | 1,000,000 | UNAVAILABLE |
//!
//! Polls and heartbeats of Agents that are there do not arrive, so they pass when nobody else does.
//!
//! # Time
//!
//! | limit | where | default | beyond it |
//! | --- | --- | --- | --- |
//! | a TLS handshake | B `tls_handshake_timeout` | 10 s | closed |
//! | the head of a first request, or of the PROXY protocol | B `header_timeout` | 10 s | closed |
//! | a connection without a request | B `idle_timeout` | 120 s | closed |
//! | admission by the application | V `admission_deadline` | 10 s | 503 |
//! | a body, and a message on a WebSocket from its first byte on | V `body_deadline` | 30 s, and a second for each KiB (V `min_body_rate`), 10 min at most | 408; Close 1008 |
//! | a WebSocket without its first message | V `first_message_timeout` | 30 s | Close 1008 |
//! | silence of a WebSocket, and after the ping that follows | V `ping_interval`, `pong_timeout` | 30 s and 20 s | Close 1008 |
//! | a peer that takes nothing of what is sent | V `write_timeout` | 30 s | Close 1008 |
//! | a closing handshake | V `close_timeout` | 5 s | closed |
//! | a call of the handler | V `handler_deadline` | 60 s | dropped |
//!
//! # Memory and work
//!
//! | limit | where | default | beyond it |
//! | --- | --- | --- | --- |
//! | the head of a request | – | 16 KiB, 100 fields | 431 |
//! | requests on one connection of HTTP/2 at a time | – | 100 | wait |
//! | what one of them, and all of them, send that nobody has read yet | – | 256 KiB, 1 MiB | wait |
//! | a message, unpacked | S `limits` | 64 MiB | 413; Close 1009 |
//! | messages that have begun, and bodies that are unpacked, on all connections | V `max_in_progress` | 256 MiB, and 4 KiB for each connection of HTTP/1 | 503; Close 1013 |
//! | the share of one of them | – | what is left free | 503; Close 1013 |
//! | frames on one WebSocket, control frames included | V `max_frames_per_second` | 20,000/s | wait |
//! | bytes of replies or pongs that a WebSocket has not taken | – | 64 KiB and one message | it is not read from |
//! | elements of one part of a message | – | 100,000 | BAD_REQUEST |
//! | nesting of a message | – | 100 levels | BAD_REQUEST |
//! | state kept of one Agent | S `max_retained_bytes` | 16 MiB | BAD_REQUEST |
//! | state kept of all Agents | S `max_fleet_bytes` | 2 GiB | UNAVAILABLE |
//! | malformed messages in a row | V `max_malformed` | 16, and one for each Agent | Close 1008 |
//! | messages in a row for Agents of others | V `max_denied` | 3, and one for each Agent | Close 1008 |
//! | requests for full state | S `full_state_rate` | 500/s | wait |
//! | custom messages of one Agent that wait | S `max_custom_messages`, `max_custom_bytes` | 64, 256 KiB | dropped |
//! | calls of the handler at a time | V `handler_concurrency` | 64 | wait, one for each Agent |
//! | large messages that are unpacked or validated at a time | – | the number of cores | wait |
//! | compression of WebSockets | – | never agreed to | Close 1002 |
//!
//! Of compressed HTTP responses each has its own copy, which takes its share of `max_in_progress`;
//! where there is none, a response goes out as it is, and an offer in it is one piece of memory for
//! all.
//!
//! The worst that messages in progress can take is `max_in_progress` and 4 KiB for each connection
//! of HTTP/1, twice over for the time a message is being taken in.
