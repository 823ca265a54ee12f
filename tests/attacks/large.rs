//! A server with long answers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// A server that writes an answer of 40 MiB to each request, and counts what it could write.
pub struct Large {
    pub address: SocketAddr,
    pub written: Arc<AtomicU64>,
    pub gone: Arc<AtomicU64>,
}

impl Large {
    pub const SIZE: usize = 40 << 20;

    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("an address");
        let (written, gone) = (Arc::default(), Arc::default());
        let server = Self { address, written: Arc::clone(&written), gone: Arc::clone(&gone) };
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (written, gone) = (Arc::clone(&written), Arc::clone(&gone));
                tokio::spawn(async move {
                    let mut head = [0; 4096];
                    let _ = stream.read(&mut head).await;
                    let _ = stream
                        .write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", Self::SIZE).as_bytes())
                        .await;
                    let piece = [b'x'; 16 << 10];
                    for _ in 0..Self::SIZE / piece.len() {
                        if stream.write_all(&piece).await.is_err() {
                            gone.fetch_add(1, Ordering::Relaxed);
                            return;
                        }
                        written.fetch_add(piece.len() as u64, Ordering::Relaxed);
                    }
                });
            }
        });
        server
    }
}
