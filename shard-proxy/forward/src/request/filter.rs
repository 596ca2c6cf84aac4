//! Filters on their way to the endpoint, and the request target that they leave.

use http::request::Parts;
use http::{HeaderValue, Response, StatusCode, Uri, Version};
use shard_proxy_table::CompiledFilter;

use super::Routed;
use crate::body::ResponseBody;
use crate::cause::Cause;
use crate::connection::Connection;
use crate::filters::{RedirectFrom, change_request, changed_path, location};
use crate::respond;

/// What rewrite filters ask for; the last one counts.
#[derive(Default)]
pub(super) struct Rewritten {
    path: Option<String>,
}

/// Applies the filters that concern the request; a redirect or a failed filter answers it.
pub(super) fn filter(
    connection: &Connection,
    filters: &[CompiledFilter],
    routed: &Routed,
    host: &str,
    parts: &mut Parts,
    rewritten: &mut Rewritten,
) -> Result<Option<Response<ResponseBody>>, Cause> {
    for filter in filters {
        match filter {
            CompiledFilter::RequestHeaders(ops) => change_request(&mut parts.headers, ops),
            CompiledFilter::ResponseHeaders(_) => {}
            CompiledFilter::Redirect(redirect) => {
                let path = routed.path.as_deref().unwrap_or(parts.uri.path());
                let from = RedirectFrom {
                    tls: connection.server_name.is_some() || connection.tls,
                    host,
                    public_port: connection.public_port,
                    bound: &|port, host| connection.gateway.public_port(port, host),
                    path,
                    query: parts.uri.query(),
                    prefix: routed.prefix.and_then(|length| path.get(..length)),
                };
                let location = location(redirect, &from).ok_or(Cause::FilterFailed)?;
                return Ok(Some(respond::redirect(redirect.status, location)));
            }
            CompiledFilter::Rewrite(rewrite) => {
                if let Some(hostname) = &rewrite.hostname {
                    let value = HeaderValue::from_str(hostname).map_err(|_| Cause::FilterFailed)?;
                    parts.headers.insert(http::header::HOST, value);
                }
                if let Some(change) = &rewrite.path {
                    let path = routed.path.as_deref().unwrap_or(parts.uri.path());
                    let prefix = routed.prefix.and_then(|length| path.get(..length));
                    rewritten.path = Some(changed_path(change, path, prefix));
                }
            }
            CompiledFilter::Fail(status) => {
                let status =
                    StatusCode::from_u16(*status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                if status == StatusCode::INTERNAL_SERVER_ERROR {
                    return Err(Cause::FilterFailed);
                }
                return Ok(Some(respond::status(status)));
            }
        }
    }
    Ok(None)
}

/// Writes the request target that goes upstream, in origin form: the path that was matched, or its rewritten form.
pub(super) fn target(
    parts: &mut Parts,
    routed: &Routed,
    rewritten: Rewritten,
) -> Result<(), Cause> {
    let new = rewritten.path.as_deref().or(routed.path.as_deref());
    parts.version = Version::HTTP_11;
    if new.is_none() && parts.uri.scheme().is_none() && parts.uri.authority().is_none() {
        return Ok(());
    }
    let path = new.unwrap_or(parts.uri.path());
    let text = match parts.uri.query() {
        Some(query) if !path.contains('?') => format!("{path}?{query}"),
        _ if path.is_empty() => "/".to_owned(),
        _ => path.to_owned(),
    };
    parts.uri = Uri::try_from(text).map_err(|_| Cause::BadRequest)?;
    Ok(())
}
