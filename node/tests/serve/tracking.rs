//! Clients that keep what they read, and those that watch what happens to keys.

use crate::harness::{Client, Node};

fn resp3(node: &Node) -> Client {
    let mut client = node.connect();
    client.ask("HELLO 3");
    client
}

#[test]
fn who_has_read_a_key_is_told_once_that_it_changed() {
    let node = Node::primary();
    let (mut reader, mut writer) = (resp3(&node), node.connect());
    assert_eq!(reader.ask("CLIENT TRACKING ON"), "OK");
    writer.ask("SET b 1");
    reader.expect_silence();
    assert_eq!(reader.ask("GET b"), "1");
    assert_eq!(reader.ask("MGET {b}1 {b}2"), "[nil nil]");
    writer.ask("SET b 2");
    assert_eq!(reader.reply(), "[invalidate [b]]");
    writer.ask("SET b 3");
    reader.expect_silence();
    writer.ask("HSET {b}2 f v");
    assert_eq!(reader.reply(), "[invalidate [{b}2]]");
    reader.ask("GET b");
    writer.ask("FLUSHALL");
    assert_eq!(reader.reply(), "[invalidate nil]");
    reader.ask("GET b");
    assert_eq!(reader.ask("SET b 4"), "OK");
    assert_eq!(reader.reply(), "[invalidate [b]]", "of its own");
    assert_eq!(reader.ask("CLIENT TRACKING OFF"), "OK");
    reader.ask("GET b");
    writer.ask("SET b 5");
    reader.expect_silence();
}

#[test]
fn prefixes_options_and_redirections_are_kept() {
    let node = Node::primary();
    let (mut client, mut writer) = (resp3(&node), node.connect());
    assert_eq!(client.ask("CLIENT TRACKING ON BCAST PREFIX b: PREFIX {b} NOLOOP"), "OK");
    writer.ask("MSET b 1 {b}x 1");
    assert_eq!(client.reply(), "[invalidate [{b}x]]");
    client.ask("SET {b}x 2");
    client.expect_silence();
    assert_eq!(client.ask("CLIENT TRACKINGINFO"), "[flags [on bcast noloop] redirect 0 prefixes [b: {b}]]");
    client.ask("CLIENT TRACKING OFF");

    assert_eq!(client.ask("CLIENT TRACKING ON OPTIN"), "OK");
    client.ask("GET b");
    writer.ask("SET b 2");
    client.expect_silence();
    assert_eq!(client.ask("CLIENT CACHING YES"), "OK");
    client.ask("GET b");
    writer.ask("SET b 3");
    assert_eq!(client.reply(), "[invalidate [b]]");

    // Through another connection, in the old protocol.
    let (mut old, mut listener) = (node.connect(), node.connect());
    let id = listener.ask("CLIENT ID");
    listener.ask("SUBSCRIBE __redis__:invalidate");
    assert_eq!(old.ask(&format!("CLIENT TRACKING ON REDIRECT {id}")), "OK");
    assert_eq!(old.ask("CLIENT GETREDIR"), id);
    old.ask("GET b");
    writer.ask("SET b 4");
    assert_eq!(listener.reply(), "[message __redis__:invalidate [b]]");
    for (line, error) in [
        ("CLIENT TRACKING ON PREFIX x", "-ERR PREFIX option requires BCAST mode to be enabled"),
        ("CLIENT TRACKING ON OPTIN OPTOUT", "-ERR You can't specify both OPTIN mode and OPTOUT mode"),
        ("CLIENT TRACKING ON REDIRECT 99999", "-ERR The client ID you want redirect to does not exist"),
        ("CLIENT TRACKING MAYBE", "-ERR syntax error"),
    ] {
        assert_eq!(old.ask(line), error);
    }
}

#[test]
fn a_change_of_role_makes_caches_void() {
    let mut node = Node::primary();
    let mut reader = resp3(&node);
    reader.ask("CLIENT TRACKING ON");
    reader.ask("GET b");
    node.hand_over();
    assert_eq!(reader.reply(), "[invalidate nil]");
}

#[test]
fn what_happens_to_keys_can_be_listened_to() {
    let node = Node::primary();
    let (mut listener, mut client) = (node.connect(), node.connect());
    assert_eq!(client.ask("CONFIG GET notify-keyspace-events"), "[notify-keyspace-events ]");
    assert_eq!(client.ask("CONFIG SET notify-keyspace-events KEA"), "OK");
    assert_eq!(client.ask("CONFIG GET notify-keyspace-events"), "[notify-keyspace-events AKE]");
    listener.ask("PSUBSCRIBE __keyevent@0__:*");
    for (line, events) in [
        ("SET b 1", &["set b"][..]),
        ("SET b 1 EX 100", &["set b", "expire b"]),
        ("INCR b", &["incrby b"]),
        ("PERSIST b", &["persist b"]),
        ("RENAME b {b}2", &["rename_from b", "rename_to {b}2"]),
        ("RPUSH {b}l x y z", &["rpush {b}l"]),
        ("LPOP {b}l 3", &["lpop {b}l", "del {b}l"]),
        ("HSET {b}h f 1 g 2", &["hset {b}h"]),
        ("ZADD {b}z 1 m", &["zadd {b}z"]),
        ("SADD {b}s m n", &["sadd {b}s"]),
        ("DEL {b}2", &["del {b}2"]),
        ("GET none{b}", &[]),
        ("SET {b}e 1 PX 1", &["set {b}e", "expire {b}e"]),
    ] {
        client.ask(line);
        let mut heard = Vec::new();
        for _ in events {
            let message = listener.reply();
            let rest = message.strip_prefix("[pmessage __keyevent@0__:* __keyevent@0__:").unwrap().to_owned();
            heard.push(rest.strip_suffix(']').unwrap().to_owned());
        }
        heard.sort();
        let mut expected = events.to_vec();
        expected.sort_unstable();
        assert_eq!(heard, expected, "{line}");
    }
    listener.expect_silence();
    assert_eq!(client.ask("CONFIG SET notify-keyspace-events q").split(' ').next(), Some("-ERR"));
    assert_eq!(client.send_args(&[b"CONFIG", b"SET", b"notify-keyspace-events", b""]).reply(), "OK");
    client.ask("SET b 1");
    listener.expect_silence();
}
