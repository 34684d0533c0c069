# The target "local" stands first and begins FROM scratch, so that a builder
# without a registry never has to resolve another image: "make image" compiles
# on the host and uses it. Plain "docker build ." compiles inside (target
# "release", the last one).

FROM scratch AS local
COPY --chown=65532:65532 build/rootfs/ /
COPY build/paceline /paceline
USER 65532:65532
ENV PACELINE_DATA_DIR=/data TMPDIR=/data/tmp
VOLUME /data
EXPOSE 7700 7701 7702/tcp 7702/udp 7780
HEALTHCHECK --interval=5s --timeout=3s --start-period=20s --retries=3 CMD ["/paceline", "health", "--ready"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["/paceline"]
CMD ["agent"]

FROM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN make build && mkdir -p /rootfs/data/tmp /rootfs/etc/ssl/certs && cp /etc/ssl/certs/ca-certificates.crt /rootfs/etc/ssl/certs/

FROM scratch AS release
COPY --from=build --chown=65532:65532 /rootfs/ /
COPY --from=build /src/bin/paceline /paceline
USER 65532:65532
ENV PACELINE_DATA_DIR=/data TMPDIR=/data/tmp
VOLUME /data
EXPOSE 7700 7701 7702/tcp 7702/udp 7780
HEALTHCHECK --interval=5s --timeout=3s --start-period=20s --retries=3 CMD ["/paceline", "health", "--ready"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["/paceline"]
CMD ["agent"]
