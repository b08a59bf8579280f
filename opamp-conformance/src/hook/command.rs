//! Hooks that are a command: run once for each action, with the action on its standard input.

use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Map, Value};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use super::{Action, HookError, Hooks, MAX_ANSWER, answer, request};
use crate::program::CommandLine;

/// The exit status that says that an action is not supported, as in other test harnesses.
const UNSUPPORTED: i32 = 77;
/// How long to read on after a command has ended.
const REST: Duration = Duration::from_millis(100);

/// A command that does what actions say.
#[derive(Debug, Clone)]
pub struct CommandHook {
    command: CommandLine,
    about: Map<String, Value>,
    limit: Duration,
}

impl CommandHook {
    /// Runs this command, and gives it up after `limit`.
    #[must_use]
    pub fn new(command: CommandLine, limit: Duration) -> Self {
        Self { command, about: Map::new(), limit }
    }

    /// The same with one more member in the JSON of each action.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.about.insert(name.to_owned(), value.into());
        self
    }

    /// Whether the command can be found.
    ///
    /// # Errors
    ///
    /// When it cannot.
    pub fn check(&self) -> Result<(), String> {
        self.command.check()
    }

    async fn run(&self, action: &Action) -> Result<Value, HookError> {
        let (mut program, mut stdin, mut stdout) =
            self.command.start_piped().map_err(HookError::Failed)?;
        let request = request(action, &self.about);
        let mut output = Vec::new();
        let status = {
            let write = async move {
                // A hook may answer without reading everything.
                let _ = stdin.write_all(&request).await;
            };
            let read = async {
                while output.len() <= MAX_ANSWER && stdout.read_buf(&mut output).await? > 0 {}
                Ok(output.len() > MAX_ANSWER)
            };
            let mut talk = std::pin::pin!(async { tokio::join!(write, read).1 });
            let status = tokio::select! {
                talked = &mut talk => match talked {
                    Ok(true) => return Err(HookError::Failed("the answer is too long".to_owned())),
                    Ok(false) => Ok(None),
                    Err(error) => Err(error),
                },
                status = program.wait() => status.map(Some),
            };
            match status {
                Ok(None) => program.wait().await,
                Ok(Some(status)) => {
                    // What it left running, such as a restarted server, may hold its output open.
                    let _ = timeout(REST, talk).await;
                    Ok(status)
                }
                Err(error) => Err(error),
            }
        };
        let status = status.map_err(|error| HookError::Failed(error.to_string()))?;
        match status.code() {
            Some(0) => answer(&output),
            Some(UNSUPPORTED) => Err(HookError::Unsupported),
            _ => Err(HookError::Failed(format!("it ended with {status}{}", program.last_words()))),
        }
    }
}

#[async_trait]
impl Hooks for CommandHook {
    async fn call(&self, action: &Action) -> Result<Value, HookError> {
        timeout(self.limit, self.run(action)).await.unwrap_or_else(|_| {
            let limit = self.limit.as_secs_f64();
            Err(HookError::Failed(format!("it did not end within {limit:.0} s")))
        })
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    fn hook(script: &str) -> CommandHook {
        let words = ["sh", "-c", script].map(str::to_owned);
        let line = shlex::try_join(words.iter().map(String::as_str)).unwrap();
        CommandHook::new(CommandLine::parse(&line).unwrap(), Duration::from_secs(20))
    }

    async fn call(script: &str) -> Result<Value, HookError> {
        let action = Action::RestartAgent { instance_uid: "x".into() };
        hook(script).with("pid", 7).call(&action).await
    }

    #[tokio::test]
    async fn the_command_gets_the_action_and_its_answer_comes_back() {
        let answer = call("printf '{\"got\": %s}' \"$(cat)\"").await.unwrap();
        assert_eq!(answer["got"]["hook"], "restart_agent");
        assert_eq!(answer["got"]["instance_uid"], "x");
        assert_eq!(answer["got"]["pid"], 7);
        assert_eq!(call("exit 0").await.unwrap(), serde_json::json!({}));
        let leaves_something = call("sleep 3 & echo '{\"a\": 1}'").await;
        assert_eq!(leaves_something.unwrap(), serde_json::json!({"a": 1}));
    }

    #[tokio::test]
    async fn what_a_command_cannot_do_is_told() {
        assert_eq!(call("exit 77").await, Err(HookError::Unsupported));
        let Err(HookError::Failed(why)) = call("echo no such agent >&2; exit 1").await else {
            panic!("it failed");
        };
        assert!(why.contains('1'), "{why}");
        for wrong in ["echo no json", "echo [1]", "cat /dev/zero"] {
            assert!(matches!(call(wrong).await, Err(HookError::Failed(_))), "{wrong}");
        }
        let stuck = CommandHook { limit: Duration::from_millis(50), ..hook("sleep 60") };
        let Err(HookError::Failed(why)) = stuck.call(&Action::RestartServer).await else {
            panic!("it did not end");
        };
        assert!(why.contains("did not end"), "{why}");
    }
}
