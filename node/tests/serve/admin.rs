//! What an administrator asks of and does to clients.

use std::time::{Duration, Instant};

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
