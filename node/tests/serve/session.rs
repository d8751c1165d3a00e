//! Commands about the connection and the process.

use redis::Commands;
use ringmaster_node::serve::Replication;
use ringmaster_ring::{CopyStatus, Position, Seq};

use crate::harness::{Node, OTHER};

#[test]
fn an_ordinary_client_reads_and_writes() {
    let node = Node::primary();
    let mut redis = node.redis();
    let () = redis.set("b", "value").unwrap();
    let value: String = redis.get("b").unwrap();
    assert_eq!(value, "value");
    let added: u32 = redis.zadd("{b}recent", "file", 7).unwrap();
    assert_eq!(added, 1);
    let files: Vec<(String, f64)> = redis.zrevrange_withscores("{b}recent", 0, -1).unwrap();
    assert_eq!(files, [("file".to_owned(), 7.0)]);
    let many: Vec<u64> = redis::pipe().incr("{b}n", 1).incr("{b}n", 1).query(&mut redis).unwrap();
    assert_eq!(many, [1, 2]);
}

#[test]
fn nothing_is_served_without_the_password_and_either_of_two_is_right() {
    let node = Node::primary();
    node.shared.acl().set_passwords(["old", "new"]);
    let mut client = node.connect();
    assert_eq!(client.ask("GET b"), "-NOAUTH Authentication required.");
    assert!(client.ask("HELLO 3").starts_with("-NOAUTH HELLO must be called with the client already authenticated"));
    assert_eq!(client.ask("AUTH wrong"), "-WRONGPASS invalid username-password pair or user is disabled.");
    assert_eq!(client.ask("AUTH root new"), "-WRONGPASS invalid username-password pair or user is disabled.");
    assert_eq!(client.ask("AUTH old"), "OK");
    assert_eq!(client.ask("GET b"), "nil");
    assert_eq!(client.ask("RESET"), "RESET");
    assert_eq!(client.ask("GET b"), "-NOAUTH Authentication required.");
    assert!(client.ask("HELLO 2 AUTH default new SETNAME me").contains("proto 2"));
    assert_eq!(client.ask("CLIENT GETNAME"), "me");
    assert_eq!(node.shared.stats().auth_failures, 2);
}

#[test]
fn where_no_password_is_set_giving_one_is_a_mistake() {
    let node = Node::primary();
    assert!(node.connect().ask("AUTH x").starts_with("-ERR AUTH <password> called without any password configured"));
}

#[test]
fn connections_can_be_named_listed_and_killed() {
    let node = Node::primary();
    let (mut one, mut two) = (node.connect(), node.connect());
    assert_eq!(one.ask("CLIENT SETNAME worker"), "OK");
    assert_eq!(one.ask("CLIENT SETINFO LIB-NAME redis-py"), "OK");
    assert_eq!(one.ask("CLIENT SETINFO LIB-VER 8.1"), "OK");
    assert!(
        one.send_args(&[b"CLIENT", b"SETNAME", b"a b"]).reply().starts_with("-ERR Client names cannot contain spaces")
    );
    let id = one.ask("CLIENT ID");
    let list = two.ask("CLIENT LIST");
    assert_eq!(list.lines().count(), 2, "{list}");
    let line = list.lines().find(|line| line.starts_with(&format!("id={id} "))).unwrap();
    for shown in ["name=worker", "cmd=client", "resp=2", "lib-name=redis-py", "lib-ver=8.1", "user=default", "flags=N"]
    {
        assert!(line.split(' ').any(|part| part == shown), "{shown} in {line}");
    }
    assert!(two.ask("CLIENT INFO").contains("cmd=client"));
    assert_eq!(two.ask(&format!("CLIENT KILL ID {id}")), "1");
    one.expect_closed();
    assert_eq!(two.ask("CLIENT KILL 1.2.3.4:5"), "-ERR No such client");
    assert_eq!(two.ask("CLIENT KILL SKIPME no"), "1");
    two.expect_closed();
}

#[test]
fn replies_can_be_turned_off() {
    let node = Node::primary();
    let mut client = node.connect();
    client.send("CLIENT REPLY OFF").send("SET b 1").send("PING").send("CLIENT REPLY ON");
    assert_eq!(client.reply(), "OK", "of CLIENT REPLY ON");
    client.send("CLIENT REPLY SKIP").send("INCR b").send("GET b");
    assert_eq!(client.reply(), "2");
}

#[test]
fn commands_are_described() {
    let node = Node::primary();
    let mut client = node.connect();
    let count: usize = client.ask("COMMAND COUNT").parse().unwrap();
    assert!(count > 100, "{count}");
    assert!(client.ask("COMMAND INFO get").starts_with("[[get 2 [readonly fast] 1 1 1 "));
    assert_eq!(client.ask("COMMAND GETKEYS MSET a 1 b 2"), "[a b]");
    assert_eq!(client.ask("COMMAND LIST FILTERBY PATTERN hget*"), "[hget hgetall]");
    assert!(client.ask("COMMAND DOCS get").contains("summary"));
    client.send("COMMAND");
    assert!(client.reply().len() > 10_000);
}

#[test]
fn info_has_the_fields_that_clients_and_exporters_read() {
    let node = Node::primary();
    let mut client = node.connect();
    assert_eq!(client.ask("SET b 1"), "OK");
    assert_eq!(client.ask("GET b"), "1");
    assert_eq!(client.ask("GET {b}none"), "nil");
    let info = client.ask("INFO");
    for line in [
        "redis_version:7.2.4",
        "redis_mode:cluster",
        "connected_clients:1",
        "loading:0",
        "role:master",
        "master_repl_offset:1",
        "cluster_enabled:1",
        "db0:keys=1,expires=0,avg_ttl=0",
        "keyspace_hits:1",
        "keyspace_misses:1",
        "total_connections_received:1",
    ] {
        assert!(info.lines().any(|shown| shown == line), "{line} in {info}");
    }
    let stats = client.ask("INFO commandstats");
    assert!(stats.contains("cmdstat_get:calls=2,") && !stats.contains("redis_version"), "{stats}");
    assert_eq!(client.ask("CONFIG RESETSTAT"), "OK");
    assert!(!client.ask("INFO commandstats").contains("cmdstat_get"));
    assert_eq!(client.ask("CONFIG GET maxmemory-pol*"), "[maxmemory-policy noeviction]");
    assert!(client.ask("CONFIG SET maxmemory 1").starts_with("-ERR CONFIG SET failed"));
    assert!(client.ask("CONFIG SET nosuch 1").starts_with("-ERR Unknown option"));
}

#[test]
fn the_copies_are_shown_and_waited_for() {
    let node = Node::primary();
    let copies = std::sync::Arc::new(std::sync::Mutex::new(Seq(0)));
    let acknowledged = std::sync::Arc::clone(&copies);
    node.shared.report_replication(move || Replication {
        copies: vec![CopyStatus {
            copy: OTHER,
            acknowledged: Position { seq: *acknowledged.lock().unwrap(), ..Position::default() },
            lag_records: 0,
            in_sync: true,
        }],
        ..Replication::default()
    });
    let mut client = node.connect();
    assert_eq!(client.ask("SET b 1"), "OK");
    assert_eq!(client.ask("WAIT 1 60"), "0", "no copy has it when the time is over");
    client.send("WAIT 1 0").send("PING").expect_silence();
    *copies.lock().unwrap() = Seq(1);
    assert_eq!(client.reply(), "1");
    assert_eq!(client.reply(), "PONG");
    assert_eq!(client.ask("WAIT 0 0"), "1");
    assert_eq!(client.ask("WAIT 1 -1"), "-ERR timeout is negative");
    assert!(client.ask("INFO replication").contains("slave0:ip=127.0.0.1,port=7002,state=online,offset=1,lag=0"));
    assert_eq!(client.ask("ROLE"), "[master 1 [[127.0.0.1 7002 1]]]");
}

#[test]
fn with_cluster_mode_off_there_are_databases_and_no_cluster() {
    let node = Node::with(|config| config.cluster_mode = false);
    let mut client = node.connect();
    assert_eq!(client.ask("MSET a 1 b 2 foo 3"), "OK", "keys of any slots");
    assert_eq!(client.ask("SELECT 3"), "OK");
    assert_eq!(client.ask("GET a"), "nil");
    assert_eq!(client.ask("SELECT 16"), "-ERR DB index is out of range");
    assert_eq!(client.ask("CLUSTER SLOTS"), "-ERR This instance has cluster support disabled");
    assert_eq!(client.ask("SELECT 0"), "OK");
    assert_eq!(client.ask("MGET a b foo"), "[1 2 3]");
    assert!(client.ask("INFO cluster").contains("cluster_enabled:0"));
}
