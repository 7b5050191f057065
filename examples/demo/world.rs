//! What the story plays on: the nodes, the roster that they share, and the key of the command line that asks them.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use frostkeep::client::Client;
use frostkeep::roster::Roster;
use frostkeep::tls::TlsKey;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::Failed;
use crate::liar;
use crate::nodes::{DemoNode, reach};
use crate::tool::{Ran, Tool, text};

/// A command line with the roster and the key that say where nodes are and who asks. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Desk {
    tool: Tool,
    /// Where its files are.
    pub(crate) directory: PathBuf,
}

impl Desk {
    fn with_reach(&self, arguments: &[&str]) -> Vec<String> {
        let path = |name: &str| self.directory.join(name).display().to_string();
        let mut all: Vec<String> = arguments.iter().map(|&word| word.to_owned()).collect();
        all.extend(["--roster".into(), path("roster.toml"), "--key".into(), path("operator.key")]);
        all
    }

    /// Runs the command to its end.
    ///
    /// # Errors
    /// As [`Tool::run`].
    pub(crate) async fn run(&self, arguments: &[&str]) -> Result<Ran, Failed> {
        self.tool.run(&self.with_reach(arguments)).await
    }

    /// The same, where nothing but success will do.
    ///
    /// # Errors
    /// As [`Tool::answer`].
    pub(crate) async fn answer(&self, arguments: &[&str]) -> Result<serde_json::Value, Failed> {
        self.tool.answer(&self.with_reach(arguments)).await
    }
}

/// Fields drop in this order: the processes end before their files go.
pub(crate) struct World {
    liar: Option<Liar>,
    nodes: Vec<DemoNode>,
    tool: Tool,
    key: Arc<TlsKey>,
    client_line: String,
    directory: TempDir,
}

struct Liar(Child);

impl Drop for Liar {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl World {
    /// An empty world, with the key of a command line that may do everything.
    pub(crate) async fn new() -> Result<Self, Failed> {
        let directory = tempfile::Builder::new().prefix("frostkeep-demo-").tempdir()?;
        let tool = Tool::built()?;
        let file = directory.path().join("operator.key");
        let roles = ["coordinator", "admin", "observer"];
        let mut arguments = vec!["client", "init", "--name", "operator", "--key"];
        let path = file.display().to_string();
        arguments.push(&path);
        arguments.extend(roles.iter().flat_map(|role| ["--role", role]));
        let client_line = text(&tool.answer(&arguments).await?, "line")?.to_owned();
        let key = Arc::new(TlsKey::read(&file)?);
        Ok(Self { liar: None, nodes: Vec::new(), tool, key, client_line, directory })
    }

    pub(crate) fn tool(&self) -> &Tool {
        &self.tool
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn add(&mut self, node: DemoNode) {
        self.nodes.push(node);
    }

    /// Node `number`, from 1.
    pub(crate) fn node(&mut self, number: u16) -> Result<&mut DemoNode, Failed> {
        let index = usize::from(number).checked_sub(1);
        index.and_then(|index| self.nodes.get_mut(index)).ok_or_else(|| format!("there is no node {number}").into())
    }

    pub(crate) fn nodes(&mut self) -> &mut [DemoNode] {
        &mut self.nodes
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    pub(crate) fn roster(&self) -> PathBuf {
        self.file("roster.toml")
    }

    /// Writes the roster: the command line, every node with the member of its number, and `more`.
    pub(crate) async fn write_roster(&self, more: &str) -> Result<(), Failed> {
        let mut text = self.client_line.clone();
        for (number, node) in (1..).zip(&self.nodes) {
            text.push_str("\n\n");
            text.push_str(&with_seat(node.line(), number));
        }
        text.push_str("\n\n");
        text.push_str(more);
        Ok(tokio::fs::write(self.roster(), text).await?)
    }

    /// The ways to the nodes, in their order.
    pub(crate) fn clients(&self) -> Result<Vec<Client>, Failed> {
        let roster = Roster::read(&self.roster())?;
        (1..=self.nodes.len()).map(|number| reach(&roster, &format!("node-{number}"), &self.key)).collect()
    }

    /// The command line of the operator.
    pub(crate) fn desk(&self) -> Desk {
        Desk { tool: self.tool.clone(), directory: self.path().to_owned() }
    }

    /// Starts the lying node; gives its roster line.
    pub(crate) async fn start_liar(&mut self, member: usize) -> Result<String, Failed> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["--liar".as_ref(), self.roster().as_os_str()]);
        let mut process = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let out = process.stdout.take().ok_or("no output")?;
        self.liar = Some(Liar(process));
        let mut lines = BufReader::new(tokio::fs::File::from_std(std::os::fd::OwnedFd::from(out).into())).lines();
        let line = lines.next_line().await?.ok_or("the lying node said nothing")?;
        let line: liar::Line = serde_json::from_str(&line)?;
        Ok(format!(
            "[[node]]\nname = \"{}\"\naddress = \"{}\"\nidentity = \"{}\"\nserving_pin = \"{}\"\nclient_pin = \"{}\"\n\
             members = [{member}]\nroles = [\"peer\"]\n",
            liar::NAME,
            line.address,
            line.identity,
            line.serving_pin,
            line.client_pin
        ))
    }

    /// The end of every node's log.
    pub(crate) fn last_words(&self) -> String {
        let words = (1..).zip(&self.nodes).map(|(number, node)| format!("-- node {number}\n{}", node.last_words()));
        words.collect::<Vec<_>>().join("\n")
    }
}

/// The line with its operator's decision in it: which member the node holds.
fn with_seat(line: &str, number: usize) -> String {
    let mut lines: Vec<String> = line.lines().filter(|line| !line.starts_with("members")).map(str::to_owned).collect();
    lines.push(format!("members = [{number}]"));
    lines.join("\n")
}
