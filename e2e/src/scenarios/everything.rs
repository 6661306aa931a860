//! Every request for the canary, as at the last step of many releases and in blue/green ones: the weights of 0 and 100, which a plane may read
//! as nothing said, and so as its default.
use anyhow::{Context, Result};
use serde_json::json;

use super::planes::Plane;
use super::shop::{self, Shop, flawless};
use super::stays::Stays;
use super::{gateway_routes, ingresses, istio};
use crate::bed::Bed;
use crate::figures::Figures;
use crate::load::Mark;

const PLANES: [&Plane; 5] = [
    &ingresses::TRAEFIK,
    &ingresses::NGINX,
    &ingresses::CONTOUR,
    &gateway_routes::HTTP_ROUTE,
    &istio::ISTIO,
];

/// On each plane, one after the other.
pub async fn for_the_canary(bed: &Bed) -> Result<()> {
    shop::serin(bed).await?;
    for plane in PLANES {
        through(bed, plane)
            .await
            .with_context(|| format!("through {}", plane.route()))?;
    }
    Ok(())
}

/// A good release answers everything before it is promoted, a bad one gives everything back.
async fn through(bed: &Bed, plane: &Plane) -> Result<()> {
    plane.gateway.start(bed).await?;
    let stays = Stays::start().await?;
    let analysis = json!({"threshold": 2, "stepWeights": [100], "webhooks": stays.hooks()});
    let shop = Shop::open(bed, "everything", plane.plan(analysis)).await?;
    shop.release("1.1.0").await?;
    plane.wait_weights(&shop, (0, 100)).await?;
    stays.hold();
    let share = stays.measure(&shop, "1.1.0", 100).await?;
    shop.wait_phase("Succeeded").await?;
    plane.wait_weights(&shop, (100, 0)).await?;
    shop.wait_only("1.1.0").await?;
    flawless(&shop.load()?.settled_since(Mark::BEGINNING).await)?;
    plane.bad(&shop).await?;
    let whole = shop.close().await?;
    let figures = Figures::new(
        &plane.route(),
        plane.gateway.name(),
        &whole,
        0,
        share.to_string(),
    );
    bed.figures().note("everything", figures);
    Ok(())
}
