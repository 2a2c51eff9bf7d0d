# syntax=docker/dockerfile:1
#
#   docker build --build-arg REVISION=$(git rev-parse HEAD) -t supersync:local .
#   docker buildx build --platform linux/amd64,linux/arm64 …     # both architectures
#
# scripts/dockerfile-steps runs these steps without a container engine.

# Always on the machine's own architecture: another one is compiled for, not emulated, which would take an hour.
FROM --platform=$BUILDPLATFORM rust:1.95-bookworm AS build
ARG BUILDARCH
ARG TARGETARCH
WORKDIR /src
RUN set -eu; \
    case "$TARGETARCH" in \
        amd64) target=x86_64-unknown-linux-gnu gnu=x86-64-linux-gnu ;; \
        arm64) target=aarch64-unknown-linux-gnu gnu=aarch64-linux-gnu ;; \
        *) echo "no image for the architecture $TARGETARCH" >&2; exit 1 ;; \
    esac; \
    echo "$target" >/target; \
    if [ "$TARGETARCH" != "$BUILDARCH" ]; then \
        apt-get update; \
        apt-get install -y --no-install-recommends "gcc-$gnu" "libc6-dev-$TARGETARCH-cross"; \
        rustup target add "$target"; \
    fi
# SQLite, jemalloc, zstd and ring are C: cc finds gcc by the target's name, cargo the linker by these.
ENV CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_LINKER=x86_64-linux-gnu-gcc \
    CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
COPY Cargo.toml Cargo.lock build.rs ./
COPY crates crates
COPY src src
COPY assets assets
COPY templates templates
COPY migrations migrations
# Kernels for arm64 have pages of 4, 16 or 64 KiB; jemalloc has to be told the largest.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    set -eu; \
    target=$(cat /target); \
    if [ "$TARGETARCH" = arm64 ]; then export JEMALLOC_SYS_WITH_LG_PAGE=16; fi; \
    cargo build --locked --profile dist --bin supersync --target "$target"; \
    cp "target/$target/dist/supersync" /supersync; \
    mkdir -m 700 /data

# glibc and what belongs to it: no shell, no package manager.
FROM gcr.io/distroless/cc-debian12:nonroot
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="SuperSync" \
      org.opencontainers.image.description="Sync server of the Super Productivity app" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"
COPY --from=build /supersync /usr/local/bin/supersync
# A volume mounted here inherits the owner. All else can be read-only.
COPY --from=build --chown=65532:65532 /data /data
ENV DATA_DIR=/data
WORKDIR /data
VOLUME /data
EXPOSE 1900
# As a number, so that Kubernetes sees that it is not root.
USER 65532:65532
# Longer than SHUTDOWN_TIMEOUT_SECONDS is for the runtime to allow: docker run --stop-timeout 35
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s --retries=3 CMD ["/usr/local/bin/supersync", "healthcheck"]
ENTRYPOINT ["/usr/local/bin/supersync"]
