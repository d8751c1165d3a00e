//! Requests and replies on the wire.

use crate::harness::Node;

#[test]
fn a_pipeline_is_answered_in_order_whatever_its_commands_are() {
    let node = Node::primary();
    let mut client = node.connect();
    for number in 0..500 {
        client.send(&format!("SET {{b}}{number} {number}")).send("PING").send(&format!("GET {{b}}{number}"));
    }
    for number in 0..500 {
        assert_eq!(client.reply(), "OK");
        assert_eq!(client.reply(), "PONG");
        assert_eq!(client.reply(), number.to_string());
    }
}

#[test]
fn a_request_may_come_byte_by_byte() {
    let node = Node::primary();
    let mut client = node.connect();
    for byte in b"*3\r\n$3\r\nSET\r\n$1\r\nb\r\n$5\r\nhello\r\nGET b\r\n" {
        client.send_bytes(&[*byte]);
        std::thread::sleep(std::time::Duration::from_micros(200));
    }
    assert_eq!(client.reply(), "OK");
    assert_eq!(client.reply(), "hello");
}

#[test]
fn a_breach_of_the_protocol_is_answered_after_what_came_before_and_ends_the_connection() {
    let node = Node::primary();
    let mut client = node.connect();
    client.send("PING").send_bytes(b"*1\r\n+PING\r\n").send("PING");
    assert_eq!(client.reply(), "PONG");
    assert_eq!(client.reply(), "-ERR Protocol error: expected '$', got '+'");
    client.expect_closed();
    assert_eq!(node.shared.stats().protocol_errors, 1);
}

#[test]
fn resp3_is_spoken_once_agreed_and_resp2_before() {
    let node = Node::primary();
    let mut client = node.connect();
    client.send("HSET b f v");
    assert_eq!(client.reply(), "1");
    client.send_bytes(b"HELLO 3\r\nGET nothing-here{b}\r\n");
    let hello = client.reply();
    assert!(hello.contains("proto 3") && hello.contains("mode cluster") && hello.contains("role master"), "{hello}");
    assert_eq!(client.reply(), "nil");
    assert_eq!(client.ask("HELLO 9"), "-NOPROTO unsupported protocol version");
    assert_eq!(client.ask("HELLO x"), "-ERR Protocol version is not an integer or out of range");
    assert_eq!(client.ask("HELLO 2 FOO"), "-ERR Syntax error in HELLO option 'FOO'");
    assert_eq!(client.ask("RESET"), "RESET");
}

#[test]
fn large_values_and_many_arguments_pass() {
    let node = Node::primary();
    let mut client = node.connect();
    let value = vec![b'v'; 3 << 20];
    assert_eq!(client.send_args(&[b"SET", b"b", &value]).reply(), "OK");
    assert_eq!(client.ask("STRLEN b"), value.len().to_string());
    assert_eq!(client.ask("GET b").len(), value.len());
    let keys: Vec<String> = (0..1_000).map(|number| format!("{{b}}{number}")).collect();
    let mut args: Vec<&[u8]> = vec![b"MSET"];
    for key in &keys {
        args.extend([key.as_bytes(), b"x"]);
    }
    assert_eq!(client.send_args(&args).reply(), "OK");
    assert_eq!(client.ask("DBSIZE"), "1001");
}

#[test]
fn unknown_names_and_wrong_arities_are_worded_as_redis_words_them() {
    let node = Node::primary();
    let mut client = node.connect();
    assert_eq!(client.ask("NOSUCH a b"), "-ERR unknown command 'NOSUCH', with args beginning with: 'a' 'b' ");
    assert_eq!(client.ask("GET"), "-ERR wrong number of arguments for 'get' command");
    assert_eq!(client.ask("CLIENT NOSUCH"), "-ERR unknown subcommand 'NOSUCH'. Try CLIENT HELP.");
    assert_eq!(
        client.ask("CLIENT MAINT_NOTIFICATIONS ON"),
        "-ERR unknown subcommand 'MAINT_NOTIFICATIONS'. Try CLIENT HELP."
    );
    assert_eq!(client.ask("CLUSTER KEYSLOT"), "-ERR wrong number of arguments for 'cluster|keyslot' command");
    assert_eq!(client.ask("PING"), "PONG", "the connection goes on");
}

#[test]
fn quit_is_answered_and_nothing_after_it() {
    let node = Node::primary();
    let mut client = node.connect();
    client.send("QUIT").send("PING");
    assert_eq!(client.reply(), "OK");
    client.expect_closed();
}
