//! `math.random`: the same numbers in every run, as scripts of Redis get them (`drand48`, begun with 0).

use std::cell::RefCell;
use std::rc::Rc;

use mlua::{Function, Lua, Result, Value};

use crate::arguments::{Failure, function, one};

#[derive(Debug)]
pub(crate) struct Random(u64);

impl Default for Random {
    fn default() -> Self {
        Self::seeded(0)
    }
}

impl Random {
    fn seeded(seed: i32) -> Self {
        Self(u64::from(seed as u32) << 16 | 0x330e)
    }

    /// A fraction of 31 bits. As the field has it, 1 is one of them.
    fn fraction(&mut self) -> f64 {
        const MAX: u64 = 0x7fff_ffff;
        self.0 = self.0.wrapping_mul(0x5_deec_e66d).wrapping_add(0xb) & ((1 << 48) - 1);
        ((self.0 >> 17) % MAX) as f64 / MAX as f64
    }
}

/// `random()`, `random(last)`, `random(first, last)`.
pub(crate) fn random(lua: &Lua, state: Rc<RefCell<Random>>) -> Result<Function> {
    function(lua, move |_, args| {
        // Drawn before the arguments are looked at.
        let fraction = state.borrow_mut().fraction();
        let int = |number| args.integer(number).map(|value| value as i32);
        let (first, last) = match args.len() {
            0 => return Ok(one(Value::Number(fraction))),
            1 => (1, int(1)?),
            2 => (int(1)?, int(2)?),
            _ => return Err(Failure::message("wrong number of arguments")),
        };
        if first > last {
            return Err(Failure::Argument(args.len(), "interval is empty".into()));
        }
        let width = f64::from(last.wrapping_sub(first).wrapping_add(1));
        Ok(one(Value::Number((fraction * width).floor() + f64::from(first))))
    })
}

pub(crate) fn seed(lua: &Lua, state: Rc<RefCell<Random>>) -> Result<Function> {
    function(lua, move |_, args| {
        let seed = args.integer(1)? as i32;
        state.replace(Random::seeded(seed));
        Ok(mlua::MultiValue::new())
    })
}
