//! The user who made a change.

use serde::{Deserialize, Serialize};

/// A kind of user account that a process has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Account {
    /// The user who logged in. It stays the same after `sudo` and `su`.
    Login,
    /// The effective user of a process without a login, such as a service.
    Effective,
}

impl Account {
    /// The name of this kind of account in listings.
    pub const fn as_str(self) -> &'static str {
        match self {
            Account::Login => "login",
            Account::Effective => "effective",
        }
    }
}

/// The user who made a change, as the kernel recorded it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Actor {
    /// The user's name, or the user id if the user has no name.
    ///
    /// Empty if the user database did not answer. Then the next configured source provides the
    /// username.
    pub user: String,
    /// The user id.
    pub uid: u32,
    /// Whether this is the login user or the effective user of the process.
    pub account: Account,
    /// The path of the program. Empty if the kernel did not record it.
    pub program: String,
    /// The process id.
    pub pid: u32,
    /// The key of the audit rule, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}
