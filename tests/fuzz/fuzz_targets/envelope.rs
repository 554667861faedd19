//! See `envelope` in `tests/fuzz/entry.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hubnerite::fuzz::envelope(bytes));
