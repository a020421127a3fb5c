# One command to see it (`make demo`), one to trust it (`make test`).
