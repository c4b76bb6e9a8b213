# The gateway alone: a static binary, the certificate authorities it needs to
# reach Claude, and the commented defaults. Mount your own /config.yaml over them.
FROM golang:1.26 AS build
WORKDIR /src
# The libraries first: they change less often than the code.
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags="-s -w" -o /sluice .
# The store's directory, and where the demo puts its own.
RUN mkdir -p /rooms/data /rooms/tmp

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /sluice /sluice
COPY config.yaml /config.yaml
COPY --from=build --chown=65532:65532 /rooms /
WORKDIR /
# What survives a restart; a container that is replaced needs a volume here.
VOLUME /data
# Nobody: it needs no file but its store's and no port below 1024. A number, since
# Kubernetes' runAsNonRoot cannot resolve a name.
USER 65532:65532
# Callers. The admin port is not named: it stays inside the container until
# server.admin_listen says otherwise.
EXPOSE 8080
HEALTHCHECK CMD ["/sluice", "health"]
# Not through a shell: SIGTERM has to arrive. Give `docker stop` more time than
# server.drain.
ENTRYPOINT ["/sluice"]
