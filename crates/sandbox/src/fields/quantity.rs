//! Quantities (`100m`, `1Gi`) in the one form in which the server writes them.

use serde_json::Value;

/// Values are held in billionths, the finest that a quantity can express.
const NANO_DIGITS: i32 = 9;

const BINARY: [(&str, u32); 6] = [("Ki", 1), ("Mi", 2), ("Gi", 3), ("Ti", 4), ("Pi", 5), ("Ei", 6)];
const DECIMAL: [(&str, i32); 10] = [
    ("n", -9),
    ("u", -6),
    ("m", -3),
    ("", 0),
    ("k", 3),
    ("M", 6),
    ("G", 9),
    ("T", 12),
    ("P", 15),
    ("E", 18),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Notation {
    Decimal,
    Exponent,
    Binary,
}

/// Whether a value can be read as a quantity.
pub(super) fn is_quantity(value: &Value) -> bool {
    match value {
        Value::String(text) => parse(text.trim()).is_some(),
        Value::Number(number) => parse(&number.to_string()).is_some(),
        _ => false,
    }
}

/// The canonical form of a quantity; what is none is returned as it is.
pub(super) fn canonical(value: Value) -> Value {
    let text = match &value {
        Value::String(text) => text.trim().to_owned(),
        Value::Number(number) => number.to_string(),
        _ => return value,
    };
    parse(&text).map_or(value, |(nano, notation)| write(nano, notation).into())
}

/// The value in billionths; what is no quantity counts for nothing.
pub(super) fn nano(value: &Value) -> i128 {
    match value {
        Value::String(text) => parse(text.trim()),
        Value::Number(number) => parse(&number.to_string()),
        _ => None,
    }
    .map_or(0, |(nano, _)| nano)
}

/// The value in billionths, rounded up, and the notation.
fn parse(text: &str) -> Option<(i128, Notation)> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let end = digits
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(digits.len());
    let (number, suffix) = digits.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return None;
    }
    let fraction_digits = i32::try_from(fraction.len()).ok()?;
    let mantissa: i128 = format!("{whole}{fraction}").parse().ok()?;

    let (exponent, factor, notation) =
        if let Some((_, power)) = BINARY.iter().find(|(name, _)| *name == suffix) {
            (0, 1024_i128.pow(*power), Notation::Binary)
        } else if let Some((_, exponent)) = DECIMAL.iter().find(|(name, _)| *name == suffix) {
            (*exponent, 1, Notation::Decimal)
        } else {
            let exponent = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            (exponent, 1, Notation::Exponent)
        };
    let scaled = mantissa.checked_mul(factor)?;
    let shift = exponent - fraction_digits + NANO_DIGITS;
    let power = 10_i128.checked_pow(shift.unsigned_abs())?;
    let nano = if shift >= 0 {
        scaled.checked_mul(power)?
    } else {
        scaled / power + i128::from(scaled % power != 0)
    };
    Some((if negative { -nano } else { nano }, notation))
}

fn write(nano: i128, notation: Notation) -> String {
    const ONE: i128 = 1_000_000_000;
    if nano == 0 {
        return "0".to_owned();
    }
    if notation == Notation::Binary && nano.abs() >= 1024 * ONE && nano % ONE == 0 {
        let (mut number, mut power) = (nano / ONE, 0);
        while number % 1024 == 0 && power < BINARY.len() {
            number /= 1024;
            power += 1;
        }
        let suffix = if power == 0 { "" } else { BINARY[power - 1].0 };
        return format!("{number}{suffix}");
    }
    let (mut number, mut exponent) = (nano, -NANO_DIGITS);
    while number % 10 == 0 {
        number /= 10;
        exponent += 1;
    }
    while exponent % 3 != 0 || exponent > 18 {
        number *= 10;
        exponent -= 1;
    }
    if notation == Notation::Exponent {
        return if exponent == 0 {
            number.to_string()
        } else {
            format!("{number}e{exponent}")
        };
    }
    let suffix = DECIMAL
        .iter()
        .find(|(_, power)| *power == exponent)
        .map_or("", |(name, _)| name);
    format!("{number}{suffix}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_written_in_one_form() {
        for (input, expect) in [
            ("1024Mi", "1Gi"),
            ("1000m", "1"),
            ("0.5", "500m"),
            ("1.5Gi", "1536Mi"),
            ("100000", "100k"),
            ("1234", "1234"),
            ("512", "512"),
            ("1e3", "1e3"),
            ("0.1Mi", "104857600m"),
            ("1000Ki", "1000Ki"),
            ("1023Ki", "1023Ki"),
            ("0", "0"),
            ("0Gi", "0"),
            ("-1500m", "-1500m"),
            ("12E", "12E"),
            ("1Ki", "1Ki"),
            ("0.5Ki", "512"),
        ] {
            assert_eq!(canonical(input.into()), Value::from(expect), "{input}");
        }
        assert_eq!(canonical(2.into()), Value::from("2"));
        assert_eq!(canonical("lots".into()), Value::from("lots"));
    }
}
