//! A misused macro is told at the author's own line. Each file in `compile-fail/` has one mistake, and beside it what the
//! compiler says. `TRYBUILD=overwrite cargo test -p weir-sdk --test compile-fail` writes that anew.

#[test]
fn misuse_points_at_the_authors_line() {
    trybuild::TestCases::new().compile_fail("tests/compile-fail/*.rs");
}
