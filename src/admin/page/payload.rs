//! The payload of an event: its first lines with numbers, and all of it as a file.

use std::sync::Arc;

use axum::extract::State;
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use bytesize::ByteSize;
use maud::{Markup, html};

use super::parts::segment;
use super::shell::{Failure, Page, Section, page};
use crate::admin::error::{ApiError, Named};
use crate::admin::routes::Server;
use crate::domain::event::Event;
use crate::operator::select::find_event;
use crate::store::Listings;

/// The maximum size of the part that a view shows, in bytes.
const SHOWN: usize = 256 * 1024;

/// The maximum number of lines that a view shows.
const LINES: usize = 5_000;

/// Reads an event and its payload.
async fn read(server: &Server, id: String) -> Result<(Event, Bytes), ApiError> {
    let read = move |listings: &Listings| {
        let id = find_event(&id, listings)?;
        let removed = || ApiError::absent(format!("the payload of {id} was removed"));
        let (listed, _) = listings.event(&id)?.ok_or_else(removed)?;
        let payload = listings
            .payload(&listed.event.payload)?
            .ok_or_else(removed)?;
        Ok((listed.event, payload))
    };
    server.admin.read(read).await
}

pub(super) async fn view(
    State(server): State<Arc<Server>>,
    Named(id): Named,
) -> Result<Page, Failure> {
    let (event, payload) = read(&server, id).await?;
    let id = event.id.0.as_str();
    let download = format!("/events/{}/project.xml", segment(id));
    let content = html! {
        p {
            a href={ "/events/" (segment(id)) } { (event.kind.label()) " of " (event.key) } " · "
            (ByteSize(payload.len() as u64)) " · "
            a href=(download) download="project.xml" { "Download" }
        }
        (lines(&payload))
    };
    Ok(page(Section::Events, "Payload", &content))
}

/// The first lines of a payload. Invalid UTF-8 is replaced.
pub(super) fn lines(payload: &[u8]) -> Markup {
    let part = payload.get(..SHOWN).unwrap_or(payload);
    let text = String::from_utf8_lossy(part);
    let shown: Vec<&str> = text.lines().take(LINES).collect();
    let is_cut = part.len() < payload.len() || text.lines().nth(LINES).is_some();
    html! {
        ol.code tabindex="0" aria-label="Lines of the payload" {
            @for line in shown { li { code { (line) } } }
        }
        @if is_cut { p { "This is the first part. Download the payload to see the rest." } }
    }
}

/// Sends the payload as a file, byte for byte. No browser shows it as a page.
pub(super) async fn download(
    State(server): State<Arc<Server>>,
    Named(id): Named,
) -> Result<Response, Failure> {
    let (_, payload) = read(&server, id).await?;
    let headers = [
        (CONTENT_TYPE, "application/octet-stream"),
        (CONTENT_DISPOSITION, "attachment; filename=\"project.xml\""),
    ];
    Ok((headers, payload).into_response())
}
