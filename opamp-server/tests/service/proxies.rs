//! Servers behind proxies and load balancers: whose connections and requests they are.

use std::net::SocketAddr;

use http::request;
use opamp_proto::Message as _;
use opamp_server::{
    AcceptAll, Handler, Network, Rate, Rejection, Server, ServiceConfig, TrustedProxies,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::client::{
    Answer, MASK, OTHER, Running, UID, WebSocket, beat, exchange, post, report, run, soon,
    start_with, uid,
};
use crate::support::{full_report, wire};

fn here() -> Vec<Network> {
    vec!["127.0.0.0/8".parse().unwrap()]
}

async fn forwarded(server: &Running, client: &str, agent: [u8; 16]) -> Answer {
    let mut request = post(full_report(&agent, 1, MASK).encode_to_vec());
    request.headers_mut().insert("x-forwarded-for", client.parse().unwrap());
    server.request(request).await
}

fn remote_addr(server: &Running, agent: [u8; 16]) -> Option<SocketAddr> {
    server.fleet.agent(wire(&agent)).expect("the Agent").remote_addr()
}

#[tokio::test]
async fn a_proxy_is_not_taken_for_its_clients() {
    let server = start_with(AcceptAll, |_, service| {
        service.trusted_proxies = TrustedProxies::x_forwarded_for(here());
        service.requests_per_address = Rate::per_second(1).with_burst(3);
        service.max_connections_per_address = 1;
    })
    .await;
    for number in 0..3 {
        assert_eq!(forwarded(&server, "203.0.113.1", [number; 16]).await.status, 200);
    }
    assert_eq!(remote_addr(&server, [1; 16]), Some("203.0.113.1:0".parse().unwrap()));
    // One client has had its share, whatever it says of others; and the others have theirs.
    assert_eq!(forwarded(&server, "203.0.113.1", UID).await.status, 429);
    assert_eq!(forwarded(&server, "6.6.6.6, 203.0.113.1", UID).await.status, 429);
    assert_eq!(forwarded(&server, "203.0.113.2", UID).await.status, 200);
    // What the proxy asks for itself counts for nobody.
    for _ in 0..10 {
        assert_eq!(server.request(post(beat(2).encode_to_vec())).await.status, 200);
    }
    // A client's WebSockets count for it.
    let client = [("x-forwarded-for", "203.0.113.7")];
    let mut first = server.websocket_with(&client).await.expect("an upgrade");
    first.send(&full_report(&OTHER, 1, MASK)).await;
    first.recv().await;
    assert_eq!(remote_addr(&server, OTHER), Some("203.0.113.7:0".parse().unwrap()));
    let second = server.websocket_with(&client).await.err().expect("no upgrade");
    assert_eq!(second.status(), 429);
    assert!(server.websocket_with(&[("x-forwarded-for", "203.0.113.8")]).await.is_ok());
    drop(first);
    server.until_disconnected(&OTHER).await;
    assert!(server.websocket_with(&client).await.is_ok());
}

#[tokio::test]
async fn who_is_no_proxy_says_nothing_about_addresses() {
    let server = start_with(AcceptAll, |_, service| {
        service.trusted_proxies = TrustedProxies::x_forwarded_for(["10.0.0.0/8".parse().unwrap()]);
    })
    .await;
    assert_eq!(forwarded(&server, "203.0.113.1", UID).await.status, 200);
    assert!(remote_addr(&server, UID).unwrap().ip().is_loopback());
}

async fn balanced(connections: usize) -> Running {
    let mut service = ServiceConfig::default();
    service.max_connections_per_address = connections;
    let server = Server::bind("127.0.0.1:0").proxy_protocol(here()).service_config(service);
    run(server.listen(AcceptAll).await.unwrap())
}

async fn through_balancer(server: &Running, header: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    stream.write_all(header).await.unwrap();
    stream
}

const VERSION_1: &[u8] = b"PROXY TCP4 203.0.113.1 10.0.0.1 4711 4320\r\n";

#[tokio::test]
async fn a_load_balancer_says_whose_a_connection_is() {
    let server = balanced(1).await;
    let stream = through_balancer(&server, VERSION_1).await;
    let mut first = WebSocket::open(stream, &[]).await.expect("an upgrade");
    first.send(&report(1)).await;
    first.recv().await;
    assert_eq!(remote_addr(&server, UID), Some("203.0.113.1:4711".parse().unwrap()));
    // The same client has its share; another, by version 2, its own.
    let stream = through_balancer(&server, VERSION_1).await;
    let refused = WebSocket::open(stream, &[]).await.err().expect("no upgrade");
    assert_eq!(refused.status(), 429);
    let version_2 =
        [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c"[..], &[203, 0, 113, 2, 10, 0, 0, 1, 0, 80, 0, 80]]
            .concat();
    let stream = through_balancer(&server, &version_2).await;
    let other = post(full_report(&OTHER, 1, MASK).encode_to_vec());
    assert_eq!(exchange(stream, other).await.status, 200);
    assert_eq!(remote_addr(&server, OTHER), Some("203.0.113.2:80".parse().unwrap()));
    // Its health checks are its own, and count for nobody.
    for _ in 0..3 {
        let stream = through_balancer(&server, b"PROXY UNKNOWN\r\n").await;
        assert_eq!(exchange(stream, post(beat(2).encode_to_vec())).await.status, 200);
    }
}

#[tokio::test]
async fn a_load_balancer_that_does_not_say_it_is_not_served() {
    let server = balanced(10).await;
    let mut stream = through_balancer(&server, b"GET /v1/opamp HTTP/1.1\r\nhost: x\r\n\r\n").await;
    let mut said = Vec::new();
    let _ = soon(stream.read_to_end(&mut said)).await;
    assert!(said.is_empty());
    assert_eq!(server.fleet.counters().connections_without_header, 1);
}

#[tokio::test]
async fn the_proxy_protocol_is_for_configured_balancers_only() {
    let balancers = ["10.0.0.0/8".parse().unwrap()];
    let server = Server::bind("127.0.0.1:0").proxy_protocol(balancers);
    let server = run(server.listen(AcceptAll).await.unwrap());
    assert_eq!(server.request(post(report(1).encode_to_vec())).await.status, 200);
    assert!(remote_addr(&server, UID).unwrap().ip().is_loopback());
    let mut stream = through_balancer(&server, VERSION_1).await;
    let mut said = Vec::new();
    let _ = soon(stream.read_to_end(&mut said)).await;
    assert!(said.starts_with(b"HTTP/1.1 400"), "{}", String::from_utf8_lossy(&said));
}

/// Knows customers by a header.
struct Customers;

impl Handler for Customers {
    type Identity = u8;

    async fn admit(&self, request: &request::Parts) -> Result<u8, Rejection> {
        let customer = request.headers.get("customer").map(|value| value.as_bytes()[0]);
        customer.ok_or_else(Rejection::forbidden)
    }

    fn account(&self, customer: &u8) -> Option<u128> {
        (*customer != b'-').then_some((*customer).into())
    }
}

#[tokio::test]
async fn an_account_has_its_share() {
    let server = start_with(Customers, |_, service| {
        service.max_connections_per_account = 2;
        service.requests_per_account = Rate::per_second(1).with_burst(5);
    })
    .await;
    let a = [("customer", "a")];
    let mut sockets = Vec::new();
    for _ in 0..2 {
        sockets.push(server.websocket_with(&a).await.expect("an upgrade"));
    }
    assert_eq!(server.websocket_with(&a).await.err().expect("no upgrade").status(), 429);
    assert!(server.websocket_with(&[("customer", "b")]).await.is_ok());
    let ask = |customer: &'static str| {
        let mut request = post(beat(2).encode_to_vec());
        request.headers_mut().insert("customer", customer.parse().unwrap());
        server.request(request)
    };
    // Two of five are left.
    let mut statuses = Vec::new();
    for _ in 0..4 {
        statuses.push(ask("a").await.status.as_u16());
    }
    assert_eq!(statuses, [200, 200, 429, 429]);
    for _ in 0..20 {
        assert_eq!(ask("-").await.status, 200);
    }
    assert_eq!(server.fleet.counters().rejected_429, 3);
    assert!(server.fleet.agent(uid(&UID)).is_some());
}
