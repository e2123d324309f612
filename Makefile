# make demo: install what is missing, build, train a small model on the Python standard library, try it out.
# make test: install what is missing, build, run the fast tests. make help lists the rest.

.PHONY: help demo test test-all build setup format tidy
.DEFAULT_GOAL := help
PRESETS := release

help:
	@echo "make demo      train a small model in a few minutes and try it out"
	@echo "               (DEMO_TOKENS=n: shorter or longer; TEXT=path: your own files)"
	@echo "make test      build and run the tests that take minutes at most"
	@echo "make test-all  all tests: long ones, those that need PyPI or a browser, sanitizers"
	@echo "make build     build into build/release (the command is build/release/bin/moray)"
	@echo "make setup     only install the Debian packages that are missing"
	@echo "make format    clang-format all sources"
	@echo "make tidy      clang-tidy all sources"

demo: build
	@scripts/demo.sh

test: setup
	@scripts/test.sh $(TEST_FLAGS) $(PRESETS)

test-all: setup
	@scripts/test.sh --all release asan tsan

build: setup
	@scripts/build.sh release

setup:
	@scripts/setup.sh

format:
	@git ls-files -z '*.cc' '*.h' | xargs -0 clang-format -i

tidy: build
	@git ls-files -z 'src/*.cc' 'apps/*.cc' | xargs -0 -n 4 -P "$$(scripts/jobs.sh)" clang-tidy -quiet -p build/release
