//! Many services: what changes is touched, and nothing else.

use std::sync::Arc;

use http::{HeaderMap, Method};
use weir::service::Service;
use weir::snapshot::{Route, Snapshot};
use weir_tests::client::{Client, get};
use weir_tests::scale::shape::{self, Shape};
use weir_tests::upstream::{Behaviour, Upstream};
use weir_tests::weir::{Setup, Weir};

type Result<T = ()> = anyhow::Result<T>;

/// Enough for whatever takes time for each of them to show, in a build that is not optimised.
const MANY: u32 = 2000;

fn versions(weir: &Weir) -> Vec<(Arc<Service>, u64)> {
    weir.node().services.all().into_iter().map(|service| (service.clone(), service.version())).collect()
}

fn route<'a>(snapshot: &'a Snapshot, host: &str) -> Option<&'a Arc<Route>> {
    snapshot.route("in", host, "/", &Method::GET, &HeaderMap::new())
}

/// Hosts whose routes are not the very same in both.
fn new_routes(before: &Snapshot, after: &Snapshot) -> Vec<String> {
    let same = |host: &str| match (route(before, host), route(after, host)) {
        (Some(before), Some(after)) => Arc::ptr_eq(before, after),
        (before, after) => before.is_none() && after.is_none(),
    };
    (0..=MANY).map(shape::name).filter(|host| !same(host)).collect()
}

fn same_policies(before: &Snapshot, after: &Snapshot) -> bool {
    before.policies.len() == after.policies.len()
        && before.policies.values().zip(after.policies.values()).all(|(one, other)| Arc::ptr_eq(one, other))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_one_endpoint_touches_one_service() -> Result {
    let weir = Shape::of(MANY).setup(9, shape::address(0xf0_0000, 9)).start();
    let (before, known) = (weir.node().snapshot(), versions(&weir));
    assert_eq!((before.config.services.len(), known.len()), (MANY as usize + 1, MANY as usize + 1));

    weir.edit_live(&shape::address(70, 9).to_string(), "127.99.0.1:9").await;
    let after = weir.node().snapshot();
    let others = before.config.services.iter().zip(after.config.services.iter());
    let read_again = others.filter(|(one, other)| !Arc::ptr_eq(one, other));
    assert_eq!(read_again.map(|(_, other)| other.name.as_str()).collect::<Vec<_>>(), ["service-7"]);
    assert_eq!(after.changed_services, [Arc::from("service-7")]);
    for ((service, before), (same, after)) in known.iter().zip(versions(&weir)) {
        assert!(Arc::ptr_eq(service, &same), "a service is the same for ever");
        assert_eq!(after - before, u64::from(&*service.name == "service-7"), "{}", service.name);
    }
    assert!(Arc::ptr_eq(&before.routes, &after.routes), "no route changed");
    assert!(same_policies(&before, &after), "no policy changed");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_that_stays_is_the_very_same_whatever_comes_beside_it() -> Result {
    let weir = Shape::of(MANY).setup(9, shape::address(0xf0_0000, 9)).start();
    let known = versions(&weir);
    let mut before = weir.node().snapshot();
    let section = |number| format!("match = {{ host = \"{}\" }}\nservice", shape::name(number));
    for (from, to, changed) in [
        (section(7), section(7).replace(" }", ", methods = [\"GET\"] }"), vec!["service-7".to_owned()]),
        ("[[service]]\nname = \"service-9\"".to_owned(), "[[route]]\nmatch = { host = \"service-2000\" }\nservice = \"service-1\"\n[[service]]\nname = \"service-9\"".to_owned(), vec!["service-2000".to_owned()]),
    ] {
        weir.edit_live(&from, &to).await;
        let after = weir.node().snapshot();
        assert_eq!(new_routes(&before, &after), changed);
        assert!(after.changed_services.is_empty(), "no service changed");
        before = after;
    }
    assert!(known.iter().zip(versions(&weir)).all(|(before, after)| before.1 == after.1), "no service changed");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_is_told_of_the_services_that_it_picks_for_and_again_of_those_that_changed() -> Result {
    let upstream = Upstream::start(Behaviour::echo()).await?;
    let mut setup = Setup::new().workers(1).policy("balance", "load-balance", "{ algorithm = \"round-robin\" }");
    setup = setup.toml("[chain]\nc = [\"balance\"]");
    for number in 0..200 {
        setup = setup.service_with(&shape::name(number), &[upstream.address()], "http1", "chain = \"c\"");
    }
    let weir = setup.start();
    let mut client = Client::http1(weir.address()).await?;
    let mut told_after_calls = async || {
        for number in [3, 4, 5, 4, 3] {
            let response = client.send(get(&shape::name(number), "/")?).await?;
            assert_eq!(response.status, 200, "{response:?}");
        }
        let told = weir.metric("weir_plugin_hook_calls_total{policy=\"balance\",hook=\"on-endpoints\"}").await;
        anyhow::Ok(told.unwrap_or_default())
    };
    assert_eq!(told_after_calls().await?, 3.0, "three services of 200 are called");
    let endpoint = format!("{{ address = \"{}\" }}", upstream.address());
    let of = |number| format!("name = \"{}\"\nprotocol = \"http1\"\nendpoints = [", shape::name(number));
    for number in [4, 100] {
        weir.edit_live(
            &format!("{}{endpoint}", of(number)),
            &format!("{}{endpoint}, {{ address = \"{}\" }}", of(number), "127.0.0.1:9"),
        )
        .await;
        weir.edit_live(
            &format!("{}{endpoint}, {{ address = \"127.0.0.1:9\" }}", of(number)),
            &format!("{}{endpoint}", of(number)),
        )
        .await;
    }
    assert_eq!(told_after_calls().await?, 4.0, "of those three one has changed, twice, and is told once");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_workers_have_let_go_of_is_freed() -> Result {
    let upstream = Upstream::start(Behaviour::echo()).await?;
    let weir = Setup::new().service("one", &[upstream.address()]).start();
    let endpoint = upstream.address().to_string();
    for weight in 1..10 {
        let weights = [weight, weight + 1].map(|weight| format!("{{ address = \"{endpoint}\", weight = {weight} }}"));
        match weight {
            1 => weir.edit_live(&format!("{{ address = \"{endpoint}\" }}"), &weights[1]).await,
            _ => weir.edit_live(&weights[0], &weights[1]).await,
        }
        let response = weir_tests::client::fetch(weir.address(), "one", "/").await?;
        assert_eq!(response.status, 200);
    }
    weir.until("one generation is left", async || weir.metric("weir_live_generations").await == Some(1.0)).await;
    Ok(())
}
