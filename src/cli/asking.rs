//! What the verbs share that ask the running Arriero: where it is, how an answer is shown, what becomes of a refusal.

use std::process::ExitCode;

use serde::de::DeserializeOwned;

use super::admin_client::{self, Problem, Question};
use super::output::{self, Look, Page};
use super::{AdminArguments, FAILED};

/// Where the running Arriero is, and how its answer is shown.
#[derive(clap::Args)]
pub struct Asking {
    #[command(flatten)]
    pub admin: AdminArguments,
    /// Print the answer of the admin listener as it is: JSON on one line, indented on a terminal.
    #[arg(long, global = true)]
    pub json: bool,
}

impl Asking {
    /// Asks, shows the answer and gives the exit code. `show` makes what people read of it.
    pub fn tell<T: DeserializeOwned>(&self, question: Question, show: impl FnOnce(&T, &Look) -> Page) -> ExitCode {
        match self.told(question, show) {
            Ok(code) => code,
            Err(problem) => problem.report(),
        }
    }

    fn told<T: DeserializeOwned>(
        &self,
        question: Question,
        show: impl FnOnce(&T, &Look) -> Page,
    ) -> Result<ExitCode, Problem> {
        let answer = admin_client::ask(&self.admin, question)?;
        let document = serde_json::from_slice::<serde::de::IgnoredAny>(&answer.body).is_ok();
        if self.json && document {
            output::print(&output::json(&answer.body)).map_err(Problem::Here)?;
        }
        if !answer.is_good() {
            return Err(Problem::refused(&answer));
        }
        let said = serde_json::from_slice(&answer.body).map_err(|error| Problem::Unreadable(error.to_string()))?;
        let page = show(&said, &Look::of_stdout());
        if !self.json {
            output::print(&page.text).map_err(Problem::Here)?;
        }
        if let Some(wrong) = &page.wrong {
            eprintln!("error: {wrong}");
        }
        Ok(if page.wrong.is_some() || page.is_bad { ExitCode::from(FAILED) } else { ExitCode::SUCCESS })
    }
}

/// Who gives an order, as far as the environment says.
pub fn who() -> String {
    let named = |name: &str| std::env::var(name).ok().filter(|name| !name.is_empty());
    named("SUDO_USER").or_else(|| named("USER")).or_else(|| named("LOGNAME")).unwrap_or_else(|| "cli".to_owned())
}
