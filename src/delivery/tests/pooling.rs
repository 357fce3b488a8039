//! Connections are used again, and what is found closed costs nobody an attempt.

use std::sync::Arc;

use tokio::{io::AsyncWriteExt, sync::mpsc};

use super::*;
use crate::model::{Failure, Outcome};

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

async fn answer_all(mut stream: TcpStream) {
    while read_request(&mut stream).await.is_some() {
        stream.write_all(OK).await.unwrap();
    }
}

#[test]
fn one_connection_serves_one_attempt_after_another() {
    run(async {
        let (address, connections) = listen(|_, stream| answer_all(stream)).await;
        let (sender, endpoint) = (sender(&config()), Arc::new(endpoint(&format!("http://{address}/"))));
        for number in 0..20 {
            let attempt = sender.attempt(&delivery("{}"), &endpoint).await;
            assert_eq!((attempt.outcome, &attempt.answer[..]), (Outcome::Delivered, &b"ok"[..]));
            assert_eq!(attempt.reused, number > 0);
            assert_eq!(attempt.connecting.is_zero(), number > 0);
        }
        assert_eq!(*connections.borrow(), 1);
        assert_eq!(sender.idle_connections(), 1);
    });
}

#[test]
fn endpoints_of_one_origin_share_its_connections() {
    run(async {
        let (address, connections) = listen(|_, stream| answer_all(stream)).await;
        let sender = sender(&config());
        for number in 0..5 {
            let mut endpoint = endpoint(&format!("http://{address}/{number}"));
            endpoint.id = format!("ep_{number}").into();
            assert_eq!(sender.attempt(&delivery("{}"), &Arc::new(endpoint)).await.outcome, Outcome::Delivered);
        }
        assert_eq!(*connections.borrow(), 1);
    });
}

/// The peer closes after each answer without saying so: every attempt meets a closed connection, and none of them fails.
#[test]
fn a_connection_closed_while_idle_is_replaced_unseen() {
    run(async {
        let (closed, mut closes) = mpsc::channel(100);
        let (address, connections) = listen(move |_, mut stream| {
            let closed = closed.clone();
            async move {
                read_request(&mut stream).await.unwrap();
                stream.write_all(OK).await.unwrap();
                drop(stream);
                closed.send(()).await.unwrap();
            }
        })
        .await;
        let (sender, endpoint) = (sender(&config()), Arc::new(endpoint(&format!("http://{address}/"))));
        for _ in 0..10 {
            let attempt = sender.attempt(&delivery("{}"), &endpoint).await;
            assert_eq!((attempt.outcome, attempt.number), (Outcome::Delivered, 1));
            closes.recv().await.unwrap();
        }
        assert_eq!(*connections.borrow(), 10);
    });
}

/// The request was taken off the wire and the connection closed without a byte: once more on a fresh one, and only once.
#[test]
fn a_request_that_met_a_closing_connection_is_sent_once_more() {
    run(async {
        let (address, connections) = listen(|number, mut stream| async move {
            read_request(&mut stream).await.unwrap();
            if number < 3 {
                stream.write_all(OK).await.unwrap();
                let _ = read_request(&mut stream).await;
            }
        })
        .await;
        let (sender, endpoint) = (sender(&config()), Arc::new(endpoint(&format!("http://{address}/"))));
        for expected in [Outcome::Delivered, Outcome::Delivered, Outcome::Failed(Failure::Reset)] {
            assert_eq!(sender.attempt(&delivery("{}"), &endpoint).await.outcome, expected);
        }
        assert_eq!(*connections.borrow(), 3);
    });
}

#[test]
fn a_request_that_was_answered_in_part_is_not_sent_again() {
    run(async {
        let (address, connections) = listen(|_, mut stream| async move {
            read_request(&mut stream).await.unwrap();
            stream.write_all(OK).await.unwrap();
            read_request(&mut stream).await.unwrap();
            stream.write_all(b"HTTP/1.1 2").await.unwrap();
        })
        .await;
        let (sender, endpoint) = (sender(&config()), Arc::new(endpoint(&format!("http://{address}/"))));
        assert_eq!(sender.attempt(&delivery("{}"), &endpoint).await.outcome, Outcome::Delivered);
        let attempt = sender.attempt(&delivery("{}"), &endpoint).await;
        assert_eq!((attempt.outcome, attempt.reused), (Outcome::Failed(Failure::Reset), true));
        assert_eq!(*connections.borrow(), 1);
    });
}

/// A late answer to one request must never be taken for the answer to the next.
#[test]
fn a_connection_that_timed_out_is_not_used_again() {
    run(async {
        let (address, connections) = listen(|number, mut stream| async move {
            while read_request(&mut stream).await.is_some() {
                if number > 1 {
                    stream.write_all(OK).await.unwrap();
                }
            }
        })
        .await;
        let (sender, endpoint) = (sender(&config()), Arc::new(endpoint(&format!("http://{address}/"))));
        assert_eq!(sender.attempt(&delivery("{}"), &endpoint).await.outcome, Outcome::Failed(Failure::ResponseTimeout));
        assert_eq!(sender.idle_connections(), 0);
        assert_eq!(sender.attempt(&delivery("{}"), &endpoint).await.outcome, Outcome::Delivered);
        assert_eq!(*connections.borrow(), 2);
    });
}

#[test]
fn an_answer_nobody_asked_for_ends_the_connection() {
    run(async {
        let (address, connections) = listen(|_, mut stream| async move {
            while read_request(&mut stream).await.is_some() {
                stream.write_all(&[OK, b"HTTP/1.1 500 Forged\r\ncontent-length: 0\r\n\r\n"].concat()).await.unwrap();
            }
        })
        .await;
        let (sender, endpoint) = (sender(&config()), Arc::new(endpoint(&format!("http://{address}/"))));
        for _ in 0..5 {
            assert_eq!(sender.attempt(&delivery("{}"), &endpoint).await.outcome, Outcome::Delivered);
        }
        assert_eq!(*connections.borrow(), 5);
    });
}

#[test]
fn a_peer_that_says_close_is_believed() {
    run(async {
        let (address, _) = listen(|_, mut stream| async move {
            read_request(&mut stream).await.unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n").await.unwrap();
            let _ = read_request(&mut stream).await;
        })
        .await;
        let sender = sender(&config());
        assert_eq!(sender.attempt(&delivery("{}"), &Arc::new(endpoint(&format!("http://{address}/")))).await.outcome, Outcome::Delivered);
        assert_eq!(sender.idle_connections(), 0);
    });
}

/// Many at once open many connections; of these only as many stay as may, and a full pool closes the oldest of another origin.
#[test]
fn idle_connections_are_bounded_per_origin_and_in_all() {
    run(async {
        let sender = sender(&Config { idle_per_origin: 2, idle_connections: 3, ..config() });
        let mut endpoints = Vec::new();
        for number in 0..3 {
            let (address, _) = listen(|_, stream| answer_all(stream)).await;
            let mut endpoint = endpoint(&format!("http://{address}/"));
            endpoint.id = format!("ep_{number}").into();
            endpoints.push(Arc::new(endpoint));
        }
        for (endpoint, idle) in endpoints.iter().zip([2, 3, 3]) {
            let delivery = delivery("{}");
            let all = (0..8).map(|_| sender.attempt(&delivery, endpoint));
            assert!(futures_util::future::join_all(all).await.iter().all(|attempt| attempt.outcome == Outcome::Delivered));
            assert_eq!(sender.idle_connections(), idle);
        }
        assert!(sender.attempt(&delivery("{}"), &endpoints[2]).await.reused, "the last one has its place");
    });
}

#[test]
fn what_nobody_uses_is_closed_after_a_while() {
    run(async {
        let (ended, mut ends) = mpsc::channel(1);
        let (address, _) = listen(move |_, stream| {
            let ended = ended.clone();
            async move {
                answer_all(stream).await;
                ended.send(()).await.unwrap();
            }
        })
        .await;
        let sender = sender(&Config { idle_timeout: Duration::from_millis(100), ..config() });
        let endpoint = Arc::new(endpoint(&format!("http://{address}/")));
        assert_eq!(sender.attempt(&delivery("{}"), &endpoint).await.outcome, Outcome::Delivered);
        ends.recv().await.unwrap();
        assert_eq!(sender.idle_connections(), 0);
        assert_eq!(Arc::strong_count(&endpoint), 1, "its prepared form is forgotten as well");
    });
}

#[test]
fn a_dropped_attempt_closes_its_connection() {
    run(async {
        let (came, mut comes) = mpsc::channel(1);
        let (ended, mut ends) = mpsc::channel(1);
        let (address, _) = listen(move |_, mut stream| {
            let (came, ended) = (came.clone(), ended.clone());
            async move {
                read_request(&mut stream).await.unwrap();
                came.send(()).await.unwrap();
                assert!(read_request(&mut stream).await.is_none());
                ended.send(()).await.unwrap();
            }
        })
        .await;
        let sender = sender(&Config { response_timeout: Duration::from_secs(60), ..config() });
        let attempt =
            tokio::task::spawn_local(
                async move { sender.attempt(&delivery("{}"), &Arc::new(endpoint(&format!("http://{address}/")))).await },
            );
        comes.recv().await.unwrap();
        attempt.abort();
        ends.recv().await.unwrap();
    });
}
