//! Every answer, and every lack of one, is a class within its deadline.

use std::{rc::Rc, sync::Arc, time::Instant};

use tokio::{io::AsyncWriteExt, net::TcpStream};

use super::*;
use crate::model::{Failure, Outcome};

/// What a hostile or broken receiver does after it has read the request.
#[derive(Clone, Copy)]
enum Act {
    /// Writes this and waits for us to close.
    Say(&'static [u8]),
    /// Writes this and closes.
    SayAndClose(&'static [u8]),
    /// Writes the first, then the second again and again, as fast as it is read.
    Repeat(&'static [u8], &'static [u8]),
    /// Writes the first, then one byte now and then.
    Drip(&'static [u8]),
    /// Closes in the way that makes the peer see a reset.
    Abort,
}

async fn act(mut stream: TcpStream, act: Act) {
    if read_request(&mut stream).await.is_none() {
        return;
    }
    match act {
        Act::Say(bytes) => {
            let _ = stream.write_all(bytes).await;
            let _ = read_request(&mut stream).await;
        }
        Act::SayAndClose(bytes) => {
            let _ = stream.write_all(bytes).await;
        }
        Act::Repeat(first, then) => {
            let _ = stream.write_all(first).await;
            while stream.write_all(then).await.is_ok() {}
        }
        Act::Drip(first) => {
            let _ = stream.write_all(first).await;
            let mut tick = tokio::time::interval(std::time::Duration::from_millis(20));
            loop {
                tick.tick().await;
                if stream.write_all(b"x").await.is_err() {
                    return;
                }
            }
        }
        Act::Abort => socket2::SockRef::from(&stream).set_linger(Some(std::time::Duration::ZERO)).unwrap(),
    }
}

#[test]
fn whatever_a_receiver_does_is_classed_within_the_deadline() {
    const CHUNKED: &[u8] = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    let cases: &[(&str, Act, &str, Option<u16>)] = &[
        ("empty 200", Act::Say(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"), "delivered", Some(200)),
        ("204", Act::Say(b"HTTP/1.1 204 No Content\r\n\r\n"), "delivered", Some(204)),
        ("HTTP/1.0 until the end", Act::SayAndClose(b"HTTP/1.0 200 OK\r\n\r\nfine"), "delivered", Some(200)),
        (
            "a hint before the answer",
            Act::Say(b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"),
            "delivered",
            Some(200),
        ),
        (
            "non-ASCII headers",
            Act::Say(b"HTTP/1.1 200 Sch\xf6n\r\nx-name: \xe4\xc3\xb6\xff\r\ncontent-length: 0\r\n\r\n"),
            "delivered",
            Some(200),
        ),
        ("non-ASCII body", Act::Say(b"HTTP/1.1 500 Oh\r\ncontent-length: 3\r\n\r\n\xff\xfe\x00"), "status_5xx", Some(500)),
        ("400", Act::Say(b"HTTP/1.1 400 Bad\r\ncontent-length: 2\r\n\r\nno"), "status_4xx", Some(400)),
        ("429", Act::Say(b"HTTP/1.1 429 Slow\r\nretry-after: 7\r\ncontent-length: 0\r\n\r\n"), "status_429", Some(429)),
        ("redirect", Act::Say(b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n"), "redirect", Some(302)),
        ("reset", Act::Abort, "reset", None),
        ("closed without a word", Act::SayAndClose(b""), "reset", None),
        ("closed in the head", Act::SayAndClose(b"HTTP/1.1 200 OK\r\nx: "), "reset", None),
        ("closed in the body", Act::SayAndClose(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc"), "reset", Some(200)),
        ("closed in a failure's body", Act::SayAndClose(b"HTTP/1.1 500 Oh\r\ncontent-length: 10\r\n\r\nabc"), "status_5xx", Some(500)),
        ("stall", Act::Say(b""), "response_timeout", None),
        ("stall in the head", Act::Say(b"HTTP/1.1 200 OK\r\n"), "response_timeout", None),
        ("drip in the head", Act::Drip(b"HTTP/1.1 200 OK\r\nx: "), "response_timeout", None),
        ("hints without end", Act::Repeat(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n"), "response_timeout", None),
        ("stall in the body", Act::Say(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc"), "body_timeout", Some(200)),
        ("drip in the body", Act::Drip(b"HTTP/1.1 200 OK\r\n\r\n"), "body_timeout", Some(200)),
        ("garbage", Act::Say(b"\x16\x03\x01 what is this\r\n\r\n"), "protocol", None),
        ("another protocol", Act::SayAndClose(b"220 mail.example.com ESMTP\r\n"), "protocol", None),
        ("a broken chunk", Act::Say(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n"), "protocol", Some(200)),
        ("two lengths", Act::Say(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab"), "protocol", None),
        (
            "a head without end",
            Act::Repeat(b"HTTP/1.1 200 OK\r\n", b"x-filler: 0123456789012345678901234567890123456789\r\n"),
            "protocol",
            None,
        ),
        (
            "an upgrade nobody asked for",
            Act::Say(b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n"),
            "protocol",
            Some(101),
        ),
        // A 2xx is a success; what follows beyond the limit is not read.
        ("a body without end", Act::Repeat(CHUNKED, b"20\r\n................................\r\n"), "delivered", Some(200)),
        ("a huge body", Act::Repeat(b"HTTP/1.1 200 OK\r\ncontent-length: 9999999999\r\n\r\n", &[b'.'; 8192]), "delivered", Some(200)),
    ];
    for (name, script, class, status) in cases {
        let script = *script;
        run(async {
            let (address, _) = listen(move |_, stream| act(stream, script)).await;
            let endpoint = Arc::new(endpoint(&format!("http://{address}/hook")));
            let before = Instant::now();
            let attempt = sender(&config()).attempt(&delivery("{}"), &endpoint).await;
            assert_eq!(attempt.outcome.class(), *class, "{name}: {:?}", attempt.outcome);
            assert_eq!(attempt.status, *status, "{name}");
            assert!(before.elapsed() < LATE, "{name} took {:?}", before.elapsed());
            assert!(attempt.answer.len() <= 16 * 1024, "{name}");
            assert_eq!(attempt.number, 1);
        });
    }
}

#[test]
fn the_answer_is_kept_as_it_came_up_to_the_limit() {
    run(async {
        let answers: [(&[u8], &[u8]); 3] = [
            (b"HTTP/1.1 500 Oh\r\ncontent-length: 3\r\n\r\n\xff\xfe\x00", b"\xff\xfe\x00"),
            (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n3\r\ncde\r\n0\r\nx: y\r\n\r\n", b"abcde"),
            (b"HTTP/1.1 200 OK\r\ncontent-length: 12\r\n\r\n0123456789ab", b"01234567"),
        ];
        for (wire, kept) in answers {
            let (address, _) = listen(move |_, stream| act(stream, Act::Say(wire))).await;
            let config = Config { answer_limit: bytesize::ByteSize::b(8), ..config() };
            let attempt = sender(&config).attempt(&delivery("{}"), &Arc::new(endpoint(&format!("http://{address}/")))).await;
            assert_eq!(attempt.answer, kept);
        }
    });
}

#[test]
fn retry_after_of_a_failure_is_told_and_that_of_a_success_is_not() {
    run(async {
        for (wire, wait) in [
            (&b"HTTP/1.1 503 Later\r\nretry-after: 120\r\ncontent-length: 0\r\n\r\n"[..], Some(Duration::from_secs(120))),
            (b"HTTP/1.1 429 Slow\r\nretry-after: 999999\r\ncontent-length: 0\r\n\r\n", Some(Duration::from_secs(86_400))),
            (b"HTTP/1.1 500 Oh\r\nretry-after: \xff\r\ncontent-length: 0\r\n\r\n", None),
            (b"HTTP/1.1 200 OK\r\nretry-after: 120\r\ncontent-length: 0\r\n\r\n", None),
        ] {
            let (address, _) = listen(move |_, stream| act(stream, Act::Say(wire))).await;
            let attempt = sender(&config()).attempt(&delivery("{}"), &Arc::new(endpoint(&format!("http://{address}/")))).await;
            assert_eq!(attempt.retry_after, wait);
        }
    });
}

#[test]
fn nobody_there_is_refused() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let attempt = sender(&config()).attempt(&delivery("{}"), &Arc::new(endpoint(&format!("http://{address}/")))).await;
        assert_eq!(attempt.outcome, Outcome::Failed(Failure::Refused));
    });
}

#[test]
fn a_refused_address_is_never_connected_to() {
    run(async {
        let (address, connections) = listen(|_, stream| act(stream, Act::Say(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"))).await;
        let config = Config { allow_networks: vec![], ..config() };
        for host in ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "2130706433"] {
            let endpoint = Arc::new(endpoint(&format!("http://{host}:{}/", address.port())));
            let attempt = sender(&config).attempt(&delivery("{}"), &endpoint).await;
            match attempt.outcome {
                Outcome::Failed(Failure::AddressRefused(text)) => {
                    assert!(text.contains("`loopback`") && text.contains("delivery.allow_networks"), "{text}");
                }
                other => panic!("{host}: {other:?}"),
            }
        }
        assert_eq!(*connections.borrow(), 0);
    });
}

#[test]
fn a_hanging_endpoint_does_not_delay_another() {
    run(async {
        let (hanging, _) = listen(|_, stream| act(stream, Act::Say(b""))).await;
        let (fine, _) = listen(|_, stream| act(stream, Act::Say(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"))).await;
        let sender = sender(&config());
        let hangs = Rc::new(sender.clone());
        let stuck =
            tokio::task::spawn_local(
                async move { hangs.attempt(&delivery("{}"), &Arc::new(endpoint(&format!("http://{hanging}/")))).await },
            );
        let mut other = endpoint(&format!("http://{fine}/"));
        other.id = "ep_2".into();
        let attempt = sender.attempt(&delivery("{}"), &Arc::new(other)).await;
        assert_eq!(attempt.outcome, Outcome::Delivered);
        assert!(!stuck.is_finished());
        assert_eq!(stuck.await.unwrap().outcome, Outcome::Failed(Failure::ResponseTimeout));
    });
}
