//! Passing an endpoint's response on.

use std::sync::Arc;
use std::time::Instant;

use http::{HeaderMap, Response, StatusCode, Version};
use hyper::body::Body;
use shard_proxy_table::{CompiledFilter, Rule};

use super::{Failed, Outgoing};
use crate::body::ResponseBody;
use crate::cause::Cause;
use crate::filters::change_response as change;
use crate::hygiene;
use crate::upstream::{BackendHandle, Sent};

/// Passes the endpoint's response on, with what the rule and the backend change of it.
pub(super) fn answer(
    sent: Sent,
    outgoing: Outgoing,
    until: Option<Instant>,
) -> Result<Response<ResponseBody>, Failed<Arc<Rule<BackendHandle>>>> {
    let Outgoing {
        rule,
        backend,
        limits,
        ..
    } = outgoing;
    let Sent {
        mut response,
        lease,
    } = sent;
    // Nobody asked for a switch of protocols.
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Err((Cause::UpstreamProtocol, rule));
    }
    let lease = match hygiene::clean_response(response.headers_mut()) {
        Ok(true) => lease,
        // Its framing is in doubt: the body is read to its end, the connection is closed after it.
        Ok(false) => lease.condemned(),
        Err(cause) => return Err((cause, rule)),
    };
    change_response(response.headers_mut(), &rule.filters);
    if let Some(backend) = rule.backends.get(backend) {
        change_response(response.headers_mut(), &backend.filters);
    }
    *response.version_mut() = Version::HTTP_11;
    response.extensions_mut().clear();
    Ok(response.map(|body| {
        if body.is_end_stream() {
            lease.finish();
            ResponseBody::empty()
        } else {
            ResponseBody::upstream(body, lease, limits.of_body(until))
        }
    }))
}

/// Applies those of the filters that concern responses.
pub(super) fn change_response(headers: &mut HeaderMap, filters: &[CompiledFilter]) {
    for filter in filters {
        if let CompiledFilter::ResponseHeaders(ops) = filter {
            change(headers, ops);
        }
    }
}
