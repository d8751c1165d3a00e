use std::cell::Cell;
use std::rc::Rc;

use ringmaster_engine::script_id;

use super::*;

/// Answers every command with the reply that its first argument encodes, or with its arguments.
struct Echo;

impl Host for Echo {
    fn call(&mut self, args: &[&[u8]], reply: &mut ReplyBuf) -> HostReply {
        match args {
            [b"reply", encoded] => reply.raw(encoded),
            [b"abandon"] => return HostReply::Abandon,
            args => {
                reply.array(args.len());
                args.iter().for_each(|arg| reply.bulk(arg));
            }
        }
        HostReply::Replied
    }

    fn permits(&mut self, args: &[&[u8]]) -> Option<bool> {
        Some(args.len() == 2).filter(|_| args.first() != Some(&b"nosuch".as_slice()))
    }

    fn log(&mut self, _: u8, _: &str) {}
}

fn interpreter() -> Interpreter {
    Interpreter::new(Limits { memory_bytes_max: 64 << 20, redis_version: "7.2.4" }, || Tick::GoOn).unwrap()
}

fn run_in(interpreter: &Interpreter, body: &str, args: &[&[u8]], protocol: Protocol) -> String {
    let mut reply = ReplyBuf::new(protocol);
    match interpreter.compile(&script_id(body.as_bytes()), body.as_bytes()) {
        Ok(script) => interpreter.run(&script, (&[b"key"], args), &mut Echo, &mut reply),
        Err(error) => reply.error(&error),
    }
    String::from_utf8_lossy(reply.as_bytes()).into_owned()
}

fn run(body: &str) -> String {
    run_in(&interpreter(), body, &[b"a", b"b"], Protocol::Resp2)
}

#[test]
fn values_become_replies_as_redis_converts_them() {
    for (body, reply) in [
        ("return 3.99", ":3\r\n"),
        ("return 'x'", "$1\r\nx\r\n"),
        ("return true", ":1\r\n"),
        ("return false", "$-1\r\n"),
        ("return nil", "$-1\r\n"),
        ("return {1, 'x', nil, 2}", "*2\r\n:1\r\n$1\r\nx\r\n"),
        ("return {ok='FINE'}", "+FINE\r\n"),
        ("return {err='MY wrong'}", "-MY wrong\r\n"),
        ("return redis.error_reply('wrong')", "-ERR wrong\r\n"),
        ("return redis.error_reply('-MY wrong')", "-MY wrong\r\n"),
        ("return redis.status_reply('FINE')", "+FINE\r\n"),
        ("return {KEYS[1], ARGV[2], #ARGV}", "*3\r\n$3\r\nkey\r\n$1\r\nb\r\n:2\r\n"),
        ("return redis.sha1hex('')", "$40\r\nda39a3ee5e6b4b0d3255bfef95601890afd80709\r\n"),
        ("return {double=3.5}", "$3\r\n3.5\r\n"),
        ("#!lua flags=no-writes\nreturn 1", ":1\r\n"),
    ] {
        assert_eq!(run(body), reply, "{body}");
    }
    let three = |body| run_in(&interpreter(), body, &[], Protocol::Resp3);
    assert_eq!(three("redis.setresp(3) return true"), "#t\r\n");
    assert_eq!(three("return {map={a=1}}"), "%1\r\n$1\r\na\r\n:1\r\n");
    assert_eq!(three("return {double=3.5}"), ",3.5\r\n");
    assert_eq!(three("return nil"), "_\r\n");
}

#[test]
fn replies_become_values_and_come_back_as_they_were() {
    for (reply, protocol) in [
        (":7\r\n", 2),
        ("+OK\r\n", 2),
        ("$-1\r\n", 2),
        ("*2\r\n$1\r\nx\r\n*1\r\n:1\r\n", 2),
        ("%1\r\n$1\r\na\r\n,1.5\r\n", 3),
        ("~1\r\n$1\r\na\r\n", 3),
        ("#f\r\n", 3),
        ("(123\r\n", 3),
        ("=6\r\ntxt:hi\r\n", 3),
    ] {
        let body = format!("redis.setresp({protocol}) return redis.call('reply', ARGV[1])");
        let client = if protocol == 3 { Protocol::Resp3 } else { Protocol::Resp2 };
        assert_eq!(run_in(&interpreter(), &body, &[reply.as_bytes()], client), reply);
    }
    assert_eq!(
        run("return redis.call('x', 1, 2.5, 10000000000)"),
        "*4\r\n$1\r\nx\r\n$1\r\n1\r\n$3\r\n2.5\r\n$11\r\n10000000000\r\n"
    );
}

#[test]
fn errors_say_where_and_can_be_caught() {
    let id = |body: &str| script_id(body.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let body = "\nreturn redis.call('reply', '-WRONGTYPE no\\r\\n')";
    assert_eq!(run(body), format!("-WRONGTYPE no script: {}, on @user_script:2.\r\n", id(body)));
    let body = "error('boom')";
    assert_eq!(run(body), format!("-ERR user_script:1: boom script: {}, on @user_script:1.\r\n", id(body)));
    assert_eq!(run("local e = redis.pcall('reply', '-MY no\\r\\n') return e.err"), "$5\r\nMY no\r\n");
    assert_eq!(
        run("local ok, e = pcall(redis.call, 'reply', '-MY no\\r\\n') return {tostring(ok), e}"),
        "*2\r\n$5\r\nfalse\r\n$5\r\nMY no\r\n"
    );
    assert!(run("return redis.call()").starts_with("-ERR Please specify at least one argument"));
    assert!(run("return redis.call('x', {})").starts_with("-ERR Command arguments must be strings or integers"));
    assert!(run("return (").starts_with("-ERR Error compiling script (new function): user_script:1:"));
}

#[test]
fn nothing_of_a_script_is_left_behind() {
    let interpreter = interpreter();
    let run = |body: &str| run_in(&interpreter, body, &[], Protocol::Resp2);
    assert!(run("x = 1").contains("Attempt to modify a readonly table"));
    assert!(run("return x").contains("Script attempted to access nonexistent global variable 'x'"));
    for body in [
        "string.upper = 1",
        "redis.call = 1",
        "rawset(string, 'upper', 1)",
        "rawset(_G, 'x', 1)",
        "_G.x = 1",
        "getmetatable(_G).__index = {}",
        "setmetatable(_G, {})",
        "getmetatable('').__index.upper = 1",
        "KEYS = 1",
    ] {
        assert!(run(body).starts_with("-ERR"), "{body}: {}", run(body));
    }
    for name in
        ["io", "require", "dofile", "debug", "coroutine", "package", "print", "getfenv", "setfenv", "load", "module"]
    {
        assert!(run(&format!("return {name}")).contains("nonexistent global variable"), "{name}");
    }
    assert!(run("return os.execute").starts_with("$-1"));
    assert_eq!(run("return loadstring('return 1')()"), ":1\r\n");
    assert!(run("return loadstring('x = 1')()").starts_with("-ERR"));
    assert_eq!(run("return tostring(loadstring('\\27Lua'))"), "$3\r\nnil\r\n");
    assert_eq!(run("return ('x'):upper()"), "$1\r\nX\r\n");
    assert_eq!(run("return math.random(1000000)"), run("return math.random(1000000)"));
}

#[test]
fn a_script_that_does_not_end_is_ended_whatever_it_catches() {
    let ending = Rc::new(Cell::new(0));
    let ticks = Rc::clone(&ending);
    let limits = Limits { memory_bytes_max: 64 << 20, redis_version: "7.2.4" };
    let tick = move || {
        ticks.set(ticks.get() + 1);
        if ticks.get() > 3 { Tick::End("Script killed by user with SCRIPT KILL") } else { Tick::GoOn }
    };
    let interpreter = Interpreter::new(limits, tick).unwrap();
    for body in ["while true do end", "while true do pcall(function()\nwhile true do end\nend)\nend"] {
        let reply = run_in(&interpreter, body, &[], Protocol::Resp2);
        assert!(reply.contains("Script killed by user with SCRIPT KILL"), "{reply}");
        ending.set(0);
        assert_eq!(run_in(&interpreter, "return 1", &[], Protocol::Resp2), ":1\r\n", "the next one runs");
    }
}

#[test]
fn memory_has_a_limit() {
    let reply = run("local t = {} for i = 1, 1e9 do t[i] = ('x'):rep(100000) .. i end");
    assert!(reply.starts_with("-ERR") && reply.contains("not enough memory"), "{reply}");
}

#[test]
fn an_abandoned_script_ends_at_once() {
    assert_eq!(run("pcall(redis.call, 'abandon')\nwhile true do end"), "");
}

#[test]
fn json_is_read_and_written_as_lua_cjson_does() {
    for (body, text) in [
        ("cjson.encode({1, 'a/b', true, cjson.null, 1.5})", r#"[1,"a\/b",true,null,1.5]"#),
        ("cjson.encode({a = {}})", r#"{"a":{}}"#),
        ("cjson.encode(1/3)", "0.33333333333333"),
        ("cjson.encode(1e20)", "1e+20"),
        ("cjson.encode(100000)", "100000"),
        ("cjson.encode('\\1\\n\"')", r#""\u0001\n\"""#),
        ("cjson.decode('{\"a\": [1, {\"b\": \"\\\\u00e9\\\\ud83d\\\\ude00\"}]}').a[2].b", "é😀"),
        ("tostring(cjson.decode('[null]')[1] == cjson.null)", "true"),
        ("tostring(cjson.decode(' 1.5e3 '))", "1500"),
    ] {
        assert_eq!(run(&format!("return {body}")), format!("${}\r\n{text}\r\n", text.len()), "{body}");
    }
    assert!(run("return cjson.decode('{')").contains("Expected object key string but found T_END at character 2"));
    assert!(run("return cjson.encode({[1]=1,[100]=1})").contains("excessively sparse array"));
    assert!(run("return cjson.encode({f=function() end})").contains("Cannot serialise function"));
}

#[test]
fn message_pack_is_read_and_written() {
    let same = "local t = {1, -1, 200, 70000, 2^40, -2^40, 1.5, 0.1, 'x', ('y'):rep(300), true, false, {a = {b = 1}}} \
                local u = cmsgpack.unpack(cmsgpack.pack(t)) \
                return cjson.encode(t) == cjson.encode(u) and 1 or 0";
    assert_eq!(run(same), ":1\r\n");
    assert_eq!(run("return bit.tohex(('B'):len() and cmsgpack.pack({1, 'a'}):byte(1))"), "$8\r\n00000092\r\n");
    assert_eq!(run("return {cmsgpack.unpack(cmsgpack.pack(1, 'a'))}"), "*2\r\n:1\r\n$1\r\na\r\n");
    assert_eq!(run("return {cmsgpack.unpack_one(cmsgpack.pack(7, 8))}"), "*2\r\n:1\r\n:7\r\n");
    assert!(run("return cmsgpack.unpack('\\217')").contains("Missing bytes in input."));
    for kind in [193, 196, 199, 212] {
        let body = format!("return cmsgpack.unpack('\\{kind}\\1')");
        assert!(run(&body).contains("Bad data format in input."), "lua-cmsgpack knows no {kind}");
    }
}

#[test]
fn bits_and_structs_are_those_of_c() {
    assert_eq!(
        run("return {bit.band(0xff, 0x0f), bit.bor(1, 2, 4), bit.bxor(5, 1), bit.bnot(0)}"),
        "*4\r\n:15\r\n:7\r\n:4\r\n:-1\r\n"
    );
    assert_eq!(
        run("return {bit.lshift(1, 31), bit.rshift(-1, 28), bit.arshift(-16, 2), bit.rol(0x80000000, 1)}"),
        "*4\r\n:-2147483648\r\n:15\r\n:-4\r\n:1\r\n"
    );
    assert_eq!(run("return bit.tohex(255, 4)"), "$4\r\n00ff\r\n");
    assert_eq!(run("return struct.pack('>HBs', 258, 3, 'x')"), "$5\r\n\u{1}\u{2}\u{3}x\0\r\n");
    assert_eq!(run("return {struct.unpack('<i4c0', struct.pack('<i4c0', 3, 'abc'))}"), "*2\r\n$3\r\nabc\r\n:8\r\n");
    assert_eq!(run("return {struct.size('!4bi4'), struct.size('bi4')}"), "*2\r\n:8\r\n:5\r\n");
    assert_eq!(run("return {struct.unpack('bB', '\\255\\255')}"), "*3\r\n:-1\r\n:255\r\n:3\r\n");
}

#[test]
fn errors_of_libraries_say_what_those_written_in_c_say_and_where() {
    for (script, error) in [
        ("return cjson.decode('[1,]')", "user_script:1: Expected value but found T_ARR_END at character 4"),
        ("\nlocal x = bit.tobit({})", "user_script:2: bad argument #1 to 'tobit' (number expected, got table)"),
        ("return struct.pack('i40', 1)", "user_script:1: integral size 40 is larger than limit of 32"),
        ("return cmsgpack.unpack_one('a', 5)", "user_script:1: Start offset 5 greater than input length 1."),
        ("return math.random(0)", "user_script:1: bad argument #1 to 'random' (interval is empty)"),
    ] {
        assert!(run(script).starts_with(&format!("-ERR {error} script: ")), "{script}: {}", run(script));
    }
    let caught = "local ok, e = pcall(struct.unpack, 'i', 'ab') return e";
    assert_eq!(run(caught), "$46\r\nbad argument #2 to '?' (data string too short)\r\n");
    assert!(run("return redis.log(1)").contains("on @user_script:1."), "the place is known though it is a tail call");
}

#[test]
fn who_catches_the_error_of_a_command_gets_its_text() {
    assert!(
        run("local ok, e = pcall(redis.setresp, 9) return type(e) .. ':' .. e")
            .contains("string:ERR RESP version must be 2 or 3.")
    );
    assert!(run("local ok, e = pcall(error, {err = 'MINE'}) return e").contains("MINE"));
    let asked = "return {pcall(error, setmetatable({}, {__index = function(_, name) return 'its ' .. name end}))}";
    assert_eq!(run(asked), "*2\r\n$-1\r\n$7\r\nits err\r\n");
}

#[test]
fn texts_end_as_those_of_c_and_keep_their_bytes() {
    let bytes = |body: &str| {
        let mut reply = ReplyBuf::new(Protocol::Resp3);
        let interpreter = interpreter();
        let script = interpreter.compile(&script_id(body.as_bytes()), body.as_bytes()).unwrap();
        interpreter.run(&script, (&[], &[]), &mut Echo, &mut reply);
        reply.take()
    };
    assert_eq!(bytes("return {err = 'A b\\187\\0c'}"), b"-A b\xbb\r\n");
    assert_eq!(bytes("return {ok = 'b\\187\\0c'}"), b"+b\xbb\r\n");
    assert_eq!(bytes("return {big_number = '1\\187\\0c'}"), b"(1\xbb\r\n");
    assert_eq!(bytes("return {verbatim_string = {format = '\\187\\0c', string = 'a\\0b'}}"), b"=7\r\n\xbb  :a\0b\r\n");
    assert_eq!(bytes("return redis.error_reply('a\\0b c')"), b"-ERR a\r\n");
    assert!(bytes("error('a\\187\\0b')").starts_with(b"-ERR user_script:1: a\xbb script: "));
    let refused = "local e = redis.pcall('reply', '-MY \\187\\r\\n') return e";
    assert_eq!(bytes(refused), b"-MY \xbb\r\n");
    let caught = "local _, e = pcall(redis.call, 'reply', '-MY \\187\\r\\n') return e";
    assert_eq!(bytes(caught), b"$4\r\nMY \xbb\r\n");
}

#[test]
fn functions_that_have_nothing_to_say_give_no_value() {
    for call in ["redis.log('1', 'x')", "redis.setresp(2.5)", "redis.set_repl(-0.5)", "redis.debug()"] {
        assert_eq!(run(&format!("return select('#', {call})")), ":0\r\n", "{call}");
    }
    assert!(run("return redis.log('x', 'y')").starts_with("-ERR First argument must be a number"));
}

#[test]
fn an_error_is_placed_where_it_is_raised_last_whatever_it_is() {
    assert!(
        run("\nerror({err = 'X', line = 9})").contains("X script: ") && run("\nerror({err = 'X'})").contains(":2.")
    );
    assert!(run("\nerror({err = 'X', line = 9})").ends_with("@user_script:2.\r\n"));
    assert!(run("error({ok = 'X'})").starts_with("-ERR unknown error script: "));
}

#[test]
fn numbers_become_arguments_and_replies_as_the_field_has_them() {
    assert_eq!(run("return 1/0"), format!(":{}\r\n", i64::MIN));
    assert_eq!(run("return -2.9"), ":-2\r\n");
    assert_eq!(run("return cjson.encode(9664689690432640)"), "$19\r\n9.6646896904326e+15\r\n");
    assert_eq!(run("return cjson.decode(' +0x10 ')"), ":16\r\n");
}

#[test]
fn a_table_with_holes_is_packed_as_a_map() {
    let body = "local t = cmsgpack.unpack('\\157\\1\\192\\1\\1\\1\\1\\1\\1\\1\\1\\1\\192\\1')
        local again = cmsgpack.unpack(cmsgpack.pack(t))
        return {t[13] or 0, again[13] or 0, t[2] == again[2] and 1 or 0}";
    assert_eq!(run(body), "*3\r\n:1\r\n:1\r\n:1\r\n");
}
