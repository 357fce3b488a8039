# Plain on purpose: it was written without a machine to build it on, so check it once before you rely on it.
#   docker build -t posthaste .
#   docker run -p 8080:8080 -p 9090:9090 -v posthaste:/data posthaste

FROM rust:1.95-bookworm AS build
# gcc, make and perl are in the image; they build librdkafka, OpenSSL (for TLS and SCRAM to the brokers), zstd, SQLite and aws-lc from source.
WORKDIR /src
COPY Cargo.toml Cargo.lock build.rs ./
COPY src src
COPY benches benches
COPY config config
RUN cargo build --release --locked --features kafka-tls --bin posthaste

FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --home-dir /data --create-home posthaste
COPY --from=build /src/target/release/posthaste /usr/local/bin/posthaste
COPY config /etc/posthaste
USER posthaste
WORKDIR /data
VOLUME /data
# Listeners are on loopback by default, where nobody outside of the container would find them.
ENV POSTHASTE_API__LISTEN=0.0.0.0:8080 \
    POSTHASTE_ADMIN__LISTEN=0.0.0.0:9090 \
    POSTHASTE_LOG__DATA_DIRECTORY=/data
EXPOSE 8080 9090
# SIGTERM ends it cleanly; give it longer than the drain deadline before killing it (docker stop -t 30).
ENTRYPOINT ["/usr/local/bin/posthaste"]
CMD ["serve"]
