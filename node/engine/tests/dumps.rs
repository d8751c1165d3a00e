//! What DUMP writes, RESTORE reads.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test ends where its claim does")]

mod common;

use common::writes::command;
use common::{NOW, digests, engine, engine_seeded, execute, execute_raw, words};
use proptest::prelude::*;
use ringmaster_engine::Protocol;
use ringmaster_ring::Slot;

/// The bytes of a reply that is one bulk string.
fn bulk(reply: &[u8]) -> Vec<u8> {
    let end = reply.windows(2).position(|pair| pair == b"\r\n").unwrap() + 2;
    assert_eq!(reply[0], b'$');
    reply[end..reply.len() - 2].to_vec()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn a_value_survives_its_dump(writes in prop::collection::vec(command(), 0..120)) {
        let (from, to) = (engine(), engine_seeded(99));
        for line in &writes {
            execute(&from, &words(line), NOW, Protocol::Resp2);
        }
        for key in Slot::all().flat_map(|slot| from.keys_in_slot(slot, usize::MAX)) {
            let ask = |name: &str| execute_raw(&from, &[name.as_bytes().to_vec(), key.clone()], NOW, Protocol::Resp2).1;
            let payload = bulk(&ask("DUMP"));
            let expires_at = String::from_utf8(ask("PEXPIRETIME")).unwrap();
            let expires_at = expires_at.trim_start_matches(':').trim_end().replace("-1", "0");
            let restore = [b"RESTORE".to_vec(), key, expires_at.into_bytes(), payload, b"ABSTTL".to_vec()];
            prop_assert_eq!(execute(&to, &restore, NOW, Protocol::Resp2).1, "OK");
        }
        prop_assert_eq!(digests(&to), digests(&from));
    }
}
