//! A WebSocket server that echoes messages: the codec of this crate on blocking sockets, a thread for
//! each connection. `interop/autobahn` has the Autobahn test suite judge it.
//!
//! ```sh
//! cargo run -p opamp-server --example websocket_echo -- 127.0.0.1:9001
//! ```

use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};

use bytes::Buf as _;
use opamp_server::websocket::{Decoder, Event, Outgoing};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

const MAX_MESSAGE: usize = 64 * 1024 * 1024;

fn main() -> io::Result<()> {
    let addr = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:9001".to_owned());
    for stream in TcpListener::bind(addr)?.incoming() {
        let stream = stream?;
        std::thread::spawn(move || {
            // A connection that breaks is none of the others' business.
            let _ = serve(stream);
        });
    }
    Ok(())
}

fn serve(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let Some(key) = handshake(&mut stream)? else { return Ok(()) };
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n\
         sec-websocket-accept: {}\r\n\r\n",
        derive_accept_key(key.as_bytes())
    );
    stream.write_all(answer.as_bytes())?;

    let mut decoder = Decoder::new(MAX_MESSAGE).with_text();
    let mut outgoing = Outgoing::default();
    let mut buffer = vec![0; 64 * 1024];
    while !decoder.is_closed() {
        let len = stream.read(&mut buffer)?;
        if len == 0 {
            return Ok(());
        }
        let mut input = &mut buffer[..len];
        loop {
            match decoder.decode(&mut input) {
                Ok(None) => break,
                Ok(Some(Event::Binary(message))) => outgoing.binary(&message, None),
                Ok(Some(Event::Text(text))) => outgoing.text(&text),
                Ok(Some(Event::Ping(payload))) => outgoing.pong(&payload),
                Ok(Some(Event::Pong(_))) => {}
                Ok(Some(Event::Close(close))) => {
                    outgoing.close(close.map(|close| (close.code, "")));
                }
                Err(violation) => outgoing.close(Some((violation.close_code(), ""))),
            }
        }
        while outgoing.has_remaining() {
            let written = stream.write(outgoing.chunk())?;
            outgoing.advance(written);
        }
    }
    stream.shutdown(std::net::Shutdown::Write)?;
    while stream.read(&mut buffer)? > 0 {}
    Ok(())
}

/// Reads a request byte by byte, so that no frame is taken for a part of it. `None` if it has no key.
fn handshake(stream: &mut TcpStream) -> io::Result<Option<String>> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") && request.len() < 8192 {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        request.push(byte[0]);
    }
    let request = String::from_utf8_lossy(&request).into_owned();
    let mut headers = request.lines().filter_map(|line| line.split_once(':'));
    let key = headers.find(|(name, _)| name.eq_ignore_ascii_case("sec-websocket-key"));
    Ok(key.map(|(_, key)| key.trim().to_owned()))
}
