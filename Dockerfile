# syntax=docker/dockerfile:1

# docker build -t arriero .
# docker buildx build --platform linux/amd64,linux/arm64 -t registry.example.com/arriero --push .
#
# The compiler runs on the builder's own processor and makes code for the image's: nothing is emulated.
FROM --platform=$BUILDPLATFORM rust:1.95-bookworm AS builder
ARG BUILDARCH
ARG TARGETARCH
# The cross compiler is fetched where the two differ only.
# hadolint ignore=DL3008
RUN case "$TARGETARCH" in \
        amd64) cpu=x86_64 ;; \
        arm64) cpu=aarch64 ;; \
        *) echo "no image for $TARGETARCH" >&2; exit 1 ;; \
    esac \
    && if [ "$BUILDARCH" = "$TARGETARCH" ]; then cross=; else cross="crossbuild-essential-$TARGETARCH"; fi \
    && apt-get update \
    && apt-get install -y --no-install-recommends cmake ${cross:+"$cross"} \
    && rm -rf /var/lib/apt/lists/* \
    && rustup target add "$cpu-unknown-linux-gnu" \
    && printf '%s\n' \
        '[build]' "target = \"$cpu-unknown-linux-gnu\"" \
        "[target.$cpu-unknown-linux-gnu]" "linker = \"$cpu-linux-gnu-gcc\"" \
        '[env]' \
        "CC_${cpu}_unknown_linux_gnu = \"$cpu-linux-gnu-gcc\"" \
        "CXX_${cpu}_unknown_linux_gnu = \"$cpu-linux-gnu-g++\"" \
        "AR_${cpu}_unknown_linux_gnu = \"$cpu-linux-gnu-ar\"" \
        > "$CARGO_HOME/config.toml"
# Names of functions stay out of the image; the binary is a third as large.
ENV CARGO_PROFILE_RELEASE_DEBUG=none \
    CARGO_PROFILE_RELEASE_STRIP=symbols
WORKDIR /build
# The dependencies are a layer of their own, which only a change of Cargo.toml or Cargo.lock makes anew.
COPY Cargo.toml Cargo.lock ./
RUN mkdir -p src benches bench/fleet \
    && echo 'fn main() {}' > src/main.rs \
    && touch src/lib.rs benches/config_size.rs benches/decision.rs benches/history.rs bench/fleet/main.rs \
    && cargo build --release --locked \
    && rm -rf src target/*/release/.fingerprint/arriero-* target/*/release/deps/*arriero* target/*/release/arriero*
COPY README.md LICENSE build.rs ./
COPY bench/fleet bench/fleet
COPY benches benches
COPY conf conf
COPY src src
# The repository is not here: the commit is told, as `HASH` or `HASH DATE`.
ARG REVISION=unknown
RUN ARRIERO_REVISION="$REVISION" cargo build --release --locked \
    && install -D -m 755 target/*/release/arriero /out/usr/local/bin/arriero \
    && linker="$(sed -n 's/^linker = "\(.*\)"$/\1/p' "$CARGO_HOME/config.toml")" \
    && install -D -m 644 "$("$linker" -print-file-name=libgcc_s.so.1)" /out/usr/lib/libgcc_s.so.1 \
    && install -D -m 644 conf/docker/arriero.yaml /out/etc/arriero/arriero.yaml \
    && install -D -m 644 LICENSE /out/usr/share/doc/arriero/LICENSE \
    && mkdir /data

# No shell, no package manager, not root: the C library, CA certificates, the binary and the one library of the compiler that it needs.
FROM gcr.io/distroless/base-nossl-debian12:nonroot
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Arriero" \
      org.opencontainers.image.description="A declarative, hot-reloading reverse proxy for fleets of Ollama servers" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION" \
      org.opencontainers.image.base.name="gcr.io/distroless/base-nossl-debian12:nonroot"
COPY --from=builder /out /
# For server.data_dir; a volume that is mounted here belongs to the image's user, too.
COPY --from=builder --chown=65532:65532 /data /var/lib/arriero
USER 65532:65532
# What `run` without a file listens on; see docs/docker.md.
ENV PORT=8080
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=120s --retries=5 CMD ["arriero", "health"]
ENTRYPOINT ["arriero"]
CMD ["run", "-c", "/etc/arriero/arriero.yaml"]
