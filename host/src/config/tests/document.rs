//! What stays the same in a file that changes is not read again.

use super::*;

fn text(services: impl IntoIterator<Item = usize>, weight: usize) -> String {
    let mut text = "[chain]\nx = []\n".to_owned();
    for number in services {
        let weight = if number == 7 { weight } else { 1 };
        text.push_str(&format!(
            "[[service]]\nname = \"s{number}\"\nendpoints = [{{ address = \"h:{}\", weight = {weight} }}]\n[[route]]\nservice = \"s{number}\"\n",
            number + 1
        ));
    }
    text
}

/// Which services of the second configuration are the very same as in the first, by name.
fn kept(before: &Config, after: &Config) -> Vec<String> {
    let is_kept = |service: &&Arc<Service>| before.services.iter().any(|other| Arc::ptr_eq(service, other));
    after.services.iter().filter(is_kept).map(|service| service.name.clone()).collect()
}

#[test]
fn services_and_routes_whose_text_stays_are_the_very_same() {
    let file = Path::new("config.toml");
    let mut document = Document::default();
    document.update(&text(0..20, 1), file).unwrap();
    let first = document.config().clone();

    document.update(&text(0..20, 2), file).unwrap();
    let changed = document.config().clone();
    assert_eq!(changed.services[7].endpoints[0].weight, 2);
    assert_eq!(kept(&first, &changed).len(), 19);
    assert!(!kept(&first, &changed).contains(&"s7".to_owned()));
    assert!(Arc::ptr_eq(&first.routes, &changed.routes), "no route changed");

    document.update(&text((0..20).rev().chain([20]), 2), file).unwrap();
    let moved = document.config().clone();
    assert_eq!((kept(&changed, &moved).len(), moved.services.len()), (20, 21));

    document.update(&format!("# a comment\n{}", text(3..20, 2)), file).unwrap();
    assert_eq!(kept(&moved, document.config()).len(), 17);
}

#[test]
fn what_a_changed_section_gives_and_uses_is_looked_at() {
    let file = Path::new("config.toml");
    let good = text(0..20, 1);
    for (from, to, problem) in [
        ("name = \"s4\"", "name = \"s5\"", "config.toml:29:8: a second service named \"s5\""),
        ("[[route]]\nservice = \"s4\"", "[[route]]\nservice = \"s40\"", "config.toml:27:11: unknown service \"s40\""),
        ("service = \"s4\"\n", "service = \"s4\"\nchain = \"y\"\n", "config.toml:28:9: unknown chain \"y\""),
        ("x = []", "y = []\n[[route]]\nservice = \"s1\"\nchain = \"x\"", "config.toml:5:9: unknown chain \"x\""),
    ] {
        let mut document = Document::default();
        document.update(&good, file).unwrap();
        let bad = good.replacen(from, to, 1);
        let problems = document.update(&bad, file).unwrap_err();
        assert!(problems.to_string().contains(problem), "{problems}");
        assert_eq!(document.text(), good);
        document.update(&good, file).unwrap();
    }
}
