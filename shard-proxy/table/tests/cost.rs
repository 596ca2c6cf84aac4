//! Bounds on memory and time, measured as the example does. The only test of its binary: the allocator counts all of it.

#[path = "../examples/cost.rs"]
#[allow(dead_code)] // the example's own `main`
mod cost;

#[test]
fn a_table_stays_small_a_change_cheap_and_a_match_free_of_allocations() {
    let hosts = cost::hosts(10_000);
    let paths = cost::paths(5_000);
    for (title, cost) in [("hosts", &hosts), ("paths", &paths)] {
        assert_eq!(cost.match_allocations, 0, "{title}");
        assert!(cost.route_bytes <= 1_400, "{title}: {}", cost.route_bytes);
        // Without optimisation on a busy machine; a table that is copied whole takes more than that by far.
        assert!(
            cost.change.as_micros() <= 1_000,
            "{title}: {:?}",
            cost.change
        );
    }
}
