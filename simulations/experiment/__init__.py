"""An experiment before it runs: job and records settled, a base that fits them, the machine, and whoever watches."""
