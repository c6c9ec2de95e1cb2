//! Resource quantities (`100m`, `1Gi`, `2`), compared by value.
//! Source: Kubernetes API reference, "Quantity".

use serde_json::Value;

/// The amount in thousandths, or `None` when the text is no quantity.
fn milli(text: &str) -> Option<i128> {
    let split = text.find(|c: char| !(c.is_ascii_digit() || c == '.' || c == '-' || c == '+'));
    let (number, suffix) = text.split_at(split.unwrap_or(text.len()));
    let factor: i128 = match suffix {
        "" => 1000,
        "m" => 1,
        "k" => 1_000_000,
        "M" => 1_000_000_000,
        "G" => 1_000_000_000_000,
        "T" => 1_000_000_000_000_000,
        "P" => 1_000_000_000_000_000_000,
        "E" => 1_000_000_000_000_000_000_000,
        "Ki" => 1000 << 10,
        "Mi" => 1000 << 20,
        "Gi" => 1000 << 30,
        "Ti" => 1000 << 40,
        "Pi" => 1000 << 50,
        "Ei" => 1000 << 60,
        exponent => {
            let exponent: u32 = exponent.strip_prefix(['e', 'E'])?.parse().ok()?;
            1000 * 10_i128.checked_pow(exponent)?
        }
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let negative = whole.starts_with('-');
    let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let mut amount = whole.checked_mul(factor)?;
    let mut place = factor;
    for digit in fraction.chars() {
        place /= 10;
        let part = i128::from(digit.to_digit(10)?) * place;
        amount += if negative { -part } else { part };
    }
    Some(amount)
}

/// Whether a text is a quantity.
pub fn is_quantity(text: &str) -> bool {
    text.contains(|c: char| c.is_ascii_digit()) && milli(text).is_some()
}

/// The amount of a value in thousandths, or `None` when it is no quantity.
fn amount(value: &Value) -> Option<i128> {
    match value {
        Value::String(text) => milli(text),
        Value::Number(number) => milli(&number.to_string()),
        _ => None,
    }
}

/// Whether two values are the same quantity: `1` and `"1"`, `1024Mi` and `1Gi`.
pub fn equal(a: &Value, b: &Value) -> bool {
    match (amount(a), amount(b)) {
        (Some(a), Some(b)) => a == b,
        _ => a == b,
    }
}

/// Whether one quantity is less than another; false where one of them is none.
pub fn is_less(a: &Value, b: &Value) -> bool {
    matches!((amount(a), amount(b)), (Some(a), Some(b)) if a < b)
}

/// The amount in thousandths (a CPU's millicores; a byte counts 1000), 0 where it is no quantity.
pub fn thousandths(value: &Value) -> i128 {
    amount(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn quantities_compare_by_value() {
        let check = |a: Value, b: Value, expect: bool| assert_eq!(equal(&a, &b), expect, "{a} {b}");
        check(json!(1), json!("1"), true);
        check(json!("1024Mi"), json!("1Gi"), true);
        check(json!("0.5"), json!("500m"), true);
        check(json!("1000Mi"), json!("1Gi"), false);
        check(json!("1M"), json!("1Mi"), false);
        check(json!("1e3"), json!("1k"), true);
        check(json!("1E"), json!("1e18"), true);
        check(json!("x"), json!("x"), true);
        check(json!("x"), json!("y"), false);
    }
    #[test]
    fn quantities_are_told_from_other_texts() {
        for (text, expect) in [
            ("20Gi", true),
            ("1500Mi", true),
            (".5", true),
            ("2e9", true),
            ("Gi", false),
        ] {
            assert_eq!(is_quantity(text), expect, "{text}");
        }
        for text in ["", "20 Gi", "20GB", "1e99", "-", "many"] {
            assert!(!is_quantity(text), "{text}");
        }
    }
}
