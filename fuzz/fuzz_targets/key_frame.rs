#![no_main]

#[path = "../bodies/key_frame.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|input: &[u8]| body::check(input));
