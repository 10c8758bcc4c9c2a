#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mixdown_faults::readers::feed("tokenizer_pieces", bytes));
