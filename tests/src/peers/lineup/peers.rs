//! nginx and haproxy: one process with one thread, kept connections to the services, no logs, and nothing else.

use std::path::PathBuf;

use anyhow::Result;

use super::{HAPROXY, NGINX, Proxy, Scene};

pub fn nginx(scene: &Scene, program: PathBuf) -> Result<Proxy> {
    let listen = scene.ports.one()?;
    let directory = scene.directory.display();
    let servers: String = scene.endpoints.addresses.map(|address| format!("        server {address};\n")).concat();
    // Without a master process: there is one process to measure and to end.
    let config = scene.write(
        "nginx.conf",
        &format!(
            "daemon off;
master_process off;
worker_rlimit_nofile 8192;
pid {directory}/nginx.pid;
error_log stderr error;
events {{
    worker_connections 4096;
}}
http {{
    access_log off;
    keepalive_requests 1000000000;
    client_body_temp_path {directory}/nginx-body;
    proxy_temp_path {directory}/nginx-proxy;
    fastcgi_temp_path {directory}/nginx-fastcgi;
    uwsgi_temp_path {directory}/nginx-uwsgi;
    scgi_temp_path {directory}/nginx-scgi;
    upstream service {{
{servers}        keepalive 128;
        keepalive_requests 1000000000;
    }}
    server {{
        listen {listen};
        location / {{
            proxy_pass http://service;
            proxy_http_version 1.1;
            proxy_set_header Connection \"\";
        }}
    }}
}}
"
        ),
    )?;
    let arguments = vec!["-e".into(), "stderr".into(), "-c".into(), config.into()];
    Ok(Proxy { name: NGINX.into(), program, arguments, http1: listen, http2: None })
}

pub fn haproxy(scene: &Scene, program: PathBuf) -> Result<Proxy> {
    let [http1, http2] = scene.ports.two()?;
    let servers = |keys: &str| -> String {
        let addresses = scene.endpoints.addresses.iter().enumerate();
        addresses.map(|(number, address)| format!("    server s{number} {address} {keys}\n")).collect()
    };
    let config = scene.write(
        "haproxy.cfg",
        &format!(
            "global
    nbthread 1
    maxconn 4096
defaults
    mode http
    timeout connect 1s
    timeout client 1m
    timeout server 1m
    http-reuse always
    balance roundrobin
listen http1
    bind {http1}
{}listen http2
    bind {http2} proto h2
{}",
            servers(""),
            servers("proto h2")
        ),
    )?;
    let arguments = vec!["-db".into(), "-f".into(), config.into()];
    Ok(Proxy { name: HAPROXY.into(), program, arguments, http1, http2: Some(http2) })
}
