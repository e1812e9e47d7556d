//! Who may call what.

use super::*;

fn with_roles(roles: Value) -> String {
    token(json!({ "roles": roles }))
}

#[test]
fn only_callers_on_the_list_may_call() {
    let policy = verifying(json!({ "callers": ["order-service", "cart-service"] }));
    assert_eq!(policy.needs().request, ["authorization"], "the path does not matter here");
    for (subject, expected) in [
        (json!("order-service"), 200),
        (json!("cart-service"), 200),
        (json!("user-service"), 403),
        (json!("order-service "), 403),
        (json!(""), 403),
        (json!(null), 403),
    ] {
        assert_eq!(status(&policy, &call(&token(json!({ "sub": subject })))), expected, "{subject}");
    }
    assert_eq!(status(&verifying(json!({ "callers": [] })), &call(&token(json!({})))), 403, "nobody is nobody");
}

#[test]
fn callers_can_differ_by_method_and_path() {
    let callers = json!({ "/": ["order-service", "ops"], "/admin": ["ops"], "POST /payments": ["order-service"] });
    let policy = verifying(json!({ "callers": callers }));
    let ask = |who: &str, method: &str, path: &str| status(&policy, &to(method, path, &token(json!({ "sub": who }))));
    assert_eq!(ask("order-service", "GET", "/users/1"), 200);
    assert_eq!(ask("order-service", "GET", "/admin"), 403);
    assert_eq!(ask("ops", "GET", "/admin/users"), 200);
    assert_eq!(ask("ops", "POST", "/payments"), 403);
    assert_eq!(ask("ops", "GET", "/payments"), 200);
    assert_eq!(ask("order-service", "POST", "/payments?dry=1"), 200);
    assert_eq!(ask("stranger", "GET", "/"), 403);
}

#[test]
fn a_role_is_needed_where_a_rule_says_so() {
    let policy = verifying(json!({ "roles": { "DELETE /": ["ADMIN", "OPS"] } }));
    let (admin, user) = (with_roles(json!(["USER", "ADMIN"])), with_roles(json!(["USER"])));
    assert_eq!(status(&policy, &to("DELETE", "/users/1", &admin)), 200);
    assert_eq!(status(&policy, &to("DELETE", "/users/1", &user)), 403);
    assert_eq!(status(&policy, &to("DELETE", "/", &token(json!({})))), 403);
    assert_eq!(status(&policy, &to("GET", "/users/1", &user)), 200, "no rule, no role");
    assert_eq!(status(&policy, &to("DELETE", "/", &with_roles(json!(["OPS"])))), 200);
    assert_eq!(status(&policy, &to("DELETE", "/", &with_roles(json!(["admin"])))), 403);
}

#[test]
fn roles_are_a_list_or_a_string_with_spaces_and_nothing_else() {
    let policy = verifying(json!({ "roles": { "/": ["ADMIN"] } }));
    for (roles, expected) in [
        (json!(["ADMIN"]), 200),
        (json!("USER ADMIN"), 200),
        (json!("ADMINISTRATOR"), 403),
        (json!(["USER ADMIN"]), 403),
        (json!([["ADMIN"]]), 403),
        (json!({ "ADMIN": true }), 403),
        (json!(true), 403),
    ] {
        assert_eq!(status(&policy, &to("GET", "/", &with_roles(roles.clone()))), expected, "{roles}");
    }
}

#[test]
fn the_claim_for_roles_can_be_another_or_a_nested_one() {
    let roles = json!({ "/": ["write"] });
    let scope = verifying(json!({ "roles": roles, "roles-claim": "scope" }));
    assert_eq!(status(&scope, &to("GET", "/", &token(json!({ "scope": "read write" })))), 200);
    assert_eq!(status(&scope, &to("GET", "/", &with_roles(json!(["write"])))), 403);
    let nested = verifying(json!({ "roles": roles, "roles-claim": "/realm_access/roles" }));
    assert_eq!(status(&nested, &to("GET", "/", &token(json!({ "realm_access": { "roles": ["write"] } })))), 200);
    let named = verifying(json!({ "roles": roles, "roles-claim": "https://a.example/roles" }));
    assert_eq!(status(&named, &to("GET", "/", &token(json!({ "https://a.example/roles": ["write"] })))), 200);
}

#[test]
fn roles_come_with_permissions() {
    let policy = verifying(json!({
        "roles": { "DELETE /users": ["user:delete"], "GET /users": ["user:read", "AUDITOR"] },
        "permissions": { "ADMIN": ["user:delete", "user:read"], "USER": ["user:read"] },
    }));
    let ask = |method: &str, role: &str| status(&policy, &to(method, "/users/1", &with_roles(json!([role]))));
    assert_eq!((ask("DELETE", "ADMIN"), ask("GET", "ADMIN")), (200, 200));
    assert_eq!((ask("DELETE", "USER"), ask("GET", "USER")), (403, 200));
    assert_eq!((ask("DELETE", "AUDITOR"), ask("GET", "AUDITOR")), (403, 200));
}

#[test]
fn a_prefix_ends_where_a_segment_does() {
    let policy = verifying(json!({ "roles": { "/admin/": ["ADMIN"] } }));
    let user = token(json!({}));
    for inside in ["/admin", "/admin/", "/admin/users", "/admin?x=/public", "/%61dmin", "/admin/%61"] {
        assert_eq!(status(&policy, &to("GET", inside, &user)), 403, "{inside}");
    }
    for outside in ["/", "/administration", "/admin.html", "/public/admin", "/public?/admin", "/Admin"] {
        assert_eq!(status(&policy, &to("GET", outside, &user)), 200, "{outside}");
    }
}

#[test]
fn the_longest_path_decides_and_then_the_method() {
    let policy = verifying(json!({ "roles": {
        "/": ["A"], "POST /": ["B"], "/a/b": ["C"], "/a": ["D"], "GET /a": ["E"],
    } }));
    for (method, path, role) in [
        ("GET", "/x", "A"),
        ("POST", "/x", "B"),
        ("POST", "/a/b", "C"),
        ("POST", "/a/bc", "D"),
        ("GET", "/a/c", "E"),
        ("HEAD", "/a/c", "E"),
        ("GET", "/a/b/c", "C"),
    ] {
        for other in ["A", "B", "C", "D", "E"] {
            let expected = if other == role { 200 } else { 403 };
            let call = to(method, path, &with_roles(json!([other])));
            assert_eq!(status(&policy, &call), expected, "{method} {path} {other}");
        }
    }
}

#[test]
fn head_is_governed_as_get() {
    let policy = verifying(json!({ "roles": { "GET /secret": ["ADMIN"] } }));
    assert_eq!(status(&policy, &to("HEAD", "/secret", &token(json!({})))), 403);
}

#[test]
fn a_path_that_services_read_differently_is_refused() {
    let policy = verifying(json!({ "roles": { "/admin": ["ADMIN"] } }));
    let admin = with_roles(json!(["ADMIN"]));
    for path in [
        "//admin",
        "/public/../admin",
        "/./admin",
        "/public/%2e%2e/admin",
        "/public%2fadmin",
        "/public%2F..%2Fadmin",
        "/admin;x=1",
        "/admin%3bx",
        "/public\\admin",
        "/public%5cadmin",
        "/%2561dmin",
        "/admin%00",
        "/admin%",
        "/admin%4",
        "/admin%zz",
        "/admin%23",
        "/admin%3fx",
        "admin",
        "",
        "http://service/admin",
        "/public//",
    ] {
        assert_eq!(status(&policy, &to("GET", path, &admin)), 403, "{path}");
    }
    for path in ["/a.b", "/a..b", "/...", "/a%20b", "/caf%C3%A9", "/a:b@c", "/users/1/"] {
        assert_eq!(status(&policy, &to("GET", path, &token(json!({})))), 200, "{path}");
    }
    // Where no rule looks at paths they are none of our business.
    assert_eq!(status(&verifying(json!({})), &to("GET", "//a/../b", &token(json!({})))), 200);
}

#[test]
fn what_has_no_path_is_governed_by_the_root() {
    let policy = verifying(json!({ "callers": { "/": ["order-service"], "/admin": ["ops"] } }));
    assert_eq!(status(&policy, &call(&token(json!({})))), 200);
    assert_eq!(status(&policy, &to("OPTIONS", "*", &token(json!({})))), 200);
    assert_eq!(status(&policy, &call(&token(json!({ "sub": "stranger" })))), 403);
}

#[test]
fn rules_hold_for_each_exchange_also_of_a_token_that_is_known() {
    let policy = verifying(json!({ "roles": { "/admin": ["ADMIN"] } }));
    let user = with_roles(json!(["USER"]));
    assert_eq!(status(&policy, &to("GET", "/", &user)), 200);
    assert_eq!(status(&policy, &to("GET", "/admin", &user)), 403);
    assert_eq!(status(&policy, &to("GET", "/", &user)), 200);
}

#[test]
fn targets_that_make_no_sense_are_refused() {
    for target in
        ["", "admin", "DELETE", " /", "delete /", "DELETE  /", "/a//b", "/a/../b", "/a?b", "/a%20", "/a;b", "*"]
    {
        assert_eq!(problem(json!({ "roles": { target: ["A"] } })).pointer(), "/roles", "{target:?}");
    }
    let twice = problem(json!({ "roles": { "/a": ["A"], "/a/": ["B"] } }));
    assert!(twice.message().contains("twice"), "{twice}");
}
