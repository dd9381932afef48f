# Every tool is built by Go from a pinned version, so Go, make and PostgreSQL 15 to 18 are all that is
# needed, and gcc for the race detector. Without PostgreSQL programs on the machine, and without
# TEST_DATABASE_URL or DATABASE_URL, they are downloaded, or else installed with the package manager.

.SHELLFLAGS := -eu -c

PGRUN     := go run ./db/pgembed/pgrun --
SQLC      := go tool -modfile=tools/go.mod sqlc
GOLANGCI  := go tool -modfile=tools/golangci/go.mod golangci-lint
PKG       ?= ./...
TESTFLAGS ?=
BENCH     ?= .
BENCHTIME ?= 1s
SCENARIO  ?=
QUICK     ?=
BENCHFLAGS ?=

.DEFAULT_GOAL := help

.PHONY: help
help: ## print this list
	@awk -F ':.*## ' '/^[a-z\/]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## build bin/oversync
	go build -o bin/oversync ./cmd/oversync

.PHONY: run
run: build ## build and run a development server with a demo schema
	bin/oversync dev

.PHONY: test
test: ## run the tests on one private PostgreSQL (PKG=./sync TESTFLAGS='-run Push')
	$(PGRUN) go test $(TESTFLAGS) $(PKG)

.PHONY: test/race
test/race: ## run the tests with the race detector
	$(MAKE) test TESTFLAGS='-race $(TESTFLAGS)'

.PHONY: bench
bench: ## measure against the floors of PostgreSQL (SCENARIO=pull QUICK=1 BENCHFLAGS='-grow 1000000')
	go run ./e2e/bench -out bin/bench $(if $(SCENARIO),-scenario '$(SCENARIO)') $(if $(QUICK),-quick) $(BENCHFLAGS)

.PHONY: bench/go
bench/go: ## run the Go benchmarks (BENCH=Hash BENCHTIME=1x runs each once)
	$(PGRUN) go test -run '^$$' -bench '$(BENCH)' -benchtime $(BENCHTIME) -benchmem $(PKG)

.PHONY: generate
generate: ## generate db/ from sql/ and migrations/
	$(SQLC) generate

.PHONY: verify
verify: ## check that db/ and the schema dump are current
	$(SQLC) diff
	$(PGRUN) go test -count=1 -run '^TestSchemaDump' ./e2e

.PHONY: db/dump
db/dump: ## write the schema of a freshly migrated database to e2e/testdata/schema.sql
	$(PGRUN) go test -count=1 -run '^TestSchemaDump' ./e2e -update-schema

.PHONY: lint
lint: ## run go vet and golangci-lint
	go vet ./...
	$(GOLANGCI) run

.PHONY: fmt
fmt: ## format the Go files
	$(GOLANGCI) fmt

.PHONY: fmt/check
fmt/check: ## fail if a Go file is not formatted
	@unformatted=$$(gofmt -l .); \
	if [ -n "$$unformatted" ]; then echo "not formatted, run make fmt:"; echo "$$unformatted"; exit 1; fi

.PHONY: clean
clean: ## remove what was built
	rm -rf bin
