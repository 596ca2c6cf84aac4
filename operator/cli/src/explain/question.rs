//! The request that is asked about.

use anyhow::Context;
use api::path::normalise;
use http::uri::Authority;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use shard_proxy_table::RequestView;

/// A request as a shard would see it.
#[derive(Debug)]
pub(super) struct Question {
    method: Method,
    /// Host of the URL: where a client connects to.
    pub(super) connects_to: String,
    pub(super) port: u16,
    pub(super) is_tls: bool,
    /// What the Host header says, or the URL.
    host: String,
    pub(super) raw_path: String,
    /// The path that is matched and forwarded; none when it is refused.
    pub(super) path: Option<String>,
    query: Option<String>,
    headers: HeaderMap,
}

impl Question {
    /// Reads what the user gives: method, URL, headers as `NAME: VALUE`.
    pub(super) fn read(method: &str, url: &str, headers: &[String]) -> anyhow::Result<Self> {
        let method =
            Method::from_bytes(method.to_uppercase().as_bytes()).context("read the method")?;
        let uri: Uri = url
            .parse()
            .with_context(|| format!("read the URL {url:?}"))?;
        let connects_to = uri
            .host()
            .context("the URL needs a host: http://HOST/PATH")?
            .to_ascii_lowercase();
        let is_tls = uri.scheme_str() == Some("https");
        let mut host = connects_to.clone();
        let mut map = HeaderMap::new();
        for header in headers {
            let (name, value) = header
                .split_once(':')
                .with_context(|| format!("{header:?} is not NAME: VALUE"))?;
            let value = value.trim();
            if name.trim().eq_ignore_ascii_case("host") {
                let authority: Authority = value
                    .parse()
                    .with_context(|| format!("read the host {value:?}"))?;
                host = authority.host().to_ascii_lowercase();
                continue;
            }
            map.append(
                HeaderName::from_bytes(name.trim().as_bytes())?,
                HeaderValue::from_str(value)?,
            );
        }
        let raw_path = match uri.path() {
            "" => "/",
            path => path,
        };
        Ok(Self {
            method,
            connects_to,
            port: uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 }),
            is_tls,
            host,
            raw_path: raw_path.to_owned(),
            path: normalise(raw_path).map(|path| path.into_owned()),
            query: uri.query().map(str::to_owned),
            headers: map,
        })
    }

    /// The request with this path.
    pub(super) fn request<'q>(&'q self, path: &'q str) -> RequestView<'q> {
        RequestView {
            host: &self.host,
            path,
            query: self.query.as_deref(),
            method: &self.method,
            headers: &self.headers,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a failed unwrap is a failed test
    use super::*;

    #[test]
    fn a_path_is_read_as_a_shard_reads_it() {
        let of = |url: &str| Question::read("get", url, &[]).unwrap().path;
        assert_eq!(of("http://a.test").as_deref(), Some("/"));
        assert_eq!(
            of("http://a.test/a/../%7eb?x=/../y").as_deref(),
            Some("/~b")
        );
        assert_eq!(of("http://a.test/a%2fb"), None);
    }

    #[test]
    fn the_host_header_wins_over_the_url_and_its_port_does_not_count() {
        let headers = ["Host: Shop.Test:8080".to_owned(), "x-one: 1".to_owned()];
        let question = Question::read("GET", "https://127.1.0.1:444/", &headers).unwrap();
        assert_eq!(
            (question.host.as_str(), question.connects_to.as_str()),
            ("shop.test", "127.1.0.1")
        );
        assert_eq!((question.port, question.is_tls), (444, true));
        assert_eq!(question.headers.len(), 1);
    }
}
