//! Passing an endpoint's response on.

use http::{HeaderMap, Response, StatusCode, Version};
use hyper::body::Body;
use shard_proxy_table::{CompiledFilter, Rule, RuleBackend};

use crate::body::{BodyLimits, ResponseBody};
use crate::cause::Cause;
use crate::filters::change_response as change;
use crate::hygiene;
use crate::upstream::{BackendHandle, Sent};

/// Passes the endpoint's response on, with what the rule and the backend change of it.
pub(super) fn answer(
    sent: Sent,
    rule: &Rule<BackendHandle>,
    backend: &RuleBackend<BackendHandle>,
    limits: BodyLimits,
) -> Result<Response<ResponseBody>, Cause> {
    let (mut parts, body) = sent.response.into_parts();
    // Nobody asked for a switch of protocols.
    if parts.status == StatusCode::SWITCHING_PROTOCOLS {
        return Err(Cause::UpstreamProtocol);
    }
    let lease = if hygiene::clean_response(&mut parts.headers)? {
        sent.lease
    } else {
        // Its framing is in doubt: the body is read to its end, the connection is closed after it.
        sent.lease.condemned()
    };
    change_response(&mut parts.headers, &rule.filters);
    change_response(&mut parts.headers, &backend.filters);
    parts.version = Version::HTTP_11;
    parts.extensions.clear();
    let body = if body.is_end_stream() {
        lease.finish();
        ResponseBody::empty()
    } else {
        ResponseBody::upstream(body, lease, limits)
    };
    Ok(Response::from_parts(parts, body))
}

/// Applies those of the filters that concern responses.
pub(super) fn change_response(headers: &mut HeaderMap, filters: &[CompiledFilter]) {
    for filter in filters {
        if let CompiledFilter::ResponseHeaders(ops) = filter {
            change(headers, ops);
        }
    }
}
