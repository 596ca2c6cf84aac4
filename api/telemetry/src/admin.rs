//! The admin endpoint of a process: a small HTTP/1.1 server beside the traffic, for probes, scrapers and the CLI.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

/// Connections served at once; more wait to be accepted.
const CONNECTIONS_MAX: usize = 64;
/// Time for a request's head, and for an idle connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// Status code.
    pub status: StatusCode,
    /// `Content-Type`.
    pub content_type: &'static str,
    /// Body.
    pub body: Vec<u8>,
}

impl Reply {
    /// Plain text.
    pub fn text(status: StatusCode, text: impl Into<String>) -> Self {
        Self {
            status,
            content_type: "text/plain; charset=utf-8",
            body: text.into().into_bytes(),
        }
    }

    /// JSON bytes, already encoded.
    pub fn json(body: Vec<u8>) -> Self {
        Self {
            status: StatusCode::OK,
            content_type: "application/json",
            body,
        }
    }

    /// Any bytes.
    pub fn bytes(body: Vec<u8>) -> Self {
        Self {
            status: StatusCode::OK,
            content_type: "application/octet-stream",
            body,
        }
    }

    /// 404 that names what there is.
    pub fn not_found(paths: &[&str]) -> Self {
        Self::text(
            StatusCode::NOT_FOUND,
            format!("no such path; there are {}\n", paths.join(", ")),
        )
    }
}

/// Answers GET requests with `answer(path, query)` until cancelled. `answer` runs on the caller's runtime and must
/// not block for long.
///
/// # Errors
/// When accepting fails for another reason than one connection's own.
pub async fn serve<F>(listener: TcpListener, answer: F) -> io::Result<()>
where
    F: Fn(&str, &str) -> Reply + Send + Sync + 'static,
{
    let answer = Arc::new(answer);
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return Ok(());
        };
        let (stream, _) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) if is_connection_error(&error) => continue,
            Err(error) => return Err(error),
        };
        let answer = Arc::clone(&answer);
        crate::task::spawn("admin connection", async move {
            let _place = place;
            let service = service_fn(move |request: Request<Incoming>| {
                let answer = Arc::clone(&answer);
                async move { Ok::<_, Infallible>(respond(&request, &*answer)) }
            });
            let mut builder = http1::Builder::new();
            builder
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .max_buf_size(16 * 1024);
            // A client that goes away is no event.
            let _ = builder
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

fn respond<F: Fn(&str, &str) -> Reply>(
    request: &Request<Incoming>,
    answer: &F,
) -> Response<Full<Bytes>> {
    let reply = if request.method() == http::Method::GET || request.method() == http::Method::HEAD {
        answer(
            request.uri().path(),
            request.uri().query().unwrap_or_default(),
        )
    } else {
        Reply::text(StatusCode::METHOD_NOT_ALLOWED, "use GET\n")
    };
    let mut response = Response::new(Full::new(Bytes::from(reply.body)));
    *response.status_mut() = reply.status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static(reply.content_type),
    );
    response
}

fn is_connection_error(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
    ) || error
        .raw_os_error()
        .is_some_and(|code| code == 24 || code == 23) // EMFILE, ENFILE: others close soon
}
