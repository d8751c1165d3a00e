//! Scripts over sockets: against data, through the gate, and when they do not end.

use std::time::{Duration, Instant};

use ringmaster_replica::Phase;
use ringmaster_ring::Seq;

use crate::harness::{Client, Node};

fn eval(client: &mut Client, body: &str, rest: &[&str]) -> String {
    let mut args: Vec<&[u8]> = vec![b"EVAL", body.as_bytes()];
    args.extend(rest.iter().map(|arg| arg.as_bytes()));
    client.send_args(&args).reply()
}

/// The usual fixed window: count, and begin the window with the first.
const LIMITER: &str = "local n = redis.call('INCR', KEYS[1]) \
                       if n == 1 then redis.call('PEXPIRE', KEYS[1], ARGV[1]) end \
                       return {n, redis.call('PTTL', KEYS[1])}";

#[test]
fn a_rate_limiter_counts_in_one_record() {
    let node = Node::primary();
    let mut client = node.connect();
    assert!(eval(&mut client, LIMITER, &["1", "b", "10000"]).starts_with("[1 "));
    assert!(eval(&mut client, LIMITER, &["1", "b", "10000"]).starts_with("[2 "));
    assert_eq!(node.engine.log().end().seq, Seq(2), "one record each");
    let id = client.send_args(&[b"SCRIPT", b"LOAD", LIMITER.as_bytes()]).reply();
    assert_eq!(id.len(), 40);
    assert!(client.ask(&format!("EVALSHA {id} 1 b 10000")).starts_with("[3 "));
    assert!(client.ask(&format!("EVALSHA {} 1 b 10000", id.to_uppercase())).starts_with("[4 "));
    assert_eq!(client.ask(&format!("SCRIPT EXISTS {id} {}", "0".repeat(40))), "[1 0]");
    assert_eq!(client.ask("SCRIPT FLUSH"), "OK");
    assert_eq!(client.ask(&format!("EVALSHA {id} 1 b 1")), "-NOSCRIPT No matching script.");
    assert_eq!(client.ask("PING"), "PONG");
}

#[test]
fn errors_and_refusals_are_those_of_redis() {
    let node = Node::primary();
    let mut client = node.connect();
    client.ask("SET b text");
    let wrong = eval(&mut client, "return redis.call('LPUSH', KEYS[1], 1)", &["1", "b"]);
    assert!(
        wrong.starts_with("-WRONGTYPE Operation against a key holding the wrong kind of value script: "),
        "{wrong}"
    );
    assert!(wrong.ends_with(", on @user_script:1."), "{wrong}");
    for (body, error) in [
        ("return redis.call('nosuch')", "-ERR Unknown command called from script script: "),
        ("return redis.call('get')", "-ERR Wrong number of args calling command from script script: "),
        ("return redis.call('multi')", "-ERR This Valkey command is not allowed from script script: "),
        (
            "return redis.call('get', 'c')",
            "-ERR Script attempted to access keys that do not hash to the same slot script: ",
        ),
    ] {
        let reply = eval(&mut client, body, &["1", "b"]);
        assert!(reply.starts_with(error), "{body}: {reply}");
    }
    assert!(eval(&mut client, "return 1", &["2", "b"]).starts_with("-ERR Number of keys can't be greater"));
    assert!(eval(&mut client, "return 1", &["-1", "b"]).starts_with("-ERR Number of keys can't be negative"));
    assert!(eval(&mut client, "return 1", &["1", "foo"]).starts_with("-MOVED 12182 "));
    assert!(eval(&mut client, "return 1", &["2", "b", "foo"]).starts_with("-CROSSSLOT"));
    let read_only = client.send_args(&[b"EVAL_RO", b"return redis.call('SET', KEYS[1], 1)", b"1", b"b"]).reply();
    assert!(read_only.starts_with("-ERR Write commands are not allowed from read-only scripts."), "{read_only}");
    assert_eq!(client.send_args(&[b"EVAL_RO", b"return redis.call('GET', KEYS[1])", b"1", b"b"]).reply(), "text");
    assert_eq!(
        eval(&mut client, "return redis.pcall('LPUSH', KEYS[1], 1).err", &["1", "b"]),
        "WRONGTYPE Operation against a key holding the wrong kind of value"
    );
}

#[test]
fn a_script_without_declared_keys_gets_what_it_asks_for() {
    let node = Node::primary();
    let mut client = node.connect();
    assert_eq!(eval(&mut client, "redis.call('SET', 'b', ARGV[1]) return redis.call('GET', 'b')", &["0", "x"]), "x");
    assert_eq!(eval(&mut client, "return redis.call('DBSIZE')", &["0"]), "1");
    assert_eq!(eval(&mut client, "return {1, 2, 'three'}", &["0"]), "[1 2 three]");
    assert!(eval(&mut client, "return redis.call('GET', 'foo')", &["0"]).contains("non local key"));
    let node = Node::with(|config| config.cluster_mode = false);
    let mut client = node.connect();
    let body = "redis.call('SELECT', 3) redis.call('SET', KEYS[1] .. 'x', 1) redis.call('SET', 'foo', 2) return redis.call('DBSIZE')";
    assert_eq!(eval(&mut client, body, &["1", "b"]), "2");
    client.ask("SELECT 3");
    assert_eq!(client.ask("MGET bx foo"), "[1 2]");
}

#[test]
fn scripts_run_in_transactions_and_publish() {
    let node = Node::primary();
    let (mut client, mut subscriber) = (node.connect(), node.connect());
    subscriber.ask("SUBSCRIBE a");
    client.ask("MULTI");
    client.ask("SET b 5");
    let body = "redis.call('PUBLISH', 'a', 'x') return redis.call('INCR', KEYS[1])";
    assert_eq!(eval(&mut client, body, &["1", "b"]), "QUEUED");
    client.ask("GET b");
    assert_eq!(client.ask("EXEC"), "[OK 6 6]");
    assert_eq!(node.engine.log().end().seq, Seq(1), "one record");
    assert_eq!(subscriber.reply(), "[message a x]");
    assert_eq!(eval(&mut client, body, &["1", "b"]), "7");
    assert_eq!(subscriber.reply(), "[message a x]");
    subscriber.expect_silence();
}

#[test]
fn a_script_serves_who_waits_and_never_waits() {
    let node = Node::primary();
    let (mut waiting, mut client) = (node.connect(), node.connect());
    waiting.send("BLPOP b 0");
    waiting.expect_silence();
    assert_eq!(eval(&mut client, "return redis.call('RPUSH', KEYS[1], 'x')", &["1", "b"]), "1");
    assert_eq!(waiting.reply(), "[b x]");
    assert_eq!(
        eval(&mut client, "return redis.call('BLPOP', KEYS[1], 0)", &["1", "b"]),
        "nil",
        "as if its time were up"
    );
}

#[test]
fn replies_are_gated_and_reads_run_again() {
    let mut node = Node::primary();
    let mut client = node.connect();
    let body = "return redis.call('SET', KEYS[1], 1)";
    assert_eq!(eval(&mut client, body, &["1", "b"]), "OK");
    node.publish(|state| state.committed = Seq(1));
    client.send_args(&[b"EVAL", body.as_bytes(), b"1", b"b"]).expect_silence();
    node.publish(|state| state.committed = Seq(2));
    assert_eq!(client.reply(), "OK");
    node.publish(|state| state.phase = Phase::Frozen);
    client.send_args(&[b"EVAL", body.as_bytes(), b"1", b"b"]).expect_silence();
    node.hand_over_in_ring();
    node.publish(|state| state.phase = Phase::Copy);
    assert_eq!(client.reply(), "-MOVED 3300 127.0.0.1:7002");
}

#[test]
fn a_script_that_does_not_end_stops_only_its_own_keys_and_thread_until_it_is_killed() {
    let node = Node::with(|config| {
        config.threads = 3;
        config.busy_reply_threshold_ms = 200;
    });
    let mut looping = node.connect();
    looping.send_args(&[b"EVAL", b"while true do end", b"1", b"b"]);
    std::thread::sleep(Duration::from_millis(50));
    // Connections of the script's own thread are not heard; new ones come to any thread.
    let began = Instant::now();
    let mut others: Vec<Client> = (0..24).map(|_| node.connect()).collect();
    for client in &mut others {
        client.send("GET {b}");
    }
    let mut told = 0;
    std::thread::sleep(Duration::from_millis(400));
    for client in &mut others {
        if let Some(reply) = client.reply_within(Duration::from_millis(20)) {
            assert!(reply.starts_with("-BUSY Redis is busy running a script."), "{reply}");
            assert_eq!(client.ask("SET 2 1"), "OK", "other keys are served");
            told += 1;
        }
    }
    assert!(told >= 8, "{told} were told");
    let mut killer = None;
    for (number, client) in others.iter_mut().enumerate() {
        client.send("PING");
        if client.reply_within(Duration::from_millis(20)).is_some() {
            killer = Some(number);
            break;
        }
    }
    assert_eq!(others[killer.unwrap()].ask("SCRIPT KILL"), "OK");
    assert!(looping.reply().contains("Script killed by user with SCRIPT KILL"));
    assert!(began.elapsed() < Duration::from_secs(8));
    assert!(node.connect().ask("SCRIPT KILL").starts_with("-NOTBUSY"));
    assert_eq!(looping.ask("SET {b} 1"), "OK");
}

#[test]
fn a_script_that_has_written_is_not_killed() {
    let node = Node::with(|config| {
        config.threads = 3;
        config.busy_reply_threshold_ms = 50;
    });
    let mut looping = node.connect();
    let body: &[u8] = b"redis.call('SET', KEYS[1], 1) for i = 1, 3e7 do end return 'done'";
    looping.send_args(&[b"EVAL", body, b"1", b"b"]);
    std::thread::sleep(Duration::from_millis(100));
    let mut refused = false;
    for _ in 0..24 {
        let mut client = node.connect();
        client.send("SCRIPT KILL");
        if let Some(reply) = client.reply_within(Duration::from_millis(20)) {
            refused |= reply.starts_with("-UNKILLABLE ");
        }
    }
    assert_eq!(looping.reply(), "done");
    assert!(refused, "it ended before anybody could ask");
}

#[test]
fn a_script_that_promised_to_write_nothing_is_held_to_it_by_evalsha_too() {
    let node = Node::primary();
    let mut client = node.connect();
    let body: &[u8] = b"#!lua flags=no-writes\nreturn redis.call('SET', KEYS[1], 'x')";
    let refused = "-ERR Write commands are not allowed from read-only scripts.";
    assert!(client.send_args(&[b"EVAL", body, b"1", b"b"]).reply().starts_with(refused));
    let id = client.send_args(&[b"SCRIPT", b"LOAD", body]).reply();
    assert!(client.ask(&format!("EVALSHA {id} 1 b")).starts_with(refused));
    let writes: &[u8] = b"#!lua\nreturn 1";
    let reply = client.send_args(&[b"EVAL_RO", writes, b"0"]).reply();
    assert_eq!(reply, "-ERR Can not execute a script with write flag using *_ro command.");
}

#[test]
fn what_transactions_refuse_scripts_are_refused_too() {
    let node = Node::primary();
    let mut client = node.connect();
    assert_eq!(client.ask("MULTI"), "OK");
    assert_eq!(client.ask("XGROUP DESTROY b"), "-ERR wrong number of arguments for 'xgroup|destroy' command");
    assert_eq!(client.ask("EXEC"), "-EXECABORT Transaction discarded because of previous errors.");
    assert_eq!(client.ask("MULTI"), "OK");
    assert_eq!(client.ask("MULTI"), "-ERR Command 'multi' not allowed inside a transaction");
    assert_eq!(client.ask("EXEC"), "-EXECABORT Transaction discarded because of previous errors.");
    let reply = client.send_args(&[b"EVAL", b"return redis.pcall('XGROUP', 'DESTROY', 'b')", b"0"]).reply();
    assert_eq!(reply, "-ERR Wrong number of args calling command from script");
}
