//! `math.random`: the same numbers in every run, as scripts of Redis get them (`drand48`, begun with 0).

use mlua::{Error, MultiValue, Result, Value};

#[derive(Debug)]
pub(crate) struct Random(u64);

impl Default for Random {
    fn default() -> Self {
        Self::seeded(0)
    }
}

impl Random {
    pub(crate) fn seeded(seed: u32) -> Self {
        Self(u64::from(seed) << 16 | 0x330e)
    }

    /// `random()`, `random(last)`, `random(first, last)`.
    pub(crate) fn draw(&mut self, bounds: MultiValue) -> Result<f64> {
        let bounds: Vec<i64> = bounds
            .iter()
            .map(|bound| match bound {
                Value::Integer(bound) => Ok(*bound),
                Value::Number(bound) => Ok(*bound as i64),
                _ => Err(Error::runtime("bad argument to 'random' (number expected)")),
            })
            .collect::<Result<_>>()?;
        // 31 bits, as the C library gives them.
        let part = self.next() as f64 / f64::from(1u32 << 31);
        let (first, last) = match bounds.as_slice() {
            [] => return Ok(part),
            [last] => (1, *last),
            [first, last] => (*first, *last),
            _ => return Err(Error::runtime("wrong number of arguments")),
        };
        if first > last {
            return Err(Error::runtime("bad argument to 'random' (interval is empty)"));
        }
        Ok((part * (last as f64 - first as f64 + 1.0)).floor() + first as f64)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(0x5_deec_e66d).wrapping_add(0xb) & ((1 << 48) - 1);
        self.0 >> 17
    }
}
