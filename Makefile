# make check: everything that can be checked without long tests; make man: the manual pages from code and man/*.inc
.PHONY: check lint types tests man

check: lint types tests
	python man/generate.py --check

lint:
	ruff check

types:
	mypy

tests:
	pytest -n 2

man:
	python man/generate.py
