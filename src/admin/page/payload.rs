//! The payload of an event: a view of the first lines with numbers, and a download.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderValue;
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use bytesize::ByteSize;
use futures_util::stream;
use maud::{Markup, html};
use tokio::sync::OwnedSemaphorePermit;

use super::parts::segment;
use super::shell::{Failure, Page, Section, page};
use crate::admin::error::{ApiError, Named};
use crate::admin::routes::Server;
use crate::domain::event::Event;
use crate::domain::project::ContentHash;
use crate::operator::select::find_event;
use crate::store::{Listings, PayloadPart};

/// The maximum size of the shown part of a payload, in bytes.
const SHOWN: usize = 256 * 1024;

/// The maximum number of shown lines.
const LINES: usize = 5_000;

/// The size of a part of a download, in bytes.
///
/// Each part is read separately, so a download takes the memory of one part, even if the client is
/// slow.
const PART: usize = 1024 * 1024;

/// Reads an event and the first bytes of its payload.
async fn read(server: &Server, id: String, limit: usize) -> Result<(Event, PayloadPart), ApiError> {
    let read = move |listings: &Listings| {
        let id = find_event(&id, listings)?;
        let removed = || ApiError::absent(format!("the payload of {id} was removed"));
        let (listed, _) = listings.event(&id)?.ok_or_else(removed)?;
        let part = listings.payload_part(&listed.event.payload, 0, limit)?;
        Ok((listed.event, part.ok_or_else(removed)?))
    };
    server.admin.read(read).await
}

pub(super) async fn view(
    State(server): State<Arc<Server>>,
    Named(id): Named,
) -> Result<Page, Failure> {
    let (event, payload) = read(&server, id, SHOWN).await?;
    let id = event.id.0.as_str();
    let download = format!("/events/{}/project.xml", segment(id));
    let content = html! {
        p {
            a href={ "/events/" (segment(id)) } { (event.kind.label()) " of " (event.key) } " · "
            (ByteSize(payload.size)) " · "
            a href=(download) download="project.xml" { "Download" }
        }
        (lines(&payload))
    };
    Ok(page(Section::Events, "Payload", &content))
}

/// Shows the first lines of a payload. Replaces invalid UTF-8.
fn lines(payload: &PayloadPart) -> Markup {
    let text = String::from_utf8_lossy(&payload.bytes);
    let shown: Vec<&str> = text.lines().take(LINES).collect();
    let is_cut = (payload.bytes.len() as u64) < payload.size || text.lines().nth(LINES).is_some();
    html! {
        ol.code tabindex="0" aria-label="Lines of the payload" {
            @for line in shown { li { code { (line) } } }
        }
        @if is_cut { p { "This is the first part. Download the payload to see the rest." } }
    }
}

/// Sends the unchanged payload as a file, which browsers save instead of showing.
pub(super) async fn download(
    State(server): State<Arc<Server>>,
    Named(id): Named,
) -> Result<Response, Failure> {
    let place = server.admin.download()?;
    let (event, first) = read(&server, id, PART).await?;
    let headers = [
        (
            CONTENT_TYPE,
            HeaderValue::from_static("application/octet-stream"),
        ),
        (
            CONTENT_DISPOSITION,
            HeaderValue::from_static("attachment; filename=\"project.xml\""),
        ),
        (CONTENT_LENGTH, HeaderValue::from(first.size)),
    ];
    let download = Download {
        server,
        hash: event.payload,
        position: 0,
        next: Some(first),
        _place: place,
    };
    let parts = stream::try_unfold(download, Download::part);
    Ok((headers, Body::from_stream(parts)).into_response())
}

/// A download that a client is reading.
struct Download {
    server: Arc<Server>,
    hash: ContentHash,
    position: u64,
    /// The first part, until it is sent.
    next: Option<PayloadPart>,
    _place: OwnedSemaphorePermit,
}

impl Download {
    /// Returns the next part. Returns `None` after the last one.
    async fn part(mut self) -> Result<Option<(Bytes, Self)>, Gone> {
        let part = match self.next.take() {
            Some(part) => part,
            None => {
                let (hash, position) = (self.hash, self.position);
                let read =
                    move |listings: &Listings| Ok(listings.payload_part(&hash, position, PART)?);
                let part = self.server.admin.read(read).await;
                part.ok().flatten().ok_or(Gone)?
            }
        };
        if part.bytes.is_empty() {
            return Ok(None);
        }
        self.position += part.bytes.len() as u64;
        Ok(Some((part.bytes, self)))
    }
}

/// The error if the rest of a payload cannot be read, for example after its removal.
///
/// The error closes the connection, so the client notices that bytes are missing.
#[derive(Debug, thiserror::Error)]
#[error("the rest of the payload cannot be read")]
struct Gone;
