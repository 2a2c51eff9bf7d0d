#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| supersync_fuzz::authenticator_data(data));
