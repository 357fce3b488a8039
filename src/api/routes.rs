//! Routes from their handlers' own declarations (`#[utoipa::path]`), beside what describes them: to describe all takes some megabytes, which a
//! daemon that nobody asks for it need not hold.

use axum::{
    Router,
    handler::Handler,
    routing::{self, MethodFilter},
};
use utoipa::{
    Path,
    openapi::{HttpMethod, OpenApi},
};

use super::Context;

/// The routes of one product, or of all.
pub struct Routes {
    pub router: Router<Context>,
    described: Vec<fn() -> OpenApi>,
}

impl Routes {
    pub fn described_by(describe: fn() -> OpenApi) -> Routes {
        Routes { router: Router::new(), described: vec![describe] }
    }

    /// Routes to `handler` where `P` declares it.
    pub fn with<P: Path, T: 'static>(self, handler: impl Handler<T, Context>) -> Routes {
        let methods = P::methods().iter().map(filter).reduce(MethodFilter::or).expect("a declaration has a method");
        Routes { router: self.router.route(&P::path(), routing::on(methods, handler)), ..self }
    }

    pub fn merge(self, other: Routes) -> Routes {
        Routes { router: self.router.merge(other.router), described: [self.described, other.described].concat() }
    }

    /// What their declarations say.
    pub fn describe(&self) -> OpenApi {
        self.described.iter().map(|describe| describe()).reduce(OpenApi::merge_from).expect("routes of at least one product")
    }
}

fn filter(method: &HttpMethod) -> MethodFilter {
    match method {
        HttpMethod::Get => MethodFilter::GET,
        HttpMethod::Put => MethodFilter::PUT,
        HttpMethod::Post => MethodFilter::POST,
        HttpMethod::Head => MethodFilter::HEAD,
        HttpMethod::Patch => MethodFilter::PATCH,
        HttpMethod::Trace => MethodFilter::TRACE,
        HttpMethod::Delete => MethodFilter::DELETE,
        HttpMethod::Options => MethodFilter::OPTIONS,
    }
}

/// [`Routes`] to these handlers, each of them named with its module.
macro_rules! routes {
    ($($module:ident::$handler:ident),+ $(,)?) => {{
        #[derive(utoipa::OpenApi)]
        #[openapi(paths($($module::$handler),+))]
        struct Declared;

        let routes = $crate::api::routes::Routes::described_by(<Declared as utoipa::OpenApi>::openapi);
        pastey::paste! { routes$(.with::<$module::[<__path_ $handler>], _>($module::$handler))+ }
    }};
}

pub(super) use routes;
