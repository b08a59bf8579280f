//! Sockets: what arrives, taken apart; what is to be sent, as far as the peer takes it; the end.

use std::io;

use super::super::agent::State;
use super::super::stage::Step;
use super::super::stats::Trouble;
use super::super::websocket::{self, opcode};
use super::super::{http, scan};
use super::{Wake, Worker};

/// The greatest message taken from a Server.
const MAX_MESSAGE: usize = 64 << 20;

/// Why a connection ends.
#[derive(Debug)]
pub(super) struct End {
    trouble: Trouble,
    /// Seconds after which the Server wants to be asked again.
    retry_after: Option<u64>,
}

impl From<Trouble> for End {
    fn from(trouble: Trouble) -> Self {
        Self { trouble, retry_after: None }
    }
}

impl From<websocket::Violation> for End {
    fn from(_: websocket::Violation) -> Self {
        Trouble::Unreadable.into()
    }
}

impl From<scan::Malformed> for End {
    fn from(_: scan::Malformed) -> Self {
        Trouble::Unreadable.into()
    }
}

impl From<http::Unreadable> for End {
    fn from(_: http::Unreadable) -> Self {
        Trouble::Unreadable.into()
    }
}

impl Worker {
    /// Something happened on a connection; `ended`: its end may have come, too.
    pub(super) fn handle(&mut self, index: usize, ended: bool) {
        let connection = &mut self.connections[index];
        let Some(link) = &mut connection.link else { return };
        if connection.state == State::Connecting {
            match link.is_connected() {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => return self.end(index, Trouble::Connect(error.kind()).into()),
            }
            connection.state = State::Securing;
        }
        if connection.state == State::Securing {
            let secured = link.secure();
            match secured {
                Ok(true) => self.secured(index),
                Ok(false) => return,
                Err(error) => return self.end(index, Trouble::of_connection(&error).into()),
            }
        }
        self.write_backlog(index);
        let connection = &mut self.connections[index];
        if connection.backlog.is_empty() {
            connection.backlog = Vec::new();
        }
        self.read(index, ended);
        self.write_out(index);
    }

    fn secured(&mut self, index: usize) {
        if self.plan.options.server.websocket {
            self.connections[index].state = State::Upgrading;
            self.out.extend_from_slice(&self.plan.handshake);
            self.write_out(index);
        } else {
            self.opened(index);
        }
    }

    fn opened(&mut self, index: usize) {
        self.connecting -= 1;
        let connection = &mut self.connections[index];
        // Who had no connection when all were to leave gets one to say goodbye on.
        let leaving = self.step == Step::Leave;
        connection.state = if leaving { State::Leaving } else { State::Open };
        self.stats.connections += 1;
        self.stats.connect.record(self.now - connection.begun);
        self.progress.open.add(1);
        if !std::mem::take(&mut self.connections[index].renewed) {
            self.report_first(index);
        }
        self.next_request(index);
    }

    fn read(&mut self, index: usize, ended: bool) {
        let mut buffer = std::mem::take(&mut self.read_buffer);
        while let Some(link) = &mut self.connections[index].link {
            match link.read(&mut buffer) {
                Ok(0) => {
                    self.ended(index);
                    break;
                }
                Ok(len) => {
                    let drained = !ended && link.is_drained(len, buffer.len());
                    self.stats.bytes_in += len as u64;
                    if let Err(end) = self.consume(index, &buffer[..len]) {
                        self.end(index, end);
                    }
                    if drained {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    self.end(index, Trouble::of_connection(&error).into());
                    break;
                }
            }
        }
        self.read_buffer = buffer;
    }

    fn consume(&mut self, index: usize, bytes: &[u8]) -> Result<(), End> {
        let mut held = std::mem::take(&mut self.connections[index].input);
        if held.is_empty() {
            let taken = self.parse(index, bytes)?;
            if taken < bytes.len() {
                self.connections[index].input = bytes[taken..].to_vec();
            }
        } else {
            held.extend_from_slice(bytes);
            let taken = self.parse(index, &held)?;
            held.drain(..taken);
            if !held.is_empty() {
                self.connections[index].input = held;
            }
        }
        Ok(())
    }

    /// Takes what is there as a whole, and says how much that was.
    fn parse(&mut self, index: usize, data: &[u8]) -> Result<usize, End> {
        let mut at = 0;
        while at < data.len() {
            let rest = &data[at..];
            let taken = match self.connections[index].state {
                State::Upgrading => self.upgraded(index, rest)?,
                State::Open | State::Leaving if self.plan.options.server.websocket => {
                    self.frame(index, rest)?
                }
                State::Open | State::Leaving => self.response(index, rest)?,
                // It ended with what was taken last.
                State::Down | State::Connecting | State::Securing => rest.len(),
            };
            if taken == 0 {
                break;
            }
            at += taken;
        }
        Ok(at)
    }

    fn upgraded(&mut self, index: usize, data: &[u8]) -> Result<usize, End> {
        let mut headers = [httparse::EMPTY_HEADER; http::MAX_HEADERS];
        let mut response = httparse::Response::new(&mut headers);
        let len = match response.parse(data) {
            Ok(httparse::Status::Complete(len)) => len,
            Ok(httparse::Status::Partial) => return Ok(0),
            Err(_) => return Err(Trouble::Unreadable.into()),
        };
        match response.code {
            Some(101) if websocket::is_accepted(response.headers) => {}
            status => {
                let retry_after = http::number(response.headers, "retry-after");
                let trouble = Trouble::Handshake(status.unwrap_or_default());
                return Err(End { trouble, retry_after });
            }
        }
        self.opened(index);
        Ok(len)
    }

    fn frame(&mut self, index: usize, data: &[u8]) -> Result<usize, End> {
        let Some(frame) = websocket::frame(data, MAX_MESSAGE)? else { return Ok(0) };
        let connection = &mut self.connections[index];
        match (frame.opcode, &mut connection.fragments) {
            (opcode::BINARY, None) if frame.fin => self.message(index, frame.payload)?,
            (opcode::BINARY, fragments @ None) => *fragments = Some(frame.payload.to_vec()),
            (opcode::CONTINUATION, Some(fragments)) => {
                if fragments.len() + frame.payload.len() > MAX_MESSAGE {
                    return Err(Trouble::Unreadable.into());
                }
                fragments.extend_from_slice(frame.payload);
                if frame.fin {
                    let message = connection.fragments.take().unwrap_or_default();
                    self.message(index, &message)?;
                }
            }
            (opcode::PING, _) => {
                let key = self.mask_key();
                websocket::write_frame(opcode::PONG, frame.payload, key, &mut self.out);
            }
            (opcode::PONG, _) => {}
            (opcode::CLOSE, _) => {
                let code = frame.payload.first_chunk().map(|code| u16::from_be_bytes(*code));
                return Err(Trouble::Closed(code).into());
            }
            _ => return Err(Trouble::Unreadable.into()),
        }
        Ok(frame.len)
    }

    fn message(&mut self, index: usize, payload: &[u8]) -> Result<(), End> {
        let [0, body @ ..] = payload else { return Err(Trouble::Unreadable.into()) };
        let reply = scan::reply(body)?;
        self.take(index, &reply, None);
        Ok(())
    }

    fn response(&mut self, index: usize, data: &[u8]) -> Result<usize, End> {
        let Some(response) = http::response(data, MAX_MESSAGE)? else { return Ok(0) };
        let Some(agent) = self.connections[index].asking.take() else {
            return Err(Trouble::Unreadable.into());
        };
        let leaving = self.connections[index].state == State::Leaving;
        if response.closes && !leaving {
            self.renew(index);
        }
        if response.status == 200 {
            let reply = scan::reply(&response.body)?;
            self.take(index, &reply, Some(agent));
        } else {
            self.trouble(Trouble::Status(response.status), 1);
            self.refused(agent, response.retry_after);
        }
        if leaving && (response.closes || self.connections[index].turns.is_empty()) {
            self.shut(index, false);
        }
        self.next_request(index);
        Ok(response.len)
    }

    /// Sends what was written for this connection.
    pub(super) fn write_out(&mut self, index: usize) {
        if self.out.is_empty() {
            return;
        }
        let connection = &mut self.connections[index];
        if connection.link.is_some() {
            self.stats.bytes_out += self.out.len() as u64;
            if connection.backlog.is_empty() {
                std::mem::swap(&mut connection.backlog, &mut self.out);
                self.write_backlog(index);
                // Nearly always everything was taken: the room is used for the next.
                let connection = &mut self.connections[index];
                if connection.backlog.is_empty() {
                    std::mem::swap(&mut connection.backlog, &mut self.out);
                }
            } else {
                connection.backlog.extend_from_slice(&self.out);
            }
        }
        self.out.clear();
    }

    fn write_backlog(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        let Some(link) = &mut connection.link else { return };
        let mut written = 0;
        let outcome = loop {
            if written == connection.backlog.len() {
                break link.flush();
            }
            match link.write(&connection.backlog[written..]) {
                Ok(len) => written += len,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        connection.backlog.drain(..written);
        if let Err(error) = outcome {
            self.end(index, Trouble::of_connection(&error).into());
        }
    }

    /// The peer has ended the connection.
    fn ended(&mut self, index: usize) {
        let connection = &self.connections[index];
        let silent = connection.agents.clone().all(|agent| {
            // Nobody waits for anything, and nothing is lost.
            self.agents[agent as usize].unanswered.is_empty()
        });
        // A kept-alive connection that is not used may be closed at any time.
        if silent && connection.is_open() && !self.plan.options.server.websocket {
            self.renew(index);
        } else {
            self.end(index, Trouble::Closed(None).into());
        }
    }

    /// Lets another connection go on where this one was: on plain HTTP the agents notice nothing.
    fn renew(&mut self, index: usize) {
        self.close(index);
        let connection = &mut self.connections[index];
        connection.renewed = true;
        connection.clear();
        // Otherwise it has time until there is something to send.
        if !connection.turns.is_empty() {
            self.to_connect.push_back(index);
        }
    }

    /// A connection came to an end that was not meant, unless it is leaving.
    fn end(&mut self, index: usize, end: End) {
        if self.connections[index].state == State::Leaving {
            return self.shut(index, false);
        }
        self.trouble(end.trouble, 1);
        self.shut(index, true);
        if self.step != Step::Leave {
            self.wake_after(end.retry_after, Wake::Connect(index));
        }
    }

    /// Drops a connection, if there is one. What its agents wait for is lost.
    pub(super) fn shut(&mut self, index: usize, unexpected: bool) {
        self.close(index);
        let connection = &mut self.connections[index];
        connection.renewed = false;
        connection.clear();
        let mut lost = 0;
        for agent in connection.agents.clone() {
            let agent = &mut self.agents[agent as usize];
            lost += agent.unanswered.len();
            agent.unanswered = std::collections::VecDeque::new();
            if std::mem::take(&mut agent.ready) {
                self.progress.ready.subtract(1);
            }
        }
        self.progress.unanswered.subtract(lost);
        if unexpected {
            self.trouble(Trouble::Unanswered, lost);
        }
    }

    /// Closes the socket, if there is one.
    fn close(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        match connection.state {
            State::Down => {}
            State::Connecting | State::Securing | State::Upgrading => self.connecting -= 1,
            State::Open | State::Leaving => self.progress.open.subtract(1),
        }
        if let Some(mut link) = connection.link.take() {
            // It goes with the socket in any case.
            let _ = self.poll.registry().deregister(&mut link.socket);
        }
        connection.state = State::Down;
        self.out.clear();
    }
}
