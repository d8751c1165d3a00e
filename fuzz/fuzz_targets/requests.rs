//! The bytes of a client: whatever comes, in whatever pieces, gives the same requests or the same error, and nothing else.

#![no_main]

use libfuzzer_sys::fuzz_target;
use ringmaster_engine::{ParseLimits, Parsed, RequestParser};

/// All requests in a stream of which ever longer beginnings are shown, and how it ended.
fn requests(bytes: &[u8], pieces: &[usize], limits: &ParseLimits) -> (Vec<Vec<Vec<u8>>>, String) {
    let mut parser = RequestParser::new();
    let (mut found, mut begin, mut end) = (Vec::new(), 0, 0);
    let mut pieces = pieces.iter().copied().cycle();
    loop {
        match parser.advance(&bytes[begin..end], limits) {
            Ok(Parsed::Complete { consumed }) => {
                assert!(consumed > 0 && begin + consumed <= end, "a request is in what was shown");
                found.push(parser.args(&bytes[begin..end]).map(<[u8]>::to_vec).collect());
                begin += consumed;
            }
            Ok(Parsed::Incomplete) if end == bytes.len() => return (found, "incomplete".into()),
            Ok(Parsed::Incomplete) => end = bytes.len().min(end + pieces.next().unwrap_or(1).max(1)),
            Err(error) => return (found, error.to_string()),
        }
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((&[pieces @ .., flags], bytes)) = input.split_first_chunk::<4>() else { return };
    let limits = ParseLimits { bulk_bytes_max: 1 << 16, args_max: 1 << 10, inline_bytes_max: 1 << 10, ..ParseLimits::AUTHENTICATED };
    let limits = if flags & 1 == 1 { limits.unauthenticated() } else { limits };
    let whole = requests(bytes, &[bytes.len().max(1)], &limits);
    assert_eq!(requests(bytes, &pieces.map(usize::from), &limits), whole, "it does not matter how bytes arrive");
    assert_eq!(requests(bytes, &[1], &limits), whole, "one by one");
    // What was understood is understood again when it is sent as clients do.
    for args in whole.0.iter().filter(|args| !args.is_empty()) {
        let mut wire = format!("*{}\r\n", args.len()).into_bytes();
        for arg in args {
            wire.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
            wire.extend_from_slice(arg);
            wire.extend_from_slice(b"\r\n");
        }
        let limits = ParseLimits { args_max: usize::MAX, bulk_bytes_max: usize::MAX, ..ParseLimits::AUTHENTICATED };
        assert_eq!(requests(&wire, &[7], &limits).0.first(), Some(args));
    }
});
