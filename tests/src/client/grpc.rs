//! A client of the gRPC echo service.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use futures_util::Stream;
use http::uri::PathAndQuery;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

use crate::upstream::{EchoReply, EchoRequest, paths};

type Codec = ProstCodec<EchoRequest, EchoReply>;

/// Calls the echo service, in all four ways, through a proxy.
#[derive(Clone, Debug)]
pub struct EchoClient {
    grpc: Grpc<Channel>,
}

impl EchoClient {
    /// Connects to `proxy` and calls `service`: the name goes into `:authority`.
    pub async fn connect(proxy: SocketAddr, service: &str) -> Result<Self> {
        let origin = format!("http://{service}");
        let origin = origin.parse().with_context(|| format!("not the name of a service: {service}"))?;
        let channel = Endpoint::from_shared(format!("http://{proxy}"))?.origin(origin).connect().await;
        let channel = channel.with_context(|| format!("cannot connect to {proxy}"))?;
        Ok(Self { grpc: Grpc::new(channel) })
    }

    pub async fn unary(&mut self, request: Request<EchoRequest>) -> Result<Response<EchoReply>, Status> {
        self.ready().await?;
        self.grpc.unary(request, PathAndQuery::from_static(paths::UNARY), Codec::default()).await
    }

    pub async fn server_stream(
        &mut self,
        request: Request<EchoRequest>,
    ) -> Result<Response<Streaming<EchoReply>>, Status> {
        self.ready().await?;
        let path = PathAndQuery::from_static(paths::SERVER_STREAM);
        self.grpc.server_streaming(request, path, Codec::default()).await
    }

    pub async fn client_stream(
        &mut self,
        requests: Request<impl Stream<Item = EchoRequest> + Send + 'static>,
    ) -> Result<Response<EchoReply>, Status> {
        self.ready().await?;
        let path = PathAndQuery::from_static(paths::CLIENT_STREAM);
        self.grpc.client_streaming(requests, path, Codec::default()).await
    }

    pub async fn bidi(
        &mut self,
        requests: Request<impl Stream<Item = EchoRequest> + Send + 'static>,
    ) -> Result<Response<Streaming<EchoReply>>, Status> {
        self.ready().await?;
        self.grpc.streaming(requests, PathAndQuery::from_static(paths::BIDI), Codec::default()).await
    }

    async fn ready(&mut self) -> Result<(), Status> {
        self.grpc.ready().await.map_err(|error| Status::unavailable(format!("no connection: {error}")))
    }
}
