# A static program in an otherwise empty image.
#   docker build -t weigh .
#   docker run --rm -v "$PWD:/models:ro" weigh info model.gguf
#   docker run --rm -v "$PWD:/models" -u "$(id -u):$(id -g)" weigh convert model.gguf out.gguf --type Q4_K_M
FROM rust:1.89-alpine AS build
RUN apk add --no-cache musl-dev ca-certificates
WORKDIR /src
COPY . .
RUN cargo build --locked --profile dist --bin weigh

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /src/target/dist/weigh /bin/weigh
WORKDIR /models
ENTRYPOINT ["/bin/weigh"]
