//! Scripts from the side of the data: where their bodies are known.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test ends where its claim does")]

mod common;

use common::{NOW, always, engine, replicate};
use ringmaster_engine::{
    Access, Called, Ctx, Cursor, Engine, Executed, ReplyBuf, ScriptCall, ScriptTxn, lookup, script_id,
};
use ringmaster_ring::Seq;

const BODY: &[u8] = b"return 1";

fn ctx() -> Ctx<'static> {
    Ctx { now: NOW, db: 0, permit: &always }
}

#[test]
fn bodies_travel_in_records_and_in_walks() {
    let (primary, copy, synced) = (engine(), engine(), engine());
    assert_eq!(primary.load_script(BODY, &ctx()), Executed::Replied { after: Seq(1), wrote: true });
    replicate(&primary, &copy);
    assert_eq!(copy.script(&script_id(BODY)).as_deref(), Some(BODY));
    let (mut cursor, mut chunk) = (Cursor::start(), Vec::new());
    while !cursor.is_end() {
        chunk.clear();
        cursor = primary.walk(&cursor, Seq(0), 1000, &mut chunk).unwrap().next;
        synced.apply_walk(&chunk).unwrap();
    }
    assert_eq!(synced.script(&script_id(BODY)).as_deref(), Some(BODY));
    primary.flush_scripts(&ctx());
    replicate(&primary, &copy);
    assert_eq!((copy.script(&script_id(BODY)), copy.scripts_kept()), (None, (0, 0)));
}

#[test]
fn a_new_body_is_a_part_of_its_first_execution_and_old_ones_make_room() {
    let (primary, copy) = (engine(), engine());
    let run = |engine: &Engine, body: &[u8]| {
        let call = ScriptCall { keys: &[b"k"], new_body: Some(body), access: Access::Write };
        let mut script = |txn: &mut ScriptTxn<'_, '_>, reply: &mut ReplyBuf| {
            assert_eq!(txn.call(lookup(b"incr").unwrap(), &[b"incr", b"k"], reply), Called::Replied);
        };
        engine.execute_script(&call, &ctx(), &mut script, &mut ReplyBuf::default())
    };
    primary.load_script(BODY, &ctx());
    for number in 0..600 {
        let body = format!("return {number}");
        assert_eq!(run(&primary, body.as_bytes()), Executed::Replied { after: Seq(number + 2), wrote: true });
    }
    replicate(&primary, &copy);
    assert_eq!(primary.scripts_kept(), copy.scripts_kept());
    assert_eq!(copy.scripts_kept().0, 501, "the 500 newest and the one that was loaded");
    assert!(copy.script(&script_id(BODY)).is_some());
    assert!(copy.script(&script_id(b"return 0")).is_none() && copy.script(&script_id(b"return 599")).is_some());
}

#[test]
fn a_script_that_asks_for_another_lane_begins_again_with_all_before_it_writes() {
    let engine = engine();
    let mut runs = 0;
    let mut script = |txn: &mut ScriptTxn<'_, '_>, reply: &mut ReplyBuf| {
        runs += 1;
        let _ends = txn.call(lookup(b"incr").unwrap(), &[b"incr", b"k"], reply);
    };
    let call = ScriptCall { keys: &[], new_body: Some(BODY), access: Access::Write };
    let mut reply = ReplyBuf::default();
    let executed = engine.execute_script(&call, &ctx(), &mut script, &mut reply);
    assert_eq!(executed, Executed::Replied { after: Seq(1), wrote: true });
    assert_eq!((runs, reply.as_bytes()), (2, &b":1\r\n"[..]));
}
