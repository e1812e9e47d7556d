use weir_sdk::prelude::*;

#[derive(Deserialize)]
struct Mine<T> {
    value: T,
}

fn main() {}
