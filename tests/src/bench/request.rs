//! Whole requests through the worker of the thread that measures. Caller and services are on a thread of their own, so
//! that what they cost is not counted.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::mpsc;

use http::header::AUTHORIZATION;
use tokio::runtime::Builder;
use tokio::sync::mpsc as answers;

use super::rig::Rig;
use super::scenario::Run;
use super::token::TOKEN;
use crate::client::{self, Client};
use crate::upstream::{Reply, Upstream};

/// Bytes of an answer.
const BODY: usize = 1024;

/// Starts a service for each protocol, for the life of the process.
///
/// # Panics
/// They cannot be started.
pub fn services() -> [SocketAddr; 2] {
    let (started, address) = mpsc::channel();
    std::thread::spawn(move || {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let service = Upstream::start(Reply::new(200).body(vec![b'x'; BODY])).await.expect("a service");
            started.send(service.address()).expect("somebody waits");
            std::future::pending::<()>().await;
        });
    });
    [plain_service(), address.recv().expect("the service starts")]
}

/// Speaks HTTP/1.1 and writes each answer at once: in two parts it would be read in one or two, as it happens.
fn plain_service() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a socket");
    let address = listener.local_addr().expect("its address");
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {BODY}\r\n\r\n{}", "x".repeat(BODY));
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let answer = answer.clone();
            std::thread::spawn(move || {
                let (mut read, mut piece) = (Vec::new(), [0; 4096]);
                while let Ok(length @ 1..) = stream.read(&mut piece) {
                    read.extend_from_slice(&piece[..length]);
                    if read.ends_with(b"\r\n\r\n") {
                        read.clear();
                        stream.write_all(answer.as_bytes()).expect("the answer is taken");
                    }
                }
            });
        }
    });
    address
}

/// One request to a service over one connection, answered with 200.
///
/// # Panics
/// There is no such service, or it does not answer.
pub fn run(rig: Rc<Rig>, service: &str, http2: bool) -> Run {
    let address = rig.worker.node.snapshot().listeners.first().expect("a listener").address;
    let (go, asked) = mpsc::channel();
    let (done, mut answered) = answers::unbounded_channel();
    let service = service.to_owned();
    std::thread::spawn(move || {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let connected =
            runtime.block_on(async { if http2 { Client::http2(address).await } else { Client::http1(address).await } });
        let mut client = connected.expect("a connection");
        while asked.recv().is_ok() {
            let mut request = client::get(&service, "/users/7301").expect("a request");
            let token = format!("Bearer {TOKEN}").parse().expect("a field's value");
            request.headers_mut().insert(AUTHORIZATION, token);
            let answer = runtime.block_on(client.send(request)).expect("an answer");
            assert_eq!((answer.status.as_u16(), answer.body.len()), (200, BODY), "{answer:?}");
            if done.send(()).is_err() {
                return;
            }
        }
    });
    Box::new(move || {
        go.send(()).expect("the caller is there");
        rig.local.block_on(&rig.runtime, answered.recv()).expect("an answer");
    })
}
