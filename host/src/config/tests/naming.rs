//! Names are given once, and what is named exists.

use super::{assert_one_problem, problems, read};

#[test]
fn names_and_addresses_are_given_once() {
    let twice = |table: &str| format!("{table}\n{table}");
    for (text, told) in [
        (twice("[[service]]\nname = \"a\"\nendpoints = []"), "5:8 a second service named \"a\" | the first is in line 2"),
        (twice("[[listener]]\nname = \"a\"\nlisten = \"127.0.0.1:0\""), "5:8 a second listener named \"a\""),
        (
            "[[listener]]\nname = \"a\"\nlisten = \"127.0.0.1:80\"\n[[listener]]\nname = \"b\"\nlisten = \"127.0.0.1:80\"".into(),
            "6:10 127.0.0.1:80 is already the address of [[listener]] a",
        ),
        (
            "[[listener]]\nname = \"a\"\nlisten = \"127.0.0.1:9900\"".into(),
            "3:10 127.0.0.1:9900 is already the address of [admin]",
        ),
        (
            "[[service]]\nname = \"a\"\nendpoints = [\n{ address = \"a:1\" },\n{ address = \"a:1\" }]".into(),
            "5:1 [[service]] endpoints[1]: a:1 is an endpoint of this service already | the first is in line 4",
        ),
        (
            "[policy.a]\nplugin = \"a\"\n[chain]\nc = [\"a\", \"a\"]".into(),
            "4:11 [chain] c[1]: policy \"a\" is in this chain already",
        ),
        (twice("[policy.a]"), "duplicate key \"a\""),
    ] {
        let found = problems(&text);
        assert!(found.iter().any(|problem| problem.starts_with(told) || problem.contains(told)), "{told}\n{found:#?}");
    }
}

#[test]
fn every_reference_leads_to_something_the_file_defines() {
    let text = r#"
[[route]]
listener = "ni"
service = "service-x"
chain = "chain-x"
[chain]
messages = ["polciy"]
[policy.policy]
plugin = "p"
[[listener]]
name = "in"
listen = "127.0.0.1:0"
[[channel]]
name = "orders"
broker = "broker-x"
destination = "d"
chain = "mesages"
[[subscription]]
channel = "order"
service = "service-x"
path = "/"
"#;
    let expected = [
        r#"3:12 unknown listener "ni" | did you mean "in"?"#,
        r#"4:11 unknown service "service-x" | the file defines no service"#,
        r#"5:9 unknown chain "chain-x" | known here: messages"#,
        r#"7:13 unknown policy "polciy" | did you mean "policy"?"#,
        r#"15:10 unknown broker "broker-x" | the file defines no broker"#,
        r#"17:9 unknown chain "mesages" | did you mean "messages"?"#,
        r#"19:11 unknown channel "order" | did you mean "orders"?"#,
        r#"20:11 unknown service "service-x" | the file defines no service"#,
    ];
    assert_eq!(problems(text), expected);
}

#[test]
fn a_broken_definition_still_defines_its_name() {
    let text = "[[service]]\nname = \"a\"\n[[route]]\nservice = \"a\"";
    assert_one_problem(text, &["1:1 missing key \"endpoints\" in [[service]]"]);
}

#[test]
fn a_grant_is_of_something_that_can_be_granted() {
    let text = |allow: &str| {
        format!(
            "[[service]]\nname = \"flags\"\nendpoints = []\n[key.signing]\nsecret = {{ file = \"k\" }}\n\
             [policy.p]\nplugin = \"p\"\nallow = [{allow}]"
        )
    };
    let granted = |allow: &str| read(&text(allow)).unwrap().policies["p"].allow.clone().unwrap();
    let all: Vec<String> =
        granted("\"crypto:signing\", \"outbound:flags\", \"endpoints\"").iter().map(ToString::to_string).collect();
    assert_eq!(all, ["crypto:signing", "outbound:flags", "endpoints"]);
    assert_eq!(granted(""), []);
    for (allow, told) in [
        ("\"cripto:signing\"", "8:10 [policy.p] allow[0]: unknown capability \"cripto\" | did you mean \"crypto\"?"),
        (
            "\"files\"",
            "8:10 [policy.p] allow[0]: unknown capability \"files\" | known here: crypto, outbound, endpoints",
        ),
        ("\"endpoints\", \"crypto:sining\"", "8:23 unknown key \"sining\" | did you mean \"signing\"?"),
        ("\"crypto:*\"", "8:10 unknown key \"*\" | known here: signing"),
        ("\"outbound:flag\"", "8:10 unknown service \"flag\" | did you mean \"flags\"?"),
        ("\"crypto\"", "8:10 [policy.p] allow[0]: \"crypto\" does not say which key | write it as in \"crypto:<key>\""),
        (
            "\"outbound:\"",
            "8:10 [policy.p] allow[0]: \"outbound:\" does not say which service | write it as in \"outbound:<service>\"",
        ),
        (
            "\"endpoints:flags\"",
            "8:10 [policy.p] allow[0]: \"endpoints\" takes no name | write \"endpoints\": it is for all",
        ),
        ("\"endpoints\", \"endpoints\"", "8:23 [policy.p] allow[1]: \"endpoints\" is granted already | name it once"),
    ] {
        assert_one_problem(&text(allow), &[told]);
    }
}

#[test]
fn a_name_with_control_characters_is_told_in_one_line() {
    assert_one_problem(
        "[policy.\"a\\n\\u001b\"]\nplugin = \"p\"",
        &[r#"1:9 policy "a\n\u{1b}": the name has a character"#],
    );
    for problem in problems("[policy.\"a\\n\\u001b\"]") {
        assert!(!problem.contains(char::is_control), "{problem:?}");
    }
}
