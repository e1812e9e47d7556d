//! Hooks are called the shorter way.

use std::fs;

use weir::plugin::shortcut::shortened;
use weir_tests::guests;

#[test]
fn what_linkers_make_of_a_policy_gets_the_shorter_way() {
    let files = guests::all_built();
    for file in &files {
        let component = fs::read(file).expect("the file is read");
        assert!(shortened(&component).is_some(), "{} gets none", file.display());
    }
    assert!(files.len() >= 8, "{files:?}");
}

#[test]
fn what_is_laid_out_otherwise_is_left_as_it_is() {
    assert!(shortened(b"").is_none());
    assert!(shortened(b"\0asm\x0d\0\x01\0").is_none(), "it has no hooks");
    assert!(shortened(b"\0asm\x01\0\0\0").is_none(), "it is no component");
}
