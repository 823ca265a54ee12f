use super::*;

fn listener(connections: u32, connections_per_ip: u32, requests: u32) -> Arc<Connections> {
    let limits = ConnectionLimits { connections, connections_per_ip, requests };
    Arc::new(Connections::new(Arc::default(), limits))
}

fn ip(text: &str) -> Option<IpAddr> {
    Some(text.parse().unwrap())
}

#[test]
fn a_client_cannot_take_all_connections_of_a_listener() {
    let listener = listener(5, 2, u32::MAX);
    let first = listener.try_open(ip("192.0.2.1")).unwrap();
    let second = listener.try_open(ip("::ffff:192.0.2.1")).unwrap();
    assert_eq!(listener.try_open(ip("192.0.2.1")).unwrap_err(), TooMany::OfClient);
    assert_eq!((listener.open(), listener.all.needed()), (2, 4), "what is refused is not counted");
    let other = listener.try_open(ip("192.0.2.2")).unwrap();
    drop(first);
    let third = listener.try_open(ip("192.0.2.1")).unwrap();
    drop((second, other, third));
    assert_eq!((listener.open(), listener.clients(), listener.all.needed()), (0, 0, 0));
}

#[test]
fn the_addresses_of_a_64_are_one_client() {
    let listener = listener(10, 1, u32::MAX);
    let _first = listener.try_open(ip("2001:db8::1")).unwrap();
    assert_eq!(listener.try_open(ip("2001:db8::ffff:2")).unwrap_err(), TooMany::OfClient);
    assert!(listener.try_open(ip("2001:db8:0:1::1")).is_ok());
}

#[test]
fn a_listener_has_a_most_whoever_comes() {
    let listener = listener(3, 2, u32::MAX);
    let open: Vec<_> = (1..=3).map(|n| listener.try_open(ip(&format!("192.0.2.{n}"))).unwrap()).collect();
    assert_eq!(listener.try_open(ip("192.0.2.9")).unwrap_err(), TooMany::OfListener);
    assert_eq!(listener.try_open(None).unwrap_err(), TooMany::OfListener);
    drop(open);
    assert!(listener.try_open(None).is_ok());
}

#[test]
fn a_trusted_proxy_speaks_for_many_clients() {
    let listener = listener(10, 1, u32::MAX);
    let mut proxied: Vec<_> = (0..4).map(|_| listener.try_open(None).unwrap()).collect();
    assert_eq!(listener.clients(), 0);
    assert!(proxied[0].belongs_to("192.0.2.1".parse().unwrap()));
    assert!(proxied[0].belongs_to("192.0.2.1".parse().unwrap()), "again the same");
    assert!(!proxied[1].belongs_to("192.0.2.1".parse().unwrap()));
    assert!(proxied[1].belongs_to("192.0.2.2".parse().unwrap()));
    assert!(proxied[0].belongs_to("192.0.2.3".parse().unwrap()));
    assert!(proxied[2].belongs_to("192.0.2.1".parse().unwrap()), "the first is another's now");
    drop(proxied);
    assert_eq!((listener.open(), listener.clients()), (0, 0));
}

#[test]
fn requests_have_a_limit_of_their_own() {
    let listener = listener(1, 1, 2);
    let first = listener.try_request().unwrap();
    let _second = listener.try_request().unwrap();
    assert!(listener.try_request().is_none());
    drop(first);
    assert!(listener.try_request().is_some());
    listener.set_limits(ConnectionLimits { connections: 1, connections_per_ip: 1, requests: 1 });
    assert_eq!(listener.requests(), 1);
    assert!(listener.try_request().is_none());
}

#[test]
fn new_limits_hold_for_what_comes_next() {
    let listener = listener(3, 3, u32::MAX);
    let mut open: Vec<_> = (0..3).map(|_| listener.try_open(ip("192.0.2.1")).unwrap()).collect();
    listener.set_limits(ConnectionLimits { connections: 9, connections_per_ip: 2, requests: u32::MAX });
    assert_eq!(listener.open(), 3);
    open.truncate(2);
    assert_eq!(listener.try_open(ip("192.0.2.1")).unwrap_err(), TooMany::OfClient);
    open.truncate(1);
    assert!(listener.try_open(ip("192.0.2.1")).is_ok());
}

#[test]
fn nothing_leaks_when_tasks_panic() {
    let listener = listener(100, 100, 100);
    for _ in 0..50 {
        let inner = Arc::clone(&listener);
        let ended = std::thread::spawn(move || {
            let _open = inner.try_open(ip("2001:db8::1")).unwrap();
            let _request = inner.try_request().unwrap();
            panic!("as a bug would");
        });
        assert!(ended.join().is_err());
    }
    let left = (listener.open(), listener.clients(), listener.requests(), listener.all.needed());
    assert_eq!(left, (0, 0, 0, 0));
}

#[tokio::test]
async fn an_accept_loop_wakes_when_a_connection_closes() {
    let listener = listener(10, 10, 10);
    let first = listener.try_open(None).unwrap();
    let second = listener.try_open(None).unwrap();
    listener.all.wait_for(4).await;
    let all = Arc::clone(&listener.all);
    let waiting = tokio::spawn(async move { all.wait_for(0).await });
    tokio::task::yield_now().await;
    drop(first);
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    drop(second);
    waiting.await.unwrap();
}

#[tokio::test]
async fn a_connection_between_requests_makes_room_and_a_request_too_many_is_told() {
    let listener = listener(10, 10, 10);
    let descriptors = Descriptors { soft: 5, reserved: 0 };
    assert_eq!((descriptors.room(), descriptors.most()), (3, 5));
    let mut first = listener.try_open(None).unwrap();
    let mut second = listener.try_open(None).unwrap();
    assert!(first.works(descriptors), "a new connection has what its request needs");
    let all = Arc::clone(&listener.all);
    let waiting = tokio::spawn(async move { all.wait_for(descriptors.room()).await });
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    second.rests();
    second.rests();
    waiting.await.unwrap();
    let third = listener.try_open(None).unwrap();
    assert_eq!(listener.all.needed(), 5);
    assert!(!second.works(descriptors));
    assert_eq!(listener.all.needed(), 5);
    drop(third);
    assert!(second.works(descriptors) && second.works(descriptors));
    assert_eq!(listener.all.needed(), 4);
    drop((first, second));
    assert_eq!(listener.all.needed(), 0);
}
