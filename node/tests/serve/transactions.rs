//! MULTI, EXEC and WATCH, also while the member's role changes.

use ringmaster_replica::Phase;
use ringmaster_ring::Seq;

use crate::harness::Node;

#[test]
fn a_transaction_is_one_record_and_one_reply() {
    let node = Node::primary();
    let mut client = node.connect();
    assert_eq!(client.ask("MULTI"), "OK");
    assert_eq!(client.ask("INCR b"), "QUEUED");
    assert_eq!(client.ask("PING"), "QUEUED");
    assert_eq!(client.ask("SET {b}2 x"), "QUEUED");
    assert_eq!(client.ask("CLIENT GETNAME"), "QUEUED");
    assert_eq!(node.engine.log().end().seq, Seq(0), "nothing happens before EXEC");
    assert_eq!(client.ask("EXEC"), "[1 PONG OK nil]");
    assert_eq!(node.engine.log().end().seq, Seq(1));
    assert_eq!(client.ask("EXEC"), "-ERR EXEC without MULTI");
    assert_eq!(client.ask("DISCARD"), "-ERR DISCARD without MULTI");
}

#[test]
fn a_request_that_cannot_be_kept_spoils_the_transaction() {
    let node = Node::primary();
    let mut client = node.connect();
    const ABORTED: &str = "-EXECABORT Transaction discarded because of previous errors.";
    for (bad, error) in [
        ("NOSUCH", "-ERR unknown command 'NOSUCH', with args beginning with: "),
        ("GET", "-ERR wrong number of arguments for 'get' command"),
        ("GET foo", "-MOVED 12182 127.0.0.1:7003"),
        ("MGET b foo", "-CROSSSLOT Keys in request don't hash to the same slot"),
    ] {
        assert_eq!(client.ask("MULTI"), "OK");
        assert_eq!(client.ask("INCR b"), "QUEUED");
        assert_eq!(client.ask(bad), error);
        assert_eq!(client.ask("EXEC"), ABORTED);
    }
    assert_eq!(client.ask("MULTI"), "OK");
    assert_eq!(client.ask("MULTI"), "-ERR Command 'multi' not allowed inside a transaction");
    assert_eq!(client.ask("WATCH b"), "-ERR Command 'watch' not allowed inside a transaction");
    assert_eq!(client.ask("SET b 1"), "QUEUED");
    assert_eq!(client.ask("SET a 1"), "-MOVED 15495 127.0.0.1:7003");
    assert_eq!(client.ask("DISCARD"), "OK");
    assert_eq!(client.ask("MULTI"), "OK");
    assert_eq!(client.ask("SET b 1"), "QUEUED");
    assert_eq!(client.ask("SET c 1"), "QUEUED", "each in a slot served here");
    assert_eq!(client.ask("EXEC"), "-CROSSSLOT Keys in request don't hash to the same slot");
    assert_eq!(node.engine.log().end().seq, Seq(0));
}

#[test]
fn a_watched_key_that_changes_stops_the_transaction() {
    let node = Node::primary();
    let (mut client, mut other) = (node.connect(), node.connect());
    assert_eq!(client.ask("WATCH b"), "OK");
    assert_eq!(other.ask("SET b 1"), "OK");
    assert_eq!(client.ask("MULTI"), "OK");
    assert_eq!(client.ask("SET b 2"), "QUEUED");
    assert_eq!(client.ask("EXEC"), "nil");
    assert_eq!(client.ask("GET b"), "1");
    assert_eq!(client.ask("WATCH b"), "OK");
    assert_eq!(client.ask("UNWATCH"), "OK");
    assert_eq!(other.ask("SET b 3"), "OK");
    assert_eq!(client.ask("MULTI"), "OK");
    assert_eq!(client.ask("SET b 4"), "QUEUED");
    assert_eq!(client.ask("EXEC"), "[OK]");
}

#[test]
fn a_transaction_at_a_frozen_primary_waits_and_then_is_executed_once_or_redirected() {
    for goes_on in [true, false] {
        let mut node = Node::primary();
        let mut client = node.connect();
        assert_eq!(client.ask("MULTI"), "OK");
        assert_eq!(client.ask("INCR b"), "QUEUED");
        node.publish(|state| state.phase = Phase::Frozen);
        client.send("EXEC").expect_silence();
        assert_eq!(node.engine.log().end().seq, Seq(0));
        if goes_on {
            node.publish(|state| state.phase = Phase::Primary);
            assert_eq!(client.reply(), "[1]");
        } else {
            node.hand_over_in_ring();
            node.publish(|state| state.phase = Phase::Copy);
            assert_eq!(client.reply(), "-MOVED 3300 127.0.0.1:7002");
            assert_eq!(client.ask("EXEC"), "-ERR EXEC without MULTI");
        }
    }
}

#[test]
fn a_transaction_that_only_read_is_executed_again_and_one_that_wrote_is_not() {
    let mut node = Node::primary();
    node.publish(|state| state.committed = Seq(0));
    let (mut writer, mut reader) = (node.connect(), node.connect());
    writer.send("MULTI").send("INCR b").send("GET b").send("EXEC");
    assert_eq!([writer.reply(), writer.reply(), writer.reply()], ["OK", "QUEUED", "QUEUED"]);
    writer.expect_silence();
    reader.send("MULTI").send("GET b").send("ECHO x").send("EXEC").send("PING");
    assert_eq!([reader.reply(), reader.reply(), reader.reply()], ["OK", "QUEUED", "QUEUED"]);
    reader.expect_silence();
    node.publish(|state| state.phase = Phase::Frozen);
    node.publish(|state| {
        state.phase = Phase::Primary;
        state.epoch = state.epoch.next();
        state.committed = Seq(1);
    });
    assert_eq!(writer.reply(), "[1 1]");
    assert_eq!(reader.reply(), "[1 x]");
    assert_eq!(reader.reply(), "PONG");
    assert_eq!(node.engine.log().end().seq, Seq(1));
}

#[test]
fn a_watch_does_not_survive_a_change_of_role() {
    let mut node = Node::primary();
    let mut client = node.connect();
    assert_eq!(client.ask("WATCH b"), "OK");
    node.publish(|state| state.phase = Phase::Frozen);
    node.publish(|state| {
        state.phase = Phase::Primary;
        state.epoch = state.epoch.next();
    });
    assert_eq!(client.ask("MULTI"), "OK");
    assert_eq!(client.ask("SET b 1"), "QUEUED");
    assert_eq!(client.ask("EXEC"), "nil");
}

#[test]
fn commands_of_a_transaction_see_what_those_before_them_did_to_scripts_and_connection() {
    let node = Node::primary();
    let mut client = node.connect();
    let id = "930269f31393d0be681588b6ab08dccee7d6bb67";
    client.ask("MULTI");
    for line in [
        "EVAL return(1) 0",
        &format!("SCRIPT EXISTS {id}"),
        "SCRIPT FLUSH",
        &format!("EVALSHA {id} 0"),
        "SCRIPT LOAD return(1)",
        &format!("EVALSHA {id} 0"),
        "CLIENT SETNAME me",
        "CLIENT GETNAME",
    ] {
        assert_eq!(client.ask(line), "QUEUED");
    }
    let unknown = "-NOSCRIPT No matching script.";
    assert_eq!(client.ask("EXEC"), format!("[1 [1] OK {unknown} {id} 1 OK me]"));
    assert_eq!(node.engine.log().end().seq, Seq(1), "one record");
}

#[test]
fn a_transaction_that_is_not_executed_leaves_its_connection_as_it_was() {
    let node = Node::primary();
    let (mut client, mut other) = (node.connect(), node.connect());
    assert_eq!(client.ask("WATCH b"), "OK");
    assert_eq!(other.ask("SET b 1"), "OK");
    for line in ["MULTI", "CLIENT SETNAME me", "SCRIPT FLUSH", "GET b"] {
        client.ask(line);
    }
    let before = node.engine.log().end();
    assert_eq!(client.ask("EXEC"), "nil");
    assert_eq!(client.ask("CLIENT GETNAME"), "nil");
    assert_eq!(node.engine.log().end(), before);
}

#[test]
fn whatever_is_asked_in_a_transaction_is_answered() {
    let node = Node::with(|config| config.cluster_mode = false);
    let mut client = node.connect();
    for line in [
        "CLIENT TRACKING ON",
        "CLIENT TRACKINGINFO",
        "CLIENT LIST",
        "CLIENT KILL ID 1000000",
        "CLIENT UNBLOCK 1000000",
        "CLUSTER INFO",
        "CLUSTER KEYSLOT b",
        "COMMAND COUNT",
        "CONFIG GET *",
        "CONFIG SET notify-keyspace-events KEA",
        "CONFIG RESETSTAT",
        "ACL LIST",
        "ACL SETUSER someone",
        "INFO",
        "PUBSUB CHANNELS",
        "PUBLISH a x",
        "SPUBLISH a x",
        "ROLE",
        "SCRIPT EXISTS x",
        "SCRIPT KILL",
        "SELECT 0",
        "SLOWLOG GET",
        "UNWATCH",
        "WAIT 0 0",
        "DBSIZE",
    ] {
        assert_eq!(client.ask("MULTI"), "OK");
        assert_eq!(client.ask("SET b 1"), "QUEUED");
        assert_eq!(client.ask(line), "QUEUED", "{line}");
        assert_eq!(client.ask("FLUSHALL"), "QUEUED", "so that it holds all lanes");
        let reply = client.ask("EXEC");
        assert!(reply.starts_with("[OK ") && reply.ends_with(" OK]"), "{line}: {reply}");
    }
}
