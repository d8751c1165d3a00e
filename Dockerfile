# Both images from one build: `docker build --target node .` and `docker build --target operator .`
FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --profile dist --locked --package ringmaster-node --package ringmaster-operator

FROM gcr.io/distroless/cc-debian12:nonroot AS node
COPY --from=build /src/target/dist/ringmaster-node /ringmaster-node
USER 65532:65532
ENTRYPOINT ["/ringmaster-node"]

FROM gcr.io/distroless/cc-debian12:nonroot AS operator
COPY --from=build /src/target/dist/ringmaster /ringmaster
USER 65532:65532
ENTRYPOINT ["/ringmaster"]
