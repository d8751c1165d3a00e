//! Users: who may do what, at once, in transactions, in scripts and through another member.

use crate::harness::Node;

fn with_user(rules: &str) -> (Node, crate::harness::Client, crate::harness::Client) {
    let node = Node::with(|config| config.cluster_mode = false);
    let (mut admin, mut client) = (node.connect(), node.connect());
    assert_eq!(admin.ask(&format!("ACL SETUSER ann {rules}")), "OK");
    assert_eq!(client.ask("AUTH ann pw"), "OK");
    (node, admin, client)
}

#[test]
fn a_user_does_what_its_rules_permit_and_nothing_else() {
    let (_node, mut admin, mut client) = with_user("on >pw ~k* resetchannels &c* +@all -@admin -set +config|get");
    assert_eq!(client.ask("ACL WHOAMI"), "ann");
    assert_eq!(client.ask("APPEND k1 v"), "1");
    assert_eq!(client.ask("SET k1 v"), "-NOPERM User ann has no permissions to run the 'set' command");
    assert_eq!(client.ask("GET other"), "-NOPERM No permissions to access a key");
    assert_eq!(client.ask("MGET k1 other"), "-NOPERM No permissions to access a key");
    assert_eq!(client.ask("CONFIG GET port").split(' ').next(), Some("[port"));
    assert_eq!(client.ask("CONFIG SET port 1"), "-NOPERM User ann has no permissions to run the 'config|set' command");
    assert_eq!(client.ask("PUBLISH d x"), "-NOPERM No permissions to access a channel");
    assert_eq!(client.ask("SUBSCRIBE d"), "-NOPERM No permissions to access a channel");
    assert_eq!(client.ask("ACL LIST"), "-NOPERM User ann has no permissions to run the 'acl|list' command");
    assert!(admin.ask("CLIENT LIST USER ann").contains("user=ann"));
    assert_eq!(admin.ask("CLIENT LIST USER bob"), "-ERR No such user 'bob'");
    assert_eq!(admin.ask("ACL USERS"), "[ann default]");
    assert_eq!(client.ask("RESET"), "RESET");
    assert_eq!(client.ask("SET other v"), "OK", "it is the default user again");
}

#[test]
fn changed_rules_count_for_those_who_are_connected() {
    let (_node, mut admin, mut client) = with_user("on >pw ~* &* +@all");
    assert_eq!(client.ask("SET k v"), "OK");
    assert_eq!(admin.ask("ACL SETUSER ann -set"), "OK");
    assert_eq!(client.ask("SET k v"), "-NOPERM User ann has no permissions to run the 'set' command");
    assert_eq!(
        admin.ask("ACL SETUSER ann +set +nosuch"),
        "-ERR Error in ACL SETUSER modifier '+nosuch': Unknown command or category name in ACL"
    );
    assert!(client.ask("SET k v").starts_with("-NOPERM"), "all rules count, or none");
    assert_eq!(admin.ask("ACL SETUSER ann +set"), "OK");
    assert_eq!(client.ask("SET k v"), "OK");
    assert_eq!(admin.ask("ACL SETUSER default -get"), "OK");
    assert_eq!(admin.ask("GET k"), "-NOPERM User default has no permissions to run the 'get' command");
}

#[test]
fn a_transaction_is_checked_when_it_is_kept_and_when_it_is_executed() {
    let (_node, mut admin, mut client) = with_user("on >pw ~k* &* +@all -set");
    assert_eq!(client.ask("MULTI"), "OK");
    assert!(client.ask("SET k v").starts_with("-NOPERM User ann"));
    assert_eq!(client.ask("GET k"), "QUEUED");
    assert_eq!(client.ask("EXEC"), "-EXECABORT Transaction discarded because of previous errors.");
    assert_eq!(client.ask("MULTI"), "OK");
    assert_eq!(client.ask("APPEND k v"), "QUEUED");
    assert_eq!(client.ask("PING"), "QUEUED");
    assert_eq!(client.ask("GET k"), "QUEUED");
    assert_eq!(admin.ask("ACL SETUSER ann -append"), "OK");
    assert_eq!(
        client.ask("EXEC"),
        "[-NOPERM ACLs rules changed between the moment the transaction was accumulated and the EXEC call. This command is no \
         longer allowed for the following reason: no permission to execute the command or subcommand PONG nil]"
    );
    assert_eq!(client.ask("MULTI"), "OK");
    assert_eq!(admin.ask("ACL SETUSER ann -exec"), "OK");
    assert_eq!(
        client.ask("EXEC"),
        "-EXECABORT Transaction discarded because of: NOPERM User ann has no permissions to run the 'exec' command"
    );
}

#[test]
fn a_script_does_what_its_user_may() {
    let (_node, mut admin, mut client) = with_user("on >pw ~k* resetchannels &c* +@all -set");
    let mut eval = |body: &str| client.send_args(&[b"EVAL", body.as_bytes(), b"0"]).reply();
    let failure = "ERR ACL failure in script: ";
    assert!(
        eval("return redis.call('set', 'k', '1')")
            .starts_with(&format!("-{failure}User ann has no permissions to run the 'set' command"))
    );
    assert!(
        eval("return redis.call('get', 'other')").starts_with(&format!("-{failure}No permissions to access a key"))
    );
    assert!(
        eval("return redis.call('publish', 'd', '1')")
            .starts_with(&format!("-{failure}No permissions to access a channel"))
    );
    assert_eq!(eval("return redis.call('append', 'k', '1')"), "1");
    assert_eq!(eval("return redis.pcall('del', 'x').err"), format!("{failure}No permissions to access a key"));
    assert_eq!(eval("return {redis.acl_check_cmd('get', 'k'), redis.acl_check_cmd('get', 'x')}"), "[1 nil]");
    assert!(eval("return redis.acl_check_cmd('nosuch')").starts_with("-ERR Invalid command passed"));
    assert_eq!(client.ask("MULTI"), "OK");
    assert_eq!(client.send_args(&[b"EVAL", b"return redis.call('get', 'x')", b"0"]).reply(), "QUEUED");
    assert!(client.ask("EXEC").starts_with(&format!("[-{failure}No permissions to access a key")));
    let log = admin.ask("ACL LOG 1");
    assert!(log.contains("reason key context lua object x username ann"), "{log}");
}

#[test]
fn who_is_no_user_any_more_and_who_may_not_hear_is_disconnected() {
    let (node, mut admin, mut client) = with_user("on >pw ~* resetchannels &c* +@all");
    assert_eq!(client.ask("SUBSCRIBE c1"), "[subscribe c1 1]");
    assert_eq!(admin.ask("ACL SETUSER ann &d*"), "OK");
    assert_eq!(client.ask("PING"), "[pong ]");
    assert_eq!(admin.ask("ACL SETUSER ann resetchannels &d*"), "OK");
    client.expect_closed();
    let mut other = node.connect();
    assert_eq!(other.ask("AUTH ann pw"), "OK");
    assert_eq!(admin.ask("ACL DELUSER nobody ann"), "1");
    other.expect_closed();
    assert_eq!(admin.ask("ACL DELUSER default"), "-ERR The 'default' user cannot be removed");
    assert_eq!(node.connect().ask("AUTH ann pw"), "-WRONGPASS invalid username-password pair or user is disabled.");
    assert_eq!(admin.ask("ACL SETUSER me on nopass +@all"), "OK");
    assert_eq!(admin.ask("AUTH me x"), "OK");
    assert_eq!(admin.ask("ACL DELUSER me"), "1", "whoever deletes itself is told so");
    admin.expect_closed();
}

#[test]
fn the_default_user_can_be_taken_away() {
    let node = Node::primary();
    let mut admin = node.connect();
    assert_eq!(admin.ask("ACL SETUSER ann on >pw allkeys allchannels allcommands"), "OK");
    assert_eq!(admin.ask("ACL SETUSER default off"), "OK");
    let mut client = node.connect();
    assert_eq!(client.ask("PING"), "-NOAUTH Authentication required.");
    assert_eq!(client.ask("AUTH default x"), "-WRONGPASS invalid username-password pair or user is disabled.");
    assert!(client.ask("HELLO 3 AUTH ann pw").contains("proto 3"));
    assert_eq!(client.ask("PING"), "PONG");
    assert_eq!(admin.ask("PING"), "PONG", "who was let in before stays");
    let mut waiting = node.connect();
    assert_eq!(waiting.ask("PING"), "-NOAUTH Authentication required.");
    assert_eq!(admin.ask("ACL SETUSER default on"), "OK");
    assert_eq!(waiting.ask("PING"), "PONG");
}

#[test]
fn what_is_refused_is_logged() {
    let (_node, mut admin, mut client) = with_user("on >pw ~k* +get +auth");
    client.ask("SET k v");
    client.ask("SET k v");
    client.ask("GET x");
    client.ask("AUTH ann wrong");
    let log = admin.ask("ACL LOG");
    for entry in [
        "count 1 reason auth context toplevel object auth username ann age-seconds ",
        "count 1 reason key context toplevel object x username ann age-seconds ",
        "count 2 reason command context toplevel object set username ann age-seconds ",
    ] {
        assert!(log.contains(entry), "{entry} in {log}");
    }
    assert_eq!(admin.ask("ACL LOG RESET"), "OK");
    assert_eq!(admin.ask("ACL LOG"), "[]");
    assert_eq!(admin.ask("ACL DRYRUN ann GET x"), "User ann has no permissions to access the 'x' key");
    assert_eq!(admin.ask("ACL DRYRUN ann GET k"), "OK");
    assert_eq!(admin.ask("ACL DRYRUN ann DEL k"), "User ann has no permissions to run the 'del' command");
    assert_eq!(admin.ask("ACL LOG"), "[]", "a question is no attempt");
}

#[test]
fn users_are_shown() {
    let node = Node::primary();
    let mut admin = node.connect();
    assert_eq!(admin.ask("ACL LIST"), "[user default on nopass ~* &* +@all]");
    assert_eq!(
        admin.ask("ACL SETUSER ann on nopass %R~k* (+set ~j*"),
        "-ERR Unmatched parenthesis in acl selector starting at '(+set ~j*'."
    );
    assert_eq!(admin.ask("ACL SETUSER ann on nopass %R~k* (+set ~j*)"), "OK");
    assert_eq!(
        admin.ask("ACL GETUSER ann"),
        "[flags [on nopass] passwords [] commands -@all keys %R~k* channels  databases alldbs selectors [[commands -@all +set keys ~j* \
         channels  databases alldbs]]]"
    );
    assert_eq!(admin.ask("ACL GETUSER nobody"), "nil");
    assert_eq!(admin.ask("ACL GENPASS").len(), 64);
    assert_eq!(admin.ask("ACL GENPASS 5").len(), 2);
    assert!(admin.ask("ACL CAT").starts_with("[keyspace read write set"));
    assert!(admin.ask("ACL CAT scripting").contains("script|load"));
    assert_eq!(admin.ask("ACL CAT nosuch"), "-ERR Unknown category 'nosuch'");
    assert!(admin.ask("ACL SAVE").starts_with("-ERR This instance is not configured to use an ACL file."));
    assert_eq!(admin.ask("ACL SETUSER"), "-ERR wrong number of arguments for 'acl|setuser' command");
    assert_eq!(admin.ask("ACL nosuch"), "-ERR unknown subcommand 'nosuch'. Try ACL HELP.");
}

#[test]
fn users_are_loaded_from_a_file_and_saved_to_it() {
    let path = std::env::temp_dir().join(format!("ringmaster-acl-file-{}", std::process::id()));
    std::fs::write(&path, "user ann on nopass ~* +@all\n").unwrap();
    let node = Node::primary();
    let mut files = ringmaster_node::serve::UserFiles::new(Some(path.clone()), None);
    files.read_into(node.shared.acl()).unwrap();
    files.keep(std::sync::Arc::clone(&node.shared)).unwrap();
    let mut admin = node.connect();
    assert_eq!(admin.ask("ACL USERS"), "[ann default]");
    assert_eq!(admin.ask("ACL SETUSER bob on"), "OK");
    admin.send("ACL SAVE").send("PING");
    assert_eq!(admin.reply(), "OK");
    assert_eq!(admin.reply(), "PONG");
    assert!(std::fs::read_to_string(&path).unwrap().contains("user bob on resetchannels -@all\n"));
    std::fs::write(&path, "user cy on nopass ~* +@all\nnonsense\n").unwrap();
    assert!(admin.ask("ACL LOAD").contains(":2 should start with user keyword"));
    std::fs::write(&path, "user cy on nopass ~* +@all\n").unwrap();
    assert_eq!(admin.ask("ACL LOAD"), "OK");
    assert_eq!(admin.ask("ACL USERS"), "[cy default]");
    assert_eq!(admin.ask("MULTI"), "OK");
    assert_eq!(admin.ask("ACL LOAD"), "QUEUED");
    assert_eq!(admin.ask("EXEC"), "[-ERR Command 'acl|load' not allowed inside a transaction]");
    std::fs::remove_file(&path).unwrap();
    assert!(admin.ask("ACL LOAD").starts_with("-ERR Error loading ACLs, opening file"));
}
