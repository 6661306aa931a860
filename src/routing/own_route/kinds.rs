//! The kinds of routes whose weights Serin finds by itself, as a table: where the lists of backends are, how a backend names a Service, and
//! what a weight that is not there means.

use crate::object::Kind;
pub use crate::object::kinds::{GRPC_ROUTE, HTTP_PROXY, HTTP_ROUTE, INGRESS, TRAEFIK_SERVICE};

const GATEWAY: &str = "gateway.networking.k8s.io";

pub const TLS_ROUTE: Kind = Kind::namespaced(GATEWAY, "v1", "TLSRoute", "tlsroutes");
pub const TCP_ROUTE: Kind = Kind::namespaced(GATEWAY, "v1alpha2", "TCPRoute", "tcproutes");
pub const VIRTUAL_SERVICE: Kind = Kind::namespaced(
    "networking.istio.io",
    "v1",
    "VirtualService",
    "virtualservices",
);
pub const INGRESS_ROUTE: Kind =
    Kind::namespaced("traefik.io", "v1alpha1", "IngressRoute", "ingressroutes");
pub const INGRESS_ROUTE_TCP: Kind = Kind::namespaced(
    "traefik.io",
    "v1alpha1",
    "IngressRouteTCP",
    "ingressroutetcps",
);

/// How a backend of a list names a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    /// `name`, with `group`, `kind` and `namespace` where they are not the usual ones.
    Reference,
    /// `destination.host`: the Service's name, bare or with its namespace and the cluster's domain behind.
    Host,
    /// `name` of a Service, unless `mirror` is set: a copy of the requests is no share of them.
    Unmirrored,
}

/// What a weight means that is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// One.
    One,
    /// Nothing.
    Nothing,
    /// An equal share where no backend of the list has a weight above zero, else nothing.
    Equal,
}

/// Where the weights are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// In lists of backends; a `*` stands for each element of a list.
    Lists {
        /// Pointers of the lists.
        lists: &'static [&'static str],
        /// How a backend names a Service.
        naming: Naming,
        /// What a weight means that is not there.
        missing: Missing,
    },
    /// In the annotations with which nginx marks a second Ingress as the canary of a first.
    CanaryIngress,
}

/// One kind.
#[derive(Debug)]
pub struct Shape {
    pub kind: Kind,
    pub layout: Layout,
    /// Whether the status says by `parents` which gateways have accepted the route.
    pub has_parents: bool,
}

const fn lists(
    kind: Kind,
    lists: &'static [&'static str],
    naming: Naming,
    missing: Missing,
) -> Shape {
    Shape {
        kind,
        layout: Layout::Lists {
            lists,
            naming,
            missing,
        },
        has_parents: false,
    }
}

const fn gateway(kind: Kind) -> Shape {
    Shape {
        kind,
        layout: Layout::Lists {
            lists: &["/spec/rules/*/backendRefs"],
            naming: Naming::Reference,
            missing: Missing::One,
        },
        has_parents: true,
    }
}

/// Every kind.
pub static SHAPES: [Shape; 10] = [
    gateway(HTTP_ROUTE),
    gateway(GRPC_ROUTE),
    gateway(TLS_ROUTE),
    gateway(TCP_ROUTE),
    lists(
        VIRTUAL_SERVICE,
        &[
            "/spec/http/*/route",
            "/spec/tls/*/route",
            "/spec/tcp/*/route",
        ],
        Naming::Host,
        Missing::Nothing,
    ),
    lists(
        INGRESS_ROUTE,
        &["/spec/routes/*/services"],
        Naming::Reference,
        Missing::One,
    ),
    lists(
        INGRESS_ROUTE_TCP,
        &["/spec/routes/*/services"],
        Naming::Reference,
        Missing::One,
    ),
    lists(
        TRAEFIK_SERVICE,
        &["/spec/weighted/services"],
        Naming::Reference,
        Missing::One,
    ),
    lists(
        HTTP_PROXY,
        &["/spec/routes/*/services", "/spec/tcpproxy/services"],
        Naming::Unmirrored,
        Missing::Equal,
    ),
    Shape {
        kind: INGRESS,
        layout: Layout::CanaryIngress,
        has_parents: false,
    },
];

/// The shape of a kind, whatever its version.
#[must_use]
pub fn shape_of(kind: &Kind) -> Option<&'static Shape> {
    SHAPES
        .iter()
        .find(|shape| shape.kind.kind == kind.kind && shape.kind.group == kind.group)
}
