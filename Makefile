# make check never writes, make fix does.
GO    ?= go
TOOL  := $(GO) tool -modfile=tools/go.mod
OWN    = $(shell git ls-files '*.go' | grep -v '\.pb\.go$$' | grep -v '\.connect\.go$$')

.PHONY: check fix test lint generated proto bench fuzz vuln soak hunt

check: lint generated test ## everything that must be green before a commit

lint: ## format, vet, staticcheck
	@out=$$(gofmt -l $(OWN)); if [ -n "$$out" ]; then echo "gofmt would change:"; echo "$$out"; exit 1; fi
	$(GO) vet ./...
	$(TOOL) staticcheck ./...

test: ## every test, with the race detector where there is a C compiler
	CGO_ENABLED=0 $(GO) build ./...
	$(GO) test $(shell command -v gcc >/dev/null && echo -race) -timeout 20m ./...
	$(GO) test ./vsrengine/vsrsim # again, at full length: the race detector leaves time for few seeds

generated: ## the committed generated code is what the .proto files give
	@if command -v protoc >/dev/null; then $(MAKE) --no-print-directory proto && git diff --exit-code -- '*.pb.go' '*.connect.go'; \
	else echo "protoc is not here (Debian: protobuf-compiler): generated code not compared"; fi

proto: ## generate code from the .proto files
	@mkdir -p bin/tools && cd tools && GOBIN=$(CURDIR)/bin/tools $(GO) install tool
	PATH="$(CURDIR)/bin/tools:$$PATH" $(GO) generate ./plugins/fsmpb ./client/clientpb ./framework/peerpb

fix: ## format
	gofmt -w $(OWN)

bench: ## the tables of docs/performance.md; BENCH_ROUNDS and BENCH_ROUND lengthen it
	$(GO) test -run '^$$' -bench '^BenchmarkTable' -benchtime 1x -timeout 60m ./raftengine ./plugins

fuzz: ## every fuzz target for a minute
	@for p in $$(grep -lr --include='*_test.go' '^func Fuzz' . | xargs -n1 dirname | sort -u); do \
	  for f in $$(grep -h '^func Fuzz' $$p/*_test.go | sed 's/func \(Fuzz[A-Za-z0-9]*\).*/\1/'); do \
	    echo "$$p $$f"; $(GO) test $$p -run '^$$' -fuzz "^$$f$$" -fuzztime 1m || exit 1; done; done

SEEDS ?= 1000
soak: ## SEEDS seeds of each lane of the simulator; goes on where the last soak stopped
	@mkdir -p bin
	$(GO) build -o bin/diarchy-soak ./cmd/diarchy
	bin/diarchy-soak sim --lane all --seeds $(SEEDS) --done bin/soak.done

HUNT ?= 1m
hunt: ## how long the simulator takes to find each defect that can be put back: the table of vsrengine/DESIGN.md
	VSRSIM_HUNT=$(HUNT) $(GO) test ./vsrengine/vsrsim -run '^TestHunt$$' -v -timeout 10h

vuln: ## known vulnerabilities; VULNDB=file:///dir uses a copy of the database
	$(TOOL) govulncheck $(if $(VULNDB),-db $(VULNDB)) ./...
