//! What the admin API is, in OpenAPI 3.1, made from the handlers themselves: their paths, queries, bodies and answers.
//!
//! `aide` reads a handler's arguments and its result. What all calls have in common is added here once: the names in paths, the
//! topic that a call belongs to, problem documents, and what a caller must show. Version 0.16 of `aide` is the one that knows the
//! `schemars` that the configuration's own schema comes from; it is pinned, because it is not final.

use std::sync::Arc;

use aide::OperationInput;
use aide::axum::ApiRouter;
use aide::generate::GenContext;
use aide::openapi::{MediaType, OpenApi, Operation, RequestBody, Response, SchemaObject, StatusCode};
use aide::operation::{OperationOutput, ParamLocation, add_parameters, parameters_from_schema, set_body};
use aide::transform::TransformOperation;
use axum::http::header;
use axum::response::IntoResponse;
use axum::{Json, Router};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Value, json};

use super::State;
use super::access::Detail;
use super::multihost::PREFIX;
use super::problem::{Document, Problem};
use super::request::{Asked, Named, Wanted};
use crate::policy::admin_access::{Scope, needed};
use crate::version;

/// Where the document is, below the prefix.
pub const PATH: &str = "/openapi.json";
/// The name of the one way to show who one is.
const TOKEN: &str = "token";
/// The type of problem documents.
const PROBLEM: &str = "application/problem+json";

/// Names a call and says what it does.
pub fn about(
    id: &'static str,
    summary: &'static str,
) -> impl for<'t> FnOnce(TransformOperation<'t>) -> TransformOperation<'t> {
    move |operation| operation.id(id).summary(summary)
}

/// An answer that all went well.
pub struct Done<T>(pub T);

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "{T}Answer")]
struct Success<T> {
    /// Always true: what failed is a problem document.
    success: bool,
    #[serde(flatten)]
    rest: T,
}

impl<T: Serialize> IntoResponse for Done<T> {
    fn into_response(self) -> axum::response::Response {
        Json(Success { success: true, rest: self.0 }).into_response()
    }
}

impl<T: JsonSchema + Serialize> OperationOutput for Done<T> {
    type Inner = T;

    fn operation_response(ctx: &mut GenContext, operation: &mut Operation) -> Option<Response> {
        Json::<Success<T>>::operation_response(ctx, operation)
    }

    fn inferred_responses(ctx: &mut GenContext, operation: &mut Operation) -> Vec<(Option<StatusCode>, Response)> {
        Json::<Success<T>>::inferred_responses(ctx, operation)
    }
}

/// The same with what was changed, for the audit.
pub struct Noted<T>(pub T, pub String);

impl<T: Serialize> IntoResponse for Noted<T> {
    fn into_response(self) -> axum::response::Response {
        let mut response = Done(self.0).into_response();
        response.extensions_mut().insert(Detail(self.1));
        response
    }
}

impl<T: JsonSchema + Serialize> OperationOutput for Noted<T> {
    type Inner = T;

    fn operation_response(ctx: &mut GenContext, operation: &mut Operation) -> Option<Response> {
        Done::<T>::operation_response(ctx, operation)
    }

    fn inferred_responses(ctx: &mut GenContext, operation: &mut Operation) -> Vec<(Option<StatusCode>, Response)> {
        Done::<T>::inferred_responses(ctx, operation)
    }
}

/// An answer about the configuration, with the hash of what is in force as its `ETag`.
pub struct Tagged<T> {
    hash: String,
    detail: Option<String>,
    view: T,
}

impl<T> Tagged<T> {
    /// An answer while this hash is in force.
    pub fn new(hash: String, view: T) -> Self {
        Self { hash, detail: None, view }
    }

    /// With what was changed, for the audit.
    pub fn about(self, detail: String) -> Self {
        Self { detail: Some(detail), ..self }
    }
}

impl<T: Serialize> IntoResponse for Tagged<T> {
    fn into_response(self) -> axum::response::Response {
        let tag = [(header::ETAG, format!("\"{}\"", self.hash))];
        let mut response = (tag, Done(self.view)).into_response();
        if let Some(detail) = self.detail {
            response.extensions_mut().insert(Detail(detail));
        }
        response
    }
}

impl<T: JsonSchema + Serialize> OperationOutput for Tagged<T> {
    type Inner = T;

    fn operation_response(ctx: &mut GenContext, operation: &mut Operation) -> Option<Response> {
        Done::<T>::operation_response(ctx, operation)
    }

    fn inferred_responses(ctx: &mut GenContext, operation: &mut Operation) -> Vec<(Option<StatusCode>, Response)> {
        Done::<T>::inferred_responses(ctx, operation)
    }
}

/// What became of an order that may take long: 200 when it is over, 202 when it goes on.
pub struct Ordered<T> {
    /// Nothing more will happen.
    pub is_over: bool,
    /// How it is.
    pub view: T,
}

impl<T: Serialize> IntoResponse for Ordered<T> {
    fn into_response(self) -> axum::response::Response {
        let status = if self.is_over { http::StatusCode::OK } else { http::StatusCode::ACCEPTED };
        (status, Json(self.view)).into_response()
    }
}

impl<T: JsonSchema> OperationOutput for Ordered<T> {
    type Inner = T;

    fn operation_response(ctx: &mut GenContext, operation: &mut Operation) -> Option<Response> {
        Json::<T>::operation_response(ctx, operation)
    }

    fn inferred_responses(ctx: &mut GenContext, operation: &mut Operation) -> Vec<(Option<StatusCode>, Response)> {
        let response = |code| Some((Some(StatusCode::Code(code)), Json::<T>::operation_response(ctx, operation)?));
        [200, 202].into_iter().filter_map(response).collect()
    }
}

/// An answer whose status says how it is: 200 when all is well, else 503.
pub struct Judged<T> {
    /// All is well.
    pub good: bool,
    /// How it is.
    pub view: T,
}

impl<T: Serialize> IntoResponse for Judged<T> {
    fn into_response(self) -> axum::response::Response {
        let status = if self.good { http::StatusCode::OK } else { http::StatusCode::SERVICE_UNAVAILABLE };
        (status, Json(self.view)).into_response()
    }
}

impl<T: JsonSchema> OperationOutput for Judged<T> {
    type Inner = T;

    fn operation_response(ctx: &mut GenContext, operation: &mut Operation) -> Option<Response> {
        Json::<T>::operation_response(ctx, operation)
    }

    fn inferred_responses(ctx: &mut GenContext, operation: &mut Operation) -> Vec<(Option<StatusCode>, Response)> {
        let response = |code| Some((Some(StatusCode::Code(code)), Json::<T>::operation_response(ctx, operation)?));
        [200, 503].into_iter().filter_map(response).collect()
    }
}

/// A stream of server-sent events.
pub struct Events<R>(pub R);

impl<R: IntoResponse> IntoResponse for Events<R> {
    fn into_response(self) -> axum::response::Response {
        self.0.into_response()
    }
}

impl<R> OperationOutput for Events<R> {
    type Inner = String;

    fn operation_response(ctx: &mut GenContext, operation: &mut Operation) -> Option<Response> {
        let mut response = String::operation_response(ctx, operation)?;
        let content = response.content.swap_remove_index(0)?.1;
        response.content = [("text/event-stream".to_owned(), content)].into_iter().collect();
        Some(response)
    }

    fn inferred_responses(ctx: &mut GenContext, operation: &mut Operation) -> Vec<(Option<StatusCode>, Response)> {
        let response = Self::operation_response(ctx, operation);
        response.map(|response| (Some(StatusCode::Code(200)), response)).into_iter().collect()
    }
}

/// The names in a path are added from the path, at the end.
impl<T> OperationInput for Named<T> {}

impl<T: JsonSchema> OperationInput for Asked<T> {
    fn operation_input(ctx: &mut GenContext, operation: &mut Operation) {
        let schema = ctx.schema.subschema_for::<T>();
        let parameters = parameters_from_schema(ctx, schema, ParamLocation::Query);
        add_parameters(ctx, operation, parameters);
    }
}

impl<T: JsonSchema> OperationInput for Wanted<T> {
    fn operation_input(ctx: &mut GenContext, operation: &mut Operation) {
        let json_schema = ctx.schema.subschema_for::<T>();
        let schema = Some(SchemaObject { json_schema, external_docs: None, example: None });
        let content =
            [("application/json".to_owned(), MediaType { schema, ..MediaType::default() })].into_iter().collect();
        set_body(ctx, operation, RequestBody { content, ..RequestBody::default() });
    }
}

/// The problems of all calls are added at the end.
impl OperationOutput for Problem {
    type Inner = Document;
}

/// The router of an API, and its document beside it. `prefix` is where it will be.
pub fn finish(api: ApiRouter<Arc<State>>, prefix: &str) -> (Router<Arc<State>>, Value) {
    let mut document = OpenApi::default();
    let router = api.finish_api_with(&mut document, |api| {
        api.title("Arriero's admin API")
            .version(version::VERSION)
            .description("What operators see and do. Errors are problem documents (RFC 9457).")
    });
    let mut document = serde_json::to_value(&document).unwrap_or_default();
    let schemas = &mut document["components"]["schemas"];
    schemas["Problem"] = json!(schemars::schema_for!(Document));
    document["components"]["securitySchemes"] = json!({
        TOKEN: { "type": "http", "scheme": "bearer", "description": "`admin.token_file` or one of `admin.tokens`" }
    });
    let paths = document["paths"].as_object_mut().map(std::mem::take).unwrap_or_default();
    let whole = paths.into_iter().map(|(path, mut item)| {
        let path = format!("{prefix}{path}");
        complete(&mut item, &path);
        (path, item)
    });
    document["paths"] = Value::Object(whole.collect());
    (router, document)
}

/// Adds the calls and types of another document.
pub fn merge(document: &mut Value, other: Value) {
    for part in ["/paths", "/components/schemas"] {
        if let (Some(Value::Object(all)), Some(Value::Object(more))) = (document.pointer_mut(part), other.pointer(part))
        {
            all.extend(more.clone());
        }
    }
}

/// What a name in a path stands for.
fn meaning(name: &str) -> &'static str {
    match name {
        "server" => "Name of the server, or `UPSTREAM%2FNAME`.",
        "model" => "Name of the model.",
        "id" => "Number of the job.",
        "section" => "A block of the file, such as `telemetry`, or one of upstreams, such as `queue`.",
        "metric" => "`latency`, `ttfb`, `queue`, `errors`, `throughput` or `tokens`.",
        "service" => "`coordination`.",
        "verb" => "`open`, `close`, `half-open` or `reset`.",
        _ => "",
    }
}

/// Adds what all calls of a path have in common.
fn complete(item: &mut Value, path: &str) {
    let names = path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    let names: Vec<Value> = names
        .map(|name| {
            let schema = json!({ "type": "string", "minLength": 1 });
            json!({ "name": name, "in": "path", "required": true, "description": meaning(name), "schema": schema })
        })
        .collect();
    let topic = if path.starts_with(PREFIX) { "multihost" } else { path.split('/').nth(3).unwrap_or("health") };
    for (method, operation) in item.as_object_mut().into_iter().flatten() {
        operation["tags"] = json!([topic]);
        let known = operation["parameters"].as_array_mut().map(std::mem::take).unwrap_or_default();
        operation["parameters"] = names.iter().cloned().chain(known).collect();
        if method == "post" && path.ends_with("/circuit-breakers/{server}/{model}") {
            // Where an order is about the server itself, the verb stands in the place of a model.
            operation["parameters"][1]["description"] = json!(meaning("verb"));
        }
        for range in ["4XX", "5XX"] {
            operation["responses"][range] = json!({
                "description": "why it was not done",
                "content": { PROBLEM: { "schema": { "$ref": "#/components/schemas/Problem" } } }
            });
        }
        let scope = needed(method == "get", path);
        operation["description"] = json!(format!("Needs the scope `{}`.", scope.as_str()));
        let with_token = json!({ TOKEN: [] });
        operation["security"] = if scope <= Scope::Read { json!([{}, with_token]) } else { json!([with_token]) };
    }
}
