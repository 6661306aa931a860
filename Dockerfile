# syntax=docker/dockerfile:1
# The image of Serin, for linux/amd64 and linux/arm64:
#   docker buildx build --platform linux/amd64,linux/arm64 -t REGISTRY/serin:VERSION .
# `make image` makes the same for amd64 without Docker, byte for byte the same each time.
FROM rust:1.95-alpine AS build
WORKDIR /src
COPY . .
# On Alpine the compiler's own target is musl: the program is static.
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    cargo build --locked --profile image --bin serin && cp target/image/serin /serin
RUN printf 'serin:x:10001:10001:serin:/:/sbin/nologin\n' >/passwd && printf 'serin:x:10001:\n' >/group

FROM scratch
LABEL org.opencontainers.image.title=serin \
      org.opencontainers.image.description="Progressive delivery for Kubernetes that takes Flagger's manifests unchanged" \
      org.opencontainers.image.licenses=Apache-2.0
COPY --from=build /passwd /group /etc/
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /serin /serin
ENV SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
USER 10001:10001
EXPOSE 8080
ENTRYPOINT ["/serin"]
