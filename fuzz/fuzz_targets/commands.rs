//! Commands against plain models of the types: every reply is what the model says, and a copy that was sent the records has the same data.

#![no_main]

mod model;

use libfuzzer_sys::fuzz_target;
use model::{Model, Source};
use ringmaster_engine::{Ctx, Engine, EngineConfig, Protocol, ReplyBuf, UnixMs, lookup};
use ringmaster_ring::Slot;

fuzz_target!(|input: &[u8]| {
    let config = || EngineConfig { hash_seed: [3, 4], ..EngineConfig::default() };
    let (engine, copy) = (Engine::new(config()), Engine::new(config()));
    let ctx = Ctx { now: UnixMs(1_700_000_000_000), db: 0, permit: &|_| true };
    let mut source = Source(input);
    let mut model = Model::default();
    while let Some((args, expected)) = model.step(&mut source) {
        let args: Vec<&[u8]> = args.iter().map(Vec::as_slice).collect();
        let spec = lookup(args[0]).expect("a command");
        let mut reply = ReplyBuf::new(Protocol::Resp2);
        engine.execute(spec, &args, &ctx, &mut reply);
        expected.check(reply.as_bytes(), &args);
    }
    assert_eq!(engine.key_count(), model.len() as u64);
    while let Some(batch) = engine.log().read_after(copy.log().end().seq, 100).expect("the log is long enough") {
        copy.apply(&batch).expect("records fit");
    }
    for slot in Slot::all() {
        assert_eq!(engine.slot_digest(slot), copy.slot_digest(slot), "slot {slot}");
    }
    let mut reply = ReplyBuf::new(Protocol::Resp2);
    engine.debug_reload(&ctx, &mut reply);
    assert_eq!(reply.as_bytes(), b"+OK\r\n", "every value survives being dumped and restored");
});
