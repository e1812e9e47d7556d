//! The sockets of listeners: bound before the configuration that asks for them is published, kept for as long as name and
//! address stay, and handed to the workers with the snapshot.

use crate::config::{self, Config, Problem};
use crate::node::Node;
use crate::telemetry::metrics::handles::ListenerMetrics;
use socket2::{Domain, Protocol, SockFilter, SockRef, Socket, Type};
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Connections that wait for a worker to accept them.
const BACKLOG: i32 = 4096;
/// Bytes of one connection that the kernel takes before they can be sent. It says that it has room for more only once a part
/// of what it holds has gone, which may be megabytes otherwise: a caller that reads slowly would look like one that takes
/// nothing.
const UNSENT: u32 = 128 * 1024;
/// For a handshake that has begun to end. Callers are near; and who comes meanwhile has to wait for a second.
const HANDSHAKE: Duration = Duration::from_millis(1);

/// A bound listener: one socket for each worker, over which the kernel spreads connections.
#[derive(Debug)]
pub struct Sockets {
    pub name: Arc<str>,
    /// As bound.
    pub address: SocketAddr,
    /// As configured: port 0 asks for any.
    asked: SocketAddr,
    pub metrics: ListenerMetrics,
    /// By number of the worker; `None` once it has taken its own.
    of_workers: Mutex<Vec<Option<TcpListener>>>,
}

impl Sockets {
    /// The sockets of every listener of a configuration: those that are there, and new ones for the rest, which take
    /// connections from now on.
    ///
    /// # Errors
    /// Each address that cannot be had. Then no new one takes connections.
    pub fn of(
        node: &Node,
        file: &Path,
        config: &Config,
        previous: &[Arc<Self>],
    ) -> Result<Vec<Arc<Self>>, Vec<Problem>> {
        let (mut all, mut new, mut problems) = (Vec::new(), Vec::new(), Vec::new());
        for listener in &config.listeners {
            if let Some(there) = previous.iter().find(|sockets| sockets.serve(listener)) {
                all.push(there.clone());
                continue;
            }
            match bind(listener.listen, node.workers) {
                Ok(bound) => new.push((listener, bound)),
                Err(error) => problems.push(problem(file, listener, &error)),
            }
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        // Not before all are bound: what the kernel takes for a socket that is given up again would be lost.
        for (listener, (address, sockets)) in new {
            if let Err(error) = sockets.iter().try_for_each(|socket| socket.listen(BACKLOG)) {
                return Err(vec![problem(file, listener, &error)]);
            }
            let name = listener.name.as_str().into();
            all.push(Arc::new(Self {
                metrics: node.telemetry.metrics.listener(&name),
                name,
                address,
                asked: listener.listen,
                of_workers: Mutex::new(sockets.into_iter().map(|socket| Some(socket.into())).collect()),
            }));
        }
        Ok(all)
    }

    /// Whether these are what the listener asks for.
    fn serve(&self, listener: &config::Listener) -> bool {
        *self.name == *listener.name && (self.asked == listener.listen || self.address == listener.listen)
    }

    /// A worker's own socket, once.
    pub fn take(&self, worker: usize) -> Option<TcpListener> {
        self.of_workers.lock().unwrap_or_else(PoisonError::into_inner).get_mut(worker)?.take()
    }
}

fn problem(file: &Path, listener: &config::Listener, error: &io::Error) -> Problem {
    let message = format!("listener {:?}: cannot listen on {}: {error}", listener.name, listener.listen);
    let problem = Problem::new(file, listener.address_position(), message);
    match error.kind() {
        io::ErrorKind::AddrInUse => problem.with_hint("end what listens there, or name another port"),
        io::ErrorKind::AddrNotAvailable => problem.with_hint("name an address of this machine"),
        _ => problem,
    }
}

/// Sockets on one address, which take no connections yet. Port 0 is any free one, and the same for all.
fn bind(mut address: SocketAddr, count: usize) -> io::Result<(SocketAddr, Vec<Socket>)> {
    let mut sockets = Vec::with_capacity(count);
    for _ in 0..count {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        socket.set_nonblocking(true)?;
        // Those that it accepts have it from here.
        socket.set_tcp_notsent_lowat(UNSENT)?;
        socket.bind(&address.into())?;
        address = socket.local_addr()?.as_socket().unwrap_or(address);
        sockets.push(socket);
    }
    Ok((address, sockets))
}

/// Closes a socket and returns the connections that its callers believe open: a bare close would reset them. Takes
/// [`HANDSHAKE`].
pub async fn close(socket: TcpListener) -> Vec<(TcpStream, SocketAddr)> {
    // Without this some would slip in between the last look and the end.
    if let Err(error) = refuse_new(&socket) {
        tracing::debug!("connections that come just now may be reset: {error}");
    }
    tokio::time::sleep(HANDSHAKE).await;
    let mut waiting = Vec::new();
    for _ in 0..BACKLOG {
        match socket.accept() {
            Ok((stream, peer)) if stream.set_nonblocking(true).is_ok() => waiting.push((stream, peer)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            // Gone before it was accepted.
            Ok(_) | Err(_) => {}
        }
    }
    waiting
}

/// Lets the kernel drop what would open a connection: segments with SYN, which is bit 1 of the 14th byte of a TCP header.
/// It comes again after a second, when the socket is closed, and is refused.
fn refuse_new(socket: &impl AsFd) -> io::Result<()> {
    const LOAD_BYTE: u16 = 0x30;
    const JUMP_IF_SET: u16 = 0x45;
    const RETURN: u16 = 0x06;
    SockRef::from(socket).attach_filter(&[
        SockFilter::new(LOAD_BYTE, 0, 0, 13),
        SockFilter::new(JUMP_IF_SET, 0, 1, 0x02),
        SockFilter::new(RETURN, 0, 0, 0),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::Ipv4Addr;

    #[tokio::test]
    async fn what_the_kernel_has_accepted_outlives_the_socket() {
        let (address, mut sockets) = bind((Ipv4Addr::LOCALHOST, 0).into(), 1).unwrap();
        let socket = sockets.remove(0);
        assert!(TcpStream::connect(address).is_err(), "bound is not yet listening");
        socket.listen(BACKLOG).unwrap();
        let mut callers: Vec<_> = (0..3).map(|_| TcpStream::connect(address).unwrap()).collect();
        let waiting = close(socket.into()).await;
        assert_eq!(waiting.len(), 3);
        for (mut stream, _) in waiting {
            stream.write_all(b"served").unwrap();
        }
        for caller in &mut callers {
            let mut answer = String::new();
            caller.read_to_string(&mut answer).unwrap();
            assert_eq!(answer, "served");
        }
        assert!(TcpStream::connect(address).is_err());
    }

    #[test]
    fn a_socket_that_is_about_to_close_takes_nobody_in() {
        let (address, mut sockets) = bind((Ipv4Addr::LOCALHOST, 0).into(), 1).unwrap();
        let socket = sockets.remove(0);
        socket.listen(BACKLOG).unwrap();
        refuse_new(&socket).unwrap();
        assert!(TcpStream::connect_timeout(&address, Duration::from_millis(100)).is_err());
    }
}
