#![no_main]

#[path = "../bodies/openflow.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|input: &[u8]| body::check(input));
