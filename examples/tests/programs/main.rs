//! The programs, run as a user runs them, and stopped with signals.
#![cfg(unix)]

mod command_line;
mod demo;
mod gateway;
mod hooks;
mod managed;
mod state;
mod support;
