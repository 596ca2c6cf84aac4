//! An installation with a controller name of its own: a process of its own, as the name is.
#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

mod common;

use api::RouteKey;
use common::world::{World, web};
use operator_objects::spec::{GatewayClass, Object};

#[test]
fn several_installations_serve_side_by_side_by_their_controller_names() {
    api::set_controller_name("example.com/second".to_owned()).unwrap();
    assert_eq!(
        api::set_controller_name("example.com/third".to_owned()),
        Err("example.com/second")
    );
    let mut world = World::new();
    assert!(world.translation.class_status("ours").is_none());
    assert!(world.translation.gateway_status(&web()).is_none());
    world.apply(Object::GatewayClass(GatewayClass {
        controller_name: "example.com/second".into(),
        ..common::class("ours", true)
    }));
    assert!(world.translation.class_status("ours").is_some());
    let route = world.translation.route_status(&RouteKey::http("a", "app"));
    assert_eq!(
        route.unwrap().parents[0].controller_name,
        "example.com/second"
    );
}
