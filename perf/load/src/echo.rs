//! A backend that says what it got.
//!
//! | path | answer |
//! |---|---|
//! | `/bytes/N` | N bytes, streamed |
//! | `/delay/MS` | the usual one after MS milliseconds |
//! | `/status/N` | status N |
//! | `/echo` | the request's body, streamed back, with its trailers |
//! | any other | JSON: name, method, path, host, headers, length of the body |

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::TcpListener;

type Body = BoxBody<Bytes, hyper::Error>;

/// Serves HTTP/1.1 and HTTP/2 in clear text until cancelled.
///
/// # Errors
/// When accepting fails.
pub async fn serve(listener: TcpListener, name: String) -> io::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let name = name.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let name = name.clone();
                async move { Ok::<_, Infallible>(answer(&name, request).await) }
            });
            let builder = auto::Builder::new(TokioExecutor::new());
            // A client that goes away is no event.
            let _ = builder
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

async fn answer(name: &str, request: Request<Incoming>) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let mut segments = path.split('/').skip(1);
    let number = |text: Option<&str>| text.and_then(|text| text.parse::<u64>().ok());
    match (segments.next(), number(segments.next())) {
        (Some("echo"), _) => Response::new(request.into_body().boxed()),
        (Some("bytes"), Some(count)) => Response::new(zeros(count)),
        (Some("status"), Some(code)) => {
            let mut response = describe(name, request).await;
            let code = u16::try_from(code)
                .ok()
                .and_then(|code| StatusCode::from_u16(code).ok());
            *response.status_mut() = code.unwrap_or(StatusCode::BAD_REQUEST);
            response
        }
        (Some("delay"), Some(ms)) => {
            tokio::time::sleep(Duration::from_millis(ms.min(600_000))).await;
            describe(name, request).await
        }
        _ => describe(name, request).await,
    }
}

async fn describe(name: &str, request: Request<Incoming>) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let mut headers: BTreeMap<String, String> = BTreeMap::new();
    for (header, value) in &parts.headers {
        let value = String::from_utf8_lossy(value.as_bytes());
        headers
            .entry(header.to_string())
            .and_modify(|all| {
                all.push_str(", ");
                all.push_str(&value);
            })
            .or_insert_with(|| value.into_owned());
    }
    let length = body.collect().await.map_or(0, |body| body.to_bytes().len());
    let host = parts
        .uri
        .authority()
        .map(ToString::to_string)
        .or_else(|| headers.get("host").cloned());
    let description = serde_json::json!({
        "backend": name,
        "method": parts.method.as_str(),
        "path": parts.uri.path_and_query().map_or("", |path| path.as_str()),
        "version": format!("{:?}", parts.version),
        "host": host,
        "headers": headers,
        "bodyBytes": length,
    });
    let mut text = description.to_string();
    text.push('\n');
    let mut response = Response::new(
        Full::new(Bytes::from(text))
            .map_err(|never| match never {})
            .boxed(),
    );
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    response
}

fn zeros(count: u64) -> Body {
    const CHUNK: u64 = 16 * 1024;
    static ZEROS: [u8; CHUNK as usize] = [0; CHUNK as usize];
    let chunks = count.div_ceil(CHUNK);
    let stream = futures::stream::iter(0..chunks).map(move |chunk| {
        let length = CHUNK.min(count - chunk * CHUNK) as usize;
        Ok(Frame::data(Bytes::from_static(&ZEROS[..length])))
    });
    BodyExt::boxed(StreamBody::new(stream))
}
