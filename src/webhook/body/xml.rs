//! Builds `application/xml`: the XML as the body, with the parameters in the query.

use super::Body;
use crate::webhook::request::CallbackContent;

pub(super) fn build(content: &CallbackContent) -> Body {
    Body {
        query: content
            .parameters
            .iter()
            .map(|(parameter, value)| (parameter.as_str().to_owned(), value.clone()))
            .collect(),
        ..Body::plain("application/xml", content.payload.clone())
    }
}
