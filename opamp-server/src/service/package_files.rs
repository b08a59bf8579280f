//! Files of packages, for Agents to download (PKG-69, PKG-70).
//!
//! A file is known by the SHA-256 of its content, which is its name in the URL as well: what a URL
//! leads to never changes, a download that broke off can be resumed, and two packages may use one
//! file.

use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, PoisonError, RwLock};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{
    ACCEPT_RANGES, ALLOW, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderMap,
    HeaderValue, IF_NONE_MATCH, IF_RANGE, RANGE,
};
use http::{Method, Request, Response, StatusCode};
use opamp_proto::content_hash;

use super::body::Body;
use super::http::status;

/// Files of packages, kept in memory and served with ranges.
///
/// Clones serve the same files. It is a [`tower_service::Service`] to mount in an HTTP application
/// under any path, and [`ServerBuilder::package_files`](super::ServerBuilder::package_files) mounts
/// it beside the OpAMP endpoint. Whoever knows the hash of a file may download it: if files are
/// secret, mount it behind something that asks who it is, and offer the headers for that with the
/// file.
///
/// ```
/// use opamp_proto::v1;
/// use opamp_server::PackageFiles;
///
/// let files = PackageFiles::default();
/// let file = files.add("the agent's new binary")?;
/// let offered = v1::DownloadableFile {
///     download_url: file.url("https://opamp.example/packages"),
///     content_hash: file.content_hash(),
///     ..Default::default()
/// };
/// # assert!(offered.download_url.starts_with("https://opamp.example/packages/"));
/// # Ok::<(), opamp_server::FilesFull>(())
/// ```
#[derive(Clone)]
pub struct PackageFiles {
    shared: Arc<Shared>,
}

struct Shared {
    max_bytes: usize,
    files: RwLock<Files>,
}

#[derive(Default)]
struct Files {
    /// By the text of the hash, as it is in URLs.
    by_name: HashMap<String, Bytes>,
    bytes: usize,
}

/// A file that is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackageFile {
    hash: Bytes,
    name: String,
}

impl PackageFile {
    /// The SHA-256 of the content, for `DownloadableFile.content_hash` (PKG-70).
    #[must_use]
    pub fn content_hash(&self) -> Bytes {
        self.hash.clone()
    }

    /// The last segment of the file's path: the hash in 64 lower-case hexadecimal digits.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file's URL, where the files are served below this one.
    #[must_use]
    pub fn url(&self, base: &str) -> String {
        format!("{}/{}", base.trim_end_matches('/'), self.name)
    }
}

/// There is no room for one more file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the files would have {size} bytes, more than the limit of {limit}")]
pub struct FilesFull {
    size: usize,
    limit: usize,
}

impl Default for PackageFiles {
    /// With room for 1 GiB.
    fn default() -> Self {
        Self::with_max_bytes(1024 * 1024 * 1024)
    }
}

impl PackageFiles {
    /// With room for so many bytes.
    #[must_use]
    pub fn with_max_bytes(max_bytes: usize) -> Self {
        Self { shared: Arc::new(Shared { max_bytes, files: RwLock::default() }) }
    }

    /// Serves a file. One that is served already is not kept twice.
    ///
    /// # Errors
    ///
    /// [`FilesFull`] if there is no room for it; nothing has changed then.
    pub fn add(&self, content: impl Into<Bytes>) -> Result<PackageFile, FilesFull> {
        let content = content.into();
        let hash = content_hash(&content);
        let name: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut files = self.shared.files.write().unwrap_or_else(PoisonError::into_inner);
        if !files.by_name.contains_key(&name) {
            let size = files.bytes.saturating_add(content.len());
            if size > self.shared.max_bytes {
                return Err(FilesFull { size, limit: self.shared.max_bytes });
            }
            files.bytes = size;
            files.by_name.insert(name.clone(), content);
        }
        Ok(PackageFile { hash, name })
    }

    /// Serves a file no longer. Downloads in progress are finished. False if it was not served.
    pub fn remove(&self, file: &PackageFile) -> bool {
        let mut files = self.shared.files.write().unwrap_or_else(PoisonError::into_inner);
        let removed = files.by_name.remove(&file.name);
        files.bytes -= removed.as_ref().map_or(0, Bytes::len);
        removed.is_some()
    }

    /// Answers a request for the file that the last segment of the path names.
    pub(super) fn answer<B>(&self, request: &Request<B>) -> Response<Body> {
        let is_get = request.method() == Method::GET;
        if !is_get && request.method() != Method::HEAD {
            let mut response = status(StatusCode::METHOD_NOT_ALLOWED);
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        let name = request.uri().path().rsplit('/').next().unwrap_or_default();
        let files = self.shared.files.read().unwrap_or_else(PoisonError::into_inner);
        let Some(content) = files.by_name.get(name).cloned() else {
            return status(StatusCode::NOT_FOUND);
        };
        drop(files);
        // Of hexadecimal digits, as every name is.
        let Ok(tag) = HeaderValue::try_from(format!("\"{name}\"")) else {
            return status(StatusCode::NOT_FOUND);
        };
        let mut response = respond(request.headers(), &content, &tag, is_get);
        let headers = response.headers_mut();
        headers.insert(ETAG, tag);
        headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        response
    }
}

/// RFC 9110, sections 13 and 14.
fn respond(
    headers: &HeaderMap,
    content: &Bytes,
    tag: &HeaderValue,
    is_get: bool,
) -> Response<Body> {
    let names_it = |value: &HeaderValue| {
        let tags = value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
        tags.map(|one| one.strip_prefix(b"W/").unwrap_or(one))
            .any(|one| one == tag.as_bytes() || one == b"*")
    };
    if headers.get_all(IF_NONE_MATCH).iter().any(names_it) {
        return status(StatusCode::NOT_MODIFIED);
    }
    let same = headers.get(IF_RANGE).is_none_or(|condition| condition == tag);
    let range = headers.get(RANGE).filter(|_| is_get && same);
    let (code, range) = match range.map(|value| parse_range(value, content.len())) {
        None | Some(Asked::Nothing) => (StatusCode::OK, 0..content.len()),
        Some(Asked::For(range)) => (StatusCode::PARTIAL_CONTENT, range),
        Some(Asked::TooMuch) => {
            let mut response = status(StatusCode::RANGE_NOT_SATISFIABLE);
            insert(&mut response, CONTENT_RANGE, format!("bytes */{}", content.len()));
            return response;
        }
    };
    let mut response = status(code);
    if code == StatusCode::PARTIAL_CONTENT {
        let last = range.end.saturating_sub(1);
        let stated = format!("bytes {}-{last}/{}", range.start, content.len());
        insert(&mut response, CONTENT_RANGE, stated);
    }
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    response.headers_mut().insert(CONTENT_LENGTH, range.len().into());
    if is_get {
        *response.body_mut() = Body::new(content.slice(range));
    }
    response
}

fn insert(response: &mut Response<Body>, name: http::HeaderName, value: String) {
    // Made of digits, and so a value.
    if let Ok(value) = HeaderValue::try_from(value) {
        response.headers_mut().insert(name, value);
    }
}

/// What a `Range` asks for.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    /// Nothing that has to be heeded: several ranges, another unit, or no valid value.
    Nothing,
    For(Range<usize>),
    /// Nothing of the file is in the range.
    TooMuch,
}

fn parse_range(value: &HeaderValue, length: usize) -> Asked {
    let bounds = value.to_str().ok().and_then(|text| text.strip_prefix("bytes="));
    let Some((first, last)) = bounds.and_then(|bounds| bounds.trim().split_once('-')) else {
        return Asked::Nothing;
    };
    let number = |text: &str| match text.bytes().all(|byte| byte.is_ascii_digit()) {
        // Beyond what can be counted is beyond the end.
        true if !text.is_empty() => Some(text.parse::<usize>().unwrap_or(usize::MAX)),
        _ => None,
    };
    match (number(first), number(last)) {
        (Some(first), _) if last.is_empty() && first < length => Asked::For(first..length),
        (Some(first), Some(last)) if first <= last && first < length => {
            Asked::For(first..last.saturating_add(1).min(length))
        }
        (Some(first), Some(last)) if first > last => Asked::Nothing,
        (Some(_), _) if last.is_empty() || number(last).is_some() => Asked::TooMuch,
        (None, Some(0)) if first.is_empty() => Asked::TooMuch,
        (None, Some(_)) if first.is_empty() && length == 0 => Asked::TooMuch,
        (None, Some(count)) if first.is_empty() => Asked::For(length.saturating_sub(count)..length),
        _ => Asked::Nothing,
    }
}

impl<B> tower_service::Service<Request<B>> for PackageFiles {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        std::future::ready(Ok(self.answer(&request)))
    }
}

impl fmt::Debug for PackageFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let files = self.shared.files.read().unwrap_or_else(PoisonError::into_inner);
        f.debug_struct("PackageFiles")
            .field("files", &files.by_name.len())
            .field("bytes", &files.bytes)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use http::header::HeaderName;
    use http_body_util::BodyExt as _;

    use super::*;

    fn get(files: &PackageFiles, path: &str, fields: &[(HeaderName, &str)]) -> Response<Body> {
        let mut request = Request::get(path);
        for (name, value) in fields {
            request = request.header(name, *value);
        }
        files.answer(&request.body(()).unwrap())
    }

    async fn body(response: Response<Body>) -> Bytes {
        response.into_body().collect().await.unwrap().to_bytes()
    }

    #[tokio::test]
    async fn a_download_can_be_resumed_and_is_what_the_hash_says() {
        let _judged = opamp_spec::judges(&["PKG-69", "PKG-70"]);
        let files = PackageFiles::default();
        let file = files.add("0123456789").unwrap();
        let url = file.url("/packages/");
        assert_eq!(url, format!("/packages/{}", file.name()));
        let whole = get(&files, &url, &[]);
        assert_eq!(whole.status(), StatusCode::OK);
        assert_eq!(whole.headers()[ACCEPT_RANGES], "bytes");
        let tag = whole.headers()[ETAG].clone();
        assert_eq!(content_hash(&body(whole).await), file.content_hash());
        for (range, code, stated, content) in [
            ("bytes=4-", 206, "bytes 4-9/10", "456789"),
            ("bytes=0-0", 206, "bytes 0-0/10", "0"),
            ("bytes=8-99", 206, "bytes 8-9/10", "89"),
            ("bytes=-3", 206, "bytes 7-9/10", "789"),
            ("bytes=-99", 206, "bytes 0-9/10", "0123456789"),
            ("bytes=10-", 416, "bytes */10", ""),
            ("bytes=99999999999999999999-", 416, "bytes */10", ""),
            ("bytes=-0", 416, "bytes */10", ""),
            ("bytes=3-2", 200, "", "0123456789"),
            ("bytes=0-1,3-4", 200, "", "0123456789"),
            ("lines=0-1", 200, "", "0123456789"),
            ("bytes=a-", 200, "", "0123456789"),
            ("bytes=-", 200, "", "0123456789"),
        ] {
            let response = get(&files, &url, &[(RANGE, range)]);
            assert_eq!(response.status().as_u16(), code, "{range}");
            let range_of =
                response.headers().get(CONTENT_RANGE).map_or("", |value| value.to_str().unwrap());
            assert_eq!(range_of, stated, "{range}");
            assert_eq!(body(response).await, content, "{range}");
        }
        let tag = tag.to_str().unwrap();
        let resumed = get(&files, &url, &[(RANGE, "bytes=4-"), (IF_RANGE, tag)]);
        assert_eq!(resumed.status(), StatusCode::PARTIAL_CONTENT);
        let another = get(&files, &url, &[(RANGE, "bytes=4-"), (IF_RANGE, "\"x\"")]);
        assert_eq!(another.status(), StatusCode::OK);
        assert_eq!(get(&files, &url, &[(IF_NONE_MATCH, tag)]).status(), StatusCode::NOT_MODIFIED);
    }

    #[test]
    fn what_is_not_there_is_not_found_and_nothing_can_be_put() {
        let files = PackageFiles::default();
        let file = files.add("a").unwrap();
        let url = file.url("");
        let head = files.answer(&Request::head(&url).body(()).unwrap());
        assert_eq!(
            (head.status(), &head.headers()[CONTENT_LENGTH]),
            (StatusCode::OK, &"1".parse().unwrap())
        );
        assert!(http_body::Body::is_end_stream(head.body()));
        let put = files.answer(&Request::put(&url).body(()).unwrap());
        assert_eq!(put.status(), StatusCode::METHOD_NOT_ALLOWED);
        assert!(files.remove(&file) && !files.remove(&file));
        for path in [url.as_str(), "/", "/packages", "/../etc/passwd"] {
            assert_eq!(get(&files, path, &[]).status(), StatusCode::NOT_FOUND);
        }
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let files = PackageFiles::with_max_bytes(10);
        let first = files.add("12345678").unwrap();
        assert_eq!(files.add("12345678"), Ok(first.clone()));
        assert_eq!(files.add("abc"), Err(FilesFull { size: 11, limit: 10 }));
        assert!(files.remove(&first));
        assert!(files.add("abc").is_ok());
    }
}
