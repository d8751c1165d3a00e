//! What rules make of a user, in the words of Valkey 9.1.

use ringmaster_engine::lookup;

use super::*;

/// Applies rules to a new user.
fn user(rules: &str) -> User {
    let mut user = User::new(b"u");
    apply(&mut user, rules).unwrap();
    user
}

fn apply(user: &mut User, rules: &str) -> Result<(), RuleError> {
    let words: Vec<&[u8]> = rules.split(' ').filter(|word| !word.is_empty()).map(str::as_bytes).collect();
    merge_parentheses(&words).unwrap().iter().try_for_each(|rule| user.apply(rule))
}

fn described(user: &User) -> String {
    String::from_utf8(user.describe()).unwrap().strip_prefix("user u ").unwrap().to_owned()
}

/// Why a request is refused, in short; nothing if it is not.
fn refused_in(user: &User, db: u8, request: &str) -> String {
    let args: Vec<&[u8]> = request.split(' ').map(str::as_bytes).collect();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match user.check(&Asked { spec: lookup(args[0]).unwrap(), args: &args, db }) {
        Ok(()) => String::new(),
        Err(Denied::Command { name }) => format!("command {name}"),
        Err(Denied::Key { key, .. }) => format!("key {}", text(&key)),
        Err(Denied::Channel { channel, .. }) => format!("channel {}", text(&channel)),
        Err(Denied::Database { object }) => format!("database {object}"),
    }
}

fn refused(user: &User, request: &str) -> String {
    refused_in(user, 0, request)
}

#[test]
fn users_are_described_by_the_rules_that_would_make_them_again() {
    for (rules, description) in [
        ("", "off resetchannels -@all"),
        ("on nopass ~* &* +@all", "on nopass ~* &* +@all"),
        ("on ~cached:* +get", "on ~cached:* resetchannels -@all +get"),
        ("+get -get +@read +get", "off resetchannels -@all +@read +get"),
        ("+config|get +config|set +config", "off resetchannels -@all +config"),
        ("+config -config|get", "off resetchannels -@all +config -config|get"),
        ("+config -config|get +CONFIG|GET +Get", "off resetchannels -@all +config +config|get +get"),
        ("+@string -@string +@string -set +@string", "off resetchannels -@all -set +@string"),
        ("+@write +@all -@dangerous", "off resetchannels +@all -@dangerous"),
        ("+@ALL -GET +Config|Get +@Read", "off resetchannels +@all -get +config|get +@read"),
        ("-get +select|0 +select|1 -select", "off resetchannels -@all -get -select"),
        ("+select|1", "off resetchannels -@all +select|1"),
        ("%R~a* %W~b* %RW~c* %R~b*", "off %R~a* ~b* ~c* resetchannels -@all"),
        ("~a allkeys", "off ~* resetchannels -@all"),
        ("~a ~b resetkeys ~c", "off ~c resetchannels -@all"),
        ("&a &b* &a", "off resetchannels &a &b* -@all"),
        ("db=2,1,1", "off resetchannels db=1,2 -@all"),
        ("db=1 db=3", "off resetchannels db=3 -@all"),
        ("resetdbs", "off resetchannels resetdbs -@all"),
        ("db=1 alldbs", "off resetchannels -@all"),
        (
            "(+get ~x) (+set ~y db=1)",
            "off resetchannels -@all (~x resetchannels -@all +get) (~y resetchannels db=1 -@all +set)",
        ),
        ("()", "off resetchannels -@all (resetchannels -@all)"),
        ("(+get ~x) clearselectors", "off resetchannels -@all"),
        ("on nopass +@all ~* (+get) reset", "off resetchannels -@all"),
        (">y <y", "off resetchannels -@all"),
        ("ON ALLKEYS", "on ~* resetchannels -@all"),
    ] {
        let made = user(rules);
        assert_eq!(described(&made), description, "{rules}");
        assert_eq!(described(&user(description)), description, "{description}");
    }
    let digest = "a1fce4363854ff888cff4b8e7875d600c2682390412a8cf79b37d0b11148b0fa";
    assert_eq!(described(&user(">y >y")), format!("off #{digest} resetchannels -@all"));
    assert_eq!(described(&user(&format!("#{digest} >z !{digest} nopass"))), "off nopass resetchannels -@all");
}

#[test]
fn what_is_no_rule_is_refused_and_changes_nothing() {
    let unmade = user("on ~a +get");
    for (rule, error) in [
        ("foo", RuleError::Syntax),
        (")", RuleError::Syntax),
        ("+nosuch", RuleError::UnknownCommand),
        ("-nosuch", RuleError::UnknownCommand),
        ("+@nosuch", RuleError::UnknownCommand),
        ("+@", RuleError::UnknownCommand),
        ("+", RuleError::UnknownCommand),
        ("+|", RuleError::UnknownCommand),
        ("+config|nosuch", RuleError::UnknownCommand),
        ("+get|x|y", RuleError::UnknownCommand),
        ("-select|2", RuleError::UnknownCommand),
        ("+config|", RuleError::Syntax),
        ("+config|get|x", RuleError::FirstArgOfSubcommand),
        ("%Q~x", RuleError::Syntax),
        ("%~x", RuleError::Syntax),
        ("#abc", RuleError::BadHash),
        ("!abc", RuleError::BadHash),
        ("<nopw", RuleError::NoSuchPassword),
        ("db=", RuleError::Syntax),
        ("db=x", RuleError::Syntax),
        ("db=1,", RuleError::Syntax),
        ("(on)", RuleError::Syntax),
        ("(>x)", RuleError::Syntax),
        ("(+nosuch)", RuleError::UnknownCommand),
    ] {
        let mut changed = unmade.clone();
        assert_eq!(changed.apply(rule.as_bytes()), Err(error), "{rule}");
        assert_eq!(changed, unmade, "{rule}");
    }
    let mut all = user("allkeys allchannels");
    assert_eq!(all.apply(b"~y"), Err(RuleError::AfterAllKeys));
    assert_eq!(all.apply(b"%R~y"), Err(RuleError::AfterAllKeys));
    assert_eq!(all.apply(b"&y"), Err(RuleError::AfterAllChannels));
    assert_eq!(user("").apply(b"~a b"), Err(RuleError::Syntax));
    assert_eq!(user("").apply(b"&a b"), Err(RuleError::Syntax));
}

#[test]
fn commands_are_permitted_one_by_one_by_subcommand_and_by_category() {
    let some = user("~* +config|get +@hash -hset +select|1");
    assert_eq!(refused(&some, "CONFIG GET x"), "");
    assert_eq!(refused(&some, "config set x y"), "command config|set");
    assert_eq!(refused(&some, "hget h f"), "");
    assert_eq!(refused(&some, "hset h f v"), "command hset");
    assert_eq!(refused(&some, "get k"), "command get");
    assert_eq!(refused(&some, "select 1"), "");
    assert_eq!(refused(&some, "select 2"), "command select");
    assert_eq!(refused(&some, "auth x"), "", "whoever may do nothing may still become somebody else");
    let most = user("~* &* +@all -@dangerous -client|id");
    assert_eq!(refused(&most, "keys *"), "command keys");
    assert_eq!(refused(&most, "client list"), "command client|list", "it is dangerous itself");
    assert_eq!(refused(&most, "client id"), "command client|id");
    assert_eq!(refused(&most, "client getname"), "");
}

#[test]
fn keys_are_permitted_for_what_a_command_does_with_them() {
    let user = user("%R~r* %W~w* ~rw* +@all");
    for (request, denied) in [
        ("get r1", ""),
        ("get w1", "key w1"),
        ("set w1 1", ""),
        ("set w1 1 get", "key w1"),
        ("set rw1 1 get", ""),
        ("set r1 1", "key r1"),
        ("strlen w1", ""),
        ("strlen x1", "key x1"),
        ("copy r1 w1", ""),
        ("copy w1 r1", "key w1"),
        ("incr w1", "key w1"),
        ("bitfield r1 get u8 0", ""),
        ("bitfield w1 set u8 0 1", "key w1"),
        ("keys *", ""),
        ("eval x 1 r1", "key r1"),
        ("eval x 1 rw1", ""),
        ("eval_ro x 1 r1", ""),
        ("zunionstore w1 2 r1 w2", "key w2"),
        ("zunionstore w1 2 r1 r2", ""),
        ("xread count 1 streams w1 0", "key w1"),
        ("object encoding w1", ""),
        ("object encoding x1", "key x1"),
        ("mget r1 r2 x", "key x"),
        ("ssubscribe r1", "channel r1"),
    ] {
        assert_eq!(refused(&user, request), denied, "{request}");
    }
}

#[test]
fn channels_are_permitted_by_pattern_and_patterns_as_they_are() {
    let user = user("+@pubsub &ch1 &ch2*");
    assert_eq!(refused(&user, "publish ch1 x"), "");
    assert_eq!(refused(&user, "publish zz x"), "channel zz");
    assert_eq!(refused(&user, "subscribe ch2a ch1"), "");
    assert_eq!(refused(&user, "subscribe ch2a ch11"), "channel ch11");
    assert_eq!(refused(&user, "psubscribe ch2*"), "");
    assert_eq!(refused(&user, "psubscribe ch2a*"), "channel ch2a*");
    assert_eq!(refused(&user, "unsubscribe zz"), "");
    assert!(user.may_hear(b"ch2x", false) && !user.may_hear(b"ch2x", true) && user.may_hear(b"ch2*", true));
}

#[test]
fn databases_are_permitted_where_data_is_touched() {
    let user = user("~* &* +@all db=1,3");
    for (db, request, denied) in [
        (0, "get k", "database get"),
        (1, "get k", ""),
        (0, "dbsize", "database dbsize"),
        (0, "watch k", "database watch"),
        (0, "ping", ""),
        (0, "publish a b", ""),
        (0, "script exists a", ""),
        (0, "select 3", ""),
        (1, "select 0", "database 0"),
        (1, "select 99", ""),
        (1, "copy a b db 3", ""),
        (1, "copy a b replace db 2", "database 2"),
        (1, "flushdb", ""),
        (1, "flushall", "database flushall"),
    ] {
        assert_eq!(refused_in(&user, db, request), denied, "{request} in {db}");
    }
}

#[test]
fn one_set_of_permissions_must_permit_all_of_a_request() {
    let user = user("~k* +get (+set ~j* &ch) (+get ~z* +publish)");
    for (request, denied) in [
        ("get k1", ""),
        ("get z1", ""),
        ("set j1 1", ""),
        ("get a", "key a"),
        ("set a 1", "key a"),
        ("del a", "command del"),
        ("publish ch x", "channel ch"),
    ] {
        assert_eq!(refused(&user, request), denied, "{request}");
    }
    let user = self::user("~k* +get db=1 (+publish)");
    assert_eq!(refused(&user, "get k"), "command get", "the other set comes further");
    let user = self::user("~k* +get db=1");
    assert_eq!(refused(&user, "set a 1"), "database set", "the database is looked at first");
}

#[test]
fn only_who_is_on_and_has_the_password_is_let_in() {
    let acl = Acl::default();
    let admits = |name: &str, password: &str| acl.authenticate(name.as_bytes(), password.as_bytes()).is_some();
    assert!(!acl.is_authentication_required() && admits("default", "anything"));
    acl.set_passwords(["old", "new"]);
    assert!(acl.is_authentication_required());
    assert!(admits("default", "old") && admits("default", "new") && !admits("default", "other"));
    acl.set_passwords(["new"]);
    assert!(!admits("default", "old") && admits("default", "new") && !admits("root", "new"));
    let change = |name: &str, rules: &str| acl.change_user(name.as_bytes(), |user| apply(user, rules)).unwrap();
    change("ann", ">pw");
    assert!(!admits("ann", "pw"), "she is off");
    change("ann", "on");
    assert!(admits("ann", "pw") && !admits("ann", ""));
    change("ann", "resetpass");
    assert!(!admits("ann", "pw"), "without a password and without `nopass` nobody gets in");
    change("ann", "nopass");
    assert!(admits("ann", "anything"));
    assert!(acl.remove_user(b"ann") && !acl.remove_user(b"ann") && !admits("ann", "anything"));
}

#[test]
fn a_user_who_may_do_everything_is_known_as_such() {
    assert!(User::default_user().permits_everything());
    assert!(user("allkeys allchannels allcommands").permits_everything());
    for rules in ["~* &* +@all -get", "~k &* +@all", "~* +@all", "~* &* +@all db=0", "~* &* -@all +@read +@write"] {
        assert!(!user(rules).permits_everything(), "{rules}");
    }
}
