//! The grammar of label selectors, which is also what the complaints about them speak of.

use std::iter::Peekable;
use std::str::Chars;

use super::{Requirement, Test};
use crate::golang::quote;
use crate::prepare::names::{not_label_value, not_qualified};

/// Characters that words end at.
const SPECIAL: &[char] = &['=', '!', '(', ')', ',', '>', '<'];
const SYMBOLS: &[&str] = &["!", "!=", ")", "(", ",", "=", "==", ">", "<"];

/// A word or symbol. `None` stands for the end.
type Token = Option<String>;

/// Reads a selector, or says where it stopped to be one.
pub(super) fn parse(selector: &str) -> Result<Vec<Requirement>, String> {
    let mut tokens = tokens(selector).into_iter().peekable();
    let mut requirements = Vec::new();
    while let Some(token) = tokens.peek() {
        if !is_word(token) && token != "!" {
            return Err(format!(
                "found '{token}', expected: !, identifier, or 'end of string'"
            ));
        }
        let read = requirement(&mut tokens).map_err(|why| format!("unable to parse requirement: {why}"))?;
        requirements.push(read);
        match tokens.next() {
            None => break,
            Some(comma) if comma == "," => match tokens.peek() {
                Some(next) if is_word(next) || next == "!" => {}
                next => {
                    let found = next.map(String::as_str).unwrap_or_default();
                    return Err(format!("found '{found}', expected: identifier after ','"));
                }
            },
            Some(other) => return Err(format!("found '{other}', expected: ',' or 'end of string'")),
        }
    }
    Ok(requirements)
}

fn is_word(token: &str) -> bool {
    !token.starts_with(SPECIAL)
}

fn tokens(selector: &str) -> Vec<String> {
    let mut characters = selector.chars().peekable();
    let mut tokens = Vec::new();
    while let Some(&first) = characters.peek() {
        if matches!(first, ' ' | '\t' | '\r' | '\n') {
            characters.next();
        } else if SPECIAL.contains(&first) {
            tokens.push(symbol(&mut characters));
        } else {
            let mut word = String::new();
            while let Some(next) =
                characters.next_if(|c| !SPECIAL.contains(c) && !matches!(c, ' ' | '\t' | '\r' | '\n'))
            {
                word.push(next);
            }
            tokens.push(word);
        }
    }
    tokens
}

/// The longest symbol that comes next. Every special character is one by itself.
fn symbol(characters: &mut Peekable<Chars>) -> String {
    let mut symbol = String::new();
    while let Some(&next) = characters.peek() {
        let longer = format!("{symbol}{next}");
        if !SYMBOLS.contains(&longer.as_str()) {
            break;
        }
        symbol = longer;
        characters.next();
    }
    symbol
}

fn shown(token: Token) -> String {
    token.unwrap_or_default()
}

fn requirement(tokens: &mut Peekable<impl Iterator<Item = String>>) -> Result<Requirement, String> {
    let mut first = tokens.next();
    let is_absent = first.as_deref() == Some("!");
    if is_absent {
        first = tokens.next();
    }
    let key = match first {
        Some(key) if is_word(&key) => key,
        other => return Err(format!("found '{}', expected: identifier", shown(other))),
    };
    let why = not_qualified(&key);
    if !why.is_empty() {
        return Err(format!("invalid label key {}: {}", quote(&key), why.join("; ")));
    }
    let ends = tokens.peek().is_none_or(|next| next == ",");
    let test = if is_absent {
        Test::Absent
    } else if ends {
        Test::Exists
    } else {
        comparison(tokens, &key)?
    };
    Ok(Requirement { key, test })
}

fn comparison(tokens: &mut Peekable<impl Iterator<Item = String>>, key: &str) -> Result<Test, String> {
    let operator = shown(tokens.next());
    let values = match operator.as_str() {
        "in" | "notin" => listed(tokens)?,
        "=" | "==" | "!=" | ">" | "<" => vec![exact(tokens)?],
        other => {
            return Err(format!(
                "found '{other}', expected: '=', '!=', '==', 'in', notin'"
            ));
        }
    };
    let number = || {
        values
            .first()
            .and_then(|value| value.parse().ok())
            .ok_or("for 'Gt', 'Lt' operators, the value must be an integer")
    };
    let bound = if matches!(operator.as_str(), ">" | "<") {
        number()?
    } else {
        0
    };
    for value in &values {
        let why = not_label_value(value);
        if !why.is_empty() {
            return Err(format!(
                "invalid label value: {}: at key: {}: {}",
                quote(value),
                quote(key),
                why.join("; ")
            ));
        }
    }
    Ok(match operator.as_str() {
        "in" | "=" | "==" => Test::In(values),
        ">" => Test::Greater(bound),
        "<" => Test::Less(bound),
        _ => Test::NotIn(values),
    })
}

/// One value; where there is none it is the empty one.
fn exact(tokens: &mut Peekable<impl Iterator<Item = String>>) -> Result<String, String> {
    if tokens.peek().is_none_or(|next| next == ",") {
        return Ok(String::new());
    }
    match tokens.next() {
        Some(value) if is_word(&value) => Ok(value),
        other => Err(format!("found '{}', expected: identifier", shown(other))),
    }
}

/// Values in parentheses.
fn listed(tokens: &mut Peekable<impl Iterator<Item = String>>) -> Result<Vec<String>, String> {
    match tokens.next() {
        Some(open) if open == "(" => {}
        other => return Err(format!("found '{}' expected: '('", shown(other))),
    }
    match tokens.peek() {
        Some(close) if close == ")" => {
            tokens.next();
            return Ok(vec![String::new()]);
        }
        Some(next) if is_word(next) || next == "," => {}
        other => {
            let found = other.map(String::as_str).unwrap_or_default();
            return Err(format!("found '{found}', expected: ',', ')' or identifier"));
        }
    }
    let mut values = Vec::new();
    loop {
        // Commas with nothing before or after them stand for the empty value.
        match tokens.next() {
            Some(word) if is_word(&word) => {
                values.push(word);
                match tokens.peek() {
                    Some(next) if next == "," => {}
                    Some(next) if next == ")" => break,
                    other => {
                        let found = other.map(String::as_str).unwrap_or_default();
                        return Err(format!("found '{found}', expected: ',' or ')'"));
                    }
                }
            }
            Some(comma) if comma == "," => {
                if values.is_empty() {
                    values.push(String::new());
                }
                match tokens.peek().map(String::as_str) {
                    Some(")") => {
                        values.push(String::new());
                        break;
                    }
                    Some(",") => {
                        tokens.next();
                        values.push(String::new());
                    }
                    _ => {}
                }
            }
            other => {
                return Err(format!("found '{}', expected: ',', or identifier", shown(other)));
            }
        }
    }
    // What ended the list.
    tokens.next();
    Ok(values)
}
