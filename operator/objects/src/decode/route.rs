//! HTTPRoute.

use api_gateway_types::httproutes::{
    HttpRouteRules, HttpRouteRulesBackendRefs, HttpRouteRulesFilters,
    HttpRouteRulesFiltersRequestRedirectScheme, HttpRouteRulesFiltersType as FilterType,
    HttpRouteRulesMatches, HttpRouteSpec,
};
use serde::Serialize;
use serde_json::Value;

use super::duration::milliseconds;
use super::{port, spec};
use crate::spec::{
    HeaderModifier, HttpBackendRef, HttpFilter, HttpMatch, HttpPathMatch, HttpRoute, HttpRouteRule,
    HttpValueMatch, Meta, Object, ParentRef, PathModifier, RequestRedirect, UrlRewrite,
};

pub(super) fn http(object: &Value, meta: Meta) -> Result<Object, String> {
    let spec: HttpRouteSpec = spec(object)?;
    let mut unsupported = Vec::new();
    if spec.use_default_gateways.is_some() {
        unsupported.push("spec.useDefaultGateways".to_owned());
    }
    Ok(Object::HttpRoute(HttpRoute {
        meta,
        parent_refs: spec
            .parent_refs
            .unwrap_or_default()
            .into_iter()
            .map(|parent| ParentRef {
                group: parent.group.unwrap_or_else(|| api::GATEWAY_GROUP.into()),
                kind: parent.kind.unwrap_or_else(|| "Gateway".into()),
                namespace: parent.namespace,
                name: parent.name,
                section_name: parent.section_name,
                port: parent.port.map(port),
            })
            .collect(),
        hostnames: spec
            .hostnames
            .unwrap_or_default()
            .into_iter()
            .map(|host| host.to_ascii_lowercase())
            .collect(),
        rules: spec
            .rules
            .unwrap_or_default()
            .into_iter()
            .map(rule)
            .collect::<Result<_, _>>()?,
        unsupported,
    }))
}

fn rule(rule: HttpRouteRules) -> Result<HttpRouteRule, String> {
    let mut unsupported = Vec::new();
    if rule.retry.is_some() {
        unsupported.push("retry".to_owned());
    }
    if rule.session_persistence.is_some() {
        unsupported.push("sessionPersistence".to_owned());
    }
    let (request, backend_request) = rule
        .timeouts
        .map_or((None, None), |t| (t.request, t.backend_request));
    let duration = |text: Option<String>| {
        text.map(|text| {
            milliseconds(&text)
                .ok_or_else(|| format!("timeouts: {text:?} is no duration; use for example 10s"))
        })
        .transpose()
    };
    Ok(HttpRouteRule {
        name: rule.name,
        matches: rule
            .matches
            .unwrap_or_default()
            .into_iter()
            .map(route_match)
            .collect(),
        filters: rule
            .filters
            .unwrap_or_default()
            .into_iter()
            .map(filter)
            .collect::<Result<_, _>>()?,
        backend_refs: rule
            .backend_refs
            .unwrap_or_default()
            .into_iter()
            .map(backend_ref)
            .collect::<Result<_, _>>()?,
        request_timeout_ms: duration(request)?,
        backend_request_timeout_ms: duration(backend_request)?,
        unsupported,
    })
}

fn route_match(of: HttpRouteRulesMatches) -> HttpMatch {
    let (kind, value) = of.path.map_or((None, None), |path| {
        (path.r#type.as_ref().map(text), path.value)
    });
    HttpMatch {
        path: HttpPathMatch {
            kind: kind.unwrap_or_else(|| "PathPrefix".into()),
            value: value.unwrap_or_else(|| "/".into()),
        },
        method: of.method.as_ref().map(text),
        headers: of
            .headers
            .unwrap_or_default()
            .into_iter()
            .map(|header| HttpValueMatch {
                kind: header.r#type.as_ref().map_or_else(|| "Exact".into(), text),
                name: header.name.to_ascii_lowercase(),
                value: header.value,
            })
            .collect(),
        query: of
            .query_params
            .unwrap_or_default()
            .into_iter()
            .map(|parameter| HttpValueMatch {
                kind: parameter
                    .r#type
                    .as_ref()
                    .map_or_else(|| "Exact".into(), text),
                name: parameter.name,
                value: parameter.value,
            })
            .collect(),
    }
}

fn backend_ref(of: HttpRouteRulesBackendRefs) -> Result<HttpBackendRef, String> {
    // The same shape as the rule's filters under other names.
    let filters = of
        .filters
        .unwrap_or_default()
        .into_iter()
        .map(|of| {
            let value = serde_json::to_value(of).map_err(|error| error.to_string())?;
            filter(
                serde_json::from_value(value)
                    .map_err(|error| format!("backendRefs.filters: {error}"))?,
            )
        })
        .collect::<Result<_, String>>()?;
    Ok(HttpBackendRef {
        group: of.group.unwrap_or_default(),
        kind: of.kind.unwrap_or_else(|| "Service".into()),
        namespace: of.namespace,
        name: of.name,
        port: of.port.map(port),
        weight: of
            .weight
            .map_or(1, |weight| u32::try_from(weight).unwrap_or_default()),
        filters,
    })
}

fn filter(of: HttpRouteRulesFilters) -> Result<HttpFilter, String> {
    let missing = |field: &str| format!("filters: type {} needs {field}", text(&of.r#type));
    Ok(match of.r#type {
        FilterType::RequestHeaderModifier => {
            let of = of
                .request_header_modifier
                .as_ref()
                .ok_or_else(|| missing("requestHeaderModifier"))?;
            HttpFilter::RequestHeaderModifier(HeaderModifier {
                set: of
                    .set
                    .iter()
                    .flatten()
                    .map(|h| pair(&h.name, &h.value))
                    .collect(),
                add: of
                    .add
                    .iter()
                    .flatten()
                    .map(|h| pair(&h.name, &h.value))
                    .collect(),
                remove: of
                    .remove
                    .iter()
                    .flatten()
                    .map(|name| name.to_ascii_lowercase())
                    .collect(),
            })
        }
        FilterType::ResponseHeaderModifier => {
            let of = of
                .response_header_modifier
                .as_ref()
                .ok_or_else(|| missing("responseHeaderModifier"))?;
            HttpFilter::ResponseHeaderModifier(HeaderModifier {
                set: of
                    .set
                    .iter()
                    .flatten()
                    .map(|h| pair(&h.name, &h.value))
                    .collect(),
                add: of
                    .add
                    .iter()
                    .flatten()
                    .map(|h| pair(&h.name, &h.value))
                    .collect(),
                remove: of
                    .remove
                    .iter()
                    .flatten()
                    .map(|name| name.to_ascii_lowercase())
                    .collect(),
            })
        }
        FilterType::RequestRedirect => {
            let of = of
                .request_redirect
                .as_ref()
                .ok_or_else(|| missing("requestRedirect"))?;
            HttpFilter::RequestRedirect(RequestRedirect {
                scheme: of.scheme.as_ref().map(|scheme| match scheme {
                    HttpRouteRulesFiltersRequestRedirectScheme::Http => "http".into(),
                    HttpRouteRulesFiltersRequestRedirectScheme::Https => "https".into(),
                }),
                hostname: of.hostname.clone(),
                path: of.path.as_ref().and_then(|path| {
                    path_modifier(
                        path.replace_full_path.as_deref(),
                        path.replace_prefix_match.as_deref(),
                    )
                }),
                port: of.port.map(port),
                status_code: of
                    .status_code
                    .and_then(|code| u16::try_from(code).ok())
                    .unwrap_or(302),
            })
        }
        FilterType::UrlRewrite => {
            let of = of
                .url_rewrite
                .as_ref()
                .ok_or_else(|| missing("urlRewrite"))?;
            HttpFilter::UrlRewrite(UrlRewrite {
                hostname: of.hostname.clone(),
                path: of.path.as_ref().and_then(|path| {
                    path_modifier(
                        path.replace_full_path.as_deref(),
                        path.replace_prefix_match.as_deref(),
                    )
                }),
            })
        }
        FilterType::ExtensionRef => {
            let of = of
                .extension_ref
                .as_ref()
                .ok_or_else(|| missing("extensionRef"))?;
            HttpFilter::ExtensionRef {
                group: of.group.clone(),
                kind: of.kind.clone(),
                name: of.name.clone(),
            }
        }
        FilterType::RequestMirror | FilterType::Cors | FilterType::ExternalAuth => {
            HttpFilter::NotYet(text(&of.r#type))
        }
    })
}

fn path_modifier(full: Option<&str>, prefix: Option<&str>) -> Option<PathModifier> {
    match (full, prefix) {
        (Some(full), _) => Some(PathModifier::Full(full.to_owned())),
        (None, Some(prefix)) => Some(PathModifier::Prefix(prefix.to_owned())),
        (None, None) => None,
    }
}

fn pair(name: &str, value: &str) -> (String, String) {
    (name.to_ascii_lowercase(), value.to_owned())
}

/// A generated enum as the API spells it.
fn text<T: Serialize>(value: &T) -> String {
    match serde_json::to_value(value) {
        Ok(Value::String(text)) => text,
        _ => String::new(),
    }
}
