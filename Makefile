# Paceline. Run "make" for the list of targets. A machine needs Go and make;
# a C compiler adds the race detector, a Docker engine adds the containers.

GO      ?= go
# XDS=1 adds the xDS server for gRPC clients, and some 18 MB.
XDS     ?=
comma   := ,
TAGS    := nomsgpack$(if $(XDS),$(comma)xds)
# What is compiled differently with the tag xds; the rest is the same code.
XDSPKGS := ./internal/node ./cmd/paceline
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X main.version=$(VERSION)
IMAGE   ?= paceline:local
# The race detector needs cgo, and cgo needs a compiler.
RACE    ?= $(shell command -v "$$($(GO) env CC)" >/dev/null 2>&1 && echo -race)
COMPOSE ?= $(shell docker compose version >/dev/null 2>&1 && echo docker compose || echo docker-compose)
TOOL    := $(GO) tool -modfile=tools/go.mod
PKGS    ?= ./...
NODES   ?= 3
SEEDS   ?= 100
# Each package's tests end within this time, or are stopped with a stack dump.
TIMEOUT ?= 10m
# What strangers can send: package and target.
FUZZ    ?= routing/http1:FuzzRequest routing/http1:FuzzResponse routing/http1:FuzzChunked \
           routing/session:FuzzCookie routing:FuzzRoutes routing/discovery:FuzzMessage
FUZZTIME ?= 5s

BUILD := CGO_ENABLED=0 $(GO) build -trimpath -tags '$(TAGS)' -ldflags '$(LDFLAGS)'

.DEFAULT_GOAL := help

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## Build the static binary into bin/paceline; XDS=1 adds the xDS server
	$(BUILD) -o bin/paceline ./cmd/paceline

bin/testsum: tools/testsum/main.go tools/testsum/summary.go
	@cd tools && CGO_ENABLED=0 $(GO) build -o ../bin/testsum ./testsum

test: bin/testsum ## Run all tests, with the race detector where it is available
	@$(if $(RACE),,echo "note: no C compiler, so the race detector is off")
	bin/testsum -- -tags '$(TAGS)' $(RACE) -timeout $(TIMEOUT) $(PKGS)
	$(if $(XDS)$(filter-out ./...,$(PKGS)),,bin/testsum -- -tags nomsgpack,xds -timeout $(TIMEOUT) ./internal/node)

test-short: bin/testsum ## Run the quick tests only, without the race detector
	bin/testsum -- -tags '$(TAGS)' -short -timeout $(TIMEOUT) $(PKGS)

sim: bin/testsum ## Simulate 100 clusters under faults, SEEDS=1000 for more; without the race detector, which test has
	PACELINE_SIM_SEEDS=$(SEEDS) bin/testsum -- -tags '$(TAGS)' -timeout 30m -run 'TestSeeds|TestPlantedBugs' ./internal/sim

fuzz: ## Fuzz each target for FUZZTIME (5s); FUZZTIME=10m for a night's run
	@set -e; for t in $(FUZZ); do echo "fuzz $$t"; \
		$(GO) test -tags '$(TAGS)' -run '^$$' -fuzz "^$${t#*:}$$" -fuzztime $(FUZZTIME) ./$${t%:*}; done

race: ## Run all tests with the race detector, or fail
	@$(MAKE) --no-print-directory test RACE=-race

lint: ## Check format, vet, staticcheck, errcheck, and list dead code
	@out=$$(gofmt -s -l $$(git ls-files -co --exclude-standard '*.go')); \
		if [ -n "$$out" ]; then echo "not formatted (make fmt):"; echo "$$out"; exit 1; fi
	$(GO) vet -tags '$(TAGS)' ./...
	$(GO) vet -tags nomsgpack,xds $(XDSPKGS)
	$(TOOL) staticcheck -tags '$(TAGS)' ./...
	$(TOOL) staticcheck -tags nomsgpack,xds $(XDSPKGS)
	tools/errcheck.sh
	-@$(TOOL) deadcode -tags '$(TAGS)' -test ./... | sed 's/^/dead code: /'

fmt: ## Format the code and its imports
	@files=$$(git ls-files -co --exclude-standard '*.go' | grep -v /testdata/); \
		$(TOOL) goimports -local github.com/pacelinehq/paceline -w $$files && gofmt -s -w $$files

bench: ## Run the benchmarks of the packages
	$(GO) test -tags '$(TAGS)' -run '^$$' -bench . -benchmem $(PKGS)

bench-core: build ## Compare with a three-node etcd; ARGS="-run writes -reps 1" selects parts
	cd bench && CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w' -o ../bin/ . go.etcd.io/etcd/server/v3
	@mv bin/bench bin/paceline-bench && mv bin/server bin/etcd
	bin/paceline-bench core -paceline bin/paceline -out bench/results/core.json $(ARGS)

bench-routing: build ## Compare the proxy with haproxy, nginx and caddy (Linux); tools/install-bench-peers.sh gets them
	cd bench && CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w' -o ../bin/paceline-bench .
	bin/paceline-bench routing -paceline bin/paceline -out bench/results/routing.json $(ARGS)

measure-vanish: ## How long a vanished or frozen node holds up clients (root), and what gossip makes of lost packets
	PACELINE_E2E_FULL=1 $(GO) test -count=1 -tags '$(TAGS)' -timeout 30m -run MeasureVanish -v ./e2e
	$(GO) test -count=1 -tags '$(TAGS)' -timeout 60m -run MeasureGossip ./internal/sim -gossip.only 'memberlist,few news,paceline' -gossip.hours 6

demo: build ## Three nodes, load, a killed leader: the failover story, measured
	bin/paceline demo

dev: build ## A local cluster to play with; NODES=3 sets its size
	bin/paceline dev --nodes $(NODES)

image: ## Build the container image from scratch; needs no registry
	@mkdir -p build/rootfs/data/tmp build/rootfs/etc/ssl/certs
	@for f in /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt /etc/ssl/cert.pem; do \
		if [ -r $$f ]; then cp $$f build/rootfs/etc/ssl/certs/ca-certificates.crt; break; fi; done
	GOOS=linux $(BUILD) -o build/paceline ./cmd/paceline
	docker build --target local -t $(IMAGE) .

compose-up: image ## Start three nodes as containers
	$(COMPOSE) up -d

compose-down: ## Stop the containers; their data stays in the volumes
	$(COMPOSE) down

dist: ## Build archives and checksums for all platforms into dist/
	@rm -rf dist && mkdir -p dist
	@set -e; for p in linux/amd64 linux/arm64 darwin/amd64 darwin/arm64; do \
		dir=paceline_$(VERSION)_$${p%/*}_$${p#*/}; mkdir -p dist/$$dir; echo "dist/$$dir.tar.gz"; \
		GOOS=$${p%/*} GOARCH=$${p#*/} $(BUILD) -o dist/$$dir/paceline ./cmd/paceline; \
		cp LICENSE $(wildcard README.md CHANGELOG.md) dist/$$dir/; \
		cp -r deploy/systemd dist/$$dir/; \
		tar -C dist -czf dist/$$dir.tar.gz $$dir; rm -r dist/$$dir; done
	@cd dist && sha256sum *.tar.gz > SHA256SUMS

clean: ## Remove everything that was built
	rm -rf bin build dist

.PHONY: help build test test-short sim fuzz race lint fmt bench bench-core bench-routing measure-vanish demo dev image compose-up compose-down dist clean
