//! Names: what a resolver says, and what we make of it.

use std::sync::Arc;

use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig, ResolverOpts};
use tokio::{io::AsyncWriteExt, net::UdpSocket};

use super::{super::resolver_options, *};
use crate::model::{Failure, Outcome};

/// A name server that answers by the first label of the name.
async fn name_server() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::task::spawn_local(async move {
        let mut query = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut query).await {
            if let Some(reply) = reply(&query[..length]) {
                socket.send_to(&reply, from).await.unwrap();
            }
        }
    });
    address
}

/// RFC 1035, 4.1: header, the question again, and the addresses.
fn reply(query: &[u8]) -> Option<Vec<u8>> {
    let label = std::str::from_utf8(&query[13..13 + usize::from(query[12])]).unwrap();
    let end = 12 + query[12..].iter().position(|byte| *byte == 0).unwrap() + 5;
    let asks_for_v4 = query[end - 3] == 1;
    let (code, addresses): (u8, &[[u8; 4]]) = match label {
        "good" => (0, &[[127, 0, 0, 1]]),
        "mixed" => (0, &[[10, 0, 0, 1], [127, 0, 0, 1], [169, 254, 169, 254]]),
        "inside" => (0, &[[10, 0, 0, 1]]),
        "empty" => (0, &[]),
        "broken" => (2, &[]),
        "silent" => return None,
        _ => (3, &[]),
    };
    let addresses = if asks_for_v4 { addresses } else { &[] };
    let mut reply = query[..2].to_vec();
    reply.extend([0x81, 0x80 | code, 0, 1, 0, u8::try_from(addresses.len()).unwrap(), 0, 0, 0, 0]);
    reply.extend(&query[12..end]);
    for address in addresses {
        reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        reply.extend(address);
    }
    Some(reply)
}

fn sender_asking(server: SocketAddr) -> Sender {
    let mut shared = Shared::new(&config(), Arc::new(SystemClock), Metrics::new()).unwrap();
    let mut connection = ConnectionConfig::udp();
    connection.port = server.port();
    let server = NameServerConfig::new(server.ip(), true, vec![connection]);
    let options = resolver_options(ResolverOpts::default(), config().connect_timeout);
    Arc::get_mut(&mut shared).unwrap().resolver = Ok((ResolverConfig::from_parts(None, vec![], vec![server]), options));
    Sender::new(shared)
}

#[test]
fn what_the_resolver_says_decides_whose_fault_it_is() {
    run(async {
        let (address, connections) = listen(|_, mut stream| async move {
            while read_request(&mut stream).await.is_some() {
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
            }
        })
        .await;
        let sender = sender_asking(name_server().await);
        for (name, class) in [
            ("good", "delivered"),
            ("mixed", "delivered"),
            ("inside", "address_refused"),
            ("empty", "unknown_host"),
            ("nowhere", "unknown_host"),
            ("broken", "local"),
            ("silent", "local"),
        ] {
            let endpoint = Arc::new(endpoint(&format!("http://{name}.example.com:{}/", address.port())));
            let attempt = sender.attempt(&delivery("{}"), &endpoint).await;
            assert_eq!(attempt.outcome.class(), class, "{name}: {:?}", attempt.outcome);
            assert!(attempt.elapsed < LATE);
        }
        assert_eq!(*connections.borrow(), 2);
    });
}

#[test]
fn without_a_resolver_names_are_our_fault_and_addresses_still_work() {
    run(async {
        let mut shared = Shared::new(&config(), Arc::new(SystemClock), Metrics::new()).unwrap();
        Arc::get_mut(&mut shared).unwrap().resolver = Err("no such file".to_owned());
        let sender = Sender::new(shared);
        match sender.attempt(&delivery("{}"), &Arc::new(endpoint("http://hooks.example.com/"))).await.outcome {
            Outcome::Failed(Failure::Local(text)) => assert!(text.contains("no such file"), "{text}"),
            other => panic!("{other:?}"),
        }
        let attempt = sender.attempt(&delivery("{}"), &Arc::new(endpoint("http://127.0.0.1:1/"))).await;
        assert_eq!(attempt.outcome, Outcome::Failed(Failure::Refused));
    });
}
