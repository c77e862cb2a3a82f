# The agent and nothing else. From source:
#   docker build --build-arg VERSION=$(git describe --tags --always) -t tracer-agent .
# From a binary that make build has made, without a network:
#   docker build --target binary -t tracer-agent .
# It has to run as root in the host's pid namespace; which capabilities it needs is in
# packaging/tracer-agent.service and k8s/chart/values.yaml.
ARG GO=1.26

FROM --platform=$BUILDPLATFORM golang:${GO} AS build
ARG TARGETOS TARGETARCH VERSION=dev COMMIT=none SOURCE_DATE_EPOCH=0
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
# The same source gives the same bytes: no paths, no build id, no time.
RUN CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH go build -trimpath -buildvcs=false \
    -ldflags "-s -w -buildid= -X main.version=$VERSION -X main.commit=$COMMIT" -o /tracer-agent ./cmd/tracer-agent

FROM scratch AS binary
COPY bin/tracer-agent /tracer-agent
ENTRYPOINT ["/tracer-agent"]
CMD ["run", "--config", "/etc/tracer-agent/config.yaml"]

FROM scratch
COPY --from=build /tracer-agent /tracer-agent
ENTRYPOINT ["/tracer-agent"]
CMD ["run", "--config", "/etc/tracer-agent/config.yaml"]
