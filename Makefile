# make run    starts the server on the embedded database
# make test   runs the tests for which this machine has the programs, and says which it skipped
# make test-all  installs those programs (on Debian-based systems) and runs every test
# make test-postgres-versions  the store's contract and the scenarios on PostgreSQL 16, 17 and 18; needs npm
# make lint   formatting, clippy, documentation, licences and sources of dependencies; needs cargo-deny
# make advisories known weaknesses of dependencies; needs the network
# make fuzz   every fuzz target for 60 s; FUZZ_SECONDS=600 for longer
# make sbom   what the program is made of, for a release
# make bench  measures everything on both databases; BENCH="upload poll --quick" for less
# make guard  instructions per request against their budget; needs valgrind
# make hostile  the attacks of tests/hostile on the release build, for HOSTILE_SECONDS each
# make prove  three processes on one database, on the release build, while everything fails that can; some minutes
# make check-api     holds the release build against its OpenAPI description, with Schemathesis; needs pip
# make readme-walk   runs the commands of docs/api-tour.md, on both databases
# make operator-walk runs the commands of docs/deploying.md, on both databases
# make package-walk   installs the Debian package in a copy of this machine; needs root
# make image-walk    runs the Dockerfile's steps without a container engine; needs root

# `release` builds fast; `dist` takes twice as long and is what packages and images hold.
PROFILE ?= release
CARGO ?= cargo

.PHONY: run test test-all test-postgres-versions lint advisories sbom fuzz bench guard hostile prove check-api readme-walk operator-walk image-walk package-walk build

run:
	$(CARGO) run --locked --profile $(PROFILE) -- serve

build:
	$(CARGO) build --locked --profile $(PROFILE)

test:
	CARGO=$(CARGO) scripts/test

test-all:
	CARGO=$(CARGO) scripts/test --all

# Side by side with -j3: the tests mostly wait.
test-postgres-versions: test-postgres-16 test-postgres-17 test-postgres-18

test-postgres-%:
	scripts/with-postgres-version $* \
		$(CARGO) test --locked --test storage --test api -- --test-threads 4 store_contract:: scenarios:: --skip sqlite

lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --workspace --no-deps --document-private-items
	scripts/check-dependencies
	@$(CARGO) deny --version >/dev/null 2>&1 || \
		{ echo "cargo-deny is missing, which checks licences and sources: see CONTRIBUTING.md" >&2; exit 1; }
	$(CARGO) deny --locked check licenses bans sources

# Known weaknesses of dependencies; their list is fetched from its repository.
advisories:
	$(CARGO) deny --locked check advisories

# What the program is made of, as CycloneDX JSON, for a release.
sbom:
	scripts/sbom $(or $(CARGO_TARGET_DIR),target)/sbom

# Every fuzz target for so many seconds, within a memory limit; finds are kept in fuzz/artifacts.
FUZZ_SECONDS ?= 60
fuzz:
	scripts/fuzz $(FUZZ_SECONDS)

# Every open socket is a file, here and in the server.
BENCH ?= --json bench.json
bench: build
	$(CARGO) build --locked --profile $(PROFILE) -p supersync-bench
	ulimit -n $$(ulimit -Hn); scripts/with-postgres sh -c \
		'$(BUILT)-bench --database sqlite --database "$$SUPERSYNC_TEST_POSTGRES_URL" $(BENCH)'

# Statements and allocations per request are counted by `make test`.
guard:
	PROFILE=$(PROFILE) scripts/count-instructions

# One test after the other: they compare times.
HOSTILE_SECONDS ?= 15
hostile: build
	SUPERSYNC_TEST_PROGRAM=$(abspath $(BUILT)) SUPERSYNC_HOSTILE_SECONDS=$(HOSTILE_SECONDS) scripts/with-postgres \
		$(CARGO) test --locked --test hostile -- --nocapture --test-threads 1

# The long form of tests/fault/cluster; SUPERSYNC_CLUSTER_SEED repeats a run.
prove: build
	ulimit -n $$(ulimit -Hn); SUPERSYNC_TEST_PROGRAM=$(abspath $(BUILT)) SUPERSYNC_CLUSTER=long scripts/with-postgres \
		$(CARGO) test --locked --test fault -- --nocapture --test-threads 1 cluster::load

check-api: build
	scripts/check-api

readme-walk:
	scripts/readme-walk
	scripts/with-postgres sh -c 'DATABASE_URL=$$SUPERSYNC_TEST_POSTGRES_URL scripts/readme-walk'

operator-walk:
	scripts/with-postgres scripts/operator-walk

# The program that `make build` makes.
BUILT = $(or $(CARGO_TARGET_DIR),target)/$(if $(filter dev,$(PROFILE)),debug,$(PROFILE))/supersync
AS_ROOT = $(if $(filter-out 0,$(shell id -u)),sudo )

# The release build again, by way of the Dockerfile.
image-walk: build
	$(AS_ROOT)scripts/dockerfile-steps --binary $(BUILT)

package-walk: build
	$(AS_ROOT)scripts/package-walk $(BUILT)
