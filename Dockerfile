# The daemon in a slim image that does not run as root.
#
#   docker build -t heymarket-sync .
#
# Both base images are arguments, for a mirror of your own or for pinning by digest:
#   docker build --build-arg RUNTIME_IMAGE=registry.example.com/debian:bookworm-slim -t heymarket-sync .
# The two need the same C library (here glibc of Debian 12).
ARG RUST_IMAGE=rust:1.95-bookworm
ARG RUNTIME_IMAGE=debian:bookworm-slim

FROM ${RUST_IMAGE} AS build
WORKDIR /build
# Queries are checked against the committed .sqlx, never against a database.
ENV SQLX_OFFLINE=true

# The dependencies alone, behind an empty program: this layer is built again only when they change.
COPY .cargo .cargo
COPY Cargo.toml Cargo.lock ./
RUN mkdir src \
 && echo 'fn main() {}' >src/main.rs \
 && : >src/lib.rs \
 && cargo build --release --locked

COPY migrations migrations
COPY config config
COPY .sqlx .sqlx
COPY src src
# Copied files keep their times; without the touch they can look older than the empty program.
RUN touch src/main.rs src/lib.rs \
 && cargo build --release --locked

FROM ${RUNTIME_IMAGE}
# The roots of trust for TLS to the API and to PostgreSQL.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /build/target/release/heymarket-sync /usr/local/bin/heymarket-sync
LABEL org.opencontainers.image.title="heymarket-sync" \
      org.opencontainers.image.description="Mirrors a Heymarket team into PostgreSQL and keeps it current" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0"
# A number, so that Kubernetes' runAsNonRoot can tell it from root.
USER 10001:10001
ENV HEYMARKET_SYNC__HTTP__LISTEN=0.0.0.0:8080
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["heymarket-sync", "healthcheck"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["heymarket-sync"]
CMD ["run"]
