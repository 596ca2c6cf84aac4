//! A small cluster and its translation.
#![allow(dead_code, clippy::unwrap_used)] // each test file uses some of it; a failed unwrap is a failed test

use api::{GatewayKey, RouteKey};
use api_snapshot::GatewayEntryKey;
use operator_index::Index;
use operator_objects::spec::*;
use operator_translate::status::{Condition, ConditionStatus, condition};
use operator_translate::{Changes, Translation};

use super::*;

/// An index with its translation.
pub(crate) struct World {
    pub(crate) index: Index,
    pub(crate) translation: Translation,
}

impl World {
    /// A Gateway `a/web` with an HTTP listener, a Service, and the route `a/app` to it.
    pub(crate) fn new() -> Self {
        let mut world = Self {
            index: Index::new(),
            translation: Translation::new(),
        };
        world.apply(Object::GatewayClass(class("ours", true)));
        world.apply(Object::Gateway(gateway(
            "a",
            "web",
            "ours",
            vec![listener("http", 80, None)],
        )));
        world.apply(Object::Service(service("a", "app", &[80])));
        world.apply(Object::HttpRoute(app(vec![rule(
            "/",
            vec![to(None, "app", 80)],
        )])));
        world
    }

    pub(crate) fn event(&mut self, event: Event) -> Changes {
        let dirty = self.index.apply(event);
        self.translation.update(&self.index, dirty)
    }

    pub(crate) fn apply(&mut self, object: Object) -> Changes {
        self.event(Event::Apply(object))
    }

    pub(crate) fn reject(&mut self, kind: &str, name: &str, parents: Vec<ParentRef>) -> Changes {
        let rejected = Rejected {
            key: if kind == "GatewayClass" {
                key(kind, "", name)
            } else {
                key(kind, "a", name)
            },
            generation: 7,
            message: "spec.x: unknown field".into(),
            parents,
        };
        self.event(Event::Reject(rejected))
    }

    pub(crate) fn entries(&self) -> Vec<GatewayEntryKey> {
        self.translation.entries(&web()).into_keys().collect()
    }

    pub(crate) fn gateway(&self, type_: &str) -> Condition {
        condition(
            &self.translation.gateway_status(&web()).unwrap().conditions,
            type_,
        )
        .unwrap()
        .clone()
    }

    pub(crate) fn listener(&self, name: &str, type_: &str) -> Option<Condition> {
        let status = self.translation.gateway_status(&web()).unwrap();
        let listener = status
            .listeners
            .iter()
            .find(|listener| listener.name == name)
            .unwrap();
        condition(&listener.conditions, type_).cloned()
    }

    pub(crate) fn route(&self, name: &str, type_: &str) -> Option<Condition> {
        let status = self
            .translation
            .route_status(&RouteKey::http("a", name))
            .unwrap();
        condition(&status.parents[0].conditions, type_).cloned()
    }

    pub(crate) fn attached(&self) -> u32 {
        self.translation.gateway_status(&web()).unwrap().listeners[0].attached_routes
    }
}

pub(crate) fn web() -> GatewayKey {
    GatewayKey::new("a", "web")
}

pub(crate) fn app(rules: Vec<HttpRouteRule>) -> HttpRoute {
    route("a", "app", vec![parent("a", "web", None)], rules)
}

pub(crate) fn check(condition: &Condition, status: ConditionStatus, reason: &str, generation: i64) {
    let got = (
        condition.status,
        condition.reason,
        condition.observed_generation,
    );
    assert_eq!(got, (status, reason, generation), "{}", condition.message);
}
