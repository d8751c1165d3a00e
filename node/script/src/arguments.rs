//! Functions of libraries that take their arguments and fail as those do that are written in C: scripts show such errors to people, and
//! compare them.
//!
//! In: a function of Rust over [`Arguments`]. Out: a function of Lua, whose errors say where in the script it was called.

use mlua::{Error, Function, Lua, LuaString, MultiValue, Result, Value};

/// Why a function failed.
pub(crate) enum Failure {
    /// What is wrong with the argument of that number.
    Argument(usize, String),
    Message(String),
    Lua(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Lua(error)
    }
}

impl Failure {
    pub(crate) fn message(text: impl Into<String>) -> Self {
        Self::Message(text.into())
    }

    /// As an error of Lua (`luaL_error`, `luaL_argerror`): behind the place where a script called the function, if a script did.
    fn at_caller(self, lua: &Lua) -> Error {
        let text = match self {
            Self::Lua(error) => return error,
            Self::Message(text) => text,
            Self::Argument(number, why) => {
                let name = lua.inspect_stack(0, |frame| frame.names().name.map(|name| name.into_owned())).flatten();
                format!("bad argument #{number} to '{}' ({why})", name.as_deref().unwrap_or("?"))
            }
        };
        let line = lua.inspect_stack(1, |frame| {
            let of_script = frame.source().source.as_deref() == Some("@user_script");
            of_script.then(|| frame.current_line()).flatten()
        });
        match line.flatten() {
            Some(line) => Error::runtime(format!("user_script:{line}: {text}")),
            None => Error::runtime(text),
        }
    }
}

/// Makes a function of Lua.
pub(crate) fn function<F>(lua: &Lua, run: F) -> Result<Function>
where
    F: Fn(&Lua, &Arguments<'_>) -> std::result::Result<MultiValue, Failure> + 'static,
{
    lua.create_function(move |lua, values: MultiValue| {
        run(lua, &Arguments { lua, values: &values }).map_err(|failure| failure.at_caller(lua))
    })
}

/// One value as what a function returns.
pub(crate) fn one(value: Value) -> MultiValue {
    MultiValue::from_vec(vec![value])
}

/// What a function was given; numbers of arguments begin with 1.
pub(crate) struct Arguments<'a> {
    lua: &'a Lua,
    values: &'a MultiValue,
}

impl Arguments<'_> {
    pub(crate) fn len(&self) -> usize {
        self.values.len()
    }

    pub(crate) fn value(&self, number: usize) -> Option<&Value> {
        self.values.get(number.checked_sub(1)?)
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &Value> {
        self.values.iter()
    }

    /// A string, or a number as Lua writes it.
    pub(crate) fn string(&self, number: usize) -> std::result::Result<LuaString, Failure> {
        match self.value(number) {
            Some(Value::String(text)) => Ok(text.clone()),
            Some(other @ (Value::Number(_) | Value::Integer(_))) => {
                self.lua.coerce_string(other.clone())?.ok_or_else(|| self.expected(number, "string"))
            }
            _ => Err(self.expected(number, "string")),
        }
    }

    /// A number, or a string that Lua reads as one.
    pub(crate) fn number(&self, number: usize) -> std::result::Result<f64, Failure> {
        match self.value(number) {
            Some(Value::Number(value)) => Ok(*value),
            Some(Value::Integer(value)) => Ok(*value as f64),
            Some(text @ Value::String(_)) => {
                self.lua.coerce_number(text.clone())?.ok_or_else(|| self.expected(number, "number"))
            }
            _ => Err(self.expected(number, "number")),
        }
    }

    /// A number without its fraction.
    pub(crate) fn integer(&self, number: usize) -> std::result::Result<i64, Failure> {
        const END: f64 = 9_223_372_036_854_775_808.0;
        let value = self.number(number)?;
        // As the processors say that most servers run on.
        Ok(if (-END..END).contains(&value) { value as i64 } else { i64::MIN })
    }

    /// The same; where there is none, or nil, `otherwise`.
    pub(crate) fn integer_or(&self, number: usize, otherwise: i64) -> std::result::Result<i64, Failure> {
        match self.value(number) {
            None | Some(Value::Nil) => Ok(otherwise),
            Some(_) => self.integer(number),
        }
    }

    pub(crate) fn expected(&self, number: usize, what: &str) -> Failure {
        let found = self.value(number).map_or("no value", type_name);
        Failure::Argument(number, format!("{what} expected, got {found}"))
    }
}

/// The name that Lua has for a value's type.
pub(crate) fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Nil => "nil",
        Value::Boolean(_) => "boolean",
        Value::LightUserData(_) | Value::UserData(_) | Value::Error(_) => "userdata",
        Value::Integer(_) | Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Table(_) => "table",
        Value::Function(_) => "function",
        Value::Thread(_) => "thread",
        _ => "value",
    }
}
