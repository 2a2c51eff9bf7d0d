# syntax=docker/dockerfile:1
FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY src src
COPY assets assets
COPY templates templates
COPY migrations migrations
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    cargo build --locked --release --bin supersync \
    && cp target/release/supersync /supersync \
    && mkdir /data

# glibc and nothing else: no shell, no package manager.
FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /supersync /usr/local/bin/supersync
# A volume mounted here inherits the owner: uid 65532.
COPY --from=build --chown=nonroot:nonroot /data /data
ENV DATA_DIR=/data
WORKDIR /data
VOLUME /data
EXPOSE 1900
# Longer than SHUTDOWN_TIMEOUT_SECONDS is for the runtime to allow: docker run --stop-timeout 35
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s --retries=3 CMD ["/usr/local/bin/supersync", "healthcheck"]
ENTRYPOINT ["/usr/local/bin/supersync"]
