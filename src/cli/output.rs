//! The one way that a verb prints: text for people, or one JSON object for machines.

use std::cell::RefCell;
use std::fmt::Display;
use std::io::Write;

use serde::Serialize;

use super::error::CliError;

/// A colour of the terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Colour {
    /// Wrong.
    Red,
    /// Right.
    Green,
    /// Worth a look.
    Yellow,
    /// A label.
    Cyan,
}

impl Colour {
    /// The SGR parameter (ECMA-48).
    const fn code(self) -> u8 {
        match self {
            Self::Red => 31,
            Self::Green => 32,
            Self::Yellow => 33,
            Self::Cyan => 36,
        }
    }
}

/// Where a verb prints.
pub struct Output {
    to: RefCell<Box<dyn Write>>,
    json: bool,
    colour: bool,
}

impl Output {
    /// Prints to `to`. `colour` is for terminals only, and never mixes with JSON.
    pub fn new(to: Box<dyn Write>, json: bool, colour: bool) -> Self {
        Self { to: RefCell::new(to), json, colour: colour && !json }
    }

    /// Whether machines read.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// Whether colours show.
    pub fn is_coloured(&self) -> bool {
        self.colour
    }

    /// Prints `value`: its JSON on one line for machines, its text for people.
    ///
    /// # Errors
    /// When standard output cannot be written.
    pub fn show<T: Serialize + Display>(&self, value: &T) -> Result<(), CliError> {
        if self.json { self.object(value) } else { self.line(value.to_string().trim_end()) }
    }

    /// Prints `value` as JSON on one line.
    ///
    /// # Errors
    /// When standard output cannot be written.
    pub fn object<T: Serialize>(&self, value: &T) -> Result<(), CliError> {
        let text = serde_json::to_string(value).map_err(|error| CliError::from_output(&error.into()))?;
        self.line(text)
    }

    /// Prints one line of text for people.
    ///
    /// # Errors
    /// When standard output cannot be written.
    pub fn line(&self, text: impl Display) -> Result<(), CliError> {
        writeln!(self.to.borrow_mut(), "{text}").map_err(|error| CliError::from_output(&error))
    }

    /// `text` in `colour`, where colours show.
    pub fn paint(&self, colour: Colour, text: &str) -> String {
        if self.colour { format!("\u{1b}[{}m{text}\u{1b}[0m", colour.code()) } else { text.to_owned() }
    }

    pub(super) fn flush(&self) -> Result<(), CliError> {
        self.to.borrow_mut().flush().map_err(|error| CliError::from_output(&error))
    }
}

/// An output that remembers what was printed.
#[cfg(test)]
pub(super) fn capture(json: bool) -> (Output, impl Fn() -> String) {
    use std::rc::Rc;

    #[derive(Clone, Default)]
    struct Shared(Rc<RefCell<Vec<u8>>>);
    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.borrow_mut().write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let shared = Shared::default();
    let out = Output::new(Box::new(shared.clone()), json, false);
    (out, move || String::from_utf8(shared.0.borrow().clone()).unwrap())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_never_mix_with_json() {
        assert_eq!(Output::new(Box::new(std::io::sink()), true, true).paint(Colour::Red, "x"), "x");
        assert_eq!(Output::new(Box::new(std::io::sink()), false, true).paint(Colour::Red, "x"), "\u{1b}[31mx\u{1b}[0m");
    }
}
