//! Servers that are none: one clear message, status 3, no hang, whatever they do.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};

use opamp_conformance::wire::http_client::accept_key;

use crate::support::{Ran, run};

/// Runs the program against a server that does this with each connection.
fn against(serve: impl Fn(TcpStream) + Send + Sync + Clone + 'static) -> Ran {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("ws://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            let serve = serve.clone();
            std::thread::spawn(move || serve(stream));
        }
    });
    run(&["server", "--url", &url, "--timeout-scale", "0.2"])
}

/// Reads a request's head and gives its WebSocket key.
fn head(stream: &TcpStream) -> Option<String> {
    let mut key = None;
    for line in BufReader::new(stream).lines().map_while(Result::ok) {
        if line.is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(": ")
            && name.eq_ignore_ascii_case("sec-websocket-key")
        {
            key = Some(value.to_owned());
        }
    }
    key
}

/// Sends this until nobody takes it any more.
fn flood(mut stream: TcpStream, bytes: &[u8]) {
    while stream.write_all(bytes).is_ok() {}
}

#[test]
fn one_that_is_down() {
    run(&["server", "--url", "http://127.0.0.1:9"]).is_unable(&["cannot be tested", "refused"]);
    run(&["server", "--url", "http://no-such-host.invalid"]).is_unable(&["cannot connect"]);
}

#[test]
fn one_that_never_answers() {
    against(|stream| {
        head(&stream);
        std::thread::park();
    })
    .is_unable(&["over websocket", "over http", "not answered"]);
}

#[test]
fn one_that_closes_at_once() {
    against(drop).is_unable(&["over websocket", "over http"]);
}

#[test]
fn one_that_answers_garbage() {
    against(|mut stream| {
        head(&stream);
        let _ = stream.write_all(b"220 mail.example ESMTP\r\n");
    })
    .is_unable(&["over websocket", "over http", "no HTTP response"]);
}

#[test]
fn one_that_is_some_other_web_server() {
    let answer = |text: &'static str| {
        against(move |mut stream| {
            head(&stream);
            let _ = stream.write_all(text.as_bytes());
        })
    };
    let page = "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 6\r\n\r\n<html>";
    answer(page).is_unable(&["the answer is no OpAMP"]);
    let missing = "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n";
    answer(missing).is_unable(&["404", "is the path of the URL right?"]);
    let refused = "HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n";
    answer(refused).is_unable(&["401", "--header"]);
}

#[test]
fn one_that_floods() {
    against(|stream| flood(stream, &[b'x'; 4096])).is_unable(&["over websocket", "over http"]);
    against(|mut stream| {
        head(&stream);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
        flood(stream, &[0; 65536]);
    })
    .is_unable(&["over http"]);
    against(|mut stream| {
        if let Some(key) = head(&stream) {
            let accept = accept_key(&key);
            let _ = write!(
                stream,
                "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
                 sec-websocket-accept: {accept}\r\n\r\n"
            );
            // Binary messages of one byte.
            flood(stream, &[0x82, 0x01, 0x00].repeat(1000));
        }
    })
    .is_unable(&["more than 200 messages"]);
}
