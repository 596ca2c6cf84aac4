//! A small client of the API server: one connection for each request, blocking.
//!
//! It speaks HTTP/1.0, so that every answer, a watch as well, is plain text up to the end of the connection. At the rates
//! of a test cluster a handshake for each request costs nothing that anybody sees.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::Value;

/// Time for a connection, and for each piece of an answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// The server ends a watch after this many seconds; a new list follows.
const WATCH_SECONDS: u32 = 300;
/// Silence on a watch after which its connection is taken for dead; bookmarks come once a minute.
const WATCH_SILENCE_MAX: Duration = Duration::from_secs(150);

type Stream = BufReader<StreamOwned<ClientConnection, TcpStream>>;

/// The API server, asked with one identity.
#[derive(Debug, Clone)]
pub struct Api {
    address: SocketAddr,
    tls: Arc<ClientConfig>,
}

/// What the server answered.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// The body; null when it is no JSON.
    pub body: Value,
}

impl Api {
    /// A client with the certificate `identity` from the folder `pki`.
    ///
    /// # Errors
    /// When the files are not there or hold something else.
    pub fn new(address: SocketAddr, pki: &Path, identity: &str) -> anyhow::Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(certificate(&pki.join("ca.crt"))?)?;
        let key = pki.join(format!("{identity}.key"));
        let key = PrivateKeyDer::from_pem_file(&key)
            .with_context(|| format!("read the key {}", key.display()))?;
        let own = certificate(&pki.join(format!("{identity}.crt")))?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![own], key)?;
        Ok(Self {
            address,
            tls: Arc::new(tls),
        })
    }

    /// An object or a list.
    ///
    /// # Errors
    /// When the server does not answer, or not with 200.
    pub fn get(&self, path: &str) -> anyhow::Result<Value> {
        let answer = self.send("GET", path, "", None)?;
        if answer.status != 200 {
            bail!("GET {path}: {} {}", answer.status, answer.body["message"]);
        }
        Ok(answer.body)
    }

    /// Whether the server answers with 200.
    #[must_use]
    pub fn answers(&self, path: &str) -> bool {
        self.send("GET", path, "", None)
            .is_ok_and(|answer| answer.status == 200)
    }

    /// Makes an object in a collection; the answer's status 409 says that it is there.
    ///
    /// # Errors
    /// When the server does not answer.
    pub fn create(&self, path: &str, object: &Value) -> anyhow::Result<Answer> {
        self.send("POST", path, "application/json", Some(object))
    }

    /// Merges a patch into an object.
    ///
    /// # Errors
    /// When the server does not answer.
    pub fn merge(&self, path: &str, patch: &Value) -> anyhow::Result<Answer> {
        self.send("PATCH", path, "application/merge-patch+json", Some(patch))
    }

    /// Deletes an object.
    ///
    /// # Errors
    /// When the server does not answer.
    pub fn delete(&self, path: &str) -> anyhow::Result<Answer> {
        self.send("DELETE", path, "", None)
    }

    /// Gives each event on a collection after `version` to `on_event` until the server ends the watch; then the caller
    /// lists again.
    ///
    /// # Errors
    /// When the connection breaks, when the server refuses (as it does for an old version), and what `on_event` fails with.
    pub fn watch(
        &self,
        path: &str,
        version: &str,
        mut on_event: impl FnMut(&str, &Value) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let path = format!(
            "{path}?watch=1&allowWatchBookmarks=true&timeoutSeconds={WATCH_SECONDS}&resourceVersion={version}"
        );
        let mut stream = self.ask("GET", &path, "", None, WATCH_SILENCE_MAX)?;
        let status = head(&mut stream)?;
        if status != 200 {
            bail!("GET {path}: {status}");
        }
        let mut line = String::new();
        while read_line(&mut stream, &mut line)? {
            let event: Value = serde_json::from_str(&line).context("read an event")?;
            match event["type"].as_str().unwrap_or_default() {
                "BOOKMARK" => {}
                "ERROR" => bail!("watch {path}: {}", event["object"]["message"]),
                kind => on_event(kind, &event["object"])?,
            }
        }
        Ok(())
    }

    fn send(
        &self,
        method: &str,
        path: &str,
        kind: &str,
        body: Option<&Value>,
    ) -> anyhow::Result<Answer> {
        let mut stream = self.ask(method, path, kind, body, ANSWER_WITHIN)?;
        let status = head(&mut stream)?;
        let mut body = Vec::new();
        stream
            .read_to_end(&mut body)
            .with_context(|| format!("read the answer to {method} {path}"))?;
        Ok(Answer {
            status,
            body: serde_json::from_slice(&body).unwrap_or_default(),
        })
    }

    fn ask(
        &self,
        method: &str,
        path: &str,
        kind: &str,
        body: Option<&Value>,
        silence_max: Duration,
    ) -> anyhow::Result<Stream> {
        let asked = || format!("{method} {path}");
        let stream =
            TcpStream::connect_timeout(&self.address, ANSWER_WITHIN).with_context(asked)?;
        stream.set_read_timeout(Some(silence_max))?;
        stream.set_write_timeout(Some(ANSWER_WITHIN))?;
        let name = ServerName::IpAddress(self.address.ip().into());
        let session = ClientConnection::new(Arc::clone(&self.tls), name)?;
        let mut stream = StreamOwned::new(session, stream);
        let body = body.map(Value::to_string).unwrap_or_default();
        let mut request = format!("{method} {path} HTTP/1.0\r\nAccept: application/json\r\n");
        if !body.is_empty() {
            request += &format!("Content-Type: {kind}\r\nContent-Length: {}\r\n", body.len());
        }
        request += "\r\n";
        request += &body;
        stream.write_all(request.as_bytes()).with_context(asked)?;
        stream.flush().with_context(asked)?;
        Ok(BufReader::new(stream))
    }
}

/// Reads up to the body and gives the status.
fn head(stream: &mut impl BufRead) -> anyhow::Result<u16> {
    let mut line = String::new();
    read_line(stream, &mut line)?;
    let status = line
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .with_context(|| format!("read an answer that begins with {:?}", line.trim()))?;
    while read_line(stream, &mut line)? && !line.trim().is_empty() {}
    Ok(status)
}

/// Reads a line; false at the end.
fn read_line(stream: &mut impl BufRead, line: &mut String) -> anyhow::Result<bool> {
    line.clear();
    match stream.read_line(line) {
        Ok(read) => Ok(read > 0 && line.ends_with('\n')),
        // A server that ends does not always say goodbye.
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error).context("read from the API server"),
    }
}

fn certificate(path: &Path) -> anyhow::Result<CertificateDer<'static>> {
    CertificateDer::from_pem_file(path)
        .with_context(|| format!("read the certificate {}", path.display()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a failed unwrap is a failed test
mod tests {
    use super::*;

    #[test]
    fn the_head_ends_at_the_empty_line() {
        let mut answer = BufReader::new("HTTP/1.0 409 Conflict\r\nA: b\r\n\r\n{}".as_bytes());
        assert_eq!(head(&mut answer).unwrap(), 409);
        let mut body = String::new();
        answer.read_to_string(&mut body).unwrap();
        assert_eq!(body, "{}");
    }

    #[test]
    fn half_a_line_is_no_event() {
        let mut stream = BufReader::new("{\"type\"".as_bytes());
        assert!(!read_line(&mut stream, &mut String::new()).unwrap());
    }
}
