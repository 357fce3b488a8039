//! The yardstick: a bare hyper client. One thread, one HTTP/1.1 connection per task, the same body and the same signature, and nothing
//! else: no log, no queue, no retry.

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use sha2::Sha256;
use std::{cell::Cell, net::SocketAddr, rc::Rc};

/// Sends `total` signed requests with `body` over `tasks` connections.
pub fn run(address: SocketAddr, total: u64, tasks: usize, body: Bytes, secret: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let local = tokio::task::LocalSet::new();
    let key = Hmac::<Sha256>::new_from_slice(secret).expect("any length will do");
    let left = Rc::new(Cell::new(total));
    local.block_on(&runtime, async {
        let tasks: Vec<_> = (0..tasks)
            .map(|_| {
                let (body, key, left) = (body.clone(), key.clone(), Rc::clone(&left));
                tokio::task::spawn_local(async move {
                    let stream = tokio::net::TcpStream::connect(address).await.expect("connected");
                    stream.set_nodelay(true).expect("it can be");
                    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("a handshake");
                    tokio::task::spawn_local(async move {
                        let _ = connection.await;
                    });
                    while left.get() > 0 {
                        let number = left.get();
                        left.set(number - 1);
                        let id = format!("event-{number}");
                        let timestamp = "1789474359";
                        let mut mac = key.clone();
                        for part in [id.as_bytes(), b".", timestamp.as_bytes(), b".", &body] {
                            mac.update(part);
                        }
                        let request = http::Request::post("/")
                            .header("host", "127.0.0.1")
                            .header("content-type", "application/json")
                            .header("webhook-id", id)
                            .header("webhook-timestamp", timestamp)
                            .header("webhook-signature", format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes())))
                            .body(Full::new(body.clone()))
                            .expect("a request");
                        sender.ready().await.expect("the connection is open");
                        let response = sender.send_request(request).await.expect("an answer");
                        assert!(response.status().is_success());
                        response.into_body().collect().await.expect("a body");
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.expect("it does not panic");
        }
    });
}
