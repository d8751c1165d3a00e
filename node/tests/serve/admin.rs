//! What an administrator asks of and does to clients.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ringmaster_node::serve::DebugCommand;

use crate::harness::Node;

#[test]
fn a_pause_holds_commands_back_until_it_ends() {
    let node = Node::primary();
    let (mut admin, mut client) = (node.connect(), node.connect());
    assert_eq!(admin.ask("CLIENT PAUSE 60000 WRITE"), "OK");
    assert_eq!(client.ask("GET b"), "nil");
    client.send("SET b 1").send("GET b").expect_silence();
    assert_eq!(admin.ask("CLIENT UNPAUSE"), "OK");
    assert_eq!((client.reply(), client.reply()), ("OK".into(), "1".into()));
    let began = Instant::now();
    assert_eq!(admin.ask("CLIENT PAUSE 150"), "OK");
    assert_eq!(client.ask("GET b"), "1");
    assert!(began.elapsed() >= Duration::from_millis(140), "{:?}", began.elapsed());
    for (line, error) in [
        ("CLIENT PAUSE x", "-ERR timeout is not an integer or out of range"),
        ("CLIENT PAUSE -1", "-ERR timeout is negative"),
        ("CLIENT PAUSE 1 SOME", "-ERR CLIENT PAUSE mode must be WRITE or ALL"),
    ] {
        assert_eq!(admin.ask(line), error);
    }
}

#[test]
fn clients_are_listed_and_closed_by_what_they_are() {
    let node = Node::primary();
    let (mut admin, mut subscriber, mut worker) = (node.connect(), node.connect(), node.connect());
    subscriber.ask("SUBSCRIBE a");
    worker.ask("CLIENT SETNAME worker");
    worker.send("BLPOP b 0").expect_silence();
    let count = |list: String| list.lines().count();
    assert_eq!(count(admin.ask("CLIENT LIST")), 3);
    assert_eq!(count(admin.ask("CLIENT LIST TYPE pubsub")), 1);
    assert_eq!(count(admin.ask("CLIENT LIST TYPE normal SKIPME yes")), 1);
    let list = admin.ask("CLIENT LIST NAME worker");
    assert!(list.contains("flags=b") && list.contains("cmd=blpop"), "{list}");
    assert!(admin.ask("CLIENT LIST TYPE other").starts_with("-ERR Unknown client type"));
    assert_eq!(admin.ask("CLIENT LIST ID x"), "-ERR Invalid client ID");
    assert_eq!(admin.ask("CLIENT KILL TYPE pubsub"), "1");
    subscriber.expect_closed();
    assert_eq!(admin.ask("CLIENT KILL MAXAGE 1000"), "0");
    assert_eq!(admin.ask("CLIENT KILL NAME worker"), "1");
    worker.expect_closed();
    // Its connection is closed before what it waited for is withdrawn.
    let begin = std::time::Instant::now();
    while node.engine.waiting() > 0 {
        assert!(begin.elapsed() < std::time::Duration::from_secs(5), "it waits on");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

#[test]
fn slow_commands_are_remembered() {
    let node = Node::primary();
    let mut client = node.connect();
    assert_eq!(client.ask("CONFIG SET slowlog-log-slower-than 0 slowlog-max-len 2"), "OK");
    client.ask("SLOWLOG RESET");
    client.ask("RPUSH b 1 2 3");
    client.ask("LRANGE b 0 -1");
    client.ask("KEYS *");
    let entries = client.ask("SLOWLOG GET 1");
    assert!(entries.starts_with("[[") && entries.contains("[KEYS *]"), "{entries}");
    assert_eq!(client.ask("SLOWLOG LEN"), "2");
    assert_eq!(client.ask("CONFIG SET slowlog-log-slower-than -1"), "OK");
    client.ask("SLOWLOG RESET");
    client.ask("KEYS *");
    assert_eq!(client.ask("SLOWLOG GET"), "[]");
    assert_eq!(client.ask("CONFIG GET slowlog-*"), "[slowlog-log-slower-than -1 slowlog-max-len 2]");
}

fn with_debug() -> Node {
    Node::with(|config| (config.cluster_mode, config.debug_command) = (false, DebugCommand::Yes))
}

#[test]
fn debug_is_for_members_that_were_started_with_it() {
    let node = Node::primary();
    assert!(node.connect().ask("DEBUG SLEEP 0").starts_with("-ERR DEBUG command not allowed."));
    let local = Node::with(|config| config.debug_command = DebugCommand::Local);
    assert_eq!(local.connect().ask("DEBUG SLEEP 0"), "OK");
    assert_eq!(local.connect().ask("CONFIG GET enable-debug-command"), "[enable-debug-command local]");
}

#[test]
fn digests_are_those_of_valkey() {
    let node = with_debug();
    let mut client = node.connect();
    assert_eq!(client.ask("DEBUG DIGEST"), "0".repeat(40));
    for words in [
        "SET s hello",
        "SET n 12345",
        "RPUSH l a b 1 -7",
        "SADD u x y 3",
        "SADD i 1 2 3",
        "ZADD z 1 one 0.1 tenth -2.5 neg inf top 1e300 huge 3.14159265358979 pi 1e21 e21 1234567890123456789 big",
        "HSET h f v n 1",
        "XADD x 1-1 a 1 b 2",
        "XADD x 5-0 c 3",
        "SET e gone EX 100000",
    ] {
        client.ask(words);
    }
    client.send_args(&[b"SET", b"b", b""]).reply();
    // As Valkey 9.1.2 says of the same data.
    assert_eq!(
        client.ask("DEBUG DIGEST-VALUE s n b l u i z h x e nosuch"),
        "[36b23a1456b2dce2c3ed252c456761301dba8060 e1cf90774e995ae03de66e8109dc5cb9d9c2dc83 \
         8b3447c33a834b810e3e181b6fd6a2ee1020921c 65139943f97fad1fefacec05b5b8f12557f5b375 \
         415a07507e2348d139f9fd645a024f6be569dd65 2a462a3f51a1db89738ebbeef0c47ce1bbc85246 \
         8adc4aebece630e63beb7b6727410e20fade436a ad9a818d75d51dd3c55d5905f22259a91bbc4b14 \
         399e4603d6d46a82ff4ae306ca4f286e5db30ed5 f018727cd53efd60fcf7b833a11c8b0a8642fbb0 \
         0000000000000000000000000000000000000000]"
    );
    assert_eq!(client.ask("DEBUG DIGEST"), "a99b6e5806bf7a233a52081516bc4a33f9111d10");
    assert_eq!(client.ask("DEBUG RELOAD"), "OK");
    assert_eq!(client.ask("SELECT 3"), "OK");
    assert_eq!(client.ask("SET other v"), "OK");
    assert_eq!(client.ask("DEBUG DIGEST"), "7807eaabc4f9ef1f4339bf228b9c6a387b5c33c4");
}

#[test]
fn debug_says_how_a_key_is_stored_and_turns_expiry_off() {
    let node = with_debug();
    let mut client = node.connect();
    assert_eq!(client.ask("SET k abc PX 1"), "OK");
    assert_eq!(client.ask("SET s abc"), "OK");
    assert_eq!(client.ask("DEBUG OBJECT nosuch"), "-ERR no such key");
    assert!(client.ask("DEBUG OBJECT s").contains(" encoding:embstr serializedlength:4 "));
    assert!(!client.ask("DEBUG OBJECT s FAST").contains("serializedlength"));
    assert_eq!(client.ask("DEBUG SET-ACTIVE-EXPIRE 0"), "OK");
    assert_eq!(client.ask("DEBUG SLEEP 0.01"), "OK");
    let far = ringmaster_engine::UnixMs(u64::MAX);
    assert_eq!(node.engine.expire_cycle(far, 100, &|_| true), 0);
    assert_eq!(client.ask("DEBUG SET-ACTIVE-EXPIRE 1"), "OK");
    assert_eq!(node.engine.expire_cycle(far, 100, &|_| true), 1);
    assert!(client.ask("DEBUG JMAP").starts_with("-ERR unknown subcommand or wrong number of arguments for 'JMAP'."));
    let cluster = Node::with(|config| config.debug_command = DebugCommand::Yes);
    let mut client = cluster.connect();
    assert!(client.ask("DEBUG OBJECT a").starts_with("-MOVED 15495 "), "its slot is elsewhere");
    assert_eq!(client.ask("DEBUG OBJECT b"), "-ERR no such key");
}

#[test]
fn shutdown_is_a_wish_to_be_replaced() {
    let node = Node::primary();
    let mut client = node.connect();
    assert_eq!(client.ask("SHUTDOWN"), "-ERR Errors trying to SHUTDOWN. Check logs.", "there is nobody to ask");
    assert_eq!(client.ask("SHUTDOWN ABORT"), "-ERR No shutdown in progress.");
    let asked = Arc::new(AtomicBool::new(false));
    let (begun, known) = (Arc::clone(&asked), Arc::clone(&asked));
    node.shared.leave_by(move || begun.store(true, Ordering::SeqCst), move || known.load(Ordering::SeqCst));
    for wrong in ["SHUTDOWN foo", "SHUTDOWN SAVE NOSAVE", "SHUTDOWN ABORT NOW"] {
        assert_eq!(client.ask(wrong), "-ERR syntax error");
    }
    assert!(client.ask("SHUTDOWN SAVE").starts_with("-ERR this member keeps no snapshots on disk"));
    assert!(!asked.load(Ordering::SeqCst));
    client.send("SHUTDOWN NOSAVE NOW FORCE").expect_silence();
    assert!(asked.load(Ordering::SeqCst));
    let mut other = node.connect();
    assert_eq!(other.ask("SET b v"), "OK", "it serves until it is replaced");
    assert!(other.ask("SHUTDOWN ABORT").starts_with("-ERR this member has asked to be replaced"));
    let mut node = node;
    node.handle.take().unwrap().shutdown();
    client.expect_closed();
}

#[test]
fn what_the_operator_decides_is_refused_and_says_who_does() {
    let node = Node::primary();
    let mut client = node.connect();
    for words in ["REPLICAOF NO ONE", "SLAVEOF 127.0.0.1 6379"] {
        assert!(client.ask(words).starts_with("-ERR REPLICAOF is not allowed: the operator decides"));
    }
    for words in ["SAVE", "BGSAVE", "BGSAVE SCHEDULE"] {
        assert!(client.ask(words).starts_with("-ERR this member keeps no snapshots on disk"));
    }
    assert_eq!(client.ask("BGSAVE nonsense"), "-ERR syntax error");
    assert!(client.ask("LASTSAVE").parse::<u64>().unwrap() > 1_700_000_000);
    assert!(client.ask("CLUSTER FAILOVER").starts_with("-ERR the ring decides"));
}
