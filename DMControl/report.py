"""Figures, tables and one HTML page from runs: `python report.py RUNS --out DIR`, or --help."""

from mlr_dmcontrol.report.page import main

if __name__ == "__main__":
    raise SystemExit(main())
