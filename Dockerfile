# syntax=docker/dockerfile:1

# Two steps: the dependencies in a layer of their own, which only a change of Cargo.toml or Cargo.lock renews,
# then the sources.
FROM rust:1.95-bookworm AS builder
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends cmake \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /build
COPY Cargo.toml Cargo.lock ./
RUN mkdir -p src benches bench/fleet \
    && echo 'fn main() {}' > src/main.rs \
    && touch src/lib.rs benches/config_size.rs bench/fleet/main.rs \
    && cargo build --release --locked \
    && rm -rf src target/release/.fingerprint/arriero-* target/release/deps/*arriero* target/release/arriero*
COPY README.md LICENSE ./
COPY bench/fleet bench/fleet
COPY benches benches
COPY conf conf
COPY src src
RUN cargo build --release --locked \
    && install -D -m 755 target/release/arriero /out/usr/local/bin/arriero \
    && install -D -m 644 conf/docker/arriero.yaml /out/etc/arriero/arriero.yaml

# No shell, no package manager, not root: the C library, CA certificates and the binary.
FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=builder /out /
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=120s --retries=3 CMD ["arriero", "health"]
ENTRYPOINT ["arriero"]
CMD ["run", "-c", "/etc/arriero/arriero.yaml"]
