//! What one more of a thing costs in memory: the slope of a line through some sizes.

use anyhow::{Context, Result};

use super::node::{Files, Node};
use super::shape::{self, Shape};
use crate::soak::health::slope;
use crate::weir::Setup;

/// Bytes for each of a thing, and by how much the points are off the line, as a share of the largest.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    pub bytes: f64,
    pub bend: f64,
}

/// Starts a node for each size, and measures it at rest.
pub async fn cost(sizes: [u32; 3], setup: impl Fn(u32) -> Setup) -> Result<Cost> {
    let mut points = Vec::new();
    for size in sizes {
        let node = Node::start(&Files::write(&setup(size))?).await?;
        points.push((f64::from(size), node.resident().await?));
    }
    line(&points)
}

fn line(points: &[(f64, f64)]) -> Result<Cost> {
    let bytes = slope(points);
    let (first, last) = (points.first().context("a point")?, points.last().context("a point")?);
    let off = points.iter().map(|(x, y)| (y - (first.1 + bytes * (x - first.0))).abs()).fold(0.0, f64::max);
    Ok(Cost { bytes, bend: off / (last.1 - first.1).abs().max(1.0) })
}

/// Policies that are in no chain have their instances all the same, one for each worker. There are two workers.
pub async fn of_instance(plugin: &'static str) -> Result<Cost> {
    let cost = cost([0, 50, 100], |count| {
        let mut setup = shape::base().toml(shape::KEY);
        for number in 0..count {
            setup = setup.policy(&format!("p{number}"), plugin, shape::config_of(plugin));
        }
        setup
    });
    let Cost { bytes, bend } = cost.await?;
    Ok(Cost { bytes: bytes / 2.0, bend })
}

/// Services without endpoints, endpoints of so many services, and routes to one service.
pub async fn of_parts(services: u32) -> Result<[Cost; 3]> {
    let probe = shape::address(0xff, 9);
    let setup = |shape: Shape| shape.setup(9, probe);
    let third = |number: u32| [number / 4, number / 2, number];
    let service = cost(third(services), |services| setup(Shape { services, ..Shape::default() })).await?;
    let endpoint = cost([1, 5, 10], |endpoints| setup(Shape { services, endpoints, routes: 0 })).await?;
    let route = cost(third(services), |routes| setup(Shape { services: 1, endpoints: 1, routes })).await?;
    let endpoint = Cost { bytes: endpoint.bytes / f64::from(services), ..endpoint };
    Ok([service, endpoint, route])
}
