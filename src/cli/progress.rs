//! What happens while a verb works: a line a node that changes on a terminal, plain lines in a pipe, nothing for machines.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// Reports on standard error.
pub(super) struct Reporter {
    form: Form,
}

enum Form {
    Silent,
    /// The last line of each, so that what repeats itself is said once.
    Lines(Mutex<BTreeMap<String, String>>),
    Terminal {
        all: MultiProgress,
        lines: Mutex<BTreeMap<String, ProgressBar>>,
    },
}

impl Reporter {
    /// Silent when machines read.
    pub(super) fn new(json: bool) -> Self {
        let form = if json {
            Form::Silent
        } else if std::io::stderr().is_terminal() {
            Form::Terminal { all: MultiProgress::new(), lines: Mutex::default() }
        } else {
            Form::Lines(Mutex::default())
        };
        Self { form }
    }

    /// What `who` is at now.
    pub(super) fn at(&self, who: &str, what: &str) {
        match &self.form {
            Form::Silent => {}
            Form::Lines(last) => {
                let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
                if last.insert(who.to_owned(), what.to_owned()).as_deref() != Some(what) {
                    print(&format!("{who}: {what}"));
                }
            }
            Form::Terminal { all, lines } => {
                let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
                let line = lines.entry(who.to_owned()).or_insert_with(|| spinner(all, who));
                line.set_message(what.to_owned());
            }
        }
    }

    /// Something that stays to be read.
    pub(super) fn note(&self, text: &str) {
        match &self.form {
            Form::Silent => {}
            Form::Lines(_) => print(text),
            Form::Terminal { all, .. } => {
                // A terminal that is gone has nothing to show.
                let _ = all.println(text);
            }
        }
    }

    /// Takes the lines that change away.
    pub(super) fn clear(&self) {
        if let Form::Terminal { all, lines } = &self.form {
            lines.lock().unwrap_or_else(PoisonError::into_inner).clear();
            let _ = all.clear();
        }
    }
}

fn spinner(all: &MultiProgress, who: &str) -> ProgressBar {
    let line = all.add(ProgressBar::new_spinner());
    let style = ProgressStyle::with_template("{spinner} {prefix}  {msg}");
    line.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
    line.set_prefix(who.to_owned());
    line.enable_steady_tick(Duration::from_millis(120));
    line
}

fn print(text: &str) {
    // Nobody listens: the work goes on.
    let _ = writeln!(std::io::stderr(), "{text}");
}
