//! What one configuration says of services and another does not.

use crate::config::Service;
use std::collections::HashMap;
use std::sync::Arc;

/// From one configuration to the next.
#[derive(Debug, Default, PartialEq)]
pub struct Changes<'a> {
    /// New, or not what they were.
    pub changed: Vec<&'a Arc<Service>>,
    pub gone: Vec<&'a Arc<Service>>,
}

impl<'a> Changes<'a> {
    /// Looks into those services only that are not the very same in both, at their beginnings or ends.
    pub fn between(before: &'a [Arc<Service>], after: &'a [Arc<Service>]) -> Self {
        let same = |(one, other): &(&Arc<Service>, &Arc<Service>)| Arc::ptr_eq(one, other);
        let start = before.iter().zip(after).take_while(same).count();
        let (before, after) = (before.get(start..).unwrap_or_default(), after.get(start..).unwrap_or_default());
        let end = before.iter().rev().zip(after.iter().rev()).take_while(same).count();
        let middle = |all: &'a [Arc<Service>]| all.iter().take(all.len() - end);
        let mut known: HashMap<&str, &Arc<Service>> =
            middle(before).map(|service| (service.name.as_str(), service)).collect();
        let is_new = |service: &&'a Arc<Service>| {
            let known = known.remove(service.name.as_str());
            known.is_none_or(|known| !Arc::ptr_eq(known, service) && known != *service)
        };
        let changed = middle(after).filter(is_new).collect();
        Self { changed, gone: known.into_values().collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn services(text: &str) -> Arc<[Arc<Service>]> {
        let one = |word: &str| {
            let (name, address) = word.split_once('@').unwrap();
            format!("[[service]]\nname = \"{name}\"\nendpoints = [{{ address = \"{address}:1\" }}]\n")
        };
        let text: String = text.split_whitespace().map(one).collect();
        config::parse(&text, "config.toml".as_ref()).unwrap().services
    }

    #[test]
    fn what_changed_is_found_by_name_wherever_it_stands() {
        for (before, after, changed, gone) in [
            ("a@1 b@2", "a@1 b@2", "", ""),
            ("a@1 b@2 c@3", "c@3 a@1 b@2", "", ""),
            ("a@1 b@2 c@3", "a@1 b@9 c@3", "b", ""),
            ("a@1 b@2 c@3", "c@3 b@9 d@4", "b d", "a"),
            ("", "a@1", "a", ""),
            ("a@1 b@2", "", "", "a b"),
        ] {
            let (before, after) = (services(before), services(after));
            let changes = Changes::between(&before, &after);
            let names = |services: &[&Arc<Service>]| {
                let mut names: Vec<&str> = services.iter().map(|service| service.name.as_str()).collect();
                names.sort_unstable();
                names.join(" ")
            };
            assert_eq!((names(&changes.changed).as_str(), names(&changes.gone).as_str()), (changed, gone));
        }
    }
}
