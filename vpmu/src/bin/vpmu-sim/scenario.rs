//! Scenario files: the parts that are not steps, and typed access to JSON.

use serde_json::Value;

/// A scenario file.
#[derive(Debug)]
pub(crate) struct Scenario {
    pub(crate) name: String,
    pub(crate) topology: [u16; 4],
    pub(crate) pmus: Vec<Value>,
    pub(crate) tasks: Vec<(String, u16)>,
    pub(crate) format: Option<Value>,
    pub(crate) steps: Vec<Value>,
}

impl Scenario {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let v: Value = serde_json::from_str(text).map_err(|e| e.to_string())?;
        let list = |key: &str| {
            v.get(key)
                .and_then(Value::as_array)
                .cloned()
                .unwrap_or_default()
        };
        let topo = |key: &str, default| {
            let n = v
                .get("topo")
                .and_then(|t| t.get(key))
                .and_then(Value::as_u64)
                .unwrap_or(default);
            u16::try_from(n).map_err(|_| format!("bad topology: {key} {n}"))
        };
        let topology = [
            topo("sockets", 1)?,
            topo("dies", 1)?,
            topo("cores", 4)?,
            topo("threads", 1)?,
        ];
        let count = topology
            .iter()
            .try_fold(1_u16, |a, b| a.checked_mul(*b))
            .unwrap_or(0);
        if !(1..=16).contains(&count) {
            return Err("bad topology: 1 to 16 CPUs".into());
        }
        let mut tasks = Vec::new();
        for t in list("tasks") {
            let cpu = num(&t, "cpu").unwrap_or(1);
            let cpu = u16::try_from(cpu).ok().filter(|c| (1..count).contains(c));
            tasks.push((
                text_of(&t, "name").unwrap_or("?").into(),
                cpu.ok_or("bad CPU of a task")?,
            ));
        }
        Ok(Self {
            name: text_of(&v, "name").ok_or("a scenario needs a name")?.into(),
            topology,
            pmus: list("pmus"),
            tasks,
            format: v.get("format").cloned(),
            steps: list("steps"),
        })
    }
}

/// A string member.
pub(crate) fn text_of<'a>(v: &'a Value, key: &str) -> Option<&'a str> {
    v.get(key)?.as_str()
}

/// A whole number; `true` and `false` are 1 and 0.
pub(crate) fn num(v: &Value, key: &str) -> Option<i64> {
    number(v.get(key)?)
}

/// A value as a whole number.
pub(crate) fn number(v: &Value) -> Option<i64> {
    match v {
        Value::Bool(b) => Some(i64::from(*b)),
        Value::Number(n) => {
            #[expect(
                clippy::cast_possible_truncation,
                reason = "as the oracle's driver does"
            )]
            let truncated = || n.as_f64().map(|f| f as i64);
            n.as_i64()
                .or_else(|| n.as_u64().map(u64::cast_signed))
                .or_else(truncated)
        }
        _ => None,
    }
}

/// An unsigned 64-bit number, in which −1 is all ones.
pub(crate) fn word(v: &Value, key: &str) -> Option<u64> {
    num(v, key).map(i64::cast_unsigned)
}

/// A flag.
pub(crate) fn flag(v: &Value, key: &str) -> bool {
    num(v, key).is_some_and(|n| n != 0)
}

/// A span in ms with fractions, as ns, rounded by adding `half`.
pub(crate) fn millis(v: &Value, key: &str, default: f64, half: f64) -> u64 {
    let ms = v.get(key).and_then(Value::as_f64).unwrap_or(default);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "saturates"
    )]
    let ns = (ms * 1e6 + half) as u64;
    ns
}

/// A set of flags: a number, or names that stand for bits.
pub(crate) fn bits(v: Option<&Value>, names: &[(&str, u64)], default: u64) -> Result<u64, String> {
    match v {
        None => Ok(default),
        Some(Value::Array(list)) => {
            let mut all = 0;
            for item in list {
                let name = item.as_str().unwrap_or("?");
                let found = names.iter().find(|(n, _)| *n == name);
                all |= found.ok_or_else(|| format!("unknown flag {name}"))?.1;
            }
            Ok(all)
        }
        Some(v) => number(v)
            .map(i64::cast_unsigned)
            .ok_or_else(|| "bad flags".into()),
    }
}
