//! What orders about models say in their bodies.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::policy::queue::Class;
use crate::units::Duration;

/// Who goes first when requests wait for loads too.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    /// When nobody else waits.
    Low,
    /// Since the moment of the order.
    #[default]
    Normal,
    /// Before everybody.
    High,
}

impl From<Priority> for Class {
    fn from(priority: Priority) -> Self {
        match priority {
            Priority::Low => Self::Low,
            Priority::Normal => Self::Normal,
            Priority::High => Self::High,
        }
    }
}

/// Brings a model into memory.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Warmup {
    /// Only on these servers; on all that have the model by default.
    pub servers: Option<Vec<String>>,
    /// Who goes first.
    pub priority: Priority,
    /// How long the answer may wait for the end.
    pub wait: Option<Duration>,
    /// Who orders it.
    pub who: Option<String>,
}

/// Takes a model out of memory.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct Unload {
    /// Only on these servers; wherever it is in memory by default.
    pub servers: Option<Vec<String>>,
    /// Only on this one.
    pub server_id: Option<String>,
    /// Also where it is pinned or used.
    pub force: bool,
    /// How long the answer may wait for the end.
    pub wait: Option<Duration>,
    /// Who orders it.
    pub who: Option<String>,
}

/// Has servers fetch the model of the path.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct Pull {
    /// Only these servers; all by default.
    pub servers: Option<Vec<String>>,
    /// Most servers at a time; 2 by default.
    pub parallel: Option<usize>,
    /// A model that runs elsewhere, or a registry that is not Ollama's own, is meant.
    #[serde(alias = "allow_remote")]
    pub allow_remote: bool,
    /// How long the answer may wait for the end.
    pub wait: Option<Duration>,
    /// Who orders it.
    pub who: Option<String>,
}

/// Has the server of the path fetch a model.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct PullTo {
    /// The model.
    pub model: String,
    /// A model that runs elsewhere, or a registry that is not Ollama's own, is meant.
    #[serde(default, alias = "allow_remote")]
    pub allow_remote: bool,
    /// How long the answer may wait for the end.
    pub wait: Option<Duration>,
    /// Who orders it.
    pub who: Option<String>,
}

/// Gives the model of the path another name beside its own.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Copy {
    /// The other name.
    pub destination: String,
    /// Only on these servers; on all that have the model by default.
    pub servers: Option<Vec<String>>,
    /// Also where another model of that name is pinned or used.
    #[serde(default)]
    pub force: bool,
    /// A name that tells of another place is meant.
    #[serde(default, alias = "allow_remote")]
    pub allow_remote: bool,
    /// How long the answer may wait for the end.
    pub wait: Option<Duration>,
    /// Who orders it.
    pub who: Option<String>,
}

/// Gives a model on the server of the path another name beside its own.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct CopyOn {
    /// The model.
    pub source: String,
    /// The other name.
    pub destination: String,
    /// Also where another model of that name is pinned or used.
    #[serde(default)]
    pub force: bool,
    /// A name that tells of another place is meant.
    #[serde(default, alias = "allow_remote")]
    pub allow_remote: bool,
    /// How long the answer may wait for the end.
    pub wait: Option<Duration>,
    /// Who orders it.
    pub who: Option<String>,
}

/// Takes the model of the path off the disks.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Delete {
    /// Only on these servers; then `confirm` is not needed.
    pub servers: Option<Vec<String>>,
    /// The name of the model once more: it is meant everywhere.
    pub confirm: Option<String>,
    /// Also where it is pinned or used.
    pub force: bool,
    /// How long the answer may wait for the end.
    pub wait: Option<Duration>,
    /// Who orders it.
    pub who: Option<String>,
}

/// The same in a query; some clients send no body in a DELETE.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DeleteQuery {
    /// See [`Delete`].
    pub confirm: Option<String>,
    /// See [`Delete`].
    pub force: bool,
    /// See [`Delete`].
    pub wait: Option<Duration>,
}

/// Takes a model off the disk of the server of the path.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DeleteFrom {
    /// Also where it is pinned or used.
    pub force: bool,
    /// How long the answer may wait for the end.
    pub wait: Option<Duration>,
    /// Who orders it.
    pub who: Option<String>,
}
