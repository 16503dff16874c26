//! The HTML around each view (head and navigation), the error views and the login form.

use axum::http::StatusCode;
use axum::response::{Html, IntoResponse, Response};
use maud::{DOCTYPE, Markup, html};

use crate::admin::error::ApiError;

/// An entry of the navigation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Section {
    Overview,
    Webhooks,
    Deliveries,
    Events,
    Files,
    Settings,
}

impl Section {
    const ALL: [Self; 6] = [
        Self::Overview,
        Self::Webhooks,
        Self::Deliveries,
        Self::Events,
        Self::Files,
        Self::Settings,
    ];

    const fn path(self) -> &'static str {
        match self {
            Self::Overview => "/",
            Self::Webhooks => "/webhooks",
            Self::Deliveries => "/deliveries",
            Self::Events => "/events",
            Self::Files => "/files",
            Self::Settings => "/settings",
        }
    }

    const fn title(self) -> &'static str {
        match self {
            Self::Overview => "Overview",
            Self::Webhooks => "Webhooks",
            Self::Deliveries => "Deliveries",
            Self::Events => "Events",
            Self::Files => "Ignored files",
            Self::Settings => "Settings",
        }
    }
}

/// A complete HTML page, ready to be sent.
pub(super) type Page = Html<String>;

/// Puts the content of a view into a complete page.
pub(super) fn page(section: Section, title: &str, content: &Markup) -> Page {
    frame(Some(section), title, content)
}

fn frame(current: Option<Section>, title: &str, content: &Markup) -> Page {
    let document = html! {
        (DOCTYPE)
        html lang="en" {
            (head(title))
            body {
                a.skip href="#main" { "Skip to the content" }
                header {
                    nav aria-label="Views" {
                        @for section in Section::ALL {
                            @let here = (current == Some(section)).then_some("page");
                            a href=(section.path()) aria-current=[here] { (section.title()) }
                        }
                    }
                    p #live role="status" {}
                    form method="post" action="/logout" { button type="submit" { "Log out" } }
                }
                main #main tabindex="-1" {
                    h1 { (title) }
                    (content)
                }
            }
        }
    };
    Html(document.into_string())
}

fn head(title: &str) -> Markup {
    html! {
        head {
            meta charset="utf-8";
            meta name="viewport" content="width=device-width, initial-scale=1";
            meta name="color-scheme" content="light dark";
            title { (title) " · project-webhooks" }
            link rel="stylesheet" href="/page.css";
            link rel="icon" href="/icon.svg";
            script src="/page.js" defer {}
        }
    }
}

/// Makes the login form. `alert` is the error of the last attempt.
pub(in crate::admin) fn login(alert: Option<&str>) -> Page {
    let document = html! {
        (DOCTYPE)
        html lang="en" {
            (head("Log in"))
            body {
                main.login #main {
                    h1 { "project-webhooks" }
                    @if let Some(alert) = alert {
                        p.bad role="alert" { (alert) }
                    }
                    form method="post" action="/login" {
                        label for="token" { "Token" }
                        input #token type="password" name="token" required autofocus
                            autocomplete="current-password" aria-describedby="which";
                        p #which {
                            "The token of the setting admin.token. If " code { "project-webhooks init" }
                            " wrote the configuration, the file admin-token next to it has the token."
                        }
                        button.main type="submit" { "Log in" }
                    }
                }
            }
        }
    };
    Html(document.into_string())
}

/// The error of a view. The answer is a page that shows the error.
pub(super) struct Failure(ApiError);

impl<E: Into<ApiError>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        failed(&self.0)
    }
}

fn failed(error: &ApiError) -> Response {
    let title = title_of(error.status);
    let content = html! {
        p.bad role="alert" { (error.error) }
        p { a href="/" { "Overview" } }
    };
    let page = frame(None, title, &content);
    error.with_headers((error.status, page).into_response())
}

fn title_of(status: StatusCode) -> &'static str {
    match status {
        StatusCode::NOT_FOUND => "Not found",
        StatusCode::BAD_REQUEST => "Not valid",
        StatusCode::CONFLICT => "Nothing was changed",
        StatusCode::FORBIDDEN | StatusCode::PAYLOAD_TOO_LARGE => "Refused",
        _ => "Not available",
    }
}

/// Makes the page for a refused request, without the navigation.
pub(in crate::admin) fn refused(error: &ApiError) -> Response {
    let title = title_of(error.status);
    let document = html! {
        (DOCTYPE)
        html lang="en" {
            (head(title))
            body {
                main.login #main {
                    h1 { (title) }
                    p.bad role="alert" { (error.error) }
                    p { a href="/" { "Overview" } }
                }
            }
        }
    };
    let page = Html(document.into_string());
    error.with_headers((error.status, page).into_response())
}

/// Makes the page for a path that does not exist.
pub(in crate::admin) fn no_page() -> Response {
    failed(&ApiError::absent("There is no page at this address."))
}
