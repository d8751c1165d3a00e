//! What one client may take from the others.

use std::time::Duration;

use crate::harness::{Client, Node, PATIENCE, SILENCE};

#[test]
fn connections_beyond_the_limit_are_told_so_and_there_is_room_again_when_one_ends() {
    let node = Node::with(|config| config.connections_max = 2);
    let (mut one, mut two) = (node.connect(), node.connect());
    // Each may be taken in by another thread: see that both are.
    assert_eq!(one.ask("PING"), "PONG");
    assert_eq!(two.ask("PING"), "PONG");
    let mut third = node.connect();
    assert_eq!(third.reply(), "-ERR max number of clients reached");
    third.expect_closed();
    assert_eq!(node.shared.stats().connections_refused, 1);
    drop(two);
    node.wait_for_clients(1);
    assert_eq!(node.connect().ask("PING"), "PONG");
}

#[test]
fn a_client_that_does_not_read_holds_little_and_loses_nothing_when_it_reads_again() {
    let node = Node::with(|config| config.reply_backlog_bytes_max = 256 << 10);
    let mut client = node.connect();
    let value = vec![b'v'; 100 << 10];
    assert_eq!(client.send_args(&[b"SET", b"b", &value]).reply(), "OK");
    for _ in 0..1_000 {
        client.send("GET b");
    }
    std::thread::sleep(SILENCE);
    let mut other = node.connect();
    let list = other.ask("CLIENT LIST");
    let held: usize = list
        .split_ascii_whitespace()
        .filter_map(|part| part.strip_prefix("omem="))
        .map(|bytes| bytes.parse::<usize>().unwrap())
        .max()
        .unwrap();
    assert!(held <= 512 << 10, "{held} bytes of replies wait for one client");
    for _ in 0..1_000 {
        assert_eq!(client.reply().len(), value.len());
    }
}

#[test]
fn a_reply_beyond_the_output_limit_ends_the_connection() {
    let node = Node::with(|config| config.output_buffer_bytes_max = 64 << 10);
    let mut client = node.connect();
    assert_eq!(client.send_args(&[b"SET", b"b", &vec![b'v'; 100 << 10]]).reply(), "OK");
    client.send("GET b").expect_closed();
    assert_eq!(node.shared.stats().slow_readers, 1);
    assert_eq!(node.connect().ask("PING"), "PONG");
}

#[test]
fn a_client_that_takes_nothing_for_too_long_is_closed() {
    let node = Node::with(|config| config.write_stall_ms_max = 500);
    let mut client = node.connect();
    assert_eq!(client.send_args(&[b"SET", b"b", &vec![b'v'; 8 << 20]]).reply(), "OK");
    for _ in 0..4 {
        client.send("GET b");
    }
    let began = std::time::Instant::now();
    while node.shared.stats().slow_readers == 0 {
        assert!(began.elapsed() < PATIENCE, "it is still there");
        std::thread::sleep(Duration::from_millis(50));
    }
    client.expect_closed();
}

#[test]
fn a_request_beyond_the_query_limit_ends_the_connection() {
    let node = Node::with(|config| config.query_buffer_bytes_max = 64 << 10);
    let mut client = node.connect();
    let _ = std::io::Write::write_all(&mut client.stream, b"*2\r\n$4\r\nECHO\r\n$1000000\r\n");
    let _ = std::io::Write::write_all(&mut client.stream, &vec![b'x'; 200 << 10]);
    client.expect_closed();
    assert_eq!(node.connect().ask("PING"), "PONG");
}

#[test]
fn strangers_may_only_send_small_requests() {
    let node = Node::primary();
    node.shared.acl().set_passwords(["secret"]);
    let mut client = node.connect();
    client.send_bytes(b"*2\r\n$4\r\nAUTH\r\n$100000\r\n");
    assert_eq!(client.reply(), "-ERR Protocol error: unauthenticated bulk length");
    client.expect_closed();
}

#[test]
fn idle_connections_are_closed_on_demand_and_use_is_noted() {
    let node = Node::primary();
    let mut idle = node.connect();
    assert_eq!(idle.ask("PING"), "PONG");
    assert_eq!(node.shared.last_use_ms(), None, "PING is no use of the data");
    std::thread::sleep(Duration::from_secs(2));
    let mut busy = node.connect();
    assert_eq!(busy.ask("GET b"), "nil");
    assert!(node.shared.last_use_ms().unwrap() < 2_000);
    assert_eq!(node.handle.as_ref().unwrap().close_idle(Duration::from_secs(2)), 1);
    idle.expect_closed();
    assert_eq!(busy.ask("PING"), "PONG");
}

#[test]
fn a_shutdown_closes_every_connection_and_frees_the_port() {
    let mut node = Node::primary();
    let port = node.port();
    let mut client = node.connect();
    assert_eq!(client.ask("PING"), "PONG");
    node.handle.take().unwrap().shutdown();
    client.expect_closed();
    assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_err());
}

#[test]
fn hundreds_of_connections_at_once_are_all_served() {
    let node = Node::primary();
    let mut clients: Vec<Client> = (0..300).map(|_| node.connect()).collect();
    for client in &mut clients {
        client.send("INCR b");
    }
    let mut counts: Vec<u32> = clients.iter_mut().map(|client| client.reply().parse().unwrap()).collect();
    counts.sort_unstable();
    assert_eq!(counts, (1..=300).collect::<Vec<_>>());
}
