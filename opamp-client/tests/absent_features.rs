//! A URL that needs a feature which this build leaves out is refused, and the error names it. Empty
//! with the default features.

#[cfg(all(
    any(feature = "ws", feature = "http"),
    not(all(feature = "ws", feature = "http", feature = "tls"))
))]
mod absent {
    use opamp_client::{Client, ErrorKind};

    fn refused(url: &str, feature: &str) {
        let builder = Client::builder(url).identifying_attribute("service.name", "any");
        let error = builder.build().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Feature, "{url}");
        assert!(error.to_string().contains(feature), "{url}: {error}");
    }

    #[test]
    #[cfg(not(feature = "tls"))]
    fn tls() {
        #[cfg(feature = "ws")]
        refused("wss://127.0.0.1", "tls");
        #[cfg(feature = "http")]
        refused("https://127.0.0.1", "tls");
    }

    #[test]
    #[cfg(not(feature = "ws"))]
    fn ws() {
        refused("ws://127.0.0.1", "ws");
    }

    #[test]
    #[cfg(not(feature = "http"))]
    fn http() {
        refused("http://127.0.0.1", "http");
    }

    /// What the build does have can be used.
    #[test]
    fn the_rest_is_there() {
        let builds = |url| {
            let builder = Client::builder(url).identifying_attribute("service.name", "any");
            builder.build().is_ok()
        };
        #[cfg(feature = "ws")]
        assert!(builds("ws://127.0.0.1"));
        #[cfg(feature = "http")]
        assert!(builds("http://127.0.0.1"));
    }
}
