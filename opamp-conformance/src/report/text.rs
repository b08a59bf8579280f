//! Text for those who read a report as text: nothing a peer sent may act on a terminal, and lines
//! stay short enough to be read.

use std::fmt::Write as _;

use super::{By, Line};

/// `text` with what a terminal or an XML parser would act on or refuse made visible: control
/// characters but the line feed and tab, marks that change the direction of writing, and the two
/// noncharacters.
pub(super) fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\t' => shown.push(c),
            '\r' => shown.push_str("\\r"),
            '\u{200e}'
            | '\u{200f}'
            | '\u{202a}'..='\u{202e}'
            | '\u{2066}'..='\u{2069}'
            | '\u{feff}'
            | '\u{fffe}'
            | '\u{ffff}' => {
                // Writing to a string does not fail.
                let _ = write!(shown, "{}", c.escape_unicode());
            }
            c if c.is_control() => {
                let _ = write!(shown, "{}", c.escape_unicode());
            }
            c => shown.push(c),
        }
    }
    shown
}

/// [`visible`] text on one line, cut after `limit` characters.
pub(super) fn one_line(text: &str, limit: usize) -> String {
    let words = visible(text).split_whitespace().collect::<Vec<_>>().join(" ");
    match words.char_indices().nth(limit) {
        None => words,
        Some(_) => {
            let kept: String = words.chars().take(limit.saturating_sub(1)).collect();
            kept + "…"
        }
    }
}

/// Appends `text` in lines of at most `width` characters where its words allow it: the first after
/// `head`, the others indented as far as `head` is long.
pub(super) fn wrapped(out: &mut String, head: &str, text: &str, width: usize) {
    let head = visible(head);
    let indent = head.chars().count();
    let mut column = indent;
    out.push_str(&head);
    for word in visible(text).split_whitespace() {
        let length = word.chars().count();
        if column > indent {
            if column + 1 + length > width {
                out.push('\n');
                out.extend(std::iter::repeat_n(' ', indent));
                column = indent;
            } else {
                out.push(' ');
                column += 1;
            }
        }
        out.push_str(word);
        column += length;
    }
    out.push('\n');
}

/// `1 case`, `2 cases`.
pub(super) fn number(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// The head of a line of a transcript: time, connection and direction.
pub(super) fn line_head(line: &Line) -> String {
    let by = match line.by {
        By::Tester => "tester  → subject",
        By::Subject => "subject → tester ",
        By::Remark => "remark           ",
    };
    let connection = match line.connection {
        0 => "   ".to_owned(),
        connection => format!("#{connection:<2}"),
    };
    format!("{:>7} ms {connection} {by}", line.at_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_text_acts_on_a_terminal() {
        assert_eq!(
            visible("a\x1b[2Jb\u{9b}c\u{202e}d\r\n\te"),
            "a\\u{1b}[2Jb\\u{9b}c\\u{202e}d\\r\n\te"
        );
        assert_eq!(one_line("a \n  b\x07", 9), "a b\\u{7}");
        assert_eq!(one_line("abcdef", 4), "abc…");
        assert_eq!(one_line("abcd", 4), "abcd");
    }

    #[test]
    fn lines_are_broken_between_words() {
        let mut out = String::new();
        wrapped(&mut out, "  é: ", "one two three unbreakablyLong x", 14);
        assert_eq!(out, "  é: one two\n     three\n     unbreakablyLong\n     x\n");
    }
}
