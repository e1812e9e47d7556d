//! Hooks are called the shorter way.

use std::fs;

use weir::plugin::shortcut::shortened;
use weir_tests::weir::{guests_directory, plugins_directory};

#[test]
fn what_linkers_make_of_a_policy_gets_the_shorter_way() {
    let mut files = 0;
    for directory in [plugins_directory(), guests_directory()] {
        for file in fs::read_dir(directory).expect("`cargo xtask test` builds the plugins") {
            let file = file.expect("an entry").path();
            if file.extension().is_some_and(|extension| extension == "wasm") {
                let component = fs::read(&file).expect("the file is read");
                assert!(shortened(&component).is_some(), "{} gets none", file.display());
                files += 1;
            }
        }
    }
    assert!(files >= 8, "{files}");
}

#[test]
fn what_is_laid_out_otherwise_is_left_as_it_is() {
    assert!(shortened(b"").is_none());
    assert!(shortened(b"\0asm\x0d\0\x01\0").is_none(), "it has no hooks");
    assert!(shortened(b"\0asm\x01\0\0\0").is_none(), "it is no component");
}
