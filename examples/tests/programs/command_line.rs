//! How the programs are called, and what they answer to a wrong call.

use crate::support::run;

const SERVER: &str = env!("CARGO_BIN_EXE_server");
const AGENT: &str = env!("CARGO_BIN_EXE_agent");
const DEMO: &str = env!("CARGO_BIN_EXE_demo");
const GATEWAY: &str = env!("CARGO_BIN_EXE_gateway");

#[tokio::test]
async fn help_is_there_and_bad_usage_is_told() {
    for program in [SERVER, AGENT, DEMO, GATEWAY] {
        let (status, stdout, _) = run(program, &["--help"]).await;
        assert_eq!(status, Some(0));
        assert!(stdout.contains("Usage:") && stdout.contains("efault"), "{stdout}");
        let (status, stdout, stderr) = run(program, &["--no-such-flag"]).await;
        assert_eq!((status, stdout.as_str()), (Some(2), ""));
        assert!(stderr.contains("--no-such-flag"), "{stderr}");
    }
    for (program, args) in [
        (AGENT, &[][..]),
        (AGENT, &["--server", "ftp://example.com"]),
        (AGENT, &["--server", "ws://localhost", "--cert", "x.pem"]),
        (AGENT, &["--server", "ws://localhost", "--header", "a b=c"]),
        (AGENT, &["--server", "ws://localhost", "--instance-uid", "me"]),
        (AGENT, &["--server", "ws://localhost", "--heartbeat-interval", "-1"]),
        (GATEWAY, &[]),
        (GATEWAY, &["--upstream", "localhost"]),
        (GATEWAY, &["--upstream", "ftp://localhost"]),
        (GATEWAY, &["--upstream", "ws://name:word@localhost"]),
        (GATEWAY, &["--upstream", "ws://localhost", "--connections", "0"]),
        (GATEWAY, &["--upstream", "ws://localhost", "--ca", "x.pem"]),
        (GATEWAY, &["--upstream", "ws://localhost", "--tls-cert", "x.pem"]),
        (GATEWAY, &["--upstream", "ws://localhost", "--client-ca", "x.pem"]),
        (GATEWAY, &["--upstream", "wss://localhost", "--cert", "x.pem"]),
        (GATEWAY, &["--upstream", "ws://localhost", "--header", "a b=c"]),
        (SERVER, &["--tls-cert", "x.pem"]),
        (SERVER, &["--tolerate", "everything"]),
        (SERVER, &["--listen", "nowhere"]),
        (SERVER, &["--path", "opamp"]),
        (SERVER, &["--path", "/o pamp"]),
        (SERVER, &["--endpoint", "localhost:4320"]),
        (SERVER, &["--endpoint", "ftp://localhost"]),
        (SERVER, &["--token", ""]),
        (SERVER, &["--max-message-size", "100"]),
    ] {
        let (status, _, stderr) = run(program, args).await;
        assert_eq!(status, Some(2), "{args:?}: {stderr}");
        assert!(!stderr.is_empty());
    }
}

#[tokio::test]
async fn what_cannot_work_exits_with_1_and_says_why() {
    let busy = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let busy = busy.local_addr().unwrap().to_string();
    let free = "127.0.0.1:0";
    for (program, args, words) in [
        (SERVER, &["--listen", &busy, "--admin", free][..], &busy[..]),
        (SERVER, &["--listen", free, "--admin", &busy], &busy),
        (GATEWAY, &["--listen", &busy, "--upstream", "ws://localhost"], &busy),
        (GATEWAY, &["--upstream", "wss://localhost", "--ca", "/no/such.pem"], "/no/such.pem"),
        (
            GATEWAY,
            &["--upstream", "ws://localhost", "--tls-cert", "/no/such.pem", "--tls-key", "/k.pem"],
            "/no/such.pem",
        ),
        (SERVER, &["--config", "/no/such/file"], "/no/such/file"),
        (SERVER, &["--tls-cert", "/no/such.pem", "--tls-key", "/no/key.pem"], "/no/such.pem"),
        (AGENT, &["--server", "ws://localhost", "--config", "/no/such/file"], "/no/such/file"),
        (AGENT, &["--server", "wss://localhost", "--ca", "/no/such.pem"], "/no/such.pem"),
    ] {
        let (status, stdout, stderr) = run(program, args).await;
        assert_eq!((status, stdout.as_str()), (Some(1), ""), "{args:?}: {stderr}");
        assert!(stderr.contains("error: ") && stderr.contains(words), "{args:?}: {stderr}");
    }
}
