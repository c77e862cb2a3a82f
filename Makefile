# Every target says what it does: `make` prints them.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
COMMIT  ?= $(shell git rev-parse --short HEAD 2>/dev/null || echo none)
MAIN    := github.com/tracer-agent/tracer-agent
LDFLAGS := -s -w -X main.version=$(VERSION) -X main.commit=$(COMMIT)

CLANG_FORMAT ?= clang-format-19
FUZZTIME     ?= 30s
SOAK         ?= 10m
KERNELS      ?= 5.10 6.1 6.1-lockdown 6.12 7.3
# Packages whose tests need root and a kernel.
KERNEL_PKGS  := ./internal/kernel/... ./internal/discover/... ./internal/testkernel/... ./internal/event/... ./internal/probe/... ./internal/propagate/... ./internal/supervise/... ./probes/... ./test/kernels/...

export CGO_ENABLED ?= 0

##@ Build
.PHONY: help
help: ## print this help
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} \
	  /^[a-z-]+:.*## / {printf "  %-16s %s\n", $$1, $$2}' Makefile

.PHONY: build
build: ## bin/tracer-agent: one static binary; needs Go only, no clang
	go build -trimpath -ldflags '$(LDFLAGS)' -o bin/tracer-agent ./cmd/tracer-agent

.PHONY: package
package: ## deb, rpm and SBOM for amd64 and arm64, man pages, completions, checksums: out/package
	scripts/package.sh

.PHONY: package-test
package-test: package ## install, upgrade and remove them in a bare Debian root and in an empty one for rpm; needs root
	scripts/package-test.sh

.PHONY: image
image: ## out/image/tracer-agent.tar: the image, for docker load or ctr images import; no registry, no daemon
	@mkdir -p out/image
	scripts/image.sh agent out/image/tracer-agent.tar

.PHONY: image-check
image-check: ## fail when two builds, in two folders, do not give the same image
	scripts/image.sh check

.PHONY: release-snapshot
release-snapshot: ## what a release would publish: archives, packages, SBOMs, checksums: out/release
	scripts/release.sh

.PHONY: generate
generate: ## compile the BPF C and write the Go bindings (clang-19, libbpf headers)
	go generate ./...

.PHONY: generate-check
generate-check: generate ## fail when the committed bindings are not what the C gives
	@git diff --exit-code --stat -- '*.o' '*_bpfel.go' || { echo 'generated files differ: commit what make generate wrote'; exit 1; }

.PHONY: manifests
manifests: ## k8s/manifests from the chart
	scripts/k8s/chart.sh render

.PHONY: chart-check
chart-check: ## helm lint and template with every switch; fail when k8s/manifests are not what the chart gives
	scripts/k8s/chart.sh check

.PHONY: clean
clean: ## remove what make built
	rm -rf bin out

##@ Check
.PHONY: fmt
fmt: ## format Go and C
	gofmt -w $$(git ls-files '*.go')
	$(CLANG_FORMAT) -i $$(git ls-files '*.c' '*.h')

.PHONY: lint
lint: size-check ## vet, golangci-lint, clang-format, shellcheck (where installed), size-check
	scripts/lint.sh

.PHONY: size-check
size-check: ## fail when a hand-written file is longer than the style allows
	scripts/size-check.sh

##@ Test
.PHONY: test
test: build ## unit, kernel and end-to-end tests, a reduced matrix; needs root for all but the unit tests
	scripts/test.sh usual

.PHONY: test-unit
test-unit: ## tests that need neither root nor a kernel feature
	go test -count=1 $$(go list ./... | grep -v /test/e2e)

.PHONY: test-kernel
test-kernel: ## load, attach, hit budgets and end to end, on this kernel and inside others (QEMU); KERNELS="5.10 6.1 6.1-lockdown 6.12 7.3 6.12-arm64", KERNELS= for this one alone
	TRACER_REQUIRE_KERNEL=1 go test -count=1 -p 1 -v $(KERNEL_PKGS)
	$(if $(strip $(KERNELS)),scripts/vm/matrix.sh $(KERNELS))

.PHONY: test-vm
test-vm: ## only the part of test-kernel inside other kernels
	scripts/vm/matrix.sh $(KERNELS)

.PHONY: compatibility
compatibility: ## docs/COMPATIBILITY.md from what test-kernel found inside other kernels
	go run ./test/kernels/compat

.PHONY: test-e2e
test-e2e: build ## end-to-end tests; RUN=regexp picks some
	TRACER_REQUIRE_KERNEL=1 go test -count=1 -timeout 30m -v $(if $(RUN),-run '$(RUN)') ./test/e2e/

.PHONY: test-matrix
test-matrix: build ## end to end over Go 1.18 to 1.27 x plain, -w, -s -w, PIE, cgo
	scripts/test.sh matrix

.PHONY: test-large
test-large: build ## a large third-party program, plain and stripped (builds it first: minutes)
	scripts/test.sh large

.PHONY: soak
soak: build ## attach and detach under load for SOAK=10m, no target error allowed
	TRACER_REQUIRE_KERNEL=1 TRACER_SOAK=$(SOAK) go test -count=1 -timeout 60m -v -run 'TestSoak' ./test/e2e/

.PHONY: soak-fleet
soak-fleet: build ## 100 processes with 1,000 routes for SOAK=10m (promised: 30m): the agent's memory stays flat, below 150 MiB
	TRACER_REQUIRE_KERNEL=1 TRACER_SOAK=$(SOAK) go test -count=1 -timeout 90m -v -run 'TestFleetMemory$$' ./test/e2e/

.PHONY: test-counts
test-counts: build ## REQUESTS=1000000 requests, one of a hundred sampled: every one is in the metrics (6 min)
	TRACER_REQUIRE_KERNEL=1 TRACER_TEST_REQUESTS=$(or $(REQUESTS),1000000) go test -count=1 -timeout 60m -v -run 'TestCountsAreExact$$' ./test/e2e/

.PHONY: test-overhead
test-overhead: build ## a load that trips --max-overhead: the dearest probe goes and comes back (a minute)
	TRACER_REQUIRE_KERNEL=1 TRACER_TEST_OVERHEAD=1 go test -count=1 -timeout 10m -v -run 'TestMaxOverhead$$' ./test/e2e/

.PHONY: test-alerts
test-alerts: build ## every alert of deploy/prometheus, fired by a fault in the demo, with a real Prometheus (a minute)
	TRACER_REQUIRE_KERNEL=1 TRACER_TEST_ALERTS=1 go test -count=1 -timeout 10m -v -run 'TestAlertsFire$$' ./test/e2e/

.PHONY: test-mongo
test-mongo: build ## COMMANDS=100000 MongoDB commands from 64 requests at a time: every span its own reply's and its own request's
	TRACER_REQUIRE_KERNEL=1 TRACER_COMMANDS=$(or $(COMMANDS),100000) go test -count=1 -timeout 30m -v -run 'TestMongoComplete$$' ./test/e2e/

.PHONY: test-k8s
test-k8s: ## the Helm chart on a real Kubernetes of one node, made here (builds it first: minutes); needs root
	scripts/k8s/test.sh

.PHONY: test-systemd
test-systemd: package ## the package under a real systemd, in QEMU (minutes): start, reload, restart, kill -9, stop, removal; needs root
	scripts/systemd/test.sh

.PHONY: test-gateway
test-gateway: build ## deploy/collector with real Collectors (builds them first: minutes): a trace's spans meet, errors stay
	TRACER_GATEWAY=$$(testdata/collector/build.sh deploy/collector/builder.yaml) go test -count=1 -v -run TestGateway ./test/e2e/

.PHONY: vulncheck
vulncheck: ## known vulnerabilities of what the agent calls; the database is the one that Go's module proxy has
	db=$$(go mod download -json golang.org/x/vulndb@latest | sed -n 's/.*"Dir": "\(.*\)",/\1/p'); \
	  go run golang.org/x/vuln/cmd/govulncheck@v1.1.4 -db "file://$$db/data/osv" ./...

.PHONY: fuzz
fuzz: ## every fuzz test for FUZZTIME=30s
	scripts/fuzz.sh $(FUZZTIME)

##@ Show
.PHONY: demo
demo: ## a trade backend with MongoDB, Redis, an HTTPS broker, WebSocket and a bot, traced: span trees in the terminal
	scripts/demo.sh

.PHONY: bench
bench: build ## cost against no agent and against the SDK; writes bench/README.md
	cd bench && go run . -out README.md

.PHONY: bench-check
bench-check: build ## the same, and fail when a promised limit is broken
	cd bench && go run . -out README.md -check
