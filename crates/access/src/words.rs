//! Text out of objects, as people may see it.

use std::borrow::Cow;

/// The text with a sign in the place of every control character, and of those that change the direction of writing: rules and
/// subjects are free text, and whoever writes one must not write on an operator's screen.
pub fn visible(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_hidden) {
        return Cow::Borrowed(text);
    }
    let shown = text.chars().map(|c| match c {
        // Unicode has pictures of these.
        '\0'..='\x1f' => char::from_u32(0x2400 + c as u32).unwrap_or('\u{fffd}'),
        c if is_hidden(c) => '\u{fffd}',
        c => c,
    });
    Cow::Owned(shown.collect())
}

fn is_hidden(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_moves_the_cursor_is_shown_and_the_rest_stays() {
        assert_eq!(
            visible("get\x1b[2J\nx\u{9b}\u{202e}"),
            "get␛[2J␊x\u{fffd}\u{fffd}"
        );
        assert!(matches!(visible("Jürgen 名前 {pods}"), Cow::Borrowed(_)));
    }
}
