//! Describes the API in OpenAPI 3.1. The description comes from the types of the handlers.

use utoipa::OpenApi;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};

use super::error::{ApiError, Json};
use super::routes;

/// The parts of the description that do not come from a handler.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "project-webhooks",
        description = "The admin API of project-webhooks: lists events, deliveries and webhooks, and \
                       changes deliveries and webhooks."
    ),
    components(schemas(ApiError)),
    modifiers(&Schemes),
    security(("token" = []), ("session" = [])),
    tags(
        (name = "read", description = "The same listings as on the command line"),
        (name = "act", description = "Changes of deliveries and webhooks")
    )
)]
pub(super) struct Description;

/// Adds the two ways to authenticate.
struct Schemes;

impl utoipa::Modify for Schemes {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let components = openapi.components.get_or_insert_default();
        let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
        components.add_security_scheme("token", SecurityScheme::Http(bearer));
        let cookie = ApiKey::Cookie(ApiKeyValue::new("project-webhooks-session"));
        components.add_security_scheme("session", SecurityScheme::ApiKey(cookie));
    }
}

/// Makes the description for each request, so that it takes no memory between requests.
pub(super) async fn document() -> Json<utoipa::openapi::OpenApi> {
    Json(routes::api().split_for_parts().1)
}
