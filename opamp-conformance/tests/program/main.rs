//! The tester's program from outside: what it prints, writes and exits with.

mod bad_clients;
mod bad_servers;
mod reports;
mod support;
mod usage;
